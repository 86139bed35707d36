"""A tampered device's page in a real browser: why it was refused, what differs, and an act that a passkey confirms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from attestd.config import AttestationSettings
from tests import logwriter as w
from tests.booted import BOOT, GOOD_FILES, Machine, enrolled, refer, runtime
from tests.browser import Browser, Served, chromium, require_browser, served, violations
from tests.console import console_app, console_client
from tests.logwriter import Boot
from tests.service import SoftDevice, World

pytestmark = [pytest.mark.once, pytest.mark.timeout(300)]

XSS = "<img src=x onerror=alert(1)>\u202e"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    require_browser()
    selection = AttestationSettings(pcrs={"sha256": tuple(range(10))})
    world = World(tmp_path_factory.mktemp("console") / "instance", attestation=selection)
    refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES))
    yield world
    world.close()


@pytest.fixture(scope="module")
def tampered(world: World) -> SoftDevice:
    """Good for a while; then Secure Boot was off, and a boot program ran whose name is markup."""
    device = enrolled(world, Machine())
    for _ in range(3):
        world.clock.advance(hours=20)
        Machine().present(device)
        assert device.attest().status_code == 200
    boot = w.firmware(Boot(), secure_boot=b"\0")
    boot.measure(4, w.EV.BS_APP, w.image_load(w.hard_drive(), w.file_path(XSS)), w.image(b"evil"))
    Machine(boot=w.exit_boot_services(w.grub(w.shim(boot)))).present(device)
    assert device.attest().status_code == 202
    world.clock.advance(minutes=20)
    return device


@pytest.fixture(scope="module")
def site(world: World) -> Iterator[Served]:
    with served(console_app(world)) as running:
        yield running


@pytest.fixture(scope="module")
def chrome(site: Served) -> Iterator[Browser]:
    with chromium(site.root) as browser:
        yield browser


@pytest.fixture(params=["wide", "phone", "dark"])
def page(request: pytest.FixtureRequest, world: World, site: Served, chrome: Browser) -> Iterator[Any]:
    seed = console_client(world, "operator", name=f"operator-{request.param}").seed
    theme = "dark" if request.param == "dark" else "light"
    yield chrome.page(site.origin, seed=seed, theme=theme, phone=request.param == "phone")
    chrome.close_pages()


def path(world: World, device: SoftDevice) -> str:
    return f"/fleet/{world.row(device).id}"


def test_a_tampered_device_says_why(world: World, tampered: SoftDevice, page: Any) -> None:
    page.goto(path(world, tampered))
    why = page.locator("#why")
    heading = why.get_by_role("heading", level=2).inner_text()
    assert heading == "Secure Boot is off, and a boot program ran that no reference value knows"
    assert [link.split("\n")[0] for link in why.locator(".chain li").all_inner_texts()] == [
        *("Firmware", "Settings", "Secure Boot", "Boot programs", "Kernel", "Running files"),
    ]
    rows = why.locator("table.diff tbody tr").all_inner_texts()
    assert "PCR 7" in rows[0]
    assert "PCR 4" in rows[1]
    assert "<img src=x onerror=alert(1)>" in rows[1]
    assert "\u202e" not in page.content()
    assert page.locator("main img").count() == 0
    # The evidence: what differs is open, the rest is folded.
    tree = page.locator(".tree > details")
    opened = [each.get_attribute("open") is not None for each in tree.all()]
    assert opened == [False, True, True, False]
    tree.first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert "reset count" in tree.first.inner_text()
    assert violations(page) == []
    assert page.complaints == []


def test_the_other_pages_of_a_device(world: World, tampered: SoftDevice, page: Any) -> None:
    for rest in ("/release", "/label", "/attestations/6/events", "/attestations/6/files", "?att=2"):
        page.goto(path(world, tampered) + rest)
        assert page.get_by_role("heading", level=1).count() == 1
    assert page.complaints == []
