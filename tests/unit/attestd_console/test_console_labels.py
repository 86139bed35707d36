"""Labels in the console: of one device, and of a selection, each with what goes by them said before."""

from __future__ import annotations

import re
from typing import Any

import pytest

from attestd.errors import MalformedInput
from attestd_console import labelling
from tests.authenticator import Authenticator
from tests.console import ConsoleClient, Markup, console_client, signed_in, touch
from tests.service import SoftDevice, World

MANIFEST = b'name = "bike-4"\nstage = "learn"\n[match]\nlabels = { ring = "canary" }\n'


@pytest.fixture
def device(world: World) -> SoftDevice:
    return world.enrolled(labels={"ring": "canary", "rack": "2"})


@pytest.fixture
def console(world: World) -> ConsoleClient:
    return console_client(world, "operator")


def words(text: str) -> str:
    return re.sub(r"\s+", " ", Markup(text).words)


def form(text: str) -> dict[str, Any]:
    """What the page's form holds, as it stands."""
    page = Markup(text)
    found: dict[str, Any] = {}
    for tag in page.all("input"):
        name = str(tag.get("name"))
        if tag.get("type") != "checkbox":
            found.setdefault(name, []).append(tag.get("value") or "")
    area = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", text, re.DOTALL)
    return {name: values if name == "device" else values[-1] for name, values in found.items()} | (
        {"labels": area[1]} if area else {}
    )


# ---- One device -------------------------------------------------------------------------------------------------


def test_the_page_says_what_goes_by_labels(world: World, device: SoftDevice, console: ConsoleClient) -> None:
    text = console.get(f"/fleet/{device.id}/label").text
    assert form(text)["labels"] == "rack=2\nring=canary"
    assert "The policy in force asks for no label." in words(text)
    assert "No reference values go by labels." in words(text)
    assert "says the old ones until it ends" in words(text)
    policy = 'permit (principal, action, resource) when { principal.hasTag("ring") };'
    world.admin.put("/v1/admin/policy", {"v": 1, "text": policy})
    world.admin.post("/v1/admin/references", MANIFEST, content_type="application/toml")
    said = words(console.get(f"/fleet/{device.id}/label").text)
    assert "The policy in force asks for ring: what may cross can depend on it." in said
    assert "Reference values bike-4 (learn) are for devices with ring=canary. This one has." in said


def test_labels_are_changed(world: World, device: SoftDevice, console: ConsoleClient) -> None:
    path = f"/fleet/{device.id}/label"
    shown = form(console.get(path).text)
    answer = console.post(path, {**shown, "labels": "ring = stable\r\n\r\ndock=a=b\r\n", "reason": "moved"})
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/fleet/{device.id}")
    assert world.row(device).labels == {"ring": "stable", "dock": "a=b"}
    said = words(console.get(f"/fleet/{device.id}").text)
    assert "Labels changed by operator-here“moved”, dock=a=b, rack removed (was 2), ring=stable (was canary)" in said


def test_a_form_without_labels_takes_none_away(world: World, device: SoftDevice, console: ConsoleClient) -> None:
    path = f"/fleet/{device.id}/label"
    shown = form(console.get(path).text)
    del shown["labels"]
    assert console.post(path, shown).status_code == 400
    assert world.row(device).labels == {"ring": "canary", "rack": "2"}
    assert console.post(path, {**shown, "labels": ""}).status_code == 303
    assert world.row(device).labels == {}


@pytest.mark.parametrize(
    ("text", "status"),
    [("ring", 400), ("ring=a\nring=b", 400), ("a b=c", 400), ("ring=canary\nrack=2", 400), ("a=" + "x" * 129, 400)],
)
def test_what_is_no_change(world: World, device: SoftDevice, console: ConsoleClient, text: str, status: int) -> None:
    path = f"/fleet/{device.id}/label"
    answer = console.post(path, {**form(console.get(path).text), "labels": text})
    assert answer.status_code == status
    assert "Nothing was done" in words(answer.text)
    assert world.row(device).labels == {"ring": "canary", "rack": "2"}


def test_what_was_changed_meanwhile_is_not_overwritten(
    world: World, device: SoftDevice, console: ConsoleClient
) -> None:
    path = f"/fleet/{device.id}/label"
    shown = form(console.get(path).text)
    world.operator.post(f"/v1/admin/devices/{device.id}/label", {"labels": {"by": "another"}})
    assert console.post(path, {**shown, "labels": "ring=stable"}).status_code == 409
    assert world.row(device).labels == {"ring": "canary", "rack": "2", "by": "another"}


def test_it_takes_a_touch_for_these_very_labels(world: World, device: SoftDevice) -> None:
    passkey = Authenticator()
    ada = signed_in(world, "operator", passkey=passkey)
    path = f"/fleet/{device.id}/label"
    shown = form(ada.get(path).text) | {"labels": "ring=stable", "revoke": "yes"}
    assert ada.post(path, shown).status_code == 403
    assert touch(ada, passkey, path, shown | {"once": "A" * 24}).status_code == 303
    assert world.row(device).labels == {"ring": "stable"}


# ---- A selection ------------------------------------------------------------------------------------------------


def chosen(world: World, *devices: SoftDevice) -> list[str]:
    rows = [world.row(device) for device in devices]
    return [f"{row.id}:{row.state_version}" for row in rows]


def test_a_selection_is_asked_which_labels_then_shown_then_done(
    world: World, device: SoftDevice, console: ConsoleClient
) -> None:
    other, same = world.enrolled(labels={"a": "1"}), world.enrolled(labels={"ring": "stable"})
    picked = chosen(world, device, other, same)
    asked = console.post("/selection", {"act": "label", "device": picked}).text
    assert "Change the labels of 3 devices" in words(asked)
    assert sorted(form(asked)["device"]) == sorted(picked)
    shown = console.post(
        "/selection", {**form(asked), "act": "label", "labels": "ring=stable", "remove": "a, b", "revoke": "yes"}
    ).text
    assert "Change the labels of 2 devices at shop-1?" in words(shown)
    assert "ring=stable is set" in words(shown)
    assert "a is removed, where it is" in words(shown)
    assert "revoked now" in words(shown)
    assert "1 left out: it have these labels already" in words(shown)
    assert world.row(other).labels == {"a": "1"}
    answer = console.post("/selection/label", form(shown) | {"reason": "moved"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/fleet")
    assert world.row(device).labels == {"ring": "stable", "rack": "2"}
    assert world.row(other).labels == {"ring": "stable"}
    credentials = world.viewer.get("/v1/admin/credentials").json["credentials"]
    assert sum(one["revoked_at"] is not None for one in credentials) == 2


def test_labels_that_are_none_are_said_and_change_nobody(
    world: World, device: SoftDevice, console: ConsoleClient
) -> None:
    said = {"act": "label", "device": chosen(world, device)}
    assert console.post("/selection", {**said, "labels": "no value"}).status_code == 400
    assert console.post("/selection", {**said, "labels": "a b=c"}).status_code == 400
    assert console.post("/selection/label", {**said, "labels": "a b=c"}).status_code == 400
    assert world.row(device).labels == {"ring": "canary", "rack": "2"}


# ---- Texts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [{}, {"a": ""}, {"b": "x=y", "a": "with spaces"}])
def test_what_is_written_is_read_again(labels: dict[str, str]) -> None:
    assert labelling.read(labelling.written(labels)) == labels


@pytest.mark.parametrize("text", ["a", "a=1\na=2"])
def test_what_can_not_be_read(text: str) -> None:
    with pytest.raises(MalformedInput):
        labelling.read(text)


def test_many_reference_values_are_counted() -> None:
    one = {"name": "bike", "stage": "enforce", "labels": {"ring": "a"}}
    found = {"policy": {"names": ["a", "b"], "whole": False}, "references": [one] * 14}
    said = labelling.asked_for(found)
    assert said[0] == "The policy in force asks for a, b: what may cross can depend on them."
    assert said[-1] == "2 more reference values go by labels."
