"""Every boundary of the fleet: from where to where, what crossed and what was refused there, and who guards it.

Figures are the edges' own reports, by the hour; from where to where, they tell, too. A boundary is one where name,
place and both ends agree: two edges of a site that guard the same way are one. The worst come first, and of a large
fleet the rest is summed up, so that an answer stays small however many sites there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from attestd.ids import Site
from attestd.operations.edges import EdgeBook, Standing, State
from attestd.registry import edges
from attestd.registry.edges import HOUR

MAX_WINDOW: Final = timedelta(days=31)
MAX_NAMED: Final = 20  # edges that are named at one boundary
MAX_EDGES: Final = 100  # edges that are shown, those that do not stand well first
MAX_SITES: Final = 1000  # names of sites that one can choose from
_WORST: Final = (State.SILENT, State.BEHIND, State.NEVER, State.CURRENT, State.DISABLED)
_Ends = tuple[str, str, str]  # name, the edges' site, both ends as they were told


@dataclass(slots=True)
class Crossed:
    """One boundary. `said` is what its edges tell of it (guarded.py), None where none does. `stale_for`: seconds since
    its edges noticed that nothing is heard, the longest; None where none says."""

    name: str
    site: Site
    said: Mapping[str, Any] | None
    allowed: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    stale_for: int | None = None
    guards: list[str] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)

    @property
    def weight(self) -> float:
        """How much it wants to be looked at: refusals, by their share. One refusal of one is less than 90 of 100."""
        refused = self.refused.total()
        return refused * refused / (refused + self.allowed) if refused else 0.0


@dataclass(frozen=True, slots=True)
class Sums:
    """Boundaries that are not shown one by one."""

    boundaries: int
    sites: int
    allowed: int
    refused: int


@dataclass(frozen=True, slots=True)
class Way:
    """All boundaries from one tier to another; None where edges do not tell."""

    start: str | None
    end: str | None
    boundaries: int
    allowed: int
    refused: int


@dataclass(frozen=True, slots=True)
class Picture:
    """All boundaries since a moment (unix seconds, the beginning of an hour): the worst one by one, and the rest."""

    since: int
    shown: Sequence[Crossed]
    others: Sums
    all: Sums
    ways: Sequence[Way]
    edges: Sequence[Standing]
    states: Mapping[str, int]  # how many edges stand how
    sites: Sequence[str]


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Draws the picture. One object serves any number of requests."""

    book: EdgeBook

    def picture(self, *, site: Site | None, window: timedelta, limit: int, now: datetime) -> Picture:
        """Raises the registry's errors."""
        since = int((now - window).timestamp()) // HOUR * HOUR
        with self.book.registry.reading() as c:
            standings = self.book.standings(c, now)
            sums = edges.all_sums(c, since=since, site=site)
        sites = sorted({str(each.proxy.site) for each in standings})[:MAX_SITES]
        here = [each for each in standings if site is None or each.proxy.site == site]
        found = sorted(_boundaries(here, sums), key=lambda each: (-each.weight, -_total(each), each.name, each.site))
        return Picture(
            since=since,
            shown=found[:limit],
            others=_sums(found[limit:]),
            all=_sums(found),
            ways=_ways(found),
            edges=sorted(here, key=lambda each: (_WORST.index(each.state), each.proxy.name))[:MAX_EDGES],
            states=Counter(each.state.value for each in here),
            sites=sites,
        )


def _boundaries(standings: Iterable[Standing], sums: Mapping[tuple[str, str, str], int]) -> list[Crossed]:
    counted: dict[str, dict[str, dict[str, int]]] = {}
    for (edge, boundary, reason), count in sums.items():
        counted.setdefault(edge, {}).setdefault(boundary, {})[reason] = count
    found: dict[_Ends, Crossed] = {}
    for each in standings:
        edge, told = each.proxy.name, each.told
        said = {} if told is None else dict(told.boundaries or {})
        stale = {} if told is None else dict(told.stale_for or {})
        here = counted.get(edge, {})
        alive = each.state is not State.DISABLED
        # What a disabled edge guarded is history; what it counted in this time still is not.
        for name in sorted({*here, *(said if alive else ()), *(stale if alive else ())}):
            ends = said.get(name)
            key = name, str(each.proxy.site), repr(ends)
            one = found.setdefault(key, Crossed(name, each.proxy.site, ends))
            one.allowed += here.get(name, {}).get("", 0)
            one.refused.update({reason: count for reason, count in here.get(name, {}).items() if reason})
            one.guards.append(edge)
            one.states[each.state.value] += 1
            if name in stale:
                one.stale_for = max(one.stale_for or 0, stale[name])
    return list(found.values())


def _total(each: Crossed) -> int:
    return each.allowed + each.refused.total()


def _ways(found: Sequence[Crossed]) -> list[Way]:
    by_tiers: dict[tuple[str | None, str | None], list[Crossed]] = {}
    for each in found:
        said = each.said
        tiers = (None, None) if said is None else (said["from"]["tier"], said["to"]["tier"])
        by_tiers.setdefault(tiers, []).append(each)
    return [
        Way(start, end, sums.boundaries, sums.allowed, sums.refused)
        for (start, end), sums in ((tiers, _sums(of)) for tiers, of in by_tiers.items())
    ]


def _sums(found: Sequence[Crossed]) -> Sums:
    return Sums(
        len(found),
        len({each.site for each in found}),
        sum(each.allowed for each in found),
        sum(each.refused.total() for each in found),
    )
