"""Attacks on the end of a session: somebody goes home, the page stays open, and whoever comes by sits down at it."""

from __future__ import annotations

import pytest

from attestd_console.api import UNATTENDED
from tests.authenticator import Authenticator
from tests.console import ConsoleClient, signed_in, touch
from tests.service import World

BY_ITSELF = {UNATTENDED: "1"}
IDLE = 30  # minutes, as the settings have it
PAGES = ("/", "/fleet", "/approvals", "/boundaries", "/audit", "/people", "/brake", "/events")


@pytest.fixture
def ada(world: World) -> ConsoleClient:
    ada = signed_in(world)
    world.enrolled()
    assert ada.get("/").status_code == 200
    return ada


@pytest.mark.parametrize("path", PAGES)
def test_a_page_that_only_refreshes_itself_does_idle_out(world: World, ada: ConsoleClient, path: str) -> None:
    for _ in range(IDLE - 1):
        world.clock.advance(minutes=1)
        assert ada.get(path, headers=BY_ITSELF).status_code == 200
    world.clock.advance(minutes=1)
    assert ada.get(path, headers=BY_ITSELF).status_code in (302, 303, 401)
    assert ada.get(path).status_code in (302, 303, 401)


@pytest.mark.parametrize("path", PAGES)
def test_its_twin_that_somebody_opens_lives_on(world: World, ada: ConsoleClient, path: str) -> None:
    for _ in range(3):
        world.clock.advance(minutes=IDLE - 1)
        assert ada.get(path).status_code == 200


def test_no_form_and_no_touch_with_that_header_makes_a_session_longer(world: World) -> None:
    """Whoever adds it to what they do is out sooner, and gains nothing."""
    passkey = Authenticator()
    ada = signed_in(world, passkey=passkey)
    ada.headers |= BY_ITSELF
    world.clock.advance(minutes=IDLE - 1)
    assert touch(ada, passkey, "/brake/engage", {"reason": "a test"}).status_code == 303
    world.clock.advance(minutes=1)
    assert ada.get("/").status_code in (302, 303, 401)
    assert ada.post("/brake/release", {"held": "dismiss", "reason": "x"}).status_code in (302, 303, 401)


def test_the_header_is_no_way_past_the_end_of_a_session(world: World, ada: ConsoleClient) -> None:
    world.clock.advance(minutes=IDLE)
    for headers in (BY_ITSELF, {UNATTENDED: "0"}, {UNATTENDED: ""}):
        assert ada.get("/fleet", headers=headers).status_code in (302, 303, 401)
