"""What the processes on one state folder counted, as files: each process has one of its own, and only it writes there.

`reports/<name>.json`: decisions since that process began, so that a file that was read twice says the same thing twice;
`reports/<name>.lock`: held while the process lives. A power cut costs what was counted since the file was written last.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

from attestd.errors import AttestdError
from attestd.protocol.encoding import Members, read_object, write_object
from attestd_edge.files import read_file, replace_file

REPORTS_FOLDER: Final = "reports"
MAX_FILE: Final = 4 << 20  # octets
OTHER: Final = "other"
_REPORTED: Final = re.compile(r"[!-~]{1,64}", re.ASCII)
_NAME: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Judged(NamedTuple):
    """What is counted: decisions at a boundary, by the problem's name; allowed ones have none."""

    boundary: str
    reason: str

    @property
    def allowed(self) -> bool:
        return not self.reason


Counts = Mapping[Judged, int]


def by_name(decisions: Mapping[tuple[str, str, str], int]) -> dict[Judged, int]:
    """Decisions by boundary, outcome and reason, as they are reported. A boundary that an application made may have any
    name; one that no report can hold is OTHER."""
    found: dict[Judged, int] = {}
    for (boundary, _, reason), count in decisions.items():
        judged = Judged(boundary if _REPORTED.fullmatch(boundary) else OTHER, reason[:64])
        found[judged] = found.get(judged, 0) + count
    return found


def write_counts(counts: Counts) -> dict[str, object]:
    """As JSON has them: `{boundary: {allowed: n, refused: {reason: n}}}`."""
    written: dict[str, tuple[dict[str, int], dict[str, int]]] = {}
    for judged, count in counts.items():
        allowed, refused = written.setdefault(judged.boundary, ({}, {}))
        if judged.allowed:
            allowed["allowed"] = count
        else:
            refused[judged.reason] = count
    return {
        boundary: {"allowed": allowed.get("allowed", 0), "refused": refused}
        for boundary, (allowed, refused) in written.items()
    }


def read_counts(members: Members) -> dict[Judged, int]:
    """Raises MalformedInput."""
    found: dict[Judged, int] = {}
    for boundary, _ in members.items():
        said = members.object(boundary)
        numbers = {"": said.integer("allowed")}
        refused = said.object("refused")
        numbers |= {reason: refused.integer(reason) for reason, _ in refused.items()}
        said.done()
        found |= {Judged(boundary, reason): count for reason, count in numbers.items() if count > 0}
    return found


class CountFile:
    """This process's file. Made where counting begins: what was counted before is not this file's."""

    def __init__(self, state: Path, counted: Callable[[], Counts], *, entropy: Callable[[int], bytes]) -> None:
        """`counted`: all that this process counted so far. Touches no disk yet."""
        self._folder = state / REPORTS_FOLDER
        self._counted = counted
        self._before = dict(counted())
        self._written: Counts = {}
        self._name = entropy(16).hex()
        self._lock: int | None = None

    def flush(self) -> bool:
        """Writes what is new; returns whether there was anything. Raises FileUnwritable or OSError."""
        counts = {
            judged: new for judged, count in self._counted().items() if (new := count - self._before.get(judged, 0)) > 0
        }
        if counts == self._written:
            return False
        if self._lock is None:  # before the file: one without a living process is taken for a dead one's
            self._folder.mkdir(mode=0o750, exist_ok=True)
            handle = os.open(self._folder / f"{self._name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock = handle
        data = write_object({"v": 1, "counts": write_counts(counts)})
        replace_file(self._folder / f"{self._name}.json", data, mode=0o640)
        self._written = counts
        return True

    def close(self) -> None:
        """The process ends: what it wrote is there for others to take."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@dataclass(frozen=True, slots=True)
class Found:
    """One process's file, as it was when it was looked at."""

    name: str
    counts: Counts
    over: bool  # nobody writes there any more
    _folder: Path

    @classmethod
    def all_in(cls, state: Path) -> Iterator[Self]:
        """Every file that can be read. One that can't is left where it is."""
        folder = state / REPORTS_FOLDER
        with suppress(FileNotFoundError):
            for path in sorted(folder.iterdir()):
                if path.suffix == ".json" and _NAME.fullmatch(path.stem):
                    over = _is_over(folder / f"{path.stem}.lock")  # before the file is read: then it is the last word
                    with suppress(AttestdError):
                        members = Members(read_object(read_file(path, limit=MAX_FILE), limit=MAX_FILE), "counts")
                        members.version()
                        yield cls(path.stem, read_counts(members.object("counts")), over, folder)

    def remove(self) -> None:
        """Both files. Raises OSError."""
        (self._folder / f"{self.name}.json").unlink(missing_ok=True)
        (self._folder / f"{self.name}.lock").unlink(missing_ok=True)


def _is_over(lock: Path) -> bool:
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
