"""What just happened, for those who watch: the audit trail's new rows, told by topics and devices.

Every change leaves its row in the transaction that makes it, attestations included, so the trail is all there is to
look at; but for edges' reports, which are no acts, and of which only that some came is told. Rows come in the order of
their numbers, but where transactions run side by side a lower number may be committed after a higher one: numbers that
were skipped are looked for again for a while.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from attestd.ids import DeviceId, MalformedName
from attestd.operations.topics import EDGES, EVERY, Concerns, topics_of
from attestd.registry import audit, edges
from attestd.registry.audit import Glimpse
from attestd.registry.engine import Registry

MAX_DEVICES: Final = 50  # named in one piece of news; of more, nobody would look at each
_MAX_ROWS: Final = 1000  # of one look; where more came, everything may be different
_KEPT: Final = 64  # looks that found something; who stands further back hears that everything may be different
_LATE: Final = 30.0  # seconds in which a skipped number may still be committed
_MAX_LATE: Final = 500
_REPORTS: Final = 3.0  # seconds between two looks at edges' reports
_OVERLAP: Final = 2  # seconds: a row's time is the one at which its request came, and clocks differ a little


@dataclass(frozen=True, slots=True)
class News:
    """What is different. `devices` are all that are concerned; None if they are many, or some are not known."""

    number: int
    topics: frozenset[str]
    devices: frozenset[DeviceId] | None

    def to_members(self) -> dict[str, Any]:
        """As it travels."""
        named = None if self.devices is None else sorted(self.devices)
        return {"audit": self.number, "topics": sorted(self.topics), "devices": named}

    def and_then(self, later: News) -> News:
        """Both as one."""
        devices = None if self.devices is None or later.devices is None else _few(self.devices | later.devices)
        return News(max(self.number, later.number), self.topics | later.topics, devices)


class Newsroom:
    """One process's eye on the trail. Safe from several threads."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._seen: int | None = None  # the highest number
        self._late: dict[int, float] = {}  # skipped numbers, and until when they are looked for
        self._heard = (0, 0)  # of edges
        self._heard_at = 0.0
        self._place = 0
        self._kept: deque[News] = deque(maxlen=_KEPT)  # the last one leads to `_place`

    def look(self) -> int:
        """The place of who has heard everything that happened until now. Raises the registry's errors."""
        with self._lock:
            if self._seen is None:
                with self._registry.reading() as c:
                    self._seen, self._heard = audit.last_number(c), edges.heard(c)
                self._heard_at = time.monotonic()
                return self._place
            now = time.monotonic()
            self._late = {number: until for number, until in self._late.items() if until > now}
            with self._registry.reading() as c:
                rows = audit.glimpses(c, after=self._seen, among=list(self._late), limit=_MAX_ROWS + 1)
                last = audit.last_number(c) if len(rows) > _MAX_ROWS else 0
                heard = edges.heard(c) if now - self._heard_at >= _REPORTS else None
            if rows:
                self._take(rows, last, until=now + _LATE)
            if heard is not None:
                self._hear(heard, now)
            return self._place

    def since(self, place: int) -> tuple[int, News]:
        """What leads from that place to the last one. `look` gave both."""
        with self._lock:
            missed = self._place - place
            if not 0 <= missed <= len(self._kept):
                return self._place, News(self._seen or 0, EVERY, None)
            found = News(self._seen or 0, frozenset(), frozenset())
            for position in range(len(self._kept) - missed, len(self._kept)):
                found = found.and_then(self._kept[position])
            return self._place, found

    def recent(self, since: int) -> News | None:
        """What happened since then (unix seconds) and is committed; None if nothing did. Raises the registry's
        errors."""
        with self._registry.reading() as c:
            rows = audit.glimpses(c, limit=_MAX_ROWS)
        recent = [row for row in rows if row.at >= since - _OVERLAP]
        if not recent:
            return None
        number = max(row.number for row in rows)
        return News(number, EVERY, None) if len(recent) == len(rows) == _MAX_ROWS else _of(recent)

    def _take(self, rows: list[Glimpse], last: int, *, until: float) -> None:
        assert self._seen is not None  # noqa: S101 - the first look saw to it
        if last:
            news = News(last, EVERY, None)
            self._late = {}
        else:
            news = _of(rows)
            numbers = {row.number for row in rows}
            for number in numbers:
                self._late.pop(number, None)
            skipped = [n for n in range(self._seen + 1, news.number) if n not in numbers]
            self._late.update(dict.fromkeys(skipped[-_MAX_LATE:], until))
        self._seen = max(self._seen, news.number)
        self._keep(news)

    def _hear(self, heard: tuple[int, int], now: float) -> None:
        """Edges reported: which devices that concerns, nobody asks."""
        self._heard_at = now
        if heard != self._heard:
            self._heard = heard
            self._keep(News(self._seen or 0, frozenset({EDGES}), frozenset()))

    def _keep(self, news: News) -> None:
        self._place += 1
        self._kept.append(news)


def _of(rows: Iterable[Glimpse]) -> News:
    number, topics, devices = 0, set[str](), set[DeviceId]()
    known = True
    for row in rows:
        number = max(number, row.number)
        concerns, about = topics_of(row.act)
        topics |= about
        if concerns is Concerns.NOBODY:
            continue
        try:
            devices.add(DeviceId(row.subject if concerns is Concerns.ITS_SUBJECT else ""))
        except MalformedName:
            known = False
    return News(number, frozenset(topics), _few(frozenset(devices)) if known else None)


def _few(devices: frozenset[DeviceId]) -> frozenset[DeviceId] | None:
    return devices if len(devices) <= MAX_DEVICES else None
