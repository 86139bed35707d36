"""What edges tell of themselves: when they were heard, which bundle they use, what they decided.

Revision: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_TOLD = sa.table(
    "told", sa.column("name", sa.String), sa.column("until", sa.BigInteger), sa.column("device_id", sa.String)
)


def _text() -> sa.String:
    """Sorted by its octets on every database."""
    return sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """An edge's last report, its decisions by hour, and since when somebody looks for edges that fell silent."""
    op.create_table(
        "edge_reports",
        sa.Column("edge", _text(), nullable=False),
        sa.Column("heard_at", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger),
        sa.Column("version", sa.BigInteger),
        sa.Column("issued_at", sa.BigInteger),
        sa.Column("receipts_waiting", sa.BigInteger, nullable=False),
        sa.Column("stale_for", sa.JSON, nullable=False),
        sa.Column("ledgers", sa.JSON, nullable=False),
        sa.Column("reports", sa.BigInteger, nullable=False),
        sa.Column("missed", sa.BigInteger, nullable=False),
        sa.Column("allowed", sa.BigInteger, nullable=False),
        sa.Column("refused", sa.BigInteger, nullable=False),
        sa.Column("silent_since", sa.BigInteger),
        sa.PrimaryKeyConstraint("edge", name="pk_edge_reports"),
    )
    op.create_index("ix_edge_reports_silent_since_heard_at", "edge_reports", ["silent_since", "heard_at"])
    op.create_table(
        "edge_counts",
        sa.Column("edge", _text(), nullable=False),
        sa.Column("hour", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("boundary", _text(), nullable=False),
        sa.Column("reason", _text(), nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("edge", "hour", "boundary", "reason", name="pk_edge_counts"),
    )
    op.create_index("ix_edge_counts_hour", "edge_counts", ["hour"])
    op.bulk_insert(_TOLD, [{"name": "silent", "until": 0, "device_id": ""}])
