"""What devices' attestations came to over time, and which digests no reference value knew.

Revision: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def _text() -> sa.String:
    """Sorted by its octets on every database."""
    return sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Equal attestations in a row are one row; the history of a device begins with its next one."""
    op.create_table(
        "attestation_runs",
        sa.Column("device_id", _text(), nullable=False),
        sa.Column("run", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("first", sa.BigInteger, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("first_at", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("boot", _text(), nullable=False),
        sa.Column("result", sa.LargeBinary, nullable=False),
        sa.Column("inputs", sa.LargeBinary),
        sa.Column("boot_log", sa.LargeBinary),
        sa.Column("ima_entries", sa.BigInteger),
        sa.Column("runtime_state", sa.LargeBinary),
        sa.PrimaryKeyConstraint("device_id", "run", name="pk_attestation_runs"),
    )
    op.create_index("ix_attestation_runs_boot_log", "attestation_runs", ["boot_log"])
    op.create_index("ix_attestation_runs_ended_at", "attestation_runs", ["ended_at"])
    op.create_table(
        "differing",
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("device_id", _text(), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("place", _text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", "device_id", name="pk_differing"),
    )
    op.create_index("ix_differing_device_id", "differing", ["device_id"])
    op.create_index("ix_differing_at", "differing", ["at"])
