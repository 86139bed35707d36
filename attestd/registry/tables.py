"""The tables. They describe what is stored; only the modules beside this one read and write them, with Core statements.

Times are whole unix seconds, binary values are octets, open-ended facts are JSON. Nothing here is SQLite's alone.
The same schema is written by hand in `migrations/`; a test compares the two.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Index, Integer, MetaData, String, Table, text
from sqlmodel import AutoString, Field, SQLModel

# The newest migration. Opening a database of another revision fails; a test keeps this equal to Alembic's head.
SCHEMA = "0011"

# Every constraint has a name, or a later migration could not drop it.
NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

# Counts rows for ever. SQLite numbers rows by itself only where the key's type is INTEGER.
_RowNumber = BigInteger().with_variant(Integer, "sqlite")
_Json = JSON(none_as_null=True)

# Results that somebody looks for; an index that leaves out the many good ones costs an attestation nothing.
# `attestd.registry.postgresql` makes it partial there, too.
_BAD = text("result_status IN ('warning', 'contraindicated')")


class _Stored(SQLModel):
    """What all tables share: a metadata of their own, apart from any other user of SQLModel in the process."""

    metadata = MetaData(naming_convention=NAMES)


class DeviceRow(_Stored, table=True):
    """One device: who it is, which keys stand for it, how it was last appraised. `attestd.registry.devices`."""

    __tablename__ = "devices"
    # Keyset paging in the order of ids, by any one filter, and by site and state, without sorting.
    __table_args__ = (
        Index(None, "state", "id"),
        Index(None, "tier", "id"),
        Index(None, "site", "id"),
        Index(None, "site", "state", "id"),
        Index(None, "state", "attestation_good_until", "id"),  # who is overdue
        Index(None, "result_status", "id", sqlite_where=_BAD),
    )

    id: str = Field(primary_key=True)
    state: str
    state_version: int
    tier: str | None = None
    site: str | None = None
    serial_number: str | None = None
    labels: dict[str, str] = Field(sa_type=_Json, nullable=False)
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
    result: dict[str, Any] | None = Field(default=None, sa_type=_Json)
    clock: dict[str, Any] | None = Field(default=None, sa_type=_Json)
    state_reason: str | None = None
    source: str
    quarantined_by: str | None = None
    quarantined_at: int | None = Field(default=None, sa_type=BigInteger)
    result_status: str | None = None  # of the result, while it counts


class BlockedEkRow(_Stored, table=True):
    """An endorsement key that was replaced: it never enrolls again. `attestd.registry.admission`."""

    __tablename__ = "blocked_eks"

    ek_hash: bytes = Field(primary_key=True)
    device_id: str
    reason: str
    at: int = Field(sa_type=BigInteger)


class SpendRow(_Stored, table=True):
    """One used challenge or nonce: the primary key is what makes it single use. `attestd.registry.spends`."""

    __tablename__ = "spends"

    id: bytes = Field(primary_key=True)
    purpose: str
    request_digest: bytes
    proof_digest: bytes | None = None
    answer: bytes | None = None
    device_id: str | None = None
    serial: str | None = None
    at: int = Field(sa_type=BigInteger)
    expires_at: int = Field(sa_type=BigInteger, index=True)


class IssuedRow(_Stored, table=True):
    """One issued certificate. `attestd.registry.issued`."""

    __tablename__ = "issued"
    __table_args__ = (Index(None, "device_id", "number"),)

    number: int | None = Field(default=None, primary_key=True, sa_type=_RowNumber)
    serial: str = Field(unique=True)
    device_id: str | None = Field(default=None, foreign_key="devices.id")
    subject: str
    profile: str
    not_before: int = Field(sa_type=BigInteger)
    not_after: int = Field(sa_type=BigInteger, index=True)
    der: bytes
    thumbprint: bytes


class RevocationRow(_Stored, table=True):
    """One revoked certificate, kept until it would have expired. `attestd.registry.issued`."""

    __tablename__ = "revocations"

    serial: str = Field(primary_key=True)
    at: int = Field(sa_type=BigInteger)
    reason: str
    not_after: int = Field(sa_type=BigInteger, index=True)


class TrustRow(_Stored, table=True):
    """A TPM maker's CA certificate. `attestd.registry.trust`."""

    __tablename__ = "tpm_makers"

    sha256: bytes = Field(primary_key=True)
    der: bytes
    subject: str
    not_after: int = Field(sa_type=BigInteger)
    is_root: bool
    added_at: int = Field(sa_type=BigInteger)
    added_by: str


class OperatorRow(_Stored, table=True):
    """A person or program that may call the admin API. `attestd.registry.operators`."""

    __tablename__ = "operators"

    name: str = Field(primary_key=True)
    role: str
    # All three, or none: who comes through the console alone has no key of their own.
    thumbprint: bytes | None = Field(default=None, unique=True)
    public_key: bytes | None = None
    certificate: bytes | None = None
    created_at: int = Field(sa_type=BigInteger)
    disabled_at: int | None = Field(default=None, sa_type=BigInteger)


class PasskeyRow(_Stored, table=True):
    """One passkey of an operator's. `attestd.registry.passkeys`."""

    __tablename__ = "passkeys"
    __table_args__ = (Index(None, "operator"),)

    id: str = Field(primary_key=True)
    credential: bytes = Field(unique=True)
    operator: str
    public_key: bytes
    sign_count: int = Field(sa_type=BigInteger)
    label: str
    transports: list[str] = Field(sa_type=_Json, nullable=False)
    backed_up: bool
    created_at: int = Field(sa_type=BigInteger)
    used_at: int | None = Field(default=None, sa_type=BigInteger)


class IdentityRow(_Stored, table=True):
    """By whom an OpenID provider knows an operator. `attestd.registry.identities`."""

    __tablename__ = "identities"
    __table_args__ = (Index(None, "operator"),)

    issuer: str = Field(primary_key=True)
    subject: str = Field(primary_key=True)
    operator: str
    by_claims: bool
    created_at: int = Field(sa_type=BigInteger)
    used_at: int | None = Field(default=None, sa_type=BigInteger)


class InvitationRow(_Stored, table=True):
    """A one-time link for a person, without its secret. `attestd.registry.invitations`."""

    __tablename__ = "invitations"
    __table_args__ = (Index(None, "name"),)

    id: str = Field(primary_key=True)
    token: bytes = Field(unique=True)
    name: str
    role: str
    created_at: int = Field(sa_type=BigInteger)
    created_by: str
    expires_at: int = Field(sa_type=BigInteger)
    spent_at: int | None = Field(default=None, sa_type=BigInteger)
    withdrawn_at: int | None = Field(default=None, sa_type=BigInteger)


class SessionRow(_Stored, table=True):
    """One browser that somebody signed in with. `attestd.registry.sessions`."""

    __tablename__ = "console_sessions"
    __table_args__ = (Index(None, "operator", "ends_at"), Index(None, "ends_at"))

    id: str = Field(primary_key=True)
    thumbprint: bytes = Field(unique=True)
    public_key: bytes
    operator: str
    method: str
    passkey: str | None = None
    began_at: int = Field(sa_type=BigInteger)
    seen_at: int = Field(sa_type=BigInteger)
    ends_at: int = Field(sa_type=BigInteger)
    agent: str
    address: str
    ended_at: int | None = Field(default=None, sa_type=BigInteger)
    ended_because: str | None = None


class ProxyRow(_Stored, table=True):
    """An edge proxy. `attestd.registry.proxies`."""

    __tablename__ = "proxies"

    name: str = Field(primary_key=True)
    site: str
    thumbprint: bytes = Field(unique=True)
    public_key: bytes
    serial: str
    created_at: int = Field(sa_type=BigInteger)
    disabled_at: int | None = Field(default=None, sa_type=BigInteger)


class PolicyRow(_Stored, table=True):
    """One version of the policy. `attestd.registry.policies`."""

    __tablename__ = "policies"

    version: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    text: str
    created_at: int = Field(sa_type=BigInteger)
    created_by: str


class BundleRow(_Stored, table=True):
    """One signed bundle. `attestd.registry.bundles`."""

    __tablename__ = "bundles"

    epoch: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    version: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    revision: int = Field(sa_type=BigInteger)
    issued_at: int = Field(sa_type=BigInteger)
    content: str


class AuditRow(_Stored, table=True):
    """Who did what, written by the transaction that did it. `attestd.registry.audit`."""

    __tablename__ = "audit"
    # By leaf also those rows are found that are not sealed yet: they have none.
    __table_args__ = (
        Index(None, "subject", "number"),
        Index(None, "leaf", unique=True),
        Index(None, "actor", "number"),
        Index(None, "act", "number"),
    )

    number: int | None = Field(default=None, primary_key=True, sa_type=_RowNumber)
    at: int = Field(sa_type=BigInteger)
    actor: str
    act: str
    subject: str
    request_id: str | None = None
    detail: dict[str, Any] = Field(sa_type=_Json, nullable=False)
    leaf: int | None = Field(default=None, sa_type=BigInteger)


class AuditTileRow(_Stored, table=True):
    """Up to 256 hashes of the audit trail's tree. `attestd.registry.audit_tree`."""

    __tablename__ = "audit_tiles"

    level: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    number: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    hashes: bytes


class AuditHeadRow(_Stored, table=True):
    """One signed head of the audit trail's tree. `attestd.registry.audit_tree`."""

    __tablename__ = "audit_heads"

    log: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    size: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    at: int = Field(sa_type=BigInteger)
    jws: str


class AuditArchiveRow(_Stored, table=True):
    """One file of archived audit rows: leaves `first` to `first + size - 1`. `attestd.registry.audit_tree`."""

    __tablename__ = "audit_archives"

    first: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    size: int = Field(sa_type=BigInteger)
    lowest: int = Field(sa_type=BigInteger)
    highest: int = Field(sa_type=BigInteger)
    file: str


class ManifestRow(_Stored, table=True):
    """One version of a reference manifest; rows are withdrawn, and never changed. `attestd.registry.references`."""

    __tablename__ = "reference_manifests"
    __table_args__ = (Index(None, "name", "number"),)

    number: int | None = Field(default=None, primary_key=True, sa_type=_RowNumber)
    name: str
    stage: str
    digest: str
    document: bytes
    added_at: int = Field(sa_type=BigInteger)
    added_by: str
    until: int | None = Field(default=None, sa_type=BigInteger)


class WatchedRow(_Stored, table=True):
    """What a monitored manifest would refuse: its last word on one device. `attestd.registry.references`."""

    __tablename__ = "watched"

    digest: str = Field(primary_key=True)
    device_id: str = Field(primary_key=True)
    at: int = Field(sa_type=BigInteger)
    reasons: list[str] = Field(sa_type=_Json, nullable=False)


class ContentRow(_Stored, table=True):
    """Octets kept once for all who sent or used them, by their SHA-256. `attestd.registry.contents`."""

    __tablename__ = "contents"
    __table_args__ = (Index(None, "kind", "at"),)

    sha256: bytes = Field(primary_key=True)
    kind: str
    content: bytes
    at: int = Field(sa_type=BigInteger)


class EvidenceRow(_Stored, table=True):
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
    boot_facts: dict[str, Any] | None = Field(default=None, sa_type=_Json)
    ima_entries: int | None = Field(default=None, sa_type=BigInteger)
    runtime_state: bytes | None = None
    result: bytes


class AttestationRunRow(_Stored, table=True):
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


class DifferingRow(_Stored, table=True):
    """A digest that no reference value knew, and a device that showed it. `attestd.registry.attestations`."""

    __tablename__ = "differing"
    __table_args__ = (Index(None, "device_id"), Index(None, "at"))

    digest: bytes = Field(primary_key=True)
    device_id: str = Field(primary_key=True)
    at: int = Field(sa_type=BigInteger)
    place: str


class ImaPartRow(_Stored, table=True):
    """What one attestation brought of a device's IMA list of one boot. `attestd.registry.evidence`."""

    __tablename__ = "ima_parts"

    device_id: str = Field(primary_key=True)
    boot: str = Field(primary_key=True)
    first: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    content: bytes


class EndorsementRow(_Stored, table=True):
    """By which certificates a device's TPM was endorsed when it enrolled. `attestd.registry.evidence`."""

    __tablename__ = "endorsements"

    device_id: str = Field(primary_key=True)
    at: int = Field(sa_type=BigInteger)
    certificate: bytes | None = None
    issuers: bytes


class DemandRow(_Stored, table=True):
    """A device that an operator wants to attest now. `attestd.registry.demands`."""

    __tablename__ = "demands"

    device_id: str = Field(primary_key=True)
    at: int = Field(sa_type=BigInteger)
    asked_by: str
    reason: str


class ToldRow(_Stored, table=True):
    """Up to which device, in the order of times and ids, something was told. `attestd.registry.overdue`."""

    __tablename__ = "told"

    name: str = Field(primary_key=True)
    until: int = Field(sa_type=BigInteger)
    device_id: str


class BrakeRow(_Stored, table=True):
    """The brake on quarantines: one row, whose lock is what makes their count exact. `attestd.registry.brake`."""

    __tablename__ = "brake"

    name: str = Field(primary_key=True)
    turns: int = Field(sa_type=BigInteger)
    engaged_at: int | None = Field(default=None, sa_type=BigInteger)
    engaged_by: str | None = None
    reason: str | None = None


class QuarantineRow(_Stored, table=True):
    """One quarantine that followed from a result, while it counts for the brake. `attestd.registry.brake`."""

    __tablename__ = "quarantines"

    number: int | None = Field(default=None, primary_key=True, sa_type=_RowNumber)
    device_id: str
    at: int = Field(sa_type=BigInteger, index=True)


class HeldRow(_Stored, table=True):
    """A contraindicated result that the brake keeps from counting. `attestd.registry.brake`."""

    __tablename__ = "held"

    device_id: str = Field(primary_key=True)
    at: int = Field(sa_type=BigInteger)
    result: dict[str, Any] = Field(sa_type=_Json, nullable=False)


class ReceiptChainRow(_Stored, table=True):
    """One chain of an edge's receipts: how it began, and where it stands. `attestd.registry.receipts`."""

    __tablename__ = "receipt_chains"
    __table_args__ = (Index(None, "edge", "chain"),)

    chain: str = Field(primary_key=True)
    edge: str
    site: str
    public_key: bytes
    beginning: str
    why: str
    began_at: int = Field(sa_type=BigInteger)
    next: int = Field(sa_type=BigInteger)
    digest: bytes
    last_at: int = Field(sa_type=BigInteger)
    heard_at: int = Field(sa_type=BigInteger)
    lost: list[list[int]] = Field(sa_type=_Json, nullable=False)


class ReceiptRow(_Stored, table=True):
    """One receipt as it was signed, and what it is found by. `attestd.registry.receipts`."""

    __tablename__ = "receipts"
    __table_args__ = (
        Index(None, "chain", "seq", unique=True),
        Index(None, "edge", "number"),
        Index(None, "boundary", "number"),
        Index(None, "device_id", "number"),
        Index(None, "received_at"),
    )

    number: int | None = Field(default=None, primary_key=True, sa_type=_RowNumber)
    chain: str
    seq: int = Field(sa_type=BigInteger)
    edge: str
    at: int = Field(sa_type=BigInteger)
    boundary: str | None = None
    device_id: str | None = None
    decision: str | None = None
    received_at: int = Field(sa_type=BigInteger)
    jws: str


class EdgeReportRow(_Stored, table=True):
    """What an edge proxy last told of itself, and all that it ever counted. `attestd.registry.edges`."""

    __tablename__ = "edge_reports"
    __table_args__ = (Index(None, "silent_since", "heard_at"),)

    edge: str = Field(primary_key=True)
    heard_at: int = Field(sa_type=BigInteger)
    epoch: int | None = Field(default=None, sa_type=BigInteger)
    version: int | None = Field(default=None, sa_type=BigInteger)
    issued_at: int | None = Field(default=None, sa_type=BigInteger)
    receipts_waiting: int = Field(sa_type=BigInteger)
    stale_for: dict[str, int] = Field(sa_type=_Json, nullable=False)
    ledgers: list[list[Any]] = Field(sa_type=_Json, nullable=False)
    reports: int = Field(sa_type=BigInteger)
    missed: int = Field(sa_type=BigInteger)
    allowed: int = Field(sa_type=BigInteger)
    refused: int = Field(sa_type=BigInteger)
    silent_since: int | None = Field(default=None, sa_type=BigInteger)
    boundaries: dict[str, Any] | None = Field(default=None, sa_type=_Json)


class EdgeCountRow(_Stored, table=True):
    """Decisions at one boundary of an edge in one hour; an empty reason: allowed. `attestd.registry.edges`."""

    __tablename__ = "edge_counts"
    __table_args__ = (Index(None, "hour"),)

    edge: str = Field(primary_key=True)
    hour: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    boundary: str = Field(primary_key=True)
    reason: str = Field(primary_key=True)
    count: int = Field(sa_type=BigInteger)


class FleetCountRow(_Stored, table=True):
    """How many devices of a group there are, but for `fleet_changes`. `attestd.registry.counts`."""

    __tablename__ = "fleet_counts"

    tier: str = Field(primary_key=True)
    site: str = Field(primary_key=True)
    state: str = Field(primary_key=True)
    result_status: str = Field(primary_key=True)
    count: int = Field(sa_type=BigInteger)


class FleetChangeRow(_Stored, table=True):
    """A device that came into a group or left it, written by triggers. `attestd.registry.counts`."""

    __tablename__ = "fleet_changes"

    number: int | None = Field(default=None, primary_key=True, sa_type=_RowNumber)
    tier: str
    site: str
    state: str
    result_status: str
    delta: int = Field(sa_type=BigInteger)


class DeviceTermRow(_Stored, table=True):
    """What a device is found by, written by triggers. `attestd.registry.finding`."""

    __tablename__ = "device_terms"
    __table_args__ = (Index(None, "term", "kind", "device_id"),)

    device_id: str = Field(primary_key=True)
    term: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)


class ResultCountRow(_Stored, table=True):
    """Results of half an hour, but for `result_marks`. `attestd.registry.outcomes`."""

    __tablename__ = "result_counts"

    at: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    status: str = Field(primary_key=True)
    count: int = Field(sa_type=BigInteger)


class ResultMarkRow(_Stored, table=True):
    """One result, until it is counted. `attestd.registry.outcomes`."""

    __tablename__ = "result_marks"

    number: int | None = Field(default=None, primary_key=True, sa_type=_RowNumber)
    at: int = Field(sa_type=BigInteger)
    status: str


class RefusalRow(_Stored, table=True):
    """One refusal, until it is counted. `attestd.registry.outcomes`."""

    __tablename__ = "refusals"

    number: int | None = Field(default=None, primary_key=True, sa_type=_RowNumber)
    at: int = Field(sa_type=BigInteger)
    verb: str
    why: str
    site: str
    device_id: str


class RefusalCountRow(_Stored, table=True):
    """Refusals of half an hour for one reason at one site, with some of the devices. `attestd.registry.outcomes`."""

    __tablename__ = "refusal_counts"

    at: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    why: str = Field(primary_key=True)
    site: str = Field(primary_key=True)
    verb: str = Field(primary_key=True)
    count: int = Field(sa_type=BigInteger)
    devices: list[str] = Field(sa_type=_Json, nullable=False)


class OnceRow(_Stored, table=True):
    """An operator's call that shall be carried out once, whoever presses twice. `attestd.registry.once`."""

    __tablename__ = "once"
    __table_args__ = (Index(None, "at"),)

    actor: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    digest: bytes
    request_id: str
    at: int = Field(sa_type=BigInteger)
    last_row: int = Field(sa_type=BigInteger)
    answered_at: int | None = Field(default=None, sa_type=BigInteger)


class CounterRow(_Stored, table=True):
    """Numbers that only grow: the revision, the epoch, the next free status index. `attestd.registry.revision`."""

    __tablename__ = "counters"

    name: str = Field(primary_key=True)
    value: int = Field(sa_type=BigInteger)


METADATA: MetaData = _Stored.metadata

# Text sorts by its octets, as it does in SQLite; PostgreSQL would sort it by the rules of the database's language.
_Text = String().with_variant(String(collation="C"), "postgresql")
for _described in METADATA.tables.values():
    for _column in _described.columns:
        if isinstance(_column.type, AutoString):
            _column.type = _Text


def _table(name: str) -> Table:
    return METADATA.tables[name]


devices = _table("devices")
blocked_eks = _table("blocked_eks")
spends = _table("spends")
issued = _table("issued")
revocations = _table("revocations")
tpm_makers = _table("tpm_makers")
operators = _table("operators")
passkeys = _table("passkeys")
identities = _table("identities")
invitations = _table("invitations")
console_sessions = _table("console_sessions")
proxies = _table("proxies")
policies = _table("policies")
bundles = _table("bundles")
audit = _table("audit")
audit_tiles = _table("audit_tiles")
audit_heads = _table("audit_heads")
audit_archives = _table("audit_archives")
reference_manifests = _table("reference_manifests")
watched = _table("watched")
contents = _table("contents")
evidence = _table("evidence")
attestation_runs = _table("attestation_runs")
differing = _table("differing")
ima_parts = _table("ima_parts")
endorsements = _table("endorsements")
demands = _table("demands")
told = _table("told")
brake = _table("brake")
quarantines = _table("quarantines")
held = _table("held")
receipt_chains = _table("receipt_chains")
receipts = _table("receipts")
edge_reports = _table("edge_reports")
edge_counts = _table("edge_counts")
fleet_counts = _table("fleet_counts")
fleet_changes = _table("fleet_changes")
device_terms = _table("device_terms")
result_counts = _table("result_counts")
result_marks = _table("result_marks")
refusals = _table("refusals")
refusal_counts = _table("refusal_counts")
once = _table("once")
counters = _table("counters")
