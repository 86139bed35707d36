"""The front: bounds of size, time, number and memory, before a worker thread is taken."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from attestd.web.front import Front, Limits


class Echo:
    """Answers with what it was given; `gate` holds it up."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.environ: WSGIEnvironment = {}
        self.calls = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.calls += 1
        self.environ = environ
        self.gate.wait(10)
        start_response("200 OK", [("X-Seen", "yes")])
        return [environ["wsgi.input"].read()]


def scope(**changed: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/v1/enrollments",
        "query_string": b"",
        "headers": [],
        "client": ("192.0.2.1", 5),
        "server": ("127.0.0.1", 8443),
        **changed,
    }


async def send(front: Front, *chunks: bytes, stall: bool = False, **changed: Any) -> tuple[int, dict[str, str], bytes]:
    """One request whose body arrives in `chunks`, and then not at all if it stalls."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if not stall:
        messages.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def collect(message: Any) -> None:
        sent.append(message)

    await front(scope(**changed), receive, collect)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, sent[1]["body"]


def slug(body: bytes) -> str:
    return str(json.loads(body)["type"]).removeprefix("urn:attestd:problem:")


def test_a_request_arrives_whole() -> None:
    echo = Echo()
    status, headers, body = asyncio.run(send(Front(echo, threads=1), b"ab", b"c"))
    assert (status, headers["x-seen"], body) == (200, "yes", b"abc")
    assert echo.environ["CONTENT_LENGTH"] == "3"
    assert echo.environ["REMOTE_ADDR"] == "192.0.2.1"


def test_a_body_that_stalls_costs_no_thread() -> None:
    echo = Echo()
    front = Front(echo, threads=1, limits=Limits(body_time=0.2))

    async def story() -> tuple[Any, Any]:
        stalled = [asyncio.create_task(send(front, b"x", stall=True)) for _ in range(50)]
        await asyncio.sleep(0.05)
        served = await asyncio.wait_for(send(front, b"y"), 2)
        return served, await asyncio.gather(*stalled)

    served, stalled = asyncio.run(story())
    assert served[0] == 200
    assert {(status, slug(body)) for status, _, body in stalled} == {(408, "request-too-slow")}
    assert echo.calls == 1


@pytest.mark.parametrize("size", [8, 9])
def test_a_body_beyond_the_limit_is_refused_when_it_is_seen(size: int) -> None:
    echo = Echo()
    front = Front(echo, threads=1, limits=Limits(body=8))
    status, _, _ = asyncio.run(send(front, b"x" * size))
    assert status == (200 if size == 8 else 413)
    assert echo.calls == (1 if size == 8 else 0)


def test_a_declared_size_beyond_the_limit_is_refused_unread() -> None:
    front = Front(Echo(), threads=1, limits=Limits(body=8, body_time=0.2))
    status, _, body = asyncio.run(send(front, stall=True, headers=[(b"content-length", b"1000000000000")]))
    assert (status, slug(body)) == (413, "input-too-large")


def test_an_inventory_may_be_larger() -> None:
    front = Front(Echo(), threads=1, limits=Limits(body=8, larger=(("/import", 100),)))
    assert asyncio.run(send(front, b"x" * 50, path="/import"))[0] == 200
    assert asyncio.run(send(front, b"x" * 50, path="/import/"))[0] == 413


def test_bodies_together_are_bounded_and_their_room_is_given_back() -> None:
    front = Front(Echo(), threads=1, limits=Limits(in_flight=10, body_time=0.2))

    async def story() -> tuple[Any, Any, Any]:
        holding = asyncio.create_task(send(front, b"x" * 8, stall=True))
        await asyncio.sleep(0.05)
        refused = await send(front, b"y" * 8)
        await holding
        return refused, await send(front, b"y" * 8), None

    refused, later, _ = asyncio.run(story())
    assert (refused[0], refused[1]["retry-after"], slug(refused[2])) == (503, "2", "overloaded")
    assert later[0] == 200


def test_large_bodies_at_once_are_bounded() -> None:
    limits = Limits(body=8, body_time=0.3, large_at_once=1, larger=(("/import", 100),))
    front = Front(Echo(), threads=1, limits=limits)

    async def story() -> tuple[Any, Any, Any]:
        holding = asyncio.create_task(send(front, b"x" * 20, stall=True, path="/import"))
        await asyncio.sleep(0.05)
        refused, small = await send(front, b"y" * 20, path="/import"), await send(front, b"y" * 8, path="/import")
        await holding
        return refused, small, await send(front, b"y" * 20, path="/import")

    refused, small, later = asyncio.run(story())
    assert (refused[0], slug(refused[2])) == (503, "overloaded")
    assert (small[0], later[0]) == (200, 200)


def test_requests_that_wait_are_bounded() -> None:
    echo = Echo()
    echo.gate.clear()
    front = Front(echo, threads=1, limits=Limits(waiting=3))

    async def story() -> list[int]:
        held = [asyncio.create_task(send(front)) for _ in range(3)]
        await asyncio.sleep(0.05)
        refused = await send(front)
        echo.gate.set()
        return [refused[0], *[answer[0] for answer in await asyncio.gather(*held)]]

    assert asyncio.run(story()) == [503, 200, 200, 200]


def test_headers_with_underscores_can_not_pose_as_others() -> None:
    echo = Echo()
    headers = [(b"x_client_cert", b"forged"), (b"x-client-cert", b"real"), (b"accept", b"a"), (b"accept", b"b")]
    asyncio.run(send(Front(echo, threads=1), headers=headers))
    assert echo.environ["HTTP_X_CLIENT_CERT"] == "real"
    assert echo.environ["HTTP_ACCEPT"] == "a,b"


def test_head_has_no_body() -> None:
    assert asyncio.run(send(Front(Echo(), threads=1), b"abc", method="HEAD"))[2] == b""


def test_a_client_that_goes_away_is_let_go() -> None:
    echo = Echo()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def collect(message: Any) -> None:
        sent.append(message)

    asyncio.run(Front(echo, threads=1)(scope(), receive, collect))
    assert (sent, echo.calls) == ([], 0)
