"""Results and refusals, as they are counted."""

from __future__ import annotations

from sqlalchemy import BigInteger
from sqlmodel import Field

from attestd.registry.tables.stored import METADATA, Json, RowNumber, Stored


class ResultMarkRow(Stored, table=True):
    """One result, until it is counted. `attestd.registry.outcomes`."""

    __tablename__ = "result_marks"

    number: int | None = Field(default=None, primary_key=True, sa_type=RowNumber)
    at: int = Field(sa_type=BigInteger)
    status: str


result_marks = METADATA.tables["result_marks"]


class ResultCountRow(Stored, table=True):
    """Results of half an hour, but for `result_marks`. `attestd.registry.outcomes`."""

    __tablename__ = "result_counts"

    at: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    status: str = Field(primary_key=True)
    count: int = Field(sa_type=BigInteger)


result_counts = METADATA.tables["result_counts"]


class RefusalRow(Stored, table=True):
    """One refusal, until it is counted. `attestd.registry.outcomes`."""

    __tablename__ = "refusals"

    number: int | None = Field(default=None, primary_key=True, sa_type=RowNumber)
    at: int = Field(sa_type=BigInteger)
    verb: str
    why: str
    site: str
    device_id: str


refusals = METADATA.tables["refusals"]


class RefusalCountRow(Stored, table=True):
    """Refusals of half an hour for one reason at one site, with some of the devices. `attestd.registry.outcomes`."""

    __tablename__ = "refusal_counts"

    at: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    why: str = Field(primary_key=True)
    site: str = Field(primary_key=True)
    verb: str = Field(primary_key=True)
    count: int = Field(sa_type=BigInteger)
    devices: list[str] = Field(sa_type=Json, nullable=False)


refusal_counts = METADATA.tables["refusal_counts"]
