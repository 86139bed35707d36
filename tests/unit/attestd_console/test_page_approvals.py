"""Approvals, and one act for many: whom it touches, what follows, and nothing that was not seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.console import Markup, console_client
from tests.service import World, problem

XSS = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "instance")
    yield world
    world.close()


def waiting(world: World, count: int) -> list[str]:
    """Devices that wait, as the boxes of a form name them."""
    for _ in range(count):
        world.device().enroll()
    return boxes(world)


def known(world: World) -> list[dict[str, Any]]:
    return list(world.viewer.get("/v1/admin/devices").json["devices"])


def boxes(world: World) -> list[str]:
    return [f"{device['id']}:{device['state_version']}" for device in known(world)]


def states(world: World) -> list[str]:
    return sorted(device["state"] for device in known(world))


def test_who_is_alike_stands_together_with_what_speaks_for_them(world: World) -> None:
    chosen = waiting(world, 3)
    page = console_client(world, "operator").get("/approvals").text
    markup = Markup(page)
    assert "3 that are alike" in markup.words
    assert markup.words.count("Endorsed by a maker you trust") == 3
    assert [box["value"] for box in markup.all("input") if box.get("name") == "device"] == chosen


def test_several_are_approved_into_one_place(world: World) -> None:
    chosen = waiting(world, 2)
    console = console_client(world, "operator")
    form = {"device": chosen, "tier": "edge", "site": "berlin", "labels": "ring=canary lane=3", "reason": "delivery"}
    answer = console.post("/approvals", form)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/approvals")
    assert states(world) == ["approved", "approved"]
    assert [device["labels"] for device in known(world)] == [{"ring": "canary", "lane": "3"}] * 2
    assert "2 devices approved into berlin" in console.get("/approvals").text


def test_a_site_that_is_none_is_told_and_nothing_is_lost(world: World) -> None:
    chosen = waiting(world, 1)
    answer = console_client(world, "operator").post(
        "/approvals", {"device": chosen, "tier": "edge", "site": "No Site", "labels": "ring=canary"}
    )
    assert answer.status_code == 400
    assert "Nothing was done" in answer.text
    assert states(world) == ["pending"]
    assert 'value="ring=canary"' in answer.text


@pytest.mark.parametrize("device", [[], ["nobody"], ["a:0"], ["a:1:2"], ["<b>:1"], ["a:1" + "0" * 30]])
def test_a_form_that_names_nobody(world: World, device: list[str]) -> None:
    answer = console_client(world, "operator").post("/approvals", {"device": device, "tier": "edge", "site": "x"})
    assert answer.status_code == 400
    assert "<b>:1" not in answer.text


def test_too_many_at_once(world: World) -> None:
    many = [f"d{number}:1" for number in range(1001)]
    answer = console_client(world, "operator").post("/selection", {"device": many, "act": "retire"})
    assert answer.status_code == 400
    assert "1,000" in answer.text


def test_a_viewer_sees_who_waits_and_decides_nothing(world: World) -> None:
    chosen = waiting(world, 1)
    console = console_client(world, "viewer")
    page = Markup(console.get("/approvals").text)
    assert not [box for box in page.all("input") if box.get("name") == "device"]
    assert console.post("/approvals", {"device": chosen, "tier": "edge", "site": "x"}).status_code == 403
    assert states(world) == ["pending"]


def test_what_operators_wrote_is_text(world: World) -> None:
    """Labels and sites are checked by the service; a serial number is whatever the inventory said."""
    row = f'{"ab" * 32},device,berlin,bike-1,"{XSS.replace(chr(34), chr(34) * 2)}"\n'
    world.operator.post(
        "/v1/admin/devices/import", f"ek_hash,tier,site,id,serial_number\n{row}".encode(), content_type="text/csv"
    )
    console = console_client(world, "operator")
    seen = console.post("/selection", {"device": boxes(world), "act": "retire"}).text
    assert "<script>alert" not in seen
    assert "<img src=x" not in seen


# ---- One act for many -----------------------------------------------------------------------------------------------


def test_a_preview_tells_whom_it_touches_and_does_nothing(world: World) -> None:
    world.enrolled()
    world.enrolled()
    console = console_client(world, "operator")
    page = console.post("/selection", {"device": boxes(world), "act": "quarantine"})
    assert page.status_code == 200
    assert "Quarantine 2 devices" in page.text
    assert states(world) == ["active", "active"]
    held = [box["value"] for box in Markup(page.text).all("input") if box.get("name") == "device"]
    done = console.post("/selection/quarantine", {"device": held, "reason": "stolen"})
    assert (done.status_code, states(world)) == (303, ["quarantined", "quarantined"])


def test_who_can_t_be_is_left_out_and_said(world: World) -> None:
    world.enrolled()
    waiting(world, 1)
    chosen = [*boxes(world), "nobody:1"]
    page = console_client(world, "operator").post("/selection", {"device": chosen, "act": "demand"}).text
    assert "1 device" in page
    assert "are in a state in which this can’t be done" in page or "in which this can’t be done" in page
    assert "not known any more" in page


def test_who_changed_since_the_preview_is_not_touched(world: World) -> None:
    device = world.enrolled()
    seen = boxes(world)
    world.operator.post(f"/v1/admin/devices/{world.row(device).id}/quarantine", {"v": 1})
    console_client(world, "operator").post("/selection/retire", {"device": seen})
    assert states(world) == ["quarantined"]


def test_all_that_match_are_those_that_match_now(world: World) -> None:
    world.enrolled()
    waiting(world, 2)
    form = {"act": "retire", "all": "yes", "filters": "state=pending"}
    page = console_client(world, "operator").post("/selection", form)
    assert "Retire 2 devices" in page.text
    nobody = console_client(world, "operator", "second").post("/selection", {**form, "filters": "state=retired"})
    assert nobody.status_code == 400


@pytest.mark.parametrize("act", ["activate", "replace", "", "../x"])
def test_an_act_that_is_none(world: World, act: str) -> None:
    assert console_client(world, "operator").post("/selection", {"device": ["a:1"], "act": act}).status_code == 404


def test_without_the_form_s_token_nothing_is_done(world: World) -> None:
    chosen = waiting(world, 1)
    console = console_client(world, "operator")
    assert console.post("/selection/reject", {"device": chosen}, csrf=None).status_code == 403
    assert states(world) == ["pending"]
    assert console.post("/selection/reject", {"device": chosen}).status_code == 303
    assert states(world) == ["rejected"]


def test_the_service_decides_who_may(world: World) -> None:
    """The page's own buttons are a courtesy."""
    answer = world.viewer.post("/v1/admin/devices/selection", {"v": 1, "act": "retire", "devices": []})
    assert (answer.status_code, problem(answer)) == (403, "role-too-low")
