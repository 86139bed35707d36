"""How the fleet stands, and its devices by filters, as the admin API says it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from attestd.ids import DeviceId, EkHash, Site, Tier
from attestd.registry import admission, counts, outcomes
from attestd.registry.acts import perform
from attestd.registry.inventory import InventoryEntry
from attestd.registry.tables import devices
from attestd_console import outlook
from tests.described import require_described
from tests.service import World

LABELS = {"ring": "stable"}


def enroll(world: World, *ids: str, **values: Any) -> None:
    """Devices of the inventory that stand as `values` say."""
    now = int(world.clock().timestamp())
    entries = [
        InventoryEntry(
            n, EkHash.of(name.encode()), Tier.DEVICE, Site("ber-plant"), f"SN-{name}", LABELS, DeviceId(name)
        )
        for n, name in enumerate(ids)
    ]
    with world.registry.acting() as c:
        admission.import_approved(c, entries, entropy=world.service.entropy, now=now)
        found = {"state": "active", "attested_at": now, "attestation_good_until": now + 900, **values}
        c.execute(update(devices).where(devices.c.id.in_(ids)).values(found))


def test_the_share_that_is_trusted(world: World) -> None:
    now = int(world.clock().timestamp())
    enroll(world, "a1", "a2", result_status="affirming")
    enroll(world, "w1", result_status="warning")
    enroll(world, "l1", result_status="affirming", attestation_good_until=now - 3600)
    enroll(world, "n1")
    enroll(
        world, "q1", "q2", state="quarantined", state_reason="Kernel", quarantined_by="appraisal", quarantined_at=now
    )
    enroll(world, "r1", state="retired")
    answer = world.viewer.get("/v1/admin/overview")
    require_described("GET", "/v1/admin/overview", answer)
    seen = answer.json
    expected = {"devices": 7, "affirming": 2, "warning": 1, "none": 1, "overdue": 1, "quarantined": 2}
    assert seen["tiers"]["device"] == {"contraindicated": 0, **expected}
    assert seen["tiers"]["edge"]["devices"] == 0
    assert (seen["sites"], seen["devices"]["retired"]) == (1, 1)
    assert seen["needs"]["quarantined"] == [
        {"why": "Kernel", "site": "ber-plant", "by": "appraisal", "count": 2, "since": now, "example": "q1"}
        | {"serial_number": None}
    ]
    assert seen["needs"]["overdue"] == [{"site": "ber-plant", "count": 1, "since": now - 3600, "edges": []}]
    assert (seen["needs"]["quarantined_more"], seen["needs"]["overdue_sites"]) == (False, 1)


def test_who_is_quarantined_alone_is_called_by_its_serial_number(world: World) -> None:
    enroll(world, "q1", "q2", state="quarantined", state_reason="Kernel", serial_number="SN-1")
    enroll(world, "q3", state="quarantined", state_reason="Stolen", serial_number="SN-3")
    answer = world.viewer.get("/v1/admin/overview")
    require_described("GET", "/v1/admin/overview", answer)
    found = {each["example"]: each["serial_number"] for each in answer.json["needs"]["quarantined"]}
    assert found == {"q1": None, "q3": "SN-3"}
    headings = [todo.heading for todo in outlook.todos(answer.json, int(world.clock().timestamp()))]
    assert "SN-3 at ber-plant is quarantined" in headings


def test_results_and_refusals_of_a_day(world: World) -> None:
    now = int(world.clock().timestamp())
    with world.registry.acting() as c:
        perform(c, outcomes.marking("affirming", now=now), outcomes.marking("affirming", now=now - 90_000))
        perform(c, *outcomes.contraindicating("attest", ["Bad."], site=Site("x"), device=DeviceId("d"), now=now))
    answer = world.viewer.get("/v1/admin/overview")
    require_described("GET", "/v1/admin/overview", answer)
    at = now - now % outcomes.STEP
    assert [(each["at"], each["status"], each["count"]) for each in answer.json["results"]] == [
        (at, "affirming", 1),
        (at, "contraindicated", 1),
    ]
    (refusal,) = answer.json["refusals"]
    assert (refusal["why"], refusal["sites"], refusal["devices"]) == ("Bad", [{"site": "x", "count": 1}], ["d"])


def test_the_service_says_how_it_is(world: World) -> None:
    seen = world.viewer.get("/v1/admin/overview").json["service"]
    assert seen["database"]["kind"] in ("SQLite", "PostgreSQL")
    assert seen["edges"] == {"count": 0, "newest": 0, "behind": []}
    assert seen["brake"]["engaged_at"] is None
    assert seen["signing_key"] == "file"


def test_how_many_devices_there_are(world: World) -> None:
    enroll(world, "a1", "a2")
    enroll(world, "q1", state="quarantined")
    answer = world.viewer.get("/v1/admin/counts")
    require_described("GET", "/v1/admin/counts", answer)
    assert {state: count for state, count in answer.json["devices"].items() if count} == {"active": 2, "quarantined": 1}
    assert answer.json["devices"] == world.viewer.get("/v1/admin/overview").json["devices"]


def test_how_long_attestations_took(world: World) -> None:
    def said() -> dict[str, Any]:
        answer = world.viewer.get("/v1/admin/overview")
        require_described("GET", "/v1/admin/overview", answer)
        return dict(answer.json["service"]["attestations"])

    device = world.enrolled()
    assert said() == {"count": 0, "since": None, "microseconds": None}
    at = int(world.clock().timestamp())
    assert device.attest().status_code == 200
    found = said()
    assert (found["count"], found["since"]) == (1, at)
    assert found["microseconds"] > 0
    nonce = world.nonce()
    world.clock.advance(minutes=16)
    assert device.attest(nonce=nonce).status_code >= 400  # a refused one is no attestation
    assert said()["count"] == 0


def test_devices_by_filters(world: World) -> None:
    enroll(world, "gw-1", "gw-2", "gw-3", result_status="affirming", manufacturer="Norvik")
    enroll(world, "sensor-1", state="quarantined", state_reason="odd")
    for query, expected in (
        ("state=quarantined", ["sensor-1"]),
        ("state=active,quarantined&maker=norvik", ["gw-1", "gw-2", "gw-3"]),
        ("q=SN-gw-2", ["gw-2"]),
        ("label=ring%3Dstable&result=affirming&q=gw", ["gw-1", "gw-2", "gw-3"]),
        ("overdue=yes", []),
        ("q=%25", []),
    ):
        answer = world.viewer.get(f"/v1/admin/devices?{query}")
        require_described("GET", "/v1/admin/devices", answer)
        assert [device["id"] for device in answer.json["devices"]] == expected, query
        assert answer.json["total"] == len(expected)
    page = world.viewer.get("/v1/admin/devices?q=gw&limit=2").json
    assert (page["after"], page["total"]) == ("gw-2", 3)
    assert [each["id"] for each in world.viewer.get("/v1/admin/devices?q=gw&limit=2&after=gw-2").json["devices"]] == [
        "gw-3"
    ]


@pytest.mark.parametrize("query", ["state=asleep", "result=good", "overdue=1", "q=a+b+c+d+e+f+g+h+i", "state=active,x"])
def test_a_filter_that_is_refused(world: World, query: str) -> None:
    for path in ("devices", "causes"):
        answer = world.viewer.get(f"/v1/admin/{path}?{query}")
        require_described("GET", f"/v1/admin/{path}", answer)
        assert (answer.status_code, answer.json["type"]) == (400, "urn:attestd:problem:filter-malformed")


@pytest.mark.parametrize("after", ["%00", "A", "..%2f", "x" * 65, "-1"])
def test_a_place_in_the_list_is_a_device_id(world: World, after: str) -> None:
    assert world.viewer.get("/v1/admin/devices?after=zzz").status_code == 200
    assert world.viewer.get(f"/v1/admin/devices?after={after}").status_code == 400


def test_causes(world: World) -> None:
    enroll(world, "q1", "q2", state="quarantined", state_reason="<b>odd</b>")
    answer = world.viewer.get("/v1/admin/causes?state=quarantined")
    require_described("GET", "/v1/admin/causes", answer)
    (cause,) = answer.json["causes"]
    assert (cause["kind"], cause["why"], cause["count"], cause["devices"]) == (
        "quarantined",
        "<b>odd</b>",
        2,
        ["q1", "q2"],
    )


def test_an_ek_hash_finds_its_device_by_post_alone(world: World) -> None:
    enroll(world, "gw-1")
    ek_hash = EkHash.of(b"gw-1").hex()
    answer = world.operator.post("/v1/admin/devices/find", {"ek_hash": ek_hash})
    require_described("POST", "/v1/admin/devices/find", answer)
    assert answer.json["id"] == "gw-1"
    other = world.operator.post("/v1/admin/devices/find", {"ek_hash": "00" * 32})
    assert (other.status_code, other.json["type"]) == (404, "urn:attestd:problem:no-such-tpm")
    assert world.operator.post("/v1/admin/devices/find", {"ek_hash": "%" * 64}).status_code == 400
    assert world.viewer.post("/v1/admin/devices/find", {"ek_hash": ek_hash}).status_code == 403
    assert world.viewer.get(f"/v1/admin/devices?q={ek_hash}").json["devices"] == []


def test_sites(world: World) -> None:
    enroll(world, "gw-1")
    answer = world.viewer.get("/v1/admin/sites")
    require_described("GET", "/v1/admin/sites", answer)
    assert answer.json == {"v": 1, "sites": ["ber-plant"], "after": None}
    assert world.viewer.get("/v1/admin/sites?after=ber-plant").json["sites"] == []


def test_the_numbers_are_the_same_before_and_after_they_are_added_up(world: World) -> None:
    enroll(world, "gw-1", "gw-2", result_status="affirming")
    before = world.viewer.get("/v1/admin/overview").json["tiers"]
    with world.registry.acting() as c:
        counts.fold(c)
    assert world.viewer.get("/v1/admin/overview").json["tiers"] == before
