"""Edge proxies: what they decide by, and what they tell."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Index
from sqlmodel import Field

from attestd.registry.tables.stored import METADATA, Json, RowNumber, Stored


class ProxyRow(Stored, table=True):
    """An edge proxy. `attestd.registry.proxies`."""

    __tablename__ = "proxies"

    name: str = Field(primary_key=True)
    site: str
    thumbprint: bytes = Field(unique=True)
    public_key: bytes
    serial: str
    created_at: int = Field(sa_type=BigInteger)
    disabled_at: int | None = Field(default=None, sa_type=BigInteger)


proxies = METADATA.tables["proxies"]


class PolicyRow(Stored, table=True):
    """One version of the policy. `attestd.registry.policies`."""

    __tablename__ = "policies"

    version: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    text: str
    created_at: int = Field(sa_type=BigInteger)
    created_by: str


policies = METADATA.tables["policies"]


class BundleRow(Stored, table=True):
    """One signed bundle. `attestd.registry.bundles`."""

    __tablename__ = "bundles"

    epoch: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    version: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    revision: int = Field(sa_type=BigInteger)
    issued_at: int = Field(sa_type=BigInteger)
    content: str


bundles = METADATA.tables["bundles"]


class EdgeReportRow(Stored, table=True):
    """What an edge proxy last told of itself, and all that it ever counted. `attestd.registry.edges`."""

    __tablename__ = "edge_reports"
    __table_args__ = (Index(None, "silent_since", "heard_at"),)

    edge: str = Field(primary_key=True)
    heard_at: int = Field(sa_type=BigInteger)
    epoch: int | None = Field(default=None, sa_type=BigInteger)
    version: int | None = Field(default=None, sa_type=BigInteger)
    issued_at: int | None = Field(default=None, sa_type=BigInteger)
    receipts_waiting: int = Field(sa_type=BigInteger)
    stale_for: dict[str, int] = Field(sa_type=Json, nullable=False)
    ledgers: list[list[Any]] = Field(sa_type=Json, nullable=False)
    reports: int = Field(sa_type=BigInteger)
    missed: int = Field(sa_type=BigInteger)
    allowed: int = Field(sa_type=BigInteger)
    refused: int = Field(sa_type=BigInteger)
    silent_since: int | None = Field(default=None, sa_type=BigInteger)
    boundaries: dict[str, Any] | None = Field(default=None, sa_type=Json)


edge_reports = METADATA.tables["edge_reports"]


class EdgeCountRow(Stored, table=True):
    """Decisions at one boundary of an edge in one hour; an empty reason: allowed. `attestd.registry.edges`."""

    __tablename__ = "edge_counts"
    __table_args__ = (Index(None, "hour"),)

    edge: str = Field(primary_key=True)
    hour: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    boundary: str = Field(primary_key=True)
    reason: str = Field(primary_key=True)
    count: int = Field(sa_type=BigInteger)


edge_counts = METADATA.tables["edge_counts"]


class ReceiptChainRow(Stored, table=True):
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
    lost: list[list[int]] = Field(sa_type=Json, nullable=False)


receipt_chains = METADATA.tables["receipt_chains"]


class ReceiptRow(Stored, table=True):
    """One receipt as it was signed, and what it is found by. `attestd.registry.receipts`."""

    __tablename__ = "receipts"
    __table_args__ = (
        Index(None, "chain", "seq", unique=True),
        Index(None, "edge", "number"),
        Index(None, "boundary", "number"),
        Index(None, "device_id", "number"),
        Index(None, "received_at"),
    )

    number: int | None = Field(default=None, primary_key=True, sa_type=RowNumber)
    chain: str
    seq: int = Field(sa_type=BigInteger)
    edge: str
    at: int = Field(sa_type=BigInteger)
    boundary: str | None = None
    device_id: str | None = None
    decision: str | None = None
    received_at: int = Field(sa_type=BigInteger)
    jws: str


receipts = METADATA.tables["receipts"]
