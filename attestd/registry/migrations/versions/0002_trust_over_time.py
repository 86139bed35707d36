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
    _long_epochs()
    _text_by_octets()  # after every table is there


def _long_epochs() -> None:
    """A restore raises the epoch to a time in milliseconds, which 32 bits do not hold."""
    with op.batch_alter_table("bundles") as batch:
        batch.alter_column("epoch", type_=sa.BigInteger, existing_type=sa.Integer, existing_nullable=False)


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


_TABLES = (
    *("devices", "blocked_eks", "spends", "issued", "revocations", "tpm_makers", "operators", "proxies", "policies"),
    *("bundles", "audit", "audit_tiles", "audit_heads", "audit_archives", "counters"),
)


def _text_by_octets() -> None:
    """PostgreSQL sorts text by the rules of the database's language; SQLite, and whoever pages, by its octets."""
    c = op.get_bind()
    if c.dialect.name != "postgresql":
        return
    for table in _TABLES:
        for column in sa.inspect(c).get_columns(table):
            if isinstance(column["type"], sa.String):
                op.alter_column(table, column["name"], type_=sa.String(collation="C"))
