"""Acts: what was confirmed is what is done, once; and what was not done says so."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

import pytest
from flask import Blueprint, Flask, Response, request
from jinja2 import ChoiceLoader, DictLoader

from attestd.registry import operators
from attestd_console.acts import Act, Failed
from attestd_console.api import Refused, Unreachable, at
from attestd_console.console import Console
from tests.authenticator import Authenticator, touch_header
from tests.console import ORIGIN, ConsoleClient, console_app, console_client, signed_in, touch
from tests.service import World

PAGE = """{% extends "base.html" %}{% block title %}Bob{% endblock %}{% block content %}
<form method="post" data-touch>{{ m.hidden(touch=true) }}<input name="reason"><button>Disable</button></form>
{% endblock %}"""


def routes(console: Console) -> Blueprint:
    """A page that disables an operator, which needs a touch."""
    page = Blueprint("bob", __name__)

    def show(failed: Failed | None = None) -> Response:
        return console.page("bob.html", failed=failed)

    @page.get("/bob")
    def bob() -> Response:
        return show()

    @page.post("/bob")
    def disable() -> Response:
        path = at("v1", "admin", "operators", request.form.get("who", "bob"), "disable")
        done = console.carry_out(Act("POST", path, {}, then=request.form.get("then", "/help"), said="Bob is out."))
        return show(done) if isinstance(done, Failed) else done

    return page


@pytest.fixture
def passkey() -> Authenticator:
    return Authenticator()


@pytest.fixture
def seen() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def app(world: World, seen: list[dict[str, Any]]) -> Flask:
    console_client(world, "operator", "bob")
    app = console_app(world, noting(world.app.wsgi_app, seen), routes)
    app.jinja_loader = ChoiceLoader([DictLoader({"bob.html": PAGE}), app.jinja_loader])
    return app


@pytest.fixture
def ada(world: World, app: Flask, passkey: Authenticator) -> ConsoleClient:
    return signed_in(world, "admin", passkey=passkey, app=app)


def noting(inner: WSGIApplication, seen: list[dict[str, Any]]) -> WSGIApplication:
    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET":
            seen.append(environ)
        return inner(environ, start_response)

    return application


def disabled(world: World, name: str = "bob") -> bool:
    with world.registry.reading() as c:
        found = operators.by_name(c, name)
    return found.disabled_at is not None


def test_an_act_that_was_confirmed_is_done_and_said(world: World, ada: ConsoleClient, passkey: Authenticator) -> None:
    answer = touch(ada, passkey, "/bob", {"reason": "left"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/help")
    assert disabled(world)
    assert "Bob is out." in ada.get("/help").text


def test_without_a_touch_nothing_is_done_and_the_page_says_so(world: World, ada: ConsoleClient) -> None:
    answer = ada.post("/bob", {"reason": "left"})
    assert answer.status_code == 403
    assert "needs to be confirmed" in answer.text
    assert "Nothing was done." in answer.text
    assert not disabled(world)


def test_beginning_does_nothing(world: World, ada: ConsoleClient) -> None:
    begun = ada.post("/bob", {}, headers={"Touch": "begin"})
    assert begun.status_code == 200
    assert begun.get_json().keys() == {"options", "challenge"}
    assert not disabled(world)


def test_a_touch_is_for_the_act_that_was_shown(
    world: World, ada: ConsoleClient, passkey: Authenticator, app: Flask
) -> None:
    console_client(world, "operator", "eve", app=app)
    begun = ada.post("/bob", {"who": "eve"}, headers={"Touch": "begin"}).get_json()
    proof = touch_header(begun["challenge"], passkey.get(begun["options"], ORIGIN))
    answer = ada.post("/bob", {"who": "bob", "touch": proof})
    assert answer.status_code == 403
    assert not disabled(world)
    assert ada.post("/bob", {"who": "eve", "touch": proof}).status_code == 303
    assert disabled(world, "eve")


def test_a_forms_once_is_the_calls_idempotency_key(
    ada: ConsoleClient, passkey: Authenticator, seen: list[dict[str, Any]]
) -> None:
    ada.post("/bob", {}, once="only-this-once-and-no-more")
    call = next(environ for environ in seen if environ["PATH_INFO"].endswith("/disable"))
    assert call["HTTP_IDEMPOTENCY_KEY"] == "only-this-once-and-no-more"


@pytest.mark.parametrize("then", ["//evil.example", "https://evil.example", "/\\evil.example"])
def test_after_an_act_nobody_leaves_the_console(then: str, ada: ConsoleClient, passkey: Authenticator) -> None:
    assert touch(ada, passkey, "/bob", {"then": then}).headers["Location"] == "/"


def test_a_refused_act_keeps_the_page_and_tells_why(ada: ConsoleClient, passkey: Authenticator) -> None:
    answer = touch(ada, passkey, "/bob", {"who": "nobody-here"})
    assert answer.status_code == 404
    assert 'role="alert"' in answer.text
    assert "Nothing was done." in answer.text


def test_a_role_that_is_too_low_is_told_so(world: World, app: Flask) -> None:
    viewer = console_client(world, "viewer", app=app)
    answer = viewer.post("/bob", {})
    assert answer.status_code == 403
    assert "role does not allow" in answer.text
    assert not disabled(world)


def test_a_session_that_ended_meanwhile_sends_to_the_sign_in(world: World, ada: ConsoleClient) -> None:
    world.clock.advance(hours=24)
    assert ada.post("/bob", {}).headers["Location"].startswith("/sign-in")
    begun = ada.post("/bob", {}, headers={"Touch": "begin"})
    assert not disabled(world)
    assert begun.status_code in (303, 401)


def test_an_answer_that_never_came_says_that_it_may_be_done() -> None:
    failed = Failed.of(Unreachable())
    assert not failed.nothing_done
    assert "nothing is done twice" in failed.remedy


@pytest.mark.parametrize(
    ("status", "name", "nothing_done"),
    [
        (409, "state-changed", True),
        (409, "done-already", False),
        (403, "touch-wrong", True),
        (500, "internal-error", False),
        (503, "overloaded", False),
    ],
)
def test_what_a_refusal_means_for_what_was_done(status: int, name: str, nothing_done: bool) -> None:
    failed = Failed.of(Refused(status, {"type": f"urn:attestd:problem:{name}", "title": "T", "detail": "D"}))
    assert failed.nothing_done is nothing_done
    assert failed.status == status


def test_a_body_that_is_no_message_goes_as_it_is() -> None:
    act = Act("POST", "/v1/admin/references", body=b"[reference]", content_type="application/toml")
    assert act.octets == b"[reference]"
    assert Act("DELETE", "/v1/admin/trust/ab").octets == b""
    assert json.loads(Act("PUT", "/v1/admin/policy", {"text": "x"}).octets) == {"v": 1, "text": "x"}
