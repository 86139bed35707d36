"""Bundles as a message broker brings them (docs/adr/0042-bundles-over-nats.md). Nothing of it is verified here: what is
taken up is verified by who takes it (`store`), so a broker can keep news from an edge, and no more.

News come by a plain subscription, which costs nats-server nothing that stays. The stream is read where a delta does
not fit what is here: first, and after anything was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from attestd.broker.links import Broker, BrokerUnreachable, close
from attestd.broker.messages import (
    ALIVE_EVERY,
    STREAM,
    BundleMessage,
    alive_subject,
    delta_subject,
    order,
    whole_subject,
)
from attestd.errors import AttestdError
from attestd.ids import TrustDomain

logger = logging.getLogger("attestd_edge.nats.feed")

Known = Callable[[], str | None]

_ANSWER: Final = 5.0  # seconds that nats-server may take
_LISTEN: Final = 1.0  # seconds without news, after which it is said that there are none
_SILENCE: Final = 4 * ALIVE_EVERY  # seconds after which nobody publishes any more
_STEPS: Final = 256  # messages read from the stream at once; it keeps half as many
_PENDING: Final = 256  # messages that wait while one is taken up
_PENDING_OCTETS: Final = 64 * 1024 * 1024


class Feed:
    """One edge's place at the broker. Not safe for threads: one refresher owns it."""

    def __init__(self, broker: Broker, trust_domain: TrustDomain) -> None:
        self._broker = broker
        self._deltas, self._wholes = delta_subject(trust_domain), whole_subject(trust_domain)
        self._alive = alive_subject(trust_domain)
        self._said = ""

    def follow(self, known: Known) -> Generator[BundleMessage | None, None, None]:
        """What leads on from the bundle that `known` names at that time, as it comes; who publishes also says each
        second that nothing is newer. None after a second without either. A message without content that names a newer
        bundle says that it can't be had from here.

        Raises BrokerMisconfigured or BrokerUnreachable, also between two of them.
        """
        with asyncio.Runner() as runner:
            told = self._told(known)

            async def next_one() -> BundleMessage | None:
                return await anext(told)

            try:
                while True:
                    yield runner.run(next_one())
            finally:
                runner.run(told.aclose())

    async def _told(self, known: Known) -> AsyncGenerator[BundleMessage | None, None]:
        closed = asyncio.Event()

        async def on_end() -> None:
            closed.set()

        client = await self._broker.connect("attestd-edge", on_end, inbox="_INBOX.edge")
        try:
            async for one in self._follow(client, closed, known):
                yield one
        except (NatsError, TimeoutError, OSError) as error:
            raise BrokerUnreachable(f"{type(error).__name__}: {error}"[:300]) from error
        finally:
            await close(client)

    async def _follow(
        self, client: Client, closed: asyncio.Event, known: Known
    ) -> AsyncGenerator[BundleMessage | None, None]:
        js, loop = client.jetstream(timeout=_ANSWER), asyncio.get_running_loop()
        news: asyncio.Queue[Msg] = asyncio.Queue(_PENDING)
        # First listening, then looking: what comes in between is heard.
        for subject in (self._deltas, self._alive):
            await client.subscribe(
                subject, cb=news.put, pending_msgs_limit=_PENDING, pending_bytes_limit=_PENDING_OCTETS
            )
        await client.flush(timeout=_ANSWER)
        async for one in self._catch_up(js, known):
            yield one
        heard = loop.time()
        while not closed.is_set() and loop.time() - heard < _SILENCE:
            try:
                said = await asyncio.wait_for(news.get(), _LISTEN)
            except TimeoutError:
                yield None
                continue
            if (told := self._read(said.headers, said.data)) is None:
                continue
            heard = loop.time()
            if not _is_news(told, known()) or (told.is_delta and told.base == known()):
                yield told
                continue
            async for one in self._catch_up(js, known):
                yield one
        raise BrokerUnreachable("The connection ended." if closed.is_set() else "No service publishes there.")

    async def _catch_up(self, js: JetStreamContext, known: Known) -> AsyncGenerator[BundleMessage, None]:
        """What leads from the bundle that is here to the stream's last one: one delta, or those since the last copy,
        or that copy and those; and if that does not lead there, a notice."""
        last = await self._from_stream(js, self._deltas)
        if last is None or not _is_news(last, known()):
            return
        if last.is_delta and last.base == known():
            yield last
            return
        step = last.whole
        if step is None or order(known()) < order(step.name):
            copy = await self._from_stream(js, self._wholes)
            step = None if copy is None else copy.whole
            if copy is not None and _is_news(copy, known()):
                yield copy
        number = 1 if step is None else step.next
        for _ in range(_STEPS):
            found = await _look(js, self._deltas, number)
            if found is None:
                break
            number = (found.seq or number) + 1
            delta = self._read(found.headers, found.data)
            if delta is None or not _is_news(delta, known()):
                continue
            if delta.base != known():
                break
            yield delta
            if known() != delta.name:  # it was not taken, so nothing leads on from it
                break
        if _is_news(last, known()):
            yield BundleMessage(last.name)

    async def _from_stream(self, js: JetStreamContext, subject: str) -> BundleMessage | None:
        found = await _look(js, subject, None)
        return None if found is None else self._read(found.headers, found.data)

    def _read(self, headers: dict[str, str] | None, content: bytes | None) -> BundleMessage | None:
        """None for what no service wrote, which is said once."""
        try:
            told = BundleMessage.read(headers, content)
        except AttestdError as error:
            if self._said != (said := type(error).slug()):
                self._said = said
                logger.warning("what the message broker brings can't be read: %s: %s", said, error)
            return None
        self._said = ""
        return told


def _is_news(told: BundleMessage, known: str | None) -> bool:
    return order(told.name) > order(known)


async def _look(js: JetStreamContext, subject: str, number: int | None) -> RawStreamMsg | None:
    """The subject's last message in the stream, or its first one with this number or a higher one."""
    try:
        if number is None:
            return await js.get_last_msg(STREAM, subject, direct=True)
        return await js.get_msg(STREAM, seq=number, subject=subject, direct=True, next=True)
    except NotFoundError:
        return None
