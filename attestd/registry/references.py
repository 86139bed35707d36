"""Reference manifests, version by version, and what the watched ones would refuse (docs/adr/0025). Unix seconds.

A new version that decides takes its predecessors' place after an overlap, in which either is good: machines are updated
one after another. What is watched, or is a draft, lives beside what decides: the next version is tried while this one
counts. Rows stay, so that an old result's manifests can be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from attestd.appraisal.manifests import Match, Stage, Subject
from attestd.errors import Conflict, NotFound
from attestd.ids import DeviceId, Tier
from attestd.registry import revision
from attestd.registry.acts import Step
from attestd.registry.contents import packed, unpacked
from attestd.registry.statements import Statement
from attestd.registry.states import State
from attestd.registry.tables import devices, held, watched
from attestd.registry.tables import reference_manifests as manifests

MAX_PAGE: Final = 1000
MAX_DOCUMENT: Final = 16 * 1024 * 1024  # octets, as `attestd.appraisal.manifests` has it


class UnknownManifest(NotFound):
    """There is no such reference manifest"""

    remedy = "`attestd references list` shows the manifests and their numbers."


class ReferencesRaced(Conflict):
    """The reference manifests changed at this moment"""

    remedy = "Look at them again (`attestd references list`), then repeat."


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


def begin_change(c: Connection, *, seen: int) -> None:
    """A change by somebody who looked at this version of all manifests; others that begin one wait for its end.

    Raises ReferencesRaced.
    """
    if revision.change_references(c) != seen + 1:
        raise ReferencesRaced


# A version ends those of its own stage and of the stages before: a draft is done with once it is watched.
_BEFORE: Final = {
    Stage.LEARN: (Stage.LEARN,),
    Stage.MONITOR: (Stage.LEARN, Stage.MONITOR),
    Stage.ENFORCE: (Stage.LEARN, Stage.MONITOR),
}


def add(
    c: Connection, *, name: str, stage: str, digest: str, document: bytes, added_by: str, now: int, overlap: int
) -> StoredManifest:
    """The next version of a name. One that decides lets those that decided count for `overlap` seconds more, or for as
    long as was said before if that is less; what it takes the place of otherwise ends now."""
    current = manifests.c.name == name, _counts(now)
    replaced = or_(manifests.c.stage.in_(_BEFORE[Stage(stage)]), manifests.c.digest == digest)
    c.execute(update(manifests).where(*current, replaced).values(until=now))
    if stage == Stage.ENFORCE:
        outlives = or_(manifests.c.until.is_(None), manifests.c.until > now + overlap)
        c.execute(
            update(manifests).where(*current, manifests.c.stage == Stage.ENFORCE, outlives).values(until=now + overlap)
        )
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
    ended = c.execute(update(manifests).where(manifests.c.number == number, _counts(now)).values(until=now)).rowcount
    found = by_number(c, number)
    if ended != 1:
        raise UnknownManifest("This manifest counts no longer anyway.", seen=number)
    revision.change_references(c)
    return found


def _counts(now: int) -> ColumnElement[bool]:
    return or_(manifests.c.until.is_(None), manifests.c.until > now)


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
    return [_of(row) for row in c.execute(select(manifests).where(_counts(now)).order_by(manifests.c.number))]


def page(
    c: Connection, *, counting_at: int | None = None, before: int | None = None, limit: int = 100
) -> list[StoredManifest]:
    """Versions, the newest first, without their documents; the last one's `number` is the next page's `before`.

    `counting_at`: only those that count at this time.
    """
    columns = [column for column in manifests.c if column.name != "document"]
    wanted = [] if before is None else [manifests.c.number < before]
    if counting_at is not None:
        wanted.append(_counts(counting_at))
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
    """How many active devices a watched manifest would refuse, and a page of them in the order of their ids."""
    refused = watched.join(devices, watched.c.device_id == devices.c.id)
    wanted = [watched.c.digest == digest, devices.c.state == State.ACTIVE]
    total = c.execute(select(func.count()).select_from(refused).where(*wanted)).scalar_one()
    if after is not None:
        wanted.append(watched.c.device_id > after)
    columns = watched.c.device_id, watched.c.at, watched.c.reasons
    statement = select(*columns).select_from(refused).where(*wanted).order_by(watched.c.device_id)
    rows = c.execute(statement.limit(min(limit, MAX_PAGE)))
    return int(total), [Watched(DeviceId(row.device_id), row.at, tuple(row.reasons)) for row in rows]


def purge_watched(c: Connection, *, now: int, limit: int) -> int:
    """Forgets what was said of devices by manifests that count no longer, or by none. Returns how many rows went."""
    counts = exists().where(manifests.c.digest == watched.c.digest, _counts(now))
    old = (
        select(watched.c.digest, watched.c.device_id)
        .where(~counts)
        .order_by(watched.c.digest, watched.c.device_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return c.execute(delete(watched).where(tuple_(watched.c.digest, watched.c.device_id).in_(old))).rowcount


# ---- Devices that a manifest would decide about -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Affected:
    """An active device, and what its newest result says: the manifests that decided, and how. A result that the brake
    holds is the newest."""

    device_id: DeviceId
    subject: Subject
    status: str
    policies: frozenset[str]


def affected(
    c: Connection,
    match: Match,
    *,
    refused_by: str = "",
    unheard_since: int | None = None,
    after: DeviceId | None = None,
    limit: int = MAX_PAGE,
) -> tuple[list[Affected], DeviceId | None]:
    """A page of active devices that a match fits, and where the next one begins; None after the last.

    `refused_by`: only those that the watched manifest of this digest would refuse. `unheard_since`: only those that it
    would not, and that have not attested after that time. A page holds fewer than `limit` where labels do not fit:
    those are compared here, the rest by the database.
    """
    wanted = [devices.c.state == State.ACTIVE]
    for column, value in (
        (devices.c.tier, match.tier),
        (devices.c.manufacturer, match.manufacturer),
        (devices.c.model, match.model),
    ):
        if value is not None:
            wanted.append(column == value)
    if after is not None:
        wanted.append(devices.c.id > after)
    refused = exists().where(watched.c.digest == refused_by, watched.c.device_id == devices.c.id)
    if unheard_since is not None:
        wanted += [~refused, or_(devices.c.attested_at.is_(None), devices.c.attested_at <= unheard_since)]
    elif refused_by:
        wanted.append(refused)
    columns = [devices.c[name] for name in ("id", "tier", "labels", "manufacturer", "model", "result")]
    braked = exists().where(held.c.device_id == devices.c.id).label("braked")
    rows = c.execute(select(*columns, braked).where(*wanted).order_by(devices.c.id).limit(limit)).all()
    found = [
        Affected(
            DeviceId(row.id),
            Subject(None if row.tier is None else Tier(row.tier), row.labels, row.manufacturer or "", row.model or ""),
            "contraindicated" if row.braked else str((row.result or {}).get("status", "")),
            frozenset((row.result or {}).get("policies", ())),
        )
        for row in rows
    ]
    ends = DeviceId(rows[-1].id) if len(rows) == limit else None
    return [device for device in found if match.fits(device.subject)], ends
