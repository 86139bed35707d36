"""Turns at something that one may use at a time: fair between threads, and between processes.

SQLite has one writer at a time, and lets those who wait sleep and poll: whoever just wrote writes again long before
the others wake. Here threads queue and hand over directly; processes stand at a turnstile (two locks on one file: who
waits for the second holds the first, so nobody enters twice in a row while another waits).
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections import deque
from pathlib import Path


class Turns:
    """Threads of one process, first come, first served.

    Who has a turn may also linger: give it to whoever comes next, and take it back if nobody does.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._taken = False
        self._lingering: object | None = None
        self._queue: deque[threading.Lock] = deque()

    def take(self, timeout: float) -> bool:
        """Waits for this thread's turn, at most `timeout` seconds; False if it did not come."""
        with self._mutex:
            if not self._taken or self._lingering is not None:
                self._taken, self._lingering = True, None
                return True
            mine = threading.Lock()
            mine.acquire()
            self._queue.append(mine)
        if mine.acquire(timeout=timeout):
            return True
        with self._mutex:
            if mine in self._queue:
                self._queue.remove(mine)
                return False
        return True  # handed over at the last moment

    def pass_on(self) -> bool:
        """Hands over to the thread that waits longest; False if none does, and the turn is still this thread's."""
        with self._mutex:
            if not self._queue:
                return False
            self._queue.popleft().release()
            return True

    def linger(self, token: object) -> None:
        """Hands over to whoever waits or comes next; until then `token` takes the turn back."""
        with self._mutex:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._lingering = token

    def reclaim(self, token: object) -> bool:
        """Whether nobody came and this thread has the turn again."""
        with self._mutex:
            if self._lingering is not token:
                return False
            self._lingering = None
            return True

    def end(self) -> None:
        """This thread's turn is over, whether or not another waits."""
        with self._mutex:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._taken = False


class Company:
    """Who was about lately: whether it is worth waiting for another."""

    def __init__(self, window: float) -> None:
        """`window`: for how many seconds a thread that was seen counts."""
        self._window = window
        self._seen: dict[int, float] = {}

    def see(self) -> None:
        """This thread is about."""
        self._seen[threading.get_ident()] = time.monotonic()

    def count(self) -> int:
        """How many threads were about within the window."""
        since = time.monotonic() - self._window
        for thread, at in list(self._seen.items()):
            if at < since:
                self._seen.pop(thread, None)
        return len(self._seen)


_FLOCK = struct.Struct("hhqqi0q")  # struct flock: type, whence, start, length, pid (0 for locks of a description)
_TURNSTILE, _ROOM = 0, 1  # the octets of the file that stand for the two locks
_POLL = 0.0005  # seconds


class Turnstile:
    """Processes that share a file, alternating. A process that dies leaves nothing behind: the kernel lets go."""

    def __init__(self, path: Path) -> None:
        """Opens the file, making it (mode 0600) where there is none. Raises OSError."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def enter(self, timeout: float) -> bool:
        """Waits until no other process is inside, at most `timeout` seconds; False if one still is."""
        until = time.monotonic() + timeout
        if not self._lock(_TURNSTILE, until):
            return False
        entered = self._lock(_ROOM, until)
        self._set(_TURNSTILE, fcntl.F_UNLCK)
        return entered

    def leave(self) -> None:
        self._set(_ROOM, fcntl.F_UNLCK)

    def close(self) -> None:
        os.close(self._file)

    def _lock(self, octet: int, until: float) -> bool:
        while not self._set(octet, fcntl.F_WRLCK):
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL)
        return True

    def _set(self, octet: int, kind: int) -> bool:
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, octet, 1, 0))
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: fcntl(2) allows both
            return False
        return True
