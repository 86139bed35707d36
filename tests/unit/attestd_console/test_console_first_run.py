"""The first page of a new instance, and what fills in as the first device arrives."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes

from attestd_console import first_run
from attestd_console.console import Who
from tests.console import ConsoleClient, Markup, signed_in
from tests.service import URL, World


@pytest.mark.parametrize(
    ("devices", "states"),
    [
        ({}, ["now", "later", "later", "later", "later"]),
        ({"pending": 2}, ["done", "done", "done", "now", "later"]),
        ({"pending": 1, "approved": 1}, ["done", "done", "done", "done", "now"]),
    ],
)
def test_steps_say_what_is_known(devices: dict[str, int], states: list[str]) -> None:
    assert [step.state for step in first_run.steps(devices)] == states


@pytest.mark.parametrize(
    ("devices", "over"),
    [({}, False), ({"pending": 5, "approved": 1, "rejected": 1}, False), ({"active": 1}, True), ({"retired": 1}, True)],
)
def test_it_is_over_with_the_first_credential(devices: dict[str, int], over: bool) -> None:
    assert first_run.over({"devices": devices}) is over


def test_what_is_lacking_is_told_to_who_can_mend_it() -> None:
    ada = Who("ada", "admin", "fleet.example", None, 1)
    assert [fact.tone for fact in first_run.facts(ada, 0, 0)] == ["ok", "warn", "none", "none"]
    assert [fact.tone for fact in first_run.facts(ada, 1, 1)] == ["ok", "warn", "ok", "ok"]
    assert len(first_run.facts(Who("eve", "viewer", "fleet.example", None, 1), 0, 0)) == 3
    assert len(first_run.facts(Who("ada", "admin", "fleet.example", None, 2), 0, 0)) == 3


def test_the_page_follows_the_first_device(world: World) -> None:
    admin = signed_in(world)
    page = admin.get("/").text
    fingerprint = world.hierarchy.root.fingerprint(hashes.SHA256()).hex()
    assert f"attestd-agent enroll --server {URL} --ca sha256:{fingerprint}" in page
    assert "Enroll the first device" in page
    device = world.device()
    assert device.enroll().status_code == 202
    assert "1 device waits for your approval" in Markup(admin.get("/").text).words
    world.approve(device)
    assert "Enroll the first device" in admin.get("/").text
    assert device.enroll().status_code == 200
    assert "Enroll the first device" not in admin.get("/").text


def test_a_fact_that_leads_nowhere_has_no_link(admin: ConsoleClient) -> None:
    assert all(attributes.get("href") for attributes in Markup(admin.get("/").text).all("a"))


def test_what_changes_while_it_is_looked_at_has_an_id(admin: ConsoleClient) -> None:
    page = Markup(admin.get("/").text)
    live = [attributes for _, attributes in page.tags if "data-live" in attributes]
    assert live
    assert all(attributes.get("id") for attributes in live)
    (main,) = page.all("main")
    assert "devices" in str(main["data-topics"]).split()
