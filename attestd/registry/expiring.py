"""What will end: told when a month is left, and when three days are, each once. Times are unix seconds.

What lives shortly is told when a third of its life is left: an edge proxy's day is renewed at its half. Up to when this
was looked at stands in a counter; of several services on one database, one moves it and tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, select, update

from attestd.protocol.encoding import read_object
from attestd.registry import audit, references, revision
from attestd.registry.overdue import ACTOR
from attestd.registry.tables import counters, issued, proxies

_DAY: Final = 86_400
_DAYS: Final = (3, 30)
EVERY: Final = 3600  # seconds between two looks: what is read for it is large
_LEARN: Final = "learn"  # a draft ends unnoticed


@dataclass(frozen=True, slots=True)
class Ending:
    """Something with an end. `begins` is 0 where nobody says when it began."""

    what: str
    name: str
    begins: int
    ends: int

    def due(self, days: int) -> int:
        """When so many days are left, or a third of its life."""
        return self.ends - min(days * _DAY, (self.ends - self.begins) // 3)


def told_by(c: Connection) -> int:
    """Up to when endings were told; 0 before the first time."""
    return int(c.execute(select(counters.c.value).where(counters.c.name == revision.EXPIRING_TOLD)).scalar_one())


def tell(c: Connection, endings: Iterable[Ending], *, since: int, now: int) -> list[Ending]:
    """Those that came due after `since`, each with its row in the audit trail; none if another service told them.

    The first time (0) all are told that are due and have not ended.
    """
    moved = update(counters).where(counters.c.name == revision.EXPIRING_TOLD, counters.c.value == since)
    if c.execute(moved.values(value=now)).rowcount != 1:
        return []
    found = []
    for each in endings:
        days = next((days for days in _DAYS if since < each.due(days) <= now and (since or now < each.ends)), None)
        if days is None:
            continue
        found.append(each)
        audit.append(
            c,
            at=now,
            actor=ACTOR,
            act="expiring",
            subject=each.name,
            request_id=None,
            detail={"what": each.what, "ends": each.ends, "left": each.ends - now, "threshold_days": days},
        )
    return found


def manifests(c: Connection, *, now: int) -> list[Ending]:
    """Reference manifests with an end; those that another version replaces end without a word."""
    found = []
    for each in references.in_force(c, now=now):
        if each.until is None and each.stage != _LEARN:
            said = read_object(each.document, limit=references.MAX_DOCUMENT, name="manifest")
            if isinstance(ends := said.get("not_after"), int):
                found.append(Ending("reference manifest", each.name, int(said.get("not_before") or 0), ends))
    return found


def of_proxies(c: Connection) -> list[Ending]:
    """The certificates that proxies hold now, of those that are not disabled."""
    wanted = (
        select(proxies.c.name, issued.c.not_before, issued.c.not_after)
        .select_from(proxies.join(issued, issued.c.serial == proxies.c.serial))
        .where(proxies.c.disabled_at.is_(None))
    )
    return [Ending("edge proxy", row.name, row.not_before, row.not_after) for row in c.execute(wanted)]
