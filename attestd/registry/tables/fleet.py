"""Devices, what they are found and counted by, what operators want of them, and the brake on quarantines."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Index, literal_column
from sqlmodel import Field

from attestd.registry.tables.stored import METADATA, Json, RowNumber, Stored

# Results that somebody looks for; an index that leaves out the many good ones costs an attestation nothing.
# `attestd.registry.postgresql` makes it partial there, too.
BAD: Final[ColumnElement[Any]] = literal_column("result_status IN ('warning', 'contraindicated')")


class DeviceRow(Stored, table=True):
    """One device: who it is, which keys stand for it, how it was last appraised. `attestd.registry.devices`."""

    __tablename__ = "devices"
    # Keyset paging in the order of ids, by any one filter, and by site and state, without sorting.
    __table_args__ = (
        Index(None, "state", "id"),
        Index(None, "tier", "id"),
        Index(None, "site", "id"),
        Index(None, "site", "state", "id"),
        Index(None, "state", "attestation_good_until", "id"),  # who is overdue
        Index(None, "result_status", "id", sqlite_where=BAD),
    )

    id: str = Field(primary_key=True)
    state: str
    state_version: int
    tier: str | None = None
    site: str | None = None
    serial_number: str | None = None
    labels: dict[str, str] = Field(sa_type=Json, nullable=False)
    ek_hash: bytes = Field(unique=True)
    ek_public: bytes | None = None
    ak_public: bytes | None = None
    ck_public: bytes | None = None
    ck_name: bytes | None = None
    status_index: int | None = Field(default=None, unique=True)
    manufacturer: str
    model: str
    firmware_version: str
    endorsement: str | None = None
    created_at: int = Field(sa_type=BigInteger)
    updated_at: int = Field(sa_type=BigInteger)
    attested_at: int | None = Field(default=None, sa_type=BigInteger)
    attestation_good_until: int | None = Field(default=None, sa_type=BigInteger)
    result: dict[str, Any] | None = Field(default=None, sa_type=Json)
    clock: dict[str, Any] | None = Field(default=None, sa_type=Json)
    state_reason: str | None = None
    source: str
    quarantined_by: str | None = None
    quarantined_at: int | None = Field(default=None, sa_type=BigInteger)
    result_status: str | None = None  # of the result, while it counts


devices = METADATA.tables["devices"]


class BlockedEkRow(Stored, table=True):
    """An endorsement key that was replaced: it never enrolls again. `attestd.registry.admission`."""

    __tablename__ = "blocked_eks"

    ek_hash: bytes = Field(primary_key=True)
    device_id: str
    reason: str
    at: int = Field(sa_type=BigInteger)


blocked_eks = METADATA.tables["blocked_eks"]


class DeviceTermRow(Stored, table=True):
    """What a device is found by, written by triggers. `attestd.registry.finding`."""

    __tablename__ = "device_terms"
    __table_args__ = (Index(None, "term", "kind", "device_id"),)

    device_id: str = Field(primary_key=True)
    term: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)


device_terms = METADATA.tables["device_terms"]


class FleetCountRow(Stored, table=True):
    """How many devices of a group there are, but for `fleet_changes`. `attestd.registry.counts`."""

    __tablename__ = "fleet_counts"

    tier: str = Field(primary_key=True)
    site: str = Field(primary_key=True)
    state: str = Field(primary_key=True)
    result_status: str = Field(primary_key=True)
    count: int = Field(sa_type=BigInteger)


fleet_counts = METADATA.tables["fleet_counts"]


class FleetChangeRow(Stored, table=True):
    """A device that came into a group or left it, written by triggers. `attestd.registry.counts`."""

    __tablename__ = "fleet_changes"

    number: int | None = Field(default=None, primary_key=True, sa_type=RowNumber)
    tier: str
    site: str
    state: str
    result_status: str
    delta: int = Field(sa_type=BigInteger)


fleet_changes = METADATA.tables["fleet_changes"]


class DemandRow(Stored, table=True):
    """A device that an operator wants to attest now. `attestd.registry.demands`."""

    __tablename__ = "demands"

    device_id: str = Field(primary_key=True)
    at: int = Field(sa_type=BigInteger)
    asked_by: str
    reason: str


demands = METADATA.tables["demands"]


class BrakeRow(Stored, table=True):
    """The brake on quarantines: one row, whose lock is what makes their count exact. `attestd.registry.brake`."""

    __tablename__ = "brake"

    name: str = Field(primary_key=True)
    turns: int = Field(sa_type=BigInteger)
    engaged_at: int | None = Field(default=None, sa_type=BigInteger)
    engaged_by: str | None = None
    reason: str | None = None


brake = METADATA.tables["brake"]


class QuarantineRow(Stored, table=True):
    """One quarantine that followed from a result, while it counts for the brake. `attestd.registry.brake`."""

    __tablename__ = "quarantines"

    number: int | None = Field(default=None, primary_key=True, sa_type=RowNumber)
    device_id: str
    at: int = Field(sa_type=BigInteger, index=True)


quarantines = METADATA.tables["quarantines"]


class HeldRow(Stored, table=True):
    """A contraindicated result that the brake keeps from counting. `attestd.registry.brake`."""

    __tablename__ = "held"

    device_id: str = Field(primary_key=True)
    at: int = Field(sa_type=BigInteger)
    result: dict[str, Any] = Field(sa_type=Json, nullable=False)


held = METADATA.tables["held"]
