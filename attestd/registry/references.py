"""Reference manifests, version by version (docs/adr/0025). Times are unix seconds.

A new version of a name takes its predecessors' place after an overlap, in which either is good: machines are updated
one after another. Rows stay, so that an old result's manifests can be looked at.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, Row, insert, or_, select, update

from attestd.errors import NotFound
from attestd.registry import revision
from attestd.registry.tables import reference_manifests as manifests

MAX_PAGE: Final = 1000
MAX_DOCUMENT: Final = 16 * 1024 * 1024  # octets, as `attestd.appraisal.manifests` has it


class UnknownManifest(NotFound):
    """There is no such reference manifest"""

    remedy = "`attestd references list` shows the manifests and their numbers."


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """One version. `until`: for how long it still counts; None until another takes its place, or it is withdrawn."""

    number: int
    name: str
    stage: str
    digest: str
    document: bytes = field(repr=False)
    added_at: int
    added_by: str
    until: int | None


def add(
    c: Connection, *, name: str, stage: str, digest: str, document: bytes, added_by: str, now: int, overlap: int
) -> StoredManifest:
    """The next version of a name. Those before it count for `overlap` seconds more; at another stage they end now."""
    current = manifests.c.name == name, or_(manifests.c.until.is_(None), manifests.c.until > now)
    c.execute(update(manifests).where(*current, manifests.c.stage != stage).values(until=now))
    c.execute(update(manifests).where(*current, manifests.c.until.is_(None)).values(until=now + overlap))
    packed = zlib.compress(document)
    number = c.execute(
        insert(manifests)
        .values(name=name, stage=stage, digest=digest, document=packed, added_at=now, added_by=added_by, until=None)
        .returning(manifests.c.number)
    ).scalar_one()
    revision.change_references(c)
    return StoredManifest(number, name, stage, digest, document, now, added_by, None)


def withdraw(c: Connection, number: int, *, now: int) -> StoredManifest:
    """It counts no longer. Raises UnknownManifest, also for one that had ended."""
    found = by_number(c, number)
    if found.until is not None and found.until <= now:
        raise UnknownManifest("This manifest counts no longer anyway.", seen=number)
    c.execute(update(manifests).where(manifests.c.number == number).values(until=now))
    revision.change_references(c)
    return by_number(c, number)


def by_number(c: Connection, number: int) -> StoredManifest:
    """One version. Raises UnknownManifest."""
    row = c.execute(select(manifests).where(manifests.c.number == number)).one_or_none()
    if row is None:
        raise UnknownManifest(seen=number)
    return _of(row)


def in_force(c: Connection, *, now: int) -> list[StoredManifest]:
    """All that count at this time, of whatever stage, by number."""
    wanted = or_(manifests.c.until.is_(None), manifests.c.until > now)
    return [_of(row) for row in c.execute(select(manifests).where(wanted).order_by(manifests.c.number))]


def page(c: Connection, *, before: int | None = None, limit: int = 100) -> list[StoredManifest]:
    """Versions, the newest first, without their documents; the last one's `number` is the next page's `before`."""
    columns = [column for column in manifests.c if column.name != "document"]
    wanted = [] if before is None else [manifests.c.number < before]
    statement = select(*columns).where(*wanted).order_by(manifests.c.number.desc()).limit(min(limit, MAX_PAGE))
    return [StoredManifest(**row._mapping, document=b"") for row in c.execute(statement)]


def version(c: Connection) -> int:
    """Grows with each change: equal versions mean equal manifests, but for those that ended by time."""
    return revision.references_version(c)


def _of(row: Row[tuple[object, ...]]) -> StoredManifest:
    members = dict(row._mapping)
    members["document"] = unpacked(members["document"], MAX_DOCUMENT)
    return StoredManifest(**members)


def unpacked(content: bytes, limit: int) -> bytes:
    """What was kept compressed, bounded. Raises zlib.error, ValueError for what was not kept by us."""
    reader = zlib.decompressobj()
    data = reader.decompress(content, limit)
    if reader.unconsumed_tail or not reader.eof:
        raise ValueError("a kept document is larger than it can have been")
    return data
