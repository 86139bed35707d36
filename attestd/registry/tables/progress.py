"""How far the registry has come."""

from __future__ import annotations

from sqlalchemy import BigInteger
from sqlmodel import Field

from attestd.registry.tables.stored import METADATA, Stored


class CounterRow(Stored, table=True):
    """Numbers that only grow: the revision, the epoch, the next free status index. `attestd.registry.revision`."""

    __tablename__ = "counters"

    name: str = Field(primary_key=True)
    value: int = Field(sa_type=BigInteger)


counters = METADATA.tables["counters"]


class ToldRow(Stored, table=True):
    """Up to which device, in the order of times and ids, something was told. `attestd.registry.overdue`."""

    __tablename__ = "told"

    name: str = Field(primary_key=True)
    until: int = Field(sa_type=BigInteger)
    device_id: str


told = METADATA.tables["told"]
