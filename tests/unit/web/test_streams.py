"""Pushed bundles: who hears what, who is let go, and that nothing is queued for anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from attestd.publication import PublishedBundle
from attestd.registry.failures import DatabaseUnreachable
from attestd.web import bundle_stream
from attestd.web import streams as streams_module
from attestd.web.bundle_stream import BundleSource
from attestd.web.front import Front
from attestd.web.streams import FOLLOWS, Streams, event
from attestd_edge.service import read_events

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Publishing:
    """Bundles by number; what leads from one to another says so."""

    def __init__(self) -> None:
        self.version = 1
        self.down = False
        self.asked: list[str] = []

    def bundle(self, _now: datetime) -> PublishedBundle:
        if self.down:
            raise DatabaseUnreachable
        return PublishedBundle(f"1.{self.version}", b"{}")

    def update(self, base: str) -> tuple[str, bytes, bool]:
        self.asked.append(base)
        newest = f"1.{self.version}"
        return newest, f'"{base} to {newest}"'.encode(), base != "1.0"


@dataclass
class Reader:
    """One proxy's end of the line."""

    heard: list[bytes] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    stuck: asyncio.Event | None = None

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if self.stuck is not None:
            await self.stuck.wait()
        self.heard.append(message["body"])

    def events(self) -> list[bytes]:
        return [octets for octets in self.heard if octets.startswith(b"id")]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.events()) < count:
                await asyncio.sleep(0.01)


class Stage:
    def __init__(self, **more: Any) -> None:
        self.publishing = Publishing()
        self.disabled: set[str] = set()
        source = BundleSource(self.publishing, self.allowed)  # type: ignore[arg-type]
        self.streams = Streams(source, clock=lambda: NOW, **more)

    def allowed(self, names: Iterable[str], _now: datetime) -> frozenset[str]:
        return frozenset(names) - self.disabled

    def begins(self, follows: str) -> tuple[Reader, asyncio.Task[None]]:
        reader = Reader()
        who, _, place = follows.partition(" ")
        return reader, asyncio.create_task(self.streams.follow(who, place, reader.receive, reader.send))


@pytest.fixture(autouse=True)
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("KEEP_ALIVE", 0.1), ("_CHECK", 0.05), ("_PATIENCE", 0.5)):
        monkeypatch.setattr(streams_module, name, seconds)
    monkeypatch.setattr(bundle_stream, "_LOOK", 0.02)


def test_each_change_is_told_as_it_comes() -> None:
    async def story() -> None:
        stage = Stage()
        reader, task = stage.begins("p1 1.1")
        for version in (2, 3):
            stage.publishing.version = version
            await reader.until(version - 1)
        assert reader.events() == [event("delta", "1.2", b'"1.1 to 1.2"'), event("delta", "1.3", b'"1.2 to 1.3"')]
        reader.gone.set()
        await task
        assert len(stage.streams) == 0

    asyncio.run(story())


def test_who_has_nothing_to_begin_with_hears_a_whole_one() -> None:
    async def story() -> None:
        stage = Stage()
        reader, task = stage.begins("p1 1.0")
        await reader.until(1)
        assert reader.events() == [event("bundle", "1.1", b'"1.0 to 1.1"')]
        reader.gone.set()
        await task

    asyncio.run(story())


def test_while_nothing_changes_the_line_is_heard() -> None:
    async def story() -> None:
        stage = Stage()
        reader, task = stage.begins("p1 1.1")
        async with asyncio.timeout(10):
            while len(reader.heard) < 3:
                await asyncio.sleep(0.01)
        assert set(reader.heard) == {b":\n\n"}
        assert stage.publishing.asked == []
        reader.gone.set()
        await task

    asyncio.run(story())


def test_nothing_is_queued_for_who_reads_slowly() -> None:
    """It hears of the newest, whatever came in between."""

    async def story() -> None:
        stage = Stage()
        reader, task = stage.begins("p1 1.1")
        reader.stuck = asyncio.Event()
        stage.publishing.version = 2
        await asyncio.sleep(0.1)
        stage.publishing.version = 9
        await asyncio.sleep(0.1)
        reader.stuck.set()
        reader.stuck = None
        await reader.until(2)
        assert reader.events()[-1].startswith(b"id: 1.9\n")
        assert len(reader.events()) == 2
        reader.gone.set()
        await task

    asyncio.run(story())


def test_who_takes_nothing_is_let_go() -> None:
    async def story() -> None:
        stage = Stage()
        reader, task = stage.begins("p1 1.1")
        reader.stuck = asyncio.Event()
        await asyncio.wait_for(task, 10)
        assert len(stage.streams) == 0

    asyncio.run(story())


def test_who_was_disabled_hears_nothing_more() -> None:
    async def story() -> None:
        stage = Stage()
        (one, ends), (other, goes_on) = stage.begins("p1 1.1"), stage.begins("p2 1.1")
        await asyncio.sleep(0.1)
        stage.disabled.add("p1")
        await asyncio.wait_for(ends, 10)
        assert one.heard[-1] == b""
        stage.publishing.version = 2
        await other.until(1)
        assert one.events() == []
        other.gone.set()
        await goes_on

    asyncio.run(story())


def test_who_was_disabled_with_the_change_does_not_hear_of_it() -> None:
    """Both were noticed in one look: the one that waited is woken for the change, and let go."""

    async def story() -> None:
        stage = Stage()
        reader, task = stage.begins("p1 1.1")
        await asyncio.sleep(0.05)
        stage.disabled.add("p1")
        stage.publishing.version = 2
        stage.streams._gone, stage.streams._newest = frozenset({"p1"}), "1.2"
        stage.streams._wake()
        await asyncio.wait_for(task, 10)
        assert reader.events() == []

    asyncio.run(story())


def test_a_stream_ends_after_its_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "_LIFE", 0.3)

    async def story() -> None:
        stage = Stage()
        reader, task = stage.begins("p1 1.1")
        await asyncio.wait_for(task, 10)
        assert reader.heard[-1] == b""

    asyncio.run(story())


def test_a_database_that_is_away_ends_nothing() -> None:
    async def story() -> None:
        stage = Stage()
        reader, task = stage.begins("p1 1.1")
        await asyncio.sleep(0.1)
        stage.publishing.down = True
        await asyncio.sleep(0.2)
        assert not task.done()
        stage.publishing.down = False
        stage.publishing.version = 2
        await reader.until(1)
        reader.gone.set()
        await task

    asyncio.run(story())


def test_there_is_room_for_so_many() -> None:
    async def story() -> None:
        stage = Stage(most=3, most_each=2)
        started = [stage.begins("p1 1.1"), stage.begins("p1 1.1")]
        await asyncio.sleep(0.05)
        assert stage.streams.full("p1")
        assert not stage.streams.full("p2")
        started.append(stage.begins("p2 1.1"))
        await asyncio.sleep(0.05)
        assert stage.streams.full("p3")
        for reader, task in started:
            reader.gone.set()
            await task
        assert not stage.streams.full("p1")

    asyncio.run(story())


def test_a_process_that_ends_waits_for_no_stream() -> None:
    async def story() -> None:
        stage = Stage()
        reader, task = stage.begins("p1 1.1")
        await asyncio.sleep(0.05)
        assert not stage.streams.full("p2")
        stage.streams.end()
        await asyncio.wait_for(task, 10)
        assert reader.heard[-1] == b""
        assert stage.streams.full("p2")

    asyncio.run(story())


def _application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    headers = [("Content-Type", "text/event-stream"), ("Content-Length", "3"), (FOLLOWS, "bundles p1 1.1")]
    start_response("200 OK", headers)
    return [b":\n\n"]


def _scope(method: str = "GET") -> dict[str, Any]:
    return {
        "type": "http", "method": method, "path": "/v1/bundle/stream", "query_string": b"", "scheme": "https",
        "http_version": "1.1", "headers": [], "client": ("127.0.0.1", 5), "server": ("localhost", 8443),
    }  # fmt: skip


@pytest.mark.parametrize(("method", "most", "status"), [("GET", 4, 200), ("GET", 0, 503), ("HEAD", 4, 200)])
def test_the_front_goes_on_where_the_application_began(method: str, most: int, status: int) -> None:
    """Its word to the front leaves with nobody, and a HEAD holds no line."""

    async def story() -> None:
        stage = Stage(most=most)
        front = Front(_application, threads=1, streams={"bundles": stage.streams})
        sent: list[dict[str, Any]] = []
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        task = asyncio.create_task(front(_scope(method), receive, send))
        if (method, status) == ("GET", 200):
            async with asyncio.timeout(10):
                while len(sent) < 3:
                    await asyncio.sleep(0.01)
            gone.set()
        await asyncio.wait_for(task, 10)
        assert sent[0]["status"] == status
        names = {name for name, _ in sent[0]["headers"]}
        assert FOLLOWS.encode() not in names
        assert (b"content-length" in names) is (method == "HEAD")

    asyncio.run(story())


def test_an_edge_reads_what_is_sent_however_it_is_cut() -> None:
    octets = event("delta", "1.2", b'{"a":1}') + b":\n\n" + event("bundle", "1.3", b"{}")
    whole = [(found.content, found.is_delta) if found else None for found in read_events([octets])]
    assert whole == [(b'{"a":1}', True), None, (b"{}", False)]
    for size in (1, 2, 5):
        chunks = [octets[at : at + size] for at in range(0, len(octets), size)]
        assert [(found.content, found.is_delta) if found else None for found in read_events(chunks)] == whole
