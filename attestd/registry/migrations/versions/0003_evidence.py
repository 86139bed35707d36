"""Reference manifests, the evidence that results rest on, and what keeps watch over a fleet's attestations.

Revision: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_COUNTERS = sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger))
_BRAKE = sa.table("brake", sa.column("name", sa.String), sa.column("turns", sa.BigInteger))
_ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _text() -> sa.String:
    """Sorted by its octets on every database."""
    return sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """One block a subject."""
    _references()
    _evidence()
    _watch()
    _brake()


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
    op.create_table(
        "watched",
        sa.Column("digest", _text(), nullable=False),
        sa.Column("device_id", _text(), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("reasons", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("digest", "device_id", name="pk_watched"),
    )
    op.bulk_insert(_COUNTERS, [{"name": "references", "value": 0}])


def _evidence() -> None:
    op.create_table(
        "contents",
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("kind", _text(), nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_contents"),
    )
    op.create_index("ix_contents_kind_at", "contents", ["kind", "at"])
    op.create_table(
        "evidence",
        sa.Column("device_id", _text(), nullable=False),
        sa.Column("verdict", _text(), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("inputs", sa.LargeBinary, nullable=False),
        sa.Column("boot", _text(), nullable=False),
        sa.Column("boot_log", sa.LargeBinary),
        sa.Column("boot_pcrs", sa.LargeBinary),
        sa.Column("boot_facts", sa.JSON),
        sa.Column("ima_entries", sa.BigInteger),
        sa.Column("runtime_state", sa.LargeBinary),
        sa.Column("result", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("device_id", "verdict", name="pk_evidence"),
    )
    op.create_index("ix_evidence_boot_log", "evidence", ["boot_log"])
    op.create_table(
        "ima_parts",
        sa.Column("device_id", _text(), nullable=False),
        sa.Column("boot", _text(), nullable=False),
        sa.Column("first", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("device_id", "boot", "first", name="pk_ima_parts"),
    )
    op.create_table(
        "endorsements",
        sa.Column("device_id", _text(), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("certificate", sa.LargeBinary),
        sa.Column("issuers", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("device_id", name="pk_endorsements"),
    )


def _watch() -> None:
    """Who is overdue, and since when that was told; who shall attest at once."""
    op.create_index("ix_devices_attestation_good_until", "devices", ["attestation_good_until"])
    op.create_table(
        "demands",
        sa.Column("device_id", _text(), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("asked_by", _text(), nullable=False),
        sa.Column("reason", _text(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", name="pk_demands"),
    )
    op.bulk_insert(_COUNTERS, [{"name": "overdue_told", "value": 0}, {"name": "expiring_told", "value": 0}])


def _brake() -> None:
    op.add_column("devices", sa.Column("quarantined_by", _text()))
    op.add_column("devices", sa.Column("quarantined_at", sa.BigInteger))
    op.create_table(
        "brake",
        sa.Column("name", _text(), nullable=False),
        sa.Column("turns", sa.BigInteger, nullable=False),
        sa.Column("engaged_at", sa.BigInteger),
        sa.Column("engaged_by", _text()),
        sa.Column("reason", _text()),
        sa.PrimaryKeyConstraint("name", name="pk_brake"),
    )
    op.bulk_insert(_BRAKE, [{"name": "fleet", "turns": 0}])
    op.create_table(
        "quarantines",
        sa.Column("number", _ROW_NUMBER, nullable=False),
        sa.Column("device_id", _text(), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_quarantines"),
    )
    op.create_index("ix_quarantines_at", "quarantines", ["at"])
    op.create_table(
        "held",
        sa.Column("device_id", _text(), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("result", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("device_id", name="pk_held"),
    )
