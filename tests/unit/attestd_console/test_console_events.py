"""The console carries the service's events: as their hearer may hear them, and without keeping threads for nothing."""

from __future__ import annotations

from typing import Any

import pytest

from attestd_console.api import Service
from attestd_console.app import create_app
from attestd_console.console import Console
from attestd_console.pages import always
from attestd_console.sessions import Seed
from tests.console import ConsoleClient, console_client
from tests.service import URL, World


def apart(world: World) -> ConsoleClient:
    """A console that is not mounted in the service."""
    service = Service.inside(world.app.wsgi_app, URL)
    object.__setattr__(service, "mounted", False)
    console = Console(service, clock=lambda: world.clock().timestamp())
    return console_client(world, "viewer", "elsewhere", app=create_app(console))


def test_inside_the_service_its_front_goes_on(world: World, viewer: ConsoleClient) -> None:
    answer = viewer.get("/events")
    assert (answer.status_code, answer.content_type) == (200, "text/event-stream")
    kind, key, place = answer.headers["attestd-follows"].split(" ")
    assert (kind, key, place) == ("events", viewer.seed.key.thumbprint if viewer.seed else "", place)
    assert answer.data == b":\n\n"


def test_what_happened_since_the_page_was_made_comes_first(world: World, viewer: ConsoleClient) -> None:
    at = int(world.clock().timestamp())
    world.clock.advance(minutes=1)
    device = world.enrolled()
    assert device.id.encode() in viewer.get(f"/events?since={at + 60}").data
    world.clock.advance(minutes=1)
    assert viewer.get(f"/events?since={at + 120}").data == b":\n\n"


@pytest.mark.parametrize("since", ["x", "-1", "9" * 30, "1&since=2", "%00"])
def test_a_time_that_is_none_is_left_out(viewer: ConsoleClient, since: str) -> None:
    assert viewer.get(f"/events?since={since}").status_code == 200


def test_who_is_not_signed_in_hears_nothing(world: World, nobody: ConsoleClient) -> None:
    assert nobody.get("/events").status_code == 401
    stranger = ConsoleClient(world, nobody.app, Seed.fresh())
    assert stranger.get("/events").status_code == 401


def test_the_word_to_the_front_does_not_come_from_afar(world: World) -> None:
    answer = apart(world).get("/events")
    assert answer.status_code == 200
    assert "attestd-follows" not in answer.headers
    answer.close()


def test_apart_there_is_room_for_so_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(always, "LISTENERS", 2)
    console = apart(world)
    held: list[Any] = [console.get("/events", buffered=False) for _ in range(2)]
    refused = console.get("/events")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "30")
    held.pop().close()
    assert console.get("/events", buffered=False).status_code == 200
