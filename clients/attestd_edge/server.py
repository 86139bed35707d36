"""The forward-auth server: connections of the hop, each of which asks one question after the other.

Answering takes no waiting, so there are no tasks: the octets that complete a head are answered before anything else is
read. An answer that has to wait for the disk is had in a thread, and its connection is not heard until it is there.
Each state of a connection has an end that a sweep looks after, and nothing that a peer does extends it: a head
that comes slowly, an answer that is not taken, a connection that says nothing. What comes behind a head without having
waited for the answer is not read (no reverse proxy does that; a smuggled request looks like it): the answer is given,
and the connection ends (RFC 9112, section 9.3.2, has clients ask again).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol, cast

from attestd_edge.heads import END, MAX_HEAD, Answer, HeadReader, HeadRefused, HeadTooLarge, closing, write

HEAD_SECONDS: Final = 5.0  # for a head, from its first octet to its last
TAKING_SECONDS: Final = 5.0  # for a peer to take what was answered
IDLE_SECONDS: Final = 75.0  # longer than nginx keeps a connection (60), so that it never asks on one that just ended
SWEEP_SECONDS: Final = 0.5
GRACE: Final = 10.0  # seconds for heads that are on their way at the end
LATE_SECONDS: Final = 0.1  # after the end was asked for, in which connections that say nothing may still ask
WAITING_SECONDS: Final = 10.0  # for an answer that waits for the disk
WAITING: Final = 32  # such answers at once
MAX_CONNECTIONS: Final = 4096

logger = logging.getLogger("attestd_edge.server")


Later = Callable[[], Answer]  # called in a thread: waits, and has the answer then


class Answers(Protocol):
    """Says what a head is answered. Never waits."""

    def answer(self, octets: bytes, reader: HeadReader) -> Answer | Later:
        """The answer to one whole head; `reader` is this connection's. Raises HeadRefused."""


class Server:
    """The connections to `answers`, on listeners that others open."""

    def __init__(self, answers: Answers, loop: asyncio.AbstractEventLoop) -> None:
        self.answers = answers
        self._loop = loop
        self._answers: list[tuple[Connection, bytes]] = []  # that have not been sent
        self.connections: set[Connection] = set()
        self.ending = False
        self.now = time.monotonic()  # as of the last sweep
        self._sweeping: asyncio.TimerHandle | None = None
        self._threads: ThreadPoolExecutor | None = None

    def begin(self) -> None:
        """Sweeps from now on."""
        self._sweep()

    def _sweep(self) -> None:
        self._sweeping = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        self.flush()
        self.now = time.monotonic()
        for connection in [found for found in self.connections if found.until < self.now]:
            connection.drop()

    def send(self, connection: Connection, answer: bytes) -> None:
        """Sends it once what came together has been answered together.

        Waking the hop after each answer would have this process and the hop take turns on one processor.
        """
        if not self._answers:
            self._loop.call_soon(self.flush)
        self._answers.append((connection, answer))

    def wait(self, later: Later, then: Callable[[Future[Answer]], None]) -> None:
        """Has an answer in a thread, and hands it over on the loop. Those that wait together share the disk's sync."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(WAITING, thread_name_prefix="attestd-edge-disk")
        future = self._threads.submit(later)
        future.add_done_callback(lambda done: self._loop.call_soon_threadsafe(then, done))

    def flush(self) -> None:
        """Sends what has been answered."""
        answers, self._answers = self._answers, []
        for connection, answer in answers:
            connection.write(answer)

    async def end(self) -> None:
        """Ends every connection: at once if it says nothing, else once its head was answered, within GRACE."""
        self.ending = True
        await asyncio.sleep(LATE_SECONDS)
        self.flush()
        until = time.monotonic() + GRACE
        for connection in list(self.connections):
            connection.finish()
        while self.connections and time.monotonic() < until:
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.drop()
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


class Connection(asyncio.Protocol):
    """One connection of the hop."""

    __slots__ = ("_begun", "_ended", "_reader", "_server", "_transport", "_waits", "until")

    def __init__(self, server: Server) -> None:
        self._server = server
        self._reader = HeadReader()
        self._begun = bytearray()  # a head whose end has not come
        self._ended = False  # the last answer was given
        self._waits = False  # for an answer from a thread
        self._transport: asyncio.Transport
        self.until = 0.0  # monotonic seconds, after which the sweep ends it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The hop connected; with TLS, its certificate was verified."""
        self._transport = cast(asyncio.Transport, transport)
        server = self._server
        if server.ending or len(server.connections) >= MAX_CONNECTIONS:
            self._ended = True
            self._transport.abort()
            return
        server.connections.add(self)
        self.until = server.now + IDLE_SECONDS

    def connection_lost(self, exc: Exception | None) -> None:
        """It ended."""
        self._server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Octets of a head. The one that completes it has it answered."""
        if self._ended:
            return
        begun = self._begun
        if begun or not data.endswith(END) or data.find(END) + len(END) != len(data):
            searched = max(0, len(begun) - len(END) + 1)
            if not begun:
                self.until = self._server.now + HEAD_SECONDS
            begun += data
            end = begun.find(END, searched) + len(END)
            if end < len(END) or end > MAX_HEAD:
                if len(begun) > MAX_HEAD:
                    self._refuse(HeadTooLarge(expected=f"at most {MAX_HEAD} octets"))
                return
            more = end < len(begun)
            data = bytes(begun[:end])
            begun.clear()
        elif len(data) > MAX_HEAD:
            self._refuse(HeadTooLarge(expected=f"at most {MAX_HEAD} octets"))
            return
        else:
            more = False
        try:
            answered = self._server.answers.answer(data, self._reader)
        except HeadRefused as error:
            self._refuse(error)
        except Exception:  # whatever it was, it is no permit
            logger.exception("a request could not be answered")
            self._fail()
        else:
            if isinstance(answered, Answer):
                self._answered(answered, more=more)
            else:
                self._wait(answered, more=more)

    def _wait(self, later: Later, *, more: bool) -> None:
        """Nothing else is read from this peer until the answer is there."""
        self.until = self._server.now + WAITING_SECONDS
        self._waits = True
        self._transport.pause_reading()

        def then(done: Future[Answer]) -> None:
            self._waits = False
            if self._transport.is_closing():
                return
            try:
                answer = done.result()
            except Exception:
                logger.exception("a request could not be answered")
                self._fail()
                return
            self._answered(answer, more=more)
            if not self._ended:
                self._transport.resume_reading()

        self._server.wait(later, then)

    def _fail(self) -> None:
        self._last(write(503, [("Retry-After", "5")]))

    def _answered(self, answered: Answer, *, more: bool) -> None:
        answer, keep_alive = answered
        if more or self._server.ending or not keep_alive:
            self._last(answer)
        else:
            self.until = self._server.now + IDLE_SECONDS
            self._server.send(self, answer)

    def eof_received(self) -> None:
        """The peer says no more. What it asked before is answered, then the transport closes."""
        self._server.flush()

    def write(self, answer: bytes) -> None:
        """Sends an answer; the last one ends the connection."""
        if not self._transport.is_closing():
            self._transport.write(answer)
            if self._ended:
                self._transport.close()

    def pause_writing(self) -> None:
        """The peer does not take its answers: it is not heard until it does, and not for long."""
        self.until = self._server.now + TAKING_SECONDS
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It took them."""
        if not self._ended and not self._waits and not self._transport.is_closing():
            self.until = self._server.now + IDLE_SECONDS
            self._transport.resume_reading()

    def finish(self) -> None:
        """Ends it, unless a head is on its way: once that has been answered, it ends by itself."""
        if not self._begun and not self._waits:
            self._transport.close()

    def drop(self) -> None:
        """Ends it now, whatever has not been sent."""
        self._transport.abort()

    def _last(self, answer: bytes) -> None:
        self._ended = True
        self.until = self._server.now + TAKING_SECONDS
        self._server.send(self, closing(answer))

    def _refuse(self, error: HeadRefused) -> None:
        logger.warning("a request was not read: %s", error)
        self._begun.clear()
        self._last(write(error.status, [("Content-Type", "text/plain; charset=utf-8")], error.title().encode()))
