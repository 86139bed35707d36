"""What is counted of receipts, beside the edge's own metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from attestd.credentials.receipts import Crossed
from attestd.errors import AttestdError
from attestd_edge.receipts.folders import Waiting


class Tallies:
    """Labels are names from the configuration and of errors, never a caller's text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._written = Counter(
            "attestd_edge_receipts_written",
            "Receipts on the disk, by boundary and decision.",
            ("boundary", "decision"),
            registry=registry,
        )
        self._not_kept = Counter(
            "attestd_edge_receipts_not_kept",
            "Crossings refused because their receipt could not be kept, by reason.",
            ("reason",),
            registry=registry,
        )
        self._omitted = Counter(
            "attestd_edge_receipts_omitted", "Refusals that got no receipt for want of room.", registry=registry
        )
        self._delivered = Counter(
            "attestd_edge_receipts_delivered", "Receipts that the service took.", registry=registry
        )

    def written(self, said: Crossed) -> None:
        """One receipt is on the disk."""
        self._written.labels(said.where.boundary, "allow" if said.allowed else "deny").inc()

    def not_kept(self, error: AttestdError) -> None:
        """One crossing was refused for want of a receipt."""
        self._not_kept.labels(type(error).slug()).inc()

    def omitted(self) -> None:
        """One refusal has no receipt."""
        self._omitted.inc()

    def delivered(self, count: int) -> None:
        """The service has so many more."""
        self._delivered.inc(count)

    def watch(self, waiting: Callable[[], Waiting], now: Callable[[], float]) -> None:
        """Gauges that are read when they are asked for."""

        def age() -> float:
            oldest = waiting().oldest
            return 0.0 if oldest is None else max(0.0, now() - oldest)

        gauges: tuple[tuple[str, str, Callable[[], float]], ...] = (
            ("waiting", "Receipts that the service does not have yet.", lambda: float(waiting().count)),
            ("waiting_octets", "What they take on the disk.", lambda: float(waiting().octets)),
            ("oldest_waiting_seconds", "Age of the oldest of them.", age),
        )
        for name, text, value in gauges:
            Gauge(f"attestd_edge_receipts_{name}", text, registry=self._registry).set_function(value)
