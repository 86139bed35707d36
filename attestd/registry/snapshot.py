"""All rows as plain JSON objects, and back: what a backup holds, the same from SQLite and from PostgreSQL.

The tables are read as they are, not as this program would make them, so that a database can be backed up before it is
upgraded, and a backup of any earlier revision be restored.

Left out: spent challenges and nonces (after a restore nothing opens that was sealed before, so none can come back) and
signed bundles (of an epoch that has ended), and what the database derives from devices by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import JSON, Boolean, Column, Connection, Integer, LargeBinary, MetaData, Table, insert, inspect, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import text

from attestd.errors import Conflict, MalformedInput, Misconfigured
from attestd.protocol.encoding import MalformedBase64, b64decode, b64encode
from attestd.registry import migrations, revision
from attestd.registry.engine import Registry
from attestd.registry.tables import METADATA

_LEFT_OUT = frozenset({"spends", "bundles", "fleet_counts", "fleet_changes", "device_terms"})
_BATCH = 500  # rows at a time


class RowMalformed(MalformedInput):
    """A row of the backup does not fit its table"""

    remedy = "Use another copy of the backup. Nothing was restored."


class SnapshotTooNew(Misconfigured):
    """The backup was made by a newer program"""

    remedy = "Restore it with the program version that made it, or a later one."


class DatabaseNotEmpty(Conflict):
    """There are tables in this database already"""

    remedy = "Restore into an empty database: `createdb NAME`. If an unfinished restore left these, drop it first."


@dataclass(frozen=True, slots=True)
class Position:
    """How far the service had come at that moment. `bundle` is the newest bundle's version, 0 before the first."""

    epoch: int
    bundle: int


# ---- Reading ----------------------------------------------------------------------------------------------------


def tables_of(c: Connection) -> dict[str, Table]:
    """The tables as they are, by name, each after those that it refers to; without those that are left out."""
    metadata = MetaData()
    wanted = set(METADATA.tables) - _LEFT_OUT
    metadata.reflect(c, only=lambda name, _: name in wanted)
    for table in metadata.tables.values():
        for column in table.columns:
            if isinstance(column.type, JSON):  # NULL is NULL, not JSON's null
                column.type = JSON(none_as_null=True)
    return {table.name: table for table in metadata.sorted_tables}


def position(c: Connection) -> Position:
    """The epoch and the newest bundle of it."""
    epoch = revision.epoch(c)
    newest = c.execute(text("SELECT max(version) FROM bundles WHERE epoch = :epoch"), {"epoch": epoch}).scalar_one()
    return Position(epoch, newest or 0)


def rows(c: Connection, table: Table) -> Iterator[dict[str, Any]]:
    """Each row as a JSON object, in the order of the primary key; a few at a time are in memory."""
    statement = select(table).order_by(*table.primary_key.columns)
    options = {"stream_results": True, "yield_per": _BATCH}
    for row in c.execute(statement, execution_options=options):
        yield {name: b64encode(value) if isinstance(value, bytes) else value for name, value in row._mapping.items()}


# ---- Writing ----------------------------------------------------------------------------------------------------


def create_empty(registry: Registry, schema: str) -> None:
    """Makes the tables of an earlier revision, or of this one, in an empty database. Raises SnapshotTooNew."""
    with _rebuilding(registry) as c:
        known = migrations.revisions(c)
        if schema not in known:
            raise SnapshotTooNew(seen=f"tables of revision {schema[:20]}", expected=f"at most {known[-1]}")
        migrations.upgrade(c, schema)
        _clear(c, tables_of(c))


def load(c: Connection, table: Table, objects: Iterable[Mapping[str, Any]]) -> int:
    """Inserts rows as `rows` gave them; returns how many. Raises RowMalformed."""
    columns = {column.name: column for column in table.columns}
    loaded = 0
    parsed = (_row(columns, table.name, members) for members in objects)
    while batch := list(islice(parsed, _BATCH)):
        try:
            c.execute(insert(table), batch)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            # Without the row: it may hold what no log should.
            raise RowMalformed(f"Rows of {table.name} contradict the others.", seen=type(error.orig).__name__) from None
        loaded += len(batch)
    return loaded


def require_empty(registry: Registry) -> None:
    """Raises DatabaseNotEmpty if there is any table at all."""
    with registry.reading() as c:
        if found := inspect(c).get_table_names():
            raise DatabaseNotEmpty(seen=", ".join(sorted(found)[:5]), expected="no tables")


def copy(source: Registry, target: Registry) -> None:
    """Everything in `source`, whose tables are this program's, into an empty database: one act, all or nothing.

    Raises DatabaseNotEmpty.
    """
    require_empty(target)
    with source.reading() as reading, _rebuilding(target) as c:
        migrations.upgrade(c)
        tables = tables_of(c)
        _clear(c, tables)
        for table in tables.values():
            load(c, table, rows(reading, table))
            _count_on(c, table)


def _rebuilding(registry: Registry) -> AbstractContextManager[Connection]:
    """One transaction that may make tables, and take its time: nobody else is there yet."""
    return registry.migrating()


def _clear(c: Connection, tables: Mapping[str, Table]) -> None:
    """Migrations put first values into some tables, which the backup has, too."""
    for table in reversed(list(tables.values())):
        c.execute(table.delete())


def _count_on(c: Connection, table: Table) -> None:
    """PostgreSQL numbers rows by a sequence of its own, which does not see numbers that were given; SQLite looks."""
    if c.dialect.name != "postgresql":
        return
    for column in table.primary_key.columns:
        if isinstance(column.type, Integer) and METADATA.tables[table.name].autoincrement_column is not None:
            highest = f"(SELECT coalesce(max({column.name}), 0) + 1 FROM {table.name})"  # noqa: S608 - names of ours
            c.execute(
                text(f"SELECT setval(pg_get_serial_sequence(:table, :column), {highest}, false)"),
                {"table": table.name, "column": column.name},
            )


# ---- Values -----------------------------------------------------------------------------------------------------


def _row(columns: Mapping[str, Column[Any]], table: str, members: Mapping[str, Any]) -> dict[str, Any]:
    if members.keys() != columns.keys():
        differing = sorted(members.keys() ^ columns.keys())
        raise RowMalformed(f"A row of {table} has other columns than the table.", seen=", ".join(differing)[:200])
    return {name: _value(column, f"{table}.{name}", members[name]) for name, column in columns.items()}


def _value(column: Column[Any], name: str, value: Any) -> Any:
    if value is None or isinstance(column.type, JSON):
        return value
    if isinstance(column.type, LargeBinary):
        try:
            return b64decode(value if isinstance(value, str) else "?", name=name)
        except MalformedBase64:
            raise RowMalformed(f"{name} is not base64url.") from None
    if isinstance(column.type, Boolean):
        fits, expected = type(value) is bool, "true or false"
    elif isinstance(column.type, Integer):
        fits, expected = type(value) is int and -(1 << 63) <= value < 1 << 63, "a whole number"
    else:
        fits, expected = isinstance(value, str), "a string"
    if not fits:
        raise RowMalformed(f"{name} has a value of another kind.", seen=type(value).__name__, expected=expected)
    return value
