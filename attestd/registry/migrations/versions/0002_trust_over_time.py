"""The audit trail's hash tree.

Revision: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_COUNTERS = sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger))


def upgrade() -> None:
    """One block a subject."""
    _audit_tree()


def _audit_tree() -> None:
    op.add_column("audit", sa.Column("leaf", sa.BigInteger))
    op.create_index("ix_audit_leaf", "audit", ["leaf"], unique=True)

    op.create_table(
        "audit_tiles",
        sa.Column("level", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("level", "number", name="pk_audit_tiles"),
    )

    op.create_table(
        "audit_heads",
        sa.Column("log", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("jws", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("log", "size", name="pk_audit_heads"),
    )

    op.create_table(
        "audit_archives",
        sa.Column("first", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("lowest", sa.BigInteger, nullable=False),
        sa.Column("highest", sa.BigInteger, nullable=False),
        sa.Column("file", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("first", name="pk_audit_archives"),
    )
    op.bulk_insert(_COUNTERS, [{"name": "audit_size", "value": 0}, {"name": "audit_archived", "value": 0}])
