"""Is the service alive, can it do its work, and how much of it has it done?

`/healthz` asks nobody: the process answers. `/readyz` asks everything that an issuing request needs. `/metrics` is
public like the other two, so that a scraper needs no key: it counts, and names no device, operator, site or proxy
(proxies, if `edges.named_in_metrics` says so). Who wants it private puts that path behind the proxy in front of the
service.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from flask import Blueprint, Flask, Response, request
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
    values,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from attestd.errors import AttestdError
from attestd.issuance.enrollment import EvidenceContraindicated
from attestd.protocol.encoding import write_object
from attestd.registry import audit, audit_tree, bundles, counts, followers
from attestd.web.context import Exchange, Service, exchange
from attestd.web.watch_metrics import WatchMetrics, status_in

# Nothing worth having is issued by a certificate that ends so soon; the gauge of its end warns long before.
ISSUER_LEFT: Final = timedelta(minutes=10)
_GAUGES_AGE: Final = 10.0  # seconds for which the database's counts are reused
_WITH_RESULTS: Final = frozenset({"enroll", "attest"})
_PLAIN_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """What one process counts. With PROMETHEUS_MULTIPROC_DIR set, processes add up in that folder's files."""

    def __init__(self, service: Service) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside every counter, which nobody asks for
        self._registry = CollectorRegistry()
        self._multiprocess = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        if self._multiprocess:
            # The library looks at the environment once, when it is imported. That may have been too early; for a worker
            # it was in the process that it is a copy of.
            values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]
        self._gauges = _Gauges(service)
        self._pace = service.attesting_pace
        self._counted: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._requests = Counter(
            "attestd_requests_total", "Answered requests.", ("method", "route", "status"), registry=self._registry
        )
        self._problems = Counter(
            "attestd_problems_total", "Problems answered, by name.", ("problem",), registry=self._registry
        )
        self._verbs = Counter(
            "attestd_device_requests_total",
            "What devices asked for: granted, waiting, refused or failed.",
            ("verb", "outcome"),
            registry=self._registry,
        )
        self._results = Counter(
            "attestd_attestation_results_total",
            "Results that enrollments and attestations were answered with, by status.",
            ("status",),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "attestd_request_duration_seconds",
            "From a request's first hook to its answer.",
            ("route",),
            buckets=_BUCKETS,
            registry=self._registry,
        )

    def count(self, response: Response) -> Response:
        """An after-request hook."""
        current = exchange()
        route = "none" if request.url_rule is None else request.url_rule.rule
        method = request.method if request.method in _PLAIN_METHODS else "other"
        key = (method, route, response.status_code)
        if (counted := self._counted.get(key)) is None:  # finding a child by its labels takes longer than counting
            counted = self._requests.labels(method, route, str(response.status_code)), self._seconds.labels(route)
            self._counted[key] = counted
        counted[0].inc()
        counted[1].observe(current.milliseconds / 1000)
        if current.problem is not None:
            self._problems.labels(current.problem.slug()).inc()
        if current.door is not None and current.door.verb == "attest" and response.status_code < 400:
            self._pace.note(current.milliseconds / 1000, now=int(current.now.timestamp()))
        if current.door is not None and current.door.verb:
            self._verbs.labels(current.door.verb, _outcome(response.status_code)).inc()
            if current.door.verb in _WITH_RESULTS and (status := _result(response, current)):
                self._results.labels(status).inc()
        return response

    def text(self) -> bytes:
        """Prometheus' text format, version 0.0.4."""
        counted = self._registry
        if self._multiprocess:
            counted = CollectorRegistry()
            multiprocess.MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
        stored = CollectorRegistry()
        stored.register(self._gauges)
        return generate_latest(counted) + generate_latest(stored)


def _result(response: Response, current: Exchange) -> str:
    """The attestation result's status that a device was answered with; empty without one. An enrollment is refused for
    a bad one."""
    if isinstance(current.problem, EvidenceContraindicated):
        return "contraindicated"
    return status_in(response.get_data()) if response.status_code < 400 else ""


def _outcome(status: int) -> str:
    if status >= 500:
        return "failed"
    if status >= 400:
        return "refused"
    return "waiting" if status == 202 else "granted"


class _Gauges(Collector):
    """What the database says now, asked at most every few seconds: counting many devices takes a while."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._watch = WatchMetrics(service)
        self._lock = threading.Lock()
        self._asked_at: datetime | None = None
        self._families: tuple[Metric, ...] = ()

    def collect(self) -> Iterable[Metric]:
        now = self._service.clock()
        with self._lock:
            if self._asked_at is None or abs((now - self._asked_at).total_seconds()) >= _GAUGES_AGE:
                self._families = tuple(self._ask(now))
                self._asked_at = now
            return self._families

    def _ask(self, now: datetime) -> Iterator[Metric]:
        issuer = self._service.certifying.hierarchy.issuer.certificate
        yield GaugeMetricFamily(
            "attestd_issuer_not_after_seconds",
            "When the issuing certificate ends, in unix seconds.",
            value=issuer.not_valid_after_utc.timestamp(),
        )
        try:
            with self._service.registry.reading() as c:
                counted = counts.by_state(c)
                bundle = bundles.newest(c)
                unsealed = audit.lag(c)
                size, archived = audit_tree.size(c), audit_tree.archived(c)
                places = {hook.name: followers.place(c, hook.name) for hook in self._service.settings.webhooks}
                behind = {name: audit.age_at(c, place, now=int(now.timestamp())) for name, place in places.items()}
                watched = self._watch.read(c, now)
        except AttestdError:  # the other counts matter now more than ever
            yield GaugeMetricFamily("attestd_database_up", "Whether the database answers.", value=0)
            return
        yield GaugeMetricFamily("attestd_database_up", "Whether the database answers.", value=1)
        by_state = GaugeMetricFamily("attestd_devices", "Devices, by state.", labels=("state",))
        for state, count in counted.items():
            by_state.add_metric((state.value,), count)
        yield by_state
        waits = 0.0 if unsealed.oldest is None else max(0.0, now.timestamp() - unsealed.oldest)
        yield GaugeMetricFamily("attestd_audit_unsealed", "Audit rows that wait to be sealed.", value=unsealed.count)
        yield GaugeMetricFamily("attestd_audit_lag_seconds", "The age of the oldest of them.", value=waits)
        yield GaugeMetricFamily("attestd_audit_size", "Leaves of the audit trail's tree.", value=size)
        untold = GaugeMetricFamily(
            "attestd_webhook_lag", "Leaves of the trail that a webhook's receiver has not seen.", labels=("webhook",)
        )
        for name, place in places.items():
            untold.add_metric((name,), 0 if place is None else size - place)
        yield untold
        late = GaugeMetricFamily("attestd_webhook_lag_seconds", "The age of the oldest of them.", labels=("webhook",))
        for name, seconds in behind.items():
            late.add_metric((name,), seconds)
        yield late
        yield from watched
        yield GaugeMetricFamily("attestd_audit_archived", "Leaves whose rows are in archive files.", value=archived)
        if bundle is not None:
            yield GaugeMetricFamily("attestd_bundle_epoch", "The newest bundle's epoch.", value=bundle.epoch)
            yield GaugeMetricFamily("attestd_bundle_version", "The newest bundle's version.", value=bundle.version)
            yield GaugeMetricFamily(
                "attestd_bundle_age_seconds",
                "Since the newest bundle was signed.",
                value=max(0.0, now.timestamp() - bundle.issued_at),
            )


@dataclass(frozen=True, slots=True)
class _Health:
    service: Service
    metrics: Metrics = field(repr=False)

    def alive(self) -> Response:
        """GET /healthz"""
        return Response(b"ok\n", content_type="text/plain; charset=utf-8")

    def ready(self) -> Response:
        """GET /readyz: 200, or 503 with the reasons, which name errors and no values"""
        reasons = list(self._reasons(exchange().now))
        answer = write_object({"v": 1, "ready": not reasons, "reasons": reasons})
        return Response(answer, status=503 if reasons else 200, content_type="application/json")

    def _reasons(self, now: datetime) -> Iterator[str]:
        try:
            if not self.service.registry.schema_is_current():
                yield "The database's tables are not of this program's version"
                return
            if (overdue := self.service.publication.bundle(now).overdue) is not None:
                raise overdue
        except AttestdError as error:
            exchange().cause = error
            yield error.title()
        if self.service.certifying.hierarchy.issuer.certificate.not_valid_after_utc - now < ISSUER_LEFT:
            yield "The issuing certificate ends too soon"

    def scrape(self) -> Response:
        """GET /metrics"""
        return Response(self.metrics.text(), content_type="text/plain; version=0.0.4; charset=utf-8")


def register(app: Flask, service: Service) -> None:
    """The three routes, and the hook that counts every answer."""
    metrics = Metrics(service)
    door = _Health(service, metrics)
    routes = Blueprint("health", __name__)
    routes.get("/healthz")(door.alive)
    routes.get("/readyz")(door.ready)
    routes.get("/metrics")(door.scrape)
    app.register_blueprint(routes)
    app.after_request(metrics.count)
