"""An admin invites somebody, adds a second passkey and ends a session, in a real browser."""

from __future__ import annotations

import pytest

from tests.browser import Authenticator, Browser
from tests.e2e.console import come, origin
from tests.e2e.test_serving import Served

pytestmark = pytest.mark.timeout(300)


def test_an_admin_looks_after_people(served: Served, browser: Browser) -> None:
    here = origin(served)
    page = browser.page(here)
    authenticator = come(page, served, "nadia")

    # Somebody is invited, with the touch, and comes in with a passkey of their own.
    page.goto("/people")
    page.get_by_label("Name", exact=False).first.fill("bob")
    page.get_by_label("Role").select_option("operator")
    page.get_by_role("button", name="Make the link").click()
    page.get_by_role("heading", name="The link for bob").wait_for()
    shown = page.locator(".cmd code").inner_text()
    assert shown.startswith(f"{here}/first/")
    other = browser.page(here)
    Authenticator.beside(other)
    other.goto(shown.removeprefix(here))
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
