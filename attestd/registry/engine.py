"""The database's doors: one `Registry` a process, `reading()` for questions, `acting()` for changes.

The only module that knows one database from another. SQLite: WAL, synchronous=FULL (a committed answer survives a
power cut), foreign keys, a busy timeout, BEGIN IMMEDIATE for acting (so a transaction that reads before it writes
never loses its snapshot half way), and connections for reading that can't write.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as NoFreeConnection

from attestd.errors import Misconfigured, Unavailable
from attestd.protocol.encoding import write_object
from attestd.registry import migrations
from attestd.registry.tables import SCHEMA

__all__ = [
    "Connection",
    "DatabaseBusy",
    "DatabaseDamaged",
    "DatabaseNotWritable",
    "DatabaseUnreachable",
    "DatabaseUnsupported",
    "OpenedBeforeFork",
    "Registry",
    "SchemaOutdated",
    "SchemaTooNew",
    "is_unique_violation",
]

BUSY_TIMEOUT = 5.0  # seconds that a statement waits for another writer
_POOL = 16  # connections of each kind that one process keeps open; more are made under load, and closed again


class DatabaseBusy(Unavailable):
    """The database is busy"""


class DatabaseNotWritable(Unavailable):
    """The database can't be written"""

    remedy = "Free space on its file system, and check that the service's user may write the file and its folder."


class DatabaseUnreachable(Unavailable):
    """The database can't be opened"""

    remedy = "Check the configured database and the permissions of its file and folder."


class DatabaseDamaged(Unavailable):
    """The database file is damaged"""

    remedy = "Restore the latest backup, then raise the epoch so that every device attests again."


class DatabaseUnsupported(Misconfigured):
    """This kind of database is not supported"""

    remedy = "Configure a file: sqlite:////absolute/path/to/registry.db."


class SchemaOutdated(Misconfigured):
    """The database's tables are older than this program"""

    remedy = "Back the database up, then run `attestd init` on this instance: it brings the tables up to date."


class SchemaTooNew(Misconfigured):
    """The database's tables are newer than this program"""

    remedy = "Run the program version that last opened this database, or a later one."


class OpenedBeforeFork(Misconfigured):
    """The registry was opened in another process"""

    remedy = "Open the registry after forking; SQLite connections do not survive a fork."


class Registry:
    """One process's way to the database. Thread-safe; made after forking."""

    def __init__(self, url: str) -> None:
        """Opens nothing yet; `Registry.open` is the usual way."""
        self._path = _path_of(url)
        self._pid = os.getpid()
        self._readers = _engine(self._path, acting=False)
        self._writers = _engine(self._path, acting=True)
        # SQLite has one writer at a time. Threads queue here, where waiting is fair and wakes at once; in SQLite it
        # is a sleep of growing length.
        self._turn = threading.Lock()

    @classmethod
    def open(cls, url: str, *, create: bool = False) -> Self:
        """The registry at a URL (`sqlite:///` and a path), checked to have the tables that this program knows.

        `create` makes the file (mode 0600) where there is none, and brings older tables up to date.
        Raises DatabaseUnreachable, DatabaseUnsupported, SchemaOutdated, SchemaTooNew and acting()'s errors.
        """
        registry = cls(url)
        if create:
            _make_file(registry._path)
            registry.migrate()
        else:
            registry._require_schema(registry.schema())
        return registry

    def close(self) -> None:
        """Closes the connections that nobody uses; those in use close when they are given back."""
        self._readers.dispose()
        self._writers.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view of the database. Raises DatabaseBusy and its siblings."""
        self._require_process()
        with _named_errors(), self._readers.connect() as c:
            yield c

    @contextmanager
    def acting(self) -> Iterator[Connection]:
        """One transaction: committed at the end of the block, rolled back whole if an error leaves it.

        Keep it short; nobody else writes meanwhile. Do not nest. Raises DatabaseBusy, DatabaseNotWritable,
        DatabaseUnreachable.
        """
        self._require_process()
        if not self._turn.acquire(timeout=BUSY_TIMEOUT):
            raise DatabaseBusy(f"Other requests wrote for more than {BUSY_TIMEOUT:g} s.")
        try:
            with _named_errors(), self._writers.begin() as c:
                yield c
        finally:
            self._turn.release()

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
        self._require_process()
        engine = _engine(self._path, acting=True, migrating=True)
        with _named_errors(), engine.begin() as c:
            seen = _schema(c)
            if seen is None or seen < SCHEMA:
                migrations.upgrade(c)
                # Rebuilding a table needs unchecked references; what comes out must be sound again.
                if broken := c.execute(text("PRAGMA foreign_key_check")).all():
                    raise DatabaseDamaged(f"After the migration {len(broken)} rows refer to nothing; nothing was kept.")
                seen = _schema(c)
            self._require_schema(seen)

    def _require_schema(self, seen: str | None) -> None:
        if seen == SCHEMA:
            return
        kind = SchemaTooNew if seen is not None and seen > SCHEMA else SchemaOutdated
        raise kind(seen=seen or "no tables", expected=SCHEMA)

    def _require_process(self) -> None:
        if os.getpid() != self._pid:
            raise OpenedBeforeFork


# ---- SQLite -----------------------------------------------------------------------------------------------------


_SCHEME = "sqlite:///"


def _path_of(url: str) -> Path:
    """What follows sqlite:/// is the path as it is: nothing in it is decoded, and there are no options."""
    path = url.removeprefix(_SCHEME)
    if path == url:
        raise DatabaseUnsupported(seen=url.split(":", maxsplit=1)[0][:20], expected=f"{_SCHEME}path")
    if path in ("", ":memory:") or path.startswith("file:"):
        raise DatabaseUnsupported(seen=path or "no file", expected="the path of a file")
    return Path(path).absolute()


def _make_file(path: Path) -> None:
    """An empty database that only its owner may read; SQLite gives its side files the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise DatabaseUnreachable(f"{path} can't be made: {error.strerror}.") from None


def _engine(path: Path, *, acting: bool, migrating: bool = False) -> Engine:
    pool: dict[str, Any] = {"pool_size": _POOL, "max_overflow": 4 * _POOL, "pool_timeout": BUSY_TIMEOUT}
    if migrating:
        pool = {"poolclass": NullPool}
    # mode=rw: opening never makes a file. Reading is limited by query_only, as mode=ro can't always open a WAL.
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=f"file:{quote(str(path))}", query={"mode": "rw", "uri": "true"}),
        connect_args={"timeout": BUSY_TIMEOUT, "isolation_level": None},  # so that only we begin transactions
        json_serializer=lambda members: write_object(members).decode(),
        hide_parameters=True,  # errors reach the log; keys and hashes must not
        **pool,
    )
    pragmas = ["synchronous=FULL", f"foreign_keys={'OFF' if migrating else 'ON'}", "trusted_schema=OFF"]
    pragmas.append("journal_mode=WAL" if acting else "query_only=ON")

    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    def begin(c: Connection) -> None:
        c.exec_driver_sql("BEGIN IMMEDIATE" if acting else "BEGIN")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)
    return engine


def _schema(c: Connection) -> str | None:
    if not inspect(c).has_table("alembic_version"):
        return None
    found = c.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return None if found is None else str(found)


# ---- Errors -----------------------------------------------------------------------------------------------------

# The primary result codes (sqlite.org/rescode.html); extended ones hold them in their low octet.
_NAMED: dict[int, type[Unavailable]] = {
    sqlite3.SQLITE_BUSY: DatabaseBusy,
    sqlite3.SQLITE_LOCKED: DatabaseBusy,
    sqlite3.SQLITE_READONLY: DatabaseNotWritable,
    sqlite3.SQLITE_FULL: DatabaseNotWritable,
    sqlite3.SQLITE_IOERR: DatabaseNotWritable,
    sqlite3.SQLITE_CANTOPEN: DatabaseUnreachable,
    sqlite3.SQLITE_PERM: DatabaseUnreachable,
    sqlite3.SQLITE_AUTH: DatabaseUnreachable,
    sqlite3.SQLITE_CORRUPT: DatabaseDamaged,
    sqlite3.SQLITE_NOTADB: DatabaseDamaged,
}


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except NoFreeConnection as error:
        raise DatabaseBusy("All database connections of this process are in use.") from error
    except DBAPIError as error:
        code = getattr(error.orig, "sqlite_errorcode", None)
        named = None if code is None else _NAMED.get(code & 0xFF)
        if named is None:
            raise
        raise named(f"{named.title()}: {error.orig}.") from error


def is_unique_violation(error: IntegrityError) -> bool:
    """Whether a statement failed because a row with this unique value exists already."""
    return getattr(error.orig, "sqlite_errorcode", None) in (
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        sqlite3.SQLITE_CONSTRAINT_ROWID,
    )
