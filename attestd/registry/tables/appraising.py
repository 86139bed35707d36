"""What evidence is appraised by, and what of it and of its results is kept."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Index
from sqlmodel import Field

from attestd.registry.tables.stored import METADATA, Json, RowNumber, Stored


class TrustRow(Stored, table=True):
    """A TPM maker's CA certificate. `attestd.registry.trust`."""

    __tablename__ = "tpm_makers"

    sha256: bytes = Field(primary_key=True)
    der: bytes
    subject: str
    not_after: int = Field(sa_type=BigInteger)
    is_root: bool
    added_at: int = Field(sa_type=BigInteger)
    added_by: str


tpm_makers = METADATA.tables["tpm_makers"]


class EndorsementRow(Stored, table=True):
    """By which certificates a device's TPM was endorsed when it enrolled. `attestd.registry.evidence`."""

    __tablename__ = "endorsements"

    device_id: str = Field(primary_key=True)
    at: int = Field(sa_type=BigInteger)
    certificate: bytes | None = None
    issuers: bytes


endorsements = METADATA.tables["endorsements"]


class ManifestRow(Stored, table=True):
    """One version of a reference manifest; rows are withdrawn, and never changed. `attestd.registry.references`."""

    __tablename__ = "reference_manifests"
    __table_args__ = (Index(None, "name", "number"),)

    number: int | None = Field(default=None, primary_key=True, sa_type=RowNumber)
    name: str
    stage: str
    digest: str
    document: bytes
    added_at: int = Field(sa_type=BigInteger)
    added_by: str
    until: int | None = Field(default=None, sa_type=BigInteger)


reference_manifests = METADATA.tables["reference_manifests"]


class WatchedRow(Stored, table=True):
    """What a monitored manifest would refuse: its last word on one device. `attestd.registry.references`."""

    __tablename__ = "watched"

    digest: str = Field(primary_key=True)
    device_id: str = Field(primary_key=True)
    at: int = Field(sa_type=BigInteger)
    reasons: list[str] = Field(sa_type=Json, nullable=False)


watched = METADATA.tables["watched"]


class EvidenceRow(Stored, table=True):
    """A device's newest evidence, and its newest that was contraindicated. `attestd.registry.evidence`."""

    __tablename__ = "evidence"
    __table_args__ = (Index(None, "boot_log"),)

    device_id: str = Field(primary_key=True)
    verdict: str = Field(primary_key=True)
    at: int = Field(sa_type=BigInteger)
    inputs: bytes
    boot: str
    boot_log: bytes | None = None
    boot_pcrs: bytes | None = None
    boot_facts: dict[str, Any] | None = Field(default=None, sa_type=Json)
    ima_entries: int | None = Field(default=None, sa_type=BigInteger)
    runtime_state: bytes | None = None
    result: bytes


evidence = METADATA.tables["evidence"]


class ImaPartRow(Stored, table=True):
    """What one attestation brought of a device's IMA list of one boot. `attestd.registry.evidence`."""

    __tablename__ = "ima_parts"

    device_id: str = Field(primary_key=True)
    boot: str = Field(primary_key=True)
    first: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    content: bytes


ima_parts = METADATA.tables["ima_parts"]


class ContentRow(Stored, table=True):
    """Octets kept once for all who sent or used them, by their SHA-256. `attestd.registry.contents`."""

    __tablename__ = "contents"
    __table_args__ = (Index(None, "kind", "at"),)

    sha256: bytes = Field(primary_key=True)
    kind: str
    content: bytes
    at: int = Field(sa_type=BigInteger)


contents = METADATA.tables["contents"]


class AttestationRunRow(Stored, table=True):
    """A device's attestations in a row that came to the same. `attestd.registry.attestations`."""

    __tablename__ = "attestation_runs"
    __table_args__ = (Index(None, "boot_log"), Index(None, "ended_at"))

    device_id: str = Field(primary_key=True)
    run: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    first: int = Field(sa_type=BigInteger)
    count: int = Field(sa_type=BigInteger)
    first_at: int = Field(sa_type=BigInteger)
    last_at: int = Field(sa_type=BigInteger)
    ended_at: int | None = Field(default=None, sa_type=BigInteger)
    digest: bytes
    boot: str
    result: bytes
    inputs: bytes | None = None
    boot_log: bytes | None = None
    ima_entries: int | None = Field(default=None, sa_type=BigInteger)
    runtime_state: bytes | None = None


attestation_runs = METADATA.tables["attestation_runs"]


class DifferingRow(Stored, table=True):
    """A digest that no reference value knew, and a device that showed it. `attestd.registry.attestations`."""

    __tablename__ = "differing"
    __table_args__ = (Index(None, "device_id"), Index(None, "at"))

    digest: bytes = Field(primary_key=True)
    device_id: str = Field(primary_key=True)
    at: int = Field(sa_type=BigInteger)
    place: str


differing = METADATA.tables["differing"]
