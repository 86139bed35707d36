"""Devices by why they are as they are, the most frequent cause first: one line for all that share it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from attestd.ids import DeviceId
from attestd.registry import brake, counts, finding
from attestd.registry.brake import Held
from attestd.registry.devices import MAX_PAGE, Device
from attestd.registry.filters import Filters
from attestd.registry.finding import FEW
from attestd.registry.states import State
from attestd.registry.tables import devices, held

MAX_CAUSES: Final = 50
CONTRAINDICATED: Final = "contraindicated"


@dataclass(frozen=True, slots=True)
class Cause:
    """Devices that are where they are for the same reason. `ids`: some of them."""

    kind: str  # the state, "overdue", or the result's status
    why: str
    count: int
    sites: Sequence[tuple[str, int]]
    ids: Sequence[str]
    since: int | None  # the earliest of them


def of_matching(c: Connection, filters: Filters, *, ended_by: int) -> tuple[list[Cause], bool]:
    """The first FEW devices that match; and whether there are more than those. A result that the brake holds says more
    of a device than the one that still counts."""
    found: list[Device] = []
    after: DeviceId | None = None
    while len(found) < FEW:
        part = finding.page(c, filters, ended_by=ended_by, after=after, limit=min(MAX_PAGE, FEW - len(found)))
        found += part.devices
        after = part.after
        if after is None or not part.devices:
            break
    against = brake.held_against(c, [device.id for device in found])
    alike: dict[tuple[str, str], list[Device]] = defaultdict(list)
    for device in found:
        alike[_cause_of(device, against.get(device.id), ended_by)].append(device)
    return _sorted([_cause(kind, why, same) for (kind, why), same in alike.items()]), after is not None


def of_held(c: Connection) -> tuple[list[Cause], bool]:
    """The first FEW results that the brake holds, by their reasons; and whether there are more than those."""
    wanted = (
        select(held.c.device_id, held.c.at, held.c.result, devices.c.site)
        .join(devices, devices.c.id == held.c.device_id)
        .order_by(held.c.device_id)
        .limit(FEW + 1)
    )
    rows = c.execute(wanted).all()
    alike: dict[str, list[Row[Any, Any, Any, Any]]] = defaultdict(list)
    for row in rows[:FEW]:
        alike[_reasons(row.result)].append(row)
    return _sorted([_held_cause(why, same) for why, same in alike.items()]), len(rows) > FEW


def _cause_of(device: Device, against: Held | None, ended_by: int) -> tuple[str, str]:
    if device.state is not State.ACTIVE:
        return device.state.value, device.state_reason or _reasons(device.result)
    if against is not None:
        return CONTRAINDICATED, _reasons(against.result)
    if device.attestation_good_until is not None and device.attestation_good_until <= ended_by:
        return "overdue", device.site or ""
    return device.result_status or counts.NONE, _reasons(device.result)


def _reasons(result: Mapping[str, Any] | None) -> str:
    return "; ".join((result or {}).get("reasons", ()))


def _cause(kind: str, why: str, alike: Sequence[Device]) -> Cause:
    times = [device.quarantined_at or device.attestation_good_until or device.updated_at for device in alike]
    return Cause(kind, why, len(alike), _by_site(alike), [device.id for device in alike[:5]], min(times))


def _held_cause(why: str, alike: Sequence[Row[Any, Any, Any, Any]]) -> Cause:
    ids = [str(row.device_id) for row in alike[:5]]
    return Cause(CONTRAINDICATED, why, len(alike), _by_site(alike), ids, min(row.at for row in alike))


def _by_site(alike: Sequence[Any]) -> list[tuple[str, int]]:
    """The most first."""
    sites = Counter(each.site for each in alike if each.site)
    return sorted(sites.items(), key=lambda each: (-each[1], each[0]))


def _sorted(found: Sequence[Cause]) -> list[Cause]:
    return sorted(found, key=lambda each: (-each.count, each.kind, each.why))[:MAX_CAUSES]
