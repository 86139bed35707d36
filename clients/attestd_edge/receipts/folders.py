"""The chains of receipts in a state folder, as files: what waits there, what was delivered, what can go.

`receipts/<chain>/`: a file for each stretch of the chain (`0000000000000000.jws`), one receipt a line; `beginning.jws`,
the first receipt, which stays; `delivered.json`, the number that the service wants next; `ended`, once nobody writes
there any more, with the reason; `lock`, held by the process that writes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Self

from attestd.credentials.receipts import (
    BEGINNING_FILE,
    CHAIN_ID,
    MAX_RECEIPT,
    SEGMENT_FILE,
    SPOOL_FOLDER,
    digest_of,
    read_unverified,
)
from attestd.errors import AttestdError
from attestd.protocol.encoding import Members, read_object, write_object
from attestd_edge.files import FileUnreadable, read_file, replace_file

LOCK_FILE = "lock"
DELIVERED_FILE = "delivered.json"
ENDED_FILE = "ended"
REFUSED = "refused"  # by the service: what waits in such a chain can't be delivered
_MAX_SMALL = 1024  # octets


class Stretch(NamedTuple):
    """A file of a chain, and the number of its first receipt."""

    first: int
    path: Path


@dataclass(frozen=True, slots=True)
class Waiting:
    """What was not delivered yet; `oldest` in unix seconds, None if nothing waits."""

    count: int = 0
    octets: int = 0
    oldest: int | None = None

    def __add__(self, other: Waiting) -> Waiting:
        times = [time for time in (self.oldest, other.oldest) if time is not None]
        return Waiting(self.count + other.count, self.octets + other.octets, min(times, default=None))


@dataclass(frozen=True, slots=True)
class ChainFolder:
    """One chain's files. Reads what is whole, and believes nothing: who takes a delivery verifies."""

    path: Path

    @classmethod
    def all_in(cls, state: Path) -> list[Self]:
        """Every chain under a state folder, in the order of their names."""
        with suppress(FileNotFoundError):
            return [cls(path) for path in sorted((state / SPOOL_FOLDER).iterdir()) if CHAIN_ID.fullmatch(path.name)]
        return []

    @property
    def chain(self) -> str:
        return self.path.name

    def stretches(self) -> list[Stretch]:
        """In their order."""
        found = []
        with suppress(FileNotFoundError):
            for path in self.path.iterdir():
                if (match := SEGMENT_FILE.fullmatch(path.name)) is not None:
                    found.append(Stretch(int(match[1]), path))
        return sorted(found)

    def beginning(self) -> str | None:
        """The chain's first receipt. Raises FileUnreadable."""
        path = self.path / BEGINNING_FILE
        return read_file(path, limit=MAX_RECEIPT).decode("ascii", "replace").strip() if path.exists() else None

    def keep_beginning(self, jws: str) -> None:
        replace_file(self.path / BEGINNING_FILE, jws.encode("ascii") + b"\n", mode=0o640)

    # ---- Delivered --------------------------------------------------------------------------------------------------

    def next(self) -> int:
        """The number of the first receipt that the service does not have. A damaged record of it counts as none: the
        service takes again what it has."""
        try:
            data = read_file(self.path / DELIVERED_FILE, limit=_MAX_SMALL)
            return max(0, Members(read_object(data, limit=_MAX_SMALL), "delivered").integer("next"))
        except (AttestdError, FileUnreadable):
            return 0

    def delivered(self, until: int) -> None:
        """The service has everything before `until`: keeps that in mind, and removes files that nobody needs. The last
        one stays, and the one before it until something of the last is delivered: the chain goes on from there."""
        replace_file(self.path / DELIVERED_FILE, write_object({"v": 1, "next": until}), mode=0o640)
        stretches = self.stretches()
        for stretch, following in pairwise(stretches):
            if until > following.first:
                stretch.path.unlink(missing_ok=True)

    def lines(self, start: int) -> Iterator[str]:
        """The whole receipts from number `start` on, as far as they are on the disk, synced, and in their places.
        Raises OSError."""
        stretches = self.stretches()
        for place, stretch in enumerate(stretches):
            if place + 1 < len(stretches) and stretches[place + 1].first <= start:
                continue
            for number, line in enumerate(_whole_lines(stretch.path), stretch.first):
                if number < start:
                    continue
                if not self._in_place(line, number):
                    return  # damage: what is behind it is no chain
                yield line

    def _in_place(self, line: str, number: int) -> bool:
        with suppress(AttestdError):
            found = read_unverified(line)
            return (found.chain, found.seq) == (self.chain, number)
        return False

    def last_line(self) -> str | None:
        """The last whole receipt; None if there is none, or the disk does not give it."""
        for stretch in reversed(self.stretches()):
            with suppress(OSError), stretch.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 2 * MAX_RECEIPT))
                if whole := file.read().rpartition(b"\n")[0]:
                    return whole.rpartition(b"\n")[2].decode("ascii", "replace")
        return None

    def end_of(self) -> tuple[str, int, bytes] | None:
        """This chain, the number and the digest of its last receipt, unverified; None if it has none to be read."""
        line = self.last_line()
        if line is None:
            return None
        with suppress(AttestdError):
            return self.chain, read_unverified(line).seq, digest_of(line)
        return None

    def waiting(self) -> Waiting:
        """What the service does not have, without reading all of it."""
        end, start = self.end_of(), self.next()
        if end is None or end[1] < start:
            return Waiting()
        octets, oldest = 0, None
        with suppress(OSError, AttestdError):
            stretches = self.stretches()
            octets = sum(stretch.path.stat().st_size for stretch in stretches if stretch.first >= start)
            partly = next((s for s in reversed(stretches) if s.first < start), None)
            if partly is not None:
                lines = _whole_lines(partly.path)
                octets += sum(len(line) + 1 for number, line in enumerate(lines, partly.first) if number >= start)
            for line in self.lines(start):
                oldest = read_unverified(line).time
                break
        return Waiting(end[1] + 1 - start, octets, oldest)

    # ---- Its end ----------------------------------------------------------------------------------------------------

    def ended(self) -> str | None:
        """Why nobody writes here any more; None while somebody may."""
        if not (self.path / ENDED_FILE).exists():
            return None
        try:
            return read_file(self.path / ENDED_FILE, limit=_MAX_SMALL).decode("ascii", "replace")
        except FileUnreadable:
            return None

    def end(self, why: str) -> None:
        """Nobody goes on with this chain. Raises FileUnwritable."""
        replace_file(self.path / ENDED_FILE, why.encode("ascii"), mode=0o640)

    def remove(self) -> None:
        """All of it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def octets(self) -> int:
        """That it takes on the disk."""
        total = 0
        for stretch in self.stretches():
            with suppress(OSError):
                total += stretch.path.stat().st_size
        return total


def _whole_lines(path: Path) -> list[str]:
    """Lines with their end, synced: what a process wrote a moment ago may not be on the disk yet, and what the service
    has must never be taken back here. Raises OSError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []  # delivered, and removed meanwhile
    with os.fdopen(handle, "rb") as file:
        data = file.read()
        os.fdatasync(file.fileno())
    return [line.decode("ascii", "replace") for line in data.split(b"\n")[:-1]]
