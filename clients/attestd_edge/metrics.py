"""What an edge counts, in Prometheus' terms. Each edge has a registry of its own: applications may hold several.

Counting a crossing is two additions to plain numbers: Prometheus' own counters took a fifth of a hot decision. They are
read as its families when somebody asks.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)  # seconds


class Metrics:
    """Counters and gauges of one edge. Labels are names from the configuration and of errors, never a caller's text."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._decisions: dict[tuple[str, str, str], int] = {}  # by boundary, outcome and reason
        self._remembered = 0
        self._within = [0] * (len(_BUCKETS) + 1)  # decisions by the first bucket that holds them
        self._seconds = 0.0
        self.registry.register(_Crossings(self))

    def allowed(self, boundary: str, seconds: float, *, remembered: bool) -> None:
        """A crossing was allowed, after so much time."""
        self._count((boundary, "allowed", ""), seconds, remembered)

    def refused(self, boundary: str, seconds: float, reason: str, *, remembered: bool) -> None:
        """A crossing was refused, after so much time; `reason` is the problem's name."""
        self._count((boundary, "refused", reason), seconds, remembered)

    def _count(self, which: tuple[str, str, str], seconds: float, remembered: bool) -> None:
        with self._lock:
            self._decisions[which] = self._decisions.get(which, 0) + 1
            self._within[bisect_left(_BUCKETS, seconds)] += 1
            self._seconds += seconds
            if remembered:
                self._remembered += 1

    def decisions(self) -> dict[tuple[str, str, str], int]:
        """How often what was decided, by boundary, outcome and reason."""
        with self._lock:
            return dict(self._decisions)

    def families(self) -> Iterator[Metric]:
        """All that was counted so far, of one moment."""
        with self._lock:
            counted, within = dict(self._decisions), list(self._within)
            remembered, seconds = self._remembered, self._seconds
        decisions = CounterMetricFamily(
            "attestd_edge_decisions",
            "Crossings judged, by boundary, outcome (allowed, refused) and reason (the problem's name).",
            labels=("boundary", "outcome", "reason"),
        )
        for which, number in counted.items():
            decisions.add_metric(which, number)
        yield decisions
        yield CounterMetricFamily(
            "attestd_edge_verdicts_remembered", "Verdicts that policy did not have to be asked for.", value=remembered
        )
        buckets, most = [], 0
        for limit, number in zip((*map(str, _BUCKETS), "+Inf"), within, strict=True):
            most += number
            buckets.append((limit, most))
        yield HistogramMetricFamily(
            "attestd_edge_decision_seconds", "Time to judge one crossing.", buckets=buckets, sum_value=seconds
        )

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(f"attestd_edge_{name}", text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


class _Crossings:
    """Hands Prometheus what was counted."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.families()
