"""SQLite: WAL, synchronous=FULL (a committed answer survives a power cut), foreign keys, readers that can't write.

Acts of several threads share a transaction (group commit): what a commit costs is the write to the disk, and one
write serves all who wait (`attestd.registry.batches`). Where there is more than one, each act is a savepoint of its
own, so one that is refused takes nothing with it. Nobody is told that an act is done before the transaction that holds
it is on the disk. Acts that ask in between (`acting`) have a transaction each.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoFreeConnection

from attestd.errors import Unavailable
from attestd.protocol.encoding import write_object
from attestd.registry.acts import Bound, Refused
from attestd.registry.batches import Act, Batches, Company
from attestd.registry.failures import (
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseFailed,
    DatabaseNotWritable,
    DatabaseUnreachable,
    DatabaseUnsupported,
    is_taken,
)
from attestd.registry.statements import PYSQLITE, Statement
from attestd.registry.turns import Turns, Turnstile, Waiting

SCHEME = "sqlite:///"
_POOL = 16  # connections for reading that one process keeps open; more are made under load, and closed again
_PATIENCE_TO_MIGRATE = 300.0  # seconds: another process brings large tables up to date meanwhile
_GROUP = 32  # acts that share a transaction, at most
_POLL = 0.01  # seconds between two tries to begin, where somebody else holds the database
_PATIENCE = 0.005  # seconds that an act waits for others to share its transaction, if others are about
_COMPANY = 0.02  # seconds in which a thread that asked what it needs for an act may be expected to act

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

    driver = PYSQLITE

    def __init__(self, url: str, busy_timeout: float, waiting: Waiting = nullcontext) -> None:
        self._path = _path_of(url)
        self._timeout = busy_timeout
        self._waiting = waiting
        self._readers = _engine(self._path, "reading", busy_timeout)
        self._writers = _engine(self._path, "acting", busy_timeout)
        self._ready: deque[_Session] = deque()  # connections for reading
        self._writer: _Session | None = None  # this and the next: only whose turn it is touches them
        self._turnstile: Turnstile | None = None
        self._turns = Turns(waiting)
        self._company = Company(_COMPANY)
        self._batches = Batches(
            self._carry_out, company=self._company, most=_GROUP, patience=_PATIENCE, waiting=waiting
        )

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

    # ---- Reading ----------------------------------------------------------------------------------------------

    def ask(self, statement: Statement, values: Mapping[str, Any], *, to_act: bool) -> Any:
        """One statement sees one moment by itself: there is no transaction to begin."""
        if to_act:
            self._company.expect()
        plan = statement.plan(PYSQLITE)
        parameters = plan.bind(values)
        session = self._session()
        try:
            found = session.one_or_none(plan.text, parameters)
        except sqlite3.Error as error:
            session.close()
            raise _named(error) from error
        self._give_back(session)
        return None if found is None else plan.row(found)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """On a connection that is kept ready: taking one from the engine costs more than most questions."""
        with _named_errors():
            session = self._session()
            try:
                session.run("BEGIN")
                yield session.connection
                session.commit()
            except BaseException:
                session.close()
                raise
            self._give_back(session)

    def _session(self) -> _Session:
        try:
            return self._ready.pop()
        except IndexError:
            pass
        with _named_errors():
            return _Session(self._readers.connect())

    def _give_back(self, session: _Session) -> None:
        if len(self._ready) < _POOL:
            self._ready.append(session)
        else:
            session.close()

    # ---- Acting -----------------------------------------------------------------------------------------------

    def act(self, steps: Sequence[Bound]) -> Refused | None:
        act = self._batches.join(steps)
        if act.error is not None:
            raise act.error
        return act.refused

    def _carry_out(self, waits: ExitStack) -> None:
        """The acts that stand in line, in one transaction."""
        with suppress(_Undone), self._transaction(waits) as session:
            acts = self._batches.take()
            if len(acts) > 1:
                for act in acts:
                    self._carry_out_in_savepoint(session, act)
                return
            acts[0].refused = session.perform(acts[0].steps)
            if acts[0].refused is not None:
                raise _Undone

    def _carry_out_in_savepoint(self, session: _Session, act: Act) -> None:
        """One of several acts: what is refused is undone alone. Raises sqlite3.Error if the transaction is lost."""
        session.run("SAVEPOINT act")
        try:
            act.refused = session.perform(act.steps)
        except sqlite3.Error as error:
            if not session.in_transaction:  # after some errors SQLite rolls everything back by itself
                raise
            act.error = _named(error)
        if act.refused is not None or act.error is not None:
            session.run("ROLLBACK TO act")
        session.run("RELEASE act")

    @contextmanager
    def acting(self) -> Iterator[Connection]:
        with ExitStack() as waits, self._transaction(waits) as session:
            yield session.connection

    @contextmanager
    def _transaction(self, waits: ExitStack) -> Iterator[_Session]:
        """1. Wait for this thread's turn, then for this process's. 2. Begin: IMMEDIATE, so that an act that reads
        before it writes never loses its snapshot half way. 3. Act. 4. Commit; from here `waits` holds what is given up
        meanwhile."""
        if not self._turns.take(self._timeout):  # 1
            raise DatabaseBusy(f"Other requests wrote for more than {self._timeout:g} s.")
        try:
            self._enter()
            try:
                with _named_errors():
                    session = self._writer = self._writer or _Session(self._writers.connect())
                    try:
                        self._begin(session)  # 2
                        yield session  # 3
                        waits.enter_context(self._waiting())
                        session.commit()  # 4
                    except BaseException:
                        self._writer = None
                        session.close()
                        raise
            finally:
                if self._turnstile is not None:
                    self._turnstile.leave()
        finally:
            self._turns.end()

    def _begin(self, session: _Session) -> None:
        """Nobody of ours is inside now. Somebody else may be, with a tool or a backup program: they are waited for
        here, where it is told, since what SQLite waits for by itself nobody hears of."""
        until = monotonic() + self._timeout
        try:
            session.run("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
            with self._waiting():
                while True:
                    sleep(_POLL)
                    try:
                        session.run("BEGIN IMMEDIATE")
                        break
                    except sqlite3.OperationalError as again:
                        if not _is_busy(again) or monotonic() >= until:
                            raise

    def _enter(self) -> None:
        if self._turnstile is None:
            try:
                self._turnstile = Turnstile(self._path.with_name(f"{self._path.name}-turn"), self._waiting)
            except OSError as error:
                raise DatabaseNotWritable(f"{self._path.parent} can't be written: {error.strerror}.") from None
        if not self._turnstile.enter(self._timeout):
            raise DatabaseBusy(f"Other processes wrote for more than {self._timeout:g} s.")

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """References are not checked while tables are rebuilt; what comes out must be sound again."""
        engine = _engine(self._path, "migrating", max(self._timeout, _PATIENCE_TO_MIGRATE))
        with _named_errors(), engine.begin() as c:
            yield c
            if broken := c.execute(text("PRAGMA foreign_key_check")).all():
                raise DatabaseDamaged(f"After the migration {len(broken)} rows refer to nothing; nothing was kept.")


def _is_busy(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


class _Undone(Exception):
    """Ends a transaction of which nothing is to be kept."""


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

    def one_or_none(self, command: str, parameters: Sequence[Any]) -> Any:
        """The first row. Raises sqlite3.Error."""
        cursor = self._driver.execute(command, parameters)
        found = cursor.fetchone()
        cursor.close()
        return found

    def perform(self, steps: Sequence[Bound]) -> Refused | None:
        """One step after the other, up to one that is refused. Raises sqlite3.Error."""
        for place, (plan, parameters, must) in enumerate(steps):
            try:
                cursor = self._driver.execute(plan.text, parameters)
            except sqlite3.IntegrityError as error:
                if is_taken(error):
                    return Refused(place, taken=True)
                raise
            count = int(cursor.fetchone() is not None) if plan.returns else cursor.rowcount
            cursor.close()
            if must and count != 1:
                return Refused(place, taken=False)
        return None

    def commit(self) -> None:
        """Ends the transaction, and what Core may think of it. Raises sqlite3.Error, DBAPIError, DatabaseNotWritable
        if there is none: after some errors SQLite rolls everything back by itself."""
        if not self._driver.in_transaction:
            raise DatabaseNotWritable("The database gave up the transaction that held this act.")
        self._driver.commit()
        if self.connection.in_transaction():
            self.connection.commit()

    def close(self) -> None:
        """Rolls back what is open."""
        with suppress(DBAPIError, sqlite3.Error):
            self.connection.close()


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
    if purpose == "acting":
        pragmas.append("busy_timeout=0")  # from here on `_begin` waits

    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        for pragma in pragmas:
            _set(connection, pragma, busy_timeout)

    event.listen(engine, "connect", prepare)
    if purpose == "migrating":
        event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _set(connection: sqlite3.Connection, pragma: str, patience: float) -> None:
    """Changing to the write-ahead log wants the file for itself, and SQLite does not wait for it: whoever makes a
    database while others do is told at once that it is locked, whatever the timeout. So the waiting is done here."""
    until = monotonic() + patience
    while True:
        try:
            connection.execute(f"PRAGMA {pragma}").close()
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or monotonic() >= until:
                raise
            sleep(_POLL)
        else:
            return


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except NoFreeConnection as error:
        raise DatabaseBusy("All database connections of this process are in use.") from error
    except DBAPIError as error:
        if not isinstance(error.orig, sqlite3.Error) or _kind(error.orig) is None:
            raise
        raise _named(error.orig) from error
    except sqlite3.Error as error:  # past Core
        raise _named(error) from error


def _kind(error: sqlite3.Error) -> type[Unavailable] | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else _NAMED.get(code & 0xFF)


def _named(error: sqlite3.Error) -> Unavailable:
    kind = _kind(error) or DatabaseFailed
    return kind(f"{kind.title()}: {error}.")
