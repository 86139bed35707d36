"""More requests than the service can answer: known devices renew all the same, and who knocks too often is told so."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.load.conftest import PROMISE, SOAK, Site, scale
from tests.load.running import Client, attackers, attestd, enroll, renewing, serving, told

SETTINGS = {"limits_reads_burst": "100", "limits_enrollments_burst": "100", "limits_failures_burst": "20"}
SECONDS = scale(3, 60)
GROWN = 150
# A source a connection: no rate holds any of them.
LONG = [
    ("garbage", "/v1/tokens", 2000, None),
    ("enrollments", "/v1/enrollments", 2000, None),
    ("reads", "/nothing", 4, "429"),
] * SOAK


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("attack", "path", "sources", "refused"),
    [
        ("garbage", "/v1/renewals", 4, "429"),
        ("impostors", "/v1/renewals", 4, None),
        ("impostors", "/v1/renewals", 2000, None),
        ("enrollments", "/v1/enrollments", 4, "429"),
        ("reads", "/v1/nonce", 4, "429"),
        ("garbage", "/v1/admin/devices/import", 4, None),
        *LONG,
    ],
)
def test_devices_renew_while_others_knock(
    site: Site, attack: str, path: str, sources: int, refused: str | None
) -> None:
    kid = site.devices[0].id
    with attackers(site.service, attack, connections=scale(64, 500), sources=sources, path=path, kid=kid) as (tell,):
        with site.renewing() as outcome:
            time.sleep(SECONDS)
        site.must_hold(outcome, grown=GROWN)
    seen = told(tell)
    assert sum(seen.values()) > 100, seen  # it was a flood
    assert seen["200"] + seen["204"] < sum(seen.values())
    if refused is not None:
        assert seen[refused] > 10, seen


def test_devices_beside_an_attacker_renew(site: Site) -> None:
    """Behind one address with who floods the door in their names."""
    kid = site.devices[0].id
    with attackers(site.service, "impostors", connections=16, sources=1, network=0, kid=kid) as (tell,):
        beside = enroll(site.service, ["127.0.0.255"] * 2)  # the attacker's own address
        with renewing([*beside, *site.devices], promise=PROMISE) as outcome:
            time.sleep(SECONDS)
    assert outcome.failures == []
    assert outcome.silent == 0
    assert len(outcome.by_device) == 2 + len(site.devices)
    assert told(tell)["401"] > 20


def test_a_whole_site_behind_one_address_enrolls(site: Site) -> None:
    devices = enroll(site.service, ["127.0.3.1"] * 40)
    assert len({device.id for device in devices}) == 40


def test_refusals_say_when_to_come_back_and_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    attestd(folder, "init", "--trust-domain", "example.org")
    with serving(folder, server_workers="1", limits_reads="1", limits_reads_burst="5") as service:
        client = Client(service, "127.0.9.1")
        answers = [client.get("/v1/nonce") for _ in range(8)]
        assert [answer.status_code for answer in answers] == [204] * 5 + [429] * 3
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 2
        assert answers[-1].headers["Content-Type"] == "application/problem+json"
        assert b"too-many-requests" in answers[-1].data
        counted = service.metrics()
        assert counted['attestd_refused_total{reason="rate",work="read"}'] == 3
        time.sleep(2.1)
        assert client.get("/v1/nonce").status_code == 204
        client.close()
