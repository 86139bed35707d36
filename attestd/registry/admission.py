"""Which EK stands for which device: asking, approval, inventory, replacement (docs/protocol.md, sections 1 and 3).

An EK hash is unique in the registry, and a replaced one never enrolls again. Times are unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from attestd.errors import Conflict
from attestd.ids import DeviceId, EkHash, Site, Tier
from attestd.registry import evidence, issued, revision
from attestd.registry.devices import Device, by_ek_hash, by_id, device_of
from attestd.registry.engine import is_unique_violation
from attestd.registry.inventory import InventoryEntry
from attestd.registry.labels import parse_labels
from attestd.registry.states import Event, State, StateChanged, UnknownDevice
from attestd.registry.tables import blocked_eks, devices
from attestd.registry.transitions import change, with_status


class EkBlocked(Conflict):
    """This endorsement key was replaced and never enrolls again"""

    remedy = "Enroll with the TPM that replaced it."


class EkTaken(Conflict):
    """This endorsement key stands for another device already"""

    remedy = "Retire that device, or give this one a TPM of its own."


class NeverApproved(Conflict):
    """The device was never approved, so there is nothing to replace"""

    remedy = "Approve the device that asks with the new TPM instead."


class InventoryConflicts(Conflict):
    """The inventory contradicts the registry"""

    remedy = "Nothing was imported. Correct the named lines, then import the whole file again."

    def __init__(self, errors: Sequence[tuple[int, str]]) -> None:
        """`errors` are (line number, what is wrong); the first 100 are kept, and `more` says if there were others."""
        self.errors = tuple(errors[:_MAX_ERRORS])
        self.more = len(errors) > _MAX_ERRORS
        shown = "; ".join(f"line {line}: {what}" for line, what in self.errors[:5])
        super().__init__(f"{len(errors)} of the inventory's entries contradict the registry: {shown}")


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did. `unchanged` entries were in the registry with these very values."""

    added: int
    unchanged: int


def count_pending(c: Connection) -> int:
    """How many devices wait for approval; the caller caps this before `record_pending`."""
    return int(
        c.execute(select(func.count()).select_from(devices).where(devices.c.state == State.PENDING)).scalar_one()
    )


def record_pending(
    c: Connection,
    *,
    new_id: DeviceId,
    ek_public: bytes,
    endorsement: str,
    manufacturer: str,
    model: str,
    firmware_version: str,
    result: Mapping[str, Any],
    clock: Mapping[str, Any],
    now: int,
) -> Device:
    """An endorsed, activated EK that nobody approved: one row per EK, with the evidence to review.

    `new_id` names the device if its EK is unknown. A pending one's evidence is renewed, and its version stays, so that
    asking again does not disturb an operator who is deciding. A retired one becomes pending.
    Raises EkBlocked, TransitionRefused (any other state), StateChanged (a race; asking again helps).
    """
    ek_hash = EkHash.of(ek_public)
    evidence = {
        "ek_public": ek_public,
        "endorsement": endorsement,
        "manufacturer": manufacturer,
        "model": model,
        "firmware_version": firmware_version,
        "result": dict(result),
        "clock": dict(clock),
        "attested_at": now,
    }
    known = by_ek_hash(c, ek_hash)
    try:
        if known is not None:
            return change(c, known.id, Event.ASK, expected_version=known.state_version, now=now, values=evidence)
        values = _new_device(new_id, State.PENDING, ek_hash, now) | with_status(evidence) | {"source": "request"}
        device = device_of(c.execute(insert(devices).values(values).returning(devices)).one())
    except UnknownDevice:
        raise StateChanged("The inventory or a replacement took this device's request over.") from None
    except IntegrityError as error:
        if is_unique_violation(error):
            raise StateChanged("Another request of this device came first.") from None
        raise
    _require_unblocked(c, ek_hash)
    return device


def purge_pending(c: Connection, *, older_than: int) -> int:
    """Forgets requests that nobody decided on since this time; returns how many. Once retired devices retire again."""
    stale = and_(devices.c.state == State.PENDING, devices.c.updated_at < older_than)
    forgotten = [
        DeviceId(row.id)
        for row in c.execute(delete(devices).where(stale, devices.c.status_index.is_(None)).returning(devices.c.id))
    ]
    evidence.forget(c, forgotten)
    back = c.execute(
        update(devices)
        .where(stale)
        .values(
            state=State.RETIRED.value,
            state_version=devices.c.state_version + 1,
            state_reason="its request to come back was not decided in time",
        )
    ).rowcount
    return len(forgotten) + back


def approve(
    c: Connection,
    device_id: DeviceId,
    *,
    tier: Tier,
    site: Site,
    now: int,
    labels: Mapping[str, str] | None = None,
    expected_version: int | None = None,
) -> Device:
    """Binds a pending device's EK hash to a tier and a site and reserves its status index; issues nothing.

    `labels` replace the device's labels; None leaves them. Raises UnknownDevice, StateChanged, TransitionRefused,
    MalformedLabels.
    """
    values: dict[str, Any] = {"tier": tier.value, "site": str(site), "state_reason": None}
    if labels is not None:
        values["labels"] = parse_labels(labels)
    device = change(c, device_id, Event.APPROVE, expected_version=expected_version, now=now, values=values)
    if device.status_index is None:
        index = revision.reserve_status_indices(c, 1)[0]
        statement = update(devices).where(devices.c.id == device_id).values(status_index=index).returning(devices)
        device = device_of(c.execute(statement).one())
    revision.bump(c)
    return device


def import_approved(
    c: Connection, entries: Sequence[InventoryEntry], *, entropy: Callable[[int], bytes], now: int
) -> Imported:
    """The inventory's devices, approved, all or none.

    An entry that is in the registry with these very values is left alone. One whose EK waits for its first approval
    takes the request's place. Anything else that is known contradicts. Raises InventoryConflicts.
    """
    conflicts: list[tuple[int, str]] = []
    added: list[InventoryEntry] = []
    for start in range(0, len(entries), _CHUNK):
        chunk = entries[start : start + _CHUNK]
        known = _Known.of(c, chunk)
        for entry in chunk:
            if known.unchanged(entry):
                continue
            if complaint := known.complaint(entry):
                conflicts.append((entry.line, complaint))
            else:
                added.append(entry)
    if conflicts:
        raise InventoryConflicts(conflicts)
    if added:
        _add(c, added, entropy, now)
        revision.bump(c)
    return Imported(added=len(added), unchanged=len(entries) - len(added))


def replace_ek(
    c: Connection,
    device_id: DeviceId,
    new_ek_hash: EkHash,
    *,
    reason: str,
    now: int,
    expected_version: int | None = None,
) -> Device:
    """Another TPM stands for this device from now on: approved, without keys, until it enrolls.

    The old EK is blocked for ever and every credential is revoked. A request of the new EK that was never approved
    gives way. Raises UnknownDevice, NeverApproved, EkBlocked, EkTaken, StateChanged.
    """
    old = by_id(c, device_id)
    if old.status_index is None:
        raise NeverApproved(seen=old.state.value)
    if expected_version not in (None, old.state_version):
        raise StateChanged(
            f"Device {device_id} changed in the meantime.",
            seen=f"version {old.state_version}",
            expected=f"version {expected_version}",
        )
    _require_unblocked(c, new_ek_hash)
    if by_ek_hash(c, new_ek_hash) is not None:
        asked = c.execute(delete(devices).where(devices.c.ek_hash == new_ek_hash, _NEVER_APPROVED))
        if asked.rowcount != 1:
            raise EkTaken
    try:
        device = change(
            c,
            device_id,
            Event.REPLACE,
            expected_version=old.state_version,  # or another EK than the one that it has would be blocked
            now=now,
            # Credentials of the old TPM carry the old index, which is nobody's from now on: invalid for ever, also to
            # a registry that was restored from before this act.
            values=_unbound(new_ek_hash)
            | {"state_reason": reason, "status_index": revision.reserve_status_indices(c, 1)[0]},
        )
    except IntegrityError as error:
        if is_unique_violation(error):
            raise EkTaken from None
        raise
    c.execute(insert(blocked_eks).values(ek_hash=old.ek_hash, device_id=device_id, reason=reason, at=now))
    _require_unblocked(c, new_ek_hash)  # by another replacement that was committed since the first look
    issued.revoke_all_of(c, device_id, reason="the TPM was replaced", now=now)
    revision.bump(c)
    return device


def _require_unblocked(c: Connection, *ek_hashes: EkHash) -> None:
    """After an EK was bound, this look is sure: a replacement that gave it up is committed, or still waits for us."""
    found = c.execute(select(blocked_eks.c.ek_hash).where(blocked_eks.c.ek_hash.in_(ek_hashes)).limit(1))
    if found.one_or_none() is not None:
        raise EkBlocked


# ---- Rows -------------------------------------------------------------------------------------------------------

_CHUNK = 500  # entries looked up or inserted by one statement
_MAX_ERRORS = 100
_NEVER_APPROVED = and_(devices.c.state == State.PENDING, devices.c.status_index.is_(None))


def _unbound(ek_hash: EkHash) -> dict[str, Any]:
    """What is known of a device whose TPM was not seen yet."""
    return {
        "ek_hash": ek_hash,
        "ek_public": None,
        "ak_public": None,
        "ck_public": None,
        "ck_name": None,
        "manufacturer": "",
        "model": "",
        "firmware_version": "",
        "endorsement": None,
        "attested_at": None,
        "attestation_good_until": None,
        "result": None,
        "result_status": None,
        "clock": None,
        "quarantined_by": None,
        "quarantined_at": None,
    }


def _new_device(device_id: DeviceId, state: State, ek_hash: EkHash, now: int) -> dict[str, Any]:
    return _unbound(ek_hash) | {
        "id": device_id,
        "state": state.value,
        "state_version": 1,
        "labels": {},
        "created_at": now,
        "updated_at": now,
    }


@dataclass(frozen=True, slots=True)
class _Known:
    """What the registry knows of some inventory entries."""

    by_ek: Mapping[bytes, Device]
    by_id: Mapping[str, Device]
    blocked: frozenset[bytes]

    @classmethod
    def of(cls, c: Connection, entries: Sequence[InventoryEntry]) -> Self:
        hashes = [entry.ek_hash for entry in entries]
        ids = [entry.device_id for entry in entries if entry.device_id is not None]
        found = [
            device_of(row)
            for row in c.execute(select(devices).where(or_(devices.c.ek_hash.in_(hashes), devices.c.id.in_(ids))))
        ]
        blocked = c.execute(select(blocked_eks.c.ek_hash).where(blocked_eks.c.ek_hash.in_(hashes))).scalars()
        return cls({d.ek_hash: d for d in found}, {d.id: d for d in found}, frozenset(blocked))

    def unchanged(self, entry: InventoryEntry) -> bool:
        same = self.by_ek.get(entry.ek_hash)
        return (
            same is not None
            and entry.device_id in (None, same.id)
            and _but_labels(same, entry)
            and same.labels == entry.labels
        )

    def complaint(self, entry: InventoryEntry) -> str | None:
        if entry.ek_hash in self.blocked:
            return "this EK was replaced and never enrolls again"
        same = self.by_ek.get(entry.ek_hash)
        if same is not None and not (same.state is State.PENDING and same.status_index is None):
            only_labels = entry.device_id in (None, same.id) and _but_labels(same, entry)
            what = "labels" if only_labels else "values"
            return f"this EK stands for device {same.id} already, with other {what}"
        if entry.device_id is not None and (other := self.by_id.get(entry.device_id)) not in (None, same):
            return f"the id {other.id} belongs to another device"
        return None


def _but_labels(device: Device, entry: InventoryEntry) -> bool:
    """Whether all but the labels is the same. Labels may have been changed since (`relabelling`)."""
    return (device.tier, device.site, device.serial_number) == (entry.tier, entry.site, entry.serial_number)


def _add(c: Connection, entries: Sequence[InventoryEntry], entropy: Callable[[int], bytes], now: int) -> None:
    chunks = [(start, entries[start : start + _CHUNK]) for start in range(0, len(entries), _CHUNK)]
    for _, chunk in chunks:
        c.execute(delete(devices).where(devices.c.ek_hash.in_([e.ek_hash for e in chunk]), _NEVER_APPROVED))
    # After the devices, as everywhere: whoever approves one of them takes both in this order.
    indices = revision.reserve_status_indices(c, len(entries))
    try:
        for start, chunk in chunks:
            rows = [
                _new_device(entry.device_id or DeviceId.random(entropy(16)), State.APPROVED, entry.ek_hash, now)
                | {
                    "tier": entry.tier.value,
                    "site": str(entry.site),
                    "serial_number": entry.serial_number,
                    "labels": dict(entry.labels),
                    "status_index": indices[start + offset],
                    "source": "inventory",
                }
                for offset, entry in enumerate(chunk)
            ]
            c.execute(insert(devices), rows)
            _require_unblocked(c, *(entry.ek_hash for entry in chunk))
    except IntegrityError as error:
        if is_unique_violation(error):
            raise EkTaken(
                "A device of this inventory enrolled or was imported meanwhile; nothing was imported."
            ) from None
        raise
