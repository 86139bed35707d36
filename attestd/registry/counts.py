"""How many devices there are of each tier, site, state and result: exact at every moment, and never counted anew.

Triggers of the database write a row for every device that comes into such a group or leaves it, in the transaction that
changes the device (docs/adr/0046): nobody waits for a shared counter, and no act can forget it. An attestation that
finds what was found before moves nothing and writes nothing. `fold` adds the rows up; a reader sums both tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Delete,
    Insert,
    Select,
    Subquery,
    Update,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    union_all,
    update,
)

from attestd.errors import Misconfigured
from attestd.registry.states import State
from attestd.registry.tables import devices, fleet_changes, fleet_counts, told

NONE: Final = "none"  # the status of a device without a result that counts
BATCH: Final = 5000  # changes that one act adds up
_SITES: Final = 500  # asked for by one statement
_NAMES: Final = ("tier", "site", "state", "result_status")
_TURN: Final = "counted"
Key = tuple[str, str, str, str]  # tier, site, state, result


class CountsDiffer(Misconfigured):
    """The kept counts are not what the devices are"""

    remedy = "`attestd doctor --recount` makes up for it. Somebody changed rows past the service, or it is a defect."


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that have all of this in common; a device that was never approved has no tier: empty."""

    tier: str
    state: State
    status: str
    count: int


def groups(c: Connection) -> list[Group]:
    """All groups that have devices, whatever their sites."""
    kept = _kept()
    names = [kept.c[name] for name in ("tier", "state", "result_status")]
    total = func.sum(kept.c.count)
    rows = c.execute(select(*names, total).group_by(*names).having(total != 0))
    return [Group(str(row[0]), State(row[1]), str(row[2]), int(row[3])) for row in rows]


def count_sites(c: Connection) -> int:
    """How many sites have devices: those of the kept counts, but that sites which changed since are added up anew."""
    changed = select(fleet_changes.c.site).where(fleet_changes.c.site != "").distinct()
    settled = and_(fleet_counts.c.site != "", fleet_counts.c["count"] > 0, fleet_counts.c.site.not_in(changed))
    found = select(func.count()).select_from(select(fleet_counts.c.site).where(settled).distinct().subquery())
    kept = _kept()
    moved = select(kept.c.site).where(kept.c.site.in_(changed)).group_by(kept.c.site).having(func.sum(kept.c.count) > 0)
    return int(
        c.execute(
            select(found.scalar_subquery() + select(func.count()).select_from(moved.subquery()).scalar_subquery())
        ).scalar_one()
    )


def by_state(c: Connection) -> dict[State, int]:
    """How many devices are in each state; all states are named."""
    kept = _kept()
    counted = c.execute(select(kept.c.state, func.sum(kept.c.count)).group_by(kept.c.state))
    return dict.fromkeys(State, 0) | {State(state): int(count) for state, count in counted}


def matching(c: Connection, wanted: Mapping[str, Sequence[str]]) -> int:
    """How many devices have one of the named values in each named column (tier, site, state, result_status)."""
    kept = _kept()
    conditions = [kept.c[name].in_(list(values)) for name, values in wanted.items()]
    return int(c.execute(select(func.sum(kept.c.count)).where(*conditions)).scalar_one() or 0)


def sites(c: Connection, *, first: str, before: str, limit: int) -> list[str]:
    """Sites that have devices, from `first` on and before `before`, in order."""
    kept = _kept()
    site, total = kept.c.site, func.sum(kept.c.count)
    wanted = select(site).where(site >= first, site < before).group_by(site).having(total > 0)
    return list(c.execute(wanted.order_by(site).limit(limit)).scalars())


def _kept() -> Subquery:
    columns, changes = fleet_counts.c, fleet_changes.c
    return union_all(
        select(*(columns[name] for name in _NAMES), columns["count"]),
        select(*(changes[name] for name in _NAMES), changes.delta),
    ).subquery("kept")


# ---- Keeping ----------------------------------------------------------------------------------------------------


def fold(c: Connection, *, limit: int = BATCH) -> int:
    """Adds up the first changes; returns how many. Of several services on one database the next waits its turn."""
    _take_turn(c)
    first = select(fleet_changes.c.number).order_by(fleet_changes.c.number).limit(limit)
    gone = delete(fleet_changes).where(fleet_changes.c.number.in_(first)).returning(fleet_changes)
    taken = c.execute(gone).all()
    sums: dict[Key, int] = defaultdict(int)
    for row in taken:
        sums[row.tier, row.site, row.state, row.result_status] += row.delta
    moved = {group: delta for group, delta in sums.items() if delta}
    known = _known(c, sorted({site for _, site, _, _ in moved}))
    new = {group: known.get(group, 0) + delta for group, delta in moved.items()}
    _write(c, _CHANGE, [_named(group, new=count) for group, count in new.items() if count and group in known])
    _write(c, delete(fleet_counts).where(_IS), [_named(group) for group, count in new.items() if not count])
    fresh = {group: count for group, count in new.items() if count and group not in known}
    _write(
        c, insert(fleet_counts), [{**dict(zip(_NAMES, group, strict=True)), "count": n} for group, n in fresh.items()]
    )
    return len(taken)


_IS = and_(*(fleet_counts.c[name] == bindparam(f"is_{name}") for name in _NAMES))
_CHANGE = update(fleet_counts).where(_IS).values(count=bindparam("new"))


def _named(group: Key, **values: int) -> dict[str, Any]:
    return {**{f"is_{name}": value for name, value in zip(_NAMES, group, strict=True)}, **values}


def _write(c: Connection, statement: Insert | Update | Delete, rows: list[dict[str, Any]]) -> None:
    if rows:
        c.execute(statement, rows)


def _known(c: Connection, sites: Sequence[str]) -> dict[Key, int]:
    """The counts at these sites, as they were added up."""
    found: dict[Key, int] = {}
    for start in range(0, len(sites), _SITES):
        wanted = select(fleet_counts).where(fleet_counts.c.site.in_(sites[start : start + _SITES]))
        for tier, site, state, status, count in c.execute(wanted):
            found[tier, site, state, status] = count
    return found


def differences(c: Connection) -> dict[Key, tuple[int, int]]:
    """Where the counts are not what a count of all devices says now: (kept, counted) by group. Reads every device."""
    kept = _sums(c)
    rows: Any = c.execute(_counting())
    counted = {_group(row): int(row[4]) for row in rows}
    return {
        group: (kept.get(group, 0), counted.get(group, 0))
        for group in sorted(kept.keys() | counted.keys())
        if kept.get(group, 0) != counted.get(group, 0)
    }


def _sums(c: Connection) -> dict[Key, int]:
    kept = _kept()
    names = [kept.c[name] for name in _NAMES]
    rows: Any = c.execute(select(*names, func.sum(kept.c.count)).group_by(*names))
    return {_group(row): int(row[4]) for row in rows if row[4]}


def _group(row: Any) -> Key:
    tier, site, state, status, _ = row
    return tier, site, state, status


def mend(c: Connection, found: Mapping[Key, tuple[int, int]]) -> None:
    """Makes up for `differences` that were seen at one moment, whatever happened since."""
    rows = [
        {**dict(zip(_NAMES, group, strict=True)), "delta": counted - kept} for group, (kept, counted) in found.items()
    ]
    if rows:
        c.execute(insert(fleet_changes), rows)


def _counting() -> Select[Any]:
    d = devices.c
    group = (func.coalesce(d.tier, ""), func.coalesce(d.site, ""), d.state, func.coalesce(d.result_status, NONE))
    named = [column.label(name) for column, name in zip(group, _NAMES, strict=True)]
    inner = select(*named).subquery("each")  # so that the groups are named columns, not expressions with parameters
    columns = [inner.c[name] for name in _NAMES]
    return select(*columns, func.count()).group_by(*columns)


def _take_turn(c: Connection) -> None:
    c.execute(update(told).where(told.c.name == _TURN).values(until=told.c.until + 1))
