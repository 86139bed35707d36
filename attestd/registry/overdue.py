"""Active devices whose last result stopped counting: each is told once, by whichever service is first. Unix seconds.

Who was told stands in one row: a place in the order of (end of the result, id), past which nobody was told. A device
that attests moves to a later time, and comes to that place again if it lapses again; so does one that is released from
quarantine (`devices`). Reading the place locks it: of several services on one database the next waits, and goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, update

from attestd.ids import DeviceId
from attestd.registry import audit, revision
from attestd.registry.states import State
from attestd.registry.tables import counters, devices, told

ACTOR: Final = "attestd"  # nobody asked for it
_NAME: Final = "overdue"
_AFTER_ALL: Final = "~"  # sorts after every id


@dataclass(frozen=True, slots=True)
class Overdue:
    """One device, and since when no result of it counts."""

    device_id: DeviceId
    tier: str | None
    site: str | None
    since: int


def tell(c: Connection, *, ended_by: int, now: int, limit: int) -> list[Overdue]:
    """Those who come next, at most `limit`, each with its row in the audit trail: their results ended by `ended_by`.

    The first time in a registry nobody is told: who lapsed before anybody looked is no news.
    """
    held = update(told).where(told.c.name == _NAME).values(until=told.c.until)
    until, last = c.execute(held.returning(told.c.until, told.c.device_id)).one()
    if until == 0:
        _move(c, ended_by, _AFTER_ALL)
        return []
    d = devices.c
    later = or_(d.attestation_good_until > until, and_(d.attestation_good_until == until, d.id > last))
    wanted = (
        select(d.id, d.tier, d.site, d.attestation_good_until)
        .where(_ended_by(ended_by), d.attestation_good_until >= until, later)  # the second lets the index begin there
        .order_by(d.attestation_good_until, d.id)
        .limit(limit)
    )
    found = [Overdue(DeviceId(row.id), row.tier, row.site, row.attestation_good_until) for row in c.execute(wanted)]
    for each in found:
        audit.append(
            c,
            at=now,
            actor=ACTOR,
            act="overdue",
            subject=str(each.device_id),
            request_id=None,
            detail={"tier": each.tier, "site": each.site, "since": each.since},
        )
    if found:
        _move(c, found[-1].since, found[-1].device_id)
    return found


def _move(c: Connection, until: int, device_id: str) -> None:
    c.execute(update(told).where(told.c.name == _NAME).values(until=until, device_id=device_id))


def _ended_by(moment: int) -> ColumnElement[bool]:
    return and_(devices.c.state == State.ACTIVE.value, devices.c.attestation_good_until <= moment)


def count(c: Connection, *, ended_by: int) -> int:
    """How many are overdue, told or not."""
    return int(c.execute(select(func.count()).select_from(devices).where(_ended_by(ended_by))).scalar_one())


def count_unattested(c: Connection) -> int:
    """Active devices of which no attestation counts since the registry was restored."""
    wanted = devices.c.state == State.ACTIVE.value, devices.c.attestation_good_until.is_(None)
    return int(c.execute(select(func.count()).select_from(devices).where(*wanted)).scalar_one())


# ---- The round itself -------------------------------------------------------------------------------------------


def watched(c: Connection, *, now: int) -> None:
    """A whole round has ended well."""
    c.execute(update(counters).where(counters.c.name == revision.WATCHED_AT).values(value=now))


def watched_at(c: Connection) -> int:
    """When one last did; 0 before the first."""
    return int(c.execute(select(counters.c.value).where(counters.c.name == revision.WATCHED_AT)).scalar_one())
