"""SQLite: WAL, synchronous=FULL (a committed answer survives a power cut), foreign keys, readers that can't write.

Acts of several threads share a transaction (group commit): what a commit costs is the write to the disk, and one
write serves all who wait. Under load a transaction stays open for a moment, for the threads that are about to act; who
is alone never waits. Each act is a savepoint of its own, so one that fails takes nothing with it. Nobody is told that
an act is done before the transaction that holds it is on the disk.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoFreeConnection

from attestd.errors import Unavailable
from attestd.protocol.encoding import write_object
from attestd.registry.failures import (
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseFailed,
    DatabaseNotWritable,
    DatabaseUnreachable,
    DatabaseUnsupported,
)
from attestd.registry.turns import Company, Turns, Turnstile

SCHEME = "sqlite:///"
_POOL = 16  # connections for reading that one process keeps open; more are made under load, and closed again
_GROUP = 32  # acts that share a transaction, at most
_PATIENCE = 0.005  # seconds that a transaction stays open for more acts, if others are about
_COMPANY = 0.02  # seconds in which a thread that asked the database something may be expected to act

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


class SqliteDatabase:
    """One process's connections to one database file."""

    def __init__(self, url: str, busy_timeout: float) -> None:
        self._path = _path_of(url)
        self._timeout = busy_timeout
        self._readers = _engine(self._path, "reading", busy_timeout)
        self._writers = _engine(self._path, "acting", busy_timeout)
        self._ready: deque[_Session] = deque()  # connections for reading
        self._writer: _Session | None = None  # this and the next two: only whose turn it is touches them
        self._turnstile: Turnstile | None = None
        self._group: _Group | None = None
        self._turns = Turns()
        self._company = Company(_COMPANY)

    def create(self) -> None:
        """An empty database that only its owner may read; SQLite gives its side files the same mode."""
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._path.chmod(0o600)
        except OSError as error:
            raise DatabaseUnreachable(f"{self._path} can't be made: {error.strerror}.") from None

    def close(self) -> None:
        while self._ready:
            self._ready.pop().close()
        if self._turns.take(self._timeout):
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._turns.end()
        self._readers.dispose()
        self._writers.dispose()
        if self._turnstile is not None:
            self._turnstile.close()
            self._turnstile = None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """On a connection that is kept ready: taking one from the engine costs more than most questions."""
        self._company.see()
        with _named_errors():
            try:
                session = self._ready.pop()
            except IndexError:
                session = _Session(self._readers.connect())
            try:
                session.run("BEGIN")
                yield session.connection
                session.commit()
            except BaseException:
                session.close()
                raise
        if len(self._ready) < _POOL:
            self._ready.append(session)
        else:
            session.close()

    @contextmanager
    def acting(self) -> Iterator[Connection]:
        """1. Wait for this thread's turn. 2. Join the open transaction, or begin one. 3. Act in a savepoint.
        4. Let the next one act in this transaction, or commit it. 5. Wait for its commit."""
        self._company.see()
        if not self._turns.take(self._timeout):  # 1
            raise DatabaseBusy(f"Other requests wrote for more than {self._timeout:g} s.")
        try:
            group = self._group = self._group or self._begin()  # 2
        except BaseException:
            self._turns.end()
            raise
        kept = False
        try:
            with _named_errors(), group.savepoint():  # 3
                yield group.connection
            kept = True
        finally:
            self._finish(group)  # 4
            if kept:
                group.wait()  # 5

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """References are not checked while tables are rebuilt; what comes out must be sound again."""
        engine = _engine(self._path, "migrating", self._timeout)
        with _named_errors(), engine.begin() as c:
            yield c
            if broken := c.execute(text("PRAGMA foreign_key_check")).all():
                raise DatabaseDamaged(f"After the migration {len(broken)} rows refer to nothing; nothing was kept.")

    def _begin(self) -> _Group:
        if self._turnstile is None:
            try:
                self._turnstile = Turnstile(self._path.with_name(f"{self._path.name}-turn"))
            except OSError as error:
                raise DatabaseNotWritable(f"{self._path.parent} can't be written: {error.strerror}.") from None
        if not self._turnstile.enter(self._timeout):
            raise DatabaseBusy(f"Other processes wrote for more than {self._timeout:g} s.")
        try:
            with _named_errors():
                if self._writer is None:
                    self._writer = _Session(self._writers.connect())
                return _Group(self._writer)
        except BaseException:
            self._turnstile.leave()
            raise

    def _finish(self, group: _Group) -> None:
        """Hands the open transaction to the next in line, or to who may come soon, or ends it. What becomes of the
        transaction is told to its members by `group`."""
        group.size += 1
        if group.open and group.size < _GROUP:
            if self._turns.pass_on():
                return
            if self._company.count() > group.size and (patience := group.until - monotonic()) > 0:
                self._turns.linger(group)
                if group.ended.wait(patience) or not self._turns.reclaim(group):
                    return  # somebody came, and it is theirs to end
        self._group = None
        try:
            if not group.end() and self._writer is not None:
                self._writer.close()
                self._writer = None
        finally:
            if self._turnstile is not None:
                self._turnstile.leave()
            self._turns.end()


class _Session:
    """A connection that stays open, and runs its transactions' borders itself, past the engine's ceremonies."""

    def __init__(self, connection: Connection) -> None:
        """Takes the connection over."""
        self.connection = connection
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)  # noqa: S101 - the engine is pysqlite's
        self._driver = driver

    @property
    def in_transaction(self) -> bool:
        return self._driver.in_transaction

    def run(self, command: str) -> None:
        """Raises sqlite3.Error."""
        self._driver.execute(command).close()

    def commit(self) -> None:
        """Ends the transaction, and what Core may think of it. Raises sqlite3.Error, DBAPIError."""
        self._driver.commit()
        if self.connection.in_transaction():
            self.connection.commit()

    def close(self) -> None:
        """Rolls back what is open."""
        with suppress(DBAPIError, sqlite3.Error):
            self.connection.close()


class _Group:
    """One transaction and the acts that share it."""

    def __init__(self, session: _Session) -> None:
        """Begins it: IMMEDIATE, so that an act that reads before it writes never loses its snapshot half way.
        Raises sqlite3.Error."""
        self._session = session
        self._error: BaseException | None = None
        self.connection = session.connection
        self.size = 0
        self.ended = threading.Event()
        self.until = monotonic() + _PATIENCE
        session.run("BEGIN IMMEDIATE")

    @property
    def open(self) -> bool:
        """Whether there still is something to commit: after some errors SQLite rolls everything back by itself."""
        return self._error is None and self._session.in_transaction

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What is done in the block is kept with the group, or, if an error leaves it, not at all."""
        self._run("SAVEPOINT act")
        try:
            yield
        except BaseException as error:
            if self._session.in_transaction:
                self._run("ROLLBACK TO act")
                self._run("RELEASE act")
            else:
                self._error = error
            raise
        self._run("RELEASE act")

    def _run(self, command: str) -> None:
        """If an act's borders can't be drawn, nobody knows what the transaction holds: none of it is kept."""
        try:
            self._session.run(command)
        except sqlite3.Error as error:
            self._error = error
            raise

    def end(self) -> bool:
        """Commits, or notes why not, and wakes everybody who waits for it; False if the connection is not to be used
        again."""
        try:
            if self._error is None and not self._session.in_transaction:
                self._error = DatabaseNotWritable("The database gave up the transaction that held this act.")
            if self._error is None:
                self._session.commit()
        except BaseException as error:  # noqa: BLE001 - told to every member
            self._error = error
        finally:
            self.ended.set()
        return self._error is None

    def wait(self) -> None:
        """Returns once this act is on the disk. Raises why it is not."""
        self.ended.wait()
        if self._error is not None:
            with _named_errors():
                raise _again(self._error)


def _again(error: BaseException) -> BaseException:
    """An error of another thread, to be raised in this one: a copy, as tracebacks of threads must not mix."""
    if isinstance(error, DBAPIError):
        return type(error)(error.statement, None, error.orig or error, hide_parameters=True)
    if isinstance(error, Unavailable):
        return type(error)(error.detail)
    if isinstance(error, sqlite3.Error):
        copy = type(error)(*error.args)
        copy.sqlite_errorcode = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        return copy
    return DatabaseNotWritable("Another act in the same transaction ended it; this one was not kept.")


def _path_of(url: str) -> Path:
    """What follows sqlite:/// is the path as it is: nothing in it is decoded, and there are no options."""
    path = url.removeprefix(SCHEME)
    if path in ("", ":memory:") or path.startswith("file:"):
        raise DatabaseUnsupported(seen=path or "no file", expected="the path of a file")
    return Path(path).absolute()


def _engine(path: Path, purpose: str, busy_timeout: float) -> Engine:
    pool: dict[str, Any] = {"pool_size": _POOL, "max_overflow": 4 * _POOL, "pool_timeout": busy_timeout}
    if purpose == "migrating":
        pool = {"poolclass": NullPool}
    # mode=rw: opening never makes a file. Reading is limited by query_only, as mode=ro can't always open a WAL.
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=f"file:{quote(str(path))}", query={"mode": "rw", "uri": "true"}),
        connect_args={"timeout": busy_timeout, "isolation_level": None},  # so that only we begin transactions
        json_serializer=lambda members: write_object(members).decode(),
        hide_parameters=True,  # errors reach the log; keys and hashes must not
        **pool,
    )
    pragmas = ["synchronous=FULL", f"foreign_keys={'OFF' if purpose == 'migrating' else 'ON'}", "trusted_schema=OFF"]
    pragmas.append("query_only=ON" if purpose == "reading" else "journal_mode=WAL")

    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    event.listen(engine, "connect", prepare)
    if purpose == "migrating":
        event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


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
    except sqlite3.Error as error:  # a savepoint's, which goes to the driver directly
        code = getattr(error, "sqlite_errorcode", None)
        named = DatabaseFailed if code is None else _NAMED.get(code & 0xFF, DatabaseFailed)
        raise named(f"{named.title()}: {error}.") from error
