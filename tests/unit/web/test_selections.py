"""One act for many devices: each as it was seen, the others told, and nobody blocks anybody."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from attestd.errors import AttestdError
from attestd.ids import DeviceId, Site, Tier
from attestd.operations.selections import MAX_SELECTED, Selected, Selection
from attestd.registry import audit, devices
from attestd.registry.states import Event
from tests.service import World

pytestmark = pytest.mark.database


def message(act: str, chosen: list[tuple[str, int]], **more: Any) -> dict[str, Any]:
    return {"v": 1, "act": act, "devices": [{"id": name, "version": version} for name, version in chosen], **more}


def seen(world: World) -> list[tuple[str, int]]:
    """All devices, as an operator sees them."""
    with world.registry.reading() as c:
        return [(device.id, device.state_version) for device in devices.page(c)]


def states(world: World) -> dict[str, str]:
    with world.registry.reading() as c:
        return {device.id: device.state.value for device in devices.page(c)}


def waiting(world: World, count: int) -> None:
    for _ in range(count):
        world.device().enroll()


def post(world: World, body: dict[str, Any], *, role: str = "operator") -> Any:
    return getattr(world, role).post("/v1/admin/devices/selection", body)


def test_many_are_approved_into_one_place(world: World) -> None:
    waiting(world, 3)
    place = {"tier": "edge", "site": "berlin", "labels": {"ring": "canary"}}
    answer = post(world, message("approve", seen(world), reason="delivery 7", **place))
    assert (answer.status_code, answer.json["left"]) == (200, [])
    assert [(one["state"], one["tier"], one["site"], one["labels"]) for one in answer.json["done"]] == [
        ("approved", "edge", "berlin", {"ring": "canary"})
    ] * 3
    with world.registry.reading() as c:
        rows = [row for row in audit.page(c) if row.act == "approve"]
    assert {row.subject for row in rows} == {name for name, _ in seen(world)}
    assert {(row.actor, row.detail["reason"]) for row in rows} == {("operator:operator-1", "delivery 7")}


def test_a_dry_run_tells_the_same_and_changes_nothing(world: World) -> None:
    waiting(world, 2)
    world.enrolled()
    chosen = [*seen(world), ("nobody", 1)]
    before = seen(world)
    told = post(world, message("reject", chosen, dry_run=True)).json
    assert seen(world) == before
    done = post(world, message("reject", chosen)).json
    assert [one["id"] for one in told["done"]] == [one["id"] for one in done["done"]]
    assert told["left"] == done["left"]
    assert {one["problem"] for one in done["left"]} == {"transition-refused", "unknown-device"}
    assert sorted(states(world).values()) == ["active", "rejected", "rejected"]


def test_who_changed_meanwhile_is_left_and_told(world: World) -> None:
    first, second = world.enrolled(), world.enrolled()
    chosen = seen(world)
    moved = str(world.row(first).id)
    world.operator.post(f"/v1/admin/devices/{moved}/quarantine", {"v": 1})
    world.operator.post(f"/v1/admin/devices/{moved}/release", {"v": 1})
    answer = post(world, message("quarantine", chosen)).json
    assert [(one["id"], one["problem"]) for one in answer["left"]] == [(moved, "state-changed")]
    assert states(world) == {moved: "active", str(world.row(second).id): "quarantined"}


def test_retiring_revokes_what_each_one_holds(world: World) -> None:
    world.enrolled()
    world.enrolled()
    post(world, message("retire", seen(world)))
    credentials = world.viewer.get("/v1/admin/credentials").json["credentials"]
    devices_own = [one for one in credentials if one["device_id"] is not None]
    assert len(devices_own) == 2
    assert all(one["revoked_at"] for one in devices_own)


@pytest.mark.parametrize("act", ["demand", "quarantine"])
def test_who_is_active_can_be_demanded_or_quarantined(world: World, act: str) -> None:
    world.enrolled()
    assert len(post(world, message(act, seen(world))).json["done"]) == 1
    assert (act == "quarantine") == (list(states(world).values()) == ["quarantined"])


FULL = {f"l{number}": "x" * 100 for number in range(4)}


def test_many_are_labelled_and_who_can_not_be_is_told(world: World) -> None:
    plain, full, same = (world.enrolled(labels=labels) for labels in ({"a": "1"}, FULL, {"ring": "x" * 90}))
    waiting(world, 1)
    body = message("label", seen(world), labels={"ring": "x" * 90}, remove=["a"], reason="moved")
    told = post(world, {**body, "dry_run": True}).json
    assert [one["labels"] for one in told["done"]] == [{"a": "1"}]
    done = post(world, body).json
    assert [(one["id"], one["labels"]) for one in done["done"]] == [(plain.id, {"ring": "x" * 90})]
    assert told["left"] == done["left"]
    problems = {one["id"]: one["problem"] for one in done["left"]}
    assert problems.pop(full.id) == "malformed-labels"
    assert problems.pop(same.id) == "labels-unchanged"
    assert list(problems.values()) == ["transition-refused"]
    with world.registry.reading() as c:
        rows = [row for row in audit.page(c) if row.act == "label"]
    assert [(row.subject, row.detail["old"], row.detail["reason"]) for row in rows] == [(plain.id, {"a": "1"}, "moved")]


@pytest.mark.parametrize("revoke", [False, True])
def test_certificates_of_many_end_where_that_is_asked(world: World, revoke: bool) -> None:
    world.enrolled()
    assert post(world, message("label", seen(world), labels={"a": "b"}, revoke=revoke)).json["left"] == []
    credentials = world.viewer.get("/v1/admin/credentials").json["credentials"]
    assert [one["revoked_at"] is not None for one in credentials if one["device_id"]] == [revoke]


@pytest.mark.parametrize(
    ("body", "slug"),
    [
        (message("approve", []), "selection-empty"),
        (message("reject", [("a", 1), ("a", 2)]), "selected-twice"),
        (message("approve", [("a", 1)]), "place-missing"),
        (message("approve", [("a", 1)], tier="edge"), "place-missing"),
        (message("reject", [("a", 1)], tier="edge", site="berlin"), "place-missing"),
        (message("activate", [("a", 1)]), "malformed-json"),
        (message("replace", [("a", 1)]), "malformed-json"),
        (message("reject", [("a", 0)]), "malformed-json"),
        (message("reject", [("a", 1 << 53)]), "malformed-json"),
        (message("reject", [("a", 1)], force=True), "malformed-json"),
        (message("label", [("a", 1)]), "no-label-named"),
        (message("label", [("a", 1)], labels={"a b": "c"}), "malformed-labels"),
        (message("label", [("a", 1)], labels={"a": "b"}, tier="edge", site="berlin"), "malformed-json"),
        (message("reject", [("a", 1)], remove=["a"]), "malformed-json"),
        (message("reject", [("a", 1)], revoke=True), "malformed-json"),
    ],
)
def test_what_is_no_selection(world: World, body: dict[str, Any], slug: str) -> None:
    answer = post(world, body)
    assert (answer.status_code, answer.json["type"].rpartition(":")[2]) == (400, slug)


def test_more_than_one_selection_holds(world: World) -> None:
    most = [(f"d{number}", 1) for number in range(MAX_SELECTED)]
    assert post(world, message("reject", most, dry_run=True)).status_code == 200
    assert post(world, message("reject", [*most, ("more", 1)], dry_run=True)).status_code == 413


def test_labels_that_are_none_change_nothing(world: World) -> None:
    waiting(world, 2)
    before = seen(world)
    body = message("approve", before, tier="edge", site="berlin", labels={"no space": "x"})
    assert post(world, body).json["type"].rpartition(":")[2] == "malformed-labels"
    assert seen(world) == before


def test_a_viewer_may_not_even_try(world: World) -> None:
    assert post(world, message("reject", [("a", 1)], dry_run=True), role="viewer").status_code == 403


def test_selections_that_overlap_do_not_block_each_other(world: World) -> None:
    """Half of them come in the opposite order, and single acts come in between. Each device is done once."""
    ids = [DeviceId(f"bike-{number:02}") for number in range(24)]
    rows = "\n".join(f"{number:064x},device,berlin,{name}" for number, name in enumerate(ids))
    world.operator.post("/v1/admin/devices/import", f"ek_hash,tier,site,id\n{rows}\n".encode(), content_type="text/csv")
    chosen = [Selected(DeviceId(name), version) for name, version in seen(world)]
    started, failed, done = threading.Barrier(4), [], []

    def act(order: list[Selected]) -> None:
        started.wait(20)
        try:
            outcome = world.service.selections.carry_out(Selection(Event.RETIRE, order), world.act)
            done.extend(device.id for device in outcome.done)
        except AttestdError as error:
            failed.append(error)

    def one_by_one() -> None:
        started.wait(20)
        for selected in chosen[::3]:
            try:
                world.service.operations.change_state(
                    selected.id, Event.RETIRE, act=world.act, expected_version=selected.version
                )
            except AttestdError as error:
                if error.slug() not in ("state-changed", "transition-refused"):
                    failed.append(error)
            else:
                done.append(selected.id)

    threads = [threading.Thread(target=act, args=(order,)) for order in (chosen, chosen[::-1], chosen)]
    threads.append(threading.Thread(target=one_by_one))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert sorted(done) == sorted(ids)


def test_a_place_is_typed() -> None:
    Selection(Event.APPROVE, [Selected(DeviceId("a"), 1)], tier=Tier.EDGE, site=Site("berlin")).check()
