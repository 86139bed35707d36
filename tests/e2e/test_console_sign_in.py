"""People come to the console: by the first link, with a passkey, by keyboard alone; in a real browser."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from attestd.cli.api import AdminApi
from attestd_console.sessions import SESSION
from tests.browser import Authenticator, Browser, chromium, overflow, require_browser, violations
from tests.database import database_of_an_instance
from tests.e2e.test_serving import BIN, Served, attestd, serve

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    require_browser()
    folder = tmp_path_factory.mktemp("console") / "instance"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in database_of_an_instance().items():
            patch.setenv(name, value)
        attestd(folder, "init", "--trust-domain", "harbour.example")
        running = serve(folder)
        yield running
        running.stop()


@pytest.fixture(scope="module")
def origin(served: Served) -> str:
    return "https://localhost:" + served.url.rpartition(":")[2]


@pytest.fixture(scope="module")
def chrome(served: Served) -> Iterator[Browser]:
    with chromium((served.folder / "ca" / "root.pem").read_bytes()) as browser:
        yield browser


@pytest.fixture
def browser(chrome: Browser) -> Iterator[Browser]:
    yield chrome
    chrome.close_pages()


def link(served: Served, name: str, role: str) -> str:
    """A one-time link's path."""
    made = AdminApi.connect(served.folder).post("/invitations", {"v": 1, "name": name, "role": role})
    return f"/first/{made['token']}"


def come(page: Any, served: Served, name: str = "mara", role: str = "admin") -> Authenticator:
    """By the one-time link, with nothing but the keyboard."""
    authenticator = Authenticator.beside(page)
    page.goto(link(served, name, role))
    page.get_by_label("Name of this passkey").focus()
    page.keyboard.type("laptop")
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    return authenticator


def test_from_the_first_link_to_a_passkey_out_and_in_again(served: Served, origin: str, browser: Browser) -> None:
    page = browser.page(origin)
    authenticator = come(page, served, "mara")
    assert page.get_by_role("heading", level=1).inner_text() == "Enroll the first device"
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


def test_who_does_not_touch_the_passkey_stays_outside_and_is_told(
    served: Served, origin: str, browser: Browser
) -> None:
    page = browser.page(origin)
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


def test_keys_lead_where_help_says_and_can_be_switched_off(served: Served, origin: str, browser: Browser) -> None:
    page = browser.page(origin)
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


@pytest.mark.parametrize(("theme", "phone"), [("light", False), ("dark", False), ("light", True)])
def test_pages_have_no_findings_and_no_complaints(
    theme: str, phone: bool, served: Served, origin: str, browser: Browser
) -> None:
    page = browser.page(origin, theme=theme, phone=phone)
    page.goto("/sign-in")
    assert violations(page) == []
    page.goto(link(served, f"lee-{theme}-{phone}".lower(), "viewer"))
    assert violations(page) == []
    come(page, served, f"kim-{theme}-{phone}".lower(), "viewer")
    for path in ("/", "/help"):
        page.goto(path)
        assert violations(page) == [], path
        assert overflow(page) == 0, path
        if phone:
            page.get_by_role("link", name="Menu").click()
            assert violations(page) == [], f"{path}, menu"
            page.get_by_role("link", name="Close").click()
    assert page.complaints == []
    page.goto("/nothing")
    assert page.get_by_role("heading", level=1).inner_text() == "There is no such page"
    assert violations(page) == []


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
