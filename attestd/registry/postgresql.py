"""PostgreSQL: acts run side by side, READ COMMITTED; row locks and conditional statements keep them apart.

Readers see one moment (REPEATABLE READ, READ ONLY). A commit is on the disk before it returns (synchronous_commit).
Nothing waits for ever: not for a lock, a statement, a connection or an answer.

Acts that are known beforehand make one trip each (`attestd.registry.pipeline`), or one together: those of this
process's threads that come in the same moment share a transaction. It gives up early if another process holds what it
needs; each of its acts then goes by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Dialect, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as NoFreeConnection

from attestd.errors import Unavailable
from attestd.protocol.encoding import write_object
from attestd.registry.acts import Bound, Refused
from attestd.registry.batches import Batches, Company
from attestd.registry.failures import (
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseFailed,
    DatabaseNotWritable,
    DatabaseUnreachable,
    DatabaseUnsupported,
)
from attestd.registry.pgdrivers import LIBPQ
from attestd.registry.pipeline import Line, Lines
from attestd.registry.statements import Statement
from attestd.registry.tables import METADATA
from attestd.registry.turns import Waiting

_POOL = 8  # connections of each kind that one process keeps open; more are made under load, and closed again
_OVERFLOW = 24
_RECYCLE = 1800  # seconds: so that a moved or rebalanced server is noticed
_GROUP = 32  # acts that share a transaction, at most
_PATIENCE = 0.005  # seconds that an act waits for others to share its transaction, if others are about
_YIELDS = 0.25  # seconds that acts together wait for a lock; then each goes by itself
_COMPANY = 0.02  # seconds in which a thread that asked what it needs for an act may be expected to act
_MIGRATION_LOCK = 0x61747465737464  # "attestd": the advisory lock of whoever changes the tables

# SQLSTATE by its class of two characters, or by all five (PostgreSQL 15, appendix A).
_NAMED: dict[str, type[Unavailable]] = {
    "08": DatabaseUnreachable,  # connection exception
    "28": DatabaseUnreachable,  # invalid authorization
    "3D": DatabaseUnreachable,  # no such database
    "57P": DatabaseUnreachable,  # shut down, crashed, starting
    "25006": DatabaseNotWritable,  # read-only transaction: a standby
    "53100": DatabaseNotWritable,  # disk full
    "42501": DatabaseNotWritable,  # insufficient privilege
    "58": DatabaseNotWritable,  # system error: input and output
    "53": DatabaseBusy,  # out of memory, too many connections
    "40": DatabaseBusy,  # serialization failure, deadlock
    "55P03": DatabaseBusy,  # lock not available in time
    "57014": DatabaseBusy,  # statement ran out of time
    "25P": DatabaseBusy,  # idle in a transaction for too long
    "XX": DatabaseDamaged,  # internal error, data corrupted, index corrupted
}

# An index that is partial on SQLite is partial here, too. `attestd.registry.tables` does not say so itself: an index
# with an option of this dialect loads the dialect, also into processes that speak to SQLite.
for _index in (index for table in METADATA.tables.values() for index in table.indexes):
    if (_where := _index.dialect_options["sqlite"].get("where")) is not None:
        _index.dialect_options["postgresql"]["where"] = _where


class PostgresqlDatabase:
    """One process's connections to one database."""

    driver = LIBPQ

    def __init__(self, url: str, busy_timeout: float, waiting: Waiting = nullcontext) -> None:
        try:
            self._address = make_url(url).set(drivername="postgresql+psycopg")
        except (ArgumentError, ValueError):
            # Without the cause: it would show the address, and with it a password.
            raise DatabaseUnsupported(
                "The database's URL can't be read.", expected="postgresql://user@host/database"
            ) from None
        self._timeout = busy_timeout
        self._waiting = waiting
        self._readers = _engine(self._address, "reading", busy_timeout, waiting)
        self._writers = _engine(self._address, "acting", busy_timeout, waiting)
        self._asking = self._lines("asking", _POOL + _OVERFLOW)
        self._alone = self._lines("alone", _POOL + _OVERFLOW)
        self._together = self._lines("together", 1)
        self._company = Company(_COMPANY)
        self._batches = Batches(
            self._carry_out, company=self._company, most=_GROUP, patience=_PATIENCE, waiting=waiting
        )

    def _lines(self, purpose: str, most: int) -> Lines:
        def connect() -> Line:
            try:
                made = _connect(self._writers.dialect, self._address, purpose, self._timeout, self._waiting)
            except psycopg.Error as error:
                raise _named(error) from None
            # The server's own limits come first.
            return Line(made, named=_named_state, patience=6 * self._timeout, waiting=self._waiting)

        return Lines(connect, most=most, life=_RECYCLE, timeout=self._timeout, waiting=self._waiting)

    def create(self) -> None:
        """The database itself is its administrator's to make: `createdb`."""

    def close(self) -> None:
        self._readers.dispose()
        self._writers.dispose()
        for lines in (self._asking, self._alone, self._together):
            lines.close()

    def ask(self, statement: Statement, values: Mapping[str, Any], *, to_act: bool) -> Any:
        """One statement sees one moment by itself: there is no transaction to begin."""
        if to_act:
            self._company.expect()
        plan = statement.plan(LIBPQ)
        parameters = plan.bind(values)
        with self._asking.line() as line:
            found = line.one_or_none(plan, parameters)
        return None if found is None else plan.row(found)

    def act(self, steps: Sequence[Bound]) -> Refused | None:
        act = self._batches.join(steps)
        if act.alone:
            with self._alone.line() as line, ExitStack() as waits:
                return line.perform(steps, waits)
        if act.error is not None:
            raise act.error
        return act.refused

    def _carry_out(self, waits: ExitStack) -> None:
        """The acts that stand in line, in one transaction. If that is undone, nobody can say whose fault it is: each
        is tried by itself, by the thread that brought it."""
        with self._together.line() as line:
            acts = self._batches.take()
            try:
                refused = line.perform((step for act in acts for step in act.steps), waits)
            except Unavailable:
                if not line.alive:
                    raise
                for act in acts:
                    act.alone = True
                return
            if len(acts) == 1:
                acts[0].refused = refused
            elif refused is not None:
                for act in acts:
                    act.alone = True

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with _named_errors(), self._readers.connect() as c:
            yield c

    @contextmanager
    def acting(self) -> Iterator[Connection]:
        with _named_errors(), self._writers.begin() as c:
            yield c

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        engine = _engine(self._address, "migrating", self._timeout, self._waiting)
        with _named_errors(), engine.begin() as c:
            c.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            yield c


def _engine(address: URL, purpose: str, busy_timeout: float, waiting: Waiting) -> Engine:
    options: dict[str, Any] = {
        "pool_size": _POOL,
        "max_overflow": _OVERFLOW,
        "pool_timeout": busy_timeout,
        "pool_recycle": _RECYCLE,
    }
    if purpose == "migrating":
        options = {"poolclass": NullPool}
    engine = create_engine(
        address,
        json_serializer=lambda members: write_object(members).decode(),
        hide_parameters=True,  # errors reach the log; keys and hashes must not
        **options,
    )

    initialized = False  # by the first connection, while the engine holds a lock that others wait for

    def connect(dialect: Dialect, *_: object) -> psycopg.Connection[Any]:
        made = _connect(dialect, address, purpose, busy_timeout, waiting if initialized else nullcontext)
        made.autocommit = False
        if purpose == "reading":
            made.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            made.read_only = True
        return made

    def connected(made: _Connection, _record: object) -> None:
        nonlocal initialized
        initialized = True
        made.waiting = waiting

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "connect", connected)  # after the engine's own listeners
    return engine


def _connect(dialect: Dialect, address: URL, purpose: str, busy_timeout: float, waiting: Waiting) -> _Connection:
    """A new connection with this program's settings; each statement is its own transaction. Raises psycopg.Error."""
    arguments, options = dialect.create_connect_args(address)
    own = {"connect_timeout": max(1, int(busy_timeout)), "application_name": f"attestd {purpose}"}
    with waiting():
        made = _Connection.connect(*arguments, **{**options, **own}, autocommit=True)
    made.waiting = waiting
    settings = {"synchronous_commit": "on", "timezone": "UTC"}
    if purpose != "migrating":
        patience = busy_timeout if purpose != "together" else _YIELDS
        settings |= {"lock_timeout": _milliseconds(patience), "statement_timeout": _milliseconds(2 * busy_timeout)}
        settings |= {"idle_in_transaction_session_timeout": _milliseconds(12 * busy_timeout)}
    if purpose == "asking":
        settings |= {"default_transaction_read_only": "on"}
    for name, value in settings.items():
        made.execute("SELECT set_config(%s, %s, false)", (name, value)).close()
    return made


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


class _Connection(psycopg.Connection[Any]):
    """Gives up what a thread gives up while it waits for the server."""

    waiting: Waiting = staticmethod(nullcontext)

    def wait(self, *what: Any, **limits: Any) -> Any:
        with self.waiting():
            return super().wait(*what, **limits)


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except NoFreeConnection as error:
        raise DatabaseBusy("All database connections of this process are in use.") from error
    except DBAPIError as error:
        # Without the cause and its details: they may quote rows, and with them keys and hashes.
        raise _named(error.orig) from None


def _named(error: BaseException | None) -> Unavailable:
    """A driver's error."""
    state = getattr(error, "sqlstate", None)
    if state is None and not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return DatabaseFailed(f"The driver refuses this: {type(error).__name__}.")
    said = getattr(getattr(error, "diag", None), "message_primary", None) if state else str(error)
    return _named_state(state, said or "no more")


def _named_state(state: str | None, said: str) -> Unavailable:
    """What the server says; without a state the connection could not be made, or broke."""
    said = said.strip().partition("\n")[0].rstrip(".")
    if state is None:
        return DatabaseUnreachable(f"PostgreSQL can't be reached: {said}.")
    named = next((_NAMED[part] for part in (state, state[:3], state[:2]) if part in _NAMED), DatabaseFailed)
    return named(f"PostgreSQL says {state}: {said}.")
