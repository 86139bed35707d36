"""The evidence that devices' results rest on: of each device its newest, and its newest that was contraindicated.

A result can so be appraised again, by anybody (`attestd evidence export`), and an attestation can go on from the one
before: an event log that is known need not be sent, and an IMA list travels in parts.

`boot` names a boot by its TPM's counts (`attestd.tpm.clock`). Times are unix seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from attestd.ids import DeviceId
from attestd.registry import attestations
from attestd.registry.acts import Step
from attestd.registry.contents import packed, unpacked
from attestd.registry.engine import Registry
from attestd.registry.statements import Statement
from attestd.registry.states import State, StateChanged
from attestd.registry.tables import devices, endorsements, evidence, ima_parts

GOOD: Final = "good"
BAD: Final = "bad"  # contraindicated
MAX_LIST: Final = 64 * 1024 * 1024  # octets of one boot's IMA list


@dataclass(frozen=True, slots=True)
class Kept:
    """One attestation's evidence. `inputs` and `result` are canonical JSON, of `attestd.issuance.keeping`."""

    verdict: str
    at: int
    inputs: bytes = field(repr=False)
    boot: str
    boot_log: bytes | None  # SHA-256; its content is in `contents`
    boot_pcrs: bytes | None  # a digest of the PCR values that it was replayed to
    boot_facts: Mapping[str, Any] | None = field(repr=False)
    ima_entries: int | None  # of this boot's list, that the quote proves
    runtime_state: bytes | None = field(repr=False)
    result: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ImaPart:
    """Entries from `first` on (counted from 0), in the kernel's octets."""

    first: int
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Endorsement:
    """The TPM's own certificate in DER, and the SHA-256 of those above it, the root's last."""

    certificate: bytes | None = field(repr=False)
    issuers: tuple[bytes, ...]


_COLUMNS = [evidence.c[name] for name in Kept.__dataclass_fields__]
_NEWEST = Statement(
    select(*_COLUMNS)
    .where(evidence.c.device_id == bindparam("device"))
    .order_by(evidence.c.at.desc(), evidence.c.ima_entries.desc(), evidence.c.verdict)
    .limit(1)
)
_DELETE = Statement(
    delete(evidence).where(evidence.c.device_id == bindparam("device"), evidence.c.verdict == bindparam("which"))
)
_SEEN = (
    evidence.c.device_id == bindparam("device"),
    evidence.c.verdict == bindparam("which"),
    evidence.c.inputs == bindparam("was"),
)
_DELETE_SEEN = Statement(delete(evidence).where(*_SEEN))
_STILL_THERE = Statement(update(evidence).where(*_SEEN).values(at=evidence.c.at))
_INSERT = Statement(insert(evidence).inline(), columns=evidence.c.keys())
# What goes on from evidence of the same log and values has the same facts: they are not written again.
_CHANGING = [
    name for name in Kept.__dataclass_fields__ if name not in ("verdict", "boot_log", "boot_pcrs", "boot_facts")
]
_GO_ON = Statement(
    update(evidence)
    .where(*_SEEN)
    .values({name: bindparam(f"new_{name}", type_=evidence.c[name].type) for name in _CHANGING})
)
_FORGET_FROM = Statement(
    delete(ima_parts).where(
        ima_parts.c.device_id == bindparam("device"),
        ima_parts.c.boot == bindparam("of_boot"),
        ima_parts.c.first >= bindparam("begins"),
    )
)
_FORGET_BOOTS = Statement(
    delete(ima_parts).where(
        ima_parts.c.device_id == bindparam("device"),
        ima_parts.c.boot.not_in(select(evidence.c.boot).where(evidence.c.device_id == bindparam("device"))),
    )
)
_INSERT_PART = Statement(insert(ima_parts).inline(), columns=ima_parts.c.keys())
_FORGET_ENDORSEMENT = Statement(delete(endorsements).where(endorsements.c.device_id == bindparam("device")))
_INSERT_ENDORSEMENT = Statement(insert(endorsements).inline(), columns=endorsements.c.keys())


# ---- Reading ----------------------------------------------------------------------------------------------------


def newest(registry: Registry, device_id: DeviceId) -> Kept | None:
    """What the device's next attestation may go on from."""
    row = registry.ask(_NEWEST, {"device": device_id}, to_act=True)
    return None if row is None else Kept(*row)


def every(c: Connection, device_id: DeviceId) -> list[Kept]:
    """What is kept of a device, the newest first: two at most."""
    rows = c.execute(
        select(*_COLUMNS).where(evidence.c.device_id == device_id).order_by(evidence.c.at.desc(), evidence.c.verdict)
    )
    return [Kept(*row) for row in rows]


def ima_list(c: Connection, device_id: DeviceId, boot: str, *, entries: int) -> list[ImaPart]:
    """The parts of a boot's list up to so many entries, in order; the last may go on beyond them."""
    wanted = ima_parts.c.device_id == device_id, ima_parts.c.boot == boot, ima_parts.c.first < entries
    rows = c.execute(select(ima_parts.c.first, ima_parts.c.content).where(*wanted).order_by(ima_parts.c.first))
    return [ImaPart(row.first, unpacked(row.content, MAX_LIST)) for row in rows]


def endorsed_by(c: Connection, device_id: DeviceId) -> Endorsement:
    """By what its TPM was endorsed when it enrolled last; by nothing that is kept, where it was by the inventory."""
    row = c.execute(select(endorsements).where(endorsements.c.device_id == device_id)).one_or_none()
    if row is None or row.certificate is None:
        return Endorsement(None, ())
    return Endorsement(row.certificate, tuple(row.issuers[at : at + 32] for at in range(0, len(row.issuers), 32)))


def count_by_maker(c: Connection) -> dict[bytes, int]:
    """How many devices that are not retired enrolled under each maker's certificate, by its SHA-256."""
    statement = (
        select(endorsements.c.issuers, func.count())
        .join(devices, devices.c.id == endorsements.c.device_id)
        .where(endorsements.c.certificate.is_not(None), devices.c.state != State.RETIRED.value)
        .group_by(endorsements.c.issuers)
    )
    found: Counter[bytes] = Counter()
    for issuers, count in c.execute(statement):  # a fleet's machines share few chains
        for at in range(0, len(issuers), 32):
            found[issuers[at : at + 32]] += int(count)
    return dict(found)


# ---- Acting -----------------------------------------------------------------------------------------------------


def keeping(
    device_id: DeviceId, kept: Kept, *, ima: ImaPart | None, new_boot: bool, after: Kept | None = None
) -> tuple[Step, ...]:
    """Puts this evidence in the place of what was kept of its verdict, in the act that records the result.

    `ima` are entries that nobody had before: all of them, where it begins at 0. `new_boot`: lists of other boots go, if
    no evidence speaks of them. `after` is the evidence that this one goes on from, and must be there still: of two
    attestations at once the second one is refused as StateChanged, for their lists would be pieces of one.
    """
    steps = _replacing(device_id, kept, after)
    if ima is not None:
        steps.append(Step(_FORGET_FROM, {"device": device_id, "of_boot": kept.boot, "begins": ima.first}))
        part = {"device_id": device_id, "boot": kept.boot, "first": ima.first, "content": packed(ima.content)}
        steps.append(Step(_INSERT_PART, part))
    if new_boot:
        steps.append(Step(_FORGET_BOOTS, {"device": device_id}))
    return tuple(steps)


def _replacing(device_id: DeviceId, kept: Kept, after: Kept | None) -> list[Step]:
    row = {name: getattr(kept, name) for name in Kept.__dataclass_fields__}
    delete_any = Step(_DELETE, {"device": device_id, "which": kept.verdict})
    insert_it = Step(_INSERT, {"device_id": device_id, **row})
    if after is None:
        return [delete_any, insert_it]
    seen = {"device": device_id, "which": after.verdict, "was": after.inputs}
    if after.verdict != kept.verdict:
        return [Step(_STILL_THERE, seen, otherwise=_raced), delete_any, insert_it]
    if _is_of_the_same_log(kept, after):
        return [Step(_GO_ON, seen | {f"new_{name}": row[name] for name in _CHANGING}, otherwise=_raced)]
    return [Step(_DELETE_SEEN, seen, otherwise=_raced), insert_it]


def _is_of_the_same_log(kept: Kept, after: Kept) -> bool:
    facts_stand = after.boot_facts is not None and after.boot_log is not None
    return facts_stand and (kept.boot_log, kept.boot_pcrs) == (after.boot_log, after.boot_pcrs)


def _raced(_: Connection) -> StateChanged:
    return StateChanged("Another attestation of this device was recorded at this moment.")


def keeping_endorsement(device_id: DeviceId, endorsement: Endorsement, *, now: int) -> tuple[Step, ...]:
    """By what the TPM was endorsed that enrolled now."""
    row = {"device_id": device_id, "at": now, "certificate": endorsement.certificate}
    row["issuers"] = b"".join(endorsement.issuers)
    return Step(_FORGET_ENDORSEMENT, {"device": device_id}), Step(_INSERT_ENDORSEMENT, row)


def forget(c: Connection, device_ids: list[DeviceId]) -> None:
    """Everything of devices that are forgotten themselves."""
    attestations.forget(c, device_ids)
    for table in (evidence, ima_parts, endorsements):
        c.execute(delete(table).where(table.c.device_id.in_(device_ids)))
