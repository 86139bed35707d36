"""An edge's counts on their way to the service: each once, through outages, lost answers, restarts and restores."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from attestd.registry import edges
from attestd_edge.edge import Edge
from attestd_edge.files import FileUnwritable
from attestd_edge.identity import ProxyIdentity, read_certificates
from attestd_edge.reports import counts, ledger
from attestd_edge.reports.counts import CountFile
from attestd_edge.reports.guarding import MAX_GUARDED, guarding
from attestd_edge.reports.reporter import FLUSH_INTERVAL, INTERVAL, MAX_BACKOFF, QUIET_INTERVAL, Reporter
from attestd_edge.service import Service
from attestd_edge.settings import Guarded
from attestd_edge.views import Staleness
from tests.service import SITE, START, URL, World
from tests.world_edge import SiteEdge


class ReportSite(SiteEdge):
    """An edge at SITE whose reporter does a round when it is told to."""

    def __init__(self, world: World, folder) -> None:
        super().__init__(world, folder)
        boundary = self.edge.boundaries["field"].boundary
        self.boundaries = {"field": Guarded(boundary, MappingProxyType({}), staleness=Staleness(200, "telemetry"))}
        self.returned = 0
        self.asked: list[int] = []
        self.asked_with = b""  # the last report
        self.answer: Callable[[], httpx.Response] | None = None  # instead of the service's, to a report
        self.lose = 0  # answers that get lost after the service gave them
        self.open()

    def open(self) -> None:
        """As a process that starts."""
        self.edge = Edge(
            self.store, tokens=self.edge._tokens, boundaries=self.boundaries, make_reporter=self.make_reporter
        )

    def make_reporter(self, edge: Edge) -> Reporter:
        def back() -> None:
            self.returned += 1

        made = Reporter(
            CountFile(self.store.folder, edge.judged, entropy=os.urandom),
            self.store,
            Service(URL, roots=[self.world.hierarchy.root.public_bytes(Encoding.DER)], transport=self),
            load_identity=lambda: ProxyIdentity.of(
                self.key, read_certificates(self.certificate.read_bytes(), where="proxy.pem")
            ),
            standings=edge.standings,
            waiting=edge.receipts_waiting,
            connected=lambda: self.refresher.connection == "connected",
            returned=back,
            chance=lambda: 0.5,
            guarding=guarding(self.boundaries),
            monotonic=lambda: (self.world.clock() - START) / timedelta(seconds=1),
        )
        made.start = lambda: None  # type: ignore[method-assign]
        return made

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/v1/proxies/reports":
            return super().handle_request(request)
        self.asked.append(int((self.world.clock() - START).total_seconds()))
        if self.answer is not None:
            self.asked_with = b"".join(request.stream)
            return self.answer()
        given = super().handle_request(request)
        if self.lose:
            self.lose -= 1
            raise httpx.ReadError("the answer is lost")
        return given

    @property
    def reporter(self) -> Reporter:
        self.edge.start()
        assert self.edge._reporter is not None
        return self.edge._reporter

    def cross(self, count: int = 1, *, refused: int = 0) -> None:
        for _ in range(count):
            assert self.ask(chain=self.certificate_of(self.device)) == "allowed"
        for _ in range(refused):
            assert self.ask() == "no-credential"

    def pass_(self, seconds: float, *, hear: bool = True) -> None:
        """So much time, with a round each second."""
        for _ in range(int(seconds)):
            self.world.clock.advance(seconds=1)
            if hear:
                self.refresher.tick()
            self.reporter.tick()

    def told(self) -> tuple[int, int, int]:
        """What the service counts: allowed, refused, missed."""
        found = self.page()["totals"]
        return found["allowed"], found["refused"], found["missed"]

    def page(self) -> dict[str, Any]:
        return dict(self.world.viewer.get("/v1/admin/proxies/edge-1").get_json())


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "service")
    yield world
    world.close()


@pytest.fixture
def site(world, tmp_path):
    (tmp_path / "edge").mkdir()
    site = ReportSite(world, tmp_path / "edge")
    site.device = world.enrolled()
    site.refresher.tick()
    site.reporter.tick()
    yield site
    site.edge.stop()


def test_what_was_decided_is_told_within_seconds(site):
    site.cross(3, refused=2)
    site.pass_(FLUSH_INTERVAL + INTERVAL + 3)
    assert site.told() == (3, 2, 0)
    (boundary,) = site.page()["boundaries"]
    assert boundary == {"name": "field", "stale_for": 0, "allowed": 3, "refused": {"no-credential": 2}}
    assert site.page()["proxy"]["state"] == "current"


def test_a_report_each_ten_seconds_while_anything_happens_and_each_minute_else(site):
    for _ in range(60):
        site.cross()
        site.pass_(1)
    assert 5 <= len(site.asked) <= 7
    site.asked.clear()
    site.world.clock.advance(seconds=0)
    site.pass_(240)
    assert 3 <= len(site.asked) <= 9  # the bundle is signed anew each 50 s, which is news, too


def test_an_outage_delays_and_loses_nothing(site):
    site.cross(2)
    site.pass_(20)
    site.down = True
    site.cross(5, refused=1)
    site.pass_(90)
    assert site.told() == (2, 0, 0)
    site.edge.stop()
    site.open()  # it restarts while it is cut off
    site.cross(3)
    site.pass_(30)
    site.down = False
    site.asked.clear()
    site.pass_(20)  # the refresher comes back within its pause of 15 s
    assert site.told() == (10, 1, 0)
    assert len(site.asked) <= 3


def test_when_the_service_is_heard_again_nobody_waits_for_the_end_of_a_pause(site):
    site.down = True
    site.cross(1)
    site.pass_(100)
    before = site.returned
    site.down = False
    while site.refresher.connection != "connected":
        site.pass_(1)
    site.pass_(2)
    assert site.told() == (1, 0, 0)
    assert site.returned == before + 1


@pytest.mark.parametrize("lost", [1, 2, 5])
def test_an_answer_that_got_lost_adds_nothing_twice(site, lost):
    site.cross(4)
    site.lose = lost
    site.pass_(15)
    site.cross(3)
    site.pass_(lost * MAX_BACKOFF)
    site.pass_(30)
    assert site.lose == 0
    assert site.told() == (7, 0, 0)


def test_a_busy_service_says_when_to_come_again(site):
    site.cross(1)
    site.answer = lambda: httpx.Response(503, headers={"Retry-After": "120"}, stream=httpx.ByteStream(b""))
    site.pass_(20)
    count = len(site.asked)
    assert count > 0
    site.answer = None
    site.pass_(95)
    assert len(site.asked) == count
    site.pass_(40)
    assert site.told() == (1, 0, 0)


@pytest.mark.parametrize("status", [400, 404, 409, 413, 500])
def test_a_service_that_does_not_take_reports_is_asked_seldom_and_the_edge_goes_on(site, status, caplog):
    site.answer = lambda: httpx.Response(status, stream=httpx.ByteStream(b"{}"))
    with caplog.at_level(logging.WARNING, logger="attestd_edge.reports"):
        site.cross(1)
        site.pass_(400)
    assert 3 <= len(site.asked) <= 12
    assert len([r for r in caplog.records if "nothing is reported" in r.getMessage()]) == 1
    site.answer = None
    site.pass_(80)
    assert site.told() == (1, 0, 0)


def test_an_answer_about_another_report_is_none(site):
    site.answer = lambda: httpx.Response(200, stream=httpx.ByteStream(b'{"v":1,"sequence":77}'))
    site.cross(1)
    site.pass_(20)
    site.answer = None
    assert site.told() == (0, 0, 0)
    site.pass_(80)
    assert site.told() == (1, 0, 0)


def test_a_restored_service_notes_what_it_missed_and_counts_on(site, world):
    site.cross(1)
    site.pass_(20)
    with world.registry.acting() as c:
        before = edges.hold(c, "edge-1", now=0)
    site.cross(10)
    site.pass_(20)
    with world.registry.acting() as c:
        edges.hold(c, "edge-1", now=0)
        edges.keep(c, before)
    site.cross(100)
    site.pass_(20)
    allowed, _, missed = site.told()
    assert allowed == 101
    assert missed >= 1


def test_hours_of_an_outage_are_told_one_by_one(site):
    site.cross(1)
    site.pass_(20)
    site.down = True
    for count in (2, 4):
        site.cross(count)
        site.pass_(60)
    site.world.clock.advance(hours=1)
    site.reporter.tick()
    assert site.ask(chain=site.certificate_of(site.device)) in ("bundle-stale", "boundary-stale")
    site.pass_(10)
    site.down = False
    site.pass_(20)
    hours = [(each["allowed"], each["refused"]) for each in site.page()["hours"]]
    assert hours == [(0, 1), (7, 0)]


def test_two_processes_on_one_folder_report_once(site, world):
    other = Edge(site.store, tokens=site.edge._tokens, boundaries=site.boundaries, make_reporter=site.make_reporter)
    site.edge, first = other, site.edge
    site.reporter.tick()  # the second one, which holds no lock
    site.cross(4)
    site.pass_(8)
    assert site.told() == (0, 0, 0)
    site.edge, second = first, other
    site.cross(2)
    site.pass_(20)
    assert site.told() == (6, 0, 0)
    second.stop()
    site.pass_(20)
    assert site.told() == (6, 0, 0)


def test_what_cannot_be_counted_on_the_disk_holds_nobody_back(site, monkeypatch, caplog):
    def full(*_: Any, **__: Any) -> None:
        raise FileUnwritable("No space left on device.")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, logger="attestd_edge.reports"):
        patched.setattr(counts, "replace_file", full)
        patched.setattr(ledger, "replace_file", full)
        site.cross(5)
        site.pass_(60)
    assert len([r for r in caplog.records if "not counted on the disk" in r.getMessage()]) == 1
    site.pass_(QUIET_INTERVAL + 20)
    assert site.told() == (5, 0, 0)


# ---- How boundaries stand ---------------------------------------------------------------------------------------


def stands(site) -> dict[str, float]:
    registry = site.edge.metrics.registry
    found = {
        each: registry.get_sample_value("attestd_edge_boundary_standing", {"boundary": "field", "standing": each})
        for each in ("all", "class", "nothing")
    }
    found["stale"] = registry.get_sample_value("attestd_edge_boundary_stale_seconds", {"boundary": "field"})
    return found


def test_a_boundary_that_goes_stale_is_seen_in_metrics_and_told_once(site, caplog):
    issued = site.store.view().bundle.issued_at - int(START.timestamp())
    assert stands(site) == {"all": 1, "class": 0, "nothing": 0, "stale": 0}
    site.down = True
    with caplog.at_level(logging.INFO, logger="attestd_edge.reports"):
        site.pass_(issued + 230)
        assert stands(site) == {"all": 0, "class": 1, "nothing": 0, "stale": 30}
        site.pass_(90)
        assert stands(site) == {"all": 0, "class": 0, "nothing": 1, "stale": 120}
        site.down = False
        site.pass_(20)
    assert stands(site) == {"all": 1, "class": 0, "nothing": 0, "stale": 0}
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("field: ")]
    assert said == [
        "field: only when_stale(telemetry) crosses, stale for 0 s",
        "field: nothing crosses, stale for 100 s",
        "field: what policy permits crosses",
    ]


def test_without_a_bundle_nothing_crosses(world, tmp_path):
    (tmp_path / "new").mkdir()
    site = ReportSite(world, tmp_path / "new")
    assert stands(site) == {"all": 0, "class": 0, "nothing": 1, "stale": 0}
    site.pass_(5, hear=False)
    assert site.page()["proxy"]["state"] == "behind"
    site.edge.stop()


def test_how_stale_a_boundary_is_goes_with_the_report(site):
    site.cross()
    site.pass_(220, hear=False)  # the reporter has a way to the service, the refresher has none
    (boundary,) = site.page()["boundaries"]
    assert boundary["stale_for"] > 0
    assert site.page()["proxy"]["stale_boundaries"] == 1


# ---- What it guards -------------------------------------------------------------------------------------------------


def test_the_service_knows_what_an_edge_guards(site):
    site.pass_(15)
    [found] = site.world.viewer.get("/v1/admin/boundaries").get_json()["boundaries"]
    assert (found["from"], found["to"]) == ({"tier": "device", "site": SITE}, {"tier": "edge", "site": SITE})
    assert (found["receipts"], found["max_staleness"], found["when_stale"]) == ("none", 200, "telemetry")


def test_a_service_from_before_has_the_counts_all_the_same(site):
    """It refuses what it does not know. The counts do not wait for its update, and after an outage it is asked anew."""
    told = []

    def older():
        request = json.loads(site.asked_with)
        told.append("boundaries" in request)
        if "boundaries" in request:
            return httpx.Response(400, stream=httpx.ByteStream(b'{"v":1}'))
        said = json.dumps({"v": 1, "sequence": request["sequence"]}).encode()
        return httpx.Response(200, stream=httpx.ByteStream(said))

    site.answer = older
    site.cross(1)
    site.pass_(15)
    assert told[:2] == [True, False]
    site.cross(1)
    site.pass_(15)
    assert told[2:]
    assert not any(told[2:])
    site.down = True
    site.pass_(40)
    site.down = False
    del told[:]
    site.cross(1)
    site.pass_(70)
    assert told[0] is True


def test_what_is_told_fits_however_many_boundaries_there_are(site):
    many = {f"b-{n}": replace(site.boundaries["field"]) for n in range(MAX_GUARDED + 10)}
    assert len(guarding(many)) == MAX_GUARDED
