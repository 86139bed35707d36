"""Who may hear what happens, what they hear, and that nobody hears more when their time is over."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from attestd.web import event_stream
from attestd.web import streams as streams_module
from attestd.web.event_stream import KIND, MOST_EACH, EventSource, still_allowed
from attestd.web.front import Front
from attestd.web.streams import ALIVE, FOLLOWS, Streams
from tests.service import URL, Caller, World, problem

PATH = "/v1/admin/events"


@pytest.fixture(autouse=True)
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("KEEP_ALIVE", 0.1), ("_CHECK", 0.05), ("_PATIENCE", 0.5)):
        monkeypatch.setattr(streams_module, name, seconds)
    monkeypatch.setattr(event_stream, "_LOOK", 0.02)


def told(octets: bytes) -> dict[str, Any]:
    lines = octets.decode().splitlines()
    assert lines[1] == "event: changed"
    found: dict[str, Any] = json.loads(lines[2].removeprefix("data: "))
    assert lines[0] == f"id: {found['audit']}"
    return found


class Line:
    """A caller's end of a stream that the whole front answers."""

    def __init__(self, world: World, front: Front, caller: Caller, query: str = "") -> None:
        self.heard = b""
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._front, self._gone = front, asyncio.Event()
        authorization = caller.authorize("GET", PATH + (f"?{query}" if query else ""))
        self._scope = {
            "type": "http", "method": "GET", "path": PATH, "query_string": query.encode(), "scheme": "https",
            "http_version": "1.1", "client": ("127.0.0.1", 5), "server": ("localhost", 8443),
            "headers": [(b"host", URL.removeprefix("https://").encode()), (b"authorization", authorization.encode())],
        }  # fmt: skip
        self.task = asyncio.create_task(front(self._scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        self.heard += message.get("body", b"")

    def events(self) -> list[dict[str, Any]]:
        return [told(block + b"\n") for block in self.heard.split(b"\n\n") if block.startswith(b"id")]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.events()) < count:
                await asyncio.sleep(0.01)

    async def begun(self) -> None:
        async with asyncio.timeout(20):
            while not self.heard:
                await asyncio.sleep(0.01)

    async def leave(self) -> None:
        self._gone.set()
        await asyncio.wait_for(self.task, 20)


def front_of(world: World, **more: Any) -> Front:
    source = EventSource(world.service.newsroom, still_allowed(world.service.callers))
    streams = Streams(source, clock=world.clock, **{"most": 16, "most_each": MOST_EACH} | more)
    return Front(world.app.wsgi_app, threads=2, streams={KIND: streams})


def test_what_happens_is_told_as_it_does(world: World) -> None:
    device = world.enrolled()
    assert world.viewer
    assert world.operator  # a row of their own, before anybody listens

    async def story() -> None:
        line = Line(world, front_of(world), world.viewer)
        await line.begun()
        assert (line.status, line.headers[b"content-type"]) == (200, b"text/event-stream")
        assert FOLLOWS.encode() not in line.headers
        answer = await asyncio.to_thread(world.operator.post, f"/v1/admin/devices/{device.id}/quarantine", {"v": 1})
        assert answer.status_code == 200
        await line.until(1)
        assert line.events()[-1]["topics"] == ["attestations", "devices"]
        assert line.events()[-1]["devices"] == [device.id]
        await line.leave()

    asyncio.run(story())


def test_what_happened_since_the_page_was_made_is_told_first(world: World) -> None:
    at = int(world.clock().timestamp())
    assert world.viewer
    assert world.operator
    world.clock.advance(minutes=1)
    device = world.enrolled()
    begin = world.viewer.get(f"{PATH}?since={at + 60}")
    assert told(begin.data)["devices"] == [device.id]
    assert told(begin.data)["topics"] == ["approvals", "attestations", "devices"]
    world.clock.advance(minutes=1)
    assert world.viewer.get(f"{PATH}?since={at + 120}").data == ALIVE
    assert world.viewer.get(PATH).data == ALIVE


@pytest.mark.parametrize("query", ["since=x", "since=-1", "since=1&since=2", "after=1", f"since={'9' * 40}"])
def test_questions_that_are_none(world: World, query: str) -> None:
    answer = world.viewer.get(f"{PATH}?{query}")
    assert (answer.status_code, problem(answer)) == (400, "query-malformed")


def test_a_proxy_and_a_stranger_hear_nothing(world: World) -> None:
    assert world.proxy.get(PATH).status_code == 403
    assert world.get(PATH).status_code == 401


def test_who_is_disabled_while_listening_hears_nothing_more(world: World) -> None:
    other = world.new_caller("viewer", "viewer-2")
    assert world.admin
    assert world.viewer

    async def story() -> None:
        front = front_of(world)
        ends, goes_on = Line(world, front, other), Line(world, front, world.viewer)
        await ends.begun()
        await goes_on.begun()
        answer = await asyncio.to_thread(world.admin.post, "/v1/admin/operators/viewer-2/disable", {"v": 1})
        assert answer.status_code == 200
        await asyncio.wait_for(ends.task, 20)
        heard = ends.heard
        await asyncio.to_thread(world.operator.post, "/v1/admin/brake/engage", {"v": 1, "reason": "a test"})
        async with asyncio.timeout(20):
            while not any("brake" in found["topics"] for found in goes_on.events()):
                await asyncio.sleep(0.01)
        assert ends.heard == heard
        await goes_on.leave()

    asyncio.run(story())


def test_one_key_has_so_many_streams_and_others_have_theirs(world: World) -> None:
    assert world.viewer
    assert world.operator

    async def story() -> None:
        front = front_of(world, most=4, most_each=2)
        lines = [Line(world, front, world.viewer) for _ in range(2)]
        for line in lines:
            await line.begun()
        third = Line(world, front, world.viewer)
        await asyncio.wait_for(third.task, 20)
        assert (third.status, b"retry-after" in third.headers) == (503, True)
        others = Line(world, front, world.operator)
        await others.begun()
        assert others.status == 200
        for line in (*lines, others):
            await line.leave()

    asyncio.run(story())
