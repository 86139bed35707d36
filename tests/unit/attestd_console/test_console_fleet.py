"""The overview and the fleet's list: what they say, what a device can't make them do, and what a spreadsheet gets."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest
from sqlalchemy import update

from attestd.ids import DeviceId, EkHash, Site, Tier
from attestd.registry import admission, outcomes
from attestd.registry.acts import perform
from attestd.registry.inventory import InventoryEntry
from attestd.registry.tables import devices
from attestd_console import outlook
from attestd_console.api import Api
from attestd_console.pages.fleet import harmless
from tests.console import Markup, console_client
from tests.service import World

EVIL = "<script>alert(1)</script>"


def enroll(world: World, *ids: str, site: str = "ber-plant", serial: str | None = None, **values: Any) -> None:
    now = int(world.clock().timestamp())
    entries = [
        InventoryEntry(n, EkHash.of(name.encode()), Tier.DEVICE, Site(site), serial, {"ring": "a"}, DeviceId(name))
        for n, name in enumerate(ids)
    ]
    with world.registry.acting() as c:
        admission.import_approved(c, entries, entropy=world.service.entropy, now=now)
        found = {"state": "active", "attested_at": now, "attestation_good_until": now + 900, **values}
        c.execute(update(devices).where(devices.c.id.in_(ids)).values(found))


def words(text: str) -> str:
    return " ".join(str(Markup(text).words).split())


def test_the_overview_answers_first(world: World) -> None:
    now = int(world.clock().timestamp())
    enroll(world, "a1", "a2", "a3", result_status="affirming")
    enroll(world, "q1", "q2", state="quarantined", state_reason="The kernel is new", quarantined_at=now - 2640)
    enroll(world, "l1", site="lis-tower", result_status="affirming", attestation_good_until=now - 7920)
    with world.registry.acting() as c:
        perform(c, *outcomes.contraindicating("attest", ["The kernel is new."], site=Site("x"), device=None, now=now))
    page = console_client(world, role="viewer").get("/")
    said = words(page.text)
    assert page.status_code == 200
    for sentence in (
        "3 of 6 devices are in a state you trust",
        "50 %. Not trusted now: 2 quarantined, 1 overdue.".replace("50 %", "50.0 %"),
        "2 devices at ber-plant were quarantined for the same reason",
        "The kernel is new. The first 44 min ago.",
        "1 device at lis-tower is overdue",
        "Contraindicated, 1",
    ):
        assert sentence in said, sentence
    assert "/fleet?state=quarantined&amp;site=ber-plant&amp;group=cause" in page.text
    assert len(page.data) < 100_000


def test_the_fleet_is_filtered_by_its_address(world: World) -> None:
    enroll(world, "gw-1", "gw-2", result_status="affirming")
    enroll(world, "sensor-1", state="quarantined", state_reason="odd")
    console = console_client(world, role="operator")
    page = console.get("/fleet?state=quarantined&tier=device")
    assert "/fleet/sensor-1" in page.text
    assert "/fleet/gw-1" not in page.text
    assert "1 of 3 device matches." in words(page.text)
    assert 'action="/selection"' in page.text
    assert 'action="/selection"' not in console_client(world, role="viewer").get("/fleet").text
    assert "data-bulk" not in console_client(world, role="viewer", name="v2").get("/fleet").text
    assert "odd" in words(console.get("/fleet?group=cause&state=quarantined").text)


def test_the_counts_beside_the_navigation_are_cheap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page looks at no more of the fleet than it shows."""
    enroll(world, "gw-1", "gw-2")
    asked: list[str] = []
    call = Api.call
    monkeypatch.setattr(
        Api, "call", lambda self, method, path, *a, **k: asked.append(path) or call(self, method, path, *a, **k)
    )
    page = console_client(world, role="viewer").get("/fleet")
    assert "/v1/admin/counts" in asked
    assert "/v1/admin/overview" not in asked
    assert re.search(r'id="nav-fleet"[^>]*>2<', page.text)
    assert re.search(r'id="nav-approvals"[^>]*></span>', page.text)  # nobody waits, and there is room for who may


def test_the_service_s_own_figures_say_what_they_are_for(world: World) -> None:
    found = {
        "bundle": None,
        "results": [],
        "service": {
            "database": {"kind": "SQLite", "microseconds": 420},
            "attestations": {"count": 1234, "since": 1_800_000_000 - 900, "microseconds": 41_230},
            "audit": {"size": 1, "unsealed": 0, "lag": 0},
            "edges": {"count": 0, "newest": 0, "behind": []},
            "brake": {"enabled": True, "engaged_at": None, "recent": 0, "held": 0},
            "signing_key": "file",
        },
    }
    facts = {fact.name: fact for fact in outlook.health(found, 1_800_000_000)}
    assert facts["Attestations"][1:3] == ("41.2 ms", "95 of 100 at most; 1,234 in 15 min, one process")
    assert facts["Database"][1:3] == ("0.4 ms", "SQLite, one question just now")
    assert facts["Brake"].href == "/brake"
    found["service"]["attestations"] = {"count": 0, "since": None, "microseconds": None}  # type: ignore[index]
    assert outlook.health(found, 1_800_000_000)[1].value == "none lately"


def test_a_thing_to_do_keeps_its_id_while_it_is_the_same_thing(world: World) -> None:
    now = int(world.clock().timestamp())

    def ids() -> dict[str, str]:
        found = world.viewer.get("/v1/admin/overview").json
        return {todo.id: todo.heading for todo in outlook.todos(found, now)}

    enroll(world, "q1", state="quarantined", state_reason="The kernel is new", quarantined_at=now)
    one = ids()
    enroll(world, "q2", state="quarantined", state_reason="The kernel is new", quarantined_at=now)
    two = ids()
    assert one.keys() == two.keys()
    assert one.values() != two.values()
    enroll(world, "q3", state="quarantined", state_reason="Stolen", quarantined_at=now)
    assert len(ids()) == 2


def test_a_search_becomes_an_address_and_an_ek_hash_never_does(world: World) -> None:
    enroll(world, "gw-1")
    console = console_client(world, role="operator")
    answer = console.post("/fleet/search", {"q": "gw x&y", "state": "active", "unknown": "1"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/fleet?q=gw+x%26y&state=active")
    ek_hash = EkHash.of(b"gw-1").hex()
    answer = console.post("/fleet/search", {"q": ek_hash.upper()})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/fleet/gw-1")
    unknown = console.post("/fleet/search", {"q": "0" * 64})
    assert "No device has this endorsement key" in words(unknown.text)
    assert "0" * 64 not in unknown.text
    typed = console.get(f"/fleet?q={ek_hash}&state=active")
    assert (typed.status_code, typed.headers["Location"]) == (303, "/fleet?state=active")


def test_a_search_without_the_form_s_token_is_refused(world: World) -> None:
    console = console_client(world, role="viewer")
    assert console.post("/fleet/search", {"q": "a"}).status_code == 303
    assert console.post("/fleet/search", {"q": "a"}, csrf="x").status_code == 403


@pytest.mark.parametrize("query", ["state=asleep", "q=" + "x" * 201, "q=a%00b", "after=..%2F", "q=1+2+3+4+5+6+7+8+9"])
def test_a_filter_that_is_refused_is_said_in_the_page(world: World, query: str) -> None:
    console = console_client(world, role="viewer")
    assert console.get("/fleet?state=active").status_code == 200
    page = console.get(f"/fleet?{query}")
    assert page.status_code == 400
    assert 'id="failed"' in page.text


def test_what_devices_say_of_themselves_stays_text(world: World) -> None:
    enroll(world, "d1", serial=EVIL, result_status="warning", manufacturer=EVIL, model=EVIL, firmware_version=EVIL)
    enroll(world, "d2", serial="2", state="quarantined", state_reason=EVIL)
    now = int(world.clock().timestamp())
    with world.registry.acting() as c:
        perform(c, *outcomes.contraindicating("attest", [EVIL], site=None, device=None, now=now))
    console = console_client(world, role="viewer")
    for path in ("/", "/fleet", f"/fleet?q={EVIL}", f"/fleet?maker={EVIL}", "/fleet?group=cause"):
        page = console.get(path)
        assert page.status_code == 200
        assert "alert(1)" in page.text
        assert EVIL not in page.text, path


def test_the_csv_has_all_that_match_and_nothing_that_runs(world: World) -> None:
    enroll(world, "d1", serial='=HYPERLINK("http://x")', result={"status": "affirming"}, result_status="affirming")
    enroll(world, "d2", serial="2", site="lis-tower")
    console = console_client(world, role="viewer")
    answer = console.get("/fleet.csv?site=ber-plant")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert answer.headers["Content-Disposition"] == 'attachment; filename="fleet.csv"'
    assert [(row["id"], row["serial_number"], row["result"], row["labels"], row["overdue"]) for row in rows] == [
        ("d1", '\'=HYPERLINK("http://x")', "affirming", "ring=a", "no")
    ]
    assert len(list(csv.DictReader(io.StringIO(console.get("/fleet.csv").text)))) == 2


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@x", "\tx", "\rx", " =1", "\n=1"])
def test_cells_that_spreadsheets_would_run(cell: str) -> None:
    assert harmless(cell) == f"'{cell}"
    assert harmless(f"a{cell}") == f"a{cell}"


def test_half_hours_without_results_are_there(world: World) -> None:
    now = 1_800_000_000
    bars = outlook.buckets([{"at": now - now % 1800, "status": "warning", "count": 3}], now)
    assert (len(bars), bars[-1]["all"], bars[-1]["warning"], bars[0]["all"]) == (48, 3, 3, 0)
    assert outlook.finding(outlook.buckets([], now)) == "No attestation results in the last 24 hours."
