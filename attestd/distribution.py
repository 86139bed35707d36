"""New bundles, published to NATS JetStream, so that thousands of edges hear of them without a line to the service each
(docs/adr/0042-bundles-over-nats.md).

The stream is the place that all who publish agree in: what is published leads on from the message before it, and is
taken only if that still is the last one. So any number of services may publish, none has to know of another, and one
that was away goes on where the stream is. NATS being away holds up nobody else; what was missed is made up for in one
step, for the next delta begins at whatever was published last.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from attestd.broker.links import Broker, close
from attestd.broker.messages import (
    ALIVE_EVERY,
    KEPT,
    MOST_PROOFS,
    STREAM,
    SUBJECTS,
    WHOLE_AFTER,
    BundleMessage,
    Proofs,
    Whole,
    alive_subject,
    delta_subject,
    order,
    whole_subject,
)
from attestd.credentials.copies import HEAD, Copy, Delta
from attestd.credentials.transparency import Head
from attestd.errors import AttestdError, Unavailable
from attestd.ids import TrustDomain
from attestd.protocol.encoding import b64decode
from attestd.publication import Publication

logger = logging.getLogger("attestd.distribution")

_LOOK: Final = 0.1  # seconds between looks at the revision
_AGAIN: Final = 1.0  # seconds before another attempt to connect
_ANSWER: Final = 5.0  # seconds that nats-server may take
_ROOM: Final = 128 * 1024  # octets of a message that headers may take
_WRONG_LAST_SEQUENCE: Final = (10071, 10164)  # nats-server's codes: somebody else was faster
_STREAM_OCTETS: Final = 1 << 30
_WEEK: Final = 7 * 86400  # seconds


class StreamUnusable(Unavailable):
    """The stream of bundles can't be used"""

    remedy = "Let the service's user make the stream ATTESTD_BUNDLES, or make it as docs/nats.md says."


class Distribution:
    """One process's publisher. `run` is a thread of its own, with a registry that is nobody else's."""

    def __init__(
        self, publication: Publication, broker: Broker, trust_domain: TrustDomain, *, clock: Callable[[], datetime]
    ) -> None:
        self._publication = publication
        self._broker = broker
        self._clock = clock
        self._deltas, self._wholes = delta_subject(trust_domain), whole_subject(trust_domain)
        self._alive = alive_subject(trust_domain)
        self._whole: Whole | None = None  # the last copy in the stream
        self._own = 0  # the number of the last delta that was published here
        self._octets_since = 0  # of deltas
        self._octets_of_whole = 1 << 62  # until one was published here
        self._heads: deque[tuple[int, int]] = deque(maxlen=MOST_PROOFS)  # log and size, of the last bundles
        self._room = 0  # octets that a message's content may have
        self._said: dict[str, str] = {}

    def run(self, ended: threading.Event) -> None:
        """Until the event is set. Raises nothing."""
        asyncio.run(self._run(ended))

    async def _run(self, ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                await self._connected(ended)
            except (AttestdError, NatsError, TimeoutError, OSError) as error:
                self._say("broker", f"bundles are not published: {_named(error)}")
            except Exception:  # a thread that dies unseen would leave edges without news
                logger.exception("publishing bundles failed in an unforeseen way")
            await asyncio.sleep(_AGAIN)

    async def _connected(self, ended: threading.Event) -> None:
        closed = asyncio.Event()

        async def on_end() -> None:
            closed.set()

        client = await self._broker.connect("attestd", on_end, inbox="_INBOX.attestd")
        try:
            await self._publish_all(client, ended, closed)
        finally:
            await close(client)

    async def _publish_all(self, client: Client, ended: threading.Event, closed: asyncio.Event) -> None:
        js = client.jetstream(timeout=_ANSWER)
        await _ensure_stream(js)
        self._room = max(0, client.max_payload - _ROOM)
        self._whole = await self._last_whole(js)
        loop, told, sent = asyncio.get_running_loop(), 0.0, ""
        while not ended.is_set():
            if closed.is_set():
                raise StreamUnusable("The connection ended.")
            try:
                published = await asyncio.to_thread(self._publication.bundle, self._clock())
                if published.name != sent:
                    sent = await self._send(js, published.name)
                    self._well("broker")
                self._well("bundle")
                if sent and loop.time() - told >= ALIVE_EVERY:
                    told = loop.time()
                    await client.publish(self._alive, headers=BundleMessage(sent).headers())
            except APIError as error:
                if error.err_code not in _WRONG_LAST_SEQUENCE:
                    raise
                self._whole = await self._last_whole(js)  # whatever else was published
            except AttestdError as error:
                self._say("bundle", f"nothing is published for now: {_named(error)}")
            await asyncio.sleep(_LOOK)

    async def _send(self, js: JetStreamContext, newest: str) -> str:
        """Publishes what leads from the stream's last bundle to the newest; returns what the stream has now."""
        found = await _last(js, self._deltas)
        last, before = (found.seq or 0, _read(found)) if found is not None else (0, None)
        if before is not None and last != self._own and not await self._is_ours(js, before):
            self._say("stream", f"the stream ends with a bundle {before.name} that is not known here; it begins anew")
            before = None
        if before is not None and order(before.name) >= order(newest):
            return before.name  # another one was faster
        name, content, is_delta = await asyncio.to_thread(self._publication.update, before.name if before else "")
        if is_delta and len(content) <= self._room:
            proofs = await asyncio.to_thread(self._proofs, name, before.name if before else "")
            message = BundleMessage(name, before.name if before else None, self._whole, content, proofs)
            self._own = last = await self._put(js, self._deltas, message, last)
            self._octets_since += len(content)
            if self._is_whole_due(last):
                await self._put_whole(js, name, last + 1)
        else:
            # Who reads the notice must find the copy, so that comes first; whoever has it skips the notice.
            await self._put_whole(js, name, last + 1)
            self._own = await self._put(js, self._deltas, BundleMessage(name, None, self._whole), last)
        return name

    async def _is_ours(self, js: JetStreamContext, told: BundleMessage) -> bool:
        """Whether it leads to a bundle that this service signed and keeps: whoever else may publish there could have
        written anything."""
        if told.content:
            return await asyncio.to_thread(self._is_signed, told)
        found = await _last(js, self._wholes)
        copy = None if found is None else _read(found)
        return copy is not None and copy.name == told.name and await asyncio.to_thread(self._is_signed, copy)

    def _is_signed(self, told: BundleMessage) -> bool:
        """By the statement, which is the signed part; what is wrong beside it, edges find out."""
        known = self._publication.copy(told.name)
        try:
            read: Copy | Delta = Delta.read(told.content) if told.is_delta else Copy.read(told.content)
        except AttestdError:
            return False
        return known is not None and read.statement == known.statement

    async def _last_whole(self, js: JetStreamContext) -> Whole | None:
        """The last copy, if it is ours."""
        found = await _last(js, self._wholes)
        copy = None if found is None else _read(found)
        return copy.whole if copy is not None and await asyncio.to_thread(self._is_signed, copy) else None

    def _is_whole_due(self, last: int) -> bool:
        """Whether reading the last copy and all since takes long enough that another copy pays."""
        if self._whole is None or last - self._whole.next >= WHOLE_AFTER:
            return True
        return self._octets_since >= self._octets_of_whole

    async def _put_whole(self, js: JetStreamContext, name: str, following: int) -> None:
        newest, content, _ = await asyncio.to_thread(self._publication.update, "")
        if newest != name or len(content) > self._room:
            return  # too large for this nats-server: edges fetch it from the service
        found = await _last(js, self._wholes)
        whole = Whole(name, following)
        proofs = await asyncio.to_thread(self._proofs, name, "")
        message = BundleMessage(name, None, whole, content, proofs)
        await self._put(js, self._wholes, message, (found.seq or 0) if found is not None else 0, {"Nats-Rollup": "sub"})
        self._whole, self._octets_since, self._octets_of_whole = whole, 0, len(content)

    async def _put(
        self, js: JetStreamContext, subject: str, message: BundleMessage, last: int, more: dict[str, str] | None = None
    ) -> int:
        """Its number in the stream. Raises APIError if `last` is not the subject's last one any more."""
        headers = message.headers() | (more or {}) | {"Nats-Expected-Last-Subject-Sequence": str(last)}
        told = await js.publish(subject, message.content, timeout=_ANSWER, stream=STREAM, headers=headers)
        return int(told.seq)

    def _proofs(self, name: str, base: str) -> Proofs:
        """That the audit head of bundle `name` contains that of `base`; without one, those of all bundles lately."""
        newest = _head(self._publication.copy(name))
        if newest is None:
            return {}
        if base:
            before = _head(self._publication.copy(base))
            wanted: Iterable[tuple[int, int]] = () if before is None else ((before.log, before.size),)
            self._heads.extend(one for one in wanted if one not in self._heads)
        else:
            wanted = tuple(self._heads)
        if (newest.log, newest.size) not in self._heads:
            self._heads.append((newest.log, newest.size))
        found: dict[tuple[int, int, int], Any] = {}
        for log, size in wanted:
            if log == newest.log and 0 < size < newest.size:
                try:
                    found[log, size, newest.size] = self._publication.audit.consistency(log, size, newest.size)
                except AttestdError as error:  # then edges ask for it
                    self._say("proof", f"a bundle goes out without its proof: {_named(error)}")
        return found

    def _say(self, topic: str, text: str) -> None:
        """Logs what is wrong once, until it changes or ends."""
        if self._said.get(topic) != text:
            self._said[topic] = text
            logger.warning("%s", text)

    def _well(self, topic: str) -> None:
        if self._said.pop(topic, None):
            logger.info("bundles are published again")


async def _ensure_stream(js: JetStreamContext) -> None:
    """Makes the stream unless there is one, which stays as its operator made it."""
    try:
        await js.stream_info(STREAM)
    except NotFoundError:
        await js.add_stream(
            StreamConfig(
                name=STREAM,
                subjects=list(SUBJECTS),
                storage=StorageType.FILE,
                max_msgs_per_subject=KEPT,
                max_bytes=_STREAM_OCTETS,
                max_age=_WEEK,
                allow_rollup_hdrs=True,
                allow_direct=True,
            )
        )


async def _last(js: JetStreamContext, subject: str) -> RawStreamMsg | None:
    try:
        return await js.get_last_msg(STREAM, subject, direct=True)
    except NotFoundError:
        return None


def _read(found: RawStreamMsg) -> BundleMessage:
    """What is there already. What can't be read was not written by a service, and leads nowhere."""
    try:
        return BundleMessage.read(found.headers, found.data)
    except AttestdError:
        return BundleMessage("0.0")


def _head(copy: Copy | None) -> Head | None:
    """The audit head of one of our own bundles."""
    if copy is None or HEAD not in copy.parts:
        return None
    _, payload, _ = copy.parts[HEAD].decode("ascii").split(".")
    return Head.parse(b64decode(payload))


def _named(error: Exception) -> str:
    return f"{error.slug()}: {error}" if isinstance(error, AttestdError) else f"{type(error).__name__}: {error}"
