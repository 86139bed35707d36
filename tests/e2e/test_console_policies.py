"""An operator changes a policy without fear, in a real browser: a fault is marked, a dry run names whom it would stop,
a passkey puts it in force, the edge refuses, and the old text comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attestd.config import ConsoleSettings
from attestd.registry import policies
from tests.browser import Authenticator, Browser, chromium, require_browser, served
from tests.console import console_app
from tests.receipt_site import ReceiptSite
from tests.service import World

pytestmark = pytest.mark.timeout(300)
FAULTY = """@id("no-orders")
forbid (principal, action == Action::"cross", resource)
when { context.pathh == "/orders" };
"""


class Place:
    """A world with an edge whose crossings have receipts, and its console at an address that browsers trust."""

    def __init__(self, world: World, folder: Path, origin: str) -> None:
        self.world, self.origin = world, origin
        self.edge = ReceiptSite(world, folder)
        self.edge.device = world.enrolled()
        self.edge.refresher.tick()

    def crosses(self) -> str:
        """The edge's word, once it heard what is new."""
        self.world.clock.advance(seconds=2)
        self.edge.refresher.tick()
        return self.edge.ask(chain=self.edge.certificate_of(self.edge.device))

    def in_force(self) -> tuple[int, str]:
        with self.world.registry.reading() as c:
            found = policies.latest(c)
        return found.version, found.text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Browser]]:
    require_browser()
    folder = tmp_path_factory.mktemp("policies")
    (folder / "edge").mkdir()
    world = World(folder / "instance")
    with served(console_app(world).wsgi_app) as here, chromium(here.root) as browser:
        world.configure(console=ConsoleSettings(origin=here.origin))
        place = Place(world, folder / "edge", here.origin)
        yield place, browser
        place.edge.edge.stop()
    world.close()


@pytest.fixture
def place(made: tuple[Place, Browser]) -> Place:
    return made[0]


@pytest.fixture
def browser(made: tuple[Place, Browser]) -> Iterator[Browser]:
    yield made[1]
    made[1].close_pages()


def admin(place: Place, browser: Browser, name: str, **look: Any) -> Any:
    """Somebody who came by a one-time link, with a passkey beside the page."""
    page = browser.page(place.origin, **look)
    Authenticator.beside(page)
    made = place.world.admin.post("/v1/admin/invitations", {"v": 1, "name": name, "role": "admin"})
    page.goto(f"/first/{made.get_json()['token']}")
    page.get_by_label("Name of this passkey").fill("laptop")
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    return page


def test_a_policy_is_changed_without_fear(place: Place, browser: Browser) -> None:
    before = place.in_force()[1]
    place.edge.cross(3)
    place.edge.deliver()
    page = admin(place, browser, "mara")

    # A fault is marked at its line as one types, and nothing of the text is lost by mending it.
    page.goto("/policies/fleet/draft")
    editor = page.get_by_role("textbox", name="Draft")
    editor.fill(before + FAULTY)
    fault = page.locator("[data-flaws] li.bad")
    fault.wait_for()
    line = before.count("\n") + 3
    assert f"Line {line}, column" in fault.inner_text()
    assert page.locator(".gutter .flaw").inner_text() == str(line)
    assert "1 fault" in page.locator("[data-verdict]").inner_text()
    editor.fill(before + FAULTY.replace("pathh", "path"))
    page.get_by_text("Fits the schema").wait_for()
    assert fault.count() == 0

    # The dry run names the device that really crossed.
    page.get_by_role("button", name="Dry run").click()
    group = page.locator(".dry .group")
    group.wait_for()
    said = group.inner_text()
    assert "Newly denied at field" in said
    assert str(place.edge.device.id) in said
    assert "3 did cross" in said
    assert "no-orders" in said
    assert place.in_force() == (1, before)

    # What was tried is what is put in force: another text has to be tried again.
    put = page.get_by_role("button", name="Put in force as version 2")
    editor.press("End")
    editor.type(" ")
    assert put.is_disabled()
    editor.press("Backspace")
    assert put.is_enabled()
    page.get_by_label("Why").fill("no orders today")
    put.click()
    page.wait_for_url("**/policies/fleet")
    assert "Version 2 is in force" in page.locator("main").inner_text()
    assert place.in_force() == (2, before + FAULTY.replace("pathh", "path"))
    assert place.crosses() == "crossing-denied"

    # And back, after its own dry run.
    page.goto("/policies/fleet/versions/1")
    place.edge.deliver()
    page.get_by_role("button", name="Dry run").click()
    page.get_by_text("Newly allowed at").first.wait_for()
    page.get_by_label("Why").fill("it was the wrong day")
    page.get_by_role("button", name="Put this text in force as version 3").click()
    page.wait_for_url("**/policies/fleet")
    assert place.in_force() == (3, before)
    assert place.crosses() == "allowed"
    assert page.complaints == []
