"""What edge proxies tell of themselves: the last report of each, and their decisions by hour. Times are unix seconds.

A report counts once: an edge's row remembers, for each ledger that numbers reports, the highest number that came. Who
changes an edge's row holds it first, so that of two reports at once the second sees the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, insert, literal_column, select, update
from sqlalchemy.exc import IntegrityError

from attestd.errors import Conflict
from attestd.registry import audit, overdue
from attestd.registry.engine import is_unique_violation
from attestd.registry.tables import edge_counts, edge_reports, proxies, told

HOUR: Final = 3600
MAX_ROWS: Final = 4096  # sums of one edge in one hour; what is beyond them is counted as OTHER
# Beyond these nothing more is added: no liar makes a number that a database or a reader of JSON can't hold.
MAX_SUM: Final = 10**11  # in one hour, for one reason
MAX_TOTAL: Final = (1 << 53) - 1
OTHER: Final = "other"
_SILENT: Final = "silent"
_AWAY: Final = (
    180  # seconds without a round of the watch: then nobody looked, and edges may have had nobody to report to
)

Counts = Mapping[tuple[str, str], int]  # by boundary and reason; an empty reason: allowed


class ReportedElsewhere(Conflict):
    """Another first report of this edge was faster"""

    remedy = "Send the report again."


@dataclass(frozen=True, slots=True)
class StoredEdge:
    """One edge, as its last report told. `bundle`: epoch and version. `ledgers`: names and highest numbers, the one
    that was used last at the end. `missed`: reports that never came. `silent_since`: when it was told as silent.
    `boundaries`: what it guards, by name; None where it never said."""

    edge: str
    heard_at: int
    epoch: int | None = None
    version: int | None = None
    issued_at: int | None = None
    receipts_waiting: int = 0
    stale_for: Mapping[str, int] | None = None
    ledgers: Sequence[Sequence[Any]] = ()
    reports: int = 0
    missed: int = 0
    allowed: int = 0
    refused: int = 0
    silent_since: int | None = None
    boundaries: Mapping[str, Any] | None = None

    @property
    def bundle(self) -> tuple[int, int] | None:
        return None if self.epoch is None or self.version is None else (self.epoch, self.version)


@dataclass(frozen=True, slots=True)
class HourSum:
    """Decisions at one boundary in one hour, which is named by its first second."""

    at: int
    boundary: str
    allowed: int
    refused: int


def every(c: Connection) -> dict[str, StoredEdge]:
    """All edges that ever reported, by their names."""
    return {row.edge: _edge_of(row) for row in c.execute(select(edge_reports))}


def heard(c: Connection) -> tuple[int, int]:
    """How many reports came of all edges, and when the last one did: other numbers mean that something was reported."""
    row = c.execute(select(func.sum(edge_reports.c.reports), func.max(edge_reports.c.heard_at))).one()
    return int(row[0] or 0), int(row[1] or 0)


def known(c: Connection, name: str) -> StoredEdge | None:
    """One edge; None if it never reported."""
    row = c.execute(select(edge_reports).where(edge_reports.c.edge == name)).one_or_none()
    return None if row is None else _edge_of(row)


def hold(c: Connection, name: str, *, now: int) -> StoredEdge:
    """The edge's row, which is this transaction's until its end; made if there is none. Raises ReportedElsewhere."""
    held = update(edge_reports).where(edge_reports.c.edge == name).values(reports=edge_reports.c.reports)
    row = c.execute(held.returning(edge_reports)).one_or_none()
    if row is not None:
        return _edge_of(row)
    new = StoredEdge(name, now)
    try:
        c.execute(insert(edge_reports).values(_values(new)))
    except IntegrityError as error:
        if is_unique_violation(error):
            raise ReportedElsewhere(seen=name) from None
        raise
    return new


def keep(c: Connection, edge: StoredEdge) -> None:
    """After `hold`, in the same transaction."""
    c.execute(update(edge_reports).where(edge_reports.c.edge == edge.edge).values(_values(edge)))


def add(c: Connection, name: str, *, at: int, counts: Counts) -> None:
    """Adds to the sums of the hour that `at` is in. After `hold`, in the same transaction."""
    hour = at // HOUR * HOUR
    of_hour = edge_counts.c.edge == name, edge_counts.c.hour == hour
    stored = {(row.boundary, row.reason): row.count for row in c.execute(select(edge_counts).where(*of_hour))}
    sums = dict(stored)
    for (boundary, reason), count in counts.items():
        place = boundary, reason
        if place not in sums and len(sums) >= MAX_ROWS:
            place = OTHER, OTHER if reason else ""
        sums[place] = min(sums.get(place, 0) + count, MAX_SUM)
    for place in sorted(set(sums) - set(stored)):
        values = {"edge": name, "hour": hour, "boundary": place[0], "reason": place[1], "count": sums[place]}
        c.execute(insert(edge_counts).values(values))
    for place, before in stored.items():
        if sums[place] != before:
            this = edge_counts.c.boundary == place[0], edge_counts.c.reason == place[1]
            c.execute(update(edge_counts).where(*of_hour, *this).values(count=sums[place]))


def sums(c: Connection, name: str, *, since: int) -> dict[tuple[str, str], int]:
    """Decisions from that hour on, by boundary and reason."""
    n = edge_counts.c
    statement = (
        select(n.boundary, n.reason, func.sum(n.count).label("sum"))
        .where(n.edge == name, n.hour >= since // HOUR * HOUR)
        .group_by(n.boundary, n.reason)
    )
    return {(row.boundary, row.reason): int(row.sum) for row in c.execute(statement)}


def all_sums(c: Connection, *, since: int, site: str | None = None) -> dict[tuple[str, str, str], int]:
    """Decisions of every edge (at this site) from that hour on, by edge, boundary and reason."""
    n = edge_counts.c
    statement = (
        select(n.edge, n.boundary, n.reason, func.sum(n.count).label("sum"))
        .where(n.hour >= since // HOUR * HOUR)
        .group_by(n.edge, n.boundary, n.reason)
    )
    if site is not None:
        statement = statement.where(n.edge.in_(select(proxies.c.name).where(proxies.c.site == site)))
    return {(row.edge, row.boundary, row.reason): int(row.sum) for row in c.execute(statement)}


def hours(c: Connection, name: str, *, since: int, limit: int) -> list[HourSum]:
    """The same by hour and boundary, the newest hours first, at most `limit`."""
    n = edge_counts.c
    allowed = n.reason == literal_column("''")  # not a parameter: PostgreSQL takes two of them for two expressions
    statement = (
        select(n.hour, n.boundary, allowed.label("allowed"), func.sum(n.count).label("sum"))
        .where(n.edge == name, n.hour >= since // HOUR * HOUR)
        .group_by(n.hour, n.boundary, allowed)
        .order_by(n.hour.desc(), n.boundary)
        .limit(2 * limit)
    )
    found: dict[tuple[int, str], list[int]] = {}
    for row in c.execute(statement):
        pair = found.setdefault((row.hour, row.boundary), [0, 0])
        pair[0 if row.allowed else 1] += int(row.sum)
    return [HourSum(at, boundary, *pair) for (at, boundary), pair in list(found.items())[:limit]]


def purge(c: Connection, *, before: int, limit: int) -> int:
    """Forgets sums of hours before this time, at most `limit`; returns how many went. What was counted in all stays."""
    n = edge_counts.c
    old = select(n.edge, n.hour, n.boundary, n.reason).where(n.hour < before // HOUR * HOUR).limit(limit)
    rows = c.execute(old.with_for_update(skip_locked=True)).all()
    for row in rows:
        this = n.edge == row.edge, n.hour == row.hour, n.boundary == row.boundary, n.reason == row.reason
        c.execute(delete(edge_counts).where(*this))
    return len(rows)


# ---- Silence ----------------------------------------------------------------------------------------------------


def tell_silent(c: Connection, *, silent_after: int, now: int, limit: int) -> list[str]:
    """Edges that were not heard for so many seconds, at most `limit`, each told once in the audit trail until it is
    heard again. Those that were disabled, and those that never reported, are not told.

    While no service watched, edges may have had none to report to: each gets its time anew after that.
    """
    held = update(told).where(told.c.name == _SILENT).values(until=told.c.until)
    since = int(c.execute(held.returning(told.c.until)).scalar_one())
    if now - overdue.watched_at(c) > _AWAY:
        since = now
        c.execute(update(told).where(told.c.name == _SILENT).values(until=now))
    if now - since < silent_after:
        return []
    e = edge_reports.c
    wanted = (
        select(e.edge, e.heard_at, proxies.c.site)
        .join(proxies, proxies.c.name == e.edge)
        .where(e.silent_since.is_(None), e.heard_at <= now - silent_after, proxies.c.disabled_at.is_(None))
        .order_by(e.heard_at)
        .limit(limit)
    )
    found = c.execute(wanted).all()
    for row in found:
        # Only if it was not heard meanwhile.
        silent = e.edge == row.edge, e.heard_at == row.heard_at, e.silent_since.is_(None)
        if c.execute(update(edge_reports).where(*silent).values(silent_since=now)).rowcount == 1:
            detail = {"site": row.site, "heard_at": row.heard_at}
            audit.append(
                c, at=now, actor=overdue.ACTOR, act="edge-silent", subject=row.edge, request_id=None, detail=detail
            )
    return [row.edge for row in found]


def _values(edge: StoredEdge) -> dict[str, Any]:
    values = {name: getattr(edge, name) for name in edge_reports.c.keys()}  # noqa: SIM118 - columns, not names
    return values | {
        "stale_for": dict(edge.stale_for or {}),
        "ledgers": [list(each) for each in edge.ledgers],
        "boundaries": None if edge.boundaries is None else dict(edge.boundaries),
    }


def _edge_of(row: Row[Any]) -> StoredEdge:
    return StoredEdge(**row._mapping)
