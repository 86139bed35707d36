"""The brake on quarantines that follow from results: so many a minute, and then none before an operator decides.

Whoever quarantines by a result, holds one, engages or releases the brake takes its row first, which locks it. So the
count of the last minute is exact where transactions run side by side, results are held only while the brake is engaged,
and nobody waits for a device's row who has this one. Times are unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from attestd.errors import Conflict
from attestd.ids import DeviceId
from attestd.registry.acts import Step, perform
from attestd.registry.statements import Statement
from attestd.registry.states import State
from attestd.registry.tables import brake, devices, held, quarantines

WINDOW: Final = 60  # seconds in which quarantines are counted
MAX_PAGE: Final = 1000
_KEPT: Final = 3600  # seconds that they are kept: clocks of instances may differ


class BrakeEngaged(Conflict):
    """The brake is engaged"""

    remedy = "`attestd brake show` says why and what is held; `attestd brake release` ends it."


class BrakeReleased(Conflict):
    """The brake is not engaged"""

    remedy = "Nothing was done; `attestd brake show` says how it stands."


class BrakeLimit(Conflict):
    """As many devices as may be were quarantined within a minute"""

    remedy = "The brake engages; `attestd brake show` says what is held."


@dataclass(frozen=True, slots=True)
class Brake:
    """How it stands. All three are None while it is released."""

    engaged_at: int | None
    engaged_by: str | None
    reason: str | None

    @property
    def engaged(self) -> bool:
        return self.engaged_at is not None


@dataclass(frozen=True, slots=True)
class Held:
    """A contraindicated result that does not count while the brake is engaged."""

    device_id: DeviceId
    at: int
    result: Mapping[str, Any]


_TAKE_RELEASED = Statement(update(brake).where(brake.c.engaged_at.is_(None)).values(turns=brake.c.turns + 1))
_TAKE = Statement(
    update(brake).values(turns=brake.c.turns + 1).returning(brake.c.engaged_at, brake.c.engaged_by, brake.c.reason)
)
_RECENT = select(func.count()).select_from(quarantines).where(quarantines.c.at > bindparam("since"))
_COUNT_IN = Statement(
    insert(quarantines)
    .inline()
    .from_select(
        ("device_id", "at"),
        select(
            bindparam("device", type_=quarantines.c.device_id.type), bindparam("now", type_=quarantines.c.at.type)
        ).where(_RECENT.scalar_subquery() < bindparam("most", type_=quarantines.c.at.type)),
    )
)
_FORGET_OLD = Statement(delete(quarantines).where(quarantines.c.at < bindparam("before")))
_FORGET_HELD = Statement(delete(held).where(held.c.device_id == bindparam("device")))
_HOLD = Statement(insert(held).inline(), columns=("device_id", "at", "result"))


# ---- Reading ----------------------------------------------------------------------------------------------------


def state(c: Connection) -> Brake:
    """Whether it is engaged, since when, by whom and why."""
    return Brake(*c.execute(select(brake.c.engaged_at, brake.c.engaged_by, brake.c.reason)).one())


def recent(c: Connection, *, now: int) -> int:
    """How many devices were quarantined by their results within the last minute, and since the last release."""
    return int(c.execute(_RECENT, {"since": now - WINDOW}).scalar_one())


def count_held(c: Connection) -> int:
    """How many results are held."""
    return int(c.execute(select(func.count()).select_from(held)).scalar_one())


def page_held(c: Connection, *, after: DeviceId | None = None, limit: int = 100) -> list[Held]:
    """Held results in the order of their devices; the last one's is the next page's `after`."""
    wanted = [] if after is None else [held.c.device_id > after]
    rows = c.execute(
        select(held.c.device_id, held.c.at, held.c.result)
        .where(*wanted)
        .order_by(held.c.device_id)
        .limit(min(limit, MAX_PAGE))
    )
    return [Held(DeviceId(row.device_id), row.at, row.result) for row in rows]


def held_against(c: Connection, ids: Sequence[DeviceId]) -> dict[DeviceId, Held]:
    """What is held against these devices. Nothing is while it is released: that is asked first, so that a list of
    devices pays no more than one short question then."""
    if not ids or not state(c).engaged:
        return {}
    found: dict[DeviceId, Held] = {}
    for start in range(0, len(ids), MAX_PAGE):
        these = held.c.device_id.in_(ids[start : start + MAX_PAGE])
        for row in c.execute(select(held.c.device_id, held.c.at, held.c.result).where(these)):
            found[DeviceId(row.device_id)] = Held(DeviceId(row.device_id), row.at, row.result)
    return found


def first_end(c: Connection) -> int | None:
    """When the first of the results ends under which held devices live on; it may have. None: nobody does."""
    ends = select(func.min(devices.c.attestation_good_until)).join(held, held.c.device_id == devices.c.id)
    found = c.execute(ends.where(devices.c.state == State.ACTIVE.value)).scalar_one()
    return None if found is None else int(found)


# ---- Acting -----------------------------------------------------------------------------------------------------


def quarantining(device_id: DeviceId, *, limit: int, now: int) -> tuple[Step, ...]:
    """First in the act that quarantines by a result: refused as BrakeEngaged, or as BrakeLimit where `limit` devices
    were quarantined within the last minute."""
    counted = {"device": device_id, "now": now, "since": now - WINDOW, "most": limit}
    return (
        Step(_TAKE_RELEASED, {}, otherwise=lambda _: BrakeEngaged()),
        Step(_COUNT_IN, counted, otherwise=lambda _: BrakeLimit(seen=f"{limit} within {WINDOW} s")),
        Step(_FORGET_OLD, {"before": now - _KEPT}),
    )


def take(c: Connection) -> Brake:
    """How it stands, until this transaction ends."""
    return Brake(*_TAKE.one_or_none(c, {}))


def engage(c: Connection, *, by: str, reason: str, now: int) -> None:
    """From now on no result quarantines. After `take`. Raises BrakeEngaged."""
    values = {"engaged_at": now, "engaged_by": by, "reason": reason}
    if c.execute(update(brake).where(brake.c.engaged_at.is_(None)).values(values)).rowcount != 1:
        raise BrakeEngaged


def hold(c: Connection, device_id: DeviceId, result: Mapping[str, Any], *, now: int) -> None:
    """Keeps this result in the place of one that the device's was held with before. After `take`, while engaged."""
    perform(
        c,
        forgetting(device_id),
        Step(_HOLD, {"device_id": device_id, "at": now, "result": result}),
    )


def forgetting(device_id: DeviceId) -> Step:
    """Holds nothing against the device any more: for the act by which it is found good, or that decides about it."""
    return Step(_FORGET_HELD, {"device": device_id})


def release(c: Connection) -> int:
    """Results count again, what was held is dropped, and counting begins anew. After `take`; returns how many were
    held. Raises BrakeReleased."""
    values = {"engaged_at": None, "engaged_by": None, "reason": None}
    if c.execute(update(brake).where(brake.c.engaged_at.is_not(None)).values(values)).rowcount != 1:
        raise BrakeReleased
    c.execute(delete(quarantines))
    return c.execute(delete(held)).rowcount
