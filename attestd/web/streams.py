"""Bundles pushed to edge proxies that stay connected: server-sent events, each one a delta from the last (docs/
protocol.md, section 5).

A proxy asks as for anything else, and the application proves it. Its answer says where the stream begins; from there
on the event loop goes on, so that a proxy that listens costs a connection and no thread. One look at the registry's
revision serves all who listen here, ten times a second while somebody does.

Nothing is queued: an event is made when its reader has taken the one before, and leads to the bundle that is newest
then. A reader that takes nothing is let go.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from attestd.errors import AttestdError
from attestd.publication import Publication

MEDIA_TYPE: Final = "text/event-stream"
FOLLOWS: Final = "attestd-follows"  # the application's word to the front: the proxy and its bundle; never sent
KEEP_ALIVE: Final = 1.0  # seconds: a reader that hears nothing for a few of them comes again
_LOOK: Final = 0.1  # seconds between looks at the revision
_PATIENCE: Final = 10.0  # seconds that a reader may take for one event
_LIFE: Final = 600.0  # seconds, up to a tenth more or less: then it proves itself anew, maybe elsewhere
_CHECK: Final = 2.0  # seconds between looks at who may still listen

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_log = logging.getLogger("attestd.streams")


def event(kind: str, name: str, content: bytes) -> bytes:
    """One event (WHATWG HTML, section 9.2.6), `bundle` or `delta`; its id is the bundle that it leads to. `content` is
    JSON, and so has no line breaks."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (name.encode("ascii"), kind.encode("ascii"), content)


@dataclass(slots=True, eq=False)
class _Follower:
    """One proxy that listens, and the bundle that it has."""

    proxy: str
    name: str


class Streams:
    """All streams of one worker process. Lives on its event loop."""

    def __init__(
        self,
        publication: Publication,
        *,
        clock: Callable[[], datetime],
        allowed: Callable[[Iterable[str], datetime], frozenset[str]],
        most: int = 1024,
        most_each: int = 4,
    ) -> None:
        """`allowed`: which of these proxies may still listen. `most` streams at once, `most_each` for one proxy."""
        self._publication = publication
        self._clock = clock
        self._allowed = allowed
        self._most, self._most_each = most, most_each
        self._followers: set[_Follower] = set()
        self._newest = ""
        self._changed = asyncio.Event()
        self._gone: frozenset[str] = frozenset()  # who may not listen any more
        self._watch: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self._followers)

    def full(self, proxy: str) -> bool:
        """Whether there is no room for one more, or not for this proxy."""
        mine = sum(follower.proxy == proxy for follower in self._followers)
        return len(self._followers) >= self._most or mine >= self._most_each

    async def follow(self, follows: str, receive: Receive, send: Send) -> None:
        """Sends what is new until the reader goes, is too slow, may not listen any more, or has listened for long."""
        proxy, _, name = follows.partition(" ")
        follower = _Follower(proxy, name)
        self._followers.add(follower)
        if self._watch is None:
            self._watch = asyncio.create_task(self._look())
        left = asyncio.create_task(_left(receive))
        ends = asyncio.get_running_loop().time() + _LIFE * random.uniform(0.9, 1.1)  # noqa: S311 - it spreads them
        try:
            while not left.done() and proxy not in self._gone and asyncio.get_running_loop().time() < ends:
                async with asyncio.timeout(_PATIENCE):
                    await send({"type": "http.response.body", "body": await self._next(follower), "more_body": True})
            if not left.done():
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            _log.info("a proxy reads its stream too slowly", extra={"members": {"proxy": proxy}})
        except AttestdError as error:  # it comes again, and asks
            _log.info("a stream ended: %s", error, extra={"members": {"proxy": proxy}})
        finally:
            left.cancel()
            self._followers.discard(follower)

    async def _next(self, follower: _Follower) -> bytes:
        """What this one has to hear next: what is different, or that the line still stands."""
        if self._newest in ("", follower.name):
            changed = self._changed
            try:
                async with asyncio.timeout(KEEP_ALIVE):
                    await changed.wait()
            except TimeoutError:
                return b":\n\n"
            if self._newest == follower.name or follower.proxy in self._gone:
                return b":\n\n"
        name, content, is_delta = await self._apart(self._publication.update, follower.name)
        follower.name = name
        return event("delta" if is_delta else "bundle", name, content)

    async def _look(self) -> None:
        """Tells followers of each new bundle, and that somebody was disabled, as long as there are any."""
        loop = asyncio.get_running_loop()
        checked, said = loop.time(), ""
        try:
            while self._followers:
                try:
                    published = await self._apart(self._publication.bundle, self._clock())
                    if loop.time() - checked >= _CHECK:
                        checked = loop.time()
                        await self._check()
                    said = ""
                except AttestdError as error:
                    if said != (said := str(error)):
                        _log.warning("nothing is pushed for now: %s", error)
                else:
                    if published.name != self._newest:
                        self._newest = published.name
                        self._wake()
                await asyncio.sleep(_LOOK)
        finally:
            self._watch = None
            self._newest = ""

    async def _check(self) -> None:
        listening = frozenset(follower.proxy for follower in self._followers)
        gone = listening - await self._apart(self._allowed, listening, self._clock())
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
