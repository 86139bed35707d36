"""Reference manifests, and the evidence that results rest on.

Revision: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_COUNTERS = sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger))
_ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _text() -> sa.String:
    """Sorted by its octets on every database."""
    return sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """One block a subject."""
    _references()
    _evidence()
    _overdue()


def _references() -> None:
    op.create_table(
        "reference_manifests",
        sa.Column("number", _ROW_NUMBER, nullable=False),
        sa.Column("name", _text(), nullable=False),
        sa.Column("stage", _text(), nullable=False),
        sa.Column("digest", _text(), nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.Column("added_at", sa.BigInteger, nullable=False),
        sa.Column("added_by", _text(), nullable=False),
        sa.Column("until", sa.BigInteger),
        sa.PrimaryKeyConstraint("number", name="pk_reference_manifests"),
    )
    op.create_index("ix_reference_manifests_name_number", "reference_manifests", ["name", "number"])
    op.bulk_insert(_COUNTERS, [{"name": "references", "value": 0}])


def _evidence() -> None:
    op.create_table(
        "evidence",
        sa.Column("device_id", _text(), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("quoted", sa.LargeBinary, nullable=False),
        sa.Column("boot_log", sa.LargeBinary),
        sa.Column("boot_seen", sa.LargeBinary),
        sa.Column("boot_facts", sa.JSON),
        sa.Column("runtime_state", sa.LargeBinary),
        sa.Column("result", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("device_id", name="pk_evidence"),
    )
    op.create_table(
        "boot_logs",
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_boot_logs"),
    )
    op.create_index("ix_boot_logs_at", "boot_logs", ["at"])
    op.create_table(
        "ima_parts",
        sa.Column("device_id", _text(), nullable=False),
        sa.Column("first", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("device_id", "first", name="pk_ima_parts"),
    )
    op.create_table(
        "endorsements",
        sa.Column("device_id", _text(), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("certificates", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("device_id", name="pk_endorsements"),
    )


def _overdue() -> None:
    """Who is overdue is asked every minute."""
    op.create_index("ix_devices_attestation_good_until", "devices", ["attestation_good_until"])
