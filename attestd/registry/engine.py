"""The registry's doors: one `Registry` a process, `reading()` for questions, `acting()` for changes.

The verbs of devices, which everything waits for, know their statements beforehand and use two narrower doors: `ask()`
for one question, `act()` for one act (`attestd.registry.acts`).

Only this module and the two drivers beside it (`sqlite`, `postgresql`) know one database from another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, Self

from sqlalchemy import Connection, inspect, text

from attestd.registry import migrations, sqlite
from attestd.registry.acts import Bound, Refused, Step
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
from attestd.registry.statements import Driver, Statement
from attestd.registry.tables import SCHEMA
from attestd.registry.turns import Waiting

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
    """What a driver does. It raises the errors of `failures`."""

    driver: Driver

    def create(self) -> None:
        """Makes what can be made of an absent database."""

    def close(self) -> None:
        """Closes the connections that nobody uses; those in use close when they are given back."""

    def ask(self, statement: Statement, values: Mapping[str, Any], *, to_act: bool) -> Any:
        """The statement's row as a named tuple, or None."""

    def act(self, steps: Sequence[Bound]) -> Refused | None:
        """All steps or none, on the disk when this returns; or the step that was refused."""

    def reading(self) -> AbstractContextManager[Connection]:
        """One consistent view."""

    def acting(self) -> AbstractContextManager[Connection]:
        """One act, all or nothing, on the disk when the block has been left."""

    def migrating(self) -> AbstractContextManager[Connection]:
        """One transaction that may change tables, alone."""


class Registry:
    """One process's way to the database. Thread-safe; made after forking."""

    def __init__(self, url: str, waiting: Waiting = nullcontext) -> None:
        """Opens nothing yet; `Registry.open` is the usual way. Raises DatabaseUnsupported.

        `waiting()` is entered around everything that an act waits for: its turn, company, the disk, a server's answer.
        Whoever lets one thread compute at a time lets go meanwhile.
        """
        self._pid = os.getpid()
        self._database = _database(url, waiting)

    @classmethod
    def open(cls, url: str, *, create: bool = False, waiting: Waiting = nullcontext) -> Self:
        """The registry at a URL, checked to have the tables that this program knows.

        `sqlite:///` and a path, or `postgresql://user@host/database`. `create` makes the file (mode 0600) where there
        is none, and brings older tables up to date. Raises DatabaseUnreachable, DatabaseUnsupported, SchemaOutdated,
        SchemaTooNew and acting()'s errors.
        """
        registry = cls(url, waiting)
        if create:
            registry._database.create()
            registry.migrate()
        else:
            registry._require_schema(registry.schema())
        return registry

    def close(self) -> None:
        """Closes the connections that nobody uses; those in use close when they are given back."""
        self._database.close()

    def ask(self, statement: Statement, values: Mapping[str, Any], *, to_act: bool = False) -> Any:
        """What one statement finds, at one moment: its row as a named tuple, or None. Raises DatabaseBusy and its
        siblings.

        `to_act`: this thread will act on the answer, so that another act may wait a moment for its company.
        """
        self._require_process()
        return self._database.ask(statement, values, to_act=to_act)

    def act(self, *steps: Step) -> None:
        """One act: on the disk when this returns, or undone whole if a step is refused. Acts of several threads share
        a transaction. Raises what the refused step says, and acting()'s errors."""
        self._require_process()
        refused = self._database.act([step.bind(self._database.driver) for step in steps])
        if refused is not None:
            raise self._refusal(steps[refused.place], refused)

    def _refusal(self, step: Step, refused: Refused) -> Exception:
        if refused.taken:
            return DatabaseFailed("A unique value is taken.") if step.taken is None else step.taken()
        assert step.otherwise is not None  # noqa: S101 - or any number of rows would have done
        with self.reading() as c:
            return step.otherwise(c)

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


def _database(url: str, waiting: Waiting) -> Database:
    if url.startswith(sqlite.SCHEME):
        return sqlite.SqliteDatabase(url, BUSY_TIMEOUT, waiting)
    if url.startswith(_POSTGRESQL):
        from attestd.registry.postgresql import PostgresqlDatabase  # its driver, for those who use it

        return PostgresqlDatabase(url, BUSY_TIMEOUT, waiting)
    # Nothing after the scheme is repeated: it may hold a password.
    raise DatabaseUnsupported(
        seen=url.split(":", maxsplit=1)[0][:20], expected=f"{sqlite.SCHEME}path or {_POSTGRESQL}user@host/name"
    )


def _schema(c: Connection) -> str | None:
    if not inspect(c).has_table("alembic_version"):
        return None
    found = c.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return None if found is None else str(found)
