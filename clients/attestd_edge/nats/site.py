"""The NATS side of an edge, running: it is asked, it disconnects, it carries. Three tasks and the edge's own thread."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Self

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from attestd.broker.nkeys import SigningKey
from attestd.credentials.dpop import ReplayCache
from attestd.errors import AttestdError
from attestd_edge.edge import Edge
from attestd_edge.files import replace_file
from attestd_edge.memo import Memo
from attestd_edge.nats.callout import Callout
from attestd_edge.nats.carry import Fate, Judged, judge_message
from attestd_edge.nats.keys import Keys
from attestd_edge.nats.ledger import Ledger
from attestd_edge.nats.links import keep, tls_to
from attestd_edge.nats.request import SUBJECT, XKEY_HEADER
from attestd_edge.nats.settings import Carriage, NatsSettings
from attestd_edge.nats.subjects import write_name
from attestd_edge.nats.tallies import Tallies
from attestd_edge.nats.watch import EXPIRED, Ending, ended, endings
from attestd_edge.nats.withheld import COLLECTED_HEADER, SUBJECT_HEADER, WHY_HEADER, stream_of
from attestd_edge.settings import Settings
from attestd_edge.views import View

logger = logging.getLogger("attestd_edge.nats")

COUNTS_FILE = "nats.prom"
_COUNT = 15.0  # seconds between writings of what is counted
_LOOK = 0.05  # seconds between looks at the edge's bundle
_AGAIN = 0.5  # seconds until a disconnection that was not confirmed is tried again
_ANSWER = 1.0  # seconds that nats-server has to confirm one
_AT_ONCE = 256  # disconnections under way
_BATCH = 64  # messages judged together
_TAKEN = 10.0  # seconds that a carrier has for them
_FETCH = 2.0  # seconds to wait for messages
_LATER = 2.0  # seconds until a message that can't cross yet is looked at again
_TOGETHER = 8  # questions that are answered at once, of those that wait
_PENDING = 8192  # questions that wait; nats-server refuses what waits longer than its timeout
_RECEIPTS = 1 << 16  # messages of which it is remembered that they have one
_CARRY_DURABLE = "attestd-carry"
_WEEK = 7 * 86400  # seconds that a stream made here keeps what did not cross
_GIB = 1 << 30


class NatsSite:
    """One edge's work at one nats-server (or at one cluster of them)."""

    def __init__(self, edge: Edge, settings: Settings, *, wall: Callable[[], datetime] = lambda: datetime.now(UTC)):
        """Raises SettingsInvalid, FileUnreadable, NkeyMalformed or LedgerUnusable."""
        self._edge = edge
        self._settings = NatsSettings.of(settings)
        self._files = settings.key, settings.certificate
        self._keys = Keys.load(self._settings.keys)
        self._ledger = Ledger.open(settings.state_dir)
        self._tallies = Tallies(edge.metrics.registry)
        self._callout = Callout(
            edge, self._settings, settings.audience, self._keys, self._ledger, self._tallies, ReplayCache(), wall,
            os.urandom,
        )  # fmt: skip
        self._counts = settings.state_dir / COUNTS_FILE
        self._looked_at: View | None = None
        self._ends_looked_at: datetime | None = None
        self._ending: dict[tuple[str, int], tuple[Ending, float]] = {}  # and when to try (again)
        self._receipts: Memo[str, str] = Memo(_RECEIPTS)  # by message: why it may not cross; empty if it may
        self.asked = asyncio.Event()  # set once nats-server can ask

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """With an edge of its own, on the state folder that others of this site may share."""
        return cls(Edge.open(settings), settings)

    async def run(self) -> None:
        """Until cancelled."""
        self._edge.start()
        carriage = self._settings.carriage
        links = [
            self._kept("callout", self._keys.callout, self._be_asked),
            self._kept("watch", self._keys.watch, self._disconnect),
            self._count(),
        ]
        if carriage is not None:
            inbox = f"_INBOX.carry.{write_name(carriage.guarded.boundary.from_site or 'any')}"
            links.append(self._kept("carry", self._keys.carry, self._carry, inbox=inbox))
        try:
            await asyncio.gather(*links)
        finally:
            await asyncio.to_thread(self._edge.stop)
            self._ledger.close()

    async def _kept(
        self, name: str, key: SigningKey, use: Callable[[Client], Any], *, inbox: str = "_INBOX.attestd"
    ) -> None:
        await keep(name, self._settings, key, lambda: tls_to(self._settings, *self._files), use, inbox=inbox)

    async def _count(self) -> None:
        """Keeps what is counted in a file for Prometheus' node exporter: nothing listens here for it to ask."""
        said = ""
        while True:
            try:
                replace_file(self._counts, self._edge.metrics.text(), mode=0o644)
                said = ""
            except AttestdError as error:
                if said != (said := str(error)):
                    logger.warning("what is counted is not kept: %s", said)
            await asyncio.sleep(_COUNT)

    # ---- asked ------------------------------------------------------------------------------------------------------

    async def _be_asked(self, client: Client) -> None:
        waiting: asyncio.Queue[Msg] = asyncio.Queue(_TOGETHER)
        await client.subscribe(SUBJECT, queue="attestd", cb=waiting.put, pending_msgs_limit=_PENDING)
        await client.flush()
        self.asked.set()
        try:
            while True:
                questions = [await waiting.get()]
                while not waiting.empty():
                    questions.append(waiting.get_nowait())
                said = [(message.data, (message.headers or {}).get(XKEY_HEADER)) for message in questions]
                for message, answer in zip(questions, self._callout.answer_all(said), strict=True):
                    if answer is not None and message.reply:
                        await client.publish(message.reply, answer)
                await asyncio.sleep(0)  # a flood of logins must not keep the watch from its turn
        finally:
            self.asked.clear()

    # ---- disconnects ------------------------------------------------------------------------------------------------

    async def _disconnect(self, client: Client) -> None:
        """Looks whether the bundle is another one; ends what may not last under it, and what is past its end."""
        loop = asyncio.get_running_loop()
        while True:
            self._look()
            for start in range(0, len(due := self._due(loop.time())), _AT_ONCE):
                await asyncio.gather(*(self._end(client, ending) for ending in due[start : start + _AT_ONCE]))
            await asyncio.sleep(_LOOK)

    def _look(self) -> None:
        """Notes what must end. It stays noted, over a lost connection too, until nats-server confirms it."""
        view, now = self._view(), self._edge.store.clock.now()
        found: list[Ending] = []
        if self._ends_looked_at is None or (now - self._ends_looked_at).total_seconds() >= 1:
            found += ended(self._ledger, now)
            self._ends_looked_at = now
        if view is not None and view is not self._looked_at:
            found += endings(self._ledger, self._settings, view, self._looked_at, now)
            self._looked_at = view
        for ending in found:
            self._ending.setdefault((ending.connection.server, ending.connection.number), (ending, 0.0))

    def _due(self, now: float) -> list[Ending]:
        due = [key for key, (_, at) in self._ending.items() if at <= now]
        for key in due:
            self._ending[key] = self._ending[key][0], now + _AGAIN
        return [self._ending[key][0] for key in due]

    def _view(self) -> View | None:
        try:
            return self._edge.store.view()
        except AttestdError:
            return None  # nobody logs in without a bundle, and logins end before the last one was stale

    async def _end(self, client: Client, ending: Ending) -> None:
        connection = ending.connection
        subject = f"$SYS.REQ.SERVER.{connection.server}.KICK"
        record = {"server": connection.server, "connection": connection.number, "device": str(connection.device)}
        try:
            answer = await client.request(subject, json.dumps({"cid": connection.number}).encode(), timeout=_ANSWER)
        except NoRespondersError:
            pass  # that server is gone, and its connections with it
        except (NatsTimeout, NatsError) as error:
            logger.warning("a disconnection is not confirmed: %s", error, extra={"attestd": record})
            return
        else:
            if not _confirmed(answer.data):
                logger.warning("a disconnection failed: %r", answer.data[:200], extra={"attestd": record})
                return
        self._ledger.forget(connection)
        self._ending.pop((connection.server, connection.number), None)
        self._tallies.ending(ending.why)
        level = (
            logging.DEBUG if ending.why == EXPIRED else logging.INFO
        )  # each login ends so, unless something else does
        logger.log(level, "disconnected: %s", ending.why, extra={"attestd": record})

    # ---- carries ----------------------------------------------------------------------------------------------------

    async def _carry(self, client: Client) -> None:
        carriage = self._settings.carriage
        if carriage is None:
            return
        js = client.jetstream(timeout=_FETCH)
        # What has crossed is kept here no longer; what was withheld is.
        await _stream(js, carriage.stream, carriage.source.all(), RetentionPolicy.WORK_QUEUE)
        await _stream(js, stream_of(carriage), carriage.withheld.all(), RetentionPolicy.LIMITS)
        # What a carrier took that ended meanwhile is somebody's again soon.
        config = ConsumerConfig(ack_wait=_TAKEN)
        waiting = await js.pull_subscribe(
            carriage.source.all(), durable=_CARRY_DURABLE, stream=carriage.stream, config=config
        )
        while True:
            try:
                messages = await waiting.fetch(_BATCH, timeout=_FETCH)
            except (TimeoutError, NatsTimeout):
                continue
            # Sent in the order in which they came; each is taken off the site's stream once it is in the other.
            fates = await asyncio.gather(*(self._cross(js, carriage, message) for message in messages))
            if Fate.LATER in fates:
                await asyncio.sleep(_LATER)  # the uplink is down, or nothing is known: asking faster helps nobody

    async def _cross(self, js: JetStreamContext, carriage: Carriage, message: Msg) -> Fate:
        view = self._view()
        if view is None:
            await message.nak(delay=_LATER)
            return Fate.LATER
        judged = judge_message(self._ledger, carriage, view, message.subject, self._edge.store.clock.now())
        if judged.fate is not Fate.LATER:
            judged = await self._receipted(carriage, view, message, judged)
        if judged.fate is not Fate.LATER:
            try:
                headers = _headers(message, carriage, judged)
                await js.publish(judged.subject, message.data, headers=headers, timeout=_ANSWER)
            except (TimeoutError, NatsError) as error:
                judged = Judged(Fate.LATER, message.subject, "not-taken", judged.device)
                logger.debug("not taken yet: %s", error)
        self._tallies.message(judged.fate.value, judged.why)
        if judged.fate is Fate.LATER:
            await message.nak(delay=_LATER)
            return judged.fate
        await message.ack()
        if judged.fate is Fate.WITHHELD:
            record = {"boundary": carriage.guarded.boundary.name, "device": judged.device, "problem": judged.why}
            logger.warning("withheld: %s", judged.why, extra={"attestd": record})
        return judged.fate

    async def _receipted(self, carriage: Carriage, view: View, message: Msg, judged: Judged) -> Judged:
        """The same, once its receipt is on the disk where that is demanded; else it waits."""
        if not self._edge.demands(carriage.guarded.boundary.name):
            return judged
        message_id = _message_id(message, carriage)
        # While the uplink is down a message is judged again and again: one receipt says what was decided, until that
        # is something else.
        if self._receipts.get(message_id) == judged.why:
            return judged
        crossed = judged.receipt(carriage.guarded, view.bundle, message_id=message_id, content=message.data)
        try:
            await asyncio.to_thread(self._edge.keep, crossed)
        except AttestdError as error:
            return Judged(Fate.LATER, message.subject, type(error).slug(), judged.device)
        self._receipts.keep(message_id, judged.why)
        return judged


def _confirmed(data: bytes) -> bool:
    """Whether nats-server ended the connection, or had no such one any more."""
    try:
        answer = json.loads(data)
        error = answer.get("error")
    except (ValueError, AttributeError):
        return False
    return error is None or "no such client" in str(error)


def _headers(message: Msg, carriage: Carriage, judged: Judged) -> dict[str, str]:
    """The sender's own headers, without those that NATS or this edge speak with, and then this edge's."""
    kept: Mapping[str, str] = message.headers or {}
    headers = {name: value for name, value in kept.items() if not name.lower().startswith(("nats-", "attestd-"))}
    headers |= {
        "Nats-Msg-Id": _message_id(message, carriage),
        "Attestd-Boundary": carriage.guarded.boundary.name,
        COLLECTED_HEADER: message.metadata.timestamp.isoformat(),
    }
    return headers | ({WHY_HEADER: judged.why, SUBJECT_HEADER: message.subject} if judged.why else {})


def _message_id(message: Msg, carriage: Carriage) -> str:
    """The same for the same message, so that one that is sent again is taken once."""
    sequence, at = message.metadata.sequence.stream, message.metadata.timestamp
    site = carriage.guarded.boundary.from_site or "any"
    return f"{site}/{message.metadata.stream}/{sequence}/{at.isoformat()}"


async def _stream(js: JetStreamContext, name: str, subject: str, retention: RetentionPolicy) -> None:
    """Makes the stream unless there is one, which stays as its operator made it."""
    try:
        await js.stream_info(name)
    except NotFoundError:
        limits: dict[str, Any] = {"max_age": _WEEK, "max_bytes": _GIB, "retention": retention}
        await js.add_stream(StreamConfig(name=name, subjects=[subject], storage=StorageType.FILE, **limits))
