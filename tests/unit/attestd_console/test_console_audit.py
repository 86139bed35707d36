"""The audit page: rows in plain words, found and opened; what others named themselves stays text."""

from __future__ import annotations

import ast
import csv
import io
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import text

from attestd.credentials.transparency import InclusionProof
from attestd.errors import AttestdError
from attestd.registry import audit
from attestd.registry.states import Event
from attestd_console import telling
from attestd_console.merkle import drawn
from tests.console import ConsoleClient, Markup
from tests.service import World

SERVICE = Path(__file__).resolve().parents[3] / "attestd"
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}'


def note(world: World, act: str = "quarantine", subject: str = "till-1", actor: str = "attestd", **detail: Any) -> int:
    at = int(world.clock().timestamp())
    with world.registry.acting() as c:
        audit.append(c, at=at, actor=actor, act=act, subject=subject, request_id="r-1", detail=detail)
        return audit.last_number(c)


# ---- Words ----------------------------------------------------------------------------------------------------------

# Where the name of an act is computed, and what may come of it.
COMPUTED = {
    "event.value": {event.value for event in (Event.REJECT, Event.QUARANTINE, Event.RELEASE, Event.RETIRE)},
    "name": {"renew", "rekey", "refuse-attestation", "refuse-rekey"},
    "verb": {"quarantine", "release"},
    "act": set[str](),
    "f'{planned[0]}-key'": {"prepare-key", "activate-key", "retire-key"},
}
# What writes rows beside an act's own `note`, and at which place it takes the act.
WRITERS = {"_note": 2, "noting": 1, "spend_refused": 2, "_noting": 1, "self.note": 0, "desk.note": 0}


def acts_of_the_code() -> set[str]:
    """All that are given to what writes audit rows, wherever that is called."""
    found: set[str] = set()
    for file in SERVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and (value := _act_in(node)) is not None:
                if isinstance(value, ast.Constant):
                    found.add(str(value.value))
                else:
                    written = ast.unparse(value)
                    assert written in COMPUTED, f"{file.name}: what acts can {written} be?"
                    found |= COMPUTED[written]
    return found


def _act_in(call: ast.Call) -> ast.expr | None:
    called = ast.unparse(call.func)
    if called in WRITERS and len(call.args) > WRITERS[called]:
        return call.args[WRITERS[called]]
    if called in ("audit.append", "audit.append_all", "audit.entry", "append"):
        return next((word.value for word in call.keywords if word.arg == "act"), None)
    if called.endswith(".note") and len(call.args) > 1 and ast.unparse(call.args[0]) == "c":
        return call.args[1]
    return None


def test_every_act_of_the_service_has_its_words() -> None:
    found = acts_of_the_code()
    assert {"quarantine", "sign-in", "set-policy", "encrypt-keys", "restore", "edge-silent", "hold"} <= found
    assert found - set(telling.ACTS) == set()


def test_no_act_has_words_that_the_service_never_notes() -> None:
    assert set(telling.ACTS) - acts_of_the_code() == set()


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"act": "quarantine", "subject": "gw-07", "detail": {"because": ["Secure Boot off", "unknown loader"]}},
            "quarantined gw-07: Secure Boot off; unknown loader",
        ),
        (
            {"act": "approve", "subject": "gw-07", "detail": {"tier": "edge", "site": "oslo", "reason": "known"}},
            "approved gw-07 into edge, oslo: known",
        ),
        ({"act": "attest", "subject": "gw-07", "detail": {"result": "affirming"}}, "attested gw-07: affirming"),
        ({"act": "sign-in", "subject": "ada", "detail": {"method": "passkey"}}, "signed in with a passkey"),
        ({"act": "engage-brake", "subject": "fleet", "detail": {}}, "engaged the brake on quarantines"),
        ({"act": "from-the-future", "subject": "x", "detail": {"why": "so"}}, "from the future x: so"),
    ],
)
def test_sentences(row: dict[str, Any], sentence: str) -> None:
    said = telling.told(row)
    assert f"{said.verb}{' ' + said.subject if said.subject else ''}{said.after}" == sentence


# ---- The page -------------------------------------------------------------------------------------------------------


def rows_of(text: str) -> list[str]:
    return [
        str(tr["id"]).removeprefix("row-") for tr in Markup(text).all("tr") if (tr.get("id") or "").startswith("row-")
    ]


def test_rows_the_newest_first_and_older_ones(world: World, viewer: ConsoleClient) -> None:
    numbers = [note(world, subject=f"till-{n}") for n in range(30)]
    page = viewer.get("/audit")
    assert page.status_code == 200
    assert rows_of(page.text) == [str(n) for n in reversed(numbers)][:25]
    older = next(a["href"] for a in Markup(page.text).all("a") if a.get("rel") == "next")
    assert rows_of(viewer.get(str(older)).text)[:5] == [str(n) for n in reversed(numbers[:5])]


def test_the_head_and_who_saw_it_come_first(world: World, viewer: ConsoleClient) -> None:
    assert world.proxy
    page = viewer.get("/audit").text
    assert page.index("Seen consistent by") < page.index("<table")
    assert "0 of 1 edges" in page


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("who=ada", ["2"]), ("who=operator:ada", ["2"]), ("who=attestd", ["1"]), ("act=release", ["2"]),
        ("but=release", ["1"]), ("device=till-1", ["1"]), ("q=VAN", ["1"]), ("since=24h", ["2", "1"]),
        ("until=2020-01-01", []), ("since=today", ["2", "1"]),
    ],
)  # fmt: skip
def test_filters(world: World, viewer: ConsoleClient, query: str, found: list[str]) -> None:
    mine = {str(note(world, reason="stolen from the van")): "1"}
    mine[str(note(world, "release", "till-2", "operator:ada"))] = "2"
    shown = [mine[n] for n in rows_of(viewer.get(f"/audit?{query}").text) if n in mine]
    assert shown == found


@pytest.mark.parametrize("query", ["since=yesterdayish", "act=A%20B", "q=" + "x" * 201, "after=x", "who=" + "a" * 201])
def test_filters_that_can_not_be_read(world: World, viewer: ConsoleClient, query: str) -> None:
    page = viewer.get(f"/audit?{query}")
    assert page.status_code == 400
    assert "<h1" in page.text


def test_an_address_without_end(viewer: ConsoleClient) -> None:
    assert viewer.get("/audit?q=" + "x" * 5000).status_code == 413


def test_an_opened_row_in_its_place_and_on_its_own(world: World, viewer: ConsoleClient) -> None:
    number = note(world, because=["Secure Boot off"])
    for path in (f"/audit?open={number}", f"/audit/{number}"):
        page = viewer.get(path).text
        assert "Secure Boot off" in page
        assert f"Path of row {number}" in page
        assert f"attestd audit verify --proof proof-{number}.json --root root.pem" in page


@pytest.mark.parametrize(
    "path", ["/audit/999999", "/audit/x", "/audit/0x1", "/audit/-1", "/audit/99999999999999999999"]
)
def test_rows_that_are_none(viewer: ConsoleClient, path: str) -> None:
    assert viewer.get(path).status_code == 404
    assert viewer.get(f"{path}/proof").status_code == 404


def test_the_proof_that_the_page_gives_is_accepted_and_a_changed_one_is_not(
    world: World, viewer: ConsoleClient
) -> None:
    number = note(world, because=["Secure Boot off"])
    answer = viewer.get(f"/audit/{number}/proof")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="proof-{number}.json"'
    root = world.hierarchy.root.public_bytes(Encoding.DER)
    InclusionProof.parse(answer.data).verify(root, now=world.clock())
    changed = answer.data.replace(b"Secure Boot off", b"Secure Boot odd")
    with pytest.raises(AttestdError):
        InclusionProof.parse(changed).verify(root, now=world.clock())


def test_what_others_named_themselves_is_text(world: World, viewer: ConsoleClient) -> None:
    number = note(world, HOSTILE, HOSTILE, HOSTILE, reason=HOSTILE, because=[HOSTILE], **{HOSTILE: {HOSTILE: HOSTILE}})
    note(world, "quarantine", HOSTILE, f"device:{HOSTILE}", reason=HOSTILE)
    for path in ("/audit", f"/audit?open={number}", f"/audit/{number}", f"/audit?{_query(HOSTILE)}"):
        markup = Markup(viewer.get(path).text)
        assert "alert(1)" not in "".join(str(tag) for tag in markup.all("script"))
        assert all("onerror" not in attributes for _, attributes in markup.tags)
        assert not markup.all("img")
        assert all((tag.get("src") or "").startswith("/static/") for tag in markup.all("script"))
        assert "49" not in markup.words.replace(str(number), "")


def _query(text: str) -> str:
    return urlencode({"q": text, "who": text, "device": text})


def test_a_file_for_spreadsheets(world: World, viewer: ConsoleClient) -> None:
    note(world, "quarantine", "=cmd|' /C calc'!A0", "operator:ada", reason="@SUM(1+1)*cmd")
    answer = viewer.get("/audit.csv?act=quarantine")
    assert answer.content_type == "text/csv; charset=utf-8"
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert rows[0][:4] == ["row", "time", "who", "act"]
    assert rows[1][2:6] == ["operator:ada", "quarantine", "'=cmd|' /C calc'!A0", "'@SUM(1+1)*cmd"]


def test_a_tree_that_is_damaged_is_said(world: World, viewer: ConsoleClient) -> None:
    number = note(world)
    viewer.get("/audit")
    with world.registry.acting() as c:
        c.execute(text("UPDATE audit_tiles SET hashes = :nothing"), {"nothing": b""})
    assert "does not prove this row" in viewer.get(f"/audit/{number}").text
    assert viewer.get("/audit").status_code == 200
    with world.registry.acting() as c:
        c.execute(text("DELETE FROM audit_heads"))
    page = viewer.get("/audit").text
    assert "be sealed now" in page
    assert str(number) in rows_of(page)


def test_who_is_not_signed_in_sees_nothing(world: World, nobody: ConsoleClient) -> None:
    note(world, subject="till-1")
    for path in ("/audit", "/audit.csv", "/audit/1", "/audit/1/proof", "/audit/head"):
        answer = nobody.get(path)
        assert answer.status_code == 303
        assert "till-1" not in answer.text


# ---- The picture ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaf", "size", "steps"), [(0, 1, 0), (0, 2, 1), (5, 6, 2), (3, 8, 3), (1_000_000, 1_284_771, 20)]
)
def test_a_path_is_drawn_from_the_head_to_the_row(leaf: int, size: int, steps: int) -> None:
    picture = drawn(leaf, size, [bytes(32)] * steps, b"r" * 32)
    assert picture.steps == steps
    assert picture.left_out == max(0, steps - 6)
    assert sum(point.on for point in picture.points) == min(steps, 6) + 1
    assert all(0 < point.x < 420 for point in picture.points)
    assert picture.points[-1].label.startswith("this row")
