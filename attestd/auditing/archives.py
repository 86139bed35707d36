"""Old audit rows in files: JSON Lines, one file a range of leaves, under `<dir>/audit`. Their leaf hashes stay.

A line is the octets that its leaf covers, so that a file proves itself against the tree. The order is what matters:
1. the rows are what was sealed, or nothing is archived: a row that was changed stays where it is, as evidence;
2. the file is whole on the disk;
3. the registry notes it, in one transaction with where archives end;
4. only then the rows go, in small transactions. Whatever dies in between, the next round goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from attestd.ca.keyfiles import make_private_folder, replace_secret
from attestd.credentials.hashtree import HASH, leaf_hash
from attestd.credentials.transparency import MAX_ENTRY, entry_octets
from attestd.errors import AttestdError, Misconfigured
from attestd.protocol.encoding import MalformedJson, Members, read_object
from attestd.registry import audit, audit_tree, revision
from attestd.registry.audit import AuditRecord
from attestd.registry.audit_tree import Archive
from attestd.registry.engine import Connection, Registry
from attestd.registry.tiles import WIDTH, TreeDamaged

FOLDER: Final = "audit"  # in the instance's folder
_REMOVED_AT_ONCE: Final = 500
_KEEP_EVERY_HEAD: Final = timedelta(hours=1)
_DAY: Final = 86400


class ArchiveUnreadable(Misconfigured):
    """An archive of audit rows can't be read"""

    remedy = "Restore the file from a backup of this instance's folder; its rows are nowhere else."


def archive_audit(registry: Registry, folder: Path, now: datetime, older_than: timedelta, batch: int) -> int:
    """Moves the oldest sealed rows, if they were written on a day (UTC) that ended `older_than` ago, into one file.

    At most `batch` rows; returns how many, so that a caller goes on while it is `batch`. Thins out old heads, too.
    Raises TreeDamaged, KeyFileUnwritable and its siblings for the folder, and the registry's errors.
    """
    before = int((now - older_than).timestamp()) // _DAY * _DAY
    with registry.reading() as c:
        first = audit_tree.archived(c)
        _check_leftovers(c, first)
        rows = _old_rows(c, first, before, batch)
        log = revision.epoch(c)
    if rows:
        # The log's id: after a restore, leaves may get the numbers of lost ones, and no file replaces another.
        name = f"{log}-{first:012}-{first + len(rows) - 1:012}.jsonl"
        numbers = [row.number for row in rows]
        archive = Archive(first, len(rows), min(numbers), max(numbers), name)
        make_private_folder(folder)
        data = b"".join(entry_octets(row.entry) + b"\n" for row in rows)
        replace_secret(folder / name, data, entropy=os.urandom)  # 2
        with registry.acting() as c:
            if not audit_tree.add_archive(c, archive):  # 3
                return 0
    _remove(registry)  # 4
    with registry.acting() as c:
        audit_tree.thin_heads(c, before=int((now - _KEEP_EVERY_HEAD).timestamp()))
    return len(rows)


def _old_rows(c: Connection, first: int, before: int, batch: int) -> list[AuditRecord]:
    """Consecutive leaves from `first` on, all old enough, each row still what was sealed (1)."""
    end = min(first + batch, audit_tree.size(c))
    last = audit.last_number(c)
    hashes = leaf_hashes(c, first, end)
    found: list[AuditRecord] = []
    for row in audit.sealed(c, first, end):
        if row.at >= before or row.number == last:
            break
        leaf = first + len(found)
        if row.leaf != leaf or next(hashes) != leaf_hash(entry_octets(row.entry)):
            raise TreeDamaged(f"Row {row.number} is not what was sealed as leaf {leaf}; nothing is archived.")
        found.append(row)
    return found


def _check_leftovers(c: Connection, archived: int) -> None:
    """Rows that are in files already and here as well may go only if they are the same."""
    start = audit.first_leaf(c)
    while start is not None and 0 <= start < archived:
        end = min(start + _REMOVED_AT_ONCE, archived)
        for row in audit.sealed(c, start, end):
            if row.leaf is not None and next(leaf_hashes(c, row.leaf, row.leaf + 1)) != leaf_hash(
                entry_octets(row.entry)
            ):
                raise TreeDamaged(f"Row {row.number} is not what was sealed as leaf {row.leaf}; nothing is archived.")
        start = end


def _remove(registry: Registry) -> None:
    while True:
        with registry.reading() as c:
            start, archived = audit.first_leaf(c), audit_tree.archived(c)
        if start is None or not 0 <= start < archived:
            return
        with registry.acting() as c:
            audit.remove_archived(c, start, min(start + _REMOVED_AT_ONCE, archived))


def leaf_hashes(c: Connection, start: int, end: int) -> Iterator[bytes]:
    """The tree's hashes of leaves `start` to `end - 1`; b"" where there is none."""
    number, tile = -1, b""
    for leaf in range(start, end):
        if leaf // WIDTH != number:
            number = leaf // WIDTH
            tile = audit_tree.tile(c, 0, number)
        offset = leaf % WIDTH * HASH
        yield tile[offset : offset + HASH]


def archived_lines(folder: Path, archive: Archive) -> Iterator[bytes]:
    """A file's lines, each the octets of one leaf. Raises ArchiveUnreadable."""
    try:
        with (folder / archive.file).open("rb") as file:
            while line := file.readline(MAX_ENTRY + 2):
                if not line.endswith(b"\n"):
                    raise ArchiveUnreadable(f"{archive.file} ends within a line, or has one that is too long.")
                yield line[:-1]
    except OSError as error:
        raise ArchiveUnreadable(f"{folder / archive.file} can't be read: {error.strerror}.") from None


def find_archived(folder: Path, archives: Sequence[Archive], number: int) -> AuditRecord | None:
    """The row of that number, if one of these files has it. Raises ArchiveUnreadable."""
    mark = b'"number":%d,' % number
    for archive in archives:
        for offset, line in enumerate(archived_lines(folder, archive)):
            if mark in line:
                row = read_entry(line, archive.first + offset)
                if row.number == number:
                    return row
    return None


def read_entry(line: bytes, leaf: int) -> AuditRecord:
    """The row whose leaf covers these octets. Raises ArchiveUnreadable."""
    try:
        members = Members(read_object(line, limit=MAX_ENTRY, name="row"), "row")
        members.version()
        request_id = dict(members.items()).get("request_id")
        if request_id is not None and not isinstance(request_id, str):
            raise MalformedJson("request_id is not a string.")
        return AuditRecord(
            number=members.integer("number"),
            at=members.integer("at"),
            actor=members.text("actor"),
            act=members.text("act"),
            subject=members.text("subject"),
            request_id=request_id,
            detail=dict(members.object("detail").items()),
            leaf=leaf,
        )
    except AttestdError as error:
        raise ArchiveUnreadable(f"The row of leaf {leaf} can't be read: {error}") from error
