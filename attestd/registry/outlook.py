"""What an overview says beside the kept counts: who is overdue, who is quarantined and why, what ends soon.

Each question goes by an index and reads what it counts, or stops at a bound and says so. Times are unix seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, func, select

from attestd.registry.counts import NONE
from attestd.registry.states import State
from attestd.registry.tables import devices, issued, tpm_makers

LOOKED: Final = 5000  # quarantined devices whose reasons are read
COUNTED: Final = 20_000  # certificates that are counted


@dataclass(frozen=True, slots=True)
class Late:
    """Overdue devices of one tier that had the same result."""

    tier: str
    status: str
    count: int


@dataclass(frozen=True, slots=True)
class Behind:
    """Overdue devices of one site. `since`: when the first of their results ended."""

    site: str
    count: int
    since: int


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Devices of one site that are quarantined for the same reason. `example`: one of them; `serial_number`: what it
    calls itself, if it is the only one."""

    why: str
    site: str
    by: str | None
    count: int
    since: int
    example: str
    serial_number: str | None


@dataclass(frozen=True, slots=True)
class Makers:
    """Trusted makers' certificates that end within a time."""

    count: int
    first: Sequence[tuple[str, int]]  # subject and end


def overdue(c: Connection, *, ended_by: int) -> list[Late]:
    """All of them, by tier and result."""
    d = devices.c
    rows = c.execute(
        select(d.tier, d.result_status, func.count()).where(_ended(ended_by)).group_by(d.tier, d.result_status)
    )
    return [Late(tier or "", status or NONE, count) for tier, status, count in rows]


def overdue_by_site(c: Connection, *, ended_by: int, limit: int) -> tuple[list[Behind], int]:
    """Those sites that have the most, and how many sites have any."""
    site, count = func.coalesce(devices.c.site, "").label("site"), func.count().label("count")
    since = func.min(devices.c.attestation_good_until).label("since")
    sites = select(site, count, since).where(_ended(ended_by)).group_by(site).cte("sites")
    total = select(func.count()).select_from(sites).scalar_subquery()
    first = select(sites, total).order_by(sites.c.count.desc(), sites.c.site).limit(limit)
    rows = c.execute(first).all()
    return [Behind(row[0], row[1], row[2]) for row in rows], rows[0][3] if rows else 0


def _ended(by: int) -> ColumnElement[bool]:
    return and_(devices.c.state == State.ACTIVE.value, devices.c.attestation_good_until <= by)


def quarantined(c: Connection) -> list[Quarantined]:
    """By reason and site, the most frequent first, of the first LOOKED."""
    d = devices.c
    some = (
        select(d.state_reason, d.site, d.quarantined_by, d.quarantined_at, d.updated_at, d.id, d.serial_number)
        .where(d.state == State.QUARANTINED.value)
        .order_by(d.id)
        .limit(LOOKED)
        .subquery()
    )
    group = (some.c.state_reason, some.c.site, some.c.quarantined_by)
    since = func.min(func.coalesce(some.c.quarantined_at, some.c.updated_at))
    example, serial = func.min(some.c.id), func.min(some.c.serial_number)
    rows = c.execute(select(*group, func.count(), since, example, serial).group_by(*group))
    found = [
        Quarantined(why or "", site or "", by, count, at, one, called if count == 1 else None)
        for why, site, by, count, at, one, called in rows
    ]
    return sorted(found, key=lambda each: (-each.count, each.why, each.site))


def ending_certificates(c: Connection, *, now: int, until: int) -> int:
    """How many devices' certificates end from now on until then; counted up to COUNTED."""
    wanted = and_(issued.c.not_after > now, issued.c.not_after <= until)
    some = select(issued.c.not_after).where(wanted).limit(COUNTED).subquery()
    return int(c.execute(select(func.count()).select_from(some)).scalar_one())


def ending_makers(c: Connection, *, now: int, until: int, limit: int = 5) -> Makers:
    """Those that have not ended."""
    m = tpm_makers.c
    wanted = and_(m.not_after > now, m.not_after <= until)
    count = int(c.execute(select(func.count()).select_from(tpm_makers).where(wanted)).scalar_one())
    first = c.execute(select(m.subject, m.not_after).where(wanted).order_by(m.not_after, m.subject).limit(limit))
    return Makers(count, [(row.subject, row.not_after) for row in first])
