"""A hostile fleet on every page: nothing that others gave is markup, an address, a formula, or unseen.

A page that is added without a line in `ADDRESSES` fails.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping

import pytest
from flask import Flask
from markupsafe import escape
from sqlalchemy import update

from attestd.registry import audit, trust
from attestd.registry.tables import METADATA
from attestd_console.visible import unsteered
from tests.authenticator import Authenticator
from tests.console import ConsoleClient, console_app, signed_in, stranger
from tests.hostile import EVIL, FORMULA, Hostile, harmless

pytestmark = [pytest.mark.once, pytest.mark.timeout(300)]

# Every page that answers GET, each with addresses of it: True where others' texts stand there, else False.
ADDRESSES: Mapping[str, Mapping[str, bool]] = {
    "/": {"/": True},
    "/approvals": {"/approvals": True},
    "/audit": {"/audit": True, "/audit?open={row}": True, "/audit?act=quarantine": True},
    "/audit/<number>": {"/audit/{row}": True},
    "/authority": {"/authority": True},
    "/authority/makers/<sha256>": {"/authority/makers/{maker}": True},
    "/boundaries": {"/boundaries": True, "/boundaries?all=1": True},
    "/brake": {"/brake": True},
    "/first/<token>": {"/first/{token}": False},
    "/fleet": {"/fleet": True, "/fleet?group=cause": True, "/fleet?state=pending": True},
    "/fleet/<id>": {f"/fleet/{each}": True for each in ("{device}", "{active}", "{pending}", "{device}?att=1")},
    "/fleet/<id>/<act>": {
        **{f"/fleet/{{device}}/{act}": True for act in ("release", "demand", "label", "replace", "retire")},
        "/fleet/{active}/quarantine": True,
    },
    "/fleet/<id>/attestations/<number>/events": {"/fleet/{device}/attestations/3/events": True},
    "/fleet/<id>/attestations/<number>/files": {"/fleet/{device}/attestations/3/files": True},
    "/help": {"/help": False},
    "/people": {"/people": True},
    "/people/<name>": {"/people/ada": True},
    "/policies": {},  # leads to the next
    "/policies/<name>": {"/policies/fleet": True},
    "/policies/<name>/draft": {"/policies/fleet/draft": True},
    "/policies/<name>/versions": {"/policies/fleet/versions": True},
    "/policies/<name>/versions/<number>": {"/policies/fleet/versions/2": True},
    "/reference": {"/reference": True},
    "/reference/<name>": {"/reference/model": True, "/reference/watched": True},
    "/reference/<name>/<number>": {"/reference/model/1": True},
    "/sessions": {"/sessions": True},
    "/sign-in": {"/sign-in": False},
    "/sign-in/return": {},  # test_console_oidc.py
    # No pages: files and streams
    "/audit.csv": {},
    "/audit/<number>/proof": {},
    "/audit/head": {},
    "/events": {},
    "/favicon.ico": {},
    "/fleet.csv": {},
    "/robots.txt": {},
    "/static/<version>/<name>": {},
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    made = Hostile(tmp_path_factory.mktemp("hostile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def app(hostile: Hostile) -> Flask:
    return console_app(hostile.world)


@pytest.fixture(scope="module")
def ada(hostile: Hostile, app: Flask) -> ConsoleClient:
    """An admin by a passkey with such a name, in a browser with such a name."""
    client = signed_in(hostile.world, "admin", passkey=Authenticator(), app=app)
    with hostile.world.registry.acting() as c:
        c.execute(update(METADATA.tables["console_sessions"]).values(agent=EVIL, address=EVIL))
        c.execute(update(METADATA.tables["passkeys"]).values(label=EVIL))
    return client


def address(hostile: Hostile, path: str) -> str:
    world = hostile.world
    with world.registry.reading() as c:
        row, maker = audit.page(c, subject=hostile.id, limit=1)[0], trust.every(c)[0]
    return path.format(
        device=hostile.id,
        active=world.row(hostile.active).id,
        pending=world.row(hostile.pending).id,
        row=row.number,
        maker=maker.sha256.hex(),
        token=hostile.invitation["token"],
    )


def test_every_page_has_a_line(app: Flask) -> None:
    rules = {rule.rule for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ())}
    assert rules == set(ADDRESSES)


@pytest.mark.parametrize(("path", "shows"), [pair for paths in ADDRESSES.values() for pair in paths.items()], ids=str)
def test_what_others_give_is_text(hostile: Hostile, ada: ConsoleClient, app: Flask, path: str, shows: bool) -> None:
    client = stranger(hostile.world, app=app) if path.startswith(("/sign-in", "/first")) else ada
    answer = client.get(address(hostile, path))
    assert answer.status_code == 200, answer.text
    harmless(answer.text)
    assert ("0stile" in answer.text) is shows  # a first letter may have become large


@pytest.mark.parametrize("act", ["label", "retire"])
def test_a_selection_s_preview_is_text(hostile: Hostile, ada: ConsoleClient, act: str) -> None:
    row = hostile.world.row(hostile.device)
    form = {"act": act, "device": f"{row.id}:{row.state_version}", "labels": "ring=x", "reason": "h0stile<evil-tag>"}
    answer = ada.post("/selection", form)
    assert answer.status_code == 200, answer.text
    harmless(answer.text)
    harmless(ada.post("/selection", {"act": act, "device": f"{row.id}:{row.state_version}"}).text)


@pytest.mark.parametrize("do", ["check", "try"])
def test_a_draft_and_its_dry_run_are_text(hostile: Hostile, ada: ConsoleClient, do: str) -> None:
    """The second time with a fault, whose message quotes what is written."""
    for text in (hostile.policy, hostile.policy + f'permit (principal, action, resource) when {{ "{EVIL}" }};'):
        answer = ada.post("/policies/fleet/draft", {"do": do, "text": text, "version": "2", "window": "day"})
        assert answer.status_code == 200, answer.text
        harmless(answer.text.replace(escape(EVIL), ""))  # the text itself is edited as it is
        assert "h0stile" in answer.text


@pytest.mark.parametrize("path", ["/fleet.csv", "/audit.csv"])
def test_no_cell_is_a_formula(hostile: Hostile, ada: ConsoleClient, path: str) -> None:
    """A spreadsheet would run it, or send cells elsewhere."""
    world = hostile.world
    starts = [FORMULA, "+1+h0stile", "-1+h0stile", "@h0stile", "\th0stile", "\rh0stile"]
    try:
        for start in starts:
            with world.registry.acting() as c:
                for table, names in (
                    ("devices", ("serial_number", "manufacturer", "model", "firmware_version", "state_reason")),
                    ("audit", ("actor", "subject")),
                ):
                    c.execute(update(METADATA.tables[table]).values(dict.fromkeys(names, start)))
            rows = list(csv.reader(io.StringIO(ada.get(path).text, newline="")))
            cells = [cell for row in rows[1:] for cell in row]
            assert any("h0stile" in cell for cell in cells)
            assert not any(cell.startswith(tuple("=+-@\t\r")) for cell in cells)
    finally:
        hostile._registry()


# ---- The last net ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "gw-1", "ä\n\tb\r\n", "<b>", "a\N{ZERO WIDTH NON-JOINER}b", "\N{WOMAN}\u200d\N{ROCKET}"]
)
def test_what_steers_nothing_stays(text: str) -> None:
    assert unsteered(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\u202egnp", "⟨U+202E⟩gnp"), ("\u2066x", "⟨U+2066⟩x"), ("\x1b[31m", "⟨U+001B⟩[31m"), ("\x9b", "⟨U+009B⟩")],
)
def test_what_steers_the_text_around_it_is_named(text: str, shown: str) -> None:
    assert unsteered(text) == shown
