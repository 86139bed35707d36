"""Acts whose statements are known before they begin: one transaction as data, all or nothing.

    registry.act(
        spends.spending(nonce, …),          # must change one row, or it is AlreadySpent
        *transitions.activation(device, …),     # must change one row, or it is StateChanged
        issued.recording(device, …),
        audit.entry(…),
    )

A verb that knows all its statements need not talk to the database between them: they are one trip to PostgreSQL, and
one thread can carry out the acts of many (`attestd.registry.batches`). What must be true is in the statements
themselves: each is conditional, and a step that should have changed one row and did not undoes the act.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from attestd.errors import AttestdError
from attestd.registry.failures import is_unique_violation
from attestd.registry.statements import Driver, Plan, Statement


@dataclass(frozen=True, slots=True)
class Step:
    """One statement of an act. `values` must be all that it names.

    `otherwise`: it must change, or find, exactly one row; else the act is undone, and this says why (it may read what
    is there now). None: any number of rows will do. `taken`: why, if a unique value is somebody else's already.
    """

    statement: Statement
    values: Mapping[str, Any]
    otherwise: Callable[[Connection], AttestdError] | None = None
    taken: Callable[[], AttestdError] | None = None

    def bind(self, driver: Driver) -> Bound:
        """The step in this driver's words. A value that is missing is a KeyError."""
        plan = self.statement.plan(driver)
        return Bound(plan, plan.bind(self.values), self.otherwise is not None)


class Bound(NamedTuple):
    """A step in one driver's words."""

    plan: Plan
    parameters: list[Any]
    must: bool  # change or find exactly one row


class Refused(NamedTuple):
    """The step that undid its act, by its place. `taken`: by a unique value."""

    place: int
    taken: bool


def perform(c: Connection, *steps: Step) -> None:
    """The steps one by one, within a transaction of `Registry.acting()`. Raises what the refused one says."""
    for step in steps:
        try:
            count = step.statement.count(c, step.values)
        except IntegrityError as error:
            if step.taken is None or not is_unique_violation(error):
                raise
            raise step.taken() from None
        if step.otherwise is not None and count != 1:
            raise step.otherwise(c)
