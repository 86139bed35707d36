"""Finding rows of the audit trail, in the database and in archive files: by who, what, about whom, when, and by words.

However much is asked for, one answer looks at a bounded number of rows: where fewer are found than were wanted, it says
up to where it looked, and the next one goes on from there. The database finds rows by one thing (a subject, an act, an
actor); what else is wanted is looked for in what comes of that.

Times become numbers first. Rows are numbered as they are written, and a row's time is the one at which its request
came: two rows may stand in the other order by as much as requests take, and services' clocks differ.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from attestd.auditing.archives import ArchiveUnreadable, archived_lines, read_entry
from attestd.registry import audit, audit_tree
from attestd.registry.audit import AuditRecord
from attestd.registry.audit_tree import Archive
from attestd.registry.engine import Connection, Registry

MAX_LOOKED_AT: Final = 5000  # rows, for one answer; a few more where that is the end of a file
_SLACK: Final = 900  # seconds by which a row may stand out of order
_FIRST: Final = 64  # rows of the first look; each further one takes twice as many, up to
_CHUNK: Final = 512
_FILES: Final = 20  # that one answer opens


@dataclass(frozen=True, slots=True)
class Wanted:
    """All of it must be so; what is None or empty does not matter. Times in unix seconds, `until` is not included.

    `acts`: one of these; `but`: none of these; `text`: in any word of the row, in any case.
    """

    actor: str | None = None
    subject: str | None = None
    acts: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    text: str = ""

    def fits(self, row: AuditRecord) -> bool:
        return (
            (self.actor is None or row.actor == self.actor)
            and (self.subject is None or row.subject == self.subject)
            and (not self.acts or row.act in self.acts)
            and row.act not in self.but
            and (self.since is None or row.at >= self.since)
            and (self.until is None or row.at < self.until)
            and (not self.text or self.text.casefold() in _words(row))
        )


@dataclass(frozen=True, slots=True)
class Found:
    """`rows`, and where the next answer goes on; None where there is nothing more. `unread`: up to this number there
    are rows in files that can't be read here (another service's, maybe), and they were not looked at."""

    rows: list[AuditRecord]
    next: int | None
    unread: int | None = None


def newest(registry: Registry, folder: Path, wanted: Wanted, *, before: int | None, limit: int) -> Found:
    """The newest rows with lower numbers than `before`, the newest first. Raises the registry's errors."""
    looking = _Looking(wanted, limit)
    with registry.reading() as c:
        first, _ = audit.span(c)
        low = first if wanted.since is None else audit.number_at(c, wanted.since - _SLACK)
        if wanted.until is not None:
            high = audit.number_at(c, wanted.until + _SLACK)
            before = high if before is None else min(before, high)
        # Rows are archived by their leaves: some that are still here may have lower numbers than archived ones.
        archived = audit_tree.highest_archived(c)
        if looking.take(_rows(c, wanted, before=before, low=max(low, archived + 1))):
            return looking.found()
        if low > first or not archived:
            looking.take(_rows(c, wanted, before=_lower(before, archived + 1), low=low))
            return looking.found() if looking.enough else Found(looking.rows, None)
        between = audit.page(c, before=_lower(before, archived + 1), limit=audit.MAX_PAGE)
        files = audit_tree.archives_below(c, before, limit=_FILES + 1)
    try:
        if looking.take_files(between, files, folder, before):
            return looking.found()
    except ArchiveUnreadable:
        return Found(looking.rows, None, unread=_lower(looking.last, files[0].highest + 1) - 1)
    return Found(looking.rows, None)


def following(registry: Registry, wanted: Wanted, *, after: int, limit: int) -> Found:
    """Rows with higher numbers than `after`, the oldest first: of the database alone. Raises the registry's errors."""
    looking = _Looking(wanted, limit)
    with registry.reading() as c:
        if looking.take(_rows(c, wanted, after=after)):
            return looking.found()
    return Found(looking.rows, None)


class _Looking:
    """What was found so far, and how much was looked at."""

    def __init__(self, wanted: Wanted, limit: int) -> None:
        self._wanted, self._limit = wanted, limit
        self.rows: list[AuditRecord] = []
        self.last: int | None = None
        self._looked_at = 0

    @property
    def enough(self) -> bool:
        return len(self.rows) >= self._limit or self._looked_at >= MAX_LOOKED_AT

    def found(self) -> Found:
        return Found(self.rows, self.last)

    def take(self, rows: Iterable[AuditRecord]) -> bool:
        """Whether that is enough."""
        for row in rows:
            self.last = row.number
            self._looked_at += 1
            if self._wanted.fits(row):
                self.rows.append(row)
            if self.enough:
                return True
        return False

    def take_files(
        self, between: Sequence[AuditRecord], files: Sequence[Archive], folder: Path, before: int | None
    ) -> bool:
        """The same with files, the highest first, and the rows of the database `between` theirs.

        Files hold rows by their leaves, and the numbers of two neighbours may overlap a little: a row waits until no
        file that is left can hold a higher number.
        """
        waiting = {row.number: row for row in between}
        for place, archive in enumerate(files[:_FILES]):
            rows = [
                read_entry(line, archive.first + offset) for offset, line in enumerate(archived_lines(folder, archive))
            ]
            if self._wanted.since is not None and all(row.at < self._wanted.since - _SLACK for row in rows):
                return self.take(_downwards(waiting))  # what is in the files that are left is older still
            waiting |= {row.number: row for row in rows if before is None or row.number < before}
            floor = files[place + 1].highest if place + 1 < len(files) else 0
            if self.take(row for row in _downwards(waiting) if row.number > floor):
                return True
            waiting = {number: row for number, row in waiting.items() if number <= floor}
            self.last = floor + 1
        return len(files) > _FILES


def _rows(
    c: Connection, wanted: Wanted, *, before: int | None = None, after: int | None = None, low: int = 0
) -> Iterator[AuditRecord]:
    """All that may fit, in the order of their numbers."""
    pages = partial(_pages, c, before=before, after=after, low=low)
    if wanted.subject is not None:
        return pages(subject=wanted.subject)
    if wanted.acts:
        each = [pages(act=act) for act in dict.fromkeys(wanted.acts)]
        return heapq.merge(*each, key=lambda row: row.number, reverse=after is None)
    return pages(actor=wanted.actor)


def _pages(
    c: Connection, *, before: int | None, after: int | None, low: int, **named: str | None
) -> Iterator[AuditRecord]:
    size = _FIRST
    while True:
        rows = audit.page(c, before=before, after=after, low=low, limit=size, **named)
        yield from rows
        if len(rows) < size:
            return
        before, after = (rows[-1].number, None) if after is None else (None, rows[-1].number)
        size = min(2 * size, _CHUNK)


def _downwards(rows: Mapping[int, AuditRecord]) -> list[AuditRecord]:
    return [rows[number] for number in sorted(rows, reverse=True)]


def _lower(before: int | None, other: int) -> int:
    return other if before is None else min(before, other)


def _words(row: AuditRecord) -> str:
    said = (row.actor, row.act, row.subject, row.request_id or "", *_said(row.detail))
    return "\n".join(said).casefold()


def _said(detail: object) -> Iterator[str]:
    """Names and values, without how they are written down."""
    if isinstance(detail, Mapping):
        for name, value in detail.items():
            yield str(name)
            yield from _said(value)
    elif isinstance(detail, list):
        for value in detail:
            yield from _said(value)
    else:
        yield str(detail)
