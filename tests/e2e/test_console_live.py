"""Pages that change by themselves, in a real browser: without reloading, and without anything moving."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from attestd.cli.api import AdminApi
from attestd.config import Settings
from attestd.registry.engine import Registry
from attestd.registry.states import State
from attestd_console.sessions import Seed
from tests.browser import Browser, overflow, violations
from tests.e2e.console import origin, seed_of
from tests.e2e.test_serving import Served, attestd, serve
from tests.unit.registry.conftest import Fleet

pytestmark = pytest.mark.timeout(300)
# Kept by the page itself from its first moment on: what moved without anybody having pressed something.
SHIFTS = """
window.moved = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    const where = (source) => source.node?.parentElement?.outerHTML.slice(0, 200) ?? "?";
    if (!entry.hadRecentInput) window.moved.push([entry.value, ...entry.sources.map(where)]);
  }
}).observe({ type: "layout-shift", buffered: true });
window.born = Math.random();
"""
PATIENCE = 60_000  # milliseconds: the machine may be slow


@pytest.fixture
def page(served: Served, browser: Browser) -> Any:
    """Somebody who may look, and whose page tells what moved."""
    page = browser.page(origin(served), seed=seed_of(served))
    page.set_default_timeout(PATIENCE)
    page.add_init_script(SHIFTS)
    return page


def device_of(served: Served) -> str:
    """An active device, without a machine."""
    registry = Registry.open(Settings.load(served.folder, {}).database_url)
    try:
        fleet = Fleet(registry)
        fleet._numbers = iter(range(int.from_bytes(Seed.fresh().octets[:4]) + 1, 1 << 40))  # type: ignore[assignment]
        return str(fleet.device(State.ACTIVE).id)
    finally:
        registry.close()


def live(page: Any) -> None:
    says(page, re.compile("^Live, [0-9]+ s ago$"))


def says(page: Any, words: re.Pattern[str]) -> None:
    """What the indicator says, now or soon. (What a page's policy forbids, no test does in it: nothing is evaluated
    from text.)"""
    from playwright.sync_api import expect

    expect(page.locator("[data-indicator-words]").first).to_have_text(words, timeout=PATIENCE)


def unmoved(page: Any, born: float) -> None:
    """The page is the one that was opened, and nothing moved in it."""
    assert page.evaluate("window.born") == born
    moved = page.evaluate("window.moved")
    assert moved == [], repr(moved)
    assert page.complaints == []


@pytest.fixture(params=[False, True], ids=["wide", "phone"])
def overview(request: pytest.FixtureRequest, served: Served, browser: Browser) -> Any:
    """The same, on a large screen and on a phone."""
    page = browser.page(origin(served), seed=seed_of(served), phone=request.param)
    page.set_default_timeout(PATIENCE)
    page.add_init_script(SHIFTS)
    return page


def all_is_well(served: Served) -> None:
    """Nothing of an earlier test needs anybody any more."""
    api = AdminApi.connect(served.folder)
    for device in api.get("/devices", state="quarantined")["devices"]:
        api.post(f"/devices/{device['id']}/retire", {"reason": "of an earlier test"})


def heights(page: Any) -> list[float]:
    """Where each part of the page begins."""
    found = page.evaluate("[...document.querySelectorAll('main section')].map(s => s.getBoundingClientRect().top)")
    return [float(each) for each in found]


def test_nothing_moves_when_a_thing_to_do_joins_and_leaves(served: Served, overview: Any) -> None:
    """What the page says first changes at once; what is new to do stands in its room, or waits in its place."""
    all_is_well(served)
    page, before, device = overview, device_of(served), device_of(served)
    attestd(served.folder, "devices", "quarantine", before, "--reason", "Its seal is broken")
    page.goto("/")
    live(page)
    born, places, lead = page.evaluate("window.born"), heights(page), page.locator("#lead .lede").inner_text()
    first = page.locator("#you .todo li").first.inner_text()
    attestd(served.folder, "devices", "quarantine", device, "--reason", f"Seen at the wrong door by {device}")
    page.locator("#lead .lede", has_not_text=lead).wait_for()
    more = page.get_by_role("button", name="Changed, show")
    page.locator("#you", has_text=device).or_(more).first.wait_for()
    assert page.locator("#you .todo li").first.inner_text().splitlines()[0] == first.splitlines()[0]
    unmoved(page, born)
    assert heights(page) == places
    if more.is_visible():
        more.click()
    page.locator("#you .todo", has_text=device).wait_for()
    assert page.evaluate("window.born") == born
    page.evaluate("window.moved.length = 0")

    places = heights(page)
    attestd(served.folder, "devices", "release", device, "--reason", "looked at")
    page.locator("#you .todo", has_text="No longer needs you").wait_for()
    unmoved(page, born)
    assert heights(page) == places
    for each in (before, device):
        attestd(served.folder, "devices", "retire", each, "--reason", "scrapped")
    page.get_by_text("Nothing needs you now.").or_(more).first.wait_for()
    unmoved(page, born)
    assert heights(page) == places
    assert violations(page) == []


def test_the_first_thing_to_do_has_its_room(served: Served, overview: Any) -> None:
    """Who looks at a page on which all is well sees what comes without pressing anything."""
    all_is_well(served)
    page, device = overview, device_of(served)
    page.goto("/")
    page.get_by_text("Nothing needs you now.").wait_for()
    live(page)
    born, places = page.evaluate("window.born"), heights(page)
    attestd(served.folder, "devices", "quarantine", device, "--reason", "Its seal is broken")
    page.locator("#you .todo", has_text="Its seal is broken").wait_for()
    unmoved(page, born)
    assert heights(page) == places
    attestd(served.folder, "devices", "retire", device, "--reason", "scrapped")
    page.get_by_text("Nothing needs you now.").wait_for()
    unmoved(page, born)
    assert heights(page) == places


def test_what_a_page_asks_by_itself_says_so(served: Served, page: Any) -> None:
    """So that the service does not take it for somebody who is there; what a person opens says nothing."""
    asked: list[tuple[str, str, bool]] = []

    def note(request: Any) -> None:
        path = request.url.removeprefix(origin(served))
        if not path.startswith("/static/"):
            asked.append((request.resource_type, path.partition("?")[0], "attestd-unattended" in request.headers))

    page.on("request", note)
    page.goto("/")
    live(page)
    with page.expect_request(lambda request: request.resource_type == "xhr", timeout=PATIENCE):
        attestd(served.folder, "devices", "quarantine", device_of(served), "--reason", "Seen")
    assert ("document", "/", False) in asked
    assert ("xhr", "/", True) in asked
    assert {said for kind, _, said in asked if kind != "document"} == {True}
    assert {said for kind, _, said in asked if kind == "document"} == {False}


def test_the_brake_is_seen_and_decided(served: Served, chrome: Browser) -> None:
    """Engaged on the command line, the open page says so by itself; it can be read in light, dark and on a phone."""
    page = chrome.page(origin(served), seed=seed_of(served))
    page.set_default_timeout(PATIENCE)
    page.goto("/brake")
    page.get_by_role("heading", name="The brake is off", level=1).wait_for()
    live(page)
    page.evaluate("window.same = true")
    attestd(served.folder, "brake", "engage", "--reason", "new reference values")
    page.get_by_role("heading", name="The brake is engaged", level=1).wait_for()
    assert page.evaluate("window.same") is True
    assert "new reference values" in page.locator("#lead").inner_text()
    assert page.complaints == []
    for theme, phone in (("light", False), ("dark", False), ("light", True)):
        other = chrome.page(origin(served), seed=seed_of(served), theme=theme, phone=phone)
        other.goto("/brake")
        assert violations(other) == []
        assert overflow(other) == 0
    attestd(served.folder, "brake", "release", "--dismiss", "--reason", "all is well")
    page.get_by_role("heading", name="The brake is off", level=1).wait_for()
    chrome.close_pages()


def test_new_rows_wait_until_they_are_wanted(served: Served, page: Any, tmp_path: Path) -> None:
    device = device_of(served)
    page.goto("/audit")
    live(page)
    born = page.evaluate("window.born")
    newest = page.locator("#audit-rows tr").first.get_attribute("id")
    attestd(served.folder, "devices", "quarantine", device, "--reason", "seen at the wrong door")
    button = page.get_by_role("button", name=re.compile("^[0-9]+ new, show$"))
    button.wait_for()
    assert page.locator("#audit-rows tr").first.get_attribute("id") == newest
    unmoved(page, born)
    button.click()
    row = page.locator("#audit-rows tr", has_text=f"quarantined {device}: seen at the wrong door")
    row.wait_for()
    assert page.evaluate("window.born") == born

    row.get_by_role("link", name=re.compile("^Open row")).click()
    page.get_by_role("heading", name="Proof that it is in the tree").wait_for()
    assert violations(page) == []
    with page.expect_download() as download:
        page.get_by_role("link", name="Download proof").click()
    proof = tmp_path / download.value.suggested_filename
    download.value.save_as(proof)
    root = served.folder / "ca" / "root.pem"
    verify = ("audit", "verify", "--proof", str(proof), "--root", str(root))
    assert "Proven: row" in attestd(served.folder, *verify)
    octets = bytearray(proof.read_bytes())
    at = octets.index(b"wrong door")
    octets[at] ^= 1
    proof.write_bytes(octets)
    attestd(served.folder, *verify, code=1)


def test_who_is_disabled_while_looking_is_led_to_the_sign_in(served: Served, browser: Browser) -> None:
    seed = seed_of(served)
    api = AdminApi.connect(served.folder)
    page = browser.page(origin(served), seed=seed)
    page.set_default_timeout(PATIENCE)
    page.goto("/audit")
    live(page)
    mine = page.locator(".who b").first.inner_text()
    api.post(f"/operators/{mine}/disable")
    page.wait_for_url("**/sign-in*")


def test_a_service_that_is_away_shows_and_comes_back(served: Served, page: Any) -> None:
    page.goto("/audit")
    live(page)
    born = page.evaluate("window.born")
    served.stop()
    says(page, re.compile(r"^Reconnecting, shown as of \d\d:\d\d:\d\d$"))
    served.process = serve(served.folder, port=int(served.url.rpartition(":")[2])).process
    live(page)
    page.complaints.clear()  # the browser itself says that a fetch failed
    unmoved(page, born)
