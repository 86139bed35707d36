"""Devices that an operator wants to attest now. Times are unix seconds.

A demand is an act on the device: its last result counts for a short while only, and whatever was being decided about
it at that moment is decided anew. It ends when the device attests after it; its row goes in the next round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import ColumnElement, Connection, String, and_, cast, delete, func, insert, or_, select, update

from attestd.errors import MalformedInput
from attestd.ids import DeviceId, Site, Tier
from attestd.protocol.encoding import write_object
from attestd.registry import transitions
from attestd.registry.devices import Device
from attestd.registry.states import TRANSITIONS, Event, UnknownDevice
from attestd.registry.tables import demands
from attestd.registry.tables import devices as stored

MAX_AT_ONCE: Final = 250  # devices of one act: whoever else writes waits for it
_MAY_ATTEST: Final = tuple(sorted(state.value for state in TRANSITIONS[Event.DEMAND].come_from))


class NoCohort(MalformedInput):
    """The demand names no devices"""

    remedy = "Name devices, a site, a tier or labels; a whole fleet is its three tiers."


@dataclass(frozen=True, slots=True)
class Cohort:
    """Devices that attest and of which everything here holds: at least one thing. Raises NoCohort."""

    ids: Sequence[DeviceId] = ()
    site: Site | None = None
    tier: Tier | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.ids or self.site or self.tier or self.labels):
            raise NoCohort


@dataclass(frozen=True, slots=True)
class Demanded:
    """The devices of one act. `after`: there may be more, after this id."""

    ids: tuple[DeviceId, ...]
    after: DeviceId | None = None


def page(c: Connection, cohort: Cohort, *, after: DeviceId | None = None) -> Demanded:
    """The next devices of a cohort in the order of their ids. Raises UnknownDevice for an id that is named and not
    here; a named device that does not attest is left to `demand`."""
    if cohort.ids:
        known = set(c.execute(select(stored.c.id).where(stored.c.id.in_(cohort.ids))).scalars())
        if unknown := sorted(set(cohort.ids) - known):
            raise UnknownDevice(f"No device is called {unknown[0]}.")
    wanted: list[ColumnElement[bool]] = [stored.c.id.in_(cohort.ids) if cohort.ids else stored.c.state.in_(_MAY_ATTEST)]
    for column, value in ((stored.c.site, cohort.site), (stored.c.tier, cohort.tier)):
        if value is not None:
            wanted.append(column == value)
    wanted += [_mentions(name, value) for name, value in cohort.labels.items()]
    if after is not None:
        wanted.append(stored.c.id > after)
    statement = select(stored.c.id, stored.c.labels).where(*wanted).order_by(stored.c.id).limit(MAX_AT_ONCE)
    rows = c.execute(statement).all()
    # The database compares texts, without regard to case where it is SQLite; here labels are compared.
    found = [row.id for row in rows if all(row.labels.get(name) == value for name, value in cohort.labels.items())]
    more = DeviceId(rows[-1].id) if len(rows) == MAX_AT_ONCE else None
    return Demanded(tuple(map(DeviceId, found)), more)


def _mentions(name: str, value: str) -> ColumnElement[bool]:
    """Labels are stored as compact JSON: {"name":"value"}."""
    said = write_object({name: value}).decode()[1:-1]
    return cast(stored.c.labels, String).contains(said, autoescape=True)


def demand(
    c: Connection,
    device_id: DeviceId,
    *,
    by: str,
    reason: str,
    now: int,
    within: int,
    expected_version: int | None = None,
) -> Device:
    """This device shall attest now. Its result counts for `within` seconds more at most.

    Raises UnknownDevice, StateChanged, TransitionRefused.
    """
    values = {"attestation_good_until": now + within}
    device = transitions.change(c, device_id, Event.DEMAND, expected_version=expected_version, now=now, values=values)
    ask(c, device_id, by=by, reason=reason, now=now)
    return device


def ask(c: Connection, device_id: DeviceId, *, by: str, reason: str, now: int) -> None:
    """Its agent is told to attest, and nothing is held against it if it does not.

    By who changed the device in this transaction: it is held then, which keeps everybody else from doing this at the
    same time.
    """
    said = {"at": now, "asked_by": by, "reason": reason}
    if c.execute(update(demands).where(demands.c.device_id == device_id).values(said)).rowcount == 0:
        c.execute(insert(demands).values(device_id=device_id, **said))


# ---- Which are open ---------------------------------------------------------------------------------------------


def _answered() -> ColumnElement[bool]:
    """In the very second of a demand it may have been before it: then it does not count."""
    d = stored.c
    over = or_(d.attested_at > demands.c.at, d.state.not_in(_MAY_ATTEST))
    return select(d.id).where(and_(d.id == demands.c.device_id, over)).exists()


def outstanding(c: Connection) -> frozenset[str]:
    """The ids of the devices that have not attested since they were asked to."""
    return frozenset(c.execute(select(demands.c.device_id).where(~_answered())).scalars())


def count(c: Connection) -> int:
    """How many demands there are, with those that were answered since the last round."""
    return int(c.execute(select(func.count()).select_from(demands)).scalar_one())


def purge(c: Connection, *, limit: int) -> int:
    """Forgets demands that were answered, or whose device attests no more, at most `limit`; returns how many."""
    old = select(demands.c.device_id).where(_answered()).limit(limit).scalar_subquery()
    # Said twice: a demand that is made anew meanwhile stays.
    return c.execute(delete(demands).where(demands.c.device_id.in_(old), _answered())).rowcount
