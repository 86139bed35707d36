"""Statements of the hot paths: written as Core statements, compiled once a database, run by the driver itself.

Executing a Core statement takes five times as long as SQLite needs for it. What stays the same from run to run is done
once here: the text, the order of the parameters, how each value goes in and comes out. Anything that is not hot is
executed by Core as usual; both run in the same transaction.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, Connection, Delete, Dialect, Insert, Select, Update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

_Process = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A statement in one database's words."""

    text: str
    names: tuple[str, ...]  # the parameters, in their order
    by_name: bool  # how the driver wants them
    fixed: Mapping[str, Any]  # parameters that the statement itself sets
    going_in: tuple[tuple[str, _Process], ...]
    coming_out: tuple[tuple[int, _Process], ...]
    row: Callable[[Sequence[Any]], Any] | None  # makes a named tuple; None for statements that return no rows


class Statement:
    """One statement, to be run any number of times by any thread. `parameters` must be all that it names.

    Without `in_`: its text would depend on the values.
    """

    def __init__(self, statement: Select[Any] | Insert | Update | Delete, *, columns: Sequence[str] = ()) -> None:
        """`columns`: what an INSERT without values takes."""
        self._statement = statement
        self._columns = list(columns) or None
        self._compiled: dict[str, _Compiled] = {}

    def text(self, dialect: Dialect) -> str:
        """The statement in this database's words."""
        return (self._compiled.get(dialect.name) or self._compile(dialect)).text

    def one_or_none(self, c: Connection, parameters: Mapping[str, Any]) -> Any:
        """The row, as a named tuple, or None; never more than one is asked for. Raises DBAPIError's children."""
        compiled, cursor = self._run(c, parameters)
        try:
            found = cursor.fetchone()
        finally:
            cursor.close()
        if found is None or compiled.row is None:
            return None
        if compiled.coming_out:
            values = list(found)
            for index, process in compiled.coming_out:
                values[index] = process(values[index])
            found = values
        return compiled.row(found)

    def change(self, c: Connection, parameters: Mapping[str, Any]) -> int:
        """How many rows it changed. Raises DBAPIError's children."""
        _, cursor = self._run(c, parameters)
        changed = int(cursor.rowcount)
        cursor.close()
        return changed

    def _run(self, c: Connection, parameters: Mapping[str, Any]) -> tuple[_Compiled, Any]:
        compiled = self._compiled.get(c.dialect.name) or self._compile(c.dialect)
        values = {**compiled.fixed, **parameters}
        for name, process in compiled.going_in:
            values[name] = process(values[name])
        given: Any = [values[name] for name in compiled.names]  # one that is missing is an error, and no NULL
        if compiled.by_name:
            given = dict(zip(compiled.names, given, strict=True))
        cursor = c.connection.cursor()
        try:
            cursor.execute(compiled.text, given)
        except Exception as error:
            cursor.close()
            base = c.dialect.loaded_dbapi.Error
            if isinstance(error, base):  # as Core would raise it, without the parameters
                raise DBAPIError.instance(
                    compiled.text, None, error, base, hide_parameters=True, dialect=c.dialect
                ) from error
            raise
        return compiled, cursor

    def _compile(self, dialect: Dialect) -> _Compiled:
        compiled = self._statement.compile(dialect=dialect, column_keys=self._columns)
        order = getattr(compiled, "positiontup", None)
        bounds: Mapping[str, BindParameter[Any]] = compiled.binds
        going_in = []
        for name, bound in bounds.items():
            process = _implementation(bound.type, dialect).bind_processor(dialect)
            if process is not None:
                going_in.append((name, process))
        columns = self._returned()
        coming_out = []
        for index, column in enumerate(columns):
            process = _implementation(column.type, dialect).result_processor(dialect, None)
            if process is not None:
                coming_out.append((index, process))
        names = [column.name for column in columns]
        made = _Compiled(
            text=str(compiled),
            names=tuple(bounds if order is None else order),
            by_name=order is None,
            fixed={name: bound.value for name, bound in bounds.items() if not bound.required},
            going_in=tuple(going_in),
            coming_out=tuple(coming_out),
            row=namedtuple("Row", names)._make if names else None,  # type: ignore[attr-defined]
        )
        self._compiled[dialect.name] = made
        return made

    def _returned(self) -> Sequence[Any]:
        if isinstance(self._statement, Select):
            return list(self._statement.selected_columns)
        return list(self._statement.exported_columns) if self._statement._returning else []


def _implementation(type_: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    return type_.dialect_impl(dialect)
