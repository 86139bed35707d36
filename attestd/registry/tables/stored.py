"""What all tables share: one metadata, names for constraints, and the types of row numbers and open-ended facts."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Integer, MetaData
from sqlmodel import SQLModel

# Every constraint has a name, or a later migration could not drop it.
NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

METADATA = MetaData(naming_convention=NAMES)

# Counts rows for ever. SQLite numbers rows by itself only where the key's type is INTEGER.
RowNumber = BigInteger().with_variant(Integer, "sqlite")
Json = JSON(none_as_null=True)


class Stored(SQLModel):
    """A row; its tables stand apart from those of any other user of SQLModel in the process."""

    metadata = METADATA
