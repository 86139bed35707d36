"""The watch over the fleet as /metrics tells it: who is overdue, what the brake holds, when what ends.

Numbers of devices and times, and no names: /metrics is public. Edges have names
there if `edges.named_in_metrics` says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric

from attestd.operations.edges import EdgeBook, Standing, State
from attestd.registry import expiring, gauges, references
from attestd.registry.engine import Connection
from attestd.registry.gauges import Gauges
from attestd.upkeep.watching import authorities
from attestd.web.context import Service

# In the octets of an answer, which are compact JSON: no string can hold this, for its quotes would be escaped.
_STATUS: Final = re.compile(rb'"status":"(none|affirming|warning|contraindicated)"')
_MAX_NAMED: Final = 500  # edges, each a series
_STAGES: Final = ("learn", "monitor", "enforce")


def status_in(answer: bytes) -> str:
    """The attestation result's status in an answer to a device; empty where it has none."""
    found = _STATUS.search(answer)
    return "" if found is None else found[1].decode("ascii")


class WatchMetrics:
    """One a process. Reference manifests are read again only when they changed: they can be large."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._edges = EdgeBook(service.registry, service.settings)
        self._references: int | None = None
        self._manifest_ends: tuple[int, ...] = ()

    def read(self, c: Connection, now: datetime) -> tuple[Metric, ...]:
        """The families. Raises the registry's errors."""
        at = int(now.timestamp())
        ended_by = int((now - self._service.settings.attestation.overdue_after).timestamp())
        found = gauges.read(c, now=at, ended_by=ended_by)
        if (version := references.version(c)) != self._references:
            self._manifest_ends = tuple(each.ends for each in expiring.manifests(c, now=at))
            self._references = version
        return (*self._families(found, at), *self._of_edges(self._edges.standings(c, now), at))

    def _families(self, found: Gauges, now: int) -> Iterator[Metric]:
        for name, described, value in (
            ("devices_overdue", "Active devices whose last result stopped counting.", found.overdue),
            ("devices_unattested", "Active devices that did not attest since a restore.", found.unattested),
            ("devices_demanded", "Devices that shall attest now.", found.demanded),
            ("brake_engaged", "Whether the brake holds quarantines back.", int(found.brake_engaged)),
            ("held_results", "Contraindicated results that the brake holds back.", found.held),
            ("quarantines_last_minute", "Devices that results quarantined in the last minute.", found.quarantines),
            (
                "watch_last_round_seconds",
                "Since the last whole round of the watch ended, of whichever service.",
                max(0, now - found.watched_at),
            ),
        ):
            yield GaugeMetricFamily(f"attestd_{name}", described, value=value)
        yield _labelled(
            "attestd_reference_manifests",
            "Reference manifests in force, by stage.",
            "stage",
            {stage: found.manifests.get(stage, 0) for stage in _STAGES},
        )
        yield _labelled(
            "attestd_certificate_not_after_seconds",
            "When what ends first of each kind and has not, ends, in unix seconds.",
            "which",
            self._ends(found, now),
        )

    def _of_edges(self, found: list[Standing], now: int) -> Iterator[Metric]:
        standing = [each for each in found if each.state is not State.DISABLED]
        counted = {state.value: 0 for state in State if state is not State.DISABLED}
        ages: dict[str, float] = {}
        for each in standing:
            counted[each.state.value] += 1
            if (age := each.bundle_age(now)) is not None:
                ages[each.proxy.name] = age
        yield _labelled("attestd_edges", "Edge proxies that are not disabled, by state.", "state", counted)
        yield GaugeMetricFamily(
            "attestd_edge_oldest_bundle_seconds",
            "Age of the oldest bundle that an edge last said it uses.",
            value=max(ages.values(), default=0),
        )
        if self._service.settings.edges.named_in_metrics:
            oldest = sorted(ages, key=lambda name: (-ages[name], name))[:_MAX_NAMED]
            yield _labelled(
                "attestd_edge_bundle_age_seconds",
                "Age of the bundle that an edge last said it uses; the oldest 500.",
                "proxy",
                {name: ages[name] for name in oldest},
            )

    def _ends(self, found: Gauges, now: int) -> dict[str, float]:
        keys = authorities(self._service.certifying.hierarchy)
        ends = {which: certificate.not_valid_after_utc.timestamp() for which, certificate in keys.items()}
        if found.makers_first is not None:
            ends["makers_first"] = found.makers_first
        if later := [end for end in self._manifest_ends if end > now]:
            ends["manifests_first"] = min(later)
        return ends


def _labelled(name: str, described: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, described, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family
