"""The audit trail and its tree."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Index
from sqlmodel import Field

from attestd.registry.tables.stored import METADATA, Json, RowNumber, Stored


class AuditRow(Stored, table=True):
    """Who did what, written by the transaction that did it. `attestd.registry.audit`."""

    __tablename__ = "audit"
    # By leaf also those rows are found that are not sealed yet: they have none.
    __table_args__ = (
        Index(None, "subject", "number"),
        Index(None, "leaf", unique=True),
        Index(None, "actor", "number"),
        Index(None, "act", "number"),
    )

    number: int | None = Field(default=None, primary_key=True, sa_type=RowNumber)
    at: int = Field(sa_type=BigInteger)
    actor: str
    act: str
    subject: str
    request_id: str | None = None
    detail: dict[str, Any] = Field(sa_type=Json, nullable=False)
    leaf: int | None = Field(default=None, sa_type=BigInteger)


audit = METADATA.tables["audit"]


class AuditTileRow(Stored, table=True):
    """Up to 256 hashes of the audit trail's tree. `attestd.registry.audit_tree`."""

    __tablename__ = "audit_tiles"

    level: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    number: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    hashes: bytes


audit_tiles = METADATA.tables["audit_tiles"]


class AuditHeadRow(Stored, table=True):
    """One signed head of the audit trail's tree. `attestd.registry.audit_tree`."""

    __tablename__ = "audit_heads"

    log: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    size: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    at: int = Field(sa_type=BigInteger)
    jws: str


audit_heads = METADATA.tables["audit_heads"]


class AuditArchiveRow(Stored, table=True):
    """One file of archived audit rows: leaves `first` to `first + size - 1`. `attestd.registry.audit_tree`."""

    __tablename__ = "audit_archives"

    first: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    size: int = Field(sa_type=BigInteger)
    lowest: int = Field(sa_type=BigInteger)
    highest: int = Field(sa_type=BigInteger)
    file: str


audit_archives = METADATA.tables["audit_archives"]
