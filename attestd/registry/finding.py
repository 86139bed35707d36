"""Finding devices among a million: a page in the order of ids, by any combination of filters, in bounded time.

What a question costs must not depend on how common or rare its answers are, and no planner's guess is trusted with it:
1. Kept counts know when nothing can match.
2. If any filter finds few devices (FEW), those are looked at, and it is known how many match in all.
3. Otherwise every filter is common: ids are read in order, from the filter that has them in order, a window at a time,
   and the other filters look at the window. After LOOKED ids the page ends with what was found; its `after` goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, String, and_, bindparam, func, select

from attestd.ids import DeviceId
from attestd.registry import counts
from attestd.registry.devices import MAX_PAGE, Device
from attestd.registry.devices import page as page_of
from attestd.registry.filters import Clause, Filters
from attestd.registry.states import State
from attestd.registry.tables import device_terms, devices

FEW: Final = 2000  # devices that are looked at one by one
LOOKED: Final = 30_000  # ids that one page reads
_STREAMS: Final = 8  # terms that one word may stand for, to be read in order
LATE: Final = 20_000  # overdue devices whose ids are read: no index has those in order
_TRIED: Final = 2  # clauses of which all ids are counted, and sorted if they are not too many
_CHUNK: Final = 2000
_FIRST_WINDOW: Final = 400


@dataclass(frozen=True, slots=True)
class Page:
    """Devices in the order of their ids. `after`: where the next page begins, if there may be one; this one may hold
    fewer than were asked for even then. `total`: how many match, if that is known exactly."""

    devices: Sequence[Device]
    after: DeviceId | None
    total: int | None


def page(c: Connection, filters: Filters, *, ended_by: int, after: DeviceId | None = None, limit: int = 100) -> Page:
    """`ended_by`: a result that ended by then makes a device overdue. `limit` is at most 1000."""
    limit = min(limit, MAX_PAGE)
    most = counts.matching(c, filters.groups)
    if most == 0:  # 1
        return Page([], None, 0)
    columns = filters.columns(ended_by)
    if filters.counted:
        found = page_of(c, *columns, after=after, limit=limit)
        return Page(found, found[-1].id if len(found) == limit else None, most)
    few = _few(c, filters, most, ended_by)
    if few is not None:  # 2
        return _of_few(c, sorted(few), columns, after, limit, all_fit=filters.by_time_alone)
    streams, others = _streams(c, filters, columns, most)  # 3
    dense = not columns and len(others) == len(filters.clauses)
    return _of_many(c, streams, others, columns, after=after, limit=limit, dense=dense)


# ---- 2. Few -----------------------------------------------------------------------------------------------------


def _few(c: Connection, filters: Filters, most: int, ended_by: int) -> set[str] | None:
    """All devices that every clause finds, and maybe more; None if no filter finds few."""
    for place, clause in enumerate(filters.clauses):
        found = _all_of(c, clause, FEW)
        if found is not None:
            return _narrowed(c, found, [*filters.clauses[:place], *filters.clauses[place + 1 :]])
    found = _few_by_columns(c, filters, most, ended_by)
    return None if found is None else _narrowed(c, found, filters.clauses)


def _few_by_columns(c: Connection, filters: Filters, most: int, ended_by: int) -> set[str] | None:
    group = filters.columns(ended_by) if not (filters.overdue or filters.or_overdue) else []
    if filters.overdue:
        return _ids(c, _late(ended_by), LATE)
    if filters.or_overdue:
        others = [_ids(c, devices.c.state == state.value, LATE) for state in filters.states]
        sets = [*others, _ids(c, _late(ended_by), LATE)]
        if any(each is None for each in sets):
            return None
        return set[str]().union(*(each for each in sets if each is not None))
    return _ids(c, and_(*group)) if most <= FEW and group else None


def _late(ended_by: int) -> ColumnElement[bool]:
    return and_(devices.c.state == State.ACTIVE.value, devices.c.attestation_good_until <= ended_by)


def _ids(c: Connection, condition: ColumnElement[bool], most: int | None = None) -> set[str] | None:
    """The ids, unless there are many."""
    return _unless_many(c, select(devices.c.id).where(condition), most or FEW)


def _unless_many(c: Connection, statement: Select[Any], most: int) -> set[str] | None:
    """What would be read in vain is counted first: the database does that for a tenth."""
    if not _is_at_most(c, statement, most):
        return None
    found = c.execute(statement.limit(most + 1)).scalars().all()
    return None if len(found) > most else set(found)


def _is_at_most(c: Connection, statement: Select[Any], most: int) -> bool:
    counted = select(func.count()).select_from(statement.limit(most + 1).subquery())
    return int(c.execute(counted).scalar_one()) <= most


def _everywhere(clause: Clause) -> list[Select[Any]]:
    """What together finds all ids that the clause finds."""
    found = [select(device_terms.c.device_id.label("id")).where(clause.fits())]
    columns = (devices.c.id, devices.c.site) if clause.anywhere else ()
    return found + [select(devices.c.id.label("id")).where(_begins(column, clause)) for column in columns]


def _all_of(c: Connection, clause: Clause, most: int) -> set[str] | None:
    found: set[str] = set()
    for statement in _everywhere(clause):
        more = _unless_many(c, statement, most)
        if more is None:
            return None
        found |= more
    return found


def _begins(column: ColumnElement[Any], clause: Clause) -> ColumnElement[bool]:
    return and_(column >= clause.first, column < clause.before)


def _narrowed(c: Connection, ids: set[str], clauses: Sequence[Clause]) -> set[str]:
    for clause in clauses:
        ids = {each for chunk in _chunks(sorted(ids)) for each in _among(c, clause, chunk)}
    return ids


def _among(c: Connection, clause: Clause, ids: Sequence[str], *, all_between: bool = False) -> set[str]:
    """Which of these sorted ids the clause finds. `all_between`: all that there are from the first to the last."""
    if not ids:
        return set()

    def are(column: ColumnElement[Any]) -> ColumnElement[bool]:
        return and_(column >= ids[0], column <= ids[-1]) if all_between else _one_of(column, ids)

    device_id = device_terms.c.device_id
    found = set(c.execute(select(device_id).where(are(device_id), clause.fits())).scalars())
    if clause.anywhere:
        found |= {each for each in ids if each.startswith(clause.first)}
        places = select(devices.c.id, devices.c.site).where(are(devices.c.id))
        found |= {row.id for row in c.execute(places) if (row.site or "").startswith(clause.first)}
    return found.intersection(ids)


def _of_few(
    c: Connection,
    ids: Sequence[str],
    columns: list[ColumnElement[bool]],
    after: DeviceId | None,
    limit: int,
    *,
    all_fit: bool,
) -> Page:
    """`all_fit`: the columns say nothing that these ids were not found by."""
    total = len(ids) if all_fit else 0
    for chunk in _chunks([] if all_fit else ids):
        counted = select(func.count()).select_from(devices).where(_one_of(devices.c.id, chunk), *columns)
        total += int(c.execute(counted).scalar_one())
    later = [each for each in ids if after is None or each > after]
    found = _first_of(c, later[:limit] if all_fit else later, columns, limit)
    return Page(found, found[-1].id if len(found) == limit else None, total)


def _first_of(c: Connection, ids: Sequence[str], columns: list[ColumnElement[bool]], limit: int) -> list[Device]:
    found: list[Device] = []
    for chunk in _chunks(ids):
        found += page_of(c, _one_of(devices.c.id, chunk), *columns, limit=limit - len(found))
        if len(found) >= limit:
            break
    return found


# ---- 3. Many ----------------------------------------------------------------------------------------------------


def _of_many(
    c: Connection,
    streams: Sequence[Stream],
    others: Sequence[Clause],
    columns: list[ColumnElement[bool]],
    *,
    after: DeviceId | None,
    limit: int,
    dense: bool,
) -> Page:
    """`dense`: the streams have every device, so that a window of them is a range of ids."""
    found: list[Device] = []
    looked, window, last = 0, max(_FIRST_WINDOW, limit), "" if after is None else str(after)
    while looked < LOOKED:
        ids, more = _window(c, streams, last, window)
        looked += len(ids)
        kept = ids
        for clause in others:
            whole = _among(c, clause, kept, all_between=dense)
            kept = [each for each in kept if each in whole]
        found += _first_of(c, kept, columns, limit - len(found))
        if len(found) >= limit:
            return Page(found, found[-1].id, None)
        if not more:
            return Page(found, None, None)
        last, window = ids[-1], min(2 * window, LOOKED // 4)
    return Page(found, DeviceId(last), None)


def _streams(
    c: Connection, filters: Filters, columns: list[ColumnElement[bool]], most: int
) -> tuple[list[Stream], list[Clause]]:
    """What together has all that one of the filters finds, each in order; and the clauses that are left to look at.

    The rarer, the better: the columns where counts say so, a clause whose ids can be sorted, one that stands for few
    terms.
    """
    by_columns: list[Stream] = [_Asked(select(devices.c.id.label("id")).where(*columns))]
    if most <= LOOKED:
        return by_columns, list(filters.clauses)
    if len(filters.clauses) > 1:
        for clause in filters.clauses[-_TRIED:]:
            statements = _everywhere(clause)
            if all(_is_at_most(c, statement, LOOKED) for statement in statements):
                rest = [other for other in filters.clauses if other is not clause]
                return [_Sorted(statement) for statement in statements], rest
    for clause in filters.clauses:
        if (streams := _streams_of(c, clause)) is not None:
            return streams, [other for other in filters.clauses if other is not clause]
    return by_columns, list(filters.clauses)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Ids that an index has in order."""

    statement: Select[Any]

    def next(self, c: Connection, last: str, size: int) -> Sequence[str]:
        column = self.statement.selected_columns[0].element
        return c.execute(self.statement.where(column > last).order_by(column).limit(size)).scalars().all()


@dataclass(frozen=True, slots=True)
class _Sorted:
    """At most LOOKED ids, which the database reads all and sorts, for each window anew. That is still less than to
    carry them all here; and the inner limit keeps it from walking through all devices in order instead."""

    statement: Select[Any]

    def next(self, c: Connection, last: str, size: int) -> Sequence[str]:
        column = self.statement.selected_columns[0].element
        some = self.statement.where(column > last).limit(LOOKED + 1).subquery()
        return c.execute(select(some.c.id).order_by(some.c.id).limit(size)).scalars().all()


Stream = _Asked | _Sorted


def _streams_of(c: Connection, clause: Clause) -> list[Stream] | None:
    t = device_terms.c
    pairs: list[tuple[str, str]] = []
    step = select(t.term, t.kind).where(clause.fits()).order_by(t.term, t.kind).limit(1)
    if clause.exact and clause.kinds is not None:
        pairs = [(clause.first, kind) for kind in clause.kinds]
    while not clause.exact:  # from one term to the next, past all of its devices
        row = c.execute(step).one_or_none() if not pairs else _after(c, step, *pairs[-1])
        if row is None:
            break
        pairs.append((row.term, row.kind))
        if len(pairs) > _STREAMS:
            return None
    found = [select(t.device_id.label("id")).where(t.term == term, t.kind == kind) for term, kind in pairs]
    if clause.anywhere:
        sites = counts.sites(c, first=clause.first, before=clause.before, limit=_STREAMS + 1)
        if len(sites) > _STREAMS:
            return None
        found += [select(devices.c.id.label("id")).where(devices.c.site == site) for site in sites]
        found.append(select(devices.c.id.label("id")).where(_begins(devices.c.id, clause)))
    return [_Asked(statement) for statement in found]


def _after(c: Connection, step: Select[Any], term: str, kind: str) -> Any:
    """The next kind of this term, or the next term: one condition for both would read all devices of this one."""
    t = device_terms.c
    row = c.execute(step.where(t.term == term, t.kind > kind)).one_or_none()
    return row or c.execute(step.where(t.term > term)).one_or_none()


def _window(c: Connection, streams: Sequence[Stream], last: str, size: int) -> tuple[list[str], bool]:
    """The next ids, and whether there are more."""
    ids: set[str] = set()
    ends: list[str] = []
    for stream in streams:
        some = stream.next(c, last, size)
        ids.update(some)
        if len(some) == size:
            ends.append(some[-1])
    if not ends:
        return sorted(ids), False
    return sorted(each for each in ids if each <= min(ends)), True


def _one_of(column: ColumnElement[Any], ids: Sequence[str]) -> ColumnElement[bool]:
    """Ids that the database gave, written out: thousands of parameters take a driver longer than the question does."""
    return column.in_(bindparam("ids", list(ids), expanding=True, literal_execute=True, type_=String()))


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]
