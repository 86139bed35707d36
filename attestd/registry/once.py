"""Calls that are carried out once, by keys that who sends them made up. Times are unix seconds.

A key is taken before its call does anything, in a transaction of its own, and given back when the call was refused. So
of two that come at once one is carried out; and of one whose answer was lost the row stays, with where in the audit
trail to look for what it did.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from sqlalchemy import Connection, delete, insert, select, update

from attestd.errors import Conflict
from attestd.registry.acts import Step
from attestd.registry.statements import Statement
from attestd.registry.tables import once

KEPT: Final = 7 * 86400  # seconds: longer than anybody leaves a form open


class KeyTaken(Conflict):
    """This key was used before"""


@dataclass(frozen=True, slots=True)
class Sent:
    """One call. `name`: its key; `digest`: of what was sent; `last_row`: all that it noted has higher numbers;
    `answered_at`: when it was done and its answer said so."""

    actor: str
    name: str
    digest: bytes
    request_id: str
    at: int
    last_row: int
    answered_at: int | None = None


_TAKE = Statement(insert(once).inline(), columns=once.c.keys())


def taking(sent: Sent) -> Step:
    """Takes the key, or is refused as KeyTaken: this actor has used it."""
    return Step(_TAKE, asdict(sent), taken=KeyTaken)


def find(c: Connection, actor: str, name: str) -> Sent | None:
    """The call that took this key."""
    row = c.execute(select(once).where(once.c.actor == actor, once.c.name == name)).one_or_none()
    return None if row is None else Sent(**row._mapping)


def settle(c: Connection, sent: Sent, *, now: int) -> None:
    """It was done, and is answered so."""
    c.execute(update(once).where(once.c.actor == sent.actor, once.c.name == sent.name).values(answered_at=now))


def give_back(c: Connection, sent: Sent) -> None:
    """It was refused, and may be sent again."""
    c.execute(delete(once).where(once.c.actor == sent.actor, once.c.name == sent.name))


def purge(c: Connection, *, before: int, limit: int) -> int:
    """Forgets calls of before this time, at most `limit`; returns how many went."""
    old = select(once.c.actor, once.c.name).where(once.c.at < before).limit(limit)
    rows = c.execute(old.with_for_update(skip_locked=True)).all()
    for row in rows:
        c.execute(delete(once).where(once.c.actor == row.actor, once.c.name == row.name))
    return len(rows)
