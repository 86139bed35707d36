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
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

# Entered around every wait for others or for the disk, and around nothing else: what a thread gives up meanwhile.
Waiting = Callable[[], AbstractContextManager[object]]


class Turns:
    """Threads of one process, first come, first served."""

    def __init__(self, waiting: Waiting = nullcontext) -> None:
        self._waiting = waiting
        self._mutex = threading.Lock()
        self._taken = False
        self._queue: deque[threading.Lock] = deque()

    def take(self, timeout: float) -> bool:
        """Waits for this thread's turn, at most `timeout` seconds; False if it did not come."""
        with self._mutex:
            if not self._taken:
                self._taken = True
                return True
            mine = threading.Lock()
            mine.acquire()
            self._queue.append(mine)
        with self._waiting():
            if mine.acquire(timeout=timeout):
                return True
        with self._mutex:
            if mine in self._queue:
                self._queue.remove(mine)
                return False
        return True  # handed over at the last moment

    def end(self) -> None:
        """This thread's turn is over; who waits longest has the next."""
        with self._mutex:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._taken = False


_FLOCK = struct.Struct("hhqqi0q")  # struct flock: type, whence, start, length, pid (0 for locks of a description)
_TURNSTILE, _ROOM = 0, 1  # the octets of the file that stand for the two locks
_POLL = 0.0005  # seconds


class Turnstile:
    """Processes that share a file, alternating. A process that dies leaves nothing behind: the kernel lets go."""

    def __init__(self, path: Path, waiting: Waiting = nullcontext) -> None:
        """Opens the file, making it (mode 0600) where there is none. Raises OSError."""
        self._waiting = waiting
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
        if self._set(octet, fcntl.F_WRLCK):
            return True
        with self._waiting():
            while time.monotonic() < until:
                time.sleep(_POLL)
                if self._set(octet, fcntl.F_WRLCK):
                    return True
        return False

    def _set(self, octet: int, kind: int) -> bool:
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, octet, 1, 0))
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: fcntl(2) allows both
            return False
        return True
