"""How each boundary stands when nothing is heard: does everything cross, one class, or nothing; and since when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from attestd.credentials.bundle import BundleStale
from attestd.errors import AttestdError
from attestd_edge.store import BundleStore
from attestd_edge.views import Staleness

Crosses = Literal["all", "class", "nothing"]
_CROSSES: Final[tuple[Crosses, ...]] = ("all", "class", "nothing")


@dataclass(frozen=True, slots=True)
class Standing:
    """`allows`: the class that alone crosses; `stale_for`: seconds since the boundary noticed that nothing is heard."""

    crosses: Crosses
    allows: str | None = None
    stale_for: int = 0

    def __str__(self) -> str:
        if self.crosses == "all":
            return "what policy permits crosses"
        crosses = "nothing crosses" if self.allows is None else f"only when_stale({self.allows}) crosses"
        return f"{crosses}, stale for {self.stale_for} s"


def standing(store: BundleStore, rule: Staleness | None, now: datetime) -> Standing:
    """Of a boundary with this rule. Without a bundle nothing crosses, and nothing can have gone stale."""
    try:
        view = store.view()
    except AttestdError:
        return Standing("nothing")
    stale_for = max(0, int((now - min(view.notices(rule), view.stale_at)).total_seconds()))
    try:
        allows = view.standing(rule, now)
    except BundleStale:
        return Standing("nothing", None, stale_for)
    return Standing("all" if allows is None else "class", allows, stale_for)


class StandingMetrics:
    """The same for Prometheus, by boundary."""

    def __init__(self, look: Callable[[], Mapping[str, Standing]]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        found = self._look()
        stale = GaugeMetricFamily(
            "attestd_edge_boundary_stale_seconds",
            "For how long this boundary has missed news of the service; 0 while it does not.",
            labels=("boundary",),
        )
        stands = GaugeMetricFamily(
            "attestd_edge_boundary_standing",
            "What crosses: all that policy permits, one class of it, or nothing. 1 for the one that holds.",
            labels=("boundary", "standing"),
        )
        for boundary, each in found.items():
            stale.add_metric((boundary,), each.stale_for)
            for crosses in _CROSSES:
                stands.add_metric((boundary, crosses), int(each.crosses == crosses))
        yield stale
        yield stands
