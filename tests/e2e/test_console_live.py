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
from tests.browser import Browser, violations
from tests.e2e.console import origin, seed_of
from tests.e2e.test_serving import Served, attestd, serve
from tests.unit.registry.conftest import Fleet

pytestmark = pytest.mark.timeout(300)
# Kept by the page itself from its first moment on: what moved without anybody having pressed something.
SHIFTS = """
window.moved = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (!entry.hadRecentInput) window.moved.push([entry.value, ...entry.sources.map((s) => s.node?.nodeName ?? "?")]);
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


def test_a_page_changes_when_a_device_is_quarantined_elsewhere(served: Served, page: Any) -> None:
    device = device_of(served)
    page.goto("/")
    live(page)
    born = page.evaluate("window.born")
    attestd(served.folder, "devices", "quarantine", device, "--reason", "seen at the wrong door")
    page.locator("#lead", has_text="1 quarantined").wait_for()
    assert page.evaluate("window.born") == born  # what moves in it when it has more to say is its own business
    assert page.complaints == []


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
