"""Reference manifests, version by version, and what the watched ones would refuse (docs/adr/0025). Unix seconds.

A new version of a name takes its predecessors' place after an overlap, in which either is good: machines are updated
one after another. Rows stay, so that an old result's manifests can be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, or_, select, update

from attestd.errors import NotFound
from attestd.ids import DeviceId
from attestd.registry import revision
from attestd.registry.acts import Step
from attestd.registry.contents import packed, unpacked
from attestd.registry.statements import Statement
from attestd.registry.tables import reference_manifests as manifests
from attestd.registry.tables import watched

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


@dataclass(frozen=True, slots=True)
class Watched:
    """What a watched manifest said last of one device that it would refuse."""

    device_id: DeviceId
    at: int
    reasons: tuple[str, ...]


# ---- Versions ---------------------------------------------------------------------------------------------------


def add(
    c: Connection, *, name: str, stage: str, digest: str, document: bytes, added_by: str, now: int, overlap: int
) -> StoredManifest:
    """The next version of a name. Those before it count for `overlap` seconds more; at another stage they end now."""
    current = manifests.c.name == name, or_(manifests.c.until.is_(None), manifests.c.until > now)
    c.execute(update(manifests).where(*current, manifests.c.stage != stage).values(until=now))
    c.execute(update(manifests).where(*current, manifests.c.until.is_(None)).values(until=now + overlap))
    number = c.execute(
        insert(manifests)
        .values(
            name=name,
            stage=stage,
            digest=digest,
            document=packed(document),
            added_at=now,
            added_by=added_by,
            until=None,
        )
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
    c.execute(delete(watched).where(watched.c.digest == found.digest))
    revision.change_references(c)
    return by_number(c, number)


def by_number(c: Connection, number: int) -> StoredManifest:
    """One version. Raises UnknownManifest."""
    row = c.execute(select(manifests).where(manifests.c.number == number)).one_or_none()
    if row is None:
        raise UnknownManifest(seen=number)
    return _of(row)


def by_digest(c: Connection, digest: str) -> StoredManifest | None:
    """The newest version with this document."""
    wanted = select(manifests).where(manifests.c.digest == digest).order_by(manifests.c.number.desc()).limit(1)
    row = c.execute(wanted).one_or_none()
    return None if row is None else _of(row)


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


def _of(row: Row[Any]) -> StoredManifest:
    members = dict(row._mapping)
    members["document"] = unpacked(members["document"], MAX_DOCUMENT)
    return StoredManifest(**members)


# ---- What watched ones would refuse -----------------------------------------------------------------------------

_SAID = Statement(
    delete(watched).where(watched.c.digest == bindparam("of_digest"), watched.c.device_id == bindparam("device"))
)
_SAY = Statement(insert(watched).inline(), columns=watched.c.keys())


def watching(device_id: DeviceId, digest: str, reasons: Sequence[str], *, now: int) -> tuple[Step, ...]:
    """What a watched manifest says of a device from now on: why it would refuse it, or nothing."""
    said = Step(_SAID, {"of_digest": digest, "device": device_id})
    if not reasons:
        return (said,)
    row = {"digest": digest, "device_id": device_id, "at": now, "reasons": list(reasons)}
    return said, Step(_SAY, row)


def would_refuse(
    c: Connection, digest: str, *, after: DeviceId | None = None, limit: int = 100
) -> tuple[int, list[Watched]]:
    """How many devices a watched manifest would refuse, and a page of them in the order of their ids."""
    total = c.execute(select(func.count()).select_from(watched).where(watched.c.digest == digest)).scalar_one()
    wanted = [watched.c.digest == digest] + ([] if after is None else [watched.c.device_id > after])
    rows = c.execute(select(watched).where(*wanted).order_by(watched.c.device_id).limit(min(limit, MAX_PAGE)))
    return int(total), [Watched(DeviceId(row.device_id), row.at, tuple(row.reasons)) for row in rows]
