"""What the front tells of its work: counters for /metrics, and a line in the log while requests are refused.

A line for each refused request would help whoever floods the service to fill its disk as well.
"""

from __future__ import annotations

import logging
import time
from collections import Counter as Tally
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from attestd.web.admission import Told, Work

_log = logging.getLogger("attestd.web.front")
_LINE_EVERY: Final = 10.0  # seconds
_BUCKETS: Final = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Pressure:
    """One process's counts. /metrics adds up the processes'."""

    def __init__(self, registry: CollectorRegistry | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        registry = registry or CollectorRegistry()
        refused = Counter(
            "attestd_refused_total",
            "Requests refused before the application, by class of work and reason.",
            ("work", "reason"),
            registry=registry,
        )
        waiting = Gauge(
            "attestd_queue_length",
            "Requests that wait for a thread.",
            ("work",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        waited = Histogram(
            "attestd_queue_wait_seconds",
            "How long requests waited that had to, and got a thread.",
            ("work",),
            registry=registry,
            buckets=_BUCKETS,
        )
        self._closed = Counter(
            "attestd_connections_closed_total",
            "Connections ended because their source held too many.",
            registry=registry,
        )
        self._refused = refused
        self._waiting = {work: waiting.labels(work.value) for work in Work}
        self._waited = {work: waited.labels(work.value) for work in Work}
        self._clock = clock
        self._tally: Tally[str] = Tally()
        self._said_at = clock()

    @property
    def told(self) -> Told:
        """For the front."""
        return Told(self.refused, self._told_wait, self._told_length)

    def refused(self, work: Work, reason: str) -> None:
        """One request more. Of those that follow each other closely, one line in a while tells."""
        self._refused.labels(work.value, reason).inc()
        self._tally[f"{work.value}/{reason}"] += 1
        if self._clock() - self._said_at >= _LINE_EVERY:
            self._said_at = self._clock()
            _log.warning("requests were refused", extra={"members": {"refused": dict(self._tally)}})
            self._tally.clear()

    def closed(self, count: int) -> None:
        """So many connections were ended."""
        self._closed.inc(count)

    def _told_wait(self, work: Work, seconds: float) -> None:
        self._waited[work].observe(seconds)

    def _told_length(self, work: Work, count: int) -> None:
        self._waiting[work].set(count)
