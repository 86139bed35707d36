"""Acts on many devices at once: releasing those that belong together, quarantining those that the brake held.

A page of devices is locked, changed by one statement and noted in the audit trail by another, so that the whole is one
act also where it is thousands. What each device was is looked at under its lock. Times are unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, String, bindparam, case, cast, func, select, update

from attestd.ids import DeviceId, Site, Tier
from attestd.protocol.encoding import write_object
from attestd.registry import revision
from attestd.registry.devices import APPRAISAL, Device, device_of
from attestd.registry.states import TRANSITIONS, Event, State
from attestd.registry.tables import devices, held

_PAGE: Final = 500
Note = Callable[[Sequence[tuple[DeviceId, Mapping[str, Any]]]], None]


@dataclass(frozen=True, slots=True)
class Cohort:
    """Quarantined devices that belong together: whatever is given must hold."""

    site: Site | None = None
    tier: Tier | None = None
    label: tuple[str, str] | None = None
    since: int | None = None  # quarantined then or later
    quarantined_by: str | None = None

    @property
    def criteria(self) -> dict[str, Any]:
        """What is asked for, for the audit trail."""
        found = {
            "site": self.site,
            "tier": None if self.tier is None else self.tier.value,
            "label": None if self.label is None else "=".join(self.label),
            "since": self.since,
            "by": self.quarantined_by,
        }
        return {name: value for name, value in found.items() if value is not None}


def count(c: Connection, cohort: Cohort) -> int:
    """How many devices it has."""
    if cohort.label is None:
        return int(c.execute(select(func.count()).select_from(devices).where(*_wanted(cohort))).scalar_one())
    return sum(len(page) for page in _pages(c, cohort))


def first(c: Connection, cohort: Cohort, *, limit: int) -> list[Device]:
    """So many of its devices, in the order of their ids."""
    found: list[Device] = []
    for page in _pages(c, cohort):
        found.extend(page)
        if len(found) >= limit:
            break
    return found[:limit]


def release(c: Connection, cohort: Cohort, *, reason: str, now: int, limit: int, note: Note) -> int:
    """Its first devices, `limit` at most, become active; returns how many. `note` is told of each page."""
    done, ended = 0, devices.c.attestation_good_until
    values = {
        "state": State.ACTIVE.value,
        "state_version": devices.c.state_version + 1,
        "state_reason": reason,
        "quarantined_by": None,
        "quarantined_at": None,
        "updated_at": now,
        # As for one device: overdue from now on, if its result has ended.
        "attestation_good_until": case((ended < now, now), else_=ended),
    }
    for page in _pages(c, cohort, lock=True):
        ids = [device.id for device in page[: limit - done]]
        c.execute(update(devices).where(devices.c.id.in_(ids)).values(values))
        note([(device_id, {}) for device_id in ids])
        done += len(ids)
        if done >= limit:
            break
    if done:
        revision.bump(c)
    return done


def quarantine_held(c: Connection, *, now: int, note: Note) -> int:
    """Devices whose results the brake holds are quarantined by them, as if they had counted; returns how many.

    Those that are not active any more stay as they are: somebody decided about them meanwhile.
    """
    done, last = 0, ""
    active = devices.c.state.in_([state.value for state in sorted(TRANSITIONS[Event.QUARANTINE].come_from)])
    wanted = (
        select(held.c.device_id, held.c.at, held.c.result)
        .join(devices, devices.c.id == held.c.device_id)
        .where(active)
        .order_by(held.c.device_id)
        .limit(_PAGE)
        .with_for_update(of=devices)
    )
    while page := c.execute(wanted.where(held.c.device_id > last)).all():
        last = page[-1].device_id
        c.execute(_QUARANTINE, [_quarantined(row, now) for row in page])
        note([(DeviceId(row.device_id), {"because": list(row.result["reasons"])}) for row in page])
        done += len(page)
    if done:
        revision.bump(c)
    return done


_QUARANTINE = (
    update(devices)
    .where(devices.c.id == bindparam("wanted"))
    .values(
        state=State.QUARANTINED.value,
        state_version=devices.c.state_version + 1,
        state_reason=bindparam("because"),
        quarantined_by=APPRAISAL,
        quarantined_at=bindparam("now"),
        updated_at=bindparam("now"),
        result=bindparam("found"),
        result_status=bindparam("found_status"),
        attested_at=bindparam("found_at"),
        attestation_good_until=bindparam("found_at"),
    )
)


def _quarantined(row: Any, now: int) -> dict[str, Any]:
    found = {"found": row.result, "found_at": row.at, "found_status": row.result.get("status")}
    return {"wanted": row.device_id, "because": "; ".join(row.result["reasons"]), "now": now, **found}


def _wanted(cohort: Cohort) -> list[ColumnElement[bool]]:
    d = devices.c
    equal = {
        d.site: cohort.site,
        d.tier: None if cohort.tier is None else cohort.tier.value,
        d.quarantined_by: cohort.quarantined_by,
    }
    wanted = [d.state == State.QUARANTINED.value]
    wanted += [column == value for column, value in equal.items() if value is not None]
    if cohort.since is not None:
        wanted.append(d.quarantined_at >= cohort.since)
    if cohort.label is not None:  # as it is stored; what resembles it is sorted out afterwards
        pair = write_object(dict([cohort.label])).decode()[1:-1]
        wanted.append(cast(d.labels, String).contains(pair, autoescape=True))
    return wanted


def _pages(c: Connection, cohort: Cohort, *, lock: bool = False) -> Iterator[list[Device]]:
    """The cohort in the order of ids; with `lock` each device stays as it is seen."""
    last = ""
    wanted = select(devices).where(*_wanted(cohort)).order_by(devices.c.id).limit(_PAGE)
    if lock:
        wanted = wanted.with_for_update()
    while rows := c.execute(wanted.where(devices.c.id > last)).all():
        last = rows[-1].id
        found = [device_of(row) for row in rows]
        if cohort.label is not None:
            name, value = cohort.label
            found = [device for device in found if device.labels.get(name) == value]
        yield found
