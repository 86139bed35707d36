"""Devices as they are: one, a page of them, what the status list says of them. All times are unix seconds.

What changes one is `attestd.registry.transitions`; how an EK gets bound to a device id (asking, approval, inventory,
replacement) is `attestd.registry.admission`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, select

from attestd.credentials.status import Status
from attestd.ids import DeviceId, EkHash, Site, Tier
from attestd.registry.statements import Statement
from attestd.registry.states import State, UnknownDevice
from attestd.registry.tables import blocked_eks, devices

# What the status list says of each state. A device without valid credentials of its own is invalid, also while it waits
# for its first ones.
STATUS: Mapping[State, Status] = {
    State.PENDING: Status.INVALID,
    State.APPROVED: Status.INVALID,
    State.REJECTED: Status.INVALID,
    State.ACTIVE: Status.VALID,
    State.QUARANTINED: Status.SUSPENDED,
    State.RETIRED: Status.INVALID,
}

# Who quarantined a device: what an operator did, policy does not undo.
OPERATOR = "operator"
APPRAISAL = "appraisal"

MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Device:
    """A device as the registry knows it. The EK hash is a lifelong tracker: it is kept out of `repr` too."""

    id: DeviceId
    state: State
    state_version: int
    tier: Tier | None
    site: Site | None
    serial_number: str | None
    labels: Mapping[str, str]
    ek_hash: EkHash = field(repr=False)
    ek_public: bytes | None = field(repr=False)
    ak_public: bytes | None = field(repr=False)
    ck_public: bytes | None = field(repr=False)
    ck_name: bytes | None = field(repr=False)
    status_index: int | None
    manufacturer: str
    model: str
    firmware_version: str
    endorsement: str | None  # "certificate", "inventory" or "iak"; None before the first enrollment
    created_at: int
    updated_at: int
    attested_at: int | None
    attestation_good_until: int | None
    result: Mapping[str, Any] | None = field(repr=False)
    clock: Mapping[str, Any] | None
    state_reason: str | None
    source: str  # "inventory" or "request"
    quarantined_by: str | None = None  # OPERATOR or APPRAISAL, of a quarantined one; None: a restore
    quarantined_at: int | None = None
    result_status: str | None = None  # of `result`, while it counts


_BY_ID = Statement(select(devices).where(devices.c.id == bindparam("wanted")))
_BY_EK_HASH = Statement(select(devices).where(devices.c.ek_hash == bindparam("wanted")))
_BLOCKED = Statement(select(blocked_eks.c.at).where(blocked_eks.c.ek_hash == bindparam("wanted")))


def by_id(c: Connection, device_id: DeviceId) -> Device:
    """The device of this id. Raises UnknownDevice."""
    row = _BY_ID.one_or_none(c, {"wanted": device_id})
    if row is None:
        raise UnknownDevice(f"No device is called {device_id}.")
    return device_of(row)


def by_ids(c: Connection, device_ids: Sequence[DeviceId], *, to_act: bool = False) -> dict[DeviceId, Device]:
    """Those of these devices that there are; at most a thousand are asked for.

    `to_act`: they stay as they are until this transaction ends. Who acts on several takes all of them first: every act
    goes from a device to the revision, and who held the revision while waiting for a device would block both ways.
    """
    if len(device_ids) > MAX_PAGE:
        raise ValueError(f"{len(device_ids)} devices at once")
    statement = select(devices).where(devices.c.id.in_(device_ids)).order_by(devices.c.id)
    rows = c.execute(statement.with_for_update() if to_act else statement)
    return {device.id: device for device in map(device_of, rows)}


def by_ek_hash(c: Connection, ek_hash: EkHash) -> Device | None:
    """The device that this EK stands for now, if any."""
    row = _BY_EK_HASH.one_or_none(c, {"wanted": ek_hash})
    return None if row is None else device_of(row)


def ek_is_blocked(c: Connection, ek_hash: EkHash) -> bool:
    """Whether this EK was replaced once."""
    return _BLOCKED.one_or_none(c, {"wanted": ek_hash}) is not None


def page(
    c: Connection, *conditions: ColumnElement[bool], after: DeviceId | None = None, limit: int = 100
) -> list[Device]:
    """Devices of which all conditions hold, in the order of their ids; the last one's is the next page's `after`.

    `limit` is at most 1000. What people look for is found by `attestd.registry.finding`.
    """
    wanted = list(conditions) if after is None else [*conditions, devices.c.id > after]
    statement = select(devices).where(*wanted).order_by(devices.c.id).limit(min(limit, MAX_PAGE))
    return [device_of(row) for row in c.execute(statement)]


def status_entries(c: Connection) -> Iterator[tuple[int, Status]]:
    """(status index, status) of every device that has an index, in the order of indices, for the status list.

    An active device of which no attestation counts, since the registry was restored, is suspended until it attests.
    """
    statement = (
        select(devices.c.status_index, devices.c.state, devices.c.attested_at.is_not(None))
        .where(devices.c.status_index.is_not(None))
        .order_by(devices.c.status_index)
    )
    for index, state, attested in c.execute(statement):
        status = STATUS[State(state)]
        yield index, Status.SUSPENDED if status is Status.VALID and not attested else status


def device_of(row: Row[Any]) -> Device:
    """A row of the devices table as a Device; for this room only."""
    found = row._asdict()
    found["id"] = DeviceId(found["id"])
    found["state"] = State(found["state"])
    found["tier"] = None if found["tier"] is None else Tier(found["tier"])
    found["site"] = None if found["site"] is None else Site(found["site"])
    found["ek_hash"] = EkHash(found["ek_hash"])
    return Device(**found)
