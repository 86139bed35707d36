"""The console in tests: over the real API, in the same process, or in a real browser (tests/browser.py).

world = World(folder)                              # tests/service.py
console = console_client(world, role="operator")   # somebody of this role is signed in
page = console.get("/fleet")                       # a Flask test response; `page.text`
console.post("/fleet/x/quarantine", {"reason": "…"})   # with the form's token, as the page's form sends it
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

from flask import Flask
from werkzeug.test import TestResponse

from attestd.protocol.encoding import b64decode, b64encode
from attestd.registry import operators
from attestd.registry.operators import Role
from attestd_console.api import Service
from attestd_console.app import create_app
from attestd_console.console import Console
from attestd_console.sessions import SESSION, Seed
from tests.service import TRUST_DOMAIN, URL, World

ORIGIN = "https://console.test"
_HOST = "console.test"


@dataclass
class ConsoleClient:
    """One browser without scripts: cookies, forms, and where it comes from."""

    world: World
    app: Flask
    seed: Seed | None = None
    headers: dict[str, str] = field(default_factory=lambda: {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"})

    def __post_init__(self) -> None:
        self.http = self.app.test_client()
        if self.seed is not None:
            self.set_cookie(SESSION, self.seed.text)

    def set_cookie(self, name: str, value: str) -> None:
        self.http.set_cookie(name, value, domain=_HOST, secure=True)

    def cookie(self, name: str) -> str | None:
        found = self.http.get_cookie(name, domain=_HOST)
        return None if found is None else found.value

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.http.get(path, base_url=ORIGIN, **options)

    def post(
        self, path: str, form: Mapping[str, Any] | None = None, *, headers: Mapping[str, str] | None = None, **lies: Any
    ) -> TestResponse:
        """As a form of a page sends it. `lies` replace `csrf` and `once`; None leaves them out."""
        said: dict[str, Any] = {"csrf": self.seed.form_token if self.seed else "", "once": b64encode(bytes(18)), **lies}
        data = {name: value for name, value in {**said, **(form or {})}.items() if value is not None}
        return self.http.post(path, base_url=ORIGIN, data=data, headers={**self.headers, **(headers or {})})


def console_app(world: World, api: WSGIApplication | None = None) -> Flask:
    """The console over this world's API, or over `api` in its place."""
    service = Service.inside(api or with_sessions(world), URL)
    return create_app(Console(service, clock=lambda: world.clock().timestamp()))


def console_client(
    world: World, role: str = "admin", name: str | None = None, *, app: Flask | None = None
) -> ConsoleClient:
    """Somebody of this role is signed in."""
    seed = Seed.fresh()
    world.service.operations.register_operator(name or f"{role}-here", Role(role), seed.key.public_key, world.act)
    return ConsoleClient(world, app or console_app(world), seed)


def stranger(world: World, *, app: Flask | None = None) -> ConsoleClient:
    """Nobody is signed in."""
    return ConsoleClient(world, app or console_app(world))


# ---- Until the service has sessions -------------------------------------------------------------------------------


def with_sessions(world: World) -> WSGIApplication:
    """The API with the routes of sign-in, where it has none of its own: an operator's own key is their session."""
    api = world.app.wsgi_app
    own = {rule.rule for rule in world.app.url_map.iter_rules()}

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        answer = _ANSWERS.get(path)
        if answer is None or path in own:
            return api(environ, start_response)
        status, members = answer(world, environ)
        kind = "application/json" if status < 400 else "application/problem+json"
        start_response(f"{status} -", [("Content-Type", kind)])
        return [json.dumps(members).encode()]

    return application


Answer = tuple[int, dict[str, Any]]


def _session(world: World, environ: Mapping[str, Any]) -> Answer:
    compact = str(environ.get("HTTP_AUTHORIZATION", "")).removeprefix("Attestd ")
    try:
        kid = b64decode(json.loads(b64decode(compact.split(".")[0]))["kid"])
    except ValueError:
        kid = b""
    with world.registry.reading() as c:
        found = operators.by_thumbprint(c, kid)
    if found is None or found.disabled_at is not None:
        kind = "urn:attestd:problem:caller-unknown"
        return 401, {"type": kind, "title": "No caller with this key may sign requests here", "status": 401}
    who = {"name": found.name, "role": found.role.value}
    return 200, {"trust_domain": str(TRUST_DOMAIN), "operator": who, "session": None, "passkeys": 1}


def _offered(world: World, environ: Mapping[str, Any]) -> Answer:
    return 200, {
        "trust_domain": str(TRUST_DOMAIN),
        "passkeys": True,
        "rp_id": _HOST,
        "origins": [ORIGIN],
        "providers": [{"name": "sso", "label": "Harbour SSO"}],
        "first_run": True,
    }


_ANSWERS: dict[str, Callable[[World, Mapping[str, Any]], Answer]] = {
    "/v1/admin/session": _session,
    "/v1/admin/sign-in": _offered,
}


# ---- What a page is made of ---------------------------------------------------------------------------------------


class Markup(HTMLParser):
    """Tags with their attributes, in order; `words` is what is shown between them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]
