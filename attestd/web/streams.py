"""Streams: server-sent events to whoever stays connected. What they tell is a source's business (`bundle_stream`,
`event_stream`); here is what all of them share.

Who listens asks as for anything else, and the application proves it. Its answer says where the stream begins; from
there on the event loop goes on, so that one who listens costs a connection and no thread. One look at the source serves
all who listen here, as long as somebody does.

Nothing is queued: an event is made when its reader has taken the one before, and leads to what is newest then. A reader
that takes nothing is let go, and who may not listen any more hears nothing more.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from attestd.errors import AttestdError

MEDIA_TYPE: Final = "text/event-stream"
# The application's word to the front: the kind of stream, who listens, and the place where it stands. Never sent.
FOLLOWS: Final = "attestd-follows"
ALIVE: Final = b":\n\n"  # a comment: the line still stands
KEEP_ALIVE: Final = 1.0  # seconds: a reader that hears nothing for a few of them comes again
_PATIENCE: Final = 10.0  # seconds that a reader may take for one event
_LIFE: Final = 600.0  # seconds, up to a tenth more or less: then it proves itself anew, maybe elsewhere
_CHECK: Final = 2.0  # seconds between looks at who may still listen

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_log = logging.getLogger("attestd.streams")


class Source(Protocol):
    """What one kind of streams tells. A place is a word without spaces. All calls may wait for the registry, so they
    are made in a thread, one at a time."""

    @property
    def every(self) -> float:
        """Seconds between two looks."""

    def newest(self, now: datetime) -> str:
        """The place of who has heard everything. Raises the registry's errors."""

    def since(self, place: str) -> tuple[str, bytes]:
        """What leads from that place to the one that `newest` gave last: that one, and the event's octets."""

    def allowed(self, listening: frozenset[str], now: datetime) -> frozenset[str]:
        """Who of these may still listen."""


def begun(kind: str, who: str, place: str) -> dict[str, str]:
    """The headers of an answer that goes on as a stream."""
    return {"Cache-Control": "no-store", "X-Accel-Buffering": "no", FOLLOWS: f"{kind} {who} {place}"}


def event(kind: str, name: str, content: bytes) -> bytes:
    """One event (WHATWG HTML, section 9.2.6), with its kind and id. `content` is JSON, and so has no line breaks."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (name.encode("ascii"), kind.encode("ascii"), content)


@dataclass(slots=True, eq=False)
class _Follower:
    """One who listens, and the place where it stands."""

    who: str
    place: str


class Streams:
    """All streams of one kind in one worker process. Lives on its event loop."""

    def __init__(self, source: Source, *, clock: Callable[[], datetime], most: int = 1024, most_each: int = 4) -> None:
        """`most` streams at once, `most_each` for one who listens."""
        self._source = source
        self._clock = clock
        self._most, self._most_each = most, most_each
        self._followers: set[_Follower] = set()
        self._newest = ""
        self._changed = asyncio.Event()
        self._gone: frozenset[str] = frozenset()  # who may not listen any more
        self._ended = False
        self._watch: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self._followers)

    def full(self, who: str) -> bool:
        """Whether there is no room for one more, or not for this one."""
        mine = sum(follower.who == who for follower in self._followers)
        return self._ended or len(self._followers) >= self._most or mine >= self._most_each

    def end(self) -> None:
        """Ends all streams, and lets none begin: the process is about to end, and would wait for them. Who listened
        comes again, elsewhere."""
        self._ended = True
        self._wake()

    async def follow(self, who: str, place: str, receive: Receive, send: Send) -> None:
        """Sends what is new until the reader goes, is too slow, may not listen any more, or has listened for long."""
        follower = _Follower(who, place)
        self._followers.add(follower)
        if self._watch is None:
            self._watch = asyncio.create_task(self._look())
        left = asyncio.create_task(_left(receive))
        ends = asyncio.get_running_loop().time() + _LIFE * random.uniform(0.9, 1.1)  # noqa: S311 - it spreads them
        try:
            while not left.done() and self._may(who) and asyncio.get_running_loop().time() < ends:
                async with asyncio.timeout(_PATIENCE):
                    await send({"type": "http.response.body", "body": await self._next(follower), "more_body": True})
            if not left.done():
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            _log.info("a stream is read too slowly", extra={"members": {"listener": who}})
        except AttestdError as error:  # it comes again, and asks
            _log.info("a stream ended: %s", error, extra={"members": {"listener": who}})
        finally:
            left.cancel()
            self._followers.discard(follower)

    async def _next(self, follower: _Follower) -> bytes:
        """What this one has to hear next: what is different, or that the line still stands."""
        if self._newest in ("", follower.place):
            changed = self._changed
            try:
                async with asyncio.timeout(KEEP_ALIVE):
                    await changed.wait()
            except TimeoutError:
                return ALIVE
            if self._newest == follower.place or not self._may(follower.who):
                return ALIVE
        octets: bytes
        follower.place, octets = await self._apart(self._source.since, follower.place)
        return octets

    def _may(self, who: str) -> bool:
        return not self._ended and who not in self._gone

    async def _look(self) -> None:
        """Tells followers of each new place, and that somebody may not listen any more, as long as there are any."""
        loop = asyncio.get_running_loop()
        checked, said = loop.time(), ""
        try:
            while self._followers:
                try:
                    newest = await self._apart(self._source.newest, self._clock())
                    if loop.time() - checked >= _CHECK:
                        checked = loop.time()
                        await self._check()
                    said = ""
                except AttestdError as error:
                    if said != (said := str(error)):
                        _log.warning("nothing is pushed for now: %s", error)
                else:
                    if newest != self._newest:
                        self._newest = newest
                        self._wake()
                await asyncio.sleep(self._source.every)
        finally:
            self._watch = None
            self._newest = ""

    async def _check(self) -> None:
        listening = frozenset(follower.who for follower in self._followers)
        gone = listening - await self._apart(self._source.allowed, listening, self._clock())
        if gone != self._gone:
            self._gone = gone
            self._wake()

    def _wake(self) -> None:
        before, self._changed = self._changed, asyncio.Event()
        before.set()

    async def _apart(self, call: Callable[..., Any], *said: Any) -> Any:
        """In a thread of its own: the registry may make it wait."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="streams")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *said)


async def _left(receive: Receive) -> None:
    """Ends when the client went away."""
    while (await receive())["type"] != "http.disconnect":
        pass
