"""The console in tests: over the real API, in the same process, or in a real browser (tests/browser.py).

world = World(folder)                              # tests/service.py
console = console_client(world, role="operator")   # somebody of this role is signed in
page = console.get("/fleet")                       # a Flask test response; `page.text`
console.post("/fleet/x/quarantine", {"reason": "…"})   # with the form's token, as the page's form sends it
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from os import urandom
from typing import Any
from urllib.parse import urlsplit
from wsgiref.types import WSGIApplication

from flask import Blueprint, Flask
from werkzeug.test import TestResponse

from attestd.protocol.encoding import b64encode
from attestd.registry.operators import Role
from attestd_console.api import Service
from attestd_console.app import create_app
from attestd_console.console import Console
from attestd_console.sessions import SESSION, Seed
from tests.authenticator import Authenticator, invite, touch_header
from tests.service import URL, World

ORIGIN = URL  # where passkeys of a World belong
_HOST = str(urlsplit(URL).hostname)


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
        said: dict[str, Any] = {
            "csrf": self.seed.form_token if self.seed else "",
            "once": b64encode(urandom(18)),
            **lies,
        }
        data = {name: value for name, value in {**said, **(form or {})}.items() if value is not None}
        return self.http.post(path, base_url=ORIGIN, data=data, headers={**self.headers, **(headers or {})})


def console_app(world: World, api: WSGIApplication | None = None, *pages: Callable[[Console], Blueprint]) -> Flask:
    """The console over this world's API, or over `api` in its place; `pages` are a test's own."""
    console = Console(Service.inside(api or world.app.wsgi_app, URL), clock=lambda: world.clock().timestamp())
    app = create_app(console)
    for routes in pages:
        app.register_blueprint(routes(console))
    return app


def console_client(
    world: World, role: str = "admin", name: str | None = None, *, app: Flask | None = None
) -> ConsoleClient:
    """Somebody of this role looks, by a key of their own: what they do needs no touch. See `signed_in`."""
    seed = Seed.fresh()
    world.service.certifying.register_operator(name or f"{role}-here", Role(role), seed.key.public_key, world.act)
    return ConsoleClient(world, app or console_app(world), seed)


def signed_in(
    world: World,
    role: str = "admin",
    name: str = "ada",
    *,
    passkey: Authenticator | None = None,
    app: Flask | None = None,
) -> ConsoleClient:
    """Somebody who came by a one-time link through the console's own pages, with this passkey."""
    client = ConsoleClient(world, app or console_app(world))
    accept(client, invite(world, name, role)["token"], passkey or Authenticator())
    return client


def accept(client: ConsoleClient, token: str, passkey: Authenticator, **lies: Any) -> TestResponse:
    """The one-time link's page, as its script does it. `lies` are the authenticator's."""
    begun = client.post(f"/first/{token}/begin").get_json()
    made = passkey.create(begun["options"], ORIGIN, **lies)
    form = {"challenge": begun["challenge"], "credential": json.dumps(made), "label": "laptop"}
    answer = client.post(f"/first/{token}", form)
    client.seed = Seed.read(client.cookie(SESSION) or "")
    return answer


def sign_in(client: ConsoleClient, passkey: Authenticator, wanted: str = "/", **lies: Any) -> TestResponse:
    """The sign-in page, as its script does it."""
    begun = client.post("/sign-in/passkey/begin", {"next": wanted}).get_json()
    proof = passkey.get(begun["options"], ORIGIN, **lies)
    form = {"challenge": begun["challenge"], "credential": json.dumps(proof)}
    answer = client.post("/sign-in/passkey", form)
    client.seed = Seed.read(client.cookie(SESSION) or "")
    return answer


def touch(client: ConsoleClient, passkey: Authenticator, path: str, form: Mapping[str, Any]) -> TestResponse:
    """A form with data-touch, as its script sends it: first to begin, then with the authenticator's answer."""
    begun = client.post(path, form, headers={"Touch": "begin"})
    if begun.status_code != 200:
        return begun
    said = begun.get_json()
    proof = passkey.get(said["options"], ORIGIN)
    return client.post(path, {**form, "touch": touch_header(said["challenge"], proof)})


def stranger(world: World, *, app: Flask | None = None) -> ConsoleClient:
    """Nobody is signed in."""
    return ConsoleClient(world, app or console_app(world))


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
