"""Every address of the console, by everybody, typed in by hand: who gets the page, who is told that their role does not
allow it, who is sent to the sign-in page. And with filters that are no filters.

An address that is added without a line in `DOORS` fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final
from urllib.parse import quote

import pytest
from flask import Flask, Request
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.test import TestResponse

from attestd.policy import default_policy
from tests.console import ConsoleClient, Markup, console_app, console_client, stranger
from tests.service import World

pytestmark = pytest.mark.once

ROLES: Final = ("viewer", "operator", "admin")


@dataclass(frozen=True)
class Door:
    """`least`: who may; "anybody" needs no session. `form` is what the page's form would send. `page` False: files,
    streams and what scripts ask for, which answer without a page."""

    least: str
    form: Mapping[str, Any] = field(default_factory=dict)
    page: bool = True


MANIFEST: Final = 'name = "bike-5"\nstage = "monitor"\n[boot]\nsecure_boot = true\n'
DOORS: Final[Mapping[str, Door]] = {
    "GET /": Door("viewer"),
    "GET /approvals": Door("viewer"),
    "POST /approvals": Door("operator", {"device": "{pending}:1", "tier": "device", "site": "shop-1"}),
    "GET /audit": Door("viewer"),
    "GET /audit.csv": Door("viewer", page=False),
    "GET /audit/<number>": Door("viewer"),
    "GET /audit/<number>/proof": Door("viewer", page=False),
    "GET /audit/head": Door("viewer", page=False),
    "GET /authority": Door("viewer"),
    "POST /authority/makers": Door("admin", {"pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}),
    "GET /authority/makers/<sha256>": Door("viewer"),
    "POST /authority/makers/<sha256>": Door("admin"),
    "GET /boundaries": Door("viewer"),
    "GET /brake": Door("viewer"),
    "POST /brake/engage": Door("operator", {"reason": "why"}),
    "POST /brake/release": Door("operator", {"held": "dismiss", "reason": "why"}),
    "GET /events": Door("viewer", page=False),
    "GET /favicon.ico": Door("anybody", page=False),
    "GET /first/<token>": Door("anybody"),
    "POST /first/<token>": Door("anybody"),
    "POST /first/<token>/begin": Door("anybody", page=False),
    "GET /fleet": Door("viewer"),
    "GET /fleet.csv": Door("viewer", page=False),
    "POST /fleet/search": Door("viewer", {"q": "bike"}),
    "GET /fleet/<id>": Door("viewer"),
    "GET /fleet/<id>/<act>": Door("viewer"),
    "POST /fleet/<id>/<act>": Door("operator", {"version": "1", "reason": "why"}),
    "GET /fleet/<id>/attestations/<number>/events": Door("viewer"),
    "GET /fleet/<id>/attestations/<number>/files": Door("viewer"),
    "POST /fleet/<id>/evidence": Door("operator", page=False),
    "GET /help": Door("viewer"),
    "POST /keys": Door("viewer", {"keys": "off"}),
    "GET /people": Door("viewer"),
    "POST /people": Door("admin", {"do": "invite", "name": "grace", "role": "viewer"}),
    "GET /people/<name>": Door("viewer"),
    "POST /people/<name>": Door("admin", {"do": "disable", "reason": "left"}),
    "POST /people/<name>/begun": Door("viewer", {"begun": "{}"}, page=False),
    "GET /policies": Door("viewer"),
    "GET /policies/<name>": Door("viewer"),
    "GET /policies/<name>/draft": Door("viewer"),
    "POST /policies/<name>/draft": Door("viewer", {"do": "check", "text": default_policy(), "version": "1"}),
    "GET /policies/<name>/versions": Door("viewer"),
    "GET /policies/<name>/versions/<number>": Door("viewer"),
    "POST /policies/<name>/versions/<number>": Door("admin", {"do": "back", "version": "1", "reason": "why"}),
    "GET /reference": Door("viewer"),
    "POST /reference": Door("admin", {"document": MANIFEST, "stage": "monitor"}),
    "GET /reference/<name>": Door("viewer"),
    "GET /reference/<name>/<number>": Door("viewer"),
    "POST /reference/<name>/<number>/promote": Door("admin", {"stage": "enforce"}),
    "POST /reference/<name>/<number>/withdraw": Door("admin", {"reason": "why"}),
    "POST /reference/learn": Door("admin", {"devices": "{device}", "name": "bike-6"}),
    "GET /robots.txt": Door("anybody", page=False),
    "POST /selection": Door("operator", {"act": "quarantine", "device": "{device}:1"}),
    "POST /selection/<act>": Door("operator", {"device": "{device}:1", "reason": "why"}),
    "GET /sessions": Door("viewer"),
    "POST /sessions": Door("viewer", {"id": "AAAA"}),
    "GET /sign-in": Door("anybody"),
    "POST /sign-in/passkey": Door("anybody"),
    "POST /sign-in/passkey/begin": Door("anybody", page=False),
    "POST /sign-in/provider": Door("anybody", {"provider": "sso"}),
    "GET /sign-in/return": Door("anybody"),
    "POST /sign-out": Door("viewer"),
    "GET /static/<version>/<name>": Door("anybody", page=False),
    "POST /theme": Door("viewer", {"theme": "dark"}),
}
HUGE: Final = "9" * 1500


@dataclass
class Place:
    """A world with one of everything that an address may name."""

    world: World
    app: Flask
    clients: dict[str, ConsoleClient]
    facts: dict[str, str]

    def address(self, rule: str) -> str:
        named = "bike-5" if rule.startswith("/reference/") else "ada" if rule.startswith("/people/") else "fleet"
        return _filled(rule.replace("<", "{").replace(">", "}"), {**self.facts, "name": named})

    def form(self, door: Door) -> dict[str, Any]:
        return {name: _filled(str(value), self.facts) for name, value in door.form.items()}

    def ask(self, client: ConsoleClient, route: str, query: str = "") -> TestResponse:
        method, _, rule = route.partition(" ")
        door = DOORS[route]
        if method == "GET":
            return client.get(self.address(rule) + query, buffered=True)
        return client.post(self.address(rule), self.form(door))


def _filled(text: str, facts: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: facts[found[1]], text)


def made(world: World) -> Place:
    app = console_app(world)
    device, pending = world.enrolled(), world.device()
    pending.enroll()
    added = world.admin.post("/v1/admin/references", MANIFEST.encode(), content_type="application/toml")
    assert added.status_code == 201, added.text
    console_client(world, "viewer", "ada", app=app)
    facts = {
        "id": str(world.row(device).id),
        "device": str(world.row(device).id),
        "pending": str(world.row(pending).id),
        "act": "quarantine",
        "number": "1",
        "sha256": world.viewer.get("/v1/admin/trust").json["makers"][0]["sha256"],
        "token": world.admin.post("/v1/admin/invitations", {"v": 1, "name": "grace", "role": "viewer"}).json["token"],
        "version": "x",
    }
    clients = {role: console_client(world, role, app=app) for role in ROLES}
    return Place(world, app, {"stranger": stranger(world, app=app), **clients}, facts)


@pytest.fixture
def fresh(world: World) -> Place:
    """For who changes it."""
    return made(world)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """For who looks."""
    world = World(tmp_path_factory.mktemp("doors") / "instance")
    yield made(world)
    world.close()


def test_every_address_has_a_line(app: Flask) -> None:
    found = {
        f"{method} {rule.rule}" for rule in app.url_map.iter_rules() for method in (rule.methods or set()) - {"HEAD"}
    }
    assert found == set(DOORS)


@pytest.mark.parametrize("route", [route for route in DOORS if route.startswith("GET ")])
def test_who_may_look(place: Place, route: str) -> None:
    require_as_declared(place, route)


@pytest.mark.parametrize("route", [route for route in DOORS if route.startswith("POST ")])
def test_who_may_act(fresh: Place, route: str) -> None:
    require_as_declared(fresh, route)


def require_as_declared(place: Place, route: str) -> None:
    """From who may least to who may most: who is turned away has changed nothing for those after."""
    door = DOORS[route]
    path = place.address(route.partition(" ")[2])
    for name in ("stranger", *ROLES):
        client = place.clients[name]
        answer = place.ask(client, route)
        where = answer.headers.get("Location", "")
        if door.least == "anybody":
            assert answer.status_code not in (401, 403) and not where.startswith("/sign-in?next"), (name, answer.text)
        elif name == "stranger":
            if path == "/events":
                assert answer.status_code == 401
            else:
                assert (answer.status_code, where.partition("?")[0]) == (303, "/sign-in")
        elif ROLES.index(name) < ROLES.index(door.least):
            assert answer.status_code == 403, (name, answer.status_code, answer.text)
            if door.page:
                assert "Your role does not allow" in Markup(answer.text).words or "role does not allow" in answer.text
        else:
            assert answer.status_code not in (401, 403), (name, answer.text)
            assert answer.status_code < 500, (name, answer.text)
            assert where.startswith("/sign-in") == (route == "POST /sign-out"), (name, where)


def test_no_form_is_shown_to_whom_it_would_refuse(place: Place) -> None:
    """What a page offers, its reader may do: nobody is led to a door that is closed."""
    for name in ROLES:
        client = place.clients[name]
        for route, door in DOORS.items():
            if not (route.startswith("GET ") and door.page and door.least == "viewer"):
                continue
            answer = place.ask(client, route)
            if answer.status_code != 200:
                continue
            for form in Markup(answer.text).all("form"):
                target = str(form.get("action") or place.address(route[4:])).partition("?")[0].partition("#")[0]
                if form.get("method") != "post":
                    continue
                least = next(
                    door.least
                    for named, door in DOORS.items()
                    if named.startswith("POST ") and re.fullmatch(re.sub("<[^>]+>", "[^/]+", named[5:]), target)
                )
                assert least == "anybody" or ROLES.index(least) <= ROLES.index(name), (name, route, target)


# ---- Filters that are none ------------------------------------------------------------------------------------------

ODD: Final = (HUGE, "-1", "\0", "\u202e", "[]", "%ff%fe", "1&{name}=2", "' or 1=1 --", "nothing:nothing.1.2")


class Asked(ImmutableMultiDict[str, str]):
    """A query that remembers what a page looked for in it."""

    names: ClassVar[set[str]] = set()

    def get(self, name: str, *more: Any, **options: Any) -> Any:
        self.names.add(name)
        return super().get(name, *more, **options)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)


class Remembering(Request):
    """A request whose query is `Asked`."""

    parameter_storage_class = Asked


@pytest.mark.parametrize("route", [name for name in DOORS if name.startswith("GET ")])
def test_a_filter_that_is_none_is_answered_in_words(place: Place, route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the page reads of its query, by its own word."""
    monkeypatch.setattr(place.app, "request_class", Remembering)
    monkeypatch.setattr(Asked, "names", set())
    place.ask(place.clients["admin"], route)
    for name in sorted(Asked.names):
        for value in ODD:
            written = value.format(name=name) if value.startswith(("%", "1&")) else quote(value)
            answer = place.ask(place.clients["admin"], route, f"?{name}={written}")
            assert answer.status_code < 500, (name, value[:20], answer.status_code, answer.text[-2000:])
            if answer.status_code >= 400 and DOORS[route].page:
                assert Markup(answer.text).all("h1"), (name, value[:20])


def test_what_a_page_reads_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place.app, "request_class", Remembering)
    monkeypatch.setattr(Asked, "names", set())
    place.ask(place.clients["admin"], "GET /fleet")
    assert {"q", "state", "label", "group", "after"} <= Asked.names


@pytest.mark.parametrize("route", [name for name in DOORS if name.startswith("GET ") and DOORS[name].least == "viewer"])
def test_an_address_that_is_too_long_is_said_to_be(place: Place, route: str) -> None:
    answer = place.ask(place.clients["viewer"], route, "?q=" + "a" * 5000)
    assert answer.status_code == 413
    assert "too long" in answer.text
