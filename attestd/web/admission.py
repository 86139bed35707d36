"""Admission: which request gets a thread next, and which is told at once to come back later.

Work has classes. Each has a line of its own, bounded in length and in the time that anybody waits in it, so that a
flood of one kind fills one line. No class takes all threads of its group, and neither group (known parties: devices
and operators with a fresh nonce of this service, health checks; and strangers) takes all that there are; what is free
goes by weight. All of it lives on the event loop; only the work itself runs in threads.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, TypeVar, cast

from attestd.errors import Unavailable

T = TypeVar("T")

_SMOOTHING: Final = 0.05  # of a new measurement in a mean
_MAX_RETRY: Final = 60  # seconds


class Overloaded(Unavailable):
    """The service has more to do than it can"""

    remedy = "Try again after the stated time; nothing was changed."


class AnswerTooLate(Unavailable):
    """The answer took too long"""

    remedy = "Send the very same request again: if it was carried out, the answer is the same."


class Work(Enum):
    """Classes of work: what a request is by a first look, which decides about its turn and about nothing else."""

    DEVICE = "device"  # signed by a device that lately proved itself from there, with a fresh nonce
    OPERATOR = "operator"  # the same of an operator or an edge proxy
    HEALTH = "health"
    NEWCOMER = "newcomer"  # a fresh nonce, and nobody who is known from there
    ENROLLMENT = "enrollment"
    READ = "read"
    UNKNOWN = "unknown"  # the rest


@dataclass(frozen=True, slots=True)
class Share:
    """A class's part: `weight` against others that wait, `known` threads or strangers'."""

    weight: float
    known: bool = False


SHARES: Final[Mapping[Work, Share]] = {
    Work.DEVICE: Share(8, known=True),
    Work.OPERATOR: Share(3, known=True),
    Work.HEALTH: Share(1, known=True),
    Work.NEWCOMER: Share(4),
    Work.ENROLLMENT: Share(2),
    Work.READ: Share(2),
    Work.UNKNOWN: Share(1),
}


@dataclass(frozen=True, slots=True)
class Told:
    """What admission tells of itself, for metrics; called on the event loop."""

    refused: Callable[[Work, str], object] = lambda work, reason: None
    waited: Callable[[Work, float], object] = lambda work, seconds: None
    waiting: Callable[[Work, int], object] = lambda work, count: None


@dataclass(slots=True)
class _Ticket:
    """One request in a line."""

    since: float
    called: asyncio.Future[None]


@dataclass(slots=True)
class _Line:
    work: Work
    weight: float
    known: bool
    tickets: deque[_Ticket] = field(default_factory=deque)
    waiting: int = 0  # tickets that nobody gave up
    served: float = 0.0  # seconds of service by weight, against other lines
    running: int = 0
    service: float = 0.001  # mean seconds in a thread
    interval: float = 0.0  # mean seconds from one call to the next while somebody waited
    last_call: float = 0.0

    def expected_wait(self, now: float) -> float:
        """For one who joins the line now. A line that does not move will take at least as long again."""
        if not self.waiting:
            return 0.0
        return max((self.waiting + 1) * self.interval, now - self.last_call)

    def measure(self, now: float) -> None:
        """Somebody is called who waited. One stall, of the disk say, is no measure of what follows."""
        seen = min(now - self.last_call, 10 * self.interval + 0.01)
        self.interval += (seen - self.interval) * _SMOOTHING


class Admission(Generic[T]):
    """Runs calls in threads, by turns."""

    def __init__(
        self,
        threads: int,
        *,
        max_wait: float = 5.0,
        waiting: int = 256,
        answer_time: float = 30.0,
        told: Told | None = None,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`threads` at most for one class, a quarter more for its group, and for both groups; `waiting` requests a
        line, for `max_wait` seconds.

        A call that has not returned after `answer_time` seconds is answered without it; its thread stays taken.
        """
        spare = max(1, threads // 4)
        self._each, self._group, self._total = threads, threads + spare, threads + 2 * spare
        self._pool = ThreadPoolExecutor(self._total, thread_name_prefix="attestd")
        self._max_wait, self._most, self._answer_time = max_wait, waiting, answer_time
        self._told = told or Told()
        self._chance, self._clock = chance, clock
        self._lines = {work: _Line(work, share.weight, share.known) for work, share in SHARES.items()}
        self._running = {True: 0, False: 0}
        self._virtual = {True: 0.0, False: 0.0}
        self._queued = 0

    async def run(self, work: Work, call: Callable[[], T], gone: Callable[[], Awaitable[Any]]) -> T:
        """The call's result, after its turn. `gone` ends when the client went away; it is asked only while waiting.

        Raises Overloaded, AnswerTooLate, ConnectionResetError when the client went away, and what the call raises.
        """
        line = self._lines[work]
        if line.waiting or not self._free(line):
            await self._wait(line, gone)
        else:
            self._take(line, self._clock())
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[T] = loop.create_future()
        self._pool.submit(self._work, line, call, loop, answered)
        late = loop.call_later(self._answer_time, self._give_up, line, answered)
        try:
            return await answered
        finally:
            late.cancel()

    def close(self) -> None:
        """Waits for the calls that run."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def refusal(self, work: Work, reason: str, wait: float) -> Overloaded:
        """Told to come back when the line will have moved, not all at the same moment."""
        self._told.refused(work, reason)
        spread = self._chance() * 2 * max(wait, 2.0)
        return Overloaded(f"Too many wait ({reason}).", retry_after=min(_MAX_RETRY, 1 + int(spread)))

    # ---- Turns ------------------------------------------------------------------------------------------------

    def _free(self, line: _Line) -> bool:
        running = self._running
        return (
            line.running < self._each
            and running[line.known] < self._group
            and running[True] + running[False] < self._total
        )

    def _take(self, line: _Line, now: float) -> None:
        """A thread for this line. Charged at once by what its calls take on average."""
        line.running += 1
        self._running[line.known] += 1
        # Who was idle has saved nothing up.
        line.served = max(line.served, self._virtual[line.known]) + line.service / line.weight
        line.last_call = now

    def _release(self, line: _Line) -> None:
        line.running -= 1
        self._running[line.known] -= 1

    async def _wait(self, line: _Line, gone: Callable[[], Awaitable[Any]]) -> None:
        now = self._clock()
        if line.waiting >= self._most:
            raise self.refusal(line.work, "line-full", self._max_wait)
        if (expected := line.expected_wait(now)) > self._max_wait:
            raise self.refusal(line.work, "too-long", expected)
        loop = asyncio.get_running_loop()
        ticket = _Ticket(now, loop.create_future())
        if not line.waiting:
            line.last_call = now
        line.tickets.append(ticket)
        self._count(line, 1)
        left = asyncio.ensure_future(gone())
        try:
            await asyncio.wait({ticket.called, left}, timeout=self._max_wait, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._leave(line, ticket)
            raise
        if ticket.called.done():
            self._told.waited(line.work, self._clock() - now)
            return
        self._leave(line, ticket)
        if left.done():
            self._told.refused(line.work, "gone")
            raise ConnectionResetError
        raise self.refusal(line.work, "waited", self._max_wait)

    def _leave(self, line: _Line, ticket: _Ticket) -> None:
        """Out of the line before its turn, or with a turn that nobody will use."""
        if ticket.called.done():
            self._release(line)
            self._call_next()
        else:
            ticket.called.cancel()
            self._count(line, -1)
            if not line.waiting:
                line.tickets.clear()

    def _count(self, line: _Line, change: int) -> None:
        line.waiting += change
        self._queued += change
        self._told.waiting(line.work, line.waiting)

    def _call_next(self) -> None:
        while self._queued:
            ready = [line for line in self._lines.values() if line.waiting and self._free(line)]
            if not ready:
                return
            # Known parties first: the threads that strangers may not take are theirs, and nobody takes all.
            line = min(ready, key=lambda line: (not line.known, line.served))
            now = self._clock()
            while (ticket := line.tickets.popleft()).called.done():
                pass  # given up
            self._count(line, -1)
            self._virtual[line.known] = max(self._virtual[line.known], line.served)
            line.measure(now)
            self._take(line, now)
            ticket.called.set_result(None)

    # ---- In a thread, and back --------------------------------------------------------------------------------

    def _work(
        self, line: _Line, call: Callable[[], T], loop: asyncio.AbstractEventLoop, answered: asyncio.Future[T]
    ) -> None:
        started = self._clock()
        result: T | None = None
        error: BaseException | None = None
        try:
            result = call()
        except BaseException as failure:  # noqa: BLE001 - handed over to who awaits it
            error = failure
        loop.call_soon_threadsafe(self._done, line, self._clock() - started, answered, result, error)

    def _done(
        self, line: _Line, took: float, answered: asyncio.Future[T], result: T | None, error: BaseException | None
    ) -> None:
        self._release(line)
        line.service += (took - line.service) * _SMOOTHING
        if not answered.done():
            if error is None:
                answered.set_result(cast("T", result))
            else:
                answered.set_exception(error)
        if self._queued:
            self._call_next()

    def _give_up(self, line: _Line, answered: asyncio.Future[T]) -> None:
        if not answered.done():
            self._told.refused(line.work, "late")
            answered.set_exception(AnswerTooLate("The work took longer than a request may.", retry_after=5))
