"""What a device's attestations came to over time: equal ones in a row are one row, a run.

A fleet attests all day and finds the same; what operators look for is when that changed. So an attestation costs the
change of one row, and a run keeps the evidence of its first attestation, with which it can be opened. `evidence` has
the newest one. Bounded for each device: MAX_RUNS, of which the newest MAX_OPENED keep their evidence.

Attestations of a device are numbered from 1 on. `boot` names a boot as `evidence` does. Times are unix seconds.

Beside that: digests that no reference value knew, and who showed them, so that one cause is seen as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, and_, bindparam, case, delete, exists, func, insert, null, select, update

from attestd.errors import NotFound
from attestd.ids import DeviceId
from attestd.registry.acts import Step
from attestd.registry.statements import Statement
from attestd.registry.tables import attestation_runs as runs
from attestd.registry.tables import differing

MAX_RUNS: Final = 128  # of one device
MAX_OPENED: Final = 8  # of one device, that keep their evidence
MAX_DIFFERING: Final = 16  # digests told of one attestation
MAX_STATE: Final = 64 * 1024  # octets of a judgement of what ran that is kept with a run
MAX_COUNTED: Final = 1000  # devices that showed one digest


class AttestationUnknown(NotFound):
    """Nothing is kept of this attestation"""

    remedy = "`attestd devices history` shows which ones are kept; of older ones there is the audit trail."


@dataclass(frozen=True, slots=True)
class Found:
    """What one attestation came to, and what shows it. `result` and `inputs` are canonical JSON, as in `evidence`."""

    digest: bytes
    boot: str
    result: bytes = field(repr=False)
    inputs: bytes = field(repr=False)
    boot_log: bytes | None
    ima_entries: int | None
    runtime_state: bytes | None = field(repr=False)
    differing: tuple[tuple[bytes, str], ...] = ()  # digests that nobody knew, and where they were measured


@dataclass(frozen=True, slots=True)
class Run:
    """Attestations `first` to `last`, from the first to the last time. `ended_at`: when another result came.

    `inputs` and what follows are of the first of them; None: not kept any more.
    """

    device_id: DeviceId
    run: int
    first: int
    count: int
    first_at: int
    last_at: int
    ended_at: int | None
    digest: bytes  # equal ones are of one run
    boot: str
    result: bytes = field(repr=False)
    inputs: bytes | None = field(repr=False)
    boot_log: bytes | None
    ima_entries: int | None
    runtime_state: bytes | None = field(repr=False)

    @property
    def last(self) -> int:
        return self.first + self.count - 1


@dataclass(frozen=True, slots=True)
class Shown:
    """Which devices showed a digest that no reference value knew: how many, up to MAX_COUNTED, and some of them."""

    count: int
    devices: tuple[DeviceId, ...]


_COLUMNS = [runs.c[name] for name in Run.__dataclass_fields__]
_OF_DEVICE = runs.c.device_id == bindparam("device")
_GOES_ON = runs.c.digest == bindparam("same")
_NOW = bindparam("now", type_=runs.c.last_at.type)
# One statement for both: the run goes on, or another one begins and this one ends.
_GO_ON = Statement(
    update(runs)
    .where(_OF_DEVICE, runs.c.ended_at.is_(None))
    .values(
        count=runs.c.count + case((_GOES_ON, 1), else_=0),
        last_at=case((_GOES_ON, _NOW), else_=runs.c.last_at),
        ended_at=case((_GOES_ON, null()), else_=_NOW),
    )
)
_earlier = runs.alias("earlier")
_current = runs.alias("current")
_BEGUN = ("digest", "boot", "result", "inputs", "boot_log", "ima_entries", "runtime_state")
_BEGIN = Statement(
    insert(runs)
    .inline()
    .from_select(
        ["device_id", "run", "first", "count", "first_at", "last_at", *_BEGUN],
        select(
            bindparam("device", type_=runs.c.device_id.type),
            func.coalesce(func.max(_earlier.c.run), 0) + 1,
            func.coalesce(func.max(_earlier.c.first + _earlier.c.count), 1),
            bindparam("one", 1, type_=runs.c.count.type),
            _NOW,
            _NOW,
            *(bindparam(f"new_{name}", type_=runs.c[name].type) for name in _BEGUN),
        )
        .where(_earlier.c.device_id == bindparam("device"))
        .having(~exists().where(_current.c.device_id == bindparam("device"), _current.c.ended_at.is_(None))),
    )
)
_newest = select(func.max(_earlier.c.run)).where(_earlier.c.device_id == bindparam("device")).scalar_subquery()
_CLOSE = Statement(
    update(runs)
    .where(_OF_DEVICE, runs.c.run <= _newest - MAX_OPENED, runs.c.inputs.is_not(None))
    .values(inputs=null(), boot_log=null(), runtime_state=null())
)
_FORGET = Statement(delete(runs).where(_OF_DEVICE, runs.c.run <= _newest - MAX_RUNS))
_UNSAY = Statement(
    delete(differing).where(
        differing.c.digest == bindparam("shown"),
        differing.c.device_id == bindparam("device"),
    )
)
_SAY = Statement(insert(differing).inline(), columns=differing.c.keys())


# ---- Acting -----------------------------------------------------------------------------------------------------


def counting(device_id: DeviceId, found: Found, *, as_before: bool, now: int) -> tuple[Step, ...]:
    """Adds an attestation to its device's history, in the act that records the result.

    `as_before`: the one before is known to have come to the same, so there is nothing to tidy up. To be wrong about
    that costs nothing but room.
    """
    named = {"device": device_id, "now": now}
    begun = {f"new_{name}": getattr(found, name) for name in _BEGUN}
    if found.runtime_state is not None and len(found.runtime_state) > MAX_STATE:
        begun["new_runtime_state"] = None
    steps = [Step(_GO_ON, named | {"same": found.digest}), Step(_BEGIN, named | begun)]
    if as_before:
        return tuple(steps)
    steps += [Step(_CLOSE, {"device": device_id}), Step(_FORGET, {"device": device_id})]
    for digest, place in found.differing[:MAX_DIFFERING]:
        steps.append(Step(_UNSAY, {"shown": digest, "device": device_id}))
        steps.append(Step(_SAY, {"digest": digest, "device_id": device_id, "at": now, "place": place}))
    return tuple(steps)


def forget(c: Connection, device_ids: Sequence[DeviceId]) -> None:
    """Everything of devices that are forgotten themselves."""
    for table in (runs, differing):
        c.execute(delete(table).where(table.c.device_id.in_(device_ids)))


def purge(c: Connection, *, before: int, limit: int) -> int:
    """Forgets runs that ended before this time, and digests that were shown before it: at most `limit` of each.
    Returns how many rows went, counting no more than `limit`."""
    ended = select(runs.c.device_id, runs.c.run).where(runs.c.ended_at < before).limit(limit)
    gone = [
        c.execute(delete(runs).where(runs.c.device_id == row.device_id, runs.c.run == row.run)).rowcount
        for row in c.execute(ended.with_for_update(skip_locked=True)).all()
    ]
    old = select(differing.c.digest, differing.c.device_id).where(differing.c.at < before).limit(limit)
    said = [
        c.execute(
            delete(differing).where(differing.c.digest == row.digest, differing.c.device_id == row.device_id)
        ).rowcount
        for row in c.execute(old.with_for_update(skip_locked=True)).all()
    ]
    return max(sum(gone), sum(said))


# ---- Reading ----------------------------------------------------------------------------------------------------


def page(c: Connection, device_id: DeviceId, *, before: int | None = None, limit: int = 20) -> list[Run]:
    """Runs of a device, the newest first; the last one's `run` is the next page's `before`."""
    wanted = [runs.c.device_id == device_id] + ([] if before is None else [runs.c.run < before])
    statement = select(*_COLUMNS).where(and_(*wanted)).order_by(runs.c.run.desc()).limit(min(limit, MAX_RUNS))
    return [Run(**row._mapping) for row in c.execute(statement)]


def of_number(c: Connection, device_id: DeviceId, number: int) -> Run:
    """The run that this attestation is in. Raises AttestationUnknown."""
    wanted = runs.c.device_id == device_id, runs.c.first <= number
    row = c.execute(select(*_COLUMNS).where(*wanted).order_by(runs.c.run.desc()).limit(1)).one_or_none()
    if row is None or row.first + row.count <= number:
        raise AttestationUnknown(seen=number)
    return Run(**row._mapping)


def shown_by(c: Connection, digest: bytes, *, besides: DeviceId, limit: int = 3) -> Shown:
    """Which other devices showed a digest that no reference value knew when they did."""
    wanted = differing.c.digest == digest, differing.c.device_id != besides
    counted = select(differing.c.device_id).where(*wanted).limit(MAX_COUNTED).subquery()
    count = c.execute(select(func.count()).select_from(counted)).scalar_one()
    some = c.execute(select(differing.c.device_id).where(*wanted).order_by(differing.c.device_id).limit(limit))
    return Shown(int(count), tuple(DeviceId(row.device_id) for row in some))
