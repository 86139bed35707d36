"""The edge's time, which never runs backwards (docs/protocol.md, section 5: edges keep a time floor on disk).

A clock that is set back would make a stale bundle fresh again and an expired certificate valid. Within a process the
time is at least what it was, plus what the monotonic clock has counted since; across restarts it is at least the floor
that `store` kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta


class EdgeClock:
    """`wall` gives the system's time (aware), `monotonic` seconds that only grow, `floor` the latest time known."""

    def __init__(self, wall: Callable[[], datetime], monotonic: Callable[[], float], floor: datetime) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._latest = floor
        self._counted = monotonic()

    def now(self) -> datetime:
        """The system's time, but never before what has passed here."""
        with self._lock:
            wall, counted = self._wall(), self._monotonic()
            passed = counted - self._counted
            least = self._latest + timedelta(seconds=passed) if passed > 0 else self._latest
            self._counted = counted
            self._latest = latest = max(wall, least)
            return latest

    def ahead(self) -> timedelta:
        """By how much the system's clock is behind: zero when it can be believed."""
        return max(timedelta(0), self.now() - self._wall())

    def raise_to(self, floor: datetime) -> None:
        """Learns of a later time, such as another process's floor."""
        with self._lock:
            self._latest = max(self._latest, floor)
