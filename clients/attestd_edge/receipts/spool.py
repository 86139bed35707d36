"""The chain that this process writes: one folder, locked, append-only. What `append` returned from is on the disk.

After a crash the last receipts may be there in part. They let nothing through, because nothing passes before `append`
returns; so what is torn at the end is cut off, and the chain goes on from the last whole receipt. A receipt that can't
be read and has others behind it is damage, not a crash: then nothing is cut, and another chain begins.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from attestd.credentials.receipt_chains import KeyOfAnotherChain, Position, VerifiedChain, read_receipt
from attestd.credentials.receipts import NOTHING, SPOOL_FOLDER, digest_of, key_named, read_unverified
from attestd.errors import AttestdError, Unavailable
from attestd_edge.receipts.folders import LOCK_FILE, ChainFolder, Stretch

STRETCH = 1 << 20  # octets after which another file begins

logger = logging.getLogger("attestd_edge.receipts")


class ReceiptNotKept(Unavailable):
    """The receipt of this crossing can't be kept, so nothing crosses"""

    remedy = "Tell the operator of this edge: its disk is full or fails. It goes on by itself once there is room."


class ReceiptsFull(ReceiptNotKept):
    """This edge holds as many receipts as it may, so nothing crosses"""

    remedy = "Tell the operator of this edge: it has to reach the service, or be allowed more receipts."


class SpoolDamaged(ReceiptNotKept):
    """Receipts on the disk can't be read"""


class Spool:
    """One chain's folder, held by this process. Not safe for threads: the keeper owns it."""

    def __init__(self, folder: ChainFolder, lock: int, position: Position | None) -> None:
        self.folder = folder
        self.position = position  # None: nothing is written yet
        self._lock = lock
        self._handle: int | None = None
        self._path: Path | None = None
        self._size = 0  # octets of the file that are whole
        self._torn = False  # there may be more octets in it

    @classmethod
    def make(cls, state: Path, chain: str) -> Self:
        """A new chain's folder. Raises OSError."""
        path = state / SPOOL_FOLDER / chain
        path.parent.mkdir(mode=0o750, exist_ok=True)
        path.mkdir(mode=0o750)
        folder = ChainFolder(path)
        try:
            _sync_folder(path.parent)
            lock = _lock(path)
        except BaseException:
            folder.remove()
            raise
        assert lock is not None  # noqa: S101 - nobody else knows this folder
        return cls(folder, lock, None)

    @classmethod
    def take(cls, folder: ChainFolder, chain: VerifiedChain) -> Self | None:
        """A chain that nobody writes, to go on with; None if somebody does. `chain` has our key.

        Raises KeyOfAnotherChain, SpoolDamaged or OSError; the folder is not held then.
        """
        lock = _lock(folder.path)
        if lock is None:
            return None
        try:
            _require_ours(folder, chain)
            return cls(folder, lock, _recover(folder, chain))
        except BaseException:
            os.close(lock)
            raise

    def append(self, data: bytes, until: Position, *, first: int) -> None:
        """Whole lines, of which the first is receipt `first` and the last leaves the chain at `until`.

        Raises OSError; the chain is then where it was, and what was written of it is cut off now or before the next.
        """
        if self._torn:
            self._mend()
        if self._handle is None or self._size >= STRETCH:
            self._roll(first)
        assert self._handle is not None  # noqa: S101 - opened above
        self._torn = True
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._handle, left) :]
            os.fdatasync(self._handle)
        except OSError:
            with suppress(OSError):
                self._mend()  # so that a full disk gets its room back
            raise
        self._torn = False
        self._size += len(data)
        self.position = until

    def close(self) -> None:
        """Another process may go on with the chain."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        os.close(self._lock)

    def _roll(self, first: int) -> None:
        """Goes on in the last file while there is room in it, else in another one."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        path = self.folder.path / f"{first:016d}.jws"
        if self._path is None and (stretches := self.folder.stretches()):
            last = stretches[-1].path
            if last.stat().st_size < STRETCH:
                path = last
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._path, self._size = path, os.fstat(self._handle).st_size
        _sync_folder(self.folder.path)

    def _mend(self) -> None:
        assert self._handle is not None  # noqa: S101 - something was written to it
        os.ftruncate(self._handle, self._size)
        os.fdatasync(self._handle)
        self._torn = False


def _require_ours(folder: ChainFolder, chain: VerifiedChain) -> None:
    beginning = folder.beginning()
    if beginning is None:
        raise SpoolDamaged(f"{folder.path} has lost its beginning.")
    if (kid := key_named(beginning)) != chain.kid:
        raise KeyOfAnotherChain(seen=kid, expected=chain.kid)


def _recover(folder: ChainFolder, chain: VerifiedChain) -> Position | None:
    """Where the chain stands, after what is torn was cut off; None if nothing of it was ever kept."""
    for stretch in reversed(folder.stretches()):
        if (position := _recover_stretch(stretch, chain)) is not None:
            return position
    return None


def _recover_stretch(stretch: Stretch, chain: VerifiedChain) -> Position | None:
    data = stretch.path.read_bytes()
    lines = data.split(b"\n")
    position: Position | None = None
    good = 0
    for number, line in enumerate(lines[:-1]):
        try:
            found = _next(chain, position, line, stretch.first + number)
        except KeyOfAnotherChain:
            raise
        except AttestdError as error:
            if _any_whole(lines[number + 1 : -1], chain.id):
                raise SpoolDamaged(f"{stretch.path}, receipt {stretch.first + number}: {error}") from error
            break
        position = found
        good += len(line) + 1
    if good < len(data):
        logger.warning("%s: %d octets that a crash left are cut off", stretch.path, len(data) - good)
        with stretch.path.open("r+b") as file:
            file.truncate(good)
            os.fdatasync(file.fileno())
    if good == 0:
        stretch.path.unlink()
    return position


def _next(chain: VerifiedChain, at: Position | None, line: bytes, number: int) -> Position:
    """The chain after this line. A file's first line is believed to follow the file before it, which may be gone."""
    jws = line.decode("ascii", "replace")
    if number == 0:
        receipt = read_unverified(jws)
        if receipt.prev != NOTHING or receipt.seq != 0:
            raise SpoolDamaged("The chain's first receipt is another one.")
    else:
        receipt = read_receipt(chain, jws)
    if receipt.chain != chain.id or receipt.seq != number or (at is not None and receipt.prev != at.digest):
        raise SpoolDamaged("A receipt is in another's place.", seen=receipt.seq, expected=number)
    return Position(receipt.seq, digest_of(jws), receipt.time)


def _any_whole(lines: list[bytes], chain: str) -> bool:
    for line in lines:
        with suppress(AttestdError):
            if read_unverified(line.decode("ascii", "replace")).chain == chain:
                return True
    return False


def _lock(path: Path) -> int | None:
    """The folder's lock, or None if another process has it."""
    handle = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return handle


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
