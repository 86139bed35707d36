"""The registry's doors: one `Registry` a process, `reading()` for questions, `acting()` for changes.

Only this module and the two drivers beside it (`sqlite`, `postgresql`) know one database from another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, Self

from sqlalchemy import Connection, inspect, text

from attestd.registry import migrations, sqlite
from attestd.registry.failures import (
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseFailed,
    DatabaseNotWritable,
    DatabaseUnreachable,
    DatabaseUnsupported,
    OpenedBeforeFork,
    SchemaOutdated,
    SchemaTooNew,
    is_unique_violation,
)
from attestd.registry.tables import SCHEMA

__all__ = [
    "Connection",
    "DatabaseBusy",
    "DatabaseDamaged",
    "DatabaseFailed",
    "DatabaseNotWritable",
    "DatabaseUnreachable",
    "DatabaseUnsupported",
    "OpenedBeforeFork",
    "Registry",
    "SchemaOutdated",
    "SchemaTooNew",
    "is_unique_violation",
]

_POSTGRESQL = "postgresql://"
BUSY_TIMEOUT = 5.0  # seconds that an act or a statement waits for others


class Database(Protocol):
    """What a driver does. Its context managers raise the errors of `failures`."""

    def create(self) -> None:
        """Makes what can be made of an absent database."""

    def close(self) -> None:
        """Closes the connections that nobody uses; those in use close when they are given back."""

    def reading(self) -> AbstractContextManager[Connection]:
        """One consistent view."""

    def acting(self) -> AbstractContextManager[Connection]:
        """One act, all or nothing, on the disk when the block has been left."""

    def migrating(self) -> AbstractContextManager[Connection]:
        """One transaction that may change tables, alone."""


class Registry:
    """One process's way to the database. Thread-safe; made after forking."""

    def __init__(self, url: str) -> None:
        """Opens nothing yet; `Registry.open` is the usual way. Raises DatabaseUnsupported."""
        self._pid = os.getpid()
        self._database = _database(url)

    @classmethod
    def open(cls, url: str, *, create: bool = False) -> Self:
        """The registry at a URL, checked to have the tables that this program knows.

        `sqlite:///` and a path, or `postgresql://user@host/database`. `create` makes the file (mode 0600) where there
        is none, and brings older tables up to date. Raises DatabaseUnreachable, DatabaseUnsupported, SchemaOutdated,
        SchemaTooNew and acting()'s errors.
        """
        registry = cls(url)
        if create:
            registry._database.create()
            registry.migrate()
        else:
            registry._require_schema(registry.schema())
        return registry

    def close(self) -> None:
        """Closes the connections that nobody uses; those in use close when they are given back."""
        self._database.close()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view of the database. Raises DatabaseBusy and its siblings."""
        self._require_process()
        with self._database.reading() as c:
            yield c

    @contextmanager
    def acting(self) -> Iterator[Connection]:
        """One act: on the disk when the block has been left, or undone whole if an error leaves it.

        Keep it short; with SQLite nobody else writes meanwhile. Do not nest. Raises DatabaseBusy,
        DatabaseNotWritable, DatabaseUnreachable.
        """
        self._require_process()
        with self._database.acting() as c:
            yield c

    def schema(self) -> str | None:
        """The revision of the database's tables; None for an empty database."""
        with self.reading() as c:
            return _schema(c)

    def schema_is_current(self) -> bool:
        """Whether the tables are the ones that this program knows."""
        return self.schema() == SCHEMA

    def migrate(self) -> None:
        """Brings the tables up to date in one transaction; of several processes that try, one does it.

        Raises SchemaTooNew.
        """
        with self.migrating() as c:
            seen = _schema(c)
            if seen is None or seen < SCHEMA:
                migrations.upgrade(c)
                seen = _schema(c)
            self._require_schema(seen)

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """One transaction that may make and change tables, alone in the database. Raises acting()'s errors."""
        self._require_process()
        with self._database.migrating() as c:
            yield c

    def _require_schema(self, seen: str | None) -> None:
        if seen == SCHEMA:
            return
        kind = SchemaTooNew if seen is not None and seen > SCHEMA else SchemaOutdated
        raise kind(seen=seen or "no tables", expected=SCHEMA)

    def _require_process(self) -> None:
        if os.getpid() != self._pid:
            raise OpenedBeforeFork


def _database(url: str) -> Database:
    if url.startswith(sqlite.SCHEME):
        return sqlite.SqliteDatabase(url, BUSY_TIMEOUT)
    if url.startswith(_POSTGRESQL):
        from attestd.registry.postgresql import PostgresqlDatabase  # its driver, for those who use it

        return PostgresqlDatabase(url, BUSY_TIMEOUT)
    # Nothing after the scheme is repeated: it may hold a password.
    raise DatabaseUnsupported(
        seen=url.split(":", maxsplit=1)[0][:20], expected=f"{sqlite.SCHEME}path or {_POSTGRESQL}user@host/name"
    )


def _schema(c: Connection) -> str | None:
    if not inspect(c).has_table("alembic_version"):
        return None
    found = c.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return None if found is None else str(found)
