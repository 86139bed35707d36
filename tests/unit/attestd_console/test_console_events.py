"""The event stream: the service's, as this session may hear it, whichever way the console is run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

import httpx
import pytest

from attestd.protocol.encoding import b64encode
from attestd_console.api import Service
from attestd_console.app import create_app
from attestd_console.console import Console
from attestd_console.sessions import Seed
from tests.console import ConsoleClient
from tests.service import URL, World

BEGUN = b"retry: 1000\n\n"
FOLLOWS = "operator:ada 17"


def streaming(world: World, seen: list[dict[str, Any]]) -> WSGIApplication:
    """A service that begins a stream, and leaves the rest to its front."""

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/v1/admin/events":
            return world.app.wsgi_app(environ, start_response)
        seen.append(environ)
        start_response("200 OK", [("Content-Type", "text/event-stream"), ("attestd-follows", FOLLOWS)])
        return [BEGUN]

    return application


@pytest.fixture
def seed() -> Seed:
    return Seed.fresh()


def test_inside_the_service_its_front_goes_on_with_the_stream(world: World, seed: Seed) -> None:
    seen: list[dict[str, Any]] = []
    app = create_app(Console(Service.inside(streaming(world, seen), URL)))
    answer = ConsoleClient(world, app, seed).get("/events")
    assert (answer.status_code, answer.content_type) == (200, "text/event-stream")
    assert answer.data == BEGUN
    assert answer.headers["attestd-follows"] == FOLLOWS
    assert seen[0]["HTTP_AUTHORIZATION"].startswith("Attestd ")


def test_apart_the_stream_is_carried_and_no_word_to_a_front_passes(world: World, seed: Seed) -> None:
    class Endless(httpx.SyncByteStream):
        closed = False

        def __iter__(self) -> Iterator[bytes]:
            yield BEGUN
            yield b": \n\n"
            raise AssertionError("nobody asked for more")

        def close(self) -> None:
            self.closed = True

    stream = Endless()

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/admin/events":
            headers = {"Content-Type": "text/event-stream", "attestd-follows": FOLLOWS}
            return httpx.Response(200, headers=headers, stream=stream)
        return httpx.Response(204, headers={"Replay-Nonce": b64encode(bytes(16))})

    client = httpx.Client(transport=httpx.MockTransport(handler), base_url=URL)
    app = create_app(Console(Service(client, URL)))
    http = ConsoleClient(world, app, seed).http
    answer = http.get("/events", base_url=URL, headers={"Cookie": f"__Host-attestd={seed.text}"}, buffered=False)
    assert "attestd-follows" not in answer.headers
    chunks = iter(answer.iter_encoded())
    assert [next(chunks), next(chunks)] == [BEGUN, b": \n\n"]
    answer.close()
    assert stream.closed


def test_a_stream_is_no_page_for_nobody(nobody: ConsoleClient) -> None:
    answer = nobody.get("/events")
    assert (answer.status_code, answer.content_type) == (401, "application/json")
