"""Alive, ready, counted."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert, update

from attestd.config import ReferenceSettings, WebhookSettings
from attestd.protocol.encoding import write_object
from attestd.registry import audit_tree, followers, references, trust
from attestd.registry.engine import DatabaseBusy, Registry
from attestd.registry.tables import brake, devices, held, quarantines
from attestd.upkeep.watching import watch
from attestd.web.app import create_app
from attestd.web.health import ISSUER_LEFT
from tests.service import World


def metrics(world: World) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(name, labels) -> value."""
    answer = world.get("/metrics")
    assert (answer.status_code, answer.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(world: World, name: str, **labels: str) -> float | None:
    return metrics(world).get((name, tuple(sorted(labels.items()))))


# ---- Alive and ready --------------------------------------------------------------------------------------------


def test_alive_asks_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: Registry) -> None:
        raise DatabaseBusy

    monkeypatch.setattr(Registry, "reading", unreachable)
    assert world.get("/healthz").status_code == 200


def test_ready(world: World) -> None:
    answer = world.get("/readyz")
    assert (answer.status_code, answer.json) == (200, {"v": 1, "ready": True, "reasons": []})


def test_not_ready_without_a_database(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: Registry) -> None:
        raise DatabaseBusy("locked by /usr/bin/thing")

    monkeypatch.setattr(Registry, "reading", unreachable)
    answer = world.get("/readyz")
    assert (answer.status_code, answer.json["reasons"]) == (503, ["The database is busy"])
    assert "thing" not in answer.text


def test_not_ready_with_tables_of_another_version(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "schema_is_current", lambda self: False)
    answer = world.get("/readyz")
    assert answer.status_code == 503
    assert answer.json["reasons"] == ["The database's tables are not of this program's version"]


def test_not_ready_when_the_issuer_is_about_to_end(world: World) -> None:
    end = world.hierarchy.issuer.certificate.not_valid_after_utc
    world.clock.now = end - ISSUER_LEFT
    assert world.get("/readyz").status_code == 200
    world.clock.advance(seconds=1)
    answer = world.get("/readyz")
    assert (answer.status_code, answer.json["reasons"]) == (503, ["The issuing certificate ends too soon"])


def test_not_ready_without_a_bundle(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from attestd.policy.source import PolicyInvalid
    from attestd.publication import Publication

    def fail(self: Publication, now: object) -> None:
        raise PolicyInvalid

    monkeypatch.setattr(Publication, "bundle", fail)
    answer = world.get("/readyz")
    assert (answer.status_code, answer.json["reasons"]) == (503, ["The policy is not valid"])


# ---- Metrics ----------------------------------------------------------------------------------------------------


def test_requests_are_counted_by_route_and_status(world: World) -> None:
    world.get("/v1/nonce")
    world.get("/v1/nonce")
    world.get("/nothing/at/all")
    world.request("BREW", "/v1/nonce")
    found = metrics(world)

    def count(method: str, route: str, status: str) -> float:
        return found["attestd_requests_total", (("method", method), ("route", route), ("status", status))]

    assert count("GET", "/v1/nonce", "204") == 2
    assert count("GET", "none", "404") == 1
    assert count("other", "none", "405") == 1
    assert found["attestd_request_duration_seconds_count", (("route", "/v1/nonce"),)] == 2


def test_problems_are_counted_by_name(world: World) -> None:
    world.post("/v1/enrollments", b"{")
    world.get("/v1/admin/overview")
    assert value(world, "attestd_problems_total", problem="malformed-json") == 1
    assert value(world, "attestd_problems_total", problem="signature-missing") == 1


def test_what_devices_asked_for_is_counted_by_outcome(world: World) -> None:
    device = world.enrolled()
    device.attest()
    device.renew()
    device.token("billing")
    found = metrics(world)

    def count(verb: str, outcome: str) -> float | None:
        return found.get(("attestd_device_requests_total", (("outcome", outcome), ("verb", verb))))

    assert count("begin", "granted") == 2
    assert (count("enroll", "waiting"), count("enroll", "granted"), count("enroll", "refused")) == (1, 1, None)
    assert (count("attest", "granted"), count("renew", "granted")) == (1, 1)
    assert (count("token", "granted"), count("token", "refused")) == (None, 1)


def test_gauges_come_from_the_database(world: World) -> None:
    world.enrolled()
    world.proxy.get("/v1/bundle")
    world.clock.advance(seconds=7)
    found = metrics(world)
    assert found["attestd_devices", (("state", "active"),)] == 1
    assert found["attestd_devices", (("state", "quarantined"),)] == 0
    assert (found["attestd_bundle_epoch", ()], found["attestd_bundle_version", ()]) == (1, 1)
    assert found["attestd_bundle_age_seconds", ()] == 7
    assert found["attestd_database_up", ()] == 1
    end = world.hierarchy.issuer.certificate.not_valid_after_utc
    assert found["attestd_issuer_not_after_seconds", ()] == end.timestamp()


def test_gauges_are_reused_for_a_while(world: World) -> None:
    assert value(world, "attestd_devices", state="pending") == 0
    world.device().enroll()
    world.clock.advance(seconds=9)
    assert value(world, "attestd_devices", state="pending") == 0
    world.clock.advance(seconds=1)
    assert value(world, "attestd_devices", state="pending") == 1


def test_counters_outlive_the_database(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: Registry) -> None:
        raise DatabaseBusy

    world.get("/v1/nonce")
    monkeypatch.setattr(Registry, "reading", unreachable)
    found = metrics(world)
    assert found["attestd_database_up", ()] == 0
    assert found["attestd_requests_total", (("method", "GET"), ("route", "/v1/nonce"), ("status", "204"))] == 1


def test_metrics_name_nobody(world: World) -> None:
    device = world.enrolled()
    world.proxy.get("/v1/bundle")
    device.renew()
    text = world.get("/metrics").text
    for name in (device.id, "operator-1", "proxy-1", "shop-1", device.ek_hash.hex(), "fleet.example"):
        assert name not in text


_TWO_WORKERS = """
import os, sys
from pathlib import Path
from tests.service import World
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[3]  # as late as `attestd serve` does it
world = World(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    world.get("/v1/nonce")
print(world.get("/metrics").text)
"""


def test_processes_add_up(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    root = Path(__file__).parents[3]
    texts = [
        subprocess.run(
            [sys.executable, "-c", _TWO_WORKERS, str(tmp_path / f"instance-{number}"), str(number), str(folder)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in (2, 3)
    ]
    sample = 'attestd_requests_total{method="GET",route="/v1/nonce",status="204"} '
    assert sample + "2.0" in texts[0]
    assert sample + "5.0" in texts[1]
    assert 'attestd_devices{state="active"} 0.0' in texts[1]


def test_the_gauges_are_of_the_moment_not_of_the_past(world: World) -> None:
    world.proxy.get("/v1/bundle")
    world.clock.now -= timedelta(minutes=1)  # a clock that went back
    assert value(world, "attestd_bundle_age_seconds") == 0


# ---- The watch over the fleet -----------------------------------------------------------------------------------


def test_who_is_overdue_and_who_shall_attest(world: World) -> None:
    late, other, _ = (world.enrolled() for _ in range(3))
    world.clock.advance(hours=1)
    assert world.operator.post(f"/v1/admin/devices/{other.id}/demand", {"v": 1}).status_code == 200
    found = metrics(world)
    assert (found["attestd_devices_overdue", ()], found["attestd_devices_demanded", ()]) == (0, 1)
    world.clock.advance(hours=3, minutes=4, seconds=59)
    assert other.attest().status_code == 200
    assert value(world, "attestd_devices_overdue") == 0
    world.clock.advance(seconds=11)
    assert value(world, "attestd_devices_overdue") == 2
    assert late.attest().status_code == 200
    world.clock.advance(seconds=10)
    assert value(world, "attestd_devices_overdue") == 1


def test_who_did_not_attest_since_a_restore(world: World) -> None:
    world.enrolled()
    assert value(world, "attestd_devices_unattested") == 0
    with world.registry.acting() as c:
        c.execute(update(devices).values(attested_at=None, attestation_good_until=None))
    world.clock.advance(seconds=10)
    assert value(world, "attestd_devices_unattested") == 1


def test_the_brake_and_what_it_holds(world: World) -> None:
    now = int(world.clock().timestamp())
    found = metrics(world)
    assert found["attestd_brake_engaged", ()] == 0
    with world.registry.acting() as c:
        c.execute(update(brake).values(engaged_at=now))
        for name in ("a", "b"):
            c.execute(insert(held).values(device_id=name, at=now, result={}))
        for at in (now - 60, now - 59, now):
            c.execute(insert(quarantines).values(device_id="a", at=at))
    world.clock.advance(seconds=10)
    with world.registry.acting() as c:
        c.execute(update(quarantines).values(at=quarantines.c.at + 10))
    found = metrics(world)
    assert found["attestd_brake_engaged", ()] == 1
    assert found["attestd_held_results", ()] == 2
    assert found["attestd_quarantines_last_minute", ()] == 2


def test_results_are_counted_by_status(world: World) -> None:
    device = world.enrolled()
    device.attest()
    device.renew()
    assert results(world) == {"none": 2}, "the enrollment's and the attestation's; nothing is known of the software"


def results(world: World) -> dict[str, float]:
    name = "attestd_attestation_results_total"
    return {labels[0][1]: count for (named, labels), count in metrics(world).items() if named == name}


def test_a_contraindicated_result_is_counted(tmp_path: Path) -> None:
    bad = ReferenceSettings("image 13", {"sha256": {0: (b"\xff" * 32,)}})
    world = World(tmp_path, references=(bad,))
    device = world.device()
    device.enroll()
    world.approve(device)
    assert device.enroll().status_code == 403
    assert results(world) == {"contraindicated": 1}
    world.close()


def test_a_quarantined_device_s_result_is_counted(world: World) -> None:
    device = world.enrolled()
    world.configure(references=(ReferenceSettings("image 13", {"sha256": {0: (b"\xff" * 32,)}}),))
    assert device.attest().status_code == 202
    assert results(world) == {"none": 1, "contraindicated": 1}


def test_when_what_ends(world: World) -> None:
    now = int(world.clock().timestamp())
    keys = world.hierarchy.keys
    document: dict[str, Any] = {"name": "bike-4", "stage": "enforce", "pcrs": {"sha256": {"7": ["00" * 32]}}}
    with world.registry.acting() as c:
        for name, ends in (("a", now + 500), ("b", now + 300), ("c", now + 5)):
            references.add(
                c,
                name=name,
                stage="monitor" if name == "a" else "enforce",
                digest=name,
                document=write_object({**document, "not_after": ends}),
                added_by="ada",
                now=now,
                overlap=0,
            )
        (maker,) = trust.every(c)
    world.clock.advance(seconds=10)
    found = metrics(world)

    def end(which: str) -> float:
        return found["attestd_certificate_not_after_seconds", (("which", which),)]

    assert end("root") == keys.roots[0].not_valid_after_utc.timestamp()
    assert end("issuer") == keys.issuers[0].certificate.not_valid_after_utc.timestamp()
    assert end("makers_first") == maker.not_after
    assert end("manifests_first") == now + 300, "one that ended alarms nobody for ever"
    assert found["attestd_reference_manifests", (("stage", "enforce"),)] == 2
    assert found["attestd_reference_manifests", (("stage", "monitor"),)] == 1
    assert found["attestd_reference_manifests", (("stage", "learn"),)] == 0


def test_how_long_ago_the_watch_looked(world: World) -> None:
    world.clock.advance(seconds=10)
    assert (value(world, "attestd_watch_last_round_seconds") or 0) > 1e9, "it never did"
    watch(world.registry, world.settings, world.hierarchy, now=world.clock(), pause=lambda _: None)
    world.clock.advance(seconds=90)
    assert value(world, "attestd_watch_last_round_seconds") == 90


def test_how_far_behind_a_webhook_is(world: World) -> None:
    hook = WebhookSettings("pager", "https://pager.example/x", "pager.secret")
    with_hook = replace(world.service, settings=replace(world.settings, webhooks=(hook,)))
    world.service, world.app = with_hook, create_app(with_hook)
    seal = world.service.publication.audit.seal
    seal(world.clock())
    now = int(world.clock().timestamp())
    with world.registry.acting() as c:
        place = followers.hold(c, "pager", now=now, until=now + 60)
    assert value(world, "attestd_webhook_lag_seconds", webhook="pager") == 0
    world.enrolled()
    seal(world.clock())
    world.clock.advance(seconds=20)
    assert value(world, "attestd_webhook_lag_seconds", webhook="pager") == 20
    assert (value(world, "attestd_webhook_lag", webhook="pager") or 0) > 0
    with world.registry.acting() as c:
        followers.move(c, "pager", known=place or 0, moved=audit_tree.size(c))
    world.clock.advance(seconds=20)
    assert value(world, "attestd_webhook_lag_seconds", webhook="pager") == 0
