"""People come to the console: by the first link, with a passkey, by keyboard alone; in a real browser."""

from __future__ import annotations

import socket
import subprocess
import time

import httpx
import pytest

from attestd_console.sessions import SESSION
from tests.browser import Browser, overflow, violations
from tests.e2e.console import come, origin
from tests.e2e.test_serving import BIN, Served

pytestmark = pytest.mark.timeout(300)


def test_from_the_first_link_to_a_passkey_out_and_in_again(served: Served, browser: Browser) -> None:
    page = browser.page(origin(served))
    authenticator = come(page, served, "mara")
    assert page.get_by_role("heading", level=1).count() == 1
    assert "mara" in page.locator(".who").inner_text()
    assert len(authenticator.passkeys()) == 1
    (cookie,) = [c for c in page.context.cookies() if c["name"] == SESSION]
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"], cookie["expires"]) == (True, True, "Lax", -1)
    assert page.evaluate("document.cookie") == ""

    page.get_by_role("button", name="Sign out").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/sign-in")
    page.goto("/help")
    page.wait_for_url("**/sign-in?next=%2Fhelp")
    assert page.evaluate("document.activeElement.textContent.trim()") == "Continue with a passkey"
    page.keyboard.press("Enter")
    page.wait_for_url("**/help")
    (anew,) = [c for c in page.context.cookies() if c["name"] == SESSION]
    assert anew["value"] != cookie["value"]


def test_who_does_not_touch_the_passkey_stays_outside_and_is_told(served: Served, browser: Browser) -> None:
    page = browser.page(origin(served))
    authenticator = come(page, served, "jonas", "operator")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in")
    authenticator.verifies(False)
    page.get_by_role("button", name="Continue with a passkey").click()
    page.get_by_role("alert").wait_for()
    assert "No passkey was used" in page.get_by_role("alert").inner_text()
    assert [c["name"] for c in page.context.cookies() if c["name"] == SESSION] == []
    authenticator.verifies(True)
    page.get_by_role("button", name="Continue with a passkey").click()
    page.wait_for_url("**/")


def test_keys_lead_where_help_says_and_can_be_switched_off(served: Served, browser: Browser) -> None:
    page = browser.page(origin(served))
    come(page, served, "ines", "viewer")
    page.keyboard.press("?")
    page.wait_for_url("**/help")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("g")
    page.keyboard.press("o")
    page.wait_for_url("**/")
    page.goto("/help")
    page.get_by_role("button", name="Switch keys off").click()
    page.get_by_role("button", name="Switch keys on").wait_for()
    page.keyboard.press("g")
    page.keyboard.press("o")
    page.get_by_role("link", name="Overview").focus()  # a round trip to the page: the keys were heard by then
    assert page.url.endswith("/help")
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 19, 22)"


def test_a_phone_has_a_menu_and_no_page_complains(served: Served, browser: Browser) -> None:
    page = browser.page(origin(served), phone=True)
    come(page, served, "kim", "viewer")
    for path in ("/", "/help"):
        page.goto(path)
        page.get_by_role("link", name="Menu").click()
        page.get_by_role("link", name="Approvals").wait_for()
        assert violations(page) == [], path
        assert overflow(page) == 0, path
        page.get_by_role("link", name="Close").click()
    assert page.complaints == []
    page.goto("/nothing")
    assert page.get_by_role("heading", level=1).inner_text() == "There is no such page"


def test_apart_it_shows_the_same_pages(served: Served) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tls, root = served.folder / "tls", served.folder / "ca" / "root.pem"
    process = subprocess.Popen(
        [
            *(str(BIN / "attestd-console"), "serve", "--server", served.url, "--ca", str(root)),
            *("--listen", f"127.0.0.1:{port}", "--cert", str(tls / "server.pem"), "--key", str(tls / "server.key")),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == f"attestd-console answers at https://127.0.0.1:{port}"
        page = _asked(f"https://localhost:{port}/sign-in", served)
        assert page.status_code == 200
        assert "Sign in to harbour.example" in page.text
        assert f"https://localhost:{served.url.rpartition(':')[2]}/sign-in" in page.text  # where passkeys belong
        assert _asked(f"https://localhost:{port}/", served).headers["Location"] == "/sign-in"
        assert _asked(f"https://localhost:{port}/v1/root", served).status_code == 404  # it is no way to the API
    finally:
        process.terminate()
        assert process.wait(30) == 0


def _asked(url: str, served: Served) -> httpx.Response:
    """It says that it answers just before it does."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return httpx.get(url, verify=served.trust, timeout=30)
        except httpx.ConnectError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
