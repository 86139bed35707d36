"""An operator's day with a real software TPM, in a real browser, beside a real service and a real edge.

First sign-in; a device that waits is approved; it boots a tampered kernel and turns red in an open page; why; it is
quarantined, and the edge refuses it; a policy is tried on what really crossed before it is in force; a proof.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from attestd.protocol.messages import WaitAnswer
from attestd_agent.records import Enrolled
from attestd_demo.play import REFERENCES_COUNT, Play, Refused
from attestd_demo.story import Story
from attestd_demo.world import World
from tests.browser import Authenticator, Browser, chromium, require_browser
from tests.database import database_of_an_instance
from tests.software_tpm import missing_programs

pytestmark = [
    pytest.mark.database,
    pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"),
    pytest.mark.timeout(600),
]
PATIENCE = 60.0  # seconds: the machine may be slow
WHY = "A boot program ran that no reference value knows"


@dataclass
class Day:
    """A new instance with its service and an edge, a machine with a software TPM that nobody knows yet, a browser."""

    play: Play
    browser: Browser
    link: str  # what `attestd init` told the admin
    page: Any = None

    @property
    def origin(self) -> str:
        return "https://localhost:" + self.play.world.url.rpartition(":")[2]

    def enroll(self) -> Enrolled | WaitAnswer:
        return self.play.berlin.agent.enroll()

    def attest(self) -> Enrolled | WaitAnswer:
        return self.play.berlin.agent.attest()

    def edge(self) -> str:
        """The edge's word on a request of the device."""
        try:
            return self.play.request(self.play.berlin)
        except Refused as refused:
            return refused.problem.rpartition("/")[2].rpartition(":")[2]

    def edge_says(self, *words: str) -> None:
        soon(lambda: self.edge() in words, f"the edge says {' or '.join(words)}")


def soon(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s until {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory, loggers_as_before: None) -> Iterator[Day]:
    require_browser()
    world = World(tmp_path_factory.mktemp("day") / "instance")
    play = Play(Story(), world)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in database_of_an_instance().items():
                patch.setenv(name, value)
            told = play.make_instance()
        world.start_service()
        world.permit_tokens()
        world.open_edge()
        play.wait_for_bundle()
        play.berlin = world.power_on("bike-berlin", play.maker)
        play.trust_maker()
        link = re.search(r"https://localhost:[0-9]+(/first/\S+)", told)
        assert link is not None, told
        with chromium((world.dir / "ca" / "root.pem").read_bytes()) as browser:
            yield Day(play, browser, link[1])
    finally:
        world.close()


def test_an_operators_day(day: Day, tmp_path: Path) -> None:
    page = day.page = day.browser.page(day.origin)
    page.set_default_timeout(PATIENCE * 1000)
    _first_sign_in(day, page)
    device = _approve(day, page)
    _learn(day, page)
    _turns_red(day, page, device)
    _why(day, page)
    _quarantine(day, page, device)
    _prove(day, page, device, tmp_path)
    _policy(day, page, device)
    assert page.complaints == []


def _first_sign_in(day: Day, page: Any) -> None:
    Authenticator.beside(page)
    page.goto(day.link)
    page.get_by_role("button", name="Make a passkey").click()
    page.wait_for_url("**/")
    assert page.get_by_role("heading", level=1).inner_text() == "Enroll the first device"


def _approve(day: Day, page: Any) -> str:
    """The device arrives in the open page; it gets nothing until somebody says where it belongs."""
    page.evaluate("window.same = true")
    assert isinstance(day.enroll(), WaitAnswer)
    page.locator("#arrived", has_text="1 device waits for your approval").wait_for()
    assert page.evaluate("window.same") is True
    page.get_by_role("link", name="Review").click()
    row = page.locator("#queue tbody tr")
    assert "Endorsed by a maker you trust" in row.inner_text()
    row.get_by_role("checkbox").check()
    page.get_by_role("combobox", name="Tier").select_option("device")
    page.get_by_label("Home site").fill("berlin")
    page.get_by_label("Why, for the audit trail").fill("the first of the delivery")
    page.get_by_role("button", name="Approve the selected").click()
    page.get_by_text("1 device approved into berlin").wait_for()
    enrolled = day.enroll()
    assert isinstance(enrolled, Enrolled)
    day.edge_says("200: hello " + enrolled.record.spiffe_id)
    return enrolled.record.device_id


def _learn(day: Day, page: Any) -> None:
    """What the device booted is good: watched first, then promoted. The brake keeps results from quarantining."""
    day.play.ask_for_logs(day.play.berlin)
    file = day.play.learned(day.play.berlin)
    watched = day.play.references("add", str(file), "--stage", "monitor")
    assert isinstance(day.attest(), Enrolled)
    page.goto(f"/reference/{watched['name']}")
    assert "would refuse nobody so far" in page.locator("#lead").inner_text()
    page.get_by_role("link", name=re.compile("^Open version")).click()
    page.get_by_role("button", name="Change its stage").click()
    page.get_by_text("From now on it decides").wait_for()
    time.sleep(REFERENCES_COUNT)
    assert isinstance(day.attest(), Enrolled)
    day.play.world.attestd("brake", "engage", "--reason", "a firmware roll-out")


def _turns_red(day: Day, page: Any, device: str) -> None:
    """In the list that somebody looks at, without a word of theirs."""
    page.goto("/fleet")
    row = page.locator(f"#device-{device}")
    row.get_by_text("Affirming").wait_for()
    page.evaluate("window.same = true")
    day.play.world.reboot(day.play.berlin, b"a kernel with something in it")
    day.attest()
    row.locator(".st.bad, .bad").first.wait_for()
    assert page.evaluate("window.same") is True
    assert day.edge().startswith("200")  # the brake: nothing is done before somebody looks


def _why(day: Day, page: Any) -> None:
    page.locator("tbody a.name").click()
    why = page.locator("#why")
    why.wait_for()
    assert why.get_by_role("heading", level=2).inner_text() == WHY
    assert "PCR 4" in why.locator("table.diff tbody tr").first.inner_text()


def _quarantine(day: Day, page: Any, device: str) -> None:
    page.get_by_role("link", name="Quarantine…").click()
    page.get_by_label("Why, for the audit trail").fill("its kernel is not ours")
    page.get_by_role("button", name="Quarantine it").click()
    page.wait_for_url(f"**/fleet/{device}")
    page.get_by_text("It is quarantined.").wait_for()
    day.edge_says("device-suspended")


def _prove(day: Day, page: Any, device: str, folder: Path) -> None:
    """The act is in the trail, with a proof that needs nothing of the service but its root."""
    page.goto(f"/audit?device={device}")
    row = page.locator("#audit-rows tr", has_text="its kernel is not ours")
    assert "admin" in row.inner_text()
    row.get_by_role("link", name=re.compile("^Open row")).click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download proof").click()
    proof, root = folder / "proof.json", day.play.world.dir / "ca" / "root.pem"
    download.value.save_as(proof)
    told = day.play.world.attestd("audit", "verify", "--proof", str(proof), "--root", str(root))
    assert "Proven: row" in told


def _policy(day: Day, page: Any, device: str) -> None:
    """A change is judged on what really crossed, before it is in force; and then the edge follows."""
    page.goto("/policies/fleet/draft")
    editor = page.get_by_role("textbox", name="Draft")
    editor.fill(editor.input_value() + '@id("closed") forbid (principal, action == Action::"cross", resource);\n')
    page.get_by_text("Fits the schema").wait_for()

    def tried() -> bool:
        page.get_by_role("button", name=re.compile("^Dry run")).click()
        page.locator("#dry :is(.group, .note, p)").first.wait_for()
        return device in page.locator("#dry").inner_text()

    soon(tried, "the dry run knows of the device's crossings")
    assert "newly denied" in page.locator("#dry").inner_text().lower()
    page.get_by_label("Why").fill("nobody crosses today")
    page.get_by_role("button", name="Put in force as version").click()
    page.wait_for_url("**/policies/fleet")
    day.play.world.attestd("devices", "release", device, "--reason", "looked at")
    day.edge_says("crossing-denied")
