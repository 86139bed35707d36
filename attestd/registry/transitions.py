"""What happens to a device that is bound to its EK already: it activates, attests, gets another key, changes its state.

Each act is one conditional UPDATE that must change one row: it names the state and, where something was appraised
before, the `state_version` that was appraised (docs/protocol.md, section 3). What a device's request does is a step of
`Registry.act()`; what operators do needs a connection of `Registry.acting()`, and after an error the whole transaction
is over. Which states an event comes from and goes to is `attestd.registry.states`.

`now` and all other times are unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, bindparam, case, or_, select, update

from attestd.errors import AttestdError
from attestd.ids import DeviceId, EkHash
from attestd.registry import issued, revision
from attestd.registry.acts import Step
from attestd.registry.devices import APPRAISAL, OPERATOR, Device, by_id, device_of
from attestd.registry.statements import Statement
from attestd.registry.states import TRANSITIONS, Event, State, StateChanged, refusal
from attestd.registry.tables import devices

_UNCHANGED = Statement(
    select(devices.c.id)
    .where(
        devices.c.id == bindparam("wanted"),
        devices.c.state == bindparam("state"),
        devices.c.state_version == bindparam("version"),
    )
    .with_for_update(read=True)
)


def activation(
    device_id: DeviceId,
    *,
    was: State,
    expected_version: int,
    ek_public: bytes,
    ak_public: bytes,
    ck_public: bytes,
    ck_name: bytes,
    endorsement: str,
    manufacturer: str,
    model: str,
    firmware_version: str,
    result: Mapping[str, Any],
    clock: Mapping[str, Any],
    good_until: int,
    now: int,
) -> tuple[Step, ...]:
    """A complete enrollment: approved or active -> active, with these keys; the version grows by one.

    `was`: its state at the expected version. An active one's credentials are revoked, so the new one is recorded after
    this. An approved one has none: whatever made it approved revoked them. Refused as UnknownDevice, StateChanged,
    TransitionRefused.
    """
    values = {
        "ek_public": ek_public,
        "ak_public": ak_public,
        "ck_public": ck_public,
        "ck_name": ck_name,
        "endorsement": endorsement,
        "manufacturer": manufacturer,
        "model": model,
        "firmware_version": firmware_version,
        "result": result,
        "clock": clock,
        "attested_at": now,
        "attestation_good_until": good_until,
        "state_reason": None,
    }
    change = _changing(
        device_id,
        Event.ACTIVATE,
        expected_version=expected_version,
        expected_ek=EkHash.of(ek_public),
        now=now,
        **values,
    )
    if was is State.APPROVED:
        return change, revision.bumping()
    return change, issued.revoking_all_of(device_id, reason="enrolled again", now=now), revision.bumping()


def attestation(
    device_id: DeviceId,
    *,
    expected_version: int,
    result: Mapping[str, Any],
    clock: Mapping[str, Any],
    good_until: int,
    now: int,
    counts_again: bool = False,
) -> tuple[Step, ...]:
    """A known device's new attestation result. The state and its version stay; quarantined devices may attest too.

    `counts_again`: the device that was appraised had no `attested_at`, and was suspended for it. Refused as
    UnknownDevice, StateChanged, TransitionRefused.
    """
    change = _changing(
        device_id,
        Event.ATTEST,
        expected_version=expected_version,
        now=now,
        result=result,
        clock=clock,
        attested_at=now,
        attestation_good_until=good_until,
    )
    return (change, revision.bumping()) if counts_again else (change,)


def clock_seen(device_id: DeviceId, *, expected_version: int, clock: Mapping[str, Any], now: int) -> Step:
    """How far a device's TPM was at a quote whose result does not count: a copy of its state from before is known by
    it. Refused as UnknownDevice, StateChanged, TransitionRefused."""
    return _changing(device_id, Event.ATTEST, expected_version=expected_version, now=now, clock=clock)


def rekeying(device_id: DeviceId, *, expected_version: int, ck_public: bytes, ck_name: bytes, now: int) -> Step:
    """An active device's new credential key; the version grows by one, so nothing more is issued for the old key.

    Credentials of the old key live on until they expire or are revoked. Refused as UnknownDevice, StateChanged,
    TransitionRefused.
    """
    return _changing(
        device_id, Event.REKEY, expected_version=expected_version, now=now, ck_public=ck_public, ck_name=ck_name
    )


def changing_state(
    device_id: DeviceId, event: Event, *, reason: str, now: int, expected_version: int
) -> tuple[Step, ...]:
    """QUARANTINE or RELEASE by what a device showed; the version grows by one. Refused as `change_state` raises."""
    if event not in (Event.QUARANTINE, Event.RELEASE):
        raise ValueError(f"a device does not {event.value} itself")
    quarantined = event is Event.QUARANTINE
    change = _changing(
        device_id,
        event,
        expected_version=expected_version,
        now=now,
        state_reason=reason,
        quarantined_by=APPRAISAL if quarantined else None,
        quarantined_at=now if quarantined else None,
    )
    return change, revision.bumping()


def unchanged(device_id: DeviceId, *, expected_version: int, expected_state: State = State.ACTIVE) -> Step:
    """Holds the device as it was appraised until the transaction ends. Refused as UnknownDevice, StateChanged.

    For acts that issue something without writing the device: no other act on it commits before this one.
    """
    return Step(
        _UNCHANGED,
        {"wanted": device_id, "state": expected_state.value, "version": expected_version},
        otherwise=lambda c: _changed(by_id(c, device_id), expected_version),
    )


def change_state(
    c: Connection,
    device_id: DeviceId,
    event: Event,
    *,
    reason: str,
    now: int,
    expected_version: int | None = None,
) -> Device:
    """REJECT, QUARANTINE, RELEASE or RETIRE; retiring revokes every credential of the device too.

    `expected_version` is what the decision was based on; None decides by the state alone. Raises UnknownDevice,
    StateChanged, TransitionRefused.
    """
    if event not in _PLAIN:
        raise ValueError(f"{event.value} has a function of its own")
    quarantined = event is Event.QUARANTINE
    values = {
        "state_reason": reason,
        "quarantined_by": OPERATOR if quarantined else None,
        "quarantined_at": now if quarantined else None,
    }
    device = change(c, device_id, event, expected_version=expected_version, now=now, values=values)
    if event is Event.RETIRE:
        issued.revoke_all_of(c, device_id, reason="the device was retired", now=now)
    revision.bump(c)
    return device


_PLAIN = frozenset({Event.REJECT, Event.QUARANTINE, Event.RELEASE, Event.RETIRE})


def change(
    c: Connection,
    device_id: DeviceId,
    event: Event,
    *,
    expected_version: int | None,
    now: int,
    values: Mapping[str, Any],
) -> Device:
    """The one conditional UPDATE behind every event on a known device; for this room only.

    `values` are the columns to set. When no row fits, nothing changed and the error says why.
    """
    values = with_status(values)
    statement = _change_statement(event, tuple(values), expected_version is not None, False, True)
    row = statement.one_or_none(c, _new(device_id, values, now, expected_version, None))
    if row is None:
        raise _refusal(c, device_id, event, expected_version)
    return device_of(row)


def _changing(
    device_id: DeviceId,
    event: Event,
    *,
    expected_version: int,
    expected_ek: EkHash | None = None,
    now: int,
    **values: Any,
) -> Step:
    """`change` as a step of an act, on what was appraised before."""
    values = with_status(values)
    return Step(
        _change_statement(event, tuple(values), True, expected_ek is not None, False),
        _new(device_id, values, now, expected_version, expected_ek),
        otherwise=lambda c: _refusal(c, device_id, event, expected_version),
    )


def with_status(values: Mapping[str, Any]) -> dict[str, Any]:
    """Columns to set, with the status of the result that is among them; for this room only."""
    if "result" not in values:
        return dict(values)
    result = values["result"]
    return {**values, "result_status": None if result is None else result.get("status")}


def _new(
    device_id: DeviceId, values: Mapping[str, Any], now: int, version: int | None, ek_hash: EkHash | None
) -> dict[str, Any]:
    named: dict[str, Any] = {f"new_{name}": value for name, value in values.items()}
    named |= {"wanted": device_id, "now": now, "version": version, "ek": ek_hash}
    return named


def _refusal(c: Connection, device_id: DeviceId, event: Event, expected_version: int | None) -> AttestdError:
    """Why no row fitted. Raises UnknownDevice, which is why, too."""
    seen = by_id(c, device_id)
    if expected_version in (None, seen.state_version) and seen.state not in TRANSITIONS[event].come_from:
        return refusal(device_id, event, seen.state)
    return _changed(seen, expected_version)


@cache  # one entry for each way in which this room changes a device
def _change_statement(event: Event, names: tuple[str, ...], versioned: bool, of_ek: bool, returning: bool) -> Statement:
    transition = TRANSITIONS[event]
    values: dict[str, Any] = {name: bindparam(f"new_{name}", type_=devices.c[name].type) for name in names}
    values["updated_at"] = bindparam("now", type_=devices.c.updated_at.type)
    if transition.go_to is not None:
        values["state"] = transition.go_to.value
    if event is Event.ASK:  # a pending device that asks again must not disturb an operator who is deciding
        values["state_version"] = devices.c.state_version + case((devices.c.state == State.PENDING, 0), else_=1)
    elif event is not Event.ATTEST:
        values["state_version"] = devices.c.state_version + 1
    if event is Event.DEMAND:  # a result that ends sooner still does
        ended, cut = devices.c.attestation_good_until, values["attestation_good_until"]
        values["attestation_good_until"] = case((ended > cut, cut), else_=ended)
    if event is Event.RELEASE:  # its result may have ended long before: it is overdue from now on (`overdue`)
        ended, now = devices.c.attestation_good_until, values["updated_at"]
        values["attestation_good_until"] = case((ended < now, now), else_=ended)
    wanted = [
        devices.c.id == bindparam("wanted"),
        or_(*(devices.c.state == state.value for state in sorted(transition.come_from))),
    ]
    if versioned:
        wanted.append(devices.c.state_version == bindparam("version"))
    if of_ek:
        wanted.append(devices.c.ek_hash == bindparam("ek"))
    statement = update(devices).where(*wanted).values(values)
    return Statement(statement.returning(devices) if returning else statement)


def _changed(seen: Device, expected_version: int | None) -> StateChanged:
    return StateChanged(
        f"Device {seen.id} changed in the meantime.",
        seen=f"{seen.state}, version {seen.state_version}",
        expected=None if expected_version is None else f"version {expected_version}",
    )
