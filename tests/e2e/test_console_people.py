"""An admin invites somebody, adds a second passkey and ends a session, in a real browser; pages as people see them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Authenticator, Browser, chromium, overflow, require_browser, violations
from tests.database import database_of_an_instance
from tests.e2e.test_console_sign_in import come
from tests.e2e.test_serving import Served, attestd, serve

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    require_browser()
    folder = tmp_path_factory.mktemp("people") / "instance"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in database_of_an_instance().items():
            patch.setenv(name, value)
        attestd(folder, "init", "--trust-domain", "harbour.example")
        running = serve(folder)
        yield running
        running.stop()


@pytest.fixture(scope="module")
def chrome(served: Served) -> Iterator[Browser]:
    with chromium((served.folder / "ca" / "root.pem").read_bytes()) as browser:
        yield browser


def test_an_admin_looks_after_people(served: Served, chrome: Browser) -> None:
    origin = "https://localhost:" + served.url.rpartition(":")[2]
    page = chrome.page(origin)
    authenticator = come(page, served, "mara")

    # Somebody is invited, with the touch, and comes in with a passkey of their own.
    page.goto("/people")
    page.get_by_label("Name", exact=False).first.fill("bob")
    page.get_by_label("Role").select_option("operator")
    page.get_by_role("button", name="Make the link").click()
    page.get_by_role("heading", name="The link for bob").wait_for()
    shown = page.locator(".cmd code").inner_text()
    assert shown.startswith(f"{origin}/first/")
    other = chrome.page(origin)
    Authenticator.beside(other)
    other.goto(shown.removeprefix(origin))
    other.get_by_role("button", name="Make a passkey").click()
    other.wait_for_url("**/")

    # A touch that the person does not give does nothing.
    page.goto("/people/bob")
    authenticator.verifies(False)
    page.get_by_role("button", name="Disable bob").click()
    page.get_by_text("No passkey was used.").wait_for()
    authenticator.verifies(True)
    page.get_by_role("button", name="End the session of bob").click()
    page.get_by_text("That session is over.").wait_for()
    other.goto("/people")
    other.wait_for_url("**/sign-in*")
    page.get_by_label("Why").fill("left the firm")
    page.get_by_role("button", name="Disable bob").click()
    page.get_by_text("bob is out.").wait_for()

    for path in ("/people", "/people/mara", "/sessions"):
        for theme, phone in (("light", False), ("dark", False), ("light", True)):
            view = chrome.page(origin, theme=theme, phone=phone)
            view.context.add_cookies(page.context.cookies())
            view.goto(path)
            assert violations(view) == [], (path, theme, phone)
            assert overflow(view) <= 0, (path, theme, phone)
            if folder := os.environ.get("ATTESTD_PICTURES"):
                view.screenshot(path=Path(folder) / f"{path.replace('/', '-')}-{theme}-{phone}.png", full_page=True)
    chrome.close_pages()
