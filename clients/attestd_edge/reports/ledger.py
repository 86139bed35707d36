"""What was counted and not reported yet, by hour, and the report that is under way. One process keeps it, under a lock.

Each count goes to the service once, whatever crashes: a count leaves a process's file for an hour's sum in the same
write that remembers it as taken, and the sum for a report in the same write that gives the report its number. A report
is sent with the same number and the same counts until the service has answered it.

A ledger has a name. One that can't be read is begun anew, under another name; then what is on the disk counts as taken:
better a count too few than one twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from attestd.errors import AttestdError
from attestd.protocol.encoding import Members, read_object, write_object
from attestd_edge.files import read_file, replace_file
from attestd_edge.reports.counts import REPORTS_FOLDER, Counts, Found, Judged, read_counts, write_counts

LEDGER_FILE: Final = "ledger.json"
MAX_HOURS: Final = 7 * 24  # kept apart; what is older is added to the oldest of them
# What a service takes in one report; the rest waits for the next.
MAX_BOUNDARIES: Final = 64
MAX_REASONS: Final = 32
MAX_COUNT: Final = 10**10
_HOUR: Final = 3600
_MAX_LEDGER: Final = 64 << 20  # octets


@dataclass(frozen=True, slots=True)
class Pending:
    """A report under way: its number, the time that it is about (unix seconds, both included), and its counts."""

    sequence: int
    since: int
    until: int
    counts: Counts

    def members(self) -> dict[str, object]:
        """As they are written, here and to the service."""
        return {
            "sequence": self.sequence,
            "since": self.since,
            "until": self.until,
            "counts": write_counts(self.counts),
        }

    @classmethod
    def read(cls, members: Members) -> Self:
        """Raises MalformedInput."""
        found = cls(
            members.integer("sequence"),
            members.integer("since"),
            members.integer("until"),
            read_counts(members.object("counts")),
        )
        members.done()
        return found


class Ledger:
    """The sums on the disk. `take`, `begin` and `answered` each write before they return."""

    def __init__(self, state: Path, *, entropy: Callable[[int], bytes] = os.urandom) -> None:
        """Reads what there is. `damaged`: what was there could not be read. Raises OSError, FileUnwritable."""
        self._state = state
        self._path = state / REPORTS_FOLDER / LEDGER_FILE
        self.name = entropy(16).hex()
        self.sequence = 0
        self.until = 0  # up to when was reported
        self.pending: Pending | None = None
        self.damaged = False
        self._hours: dict[int, dict[Judged, int]] = {}
        self._taken: dict[str, Counts] = {}
        if self._path.exists():
            try:
                self._read()
            except AttestdError:
                self.damaged = True
                self._hours, self.pending = {}, None
                self._taken = {found.name: found.counts for found in Found.all_in(state)}
                self._write()

    @property
    def waits(self) -> bool:
        """Whether something was counted that no report has."""
        return any(self._hours.values())

    def take(self, now: int) -> None:
        """What the processes counted since the last time is this hour's. Raises FileUnwritable, OSError."""
        hour = self._hours.setdefault(now // _HOUR, {})
        over: list[Found] = []
        taken: dict[str, Counts] = {}
        changed = False
        for found in Found.all_in(self._state):
            before = self._taken.get(found.name, {})
            for judged, count in found.counts.items():
                if (new := count - before.get(judged, 0)) > 0:
                    hour[judged] = hour.get(judged, 0) + new
                    changed = True
            taken[found.name] = found.counts
            if found.over:
                over.append(found)
        self._merge_old()
        if changed or taken != self._taken:
            self._taken = taken
            self._write()
        for found in over:  # the write above remembers that nothing of them is left to take
            found.remove()

    def begin(self, now: int) -> Pending:
        """The report that goes next: the one under way, or one about the oldest hour. Raises FileUnwritable."""
        if self.pending is None:
            hour = min((hour for hour, counts in self._hours.items() if counts), default=now // _HOUR)
            until = min(now, (hour + 1) * _HOUR - 1)
            sums = self._hours.get(hour, {})
            counts = {judged: min(sums[judged], MAX_COUNT) for judged in _fitting(sums)}
            for judged, count in counts.items():
                sums[judged] -= count
                if sums[judged] == 0:
                    del sums[judged]
            self.sequence += 1
            self.pending = Pending(self.sequence, min(max(self.until, hour * _HOUR), until), until, counts)
            self._hours = {hour: counts for hour, counts in self._hours.items() if counts}
            self._write()
        return self.pending

    def answered(self) -> None:
        """The service has the report that was under way. Raises FileUnwritable."""
        if self.pending is not None:
            self.until, self.pending = self.pending.until, None
            self._write()

    def _merge_old(self) -> None:
        while len(self._hours) > MAX_HOURS:
            oldest = self._hours.pop(min(self._hours))
            into = self._hours[min(self._hours)]
            for judged, count in oldest.items():
                into[judged] = into.get(judged, 0) + count

    def _write(self) -> None:
        members = {
            "v": 1,
            "ledger": self.name,
            "sequence": self.sequence,
            "until": self.until,
            "hours": {str(hour): write_counts(counts) for hour, counts in self._hours.items() if counts},
            "taken": {name: write_counts(counts) for name, counts in self._taken.items()},
            "pending": [] if self.pending is None else [self.pending.members()],
        }
        replace_file(self._path, write_object(members), mode=0o640)

    def _read(self) -> None:
        members = Members(read_object(read_file(self._path, limit=_MAX_LEDGER), limit=_MAX_LEDGER), "ledger")
        members.version()
        hours, taken = members.object("hours"), members.object("taken")
        self._taken = {name: read_counts(taken.object(name)) for name, _ in taken.items()}
        for hour, _ in hours.items():
            self._hours[int(hour) if hour.isdigit() else 0] = read_counts(hours.object(hour))
        pending = members.objects("pending", most=1)
        self.pending = Pending.read(pending[0]) if pending else None
        self.name, self.sequence = members.text("ledger", limit=32), members.integer("sequence")
        self.until = members.integer("until")
        members.done()


def _fitting(counts: Counts) -> list[Judged]:
    """What one report holds."""
    reasons: dict[str, int] = {}
    fitting = []
    for judged in sorted(counts):
        if judged.boundary not in reasons and len(reasons) == MAX_BOUNDARIES:
            continue
        if (seen := reasons.get(judged.boundary, 0)) <= MAX_REASONS - 1 or judged.allowed:
            reasons[judged.boundary] = seen + (not judged.allowed)
            fitting.append(judged)
    return fitting
