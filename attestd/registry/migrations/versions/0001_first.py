"""The first tables.

Revision: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Makes every table, and the counters' rows."""
    op.create_table(
        "devices",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("state_version", sa.Integer, nullable=False),
        sa.Column("tier", sa.String),
        sa.Column("site", sa.String),
        sa.Column("serial_number", sa.String),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("ek_hash", sa.LargeBinary, nullable=False),
        sa.Column("ek_public", sa.LargeBinary),
        sa.Column("ak_public", sa.LargeBinary),
        sa.Column("ck_public", sa.LargeBinary),
        sa.Column("ck_name", sa.LargeBinary),
        sa.Column("status_index", sa.Integer),
        sa.Column("manufacturer", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("firmware_version", sa.String, nullable=False),
        sa.Column("endorsement", sa.String),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("attested_at", sa.BigInteger),
        sa.Column("attestation_good_until", sa.BigInteger),
        sa.Column("result", sa.JSON),
        sa.Column("clock", sa.JSON),
        sa.Column("state_reason", sa.String),
        sa.Column("source", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_devices"),
        sa.UniqueConstraint("ek_hash", name="uq_devices_ek_hash"),
        sa.UniqueConstraint("status_index", name="uq_devices_status_index"),
    )
    op.create_index("ix_devices_state_id", "devices", ["state", "id"])
    op.create_index("ix_devices_tier_id", "devices", ["tier", "id"])
    op.create_index("ix_devices_site_id", "devices", ["site", "id"])
    op.create_index("ix_devices_site_state_id", "devices", ["site", "state", "id"])

    op.create_table(
        "blocked_eks",
        sa.Column("ek_hash", sa.LargeBinary, nullable=False),
        sa.Column("device_id", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("ek_hash", name="pk_blocked_eks"),
    )

    op.create_table(
        "spends",
        sa.Column("id", sa.LargeBinary, nullable=False),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("request_digest", sa.LargeBinary, nullable=False),
        sa.Column("proof_digest", sa.LargeBinary),
        sa.Column("answer", sa.LargeBinary),
        sa.Column("device_id", sa.String),
        sa.Column("serial", sa.String),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_spends"),
    )
    op.create_index("ix_spends_expires_at", "spends", ["expires_at"])

    op.create_table(
        "issued",
        sa.Column("number", _ROW_NUMBER, nullable=False),
        sa.Column("serial", sa.String, nullable=False),
        sa.Column("device_id", sa.String),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("profile", sa.String, nullable=False),
        sa.Column("not_before", sa.BigInteger, nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
        sa.Column("der", sa.LargeBinary, nullable=False),
        sa.Column("thumbprint", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_issued"),
        sa.UniqueConstraint("serial", name="uq_issued_serial"),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name="fk_issued_device_id"),
    )
    op.create_index("ix_issued_device_id_number", "issued", ["device_id", "number"])
    op.create_index("ix_issued_not_after", "issued", ["not_after"])

    op.create_table(
        "revocations",
        sa.Column("serial", sa.String, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("serial", name="pk_revocations"),
    )
    op.create_index("ix_revocations_not_after", "revocations", ["not_after"])

    op.create_table(
        "tpm_makers",
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("der", sa.LargeBinary, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
        sa.Column("is_root", sa.Boolean, nullable=False),
        sa.Column("added_at", sa.BigInteger, nullable=False),
        sa.Column("added_by", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_tpm_makers"),
    )

    op.create_table(
        "operators",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("thumbprint", sa.LargeBinary, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("certificate", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("disabled_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("name", name="pk_operators"),
        sa.UniqueConstraint("thumbprint", name="uq_operators_thumbprint"),
    )

    op.create_table(
        "proxies",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("site", sa.String, nullable=False),
        sa.Column("thumbprint", sa.LargeBinary, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("serial", sa.String, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("disabled_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("name", name="pk_proxies"),
        sa.UniqueConstraint("thumbprint", name="uq_proxies_thumbprint"),
    )

    op.create_table(
        "policies",
        sa.Column("version", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_policies"),
    )

    op.create_table(
        "bundles",
        sa.Column("epoch", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("jws", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("epoch", "version", name="pk_bundles"),
    )

    op.create_table(
        "audit",
        sa.Column("number", _ROW_NUMBER, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("act", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("request_id", sa.String),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
    )
    op.create_index("ix_audit_subject_number", "audit", ["subject", "number"])

    counters = op.create_table(
        "counters",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_counters"),
    )
    op.bulk_insert(
        counters,
        [
            {"name": "revision", "value": 0},
            {"name": "epoch", "value": 1},
            {"name": "next_status_index", "value": 0},
            {"name": "trust", "value": 0},
        ],
    )
