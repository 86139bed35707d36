"""Policies before they are in force: every fault at its place, and what a change does to what really crossed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attestd.operations import trials
from attestd.policy import default_policy, edge_tokens_policy
from attestd.policy.source import MAX_POLICY
from attestd.registry import audit, issued, policies, tables
from attestd.registry.policies import PolicyRaced
from tests.receipt_site import ReceiptSite
from tests.service import SITE, Caller, World, problem

IN_FORCE = default_policy() + edge_tokens_policy()
NOTHING = '@id("none") forbid (principal, action, resource);'
BOOT = """
@id("proven-boot")
permit (principal is Device, action == Action::"cross", resource == Boundary::"field")
when { principal.boot.flags.hasTag("secure_boot") && principal.boot.flags.getTag("secure_boot") };
"""
NO_BIKES = '@id("no-bikes") forbid (principal, action == Action::"cross", resource) when { principal.hasTag("bike") };'


class Site(ReceiptSite):
    """Crossings with their receipts at the service."""

    def crossed(self, count: int = 1) -> None:
        self.refresher.tick()
        self.cross(count)
        self.deliver()

    def put(self, text: str) -> int:
        answer = self.world.admin.put("/v1/admin/policy", {"v": 1, "text": text})
        assert answer.status_code == 200, answer.text
        self.world.clock.advance(seconds=2)
        self.refresher.tick()
        return int(answer.get_json()["version"])


@pytest.fixture
def site(world: World, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "edge").mkdir()
    site = Site(world, tmp_path / "edge")
    site.device = world.enrolled()
    yield site
    site.edge.stop()


def check(world: World, text: str, caller: Caller | None = None) -> dict[str, Any]:
    answer = (caller or world.viewer).post("/v1/admin/policy/check", {"v": 1, "text": text})
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def dry(world: World, text: str, caller: Caller | None = None, **more: Any) -> dict[str, Any]:
    answer = (caller or world.viewer).post("/v1/admin/policy/dry-run", {"v": 1, "text": text, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


# ---- Checking -----------------------------------------------------------------------------------------------------


def test_a_good_policy_is_listed(world: World) -> None:
    found = check(world, IN_FORCE)
    assert (found["valid"], found["flaws"], found["warnings"]) == (True, [], [])
    line = IN_FORCE.splitlines().index('@id("cross-at-home")') + 1
    assert found["policies"][0] == {"id": "cross-at-home", "effect": "permit", "line": line, "when_stale": None}


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("permit (principal, action, resource)\nwhen { principal.tire == 1 };", 2, 18),
        ("permit (principal, action, resource)", 1, 37),
        ("// first\npermit (principal action, resource);", 2, 19),
        ('permit (principal == ?principal, action == Action::"cross", resource);', 1, 1),
    ],
)
def test_a_fault_is_at_its_place(world: World, text: str, line: int, column: int) -> None:
    found = check(world, text)
    assert not found["valid"]
    assert (found["flaws"][0]["line"], found["flaws"][0]["column"]) == (line, column), found
    assert found["policies"] == []


def test_what_is_no_fault_and_worth_a_look(world: World) -> None:
    found = check(world, 'permit (principal, action == Action::"token", resource);')
    assert found["valid"]
    assert [warning["message"][:25] for warning in found["warnings"]] == [
        "no policy permits a cross",
        "this policy has no @id: r",
    ]


@pytest.mark.parametrize("character", ["\u202e", "\u2066", "\u200b", "\ufeff"])
def test_characters_that_nobody_sees_are_told(world: World, character: str) -> None:
    found = check(world, f"{IN_FORCE}// a {character}comment\n")
    assert found["valid"]
    [warning] = found["warnings"]
    assert f"U+{ord(character):04X}" in warning["message"]
    assert (warning["line"], warning["column"]) == (len(IN_FORCE.splitlines()) + 1, 6)


def test_no_message_holds_a_nul(world: World) -> None:
    for path in ("check", "dry-run"):
        answer = world.viewer.post(f"/v1/admin/policy/{path}", {"v": 1, "text": "// \0"})
        assert (answer.status_code, problem(answer)) == (400, "malformed-json")


@pytest.mark.parametrize("character", ["\x01", "\x1b", "\x7f", "\x85"])
def test_control_characters_are_a_fault_and_never_in_force(world: World, character: str) -> None:
    text = f"{IN_FORCE}// a {character}comment\n"
    found = check(world, text)
    assert not found["valid"]
    assert "control character" in found["flaws"][0]["message"]
    answer = world.admin.put("/v1/admin/policy", {"v": 1, "text": text})
    assert (answer.status_code, problem(answer)) == (400, "policy-invalid")
    assert problem(world.viewer.post("/v1/admin/policy/dry-run", {"v": 1, "text": text})) == "policy-invalid"


@pytest.mark.parametrize("path", ["/v1/admin/policy/check", "/v1/admin/policy/dry-run"])
def test_too_much_text_is_refused(world: World, path: str) -> None:
    text = "//" + "a" * (MAX_POLICY - 2)
    assert world.viewer.post(path, {"v": 1, "text": text}).status_code == 200
    answer = world.viewer.post(path, {"v": 1, "text": text + "b"})
    assert (answer.status_code, problem(answer)) == (413, "input-too-large")
    assert world.viewer.post(path, {"v": 1, "text": "a" * (1 << 19)}).status_code == 413


@pytest.mark.parametrize(
    "text",
    [
        "permit (principal, action, resource) when { " + "(" * 100_000 + "1" + ")" * 100_000 + " };",
        "permit (principal, action, resource) when { " + "!" * 100_000 + "true };",
        "permit (principal, action, resource) when { " + "1 == 1 && " * 20_000 + "true };",
        "[" * 200_000,
        '"' * 99_999,
        "@" * 200_000,
    ],
    ids=["brackets", "nots", "ands", "open", "quotes", "ats"],
)
def test_deep_and_long_texts_are_faults_and_no_harm(world: World, text: str) -> None:
    found = check(world, text)
    assert not found["valid"]
    assert found["flaws"]


def test_only_so_many_are_checked_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two wait in the middle of their check; a third is told to come again; then there is room again."""
    from attestd.web import policy_trials

    inside, go = threading.Semaphore(0), threading.Event()
    real = policy_trials.review

    def slow(text: str) -> Any:
        inside.release()
        assert go.wait(60)
        return real(text)

    monkeypatch.setattr(policy_trials, "review", slow)
    _ = world.viewer
    threads = [threading.Thread(target=check, args=(world, IN_FORCE)) for _ in range(2)]
    for thread in threads:
        thread.start()
        assert inside.acquire(timeout=60)
    answer = world.viewer.post("/v1/admin/policy/check", {"v": 1, "text": IN_FORCE})
    go.set()
    for thread in threads:
        thread.join()
    assert (answer.status_code, problem(answer)) == (429, "too-many-checks")
    assert answer.headers["Retry-After"] == "1"
    assert check(world, IN_FORCE)["valid"]


# ---- Trying -------------------------------------------------------------------------------------------------------


def test_what_really_crossed_and_would_not_is_named(world: World, site: Site) -> None:
    site.crossed(3)
    found = dry(world, BOOT)
    assert (found["judged"], found["crossed"], found["whole"]) == (3, 3, True)
    assert (found["newly_allowed"], found["newly_denied"]) == (0, 3)
    [group] = found["groups"]
    assert (group["boundary"], group["becomes"], group["count"], group["crossed"]) == ("field", "deny", 3, 3)
    assert group["examples"] == [site.device.id]
    assert group["before"] == ["cross-at-home"]
    assert (group["method"], group["path"]) == ("GET", "/orders")
    assert 'principal.boot.flags.hasTag("secure_boot")' in group["because"][0]["why"]
    assert found["policies"] == {
        "added": ["proven-boot"],
        "removed": ["cross-at-home", "device-tokens-for-the-edge"],
        "changed": [],
    }


def test_what_would_newly_be_allowed_comes_first(world: World, site: Site) -> None:
    site.crossed(2)
    site.put(NOTHING)
    world.clock.advance(seconds=1)
    assert site.ask(chain=site.certificate_of(site.device)) == "crossing-denied"
    site.deliver()
    found = dry(world, IN_FORCE)
    assert (found["judged"], found["crossed"], found["newly_allowed"], found["newly_denied"]) == (3, 2, 3, 0)
    groups = found["groups"]
    assert {group["becomes"] for group in groups} == {"allow"}
    assert sum(group["count"] for group in groups) == 3
    # What once crossed and is refused by now is told apart from what never did.
    assert sum(group["crossed"] for group in groups) == 2


def test_the_same_policy_changes_nothing(world: World, site: Site) -> None:
    site.crossed(2)
    found = dry(world, IN_FORCE)
    assert (found["judged"], found["newly_allowed"], found["newly_denied"], found["groups"]) == (2, 0, 0, [])


def test_a_trial_changes_nothing(world: World, site: Site) -> None:
    site.crossed()
    with world.registry.reading() as c:
        before = policies.latest(c)
    dry(world, NOTHING)
    with world.registry.reading() as c:
        assert policies.latest(c) == before


def test_it_is_judged_by_what_the_credential_said_then(world: World, site: Site) -> None:
    """A device that has another label by now crossed without it."""
    site.crossed()
    with world.registry.acting() as c:
        c.execute(tables.devices.update().values(labels={"bike": "1"}))
    assert dry(world, NO_BIKES + IN_FORCE)["newly_denied"] == 0
    site.device.attest()
    site.crossed()
    assert dry(world, NO_BIKES + IN_FORCE)["newly_denied"] == 1


def test_refusals_that_no_policy_decided_are_left_out(world: World, site: Site) -> None:
    site.refresher.tick()
    assert site.ask() == "no-credential"
    site.crossed()
    found = dry(world, NOTHING)
    assert (found["judged"], found["left_out"]) == (1, {"not_policy": 1})


def test_without_the_certificate_nothing_is_guessed(world: World, site: Site) -> None:
    site.crossed()
    world.clock.advance(days=3)
    with world.registry.acting() as c:
        assert issued.purge(c, before=int(world.clock().timestamp()), limit=100)
    found = dry(world, NOTHING, window=24 * 7)
    assert (found["judged"], found["left_out"]) == (0, {"no_facts": 1})


def test_what_the_sender_claimed_is_not_known(world: World, site: Site) -> None:
    site.crossed()
    found = dry(world, IN_FORCE + '@id("x") forbid (principal, action == Action::"cross", resource) '
                'when { context.claims.hasTag("residency") };')  # fmt: skip
    assert (found["judged"], found["left_out"]) == (0, {"claims": 1})


def test_what_does_not_come_out_again_is_left_out(world: World, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The edge saw something that is not known here: the old policy would say otherwise today."""
    site.crossed()
    real = trials._facts_in
    monkeypatch.setattr(trials, "_facts_in", lambda der: replace(real(der), vector={}))
    found = dry(world, NOTHING)
    assert (found["judged"], found["left_out"], found["newly_denied"]) == (0, {"otherwise": 1}, 0)


def test_older_versions_decide_as_they_did(world: World, site: Site) -> None:
    site.crossed()
    site.put(IN_FORCE + BOOT)
    site.crossed()
    found = dry(world, NOTHING)
    assert (found["in_force"], found["judged"], found["newly_denied"]) == (2, 2, 2)


def test_a_version_is_tried_by_its_number(world: World, site: Site) -> None:
    site.put(IN_FORCE + BOOT)
    site.crossed()
    answer = world.viewer.post("/v1/admin/policy/dry-run", {"v": 1, "version": 1})
    assert answer.status_code == 200
    assert answer.get_json()["policies"]["removed"] == ["proven-boot"]
    answer = world.viewer.post("/v1/admin/policy/dry-run", {"v": 1, "version": 17})
    assert (answer.status_code, problem(answer)) == (404, "unknown-policy")


def test_only_the_window_and_the_site_are_looked_at(world: World, site: Site) -> None:
    site.crossed()
    world.clock.advance(hours=5)
    site.refresher.tick()
    assert dry(world, NOTHING, window=2)["judged"] == 0
    assert dry(world, NOTHING, window=6)["judged"] == 1
    assert dry(world, NOTHING, site=SITE)["judged"] == 1
    answer = world.viewer.post("/v1/admin/policy/dry-run", {"v": 1, "text": NOTHING, "site": "nowhere"})
    assert (answer.status_code, problem(answer)) == (404, "no-such-place")


def test_a_trial_has_an_end(world: World, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.crossed(4)
    monkeypatch.setattr(trials, "MAX_DECISIONS", 2)
    found = dry(world, NOTHING)
    assert (found["judged"], found["whole"]) == (2, False)
    monkeypatch.setattr(trials, "MAX_DECISIONS", 100)
    monkeypatch.setattr(trials, "MAX_SECONDS", -1.0)
    found = dry(world, NOTHING)
    assert (found["judged"], found["whole"]) == (1, False)


def test_one_trial_at_a_time(world: World, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go = threading.Event(), threading.Event()
    real = trials.compare

    def slow(*args: Any) -> Any:
        inside.set()
        assert go.wait(60)
        return real(*args)

    monkeypatch.setattr(trials, "compare", slow)
    _ = world.viewer
    thread = threading.Thread(target=dry, args=(world, NOTHING))
    thread.start()
    assert inside.wait(60)
    answer = world.admin.post("/v1/admin/policy/dry-run", {"v": 1, "text": NOTHING})
    go.set()
    thread.join()
    assert (answer.status_code, problem(answer)) == (429, "trial-running")
    assert dry(world, NOTHING)["judged"] == 0


def test_it_says_what_is_not_covered(world: World, site: Site) -> None:
    """Figures come from reports, decisions from receipts: a boundary without receipts has the first alone."""
    from tests.edge_reports import edge_report

    site.crossed(2)
    report = edge_report(
        counts={
            "field": {"allowed": 5, "refused": {"crossing-denied": 2, "no-credential": 9}},
            "backdoor": {"allowed": 70, "refused": {}},
        }
    )
    assert world.proxy.post("/v1/proxies/reports", report).status_code == 200
    assert dry(world, NOTHING)["covered"] == [
        {"boundary": "backdoor", "allowed": 70, "denied": 0, "judged": 0, "judged_denied": 0},
        {"boundary": "field", "allowed": 5, "denied": 2, "judged": 2, "judged_denied": 0},
    ]


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"text": 1},
        {"text": "a", "version": 1},
        {"version": 0},
        {"version": "1"},
        {"text": "", "window": 0},
        {"text": "", "window": 745},
        {"text": "", "site": "<b>"},
        {"text": "", "more": 1},
    ],
)
def test_an_odd_question_is_refused(world: World, message: dict[str, Any]) -> None:
    assert world.viewer.post("/v1/admin/policy/dry-run", {"v": 1, **message}).status_code == 400


# ---- Putting in force ---------------------------------------------------------------------------------------------


def test_somebody_else_s_version_is_not_overwritten(world: World) -> None:
    assert world.admin.put("/v1/admin/policy", {"v": 1, "text": BOOT, "expected_version": 1}).status_code == 200
    answer = world.admin.put("/v1/admin/policy", {"v": 1, "text": NOTHING, "expected_version": 1})
    assert (answer.status_code, problem(answer)) == (409, PolicyRaced.slug())
    assert "admin-1" in answer.get_json()["detail"]
    answer = world.admin.post("/v1/admin/policy/rollback", {"v": 1, "to": 1, "expected_version": 1})
    assert (answer.status_code, problem(answer)) == (409, PolicyRaced.slug())
    with world.registry.reading() as c:
        assert policies.latest(c).text == BOOT
    answer = world.admin.post("/v1/admin/policy/rollback", {"v": 1, "to": 1, "expected_version": 2, "reason": "wrong"})
    assert answer.get_json() == {"v": 1, "version": 3, "of": 1}


def test_why_is_in_the_audit_trail(world: World) -> None:
    world.admin.put("/v1/admin/policy", {"v": 1, "text": BOOT, "reason": "boot first"})
    with world.registry.reading() as c:
        [row] = [row for row in audit.page(c, subject="policy 2", limit=5) if row.act == "set-policy"]
    assert (row.actor, dict(row.detail)) == ("operator:admin-1", {"reason": "boot first"})
