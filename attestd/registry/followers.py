"""Who reads the sealed audit trail and goes on where they were: a place kept for each, and one reader at a time.

Leaf numbers are given in order, once, to rows that stay: a follower that keeps the next one misses nothing and reads
nothing twice, whatever order transactions committed in. Of several processes one holds a follower, for a while.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, select, text, update

from attestd.registry import audit_tree
from attestd.registry.tables import counters

_PLACE, _HELD = "follower/", "follower-held/"

_FIND = select(counters.c.value).where(counters.c.name == bindparam("wanted"))
_START = insert(counters).from_select(
    ["name", "value"],
    select(
        bindparam("new_name", type_=counters.c.name.type).label("name"),
        bindparam("new_value", type_=counters.c.value.type).label("value"),
    )
    .where(text("1 = 1"))  # or SQLite would take what follows for a join's condition
    # Every database here understands this. Core has it only in the modules of single ones, which are large.
    .suffix_with("ON CONFLICT DO NOTHING"),
)
_TAKE = (
    update(counters)
    .where(counters.c.name == bindparam("wanted"), counters.c.value <= bindparam("now"))
    .values(value=bindparam("until"))
)
_MOVE = (
    update(counters)
    .where(counters.c.name == bindparam("wanted"), counters.c.value == bindparam("known"))
    .values(value=bindparam("moved"))
)


def hold(c: Connection, name: str, *, now: int, until: int) -> int | None:
    """The next leaf that this follower has not read, which nobody else reads until then; None while somebody else
    does. A follower that is new begins at the trail's end. Times are unix seconds."""
    c.execute(_START, {"new_name": _PLACE + name, "new_value": audit_tree.size(c)})
    c.execute(_START, {"new_name": _HELD + name, "new_value": 0})
    if c.execute(_TAKE, {"wanted": _HELD + name, "now": now, "until": until}).rowcount != 1:
        return None
    return place(c, name)


def move(c: Connection, name: str, *, known: int, moved: int) -> bool:
    """Moves the place forward, if it still is the one that is known."""
    return c.execute(_MOVE, {"wanted": _PLACE + name, "known": known, "moved": moved}).rowcount == 1


def let_go(c: Connection, name: str) -> None:
    """Others may read now."""
    c.execute(update(counters).where(counters.c.name == _HELD + name).values(value=0))


def place(c: Connection, name: str) -> int | None:
    """The next leaf that this follower has not read; None for one that never began."""
    found: int | None = c.execute(_FIND, {"wanted": _PLACE + name}).scalar_one_or_none()
    return found
