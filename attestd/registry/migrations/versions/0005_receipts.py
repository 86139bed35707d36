"""Receipts of what crossed at edges.

Revision: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _text() -> sa.String:
    """Sorted by its octets on every database."""
    return sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Chains, and the receipts in them."""
    op.create_table(
        "receipt_chains",
        sa.Column("chain", _text(), nullable=False),
        sa.Column("edge", _text(), nullable=False),
        sa.Column("site", _text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("beginning", _text(), nullable=False),
        sa.Column("why", _text(), nullable=False),
        sa.Column("began_at", sa.BigInteger, nullable=False),
        sa.Column("next", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        sa.Column("heard_at", sa.BigInteger, nullable=False),
        sa.Column("lost", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("chain", name="pk_receipt_chains"),
    )
    op.create_index("ix_receipt_chains_edge_chain", "receipt_chains", ["edge", "chain"])
    op.create_table(
        "receipts",
        sa.Column("number", _ROW_NUMBER, nullable=False),
        sa.Column("chain", _text(), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("edge", _text(), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("boundary", _text()),
        sa.Column("device_id", _text()),
        sa.Column("decision", _text()),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("jws", _text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_receipts"),
    )
    op.create_index("ix_receipts_chain_seq", "receipts", ["chain", "seq"], unique=True)
    op.create_index("ix_receipts_edge_number", "receipts", ["edge", "number"])
    op.create_index("ix_receipts_boundary_number", "receipts", ["boundary", "number"])
    op.create_index("ix_receipts_device_id_number", "receipts", ["device_id", "number"])
    op.create_index("ix_receipts_received_at", "receipts", ["received_at"])
