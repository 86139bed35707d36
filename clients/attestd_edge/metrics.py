"""What an edge counts, in Prometheus' terms. Each edge has a registry of its own: applications may hold several."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)  # seconds


class Metrics:
    """Counters and gauges of one edge. Labels are names from the configuration and of errors, never a caller's text."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.decisions = Counter(
            "attestd_edge_decisions",
            "Crossings judged, by boundary, outcome (allowed, refused) and reason (the problem's name).",
            ("boundary", "outcome", "reason"),
            registry=self.registry,
        )
        self.remembered = Counter(
            "attestd_edge_verdicts_remembered",
            "Verdicts that policy did not have to be asked for.",
            registry=self.registry,
        )
        self.seconds = Histogram(
            "attestd_edge_decision_seconds", "Time to judge one crossing.", buckets=_BUCKETS, registry=self.registry
        )

        self._allowed: dict[str, Counter] = {}  # by boundary: finding a counter costs more than counting

    def allowed(self, boundary: str, seconds: float, *, remembered: bool) -> None:
        """A crossing was allowed, after so much time."""
        counter = self._allowed.get(boundary)
        if counter is None:
            counter = self._allowed[boundary] = self.decisions.labels(boundary, "allowed", "")
        counter.inc()
        self.seconds.observe(seconds)
        if remembered:
            self.remembered.inc()

    def refused(self, boundary: str, seconds: float, reason: str, *, remembered: bool) -> None:
        """A crossing was refused, after so much time; `reason` is the problem's name."""
        self.decisions.labels(boundary, "refused", reason).inc()
        self.seconds.observe(seconds)
        if remembered:
            self.remembered.inc()

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(f"attestd_edge_{name}", text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
