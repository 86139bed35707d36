"""What the NATS side counts, beside the edge's own metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)  # seconds


class Tallies:
    """Labels are names of errors and outcomes, never a device's words."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._logins = Counter(
            "attestd_edge_nats_logins",
            "Logins judged, by outcome (allowed, refused) and reason.",
            ("outcome", "reason"),
            registry=registry,
        )
        self._seconds = Histogram(
            "attestd_edge_nats_login_seconds", "Time to judge one login.", buckets=_BUCKETS, registry=registry
        )
        self._endings = Counter(
            "attestd_edge_nats_disconnections", "Connections ended here, by reason.", ("reason",), registry=registry
        )
        self._messages = Counter(
            "attestd_edge_nats_messages",
            "Messages judged at their crossing, by fate (carried, withheld, later) and reason.",
            ("fate", "reason"),
            registry=registry,
        )

    def login(self, outcome: str, reason: str, seconds: float) -> None:
        """One login was judged, in so much time."""
        self._logins.labels(outcome, reason).inc()
        self._seconds.observe(seconds)

    def ending(self, reason: str) -> None:
        """One connection was ended."""
        self._endings.labels(reason).inc()

    def message(self, fate: str, reason: str) -> None:
        """One message was judged."""
        self._messages.labels(fate, reason).inc()
