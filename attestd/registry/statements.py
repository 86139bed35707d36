"""Statements of the hot paths: written as Core statements, compiled once a driver, run by the driver itself.

Executing a Core statement takes five times as long as SQLite needs for it. What stays the same from run to run is done
once here: the text, the order of the parameters, how each value goes in and comes out. A `Plan` is what that gives for
one driver: it turns values into the driver's parameters, and the driver's row into a named tuple.

Anything that is not hot is executed by Core as usual; both run in the same transaction.
"""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from sqlalchemy import (
    JSON,
    BindParameter,
    Connection,
    Delete,
    Dialect,
    Insert,
    Integer,
    LargeBinary,
    Select,
    String,
    Update,
)
from sqlalchemy.dialects.sqlite import pysqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from attestd.protocol.encoding import write_object

Process = Callable[[Any], Any]
Kind = type[TypeEngine[Any]]
KINDS: tuple[Kind, ...] = (String, Integer, LargeBinary, JSON)  # what hot statements store; Integer is BigInteger, too


@dataclass(frozen=True, slots=True)
class Driver:
    """How a driver takes and gives values, by their kind; a kind that is not named goes as it is."""

    name: str
    dialect: Dialect  # with parameters by their places
    going_in: Mapping[Kind, Process]
    coming_out: Mapping[Kind, Process]


# Exact types: a driver looks long for what it should do with a DeviceId or an EkHash.
EXACT: dict[Kind, Process] = {String: str, LargeBinary: bytes, JSON: lambda members: write_object(members).decode()}
PYSQLITE = Driver("pysqlite", pysqlite.dialect(), EXACT, {JSON: json.loads})
# Those by which Core executes, by name; PostgreSQL's (`pgdrivers`) is added by who uses it, for it takes megabytes.
DRIVERS = {PYSQLITE.name: PYSQLITE}


class Plan:
    """A statement in one driver's words. `parameters` and `returns` are what goes in and comes out, in this order."""

    def __init__(
        self,
        text: str,
        driver: Driver,
        parameters: Sequence[tuple[str, Kind]],
        constants: Mapping[str, Any],
        returns: Sequence[tuple[str, Kind]],
    ) -> None:
        """`constants` are the parameters that the statement itself sets."""
        self.text = text
        self.number = next(_NUMBERS)
        self.parameters = tuple(parameters)
        self.returns = tuple(returns)
        self._constants = [_through(driver.going_in.get(kind), constants.get(name)) for name, kind in parameters]
        self._given = tuple(
            (place, name, driver.going_in.get(kind))
            for place, (name, kind) in enumerate(parameters)
            if name not in constants
        )
        self._coming_out = tuple(
            (place, driver.coming_out[kind]) for place, (_, kind) in enumerate(returns) if kind in driver.coming_out
        )
        names = [name for name, _ in returns]
        row: Any = namedtuple("Row", names)  # type: ignore[misc]
        self._row: Callable[[Iterable[Any]], Any] = row._make

    def bind(self, values: Mapping[str, Any]) -> list[Any]:
        """The driver's parameters. One that is missing is a KeyError, and no NULL."""
        bound = self._constants.copy()
        for place, name, process in self._given:
            value = values[name]
            bound[place] = value if process is None or value is None else process(value)
        return bound

    def row(self, found: Sequence[Any]) -> Any:
        """The driver's row as a named tuple."""
        changed = list(found)
        for place, process in self._coming_out:
            if (value := changed[place]) is not None:
                changed[place] = process(value)
        return self._row(changed)


_NUMBERS = count(1)


class Statement:
    """One statement, to be run any number of times by any thread. `values` must be all that it names.

    Without `in_`: its text would depend on the values.
    """

    def __init__(self, statement: Select[Any] | Insert | Update | Delete, *, columns: Sequence[str] = ()) -> None:
        """`columns`: what an INSERT without values takes."""
        self._statement = statement
        self._columns = list(columns) or None
        self._plans: dict[str, Plan] = {}

    def plan(self, driver: Driver) -> Plan:
        """The statement in this driver's words."""
        return self._plans.get(driver.name) or self._make_plan(driver)

    def one_or_none(self, c: Connection, values: Mapping[str, Any]) -> Any:
        """The row, as a named tuple, or None; never more than one is asked for. Raises DBAPIError's children."""
        plan, cursor = self._run(c, values)
        try:
            found = cursor.fetchone()
        finally:
            cursor.close()
        return None if found is None else plan.row(found)

    def change(self, c: Connection, values: Mapping[str, Any]) -> int:
        """How many rows it changed. Raises DBAPIError's children."""
        _, cursor = self._run(c, values)
        changed = int(cursor.rowcount)
        cursor.close()
        return changed

    def count(self, c: Connection, values: Mapping[str, Any]) -> int:
        """How many rows it changed; of a question, whether there is one: 1 or 0. Raises DBAPIError's children."""
        if isinstance(self._statement, Select):
            return int(self.one_or_none(c, values) is not None)
        return self.change(c, values)

    def _run(self, c: Connection, values: Mapping[str, Any]) -> tuple[Plan, Any]:
        plan = self.plan(DRIVERS[c.dialect.driver])
        cursor = c.connection.cursor()
        try:
            cursor.execute(plan.text, plan.bind(values))
        except Exception as error:
            cursor.close()
            base = c.dialect.loaded_dbapi.Error
            if isinstance(error, base):  # as Core would raise it, without the parameters
                raise DBAPIError.instance(
                    plan.text, None, error, base, hide_parameters=True, dialect=c.dialect
                ) from error
            raise
        return plan, cursor

    def _make_plan(self, driver: Driver) -> Plan:
        compiled = self._statement.compile(dialect=driver.dialect, column_keys=self._columns)
        bounds: Mapping[str, BindParameter[Any]] = compiled.binds
        places: Sequence[str] = compiled.positiontup or ()
        self._plans[driver.name] = made = Plan(
            text=str(compiled),
            driver=driver,
            parameters=[(name, _kind(bounds[name].type)) for name in places],
            constants={name: bound.value for name, bound in bounds.items() if not bound.required},
            returns=[(column.name, _kind(column.type)) for column in self._returned()],
        )
        return made

    def _returned(self) -> Sequence[Any]:
        if isinstance(self._statement, Select):
            return list(self._statement.selected_columns)
        return list(self._statement.exported_columns) if self._statement._returning else []


def _kind(type_: TypeEngine[Any]) -> Kind:
    """Raises TypeError for values that no hot statement stores: each driver would have to be told of them."""
    for kind in KINDS:
        if isinstance(type_, kind):
            return kind
    raise TypeError(f"hot statements store no {type_!r}")


def _through(process: Process | None, value: Any) -> Any:
    return value if process is None or value is None else process(value)
