"""The admin API for many devices at once: the brake, and cohorts as they were seen."""

from __future__ import annotations

from typing import Any

import pytest

from attestd.ids import DeviceId
from attestd.operations import fleet
from attestd.registry import audit, brake, transitions
from attestd.registry.cohorts import Cohort
from attestd.registry.states import Event, State
from tests.described import require_described
from tests.service import SITE, SoftDevice, World, meanwhile, problem

RESULT: dict[str, Any] = {
    "status": "contraindicated",
    "vector": {"executables": 96},
    "reasons": ["because"],
    "attested_at": 1_780_000_000,
}


def hold(world: World, *device_ids: str) -> None:
    with world.registry.acting() as c:
        for device_id in device_ids:
            brake.hold(c, DeviceId(device_id), RESULT, now=int(world.clock().timestamp()))


def engage(world: World, **message: Any) -> Any:
    return world.operator.post("/v1/admin/brake/engage", {"v": 1, **message})


def release(world: World, **message: Any) -> Any:
    return world.operator.post("/v1/admin/brake/release", {"v": 1, **message})


def cohort(world: World, **message: Any) -> Any:
    return world.operator.post("/v1/admin/devices/release-cohort", {"v": 1, **message})


def quarantined(world: World, **approval: Any) -> SoftDevice:
    device = world.enrolled(**approval)
    world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1, "reason": "odd"})
    return device


def trail(world: World, act: str) -> list[audit.AuditRecord]:
    with world.registry.reading() as c:
        return [row for row in audit.page(c) if row.act == act]


# ---- The brake --------------------------------------------------------------------------------------------------


def test_released(world: World) -> None:
    assert world.viewer.get("/v1/admin/brake").json == {
        "v": 1,
        "enabled": True,
        "engaged": None,
        "count": 0,
        "limit": 3,
        "held_count": 0,
        "first_end": None,
        "held": [],
        "after": None,
    }


def test_engaged_by_hand(world: World) -> None:
    answer = engage(world, reason="a new manifest")
    assert (answer.status_code, answer.json) == (200, {"v": 1, "engaged": True})
    assert world.viewer.get("/v1/admin/brake").json["engaged"] == {
        "at": int(world.clock().timestamp()),
        "by": "operator:operator-1",
        "reason": "a new manifest",
    }
    (row,) = trail(world, "engage-brake")
    assert (row.actor, row.subject, row.detail) == ("operator:operator-1", "fleet", {"reason": "a new manifest"})
    again = engage(world)
    assert (again.status_code, problem(again)) == (409, "brake-engaged")


def test_what_is_held_page_by_page(world: World) -> None:
    engage(world)
    hold(world, "a", "b", "c")
    first = world.viewer.get("/v1/admin/brake?limit=2").json
    assert [entry["device_id"] for entry in first["held"]] == ["a", "b"]
    assert first["held"][0]["result"] == RESULT
    assert (first["held_count"], first["after"]) == (3, "b")
    rest = world.viewer.get("/v1/admin/brake?limit=2&after=b").json
    assert ([entry["device_id"] for entry in rest["held"]], rest["after"]) == (["c"], None)


def test_what_is_held_by_its_reasons(world: World) -> None:
    one, other = world.enrolled(), world.enrolled()
    engage(world)
    hold(world, one.id, other.id)
    answer = world.viewer.get("/v1/admin/brake/causes")
    require_described("GET", "/v1/admin/brake/causes", answer)
    (cause,) = answer.json["causes"]
    assert (cause["kind"], cause["why"], cause["count"]) == ("contraindicated", "because", 2)
    assert (cause["devices"], answer.json["more"]) == (sorted([one.id, other.id]), False)
    standing = world.viewer.get("/v1/admin/brake")
    require_described("GET", "/v1/admin/brake", standing)
    ends = [world.row(device).attestation_good_until for device in (one, other)]
    assert standing.json["first_end"] == min(end for end in ends if end is not None)


def test_lists_say_of_which_devices_a_result_is_held(world: World) -> None:
    """The device stays as it was found before: nothing else of it tells."""
    bad, good = world.enrolled(), world.enrolled()
    engage(world)
    hold(world, bad.id)
    listed = world.viewer.get("/v1/admin/devices")
    require_described("GET", "/v1/admin/devices", listed)
    held = {"device_id": bad.id, "at": int(world.clock().timestamp()), "result": RESULT}
    assert listed.json["held"] == [held]
    assert {each["state"] for each in listed.json["devices"]} == {"active"}
    for device, said in ((bad, held), (good, None)):
        page = world.viewer.get(f"/v1/admin/devices/{device.id}")
        require_described("GET", "/v1/admin/devices/<id>", page)
        assert page.json["held"] == said
    release(world, held="dismiss")
    assert world.viewer.get("/v1/admin/devices").json["held"] == []
    assert world.viewer.get(f"/v1/admin/devices/{bad.id}").json["held"] is None


@pytest.mark.parametrize(("fate", "state"), [("dismiss", State.ACTIVE), ("quarantine", State.QUARANTINED)])
def test_releasing_says_what_becomes_of_what_is_held(world: World, fate: str, state: State) -> None:
    device, quarantined = world.enrolled(), int(fate == "quarantine")
    engage(world)
    hold(world, device.id)
    answer = release(world, held=fate, reason="seen it")
    assert (answer.status_code, answer.json) == (200, {"v": 1, "engaged": False, "held": 1, "quarantined": quarantined})
    assert world.row(device).state is state
    (row,) = trail(world, "release-brake")
    assert row.detail == {"fate": fate, "held": 1, "quarantined": quarantined, "reason": "seen it"}
    assert [row.subject for row in trail(world, "quarantine")] == [device.id] * quarantined
    standing = world.viewer.get("/v1/admin/brake").json
    assert (standing["engaged"], standing["held_count"]) == (None, 0)


def test_releasing_what_is_released(world: World) -> None:
    answer = release(world, held="dismiss")
    assert (answer.status_code, problem(answer)) == (409, "brake-released")


@pytest.mark.parametrize(
    "message",
    [{}, {"held": "keep"}, {"held": True}, {"held": "dismiss", "devices": []}, {"held": "dismiss", "reason": 1}],
)
def test_a_malformed_release_changes_nothing(world: World, message: dict[str, Any]) -> None:
    engage(world)
    answer = release(world, **message)
    assert (answer.status_code, problem(answer)) == (400, "malformed-json")
    assert world.viewer.get("/v1/admin/brake").json["engaged"] is not None


# ---- Cohorts ----------------------------------------------------------------------------------------------------


def test_a_preview_changes_nothing(world: World) -> None:
    device = quarantined(world)
    before = world.row(device)
    answer = cohort(world, site=SITE, dry_run=True)
    assert answer.status_code == 200
    assert answer.json["count"] == 1
    assert [entry["id"] for entry in answer.json["devices"]] == [device.id]
    assert answer.json["devices"][0]["state_reason"] == "odd"
    assert world.row(device) == before
    assert trail(world, "release-cohort") == []


def test_it_is_released_as_it_was_seen(world: World) -> None:
    two, other = [quarantined(world, labels={"line": "2"}) for _ in range(2)], quarantined(world)
    answer = cohort(world, label="line=2", tier="device", expected=2, reason="mended")
    assert (answer.status_code, answer.json) == (200, {"v": 1, "released": 2, "left": 0})
    assert [world.row(device).state for device in (*two, other)] == [State.ACTIVE, State.ACTIVE, State.QUARANTINED]
    (row,) = trail(world, "release-cohort")
    assert (row.actor, row.subject) == ("operator:operator-1", "fleet")
    assert row.detail == {
        "released": 2,
        "left": 0,
        "cohort": {"label": "line=2", "tier": "device"},
        "reason": "mended",
    }
    rows = trail(world, "release")
    assert sorted(row.subject for row in rows) == sorted(device.id for device in two)
    assert {(row.actor, row.detail["reason"]) for row in rows} == {("operator:operator-1", "mended")}
    assert two[0].attest().status_code == 200


@pytest.mark.parametrize("expected", [0, 1, 3])
def test_one_more_or_one_less_than_was_seen(world: World, expected: int) -> None:
    two = [quarantined(world) for _ in range(2)]
    answer = cohort(world, site=SITE, expected=expected)
    assert (answer.status_code, problem(answer)) == (409, "cohort-changed")
    assert [world.row(device).state for device in two] == [State.QUARANTINED] * 2


def test_one_is_retired_under_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    two = [quarantined(world) for _ in range(2)]
    seen = cohort(world, site=SITE, dry_run=True).json["count"]

    def retire() -> None:
        with world.registry.acting() as c:
            transitions.change_state(c, world.row(two[0]).id, Event.RETIRE, reason="", now=0)

    meanwhile(monkeypatch, retire)
    with pytest.raises(fleet.CohortChanged):
        world.service.fleet.release_cohort(Cohort(quarantined_by="operator"), expected=seen, act=world.act)
    assert [world.row(device).state for device in two] == [State.RETIRED, State.QUARANTINED]


def test_more_than_one_act_takes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "MAX_COHORT", 2)
    monkeypatch.setattr(fleet, "SHOWN", 1)
    for _ in range(3):
        quarantined(world)
    seen = cohort(world, site=SITE, dry_run=True).json
    assert (seen["count"], len(seen["devices"])) == (3, 1)
    assert cohort(world, site=SITE, expected=3).json == {"v": 1, "released": 2, "left": 1}
    assert cohort(world, site=SITE, expected=1).json == {"v": 1, "released": 1, "left": 0}


def test_since_then(world: World) -> None:
    early = quarantined(world)
    world.clock.advance(minutes=1)
    late = quarantined(world)
    assert cohort(world, since=int(world.clock().timestamp()), expected=1).status_code == 200
    assert (world.row(early).state, world.row(late).state) == (State.QUARANTINED, State.ACTIVE)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"expected": 1}, "cohort-unnamed"),
        ({"dry_run": True}, "cohort-unnamed"),
        ({"site": SITE}, "malformed-json"),
        ({"site": SITE, "dry_run": False}, "malformed-json"),
        ({"site": SITE, "dry_run": 1, "expected": 1}, "malformed-json"),
        ({"site": SITE, "dry_run": True, "expected": 1}, "malformed-json"),
        ({"site": SITE, "expected": "1"}, "malformed-json"),
        ({"site": SITE, "expected": -1}, "malformed-json"),
        ({"site": SITE, "expected": True}, "malformed-json"),
        ({"site": "Shop 1", "expected": 1}, "malformed-name"),
        ({"tier": "moon", "expected": 1}, "malformed-name"),
        ({"label": "line", "expected": 1}, "malformed-json"),
        ({"label": "A B=2", "expected": 1}, "malformed-labels"),
        ({"since": -1, "expected": 1}, "malformed-json"),
        ({"since": 1 << 60, "expected": 1}, "malformed-json"),
        ({"by": "ada", "expected": 1}, "malformed-json"),
        ({"site": SITE, "state": "rejected", "expected": 1}, "malformed-json"),
    ],
)
def test_a_malformed_cohort_changes_nothing(world: World, message: dict[str, Any], expected: str) -> None:
    device = quarantined(world)
    answer = cohort(world, **message)
    assert (answer.status_code, problem(answer)) == (400, expected)
    assert world.row(device).state is State.QUARANTINED
