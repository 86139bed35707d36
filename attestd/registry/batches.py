"""Acts of several threads, carried out together by one of them: what a commit costs, it costs once for all.

The first thread that comes leads. While others are about to act (they have asked what they need to know, and compute),
it waits a moment for them; who is alone never waits. Then it carries out every act in the line, and tells each thread
what became of its own. Whoever came meanwhile is led by the first of them. A thread is woken once for its act, and the
statements of all acts run on one thread, one after the other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from time import monotonic

from attestd.errors import Unavailable
from attestd.registry.acts import Bound, Refused
from attestd.registry.failures import DatabaseFailed
from attestd.registry.turns import Waiting


class Act:
    """One thread's act, and what became of it."""

    __slots__ = ("alone", "came", "done", "error", "refused", "steps", "told")

    def __init__(self, steps: Sequence[Bound]) -> None:
        self.steps = steps
        self.came = monotonic()
        self.told = threading.Lock()  # free once there is something to hear
        self.told.acquire()
        self.done = False
        self.refused: Refused | None = None  # undone, by this step
        self.error: Unavailable | None = None  # undone, or nobody knows
        self.alone = False  # nothing of it was done: it is to be tried without the others


class Company:
    """Threads that are about to act."""

    def __init__(self, window: float) -> None:
        """`window`: for how many seconds a thread that was seen is expected."""
        self._window = window
        self._seen: dict[int, float] = {}

    def expect(self) -> None:
        """This thread asks what it needs to know for an act."""
        self._seen[threading.get_ident()] = monotonic()

    def arrived(self) -> None:
        """This thread acts."""
        self._seen.pop(threading.get_ident(), None)

    def about(self) -> bool:
        """Whether another is expected."""
        since = monotonic() - self._window
        for thread, at in list(self._seen.items()):
            if at < since:
                self._seen.pop(thread, None)
        return bool(self._seen)


class Batches:
    """The line before one database, which says how the acts in it are carried out."""

    def __init__(
        self,
        carry_out: Callable[[ExitStack], None],
        *,
        company: Company,
        most: int,
        patience: float,
        waiting: Waiting = nullcontext,
    ) -> None:
        """`most` acts at a time; a leader waits `patience` seconds for company, counted from when it came.

        `carry_out(waits)` calls `take()` once it can begin, and notes at each act what became of it. An Unavailable
        that it raises is what became of all that it took, or would have taken. What it enters in `waits` before it
        waits for the disk is left once everybody was told, so that telling waits for nobody.
        """
        self._carry_out = carry_out
        self._company = company
        self._most = most
        self._patience = patience
        self._waiting = waiting
        self._mutex = threading.Lock()
        self._line: deque[Act] = deque()
        self._led = False
        self._lingering: Act | None = None  # the leader's, while it waits for company
        self._taken: list[Act] = []  # the leader's alone

    def join(self, steps: Sequence[Bound]) -> Act:
        """Stands in line, and returns when the act was carried out; what became of it is noted there."""
        act = Act(steps)
        self._company.arrived()
        with self._mutex:
            self._line.append(act)
            leads, self._led = not self._led, True
            if self._lingering is not None and self._complete():
                self._lingering.told.release()
                self._lingering = None
        if not leads:
            with self._waiting():
                act.told.acquire()
            if act.done:
                return act
        self._lead(act)
        return act

    def take(self) -> list[Act]:
        """The acts that are to be carried out together, the leader's first."""
        with self._mutex:
            self._taken = [self._line.popleft() for _ in range(min(len(self._line), self._most))]
        return self._taken

    def _lead(self, leader: Act) -> None:
        with ExitStack() as waits:
            try:
                self._linger(leader)
                self._carry_out(waits)
            except Unavailable as error:
                self._fail(error)
            except BaseException:
                self._fail(DatabaseFailed("Another act that was carried out with this one failed; nothing was kept."))
                raise
            finally:
                self._tell(leader)

    def _fail(self, error: Unavailable) -> None:
        for act in self._taken or self.take():
            act.error = type(error)(error.detail)  # each its own: tracebacks of threads must not mix

    def _tell(self, leader: Act) -> None:
        """Everybody what became of their act, and the first of those who came meanwhile that it leads."""
        taken, self._taken = self._taken, []
        with self._mutex:
            self._led = bool(self._line)
            heir = self._line[0] if self._line else None
        if heir is not None:
            heir.told.release()
        for act in taken:
            act.done = True
            if act is not leader:
                act.told.release()

    def _linger(self, leader: Act) -> None:
        with self._mutex:
            patience = leader.came + self._patience - monotonic()
            if patience <= 0 or self._complete():
                return
            self._lingering = leader
        with self._waiting():
            leader.told.acquire(timeout=patience)
        with self._mutex:
            self._lingering = None

    def _complete(self) -> bool:
        return len(self._line) >= self._most or not self._company.about()
