"""`attestd brake` and `attestd devices release-cohort`: what is shown, what is asked, what is done."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from attestd.cli import cohorts
from attestd.cli.api import CallRefused
from attestd.errors import MalformedInput
from attestd.registry import brake
from attestd.registry.states import State
from tests.commands import Run
from tests.service import SITE, SoftDevice, World

pytestmark = pytest.mark.once

RESULT: dict[str, Any] = {"status": "contraindicated", "vector": {}, "reasons": ["PCR 7"], "attested_at": 1}


class Api:
    """The admin API of a service in this process, as the commands see it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def get(self, path: str, **query: object) -> dict[str, Any]:
        text = "&".join(f"{name}={value}" for name, value in query.items() if value is not None)
        return dict(self.world.viewer.get(f"/v1/admin{path}" + (f"?{text}" if text else "")).json)

    def post(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        answer = self.world.operator.post(f"/v1/admin{path}", message)
        if answer.status_code >= 400:
            raise CallRefused(answer.json)
        return dict(answer.json)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path / "instance")
    monkeypatch.setattr("attestd.cli.api.AdminApi.connect", lambda _: Api(world))
    yield world
    world.close()


def hold(world: World, device: SoftDevice) -> None:
    with world.registry.acting() as c:
        brake.hold(c, world.row(device).id, RESULT, now=int(world.clock().timestamp()))


def quarantined(world: World) -> SoftDevice:
    device = world.enrolled()
    world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1, "reason": "odd"})
    return device


# ---- The brake --------------------------------------------------------------------------------------------------


def test_a_brake_s_life(run: Run, world: World) -> None:
    device = world.enrolled()
    assert "Released" in run("brake", "show").out
    assert run("brake", "engage", "--reason", "a new manifest").code == 0
    hold(world, device)
    shown = run("brake", "show").out
    assert "ENGAGED since 2026-06-01 12:00:00Z by operator:operator-1: a new manifest" in shown
    assert device.id in shown
    assert "PCR 7" in shown
    assert "the first of those ends 2026-06-01 1" in shown
    listed = run("devices", "list").out
    assert "affirming, held" in listed or "none, held" in listed
    assert run("devices", "list", "--json").document[0]["held"] is True
    assert "held         contraindicated since" in run("devices", "show", device.id).out
    ran = run("brake", "release", "--quarantine", "--reason", "bad")
    assert (ran.code, ran.out) == (0, "The brake is released; 1 devices are quarantined.\n")
    assert world.row(device).state is State.QUARANTINED
    assert run("devices", "list", "--json").document[0]["held"] is False
    assert "edges        0 of 0 refuse it" in run("devices", "show", device.id).out


def test_dismissing(run: Run, world: World) -> None:
    device = world.enrolled()
    run("brake", "engage")
    hold(world, device)
    assert run("brake", "release", "--dismiss", "--json").document["quarantined"] == 0
    assert world.row(device).state is State.ACTIVE


@pytest.mark.parametrize("options", [(), ("--dismiss", "--quarantine")])
def test_what_becomes_of_the_held_has_to_be_said(run: Run, world: World, options: tuple[str, ...]) -> None:
    run("brake", "engage")
    assert run("brake", "release", *options).code == 2
    assert run("brake", "show", "--json").document["engaged"]


def test_a_refusal(run: Run, world: World) -> None:
    assert run("brake", "release", "--dismiss").code == 1


# ---- Cohorts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "state"), [("y\n", State.ACTIVE), ("n\n", State.QUARANTINED), ("", State.QUARANTINED)]
)
def test_it_is_shown_and_asked(run: Run, world: World, answers: str, state: State) -> None:
    device = quarantined(world)
    ran = run("devices", "release-cohort", "--site", SITE, answers=answers)
    assert device.id in ran.out
    assert "odd" in ran.out
    assert "Release 1 devices?" in ran.out
    assert world.row(device).state is state
    assert ran.code == (0 if state is State.ACTIVE else 1)


def test_without_asking(run: Run, world: World) -> None:
    device = quarantined(world)
    ran = run(
        "devices", "release-cohort", "--by", "operator", "--since", "2100-01-01", "--tier", "device", "--yes", "--json"
    )
    assert ran.code == 0, ran.err
    assert world.row(device).state is State.QUARANTINED  # nobody so late
    assert run("devices", "release-cohort", "--since", "2026-06-01 11:00", "--yes", "--json").document == {
        "released": 1
    }
    assert world.row(device).state is State.ACTIVE


def test_only_looking(run: Run, world: World) -> None:
    device = quarantined(world)
    ran = run("devices", "release-cohort", "--site", SITE, "--dry-run", "--json")
    assert (ran.document["count"], ran.document["devices"][0]["id"]) == (1, device.id)
    assert world.row(device).state is State.QUARANTINED


def test_nobody_to_ask(run: Run, world: World) -> None:
    device = quarantined(world)
    assert run("devices", "release-cohort", "--site", SITE, "--json").code == 2
    assert world.row(device).state is State.QUARANTINED


def test_no_criterion(run: Run, world: World) -> None:
    assert run("devices", "release-cohort", "--yes", "--json").problem == "call-refused"


def test_more_than_one_act_takes(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attestd.operations.fleet.MAX_COHORT", 1)
    monkeypatch.setattr("attestd.operations.fleet.SHOWN", 1)
    both = quarantined(world), quarantined(world)
    ran = run("devices", "release-cohort", "--site", SITE, "--yes")
    assert "… and 1 more" in ran.out
    assert "2 devices are active." in ran.out
    assert {world.row(device).state for device in both} == {State.ACTIVE}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 1_780_315_110),
        ("2026-06-01 11:58:30", 1_780_315_110),
        ("2026-06-01T11:58:30Z", 1_780_315_110),
        ("2026-06-01T13:58:30+02:00", 1_780_315_110),
    ],
)
def test_since(text: str, seconds: int) -> None:
    assert cohorts.since(text, now=datetime(2026, 6, 1, 12, tzinfo=UTC)) == seconds


@pytest.mark.parametrize("text", ["", "soon", "2h ago", "13:00", "2026-13-01"])
def test_since_nothing_that_can_be_read(text: str) -> None:
    with pytest.raises(MalformedInput):
        cohorts.since(text, now=datetime(2026, 6, 1, 12, tzinfo=UTC))
