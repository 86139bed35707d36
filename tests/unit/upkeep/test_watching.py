"""A round of the watch: who is overdue, what ends, which demands were answered; and all of it told outward."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from attestd.config import AttestationSettings, ReferenceSettings, WebhookSettings
from attestd.protocol.encoding import write_object
from attestd.registry import audit, expiring, overdue, references, trust
from attestd.registry.audit import AuditRecord
from attestd.registry.engine import DatabaseBusy, Registry
from attestd.upkeep import watching
from attestd.upkeep.watching import Watched, watch
from attestd.upkeep.webhooks import Deliveries
from tests.edge_reports import edge_report
from tests.service import START, World

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, attestation=AttestationSettings(validity=timedelta(hours=1), overdue_after=5 * MINUTE))
    round_at(world)
    yield world
    world.close()


def round_at(world: World, registry: Registry | None = None, **later: float) -> Watched:
    """A round at this time."""
    now = world.clock.advance(**later)
    return watch(registry or world.registry, world.settings, world.hierarchy, now=now, pause=lambda _: None)


def rows(world: World, act: str) -> list[AuditRecord]:
    with world.registry.reading() as c:
        return [row for row in audit.page(c, limit=1000) if row.act == act]


# ---- Overdue ----------------------------------------------------------------------------------------------------


def test_a_device_is_told_some_time_after_its_result_ended(world: World) -> None:
    device = world.enrolled()
    assert round_at(world, minutes=64, seconds=59) == Watched(0, 0, 0, 0, ())
    assert round_at(world, seconds=1).overdue == 1
    assert round_at(world, minutes=1).overdue == 0
    (row,) = rows(world, "overdue")
    assert (row.actor, row.subject, row.detail["site"]) == ("attestd", device.id, "shop-1")
    assert row.detail["since"] == int((START + timedelta(hours=1)).timestamp())
    assert device.attest().status_code == 200
    assert round_at(world, minutes=64).overdue == 0
    assert round_at(world, minutes=1).overdue == 1


def test_more_than_a_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "BATCH", 2)
    for _ in range(5):
        world.enrolled()
    assert round_at(world, hours=2).overdue == 5


def test_rounds_at_the_same_time(world: World) -> None:
    devices = sorted(world.enrolled().id for _ in range(6))
    world.clock.advance(hours=2)
    others = [Registry.open(world.url) for _ in range(3)]
    done: list[Watched] = []
    threads = [threading.Thread(target=lambda each=each: done.append(round_at(world, each))) for each in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in others:
        each.close()
    assert [result.errors for result in done] == [()] * 3
    assert sorted(row.subject for row in rows(world, "overdue")) == devices


def test_a_whole_round_leaves_its_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def at() -> datetime:
        with world.registry.reading() as c:
            return datetime.fromtimestamp(overdue.watched_at(c), world.clock().tzinfo)

    assert at() == world.clock()
    round_at(world, minutes=1)
    assert at() == (good := world.clock())

    def busy(*_: object, **__: object) -> int:
        raise DatabaseBusy

    device = world.enrolled()
    monkeypatch.setattr(overdue, "tell", busy)
    done = round_at(world, minutes=1)
    assert [error.slug() for error in done.errors] == ["database-busy"]
    assert at() == good, "a round that could not do all of its work is none"
    monkeypatch.undo()
    assert round_at(world, hours=2).overdue == 1
    assert [row.subject for row in rows(world, "overdue")] == [device.id]


# ---- What ends --------------------------------------------------------------------------------------------------


def told(world: World, what: str) -> list[tuple[str, int]]:
    """(name, threshold in days) of each row, the oldest first."""
    found = [row for row in rows(world, "expiring") if row.detail["what"] == what]
    return [(row.subject, row.detail["threshold_days"]) for row in reversed(found)]


def walk(world: World, until: datetime, *, step: timedelta = timedelta(hours=6)) -> None:
    while world.clock() < until:
        world.clock.now += step
        assert round_at(world).errors == ()


def test_an_authority_is_told_a_month_and_three_days_before(world: World) -> None:
    ends = world.hierarchy.issuer.certificate.not_valid_after_utc
    world.clock.now = ends - 30 * DAY - timedelta(hours=2)
    round_at(world)
    assert ("issuer", 30) not in told(world, "authority")
    round_at(world, hours=2)
    assert told(world, "authority").count(("issuer", 30)) == 1
    walk(world, ends - 3 * DAY - timedelta(hours=7))
    assert [entry for entry in told(world, "authority") if entry[0] == "issuer"] == [("issuer", 30)]
    walk(world, ends + DAY)
    assert [entry for entry in told(world, "authority") if entry[0] == "issuer"] == [("issuer", 30), ("issuer", 3)]
    (row, *_) = (row for row in rows(world, "expiring") if row.subject == "issuer")
    assert row.detail["ends"] == int(ends.timestamp())


def test_who_looks_for_the_first_time_is_told_what_is_due_and_not_what_ended(tmp_path: Path) -> None:
    world = World(tmp_path)
    ends = world.hierarchy.issuer.certificate.not_valid_after_utc
    world.clock.now = ends - 10 * DAY
    round_at(world)
    assert ("issuer", 30) in told(world, "authority")
    world.close()
    other = World(tmp_path / "other")
    other.clock.now = ends + DAY
    round_at(other)
    assert "issuer" not in dict(told(other, "authority"))
    other.close()


def test_a_maker_s_certificate(world: World) -> None:
    with world.registry.reading() as c:
        (maker,) = trust.every(c)
    ends = datetime.fromtimestamp(maker.not_after, START.tzinfo)
    world.clock.now = ends - 31 * DAY
    walk(world, ends)
    assert told(world, "TPM maker") == [(maker.subject, 30), (maker.subject, 3)]


def test_operators_and_proxies_by_the_credential_that_they_hold(world: World) -> None:
    world.caller("viewer")
    world.caller("proxy")
    walk(world, START + DAY - timedelta(hours=9), step=timedelta(hours=3))
    assert told(world, "edge proxy") == []
    walk(world, START + DAY, step=timedelta(hours=1))  # its day: a third of it is left
    assert told(world, "edge proxy") == [("proxy-1", 3)]
    walk(world, START + 59 * DAY)
    assert told(world, "operator") == []
    walk(world, START + 61 * DAY)
    assert told(world, "operator") == [("viewer-1", 30)]


def test_who_renewed_or_was_disabled_is_not_told(world: World) -> None:
    world.caller("viewer")
    world.caller("proxy")
    world.clock.advance(hours=12)
    assert world.proxy.post("/v1/proxies/renewals", {"v": 1}).status_code == 200
    assert world.admin.post("/v1/admin/operators/viewer-1/disable", {"v": 1}).status_code == 200
    world.new_caller("proxy", "proxy-2")
    assert world.admin.post("/v1/admin/proxies/proxy-2/disable", {"v": 1}).status_code == 200
    walk(world, START + timedelta(hours=27), step=timedelta(hours=1))  # a third of the renewed one's is not begun
    assert told(world, "edge proxy") == []
    walk(world, START + timedelta(hours=36), step=timedelta(hours=1))
    assert told(world, "edge proxy") == [("proxy-1", 3)]
    walk(world, START + 62 * DAY)
    assert "viewer-1" not in dict(told(world, "operator"))


def manifest(world: World, name: str, *, stage: str = "enforce", **members: Any) -> None:
    said = {"name": name, "stage": stage, "pcrs": {"sha256": {"7": ["00" * 32]}}, **members}
    with world.registry.acting() as c:
        references.add(
            c,
            name=name,
            stage=stage,
            digest=name,
            document=write_object(said),
            added_by="ada",
            now=int(world.clock().timestamp()),
            overlap=3600,
        )


def test_reference_manifests_with_an_end(world: World) -> None:
    ends = START + 40 * DAY
    manifest(world, "old", not_after=int(ends.timestamp()))
    manifest(world, "old", not_after=int((ends + 300 * DAY).timestamp()))  # takes its place
    manifest(world, "bike-4", not_after=int(ends.timestamp()))
    manifest(world, "draft", stage="learn", not_after=int(ends.timestamp()))
    manifest(world, "for-ever")
    walk(world, ends)
    assert told(world, "reference manifest") == [("bike-4", 30), ("bike-4", 3)]


def test_a_version_that_was_replaced_ends_without_a_word(world: World) -> None:
    """It counts for an hour more, in which its end may come near."""
    now, later = int(world.clock().timestamp()), 400 * 86_400
    manifest(world, "bike-4", not_after=now + 600)
    manifest(world, "bike-4", not_after=now + later)
    with world.registry.reading() as c:
        assert [each.ends for each in expiring.manifests(c, now=now)] == [now + later]


def test_it_is_looked_at_once_an_hour(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read for it is large."""
    looks: list[int] = []

    def look(_: object, *, now: int) -> list[expiring.Ending]:
        looks.append(now)
        return []

    monkeypatch.setattr(expiring, "manifests", look)
    for _ in range(130):
        round_at(world, minutes=1)
    assert len(looks) == 2


def test_two_services_tell_an_end_once(world: World) -> None:
    """The second read the endings before the first told them."""
    ends = world.hierarchy.issuer.certificate.not_valid_after_utc
    world.clock.now = ends - 2 * DAY
    now = int(world.clock().timestamp())
    ending = expiring.Ending("authority", "issuer", 0, int(ends.timestamp()))
    with world.registry.acting() as c:
        since = expiring.told_by(c)
        first, second = (expiring.tell(c, [ending], since=since, now=now) for _ in range(2))
    assert (first, second) == ([ending], [])


# ---- Outward ----------------------------------------------------------------------------------------------------


EVENTS = ("overdue", "expiring", "quarantine", "refuse-attestation", "refuse-enrollment", "engage-brake", "demand")


class Pager:
    """Another system, which is told some events."""

    def __init__(self, world: World, events: tuple[str, ...]) -> None:
        self._world = world
        self._seen: list[dict[str, Any]] = []
        secret = world.settings.dir / "hook.secret"
        secret.write_bytes(base64.b64encode(b"s" * 32))
        secret.chmod(0o600)
        hook = WebhookSettings("pager", "https://pager.example/x", secret.name, events)
        client = httpx.Client(transport=httpx.MockTransport(self._take))
        self._hooks = Deliveries(world.registry, replace(world.settings, webhooks=(hook,)), client=client)
        self.told()  # it begins here

    def _take(self, request: httpx.Request) -> httpx.Response:
        self._seen.append(json.loads(request.content))
        return httpx.Response(204)

    def told(self) -> list[tuple[str, str]]:
        """(type, subject) of what came since this was asked last."""
        self._seen.clear()
        self._world.service.publication.audit.seal(self._world.clock())
        for _ in range(10):
            self._hooks.deliver(self._world.clock)
        return [(event["type"], event["data"]["subject"]) for event in self._seen]


def test_everything_that_goes_wrong_reaches_a_receiver(world: World) -> None:
    """A device's lies, a bad result, an operator's act and the clock: through the sealed trail to another system."""
    liar, changed, silent = (world.enrolled() for _ in range(3))
    pager = Pager(world, EVENTS)

    path = f"/v1/admin/devices/{liar.id}/demand"
    assert world.operator.post(path, {"v": 1, "reason": "a new advisory"}).status_code == 200
    assert pager.told() == [("attestd.demand", liar.id)]

    nonce = world.nonce()
    lie = liar.attestation(nonce, ak_name=b"another").to_bytes()
    assert liar.signed("/v1/attestations", lie, nonce=nonce).status_code == 403
    assert pager.told() == [("attestd.refuse-attestation", liar.id)]

    stranger = world.device()
    challenge = stranger.begin()
    assert stranger.complete(challenge, stranger.evidence(challenge, nonce=b"n" * 32).to_bytes()).status_code == 403
    assert [kind for kind, _ in pager.told()] == ["attestd.refuse-enrollment"]

    world.configure(references=(ReferenceSettings("image 13", {"sha256": {0: (b"\xff" * 32,)}}),))
    assert changed.attest().status_code == 202
    assert pager.told() == [("attestd.quarantine", changed.id)]
    world.configure(references=())

    world.service.fleet.engage_brake(world.act)
    assert pager.told() == [("attestd.engage-brake", "fleet")]

    world.clock.advance(minutes=30)
    assert liar.attest().status_code == 200
    assert round_at(world, minutes=36).overdue == 1
    assert pager.told() == [("attestd.overdue", silent.id)]

    world.clock.now = world.hierarchy.issuer.certificate.not_valid_after_utc - 29 * DAY
    round_at(world)
    assert ("attestd.expiring", "issuer") in pager.told()


# ---- Edges that fall silent -------------------------------------------------------------------------------------


def hear(world: World, sequence: int) -> None:
    assert world.proxy.post("/v1/proxies/reports", edge_report(sequence)).status_code == 200


def watch_on(world: World, minutes: int) -> list[int]:
    """Rounds, a minute apart: how many edges each told."""
    return [round_at(world, minutes=1).silent for _ in range(minutes)]


def test_an_edge_that_falls_silent_is_told_once_and_once_more_when_it_is_back(world: World) -> None:
    assert watch_on(world, 5) == [0] * 5
    hear(world, 1)
    assert watch_on(world, 6) == [0, 0, 1, 0, 0, 0]
    (row,) = rows(world, "edge-silent")
    assert (row.actor, row.subject, row.detail["site"]) == ("attestd", "proxy-1", "shop-1")
    assert row.detail["heard_at"] == int((START + 5 * MINUTE).timestamp())
    assert rows(world, "edge-back") == []
    hear(world, 2)
    (back,) = rows(world, "edge-back")
    assert (back.actor, back.subject) == ("proxy:proxy-1", "proxy-1")
    assert back.detail == {"silent_since": row.at, "heard_at": row.detail["heard_at"]}
    hear(world, 3)
    assert len(rows(world, "edge-back")) == 1
    assert watch_on(world, 4) == [0, 0, 1, 0]


def test_an_edge_that_is_heard_is_never_told(world: World) -> None:
    for sequence in range(1, 8):
        hear(world, sequence)
        assert round_at(world, minutes=1).silent == 0
    assert rows(world, "edge-silent") == []


def test_an_edge_that_never_reported_or_was_disabled_is_not_told(world: World) -> None:
    world.new_caller("proxy", "proxy-2")
    hear(world, 1)
    assert world.admin.post("/v1/admin/proxies/proxy-1/disable", {"v": 1}).status_code == 200
    assert watch_on(world, 5) == [0] * 5


def test_after_the_service_was_away_edges_get_their_time_anew(world: World) -> None:
    assert watch_on(world, 4) == [0] * 4
    hear(world, 1)
    assert watch_on(world, 1) == [0]
    assert round_at(world, hours=1).silent == 0
    assert watch_on(world, 2) == [0, 0]
    assert watch_on(world, 1) == [1]
    hear(world, 2)
    assert round_at(world, hours=1).silent == 0
    hear(world, 3)
    assert watch_on(world, 2) == [0, 0]


def test_of_two_services_one_tells_of_an_edge(world: World) -> None:
    watch_on(world, 4)
    hear(world, 1)
    watch_on(world, 2)
    world.clock.advance(minutes=2)
    told: list[int] = []
    threads = [threading.Thread(target=lambda: told.append(round_at(world).silent)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [0, 0, 1]
    assert len(rows(world, "edge-silent")) == 1
