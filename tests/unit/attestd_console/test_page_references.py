"""Reference values: from learning to watching to deciding, and what a change would do before it is made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attestd_console.pages.reference import causes, lead, match_words
from tests.console import Markup, console_client
from tests.service import World

XSS = "<script>alert(1)</script>"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "instance")
    yield world
    world.close()


def manifest(stage: str = "monitor", **more: Any) -> str:
    return json.dumps(
        {"name": "bike-4", "stage": stage, "match": {"tier": "device"}, "boot": {"secure_boot": True}, **more}
    )


def add(world: World, document: str) -> None:
    answer = world.admin.post("/v1/admin/references?unwatched=true", document.encode())
    assert answer.status_code == 201, answer.text


def test_nothing_yet_teaches_how_to_begin(world: World) -> None:
    page = console_client(world, "viewer").get("/reference")
    words = Markup(page.text).words
    assert "Nothing says what is good" in words
    assert "attestd references learn" in words


def test_a_document_is_added_at_the_chosen_stage(world: World) -> None:
    console = console_client(world, "admin")
    form = {"document": manifest("enforce", boot={"secure_boot": True}), "stage": "monitor", "reason": "first"}
    assert console.post("/reference", form).status_code == 303
    (entry,) = world.viewer.get("/v1/admin/references").json["references"]
    assert (entry["name"], entry["stage"]) == ("bike-4", "monitor")
    page = Markup(console.get("/reference").text).words
    assert "1 is watched and would refuse 0 devices" in page
    assert "tier device" in page


def test_toml_goes_as_it_stands(world: World) -> None:
    text = 'name = "bike-5"\nstage = "learn"\n[match]\ntier = "device"\n'
    assert console_client(world, "admin").post("/reference", {"document": text, "stage": "enforce"}).status_code == 303
    assert world.viewer.get("/v1/admin/references").json["references"][0]["stage"] == "learn"


def test_a_document_that_is_none_comes_back_with_what_is_wrong(world: World) -> None:
    answer = console_client(world, "admin").post("/reference", {"document": f"name = '{XSS}'\n", "stage": "learn"})
    assert answer.status_code == 400
    assert "Nothing was done" in answer.text
    assert XSS not in answer.text
    assert "name = &#39;&lt;script" in answer.text


def test_a_name_tells_what_its_watched_version_would_do(world: World) -> None:
    add(world, manifest(boot={"secure_boot": True}))
    console = console_client(world, "viewer")
    page = console.get("/reference/bike-4")
    assert page.status_code == 200
    assert "Nothing decides yet for tier device" in Markup(page.text).words
    assert console.get("/reference/nothing").status_code == 404


def test_promoting_is_refused_until_the_risk_is_taken(world: World) -> None:
    world.enrolled()
    add(world, manifest(boot={"secure_boot": True}))
    console = console_client(world, "admin")
    (entry,) = world.viewer.get("/v1/admin/references").json["references"]
    path = f"/reference/bike-4/{entry['number']}"
    refused = console.post(f"{path}/promote", {"stage": "enforce"})
    assert refused.status_code == 409
    assert "Nothing was done" in refused.text
    done = console.post(f"{path}/promote", {"stage": "enforce", "accept_refusals": "1", "overlap": "86400"})
    assert (done.status_code, done.headers["Location"]) == (303, "/reference/bike-4")
    newest = world.viewer.get("/v1/admin/references").json["references"][0]
    assert newest["stage"] == "enforce"


def test_withdrawing(world: World) -> None:
    add(world, manifest())
    (entry,) = world.viewer.get("/v1/admin/references").json["references"]
    answer = console_client(world, "admin").post(f"/reference/bike-4/{entry['number']}/withdraw", {"reason": "over"})
    assert answer.status_code == 303
    assert world.viewer.get("/v1/admin/references").json["references"] == []


def test_a_version_under_another_name_is_not_found(world: World) -> None:
    add(world, manifest())
    (entry,) = world.viewer.get("/v1/admin/references").json["references"]
    console = console_client(world, "viewer")
    assert console.get(f"/reference/bike-4/{entry['number']}").status_code == 200
    assert console.get(f"/reference/other/{entry['number']}").status_code == 404


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_others_look_and_change_nothing(world: World, role: str) -> None:
    add(world, manifest())
    (entry,) = world.viewer.get("/v1/admin/references").json["references"]
    console = console_client(world, role)
    path = f"/reference/bike-4/{entry['number']}"
    assert not [form for form in Markup(console.get(path).text).all("form") if "promote" in (form.get("action") or "")]
    assert console.post(f"{path}/promote", {"stage": "learn"}).status_code == 403
    assert console.post(f"{path}/withdraw").status_code == 403
    assert console.post("/reference", {"document": manifest()}).status_code == 403


def test_learning_stores_nothing_and_says_what_is_missing(world: World) -> None:
    device = world.row(world.enrolled()).id
    page = console_client(world, "admin").post("/reference/learn", {"name": "bike-4", "devices": str(device)})
    assert page.status_code in (200, 409)
    assert world.viewer.get("/v1/admin/references").json["references"] == []


def test_the_first_sentence() -> None:
    assert "Nothing says" in lead([], [])
    versions = [{"stage": "enforce"}, {"stage": "monitor"}, {"stage": "learn"}]
    assert lead(versions, [12]) == "1 decides; 1 is watched and would refuse 12 devices; 1 learns."


def test_refusals_stand_by_their_cause() -> None:
    devices = [
        {"id": "a", "reasons": ["x"]},
        {"id": "b", "reasons": ["y", "z"]},
        {"id": "c", "reasons": ["y", "z"]},
    ]
    assert [(cause["count"], cause["devices"]) for cause in causes(devices)] == [(2, ["b", "c"]), (1, ["a"])]


def test_for_whom_it_is_in_words() -> None:
    assert match_words({}) == "every device"
    assert match_words({"tier": "device", "labels": {"ring": "canary"}}) == "ring=canary, tier device"
