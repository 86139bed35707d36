"""Alive, ready, counted."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from attestd.registry.engine import DatabaseBusy, Registry
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
