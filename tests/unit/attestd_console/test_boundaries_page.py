"""Boundaries and policies in the console: what they say, what they refuse, and that nothing told becomes markup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attestd.policy import default_policy, edge_tokens_policy
from attestd.registry import audit, policies
from tests.console import ConsoleClient, Markup, console_client
from tests.edge_reports import edge_report
from tests.receipt_site import ReceiptSite
from tests.service import SITE, World

IN_FORCE = default_policy() + edge_tokens_policy()
NOTHING = '@id("none") forbid (principal, action, resource);\n'
BOOT = """@id("proven-boot")
permit (principal is Device, action == Action::"cross", resource == Boundary::"field")
when { principal.boot.flags.hasTag("secure_boot") && principal.boot.flags.getTag("secure_boot") };
"""
MARKUP = "<script>alert(1)</script>"
DRAFT = "/policies/fleet/draft"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "instance")
    yield world
    world.close()


@pytest.fixture
def admin(world: World) -> ConsoleClient:
    return console_client(world, "admin")


@pytest.fixture
def viewer(world: World) -> ConsoleClient:
    return console_client(world, "viewer")


def crossed(world: World, folder: Path, count: int = 2) -> str:
    """So many crossings, with receipts; whose they are."""
    folder.mkdir()
    site = ReceiptSite(world, folder)
    site.device = world.enrolled()
    site.refresher.tick()
    site.cross(count)
    site.deliver()
    site.edge.stop()
    return str(site.device.id)


def in_force(world: World) -> tuple[int, str]:
    with world.registry.reading() as c:
        found = policies.latest(c)
    return found.version, found.text


def tell(world: World, **lies: Any) -> None:
    assert world.proxy.post("/v1/proxies/reports", edge_report(**lies)).status_code == 200


# ---- Boundaries ---------------------------------------------------------------------------------------------------


def test_without_an_edge_the_page_says_how_to_get_one(viewer: ConsoleClient) -> None:
    page = viewer.get("/boundaries")
    assert page.status_code == 200
    assert "attestd proxies add NAME" in page.text


def test_a_boundary_is_drawn_and_listed(world: World, viewer: ConsoleClient) -> None:
    here = {"tier": "device", "site": SITE}
    tell(world, boundaries={"field": {"from": here, "to": {"tier": "edge", "site": SITE}, "receipts": "all"}})
    page = viewer.get("/boundaries")
    words = Markup(page.text).words
    assert "3 attempts to cross in the last 24 hours; 1 refused (33.3 %)." in words
    assert "No credential was presented" in words
    assert f"device to edge at {SITE}" in words
    assert "receipts of all" in words
    assert [svg["class"] for svg in Markup(page.text).all("svg") if "map" in (svg.get("class") or "")] == [
        "map map-l",
        "map map-s",
    ]
    assert "style=" not in page.text


def test_what_an_edge_does_not_tell_is_said(world: World, viewer: ConsoleClient) -> None:
    tell(world)
    assert "from where to where is not told" in viewer.get("/boundaries").text
    assert "1 not drawn: its edge does not say" in viewer.get("/boundaries").text


def test_filters_are_in_the_address(world: World, viewer: ConsoleClient) -> None:
    tell(world)
    page = viewer.get(f"/boundaries?site={SITE}&window=7d")
    assert f"in the last 7 days at {SITE}" in page.text
    assert viewer.get("/boundaries?window=1h&site=nowhere").status_code == 200


@pytest.mark.parametrize(
    "query", ["?window=2h", "?window=%3Cb%3E", "?site=%3Cscript%3E", "?site=" + "a" * 65, "?site=%00"]
)
def test_odd_filters_are_refused_in_words(viewer: ConsoleClient, query: str) -> None:
    page = viewer.get("/boundaries" + query)
    assert page.status_code in (400, 413)
    assert "<script>" not in page.text
    assert "<b>&gt;" not in page.text


def test_a_reason_that_nobody_knows_is_no_markup(world: World, viewer: ConsoleClient) -> None:
    """An edge may report any printable name; it lies about itself, and about no page."""
    tell(world, counts={"<b>field</b>": {"allowed": 1, "refused": {MARKUP: 5}}}, stale_for={})
    page = viewer.get("/boundaries?all=1")
    assert page.status_code == 200
    assert MARKUP not in page.text
    assert "<b>field</b>" not in page.text
    assert "&lt;b&gt;field" in page.text


def test_an_edge_that_is_not_heard_is_named(world: World, viewer: ConsoleClient) -> None:
    here = {"from": {"tier": "device", "site": SITE}, "to": {"tier": "edge", "site": SITE}}
    tell(world, boundaries={"field": here})
    world.clock.advance(hours=2)
    words = Markup(viewer.get("/boundaries").text).words
    assert "1 edge is not heard: what it does now is not known here." in words
    assert "not heard for 2 h" in words
    assert "Not heard" in words


# ---- The policy in force, and its versions -------------------------------------------------------------------------


def test_the_policy_in_force_is_shown_with_who_and_when(world: World, viewer: ConsoleClient) -> None:
    assert viewer.get("/policies").headers["Location"] == "/policies/fleet"
    words = Markup(viewer.get("/policies/fleet").text).words
    assert "Version 1 is in force, by test" in words
    assert "cross-at-home" in words
    assert "Fits the schema" in words


def test_markup_in_a_policy_is_text(world: World, admin: ConsoleClient) -> None:
    """In comments, ids, classes, and what the engine says of them."""
    text = (
        f'// {MARKUP}\n@id("{MARKUP}") @when_stale("{MARKUP}")\n'
        f'permit (principal, action == Action::"cross", resource == Boundary::"{MARKUP}");\n'
    )
    world.admin.put("/v1/admin/policy", {"v": 1, "text": text})
    wrong = text.replace("principal,", "principal == Nobody::" + f'"{MARKUP}",')
    world.admin.put("/v1/admin/policy", {"v": 1, "text": BOOT, "reason": MARKUP})
    for page in (
        admin.get("/policies/fleet"),
        admin.get("/policies/fleet/versions/2"),
        admin.get("/policies/fleet/draft?from=2"),
        admin.post(DRAFT, {"text": wrong, "version": "3", "do": "check"}),
        admin.post(DRAFT, {"text": text, "version": "3", "do": "try"}),
        admin.post(DRAFT, {"text": "</textarea>" + MARKUP, "version": "3", "do": "try"}),
        admin.post(DRAFT, {"text": text, "version": "1", "do": "check"}),
    ):
        assert page.status_code == 200
        assert MARKUP not in page.text
        assert "</textarea>&lt;" not in page.text
        assert len(Markup(page.text).all("textarea")) <= 1


def test_versions_are_listed_and_compared(world: World, viewer: ConsoleClient) -> None:
    world.admin.put("/v1/admin/policy", {"v": 1, "text": IN_FORCE + NOTHING})
    page = Markup(viewer.get("/policies/fleet/versions").text)
    assert [link["href"] for link in page.all("a") if link.get("class") == "name"] == [
        "/policies/fleet/versions/2",
        "/policies/fleet/versions/1",
    ]
    words = Markup(viewer.get("/policies/fleet/versions/1").text).words
    assert "1 line removed" in words
    assert 'removed: @id("none") forbid' in words
    assert "An admin can put it in force." in words


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/policies/other", 404),
        ("/policies/fleet/versions/7", 404),
        ("/policies/fleet/versions/x", 400),
        ("/policies/fleet/versions/-1", 400),
        ("/policies/fleet/versions/9999999999", 404),
        ("/policies/fleet/draft?from=x", 400),
        ("/policies/fleet/draft?from=99", 404),
        ("/policies/fleet/versions?after=x", 400),
    ],
)
def test_what_is_not_there_is_said(viewer: ConsoleClient, path: str, status: int) -> None:
    assert viewer.get(path).status_code == status


# ---- A draft -------------------------------------------------------------------------------------------------------


def test_a_fault_is_named_at_its_line_and_the_text_is_kept(admin: ConsoleClient) -> None:
    text = 'permit (principal, action == Action::"cross", resource)\nwhen { principal.tire == Tier::"edge" };\n'
    page = Markup(admin.post(DRAFT, {"text": text.replace("\n", "\r\n"), "version": "1", "do": "check"}).text)
    assert "1 fault, the first in line 2" in page.words
    assert "Line 2, column 18" in page.words
    assert text in page.words
    assert page.all("textarea")[0]["aria-invalid"] == "true"
    assert "Mend the faults first." in page.words


def test_the_script_gets_faults_as_data(admin: ConsoleClient) -> None:
    answer = admin.post(DRAFT, {"text": "permit", "version": "1"}, headers={"Accept": "application/json"})
    assert answer.status_code == 200
    assert answer.get_json()["flaws"][0]["line"] == 1


def test_a_text_beyond_the_bounds_is_a_fault(admin: ConsoleClient) -> None:
    for text, words in (
        ("a" * 262_145, "too long"),
        ("// \0", "NUL character"),
        ("//" + "é" * 60_000 + "a" * 160_000, "too large"),
    ):
        page = admin.post(DRAFT, {"text": text, "version": "1", "do": "try"})
        assert page.status_code == 200
        assert words in page.text
    assert admin.post(DRAFT, {"text": "a" * 700_000, "version": "1"}).status_code == 413


@pytest.mark.parametrize("version", ["", "x", "-1", "1.5", "99999999999"])
def test_a_form_without_the_version_that_was_seen_is_refused(admin: ConsoleClient, version: str) -> None:
    assert admin.post(DRAFT, {"text": BOOT, "version": version, "do": "put"}).status_code == 400


def test_a_dry_run_names_who_would_be_stopped(world: World, viewer: ConsoleClient, tmp_path: Path) -> None:
    device = crossed(world, tmp_path / "edge")
    words = Markup(viewer.post(DRAFT, {"text": BOOT, "version": "1", "do": "try"}).text).words
    assert "2 decisions of the last 24 hours, judged again" in words
    assert "It only narrows: nothing new gets through." in words
    assert "Newly denied at field" in words
    assert device in words
    assert "2 did cross" in words
    assert "An admin can put it in force." in words
    assert in_force(world)[0] == 1


def test_a_dry_run_that_judged_nothing_does_not_say_that_nothing_changes(viewer: ConsoleClient) -> None:
    words = Markup(viewer.post(DRAFT, {"text": BOOT, "version": "1", "do": "try"}).text).words
    assert "this says nothing about what would change" in words
    assert "Nothing would change" not in words


def test_what_was_tried_is_put_in_force_and_taken_back(world: World, admin: ConsoleClient) -> None:
    page = Markup(admin.post(DRAFT, {"text": BOOT, "version": "1", "do": "try"}).text)
    kept = {field["name"]: field["value"] for field in page.all("input") if field.get("type") == "hidden"}
    assert kept["text"] == BOOT
    form = {"do": "put", "text": BOOT.replace("\n", "\r\n"), "version": "1", "reason": "boot first"}
    done = admin.post(DRAFT, form)
    assert (done.status_code, done.headers["Location"]) == (303, "/policies/fleet")
    assert in_force(world) == (2, BOOT)
    assert "Version 2 is in force. Edges have it" in admin.get("/policies/fleet").text
    with world.registry.reading() as c:
        [row] = audit.page(c, subject="policy 2", limit=5)
    assert dict(row.detail) == {"reason": "boot first"}
    assert "Put this text in force as version 3" in admin.get("/policies/fleet/versions/1").text
    done = admin.post("/policies/fleet/versions/1", {"do": "back", "version": "2"}, once="B" * 24)
    assert done.status_code == 303
    assert in_force(world) == (3, IN_FORCE)


def test_somebody_else_s_version_is_told_and_nothing_is_lost(world: World, admin: ConsoleClient) -> None:
    world.admin.put("/v1/admin/policy", {"v": 1, "text": IN_FORCE + NOTHING})
    mine = IN_FORCE + BOOT
    page = admin.post(DRAFT, {"do": "put", "text": mine, "version": "1"})
    assert page.status_code == 409
    words = Markup(page.text).words
    assert "Version 2 was put in force meanwhile, by admin-1." in words
    assert mine in words
    assert 'added: @id("none") forbid' in words  # what they changed
    assert in_force(world)[1] == IN_FORCE + NOTHING
    seen = Markup(admin.post(DRAFT, {"do": "seen", "text": mine, "version": "1"}).text)
    assert "Draft on version 2" in seen.words
    assert "meanwhile" not in seen.words
    assert admin.post(DRAFT, {"do": "put", "text": mine, "version": "2"}).status_code == 303


def test_going_back_after_somebody_else_changed_it_is_refused(world: World, admin: ConsoleClient) -> None:
    for text in (BOOT, NOTHING):
        world.admin.put("/v1/admin/policy", {"v": 1, "text": text})
    page = admin.post("/policies/fleet/versions/1", {"do": "back", "version": "2"})
    assert page.status_code == 409
    assert "Version 3 is in force, by operator:admin-1." in page.text
    assert in_force(world) == (3, NOTHING)


def test_a_rollback_has_a_dry_run_of_its_own(world: World, admin: ConsoleClient, tmp_path: Path) -> None:
    world.admin.put("/v1/admin/policy", {"v": 1, "text": NOTHING})
    world.admin.put("/v1/admin/policy", {"v": 1, "text": IN_FORCE})
    crossed(world, tmp_path / "edge")
    words = Markup(admin.post("/policies/fleet/versions/2", {"do": "try", "window": "1h"}).text).words
    assert "2 decisions of the last hour" in words
    assert "Newly denied at field" in words
    assert in_force(world)[0] == 3


# ---- Who may -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_only_admins_put_a_policy_in_force(world: World, role: str) -> None:
    """By the form that is not offered to them, too."""
    someone = console_client(world, role)
    assert "Put in force as version" not in someone.post(DRAFT, {"text": BOOT, "version": "1", "do": "try"}).text
    assert someone.post(DRAFT, {"do": "put", "text": BOOT, "version": "1"}).status_code == 403
    world.admin.put("/v1/admin/policy", {"v": 1, "text": BOOT})
    assert someone.post("/policies/fleet/versions/1", {"do": "back", "version": "2"}).status_code == 403
    assert in_force(world) == (2, BOOT)


def test_another_page_s_form_changes_nothing(world: World, admin: ConsoleClient) -> None:
    assert admin.post(DRAFT, {"do": "put", "text": BOOT, "version": "1"}, csrf="x" * 22).status_code == 403
    assert admin.post(DRAFT, {"do": "put", "text": BOOT, "version": "1"}, csrf=None).status_code == 403
    assert in_force(world)[0] == 1
