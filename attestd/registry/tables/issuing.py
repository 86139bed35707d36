"""What was issued and revoked, and what may be used once only."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index
from sqlmodel import Field

from attestd.registry.tables.stored import METADATA, RowNumber, Stored


class SpendRow(Stored, table=True):
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


spends = METADATA.tables["spends"]


class IssuedRow(Stored, table=True):
    """One issued certificate. `attestd.registry.issued`."""

    __tablename__ = "issued"
    __table_args__ = (Index(None, "device_id", "number"),)

    number: int | None = Field(default=None, primary_key=True, sa_type=RowNumber)
    serial: str = Field(unique=True)
    device_id: str | None = Field(default=None, foreign_key="devices.id")
    subject: str
    profile: str
    not_before: int = Field(sa_type=BigInteger)
    not_after: int = Field(sa_type=BigInteger, index=True)
    der: bytes
    thumbprint: bytes


issued = METADATA.tables["issued"]


class RevocationRow(Stored, table=True):
    """One revoked certificate, kept until it would have expired. `attestd.registry.issued`."""

    __tablename__ = "revocations"

    serial: str = Field(primary_key=True)
    at: int = Field(sa_type=BigInteger)
    reason: str
    not_after: int = Field(sa_type=BigInteger, index=True)


revocations = METADATA.tables["revocations"]
