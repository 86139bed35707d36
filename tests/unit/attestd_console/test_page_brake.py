"""The brake's page: what it says first, whom each choice touches, that the act is done once and its proof is shown; and
that a held result is seen wherever its device is."""

from __future__ import annotations

import re
from typing import Any

import pytest

from attestd.config import BrakeSettings, ReferenceSettings
from attestd.registry.states import State
from attestd_console import telling
from attestd_console.pages import brake as pages
from tests.authenticator import Authenticator
from tests.console import ConsoleClient, Markup, console_client, signed_in, touch
from tests.service import SoftDevice, World

WRONG = ReferenceSettings("image 13", {"sha256": {0: (b"\xff" * 32,)}})
REASON = "a firmware roll-out"


def words(text: str) -> str:
    return re.sub(r"\s+", " ", Markup(text).words)


@pytest.fixture
def console(world: World) -> ConsoleClient:
    return console_client(world, "operator")


def engage(world: World) -> None:
    assert world.operator.post("/v1/admin/brake/engage", {"v": 1, "reason": REASON}).status_code == 200


def held(world: World, count: int = 1) -> list[SoftDevice]:
    """Devices whose evidence is bad now, while the brake is engaged."""
    devices = [world.enrolled() for _ in range(count)]
    engage(world)
    world.configure(references=(WRONG,))
    for device in devices:
        device.attest()
        assert world.row(device).state is State.ACTIVE
    return devices


def page(console: ConsoleClient, path: str = "/brake") -> str:
    answer = console.get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


# ---- How it stands ----------------------------------------------------------------------------------------------


def test_released(world: World, console: ConsoleClient) -> None:
    text = page(console)
    said = words(text)
    assert "The brake is off" in said
    assert "When more than 3 devices would be within a minute, it engages by itself" in said
    assert "Results quarantined 0 of at most 3 devices within the last minute" in said
    assert 'action="/brake/engage"' in text
    assert "/brake/release" not in text


def test_engaged(world: World, console: ConsoleClient) -> None:
    engage(world)
    world.clock.advance(minutes=3)
    text = page(console)
    said = words(text)
    assert "The brake is engaged" in said
    assert f"Since 3 min ago, by operator-1: “{REASON}”. No result quarantines a device" in said
    assert "Nothing is held yet" in said
    assert 'action="/brake/release"' in text
    assert 'type="radio"' not in text  # there is nothing to choose
    assert "/brake/engage" not in text


def test_engaged_by_itself(world: World, console: ConsoleClient) -> None:
    devices = [world.enrolled() for _ in range(4)]
    world.configure(references=(WRONG,), brake=BrakeSettings(least=3))
    for device in devices:
        device.attest()
    said = words(page(console))
    assert "by the service itself: “3 devices were quarantined within 60 s; the limit is 3”" in said
    assert re.search("Held results ?1 device", said)


def test_an_instance_without_one(world: World, console: ConsoleClient) -> None:
    world.configure(brake=BrakeSettings(enabled=False))
    text = page(console)
    assert "This instance has no brake" in words(text)
    assert "<form class=" not in text.partition("<main")[2]


def test_what_is_held_is_grouped_by_its_reason(world: World, console: ConsoleClient) -> None:
    devices = held(world, 3)
    text = page(console)
    said = words(text)
    assert re.search("Held results ?3 devices", said)
    for device in devices:
        assert f'href="/fleet/{device.id}"' in text
    assert text.count("st bad whole") == 1  # one line for all of them
    assert "decide before that, or its device gets nothing more" in said
    world.clock.advance(hours=5)
    assert "its device gets nothing more until somebody decides" in words(page(console))


def test_page_by_page(world: World, console: ConsoleClient, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = sorted(str(device.id) for device in held(world, 2))
    assert 'id="held-' not in page(console)  # both are named beside their cause
    monkeypatch.setattr(pages, "_one_by_one", lambda *_: True)
    monkeypatch.setattr(pages, "_SHOWN", 1)
    text = page(console)
    assert f'id="held-{first}"' in text
    assert f'id="held-{second}"' not in text
    later = page(console, f"/brake?after={first}")
    assert f'id="held-{second}"' in later
    assert "First page" in later


def test_those_whom_no_cause_names_stand_one_by_one() -> None:
    causes = [{"devices": ["a", "b"]}, {"devices": ["c"]}]
    assert not pages._one_by_one({"held_count": 3}, causes)
    assert pages._one_by_one({"held_count": 4}, causes)


@pytest.mark.parametrize("after", ["%00", "../x", "x" * 80])
def test_a_place_that_is_none(world: World, console: ConsoleClient, after: str) -> None:
    assert console.get(f"/brake?after={after}").status_code == 400


def test_who_may_only_look(world: World, viewer: ConsoleClient) -> None:
    held(world)
    text = page(viewer)
    assert "/brake/release" not in text
    assert "An operator releases it" in words(text)
    refused = viewer.post("/brake/release", {"held": "quarantine", "reason": "mine"})
    assert refused.status_code == 403
    assert world.viewer.get("/v1/admin/brake").json["engaged"] is not None


# ---- Deciding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (1, ("Drop the held result", "1 device stays active", "Quarantine 1 device", "refuses it")),
        (
            1200,
            ("Drop the 1,200 held results", "1,200 devices stay active", "Quarantine 1,200 devices", "refuses them"),
        ),
    ],
)
def test_each_choice_says_whom_it_touches(held: int, expected: tuple[str, ...]) -> None:
    said = " ".join(" ".join(fate) for fate in pages.fates(held))
    for part in expected:
        assert part in said


@pytest.mark.parametrize(
    ("fate", "state", "said"),
    [
        ("dismiss", State.ACTIVE, "2 held results were dropped; no device changed."),
        ("quarantine", State.QUARANTINED, "2 devices are quarantined."),
    ],
)
def test_releasing_with_a_touch(world: World, fate: str, state: State, said: str) -> None:
    devices, passkey = held(world, 2), Authenticator()
    ada = signed_in(world, "operator", passkey=passkey)
    form = {"held": fate, "reason": "looked at"}
    bare = ada.post("/brake/release", form)  # without the touch nothing is done
    assert bare.status_code in (401, 403)
    assert world.viewer.get("/v1/admin/brake").json["engaged"] is not None
    done = touch(ada, passkey, "/brake/release", form)
    assert (done.status_code, done.headers["Location"]) == (303, "/brake")
    assert {world.row(device).state for device in devices} == {state}
    text = words(page(ada))
    assert f"The brake is released. {said}" in text
    assert "The brake is off" in text


def test_engaging_with_a_touch(world: World) -> None:
    passkey = Authenticator()
    ada = signed_in(world, "operator", passkey=passkey)
    done = touch(ada, passkey, "/brake/engage", {"reason": REASON})
    assert (done.status_code, done.headers["Location"]) == (303, "/brake")
    assert world.viewer.get("/v1/admin/brake").json["engaged"]["by"] == "operator:ada"
    assert "The brake is engaged. No result quarantines a device until it is released." in words(page(ada))


def test_a_second_press_does_nothing(world: World, console: ConsoleClient) -> None:
    device = held(world)[0]
    form = {"held": "quarantine", "reason": "looked at"}
    once = "a" * 24
    assert console.post("/brake/release", form, once=once).status_code == 303
    world.operator.post(f"/v1/admin/devices/{device.id}/release", {"v": 1, "reason": "mended"})
    engage(world)
    again = console.post("/brake/release", form, once=once)
    assert (again.status_code, "Done already" in words(again.text)) == (409, True)
    assert world.viewer.get("/v1/admin/brake").json["engaged"] is not None


@pytest.mark.parametrize("form", [{}, {"held": "drop"}, {"held": "<script>"}])
def test_without_a_choice_nothing_is_done(world: World, console: ConsoleClient, form: dict[str, str]) -> None:
    held(world)
    answer = console.post("/brake/release", {**form, "reason": "why"})
    assert answer.status_code == 400
    assert "Nothing was done" in words(answer.text)
    assert "<script>" not in answer.text.replace("<script type=", "")
    assert 'value="why"' in answer.text  # what was typed is not lost
    assert world.viewer.get("/v1/admin/brake").json["held_count"] == 1


def test_somebody_else_was_faster(world: World, console: ConsoleClient) -> None:
    engage(world)
    world.operator.post("/v1/admin/brake/release", {"v": 1, "held": "dismiss"})
    answer = console.post("/brake/release", {"held": "dismiss", "reason": "why"})
    assert answer.status_code == 409
    assert "The brake is not engaged" in words(answer.text)


def test_what_an_operator_wrote_is_no_markup(world: World, console: ConsoleClient) -> None:
    evil = '"><script>alert(1)</script>{{7*7}}'
    world.operator.post("/v1/admin/brake/engage", {"v": 1, "reason": evil})
    text = page(console)
    assert "<script>alert" not in text
    assert "alert(1)</script>{{7*7}}" in words(text)


# ---- Seen elsewhere ---------------------------------------------------------------------------------------------


def row(text: str, device: SoftDevice) -> str:
    found = re.search(rf'<tr[^>]*id="device-{device.id}".*?</tr>', text, re.DOTALL)
    assert found is not None
    return found[0]


def test_the_fleet_s_list_turns_red(world: World, console: ConsoleClient) -> None:
    good = world.enrolled()
    bad = held(world)[0]
    text = page(console, "/fleet")
    shown = words(row(text, bad))
    assert "Contraindicated" in shown
    assert "The firmware is not one that reference values know" in shown
    assert "The brake holds this result" in shown
    assert 'href="/brake"' in row(text, bad)
    assert "Contraindicated" not in words(row(text, good))
    grouped = words(page(console, "/fleet?group=cause"))
    assert "Contraindicated" in grouped
    lines = console.get("/fleet.csv").text.splitlines()
    at = lines[0].split(",").index("held")
    assert {line.split(",")[0]: line.split(",")[at] for line in lines[1:]} == {bad.id: "yes", good.id: "no"}


def test_a_device_that_was_quarantined_meanwhile_is_shown_as_that(world: World, console: ConsoleClient) -> None:
    bad = held(world)[0]
    world.operator.post(f"/v1/admin/devices/{bad.id}/quarantine", {"v": 1, "reason": "seen"})
    shown = words(row(page(console, "/fleet"), bad))
    assert "Quarantined" in shown
    assert "brake" not in shown


def test_its_own_page_says_who_holds_it(world: World, console: ConsoleClient) -> None:
    bad = held(world)[0]
    assert "The brake holds this result: the device stays active for now. See the brake" in words(
        page(console, f"/fleet/{bad.id}")
    )
    world.operator.post("/v1/admin/brake/release", {"v": 1, "held": "dismiss"})
    after = words(page(console, f"/fleet/{bad.id}"))
    assert "The brake holds" not in after
    assert "An operator let it stay active all the same" in after


def test_the_overview_leads_there(world: World, console: ConsoleClient) -> None:
    held(world)
    text = page(console, "/")
    todo = re.search(r'<ol class="todo".*?</ol>', text, re.DOTALL)
    assert todo is not None
    assert 'href="/brake"' in todo[0]
    assert "1 device is held back" in words(todo[0])
    assert "Held by the brake: 1." in words(text)
    assert '<a href="/brake">Engaged</a>' in text


@pytest.mark.parametrize(("by", "kind"), [("attestd", "service"), ("operator:ada", "operator")])
def test_who_engaged_it(by: str, kind: str) -> None:
    assert telling.actor(by).kind == kind


def test_what_a_release_came_to() -> None:
    def said(held: int, quarantined: int) -> Any:
        return pages.released({"held": held, "quarantined": quarantined})

    assert said(0, 0) == "The brake is released. Nothing was held."
    assert said(1, 0) == "The brake is released. 1 held result was dropped; no device changed."
    assert said(2, 1) == "The brake is released. 1 device is quarantined."
