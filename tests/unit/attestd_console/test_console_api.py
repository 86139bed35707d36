"""Calls to the service: signed, bounded, and clear about what went wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.requests import SoftwareKey
from attestd.protocol.encoding import b64encode
from attestd.registry.operators import Role
from attestd_console import api as console_api
from attestd_console.api import Api, Refused, Service, Unreachable, at, written
from tests.service import URL, World

Seen = list[dict[str, Any]]


def new_key() -> SoftwareKey:
    return SoftwareKey(ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def operator(world: World) -> Api:
    key = new_key()
    world.service.certifying.register_operator("ada", Role("operator"), key.public_key, world.act)
    return Api(Service.inside(world.app.wsgi_app, URL), key, "192.0.2.9")


def noting(inner: WSGIApplication, seen: Seen) -> WSGIApplication:
    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ)
        return inner(environ, start_response)

    return application


def answering(status: int, body: bytes, kind: str = "application/json") -> WSGIApplication:
    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        start_response(f"{status} -", [("Content-Type", kind), ("Replay-Nonce", b64encode(b"n" * 16))])
        return [body]

    return application


def paths(seen: Seen) -> list[str]:
    return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}" for environ in seen]


def test_reads_share_one_nonce_and_each_change_has_its_own(world: World) -> None:
    seen: Seen = []
    key = new_key()
    world.service.certifying.register_operator("ada", Role("admin"), key.public_key, world.act)
    api = Api(Service.inside(noting(world.app.wsgi_app, seen), URL), key)
    for _ in range(3):
        assert api.get("/v1/admin/overview")["devices"]
    assert paths(seen) == ["GET /v1/nonce", *["GET /v1/admin/overview"] * 3]
    del seen[:]
    for name in ("one", "two"):
        with pytest.raises(Refused):
            api.post(at("v1", "admin", "operators", name, "disable"))
    assert paths(seen)[::2] == ["GET /v1/nonce"] * 2


def test_a_nonce_that_died_meanwhile_is_replaced_by_itself(world: World, operator: Api) -> None:
    assert operator.get("/v1/admin/overview")
    world.clock.advance(hours=3)
    assert operator.get("/v1/admin/overview")


def test_a_nonce_that_stays_refused_is_tried_twice_and_no_more() -> None:
    seen: Seen = []
    problem = json.dumps({"type": "urn:attestd:problem:nonce-expired", "title": "Old", "status": 401}).encode()
    api = Api(Service.inside(noting(answering(401, problem), seen), URL), new_key())
    with pytest.raises(Refused) as refused:
        api.get("/v1/admin/overview")
    assert (refused.value.name, refused.value.status) == ("nonce-expired", 401)
    assert paths(seen).count("GET /v1/admin/overview") == 2


def test_another_refusal_is_not_tried_again() -> None:
    seen: Seen = []
    api = Api(
        Service.inside(noting(answering(409, b'{"type":"urn:attestd:problem:state-changed"}'), seen), URL), new_key()
    )
    with pytest.raises(Refused, match="refused"):
        api.post("/v1/admin/devices/x/quarantine")
    assert paths(seen).count("POST /v1/admin/devices/x/quarantine") == 1


def test_a_refusal_says_what_was_seen_and_what_to_do(operator: Api) -> None:
    with pytest.raises(Refused) as refused:
        operator.post("/v1/admin/operators/ada/disable")
    assert refused.value.name == "role-too-low"
    assert (refused.value.seen, refused.value.expected) == ("operator", "admin")
    assert refused.value.what_to_do.startswith("Ask an admin")


@pytest.mark.parametrize("name", ["a b", "a/b", "ü", "a?b=c", "a%2Fb", "a#b", "..", "a:b@c"])
def test_a_name_stays_one_segment_and_is_signed_as_it_is_sent(operator: Api, name: str) -> None:
    # A slash in a name makes another path of it, signed right; nothing is at either.
    with pytest.raises(Refused) as refused:
        operator.get(at("v1", "admin", "devices", name))
    assert refused.value.status in (400, 404), refused.value  # and not 401: signed for another URL


def test_a_query_is_signed_as_it_is_sent(operator: Api) -> None:
    assert operator.get("/v1/admin/devices", q="a b&c=ü+%20", tier=None, site="")["devices"] == []


def test_the_service_hears_the_browsers_address(world: World) -> None:
    seen: Seen = []
    api = Api(Service.inside(noting(world.app.wsgi_app, seen), URL), None, "192.0.2.77")
    api.call("GET", "/v1/root")
    assert seen[-1]["REMOTE_ADDR"] == "192.0.2.77"


@pytest.mark.parametrize("body", [b"[]", b"no json", b'"text"', b"\xff\xfe"])
def test_an_answer_that_is_no_object_is_no_answer(body: bytes) -> None:
    with pytest.raises(Unreachable):
        Api(Service.inside(answering(200, body), URL)).get("/v1/admin/sign-in")


def test_an_answer_has_a_size_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_api, "MAX_ANSWER", 20)
    assert Api(Service.inside(answering(200, b'{"a": "1234567890"}'), URL)).get("/v1/x") == {"a": "1234567890"}
    with pytest.raises(Unreachable, match="too large"):
        Api(Service.inside(answering(200, b'{"a": "12345678901234"}'), URL)).get("/v1/x")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"type": 7}', b'{"type": "about:blank"}'])
def test_a_refusal_in_no_form_is_still_one(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        Api(Service.inside(answering(500, body), URL)).get("/v1/x")
    assert (refused.value.status, refused.value.name) == (500, "")


def failing(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error

    return handler


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("no"), httpx.ReadTimeout("late"), httpx.RemoteProtocolError("odd")]
)
def test_no_answer_is_unreachable(error: Exception) -> None:
    client = httpx.Client(transport=httpx.MockTransport(failing(error)), base_url=URL)
    with pytest.raises(Unreachable):
        Api(Service(client, URL), new_key()).get("/v1/admin/overview")
    with pytest.raises(Unreachable), Api(Service(client, URL), None).stream("/v1/admin/events"):
        pass


def test_an_application_that_breaks_is_a_refusal_and_not_a_crash() -> None:
    def broken(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        start_response("500 -", [])
        return [b""]

    with pytest.raises(Refused):
        Api(Service.inside(broken, URL)).get("/v1/x")


def test_a_message_has_one_spelling() -> None:
    assert written({"b": 1, "a": 2}) == written({"a": 2, "b": 1}) == b'{"a":2,"b":1,"v":1}'
    assert written(None) == b'{"v":1}'
