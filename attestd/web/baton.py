"""The baton: of a process's threads that answer devices, one computes at a time, and the others wait without asking.

The interpreter runs one thread at a time anyhow. But it hands over wherever a library lets go of its lock for a few
microseconds, at each signature and each statement; eight threads then push each other out of the processor's caches
some forty times a request, and each hand-over costs more than what it made room for. With a baton a thread keeps
computing until it truly waits: for the disk, for its turn at the database, for others to share a commit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")


class Baton:
    """Held while computing, put down while waiting. Threads that do not hold it may wait as they like."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = 0  # the thread that has it; thread idents are never zero
        self._resting = _Resting(self)

    def run(self, call: Callable[[], T]) -> T:
        """The call's result, computed with the baton."""
        self._take()
        try:
            return call()
        finally:
            self._put_down()

    def waiting(self) -> _Resting:
        """A context in which this thread waits, and others compute. Without the baton in hand it changes nothing."""
        return self._resting

    def _take(self) -> None:
        self._lock.acquire()
        self._holder = threading.get_ident()

    def _put_down(self) -> None:
        self._holder = 0
        self._lock.release()

    def _held_here(self) -> bool:
        return self._holder == threading.get_ident()


class _Resting:
    """Re-usable by any number of threads at once: whether one has put the baton down is its own to know."""

    def __init__(self, baton: Baton) -> None:
        self._baton = baton
        self._mine = threading.local()

    def __enter__(self) -> None:
        depth = getattr(self._mine, "depth", 0)
        if depth or self._baton._held_here():
            self._mine.depth = depth + 1
            if not depth:
                self._baton._put_down()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        depth = getattr(self._mine, "depth", 0)
        if depth:
            self._mine.depth = depth - 1
            if depth == 1:
                self._baton._take()
