"""What a verb must know before it decides about a device: all of it by one statement, so at one moment.

What is decided on it counts only if the act that follows finds the device in this state and of this `state_version`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, bindparam, literal_column, select

from attestd.ids import DeviceId, EkHash, Site, Tier
from attestd.registry.engine import Registry
from attestd.registry.spends import Spent, spent_of
from attestd.registry.statements import Statement
from attestd.registry.states import State, UnknownDevice
from attestd.registry.tables import blocked_eks, devices, spends


class Standing(NamedTuple):
    """A device, as far as what it may be given depends on it. Times are unix seconds."""

    id: DeviceId
    state: State
    state_version: int
    tier: Tier | None
    site: Site | None
    status_index: int | None
    labels: Mapping[str, str]
    endorsement: str | None  # "certificate" or "inventory"; None before the first enrollment
    attested_at: int | None
    attestation_good_until: int | None
    result: Mapping[str, Any] | None
    ak_public: bytes | None
    ck_public: bytes | None
    ck_name: bytes | None
    ek_public: bytes | None
    manufacturer: str
    model: str
    firmware_version: str
    clock: Mapping[str, Any] | None
    quarantined_by: str | None


class Known(NamedTuple):
    """What the registry knows of an EK and of one challenge. `device`: which this EK stands for now."""

    device: Standing | None
    spent: Spent | None
    ek_is_blocked: bool  # it was replaced once


_COLUMNS = [devices.c[name] for name in Standing._fields]
_SPENT = [column.label(f"spent_{column.name}") for column in spends.c]
_STATES = {state.value: state for state in State}
_TIERS = {tier.value: tier for tier in Tier}


def _question(device: ColumnElement[bool], *more: ColumnElement[Any]) -> Select[Any]:
    """The device and what was spent, one row whether they are there or not."""
    always = select(literal_column("1").label("one")).subquery("always")
    found = always.outerjoin(devices, device).outerjoin(spends, spends.c.id == bindparam("spent"))
    return select(*_COLUMNS, *_SPENT, *more).select_from(found)


_FOR_REQUEST = Statement(_question(devices.c.id == bindparam("device")))
_FOR_ENROLLMENT = Statement(
    _question(
        devices.c.ek_hash == bindparam("ek"),
        select(blocked_eks.c.at).where(blocked_eks.c.ek_hash == bindparam("ek")).scalar_subquery().label("blocked_at"),
    )
)


def for_request(registry: Registry, device_id: DeviceId, nonce_id: bytes) -> tuple[Standing, Spent | None]:
    """The device that a request names, and what became of its nonce. Raises UnknownDevice."""
    row = registry.ask(_FOR_REQUEST, {"device": device_id, "spent": nonce_id}, to_act=True)
    if row.id is None:
        raise UnknownDevice(f"No device is called {device_id}.")
    return _standing(row), _spent(row)


def for_enrollment(registry: Registry, ek_hash: EkHash, challenge_id: bytes) -> Known:
    """The device of this EK, and what became of the challenge."""
    row = registry.ask(_FOR_ENROLLMENT, {"ek": ek_hash, "spent": challenge_id}, to_act=True)
    return Known(None if row.id is None else _standing(row), _spent(row), row.blocked_at is not None)


def _standing(row: Any) -> Standing:
    device_id, state, version, tier, site, *others = row[: len(_COLUMNS)]
    return Standing(
        DeviceId(device_id),
        _STATES[state],
        version,
        None if tier is None else _TIERS[tier],
        None if site is None else Site(site),
        *others,
    )


def _spent(row: Any) -> Spent | None:
    if row.spent_id is None:
        return None
    return spent_of(row[len(_COLUMNS) : len(_COLUMNS) + len(_SPENT)])
