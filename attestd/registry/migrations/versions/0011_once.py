"""Calls that are carried out once, and the audit trail by who and what.

Revision: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def _text() -> sa.String:
    """Sorted by its octets on every database."""
    return sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """What operators sent with a key of their own making, and two more ways into the audit trail."""
    op.create_table(
        "once",
        sa.Column("actor", _text(), nullable=False),
        sa.Column("name", _text(), nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("request_id", _text(), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("last_row", sa.BigInteger, nullable=False),
        sa.Column("answered_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("actor", "name", name="pk_once"),
    )
    op.create_index("ix_once_at", "once", ["at"])
    op.create_index("ix_audit_actor_number", "audit", ["actor", "number"])
    op.create_index("ix_audit_act_number", "audit", ["act", "number"])
