"""Everything that there is to see in the console: each page with something on it, and what was done there before.

A line of `SIGHTS` is a page as somebody meets it. Tests look at every one in a real browser, and fail when a page has
no line here (tests/e2e/test_console_sights.py); `python -m tests.pictures` takes the pictures of the documentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

from attestd.ids import DeviceId
from attestd.registry import brake
from tests.made_up import NOW, SUFFIX, MadeUp

ALIVE: Final = ": here\n\n"
_STREAM: Final = re.compile(r"^https://[^/]+/events(\?|$)")
Scene = Literal["fleet", "empty", "stranger"]
Done = Callable[[Any, MadeUp], object]

# Addresses that answer with no page: files, streams, and ways on.
NO_PAGES: Final = frozenset(
    {
        *("/static/<version>/<name>", "/favicon.ico", "/robots.txt", "/events"),
        *("/fleet.csv", "/audit.csv", "/audit/head", "/audit/<number>/proof"),
        *("/policies", "/sign-in/return"),
    }
)


def hear(page: Any, first: str, later: str = "") -> None:
    """What each page's event stream says, and, if anything, what it says when the page asks again."""

    def answer(route: Any) -> None:
        text = first if "since=" in route.request.url else later
        route.fulfill(body=text, content_type="text/event-stream", status=200 if text else 503)

    page.unroute(_STREAM)
    page.route(_STREAM, answer)


def nothing(page: Any, fleet: MadeUp) -> None:
    """It is seen as it comes."""


@dataclass(frozen=True)
class Sight:
    """`path` may name what the fleet knows: `/fleet/{fleet.tampered}`. `scene`: the made-up fleet, an instance without
    devices, or the fleet's for somebody who is not signed in. `picture`: it is in the documentation under its name."""

    name: str
    path: str
    done: Done = nothing
    scene: Scene = "fleet"
    picture: bool = False

    def at(self, fleet: MadeUp) -> str:
        return self.path.format(fleet=fleet)


# ---- What somebody does -----------------------------------------------------------------------------------------


def selects_three(page: Any, fleet: MadeUp) -> None:
    for box in page.locator("tbody input[type=checkbox]").all()[1:4]:
        box.check()


def looks_at_a_selection(page: Any, fleet: MadeUp) -> None:
    for box in page.locator("tbody input[type=checkbox]").all()[:12]:
        box.check()
    page.get_by_role("button", name="Release…").click()
    page.get_by_role("heading", level=1).wait_for()


def waits_too_long(page: Any, fleet: MadeUp) -> None:
    """Somebody else was faster."""
    page.get_by_label("Why").fill("seen at the wrong door")
    where = f"/v1/admin/devices/{fleet.good}"
    act = {"v": 1, "reason": "looked at it twice"}
    assert fleet.jonas.post(f"{where}/quarantine", act).status_code == 200
    assert fleet.jonas.confirmed("POST", f"{where}/release", act).status_code == 200
    page.get_by_role("button", name="Quarantine it").click()
    page.get_by_text("Nothing was done").wait_for()


def writes_a_fault(page: Any, fleet: MadeUp) -> None:
    editor = page.get_by_role("textbox", name="Draft")
    editor.fill(editor.input_value() + SUFFIX.replace("path", "pathh"))
    page.locator("[data-flaws] li.bad").wait_for()


def tries_a_draft(page: Any, fleet: MadeUp) -> None:
    editor = page.get_by_role("textbox", name="Draft")
    editor.fill(editor.input_value() + SUFFIX)
    page.get_by_text("Fits the schema").wait_for()
    page.get_by_role("button", name=re.compile("^Dry run")).click()
    page.locator(".dry .group").first.wait_for()


def learns(page: Any, fleet: MadeUp) -> None:
    page.get_by_label("Name").first.fill("bike-5")
    page.get_by_label("Devices", exact=True).fill(fleet.good)
    page.get_by_role("button", name="Learn a draft").click()
    page.locator("textarea[name=document]").wait_for()


def loses_the_line(page: Any, fleet: MadeUp) -> None:
    """The service was heard, and is not any more."""
    page.locator(".live.on").first.wait_for(state="attached")
    page.clock.set_fixed_time(NOW + timedelta(seconds=95))
    page.locator(".live.lost").first.wait_for(state="attached")


def is_paused(page: Any, fleet: MadeUp) -> None:
    """Something changed while rows are selected."""
    page.locator(".live.on").first.wait_for(state="attached")
    selects_three(page, fleet)
    hear(page, ALIVE, 'event: changed\ndata: {"topics":["devices"],"devices":[]}\n\n')
    page.get_by_text("Paused").first.wait_for(state="attached")


def engages_the_brake(page: Any, fleet: MadeUp) -> None:
    """A roll-out goes wrong meanwhile: the same boot program ran on most, and one machine's keys differ."""
    world, at = fleet.world, int(NOW.timestamp())
    active = world.viewer.get("/v1/admin/devices?state=active&result=affirming&limit=12").json["devices"]
    said = "sha256 PCR {} is {}, which 'gateway-os-5.3@1' does not list as good."
    with world.registry.acting() as c:
        if not brake.take(c).engaged:
            reason = "gateway-os 5.3 goes to the shops"
            brake.engage(c, by="operator:jonas", reason=reason, now=at - 1260)
        for place, device in enumerate(active):
            found = [said.format(4, "4c" * 32)] if place else [said.format(7, "70" * 32)]
            result = {"status": "contraindicated", "vector": {"executables": 96}, "reasons": found, "attested_at": at}
            brake.hold(c, DeviceId(device["id"]), result, now=at - 900 + 60 * place)
    page.reload()
    page.get_by_text(re.compile("^The brake (on quarantines )?is engaged")).first.wait_for()


SIGHTS: Final = (
    # An instance without a device.
    Sight("first-run", "/", scene="empty", picture=True),
    Sight("fleet-empty", "/fleet", scene="empty"),
    Sight("approvals-empty", "/approvals", scene="empty"),
    Sight("boundaries-empty", "/boundaries", scene="empty", picture=True),
    Sight("reference-empty", "/reference", scene="empty"),
    Sight("authority-empty", "/authority", scene="empty"),
    Sight("audit-empty", "/audit", scene="empty"),
    Sight("policies-empty", "/policies/fleet", scene="empty"),
    # Nobody is signed in.
    Sight("sign-in", "/sign-in", scene="stranger", picture=True),
    Sight("sign-in-refused", "/sign-in?why=passkey-unknown", scene="stranger"),
    Sight("welcome", "/first/{fleet.token}", scene="stranger", picture=True),
    Sight("welcome-over", "/first/" + "x" * 43, scene="stranger"),
    # The fleet.
    Sight("overview", "/", picture=True),
    Sight("overview-reconnecting", "/", loses_the_line, picture=True),
    Sight("fleet", "/fleet?state=quarantined", selects_three, picture=True),
    Sight("fleet-paused", "/fleet", is_paused),
    Sight("fleet-causes", "/fleet?state=quarantined&group=cause", picture=True),
    Sight("fleet-nobody", "/fleet?q=nobody"),
    Sight("fleet-refused", "/fleet?state=asleep"),
    Sight("selection", "/fleet?state=quarantined%2Coverdue", looks_at_a_selection, picture=True),
    Sight("device", "/fleet/{fleet.tampered}", picture=True),
    Sight("device-good", "/fleet/{fleet.good}"),
    Sight("device-waits", "/fleet/{fleet.waiting[0]}"),
    Sight("device-row", "/fleet/{fleet.alike[0]}"),
    Sight("device-events", "/fleet/{fleet.tampered}/attestations/{fleet.last}/events", picture=True),
    Sight("device-files", "/fleet/{fleet.good}/attestations/1/files"),
    Sight("release", "/fleet/{fleet.tampered}/release", picture=True),
    Sight("quarantine-refused", "/fleet/{fleet.good}/quarantine", waits_too_long, picture=True),
    Sight("replace", "/fleet/{fleet.tampered}/replace"),
    Sight("approvals", "/approvals", selects_three, picture=True),
    Sight("boundaries", "/boundaries", picture=True),
    Sight("boundaries-site", "/boundaries?site=ber-plant-02&window=7d"),
    Sight("policies", "/policies/fleet", picture=True),
    Sight("policy-versions", "/policies/fleet/versions"),
    Sight("policy-version", "/policies/fleet/versions/1", picture=True),
    Sight("policy-draft", "/policies/fleet/draft", tries_a_draft, picture=True),
    Sight("policy-fault", "/policies/fleet/draft", writes_a_fault, picture=True),
    Sight("reference", "/reference", picture=True),
    Sight("reference-learned", "/reference", learns),
    Sight("reference-values", "/reference/gateway-os-5.3", picture=True),
    Sight("reference-version", "/reference/gateway-os-5.3/2", picture=True),
    Sight("authority", "/authority", picture=True),
    Sight("distrust", "/authority/makers/{fleet.maker}"),
    Sight("audit", "/audit?open={fleet.row}", picture=True),
    Sight("audit-row", "/audit/{fleet.row}", picture=True),
    Sight("people", "/people", picture=True),
    Sight("person", "/people/mara", picture=True),
    Sight("yourself", "/people/ada"),
    Sight("sessions", "/sessions", picture=True),
    Sight("help", "/help", picture=True),
    Sight("not-found", "/nothing"),
    Sight("brake", "/brake"),
    # From here on the brake is engaged.
    Sight("brake-engaged", "/brake", engages_the_brake, picture=True),
    Sight("overview-brake", "/", engages_the_brake),
)
