"""PostgreSQL: acts run side by side, READ COMMITTED; row locks and conditional statements keep them apart.

Readers see one moment (REPEATABLE READ, READ ONLY). A commit is on the disk before it returns (synchronous_commit).
Nothing waits for ever: not for a lock, a statement or a connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
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

_POOL = 8  # connections of each kind that one process keeps open; more are made under load, and closed again
_OVERFLOW = 24
_RECYCLE = 1800  # seconds: so that a moved or rebalanced server is noticed
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


class PostgresqlDatabase:
    """One process's connections to one database."""

    def __init__(self, url: str, busy_timeout: float) -> None:
        self._url = url
        self._timeout = busy_timeout
        self._readers = _engine(url, "reading", busy_timeout)
        self._writers = _engine(url, "acting", busy_timeout)

    def create(self) -> None:
        """The database itself is its administrator's to make: `createdb`."""

    def close(self) -> None:
        self._readers.dispose()
        self._writers.dispose()

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
        engine = _engine(self._url, "migrating", self._timeout)
        with _named_errors(), engine.begin() as c:
            c.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            yield c


def _engine(url: str, purpose: str, busy_timeout: float) -> Engine:
    try:
        address = make_url(url).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):
        # Without the cause: it would show the address, and with it a password.
        raise DatabaseUnsupported(
            "The database's URL can't be read.", expected="postgresql://user@host/database"
        ) from None
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
        connect_args={"connect_timeout": max(1, int(busy_timeout)), "application_name": f"attestd {purpose}"},
        json_serializer=lambda members: write_object(members).decode(),
        hide_parameters=True,  # errors reach the log; keys and hashes must not
        **options,
    )
    settings = {"synchronous_commit": "on", "timezone": "UTC"}
    if purpose != "migrating":
        milliseconds = str(int(busy_timeout * 1000))
        settings |= {"lock_timeout": milliseconds, "statement_timeout": str(int(busy_timeout * 2000))}
        settings |= {"idle_in_transaction_session_timeout": str(int(busy_timeout * 12000))}

    def prepare(connection: Any, _record: object) -> None:
        connection.autocommit = True
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value)).close()
        connection.autocommit = False
        if purpose == "reading":
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True

    event.listen(engine, "connect", prepare)
    return engine


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except NoFreeConnection as error:
        raise DatabaseBusy("All database connections of this process are in use.") from error
    except DBAPIError as error:
        # Without the cause and its details: they may quote rows, and with them keys and hashes.
        raise _named(error) from None


def _named(error: DBAPIError) -> Unavailable:
    state = getattr(error.orig, "sqlstate", None)
    if state is None and isinstance(error, OperationalError | InterfaceError):  # it could not be made, or broke
        return DatabaseUnreachable(f"PostgreSQL can't be reached: {_first_line(error.orig)}.")
    if state is None:
        return DatabaseFailed(f"The driver refuses this: {type(error.orig).__name__}.")
    named = next((_NAMED[part] for part in (state, state[:3], state[:2]) if part in _NAMED), DatabaseFailed)
    said = getattr(getattr(error.orig, "diag", None), "message_primary", None)
    return named(f"PostgreSQL says {state}: {said or 'no more'}.")


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
