"""The whole audit trail against its tree, and the tree against its signed heads: what was changed behind our back.

1. Every head is signed by a delegate of the root, and the tree had its root at its size.
2. Every tile has its place and length, and its hash is in the tile above it.
3. Every leaf has one row, here or in an archive, whose octets have the leaf's hash.
4. No row claims to be older than a head that was signed before the row was sealed.
Streams: memory does not grow with the trail. Everything is read of one moment; nothing is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Final

from attestd.auditing.archives import ArchiveUnreadable, archived_lines, leaf_hashes, read_entry
from attestd.credentials.hashtree import HASH, leaf_hash, root_of, tree_root
from attestd.credentials.transparency import entry_octets, verify_head
from attestd.errors import AttestdError
from attestd.ids import TrustDomain
from attestd.registry import audit, audit_tree, revision
from attestd.registry.audit import AuditRecord
from attestd.registry.audit_tree import Archive, StoredHead
from attestd.registry.engine import Connection, Registry
from attestd.registry.tiles import HEIGHT, LEVELS, WIDTH, TreeDamaged, nodes_in, split

MAX_FINDINGS: Final = 1000
_PAGE: Final = 4 * WIDTH  # leaves
_TILES_KEPT: Final = 64
# By how much a row may be older than the head before it: a request lasts half a minute, and clocks differ.
_TOLERANCE: Final = 600  # seconds
_TIMELINE_STEP: Final = 60  # seconds between the heads that rows are compared with
_AT: Final = re.compile(rb'"at":(-?[0-9]+),"detail":')


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was sealed. `number`: the row's, if that is known."""

    kind: str  # changed, removed, added, moved, backdated, tile, head, size or archive
    text: str
    number: int | None = None


@dataclass(slots=True)
class Examination:
    """What was looked at, and what was found; `more` findings were not kept."""

    log: int | None = None
    size: int = 0
    archived: int = 0
    heads: int = 0
    unsealed: int = 0
    newest: StoredHead | None = None
    findings: list[Finding] = field(default_factory=list)
    more: int = 0

    def found(self, kind: str, text: str, number: int | None = None) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(kind, text, number))
        else:
            self.more += 1


def examine(
    registry: Registry,
    folder: Path,
    *,
    roots: Sequence[bytes],
    trust_domain: TrustDomain,
    progress: Callable[[int], None] = lambda _leaves: None,
) -> Examination:
    """Goes through everything. `folder`: the archives; `roots`: the pinned roots (DER).

    Raises the registry's errors only: whatever is wrong with the trail is a finding.
    """
    seen = Examination()
    with registry.reading() as c:
        seen.size, seen.archived = audit_tree.size(c), audit_tree.archived(c)
        seen.newest, seen.unsealed = audit_tree.newest_head(c), audit.lag(c).count
        timeline = _Heads(c, seen, roots, trust_domain).examine()  # 1
        _examine_tiles(c, seen)  # 2
        _Rows(c, seen, folder, timeline, progress).examine()  # 3, 4
    return seen


# ---- 1. Heads ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Heads:
    c: Connection
    seen: Examination
    roots: Sequence[bytes]
    trust_domain: TrustDomain

    def examine(self) -> list[tuple[int, int]]:
        """Size and time of genuine heads, ascending in both, for rows to be compared with."""
        seen = self.seen
        fetch = lru_cache(_TILES_KEPT)(lambda level, number: audit_tree.tile(self.c, level, number))
        nodes = nodes_in(fetch)
        timeline: list[tuple[int, int]] = []
        last_log = 0
        for stored in audit_tree.heads(self.c):
            seen.heads += 1
            name = f"The head {stored.log}.{stored.size}"
            try:
                head = verify_head(stored.jws, roots=self.roots, trust_domain=self.trust_domain, now=None).head
            except AttestdError as error:
                seen.found("head", f"{name} is not genuine: {error}")
                continue
            if (head.log, head.size, head.at) != (stored.log, stored.size, stored.at):
                seen.found("head", f"{name} was signed as {head.log}.{head.size} at {head.at}")
                continue
            if head.log < last_log:
                seen.found("head", f"{name} is of an older log than a smaller one")
            last_log = head.log
            try:
                fits = head.size <= seen.size and tree_root(nodes, head.size) == head.root
            except TreeDamaged:
                fits = False
            if not fits:
                since = timeline[-1][0] if timeline else 0
                seen.found("head", f"{name} does not fit: leaves before it were changed, maybe from leaf {since} on")
            elif not timeline or head.at >= timeline[-1][1] + _TIMELINE_STEP:
                timeline.append((head.size, head.at))
        newest, epoch = seen.newest, revision.epoch(self.c)
        seen.log = None if newest is None else newest.log
        if newest is None and seen.size:
            seen.found("size", f"There are {seen.size} leaves and no head")
        if newest is not None and newest.size != seen.size:
            seen.found("size", f"The tree is said to have {seen.size} leaves, its newest head has {newest.size}")
        if newest is not None and newest.log > epoch:
            seen.found("size", f"The newest head is of log {newest.log}, the epoch is only {epoch}")
        return timeline


# ---- 2. Tiles ---------------------------------------------------------------------------------------------------


def _examine_tiles(c: Connection, seen: Examination) -> None:
    for level in range(LEVELS):
        count = seen.size >> HEIGHT * level
        expected = 0
        above, parent = b"", -1
        for number, tile in audit_tree.tiles(c, level):
            if number * WIDTH >= count:
                seen.found("tile", f"Tile {level}/{number} lies outside the tree")
                continue
            for gone in range(expected, min(number, expected + MAX_FINDINGS)):
                seen.found("tile", f"Tile {level}/{gone} is missing")
            expected = number + 1
            held = min(WIDTH, count - number * WIDTH)
            if len(tile) != held * HASH:
                seen.found("tile", f"Tile {level}/{number} has {len(tile)} octets instead of {held * HASH}")
            elif held == WIDTH:
                if number // WIDTH != parent:
                    parent = number // WIDTH
                    above = audit_tree.tile(c, level + 1, parent)
                offset = number % WIDTH * HASH
                if above[offset : offset + HASH] != root_of(split(tile)):
                    first = number << HEIGHT * (level + 1)
                    last = ((number + 1) << HEIGHT * (level + 1)) - 1
                    seen.found("tile", f"Tile {level}/{number} (leaves {first} to {last}) and the one above it differ")
        if expected * WIDTH < count:
            seen.found("tile", f"Tiles {level}/{expected} and later are missing")


# ---- 3. and 4. Rows ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Row:
    """A row as it is found: where, its number, and whether it is what was sealed there."""

    leaf: int
    number: int | None
    digest: bytes
    at: int | None
    where: str = ""
    line: bytes = field(default=b"", repr=False)

    def name(self) -> int | None:
        """The number; an archived row is read for it, and only where it is needed."""
        if self.number is None and self.line:
            with suppress(ArchiveUnreadable):
                self.number = read_entry(self.line, self.leaf).number
        return self.number


@dataclass(slots=True)
class _Rows:
    c: Connection
    seen: Examination
    folder: Path
    timeline: list[tuple[int, int]]
    progress: Callable[[int], None]
    _before: _Row | None = None  # the last row that was there
    _gone: list[int] = field(default_factory=list)  # leaves without rows since then
    _strangers: list[_Row] = field(default_factory=list)  # rows that are not what was sealed there
    _expected: dict[bytes, int] = field(default_factory=dict)  # the hashes of leaves without their row
    _vacant: set[int] = field(default_factory=set)  # those leaves
    _bound: int = 0  # no row from here on is older than this
    _next: int = 0  # in the timeline

    def examine(self) -> None:
        seen = self.seen
        for archive in self._archives():
            self._compare(archive.first, archive.first + archive.size, self._archived(archive))
        self._leftovers()
        for start in range(seen.archived, seen.size, _PAGE):
            end = min(start + _PAGE, seen.size)
            self._compare(start, end, (_of_record(row) for row in audit.sealed(self.c, start, end)))
        self._close_gap(None)
        for row in audit.outside(self.c, seen.size):
            self._strangers.append(_of_record(row))
        self._name_strangers()

    def _archives(self) -> Iterator[Archive]:
        end = 0
        for archive in audit_tree.archives(self.c):
            if archive.first != end or archive.size < 1:
                self.seen.found(
                    "archive", f"The archive {archive.file} begins at leaf {archive.first} instead of {end}"
                )
                return
            end += archive.size
            if end > self.seen.archived:
                self.seen.found("archive", f"The archive {archive.file} goes on after leaf {self.seen.archived - 1}")
                return
            yield archive
        if end != self.seen.archived:
            self.seen.found("archive", f"The rows of leaves {end} to {self.seen.archived - 1} are in no file")

    def _archived(self, archive: Archive) -> Iterator[_Row]:
        """A file's rows with the leaves that they stand for: lines that are gone, or too many, shift no others."""
        leaf, end = archive.first, archive.first + archive.size
        places = {digest: n for n, digest in enumerate(leaf_hashes(self.c, leaf, end), leaf)}
        try:
            for line in archived_lines(self.folder, archive):
                digest = leaf_hash(line)
                place = places.get(digest, leaf)
                leaf = place if place >= leaf - 1 else leaf
                if leaf >= end:
                    self.seen.found("archive", f"{archive.file} has more lines than leaves")
                    return
                at = _AT.search(line)
                yield _Row(leaf, None, digest, None if at is None else int(at[1]), f" in {archive.file}", line)
                leaf += 1
        except ArchiveUnreadable as error:
            self.seen.found("archive", error.detail)

    def _leftovers(self) -> None:
        """Rows that are in an archive and here as well: a move that was interrupted, or something that was added."""
        start = audit.first_leaf(self.c)
        for at in range(max(0, start or 0), self.seen.archived, _PAGE):
            end = min(at + _PAGE, self.seen.archived)
            hashes = list(leaf_hashes(self.c, at, end))
            rows = (_of_record(row) for row in audit.sealed(self.c, at, end))
            self._strangers += [row for row in rows if row.digest != hashes[row.leaf - at]]

    def _compare(self, start: int, end: int, rows: Iterator[_Row]) -> None:
        hashes = leaf_hashes(self.c, start, end)
        groups = groupby(rows, key=lambda row: row.leaf)
        leaf, here = next(groups, (end, iter(())))
        for wanted, digest in zip(range(start, end), hashes, strict=True):
            found = list(here) if leaf == wanted else []
            if leaf == wanted:
                leaf, here = next(groups, (end, iter(())))
            right = next((row for row in found if row.digest == digest), None)
            self._strangers += [row for row in found if row is not right]
            if right is not None:
                self._check_time(right)
            elif len(self._vacant) < MAX_FINDINGS:
                self._vacant.add(wanted)
                self._expected[digest] = wanted
            if found:
                self._close_gap(found[0])
            else:
                self._gone.append(wanted)
                if len(self._gone) > MAX_FINDINGS:
                    self._close_gap(None)
            if len(self._strangers) > MAX_FINDINGS:
                self._name_strangers()
        self.progress(end)

    def _check_time(self, row: _Row) -> None:
        while self._next < len(self.timeline) and self.timeline[self._next][0] <= row.leaf:
            self._bound = self.timeline[self._next][1]
            self._next += 1
        if row.at is not None and row.at + _TOLERANCE < self._bound:
            number = row.name()
            self.seen.found(
                "backdated",
                f"Row {number} was added later than it says: it says {row.at}, and was sealed after {self._bound}",
                number,
            )

    def _close_gap(self, row: _Row | None) -> None:
        """Names the rows that are missing before this one, by their neighbours' numbers."""
        if self._gone:
            after = None if row is None else row.name()
            known = (None if self._before is None else self._before.name()) or 0
            if after is not None and after - known - 1 == len(self._gone):
                for offset, leaf in enumerate(self._gone, 1):
                    self.seen.found("removed", f"Row {known + offset} (leaf {leaf}) was removed", known + offset)
            else:
                between = f"after row {known}" if after is None else f"between rows {known} and {after}"
                leaves = f"leaves {self._gone[0]} to {self._gone[-1]}"
                self.seen.found("removed", f"{len(self._gone)} rows ({leaves}) were removed, {between}")
            self._gone.clear()
        if row is not None:
            self._before = row

    def _name_strangers(self) -> None:
        """A row that is another leaf's was moved; one that has another's place was changed; the rest was added."""
        for row in self._strangers:
            number = row.name()
            home = self._expected.get(row.digest)
            if home is not None and home != row.leaf:
                self.seen.found("moved", f"Row {number}{row.where} was moved: from leaf {home} to {row.leaf}", number)
            elif row.leaf in self._vacant:
                self.seen.found("changed", f"Row {number} (leaf {row.leaf}){row.where} was changed", number)
            else:
                self.seen.found("added", f"Row {number} (as leaf {row.leaf}){row.where} was added", number)
        self._strangers.clear()


def _of_record(record: AuditRecord) -> _Row:
    digest = leaf_hash(entry_octets(record.entry))
    return _Row(-1 if record.leaf is None else record.leaf, record.number, digest, record.at)
