"""What operators decide for many devices at once: the brake on quarantines, and the release of a cohort.

Each verb is one transaction, with an audit row for the verb and one for each device that it changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from attestd.config import Settings
from attestd.errors import Conflict, MalformedInput
from attestd.ids import DeviceId
from attestd.issuance.quarantining import FLEET, Quarantines
from attestd.operations import Act
from attestd.registry import audit, brake, cohorts
from attestd.registry.brake import Brake, BrakeEngaged, BrakeReleased, Held
from attestd.registry.cohorts import Cohort
from attestd.registry.devices import Device
from attestd.registry.engine import Connection, Registry

MAX_COHORT: Final = 10_000  # devices that one act releases
SHOWN: Final = 100  # devices of a cohort that a preview shows


class BrakeDisabled(Conflict):
    """This instance has no brake"""

    remedy = "Set `enabled = true` under [brake] in attestd.toml, and restart the service."


class CohortUnnamed(MalformedInput):
    """Nothing says which devices"""

    remedy = "Name a site, a tier, a label, a time or who quarantined them."


class CohortChanged(Conflict):
    """The cohort is not what was seen"""

    remedy = "Nothing was done. Look at it again, then decide again."


class Fate(StrEnum):
    """What becomes of held results when the brake is released."""

    DISMISS = "dismiss"  # they never count; the devices' next ones do
    QUARANTINE = "quarantine"  # they count now


@dataclass(frozen=True, slots=True)
class BrakeStanding:
    """How the brake stands: `count` of at most `limit` in the last minute; a page of what is held, and how many.
    `first_end`: when the first of the results ends under which held devices live on."""

    brake: Brake
    enabled: bool
    count: int
    limit: int
    held: Sequence[Held]
    held_count: int
    first_end: int | None


@dataclass(frozen=True, slots=True)
class Preview:
    """How many devices a cohort has, and the first of them."""

    count: int
    devices: Sequence[Device]


@dataclass(frozen=True, slots=True)
class LetGo:
    """How many results the brake had held, and how many devices they quarantined when it was released."""

    held: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Released:
    """How many devices became active, and how many of the cohort were more than one act takes."""

    released: int
    left: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """The verbs. One object serves any number of requests in any process."""

    settings: Settings
    registry: Registry
    quarantines: Quarantines

    # ---- The brake --------------------------------------------------------------------------------------------

    def brake_standing(self, *, now: datetime, after: DeviceId | None, limit: int) -> BrakeStanding:
        """For whoever looks at it: one moment, but for the limit."""
        most = self.quarantines.limit(now)
        with self.registry.reading() as c:
            return BrakeStanding(
                brake=brake.state(c),
                enabled=self.settings.brake.enabled,
                count=brake.recent(c, now=int(now.timestamp())),
                limit=most,
                held=brake.page_held(c, after=after, limit=limit),
                held_count=brake.count_held(c),
                first_end=brake.first_end(c),
            )

    def engage_brake(self, act: Act) -> None:
        """No result quarantines from now on. Raises BrakeEngaged, BrakeDisabled."""
        if not self.settings.brake.enabled:
            raise BrakeDisabled
        with self.registry.acting() as c:
            found = brake.take(c)
            if found.engaged:
                raise BrakeEngaged("The brake is engaged already.", seen=f"by {found.engaged_by}")
            brake.engage(c, by=act.actor, reason=act.reason, now=act.at)
            act.note(c, "engage-brake", FLEET)

    def release_brake(self, fate: Fate, act: Act) -> LetGo:
        """Results count again, and those of the last minute no longer do. Raises BrakeReleased."""
        with self.registry.acting() as c:
            found = brake.take(c)
            if not found.engaged:
                raise BrakeReleased
            done = 0
            if fate is Fate.QUARANTINE:
                done = cohorts.quarantine_held(c, now=act.at, note=_noting(c, "quarantine", act))
            held = brake.release(c)
            act.note(c, "release-brake", FLEET, fate=fate.value, held=held, quarantined=done)
        return LetGo(held, done)

    # ---- Cohorts ----------------------------------------------------------------------------------------------

    def preview(self, cohort: Cohort) -> Preview:
        """What `release_cohort` would release. Raises CohortUnnamed."""
        _require_named(cohort)
        with self.registry.reading() as c:
            return Preview(cohorts.count(c, cohort), cohorts.first(c, cohort, limit=SHOWN))

    def release_cohort(self, cohort: Cohort, *, expected: int, act: Act) -> Released:
        """All of a cohort become active, or nobody does: it must be as many devices as the operator saw.

        Of more than MAX_COHORT that many are released, and the next act takes the others. Raises CohortUnnamed,
        CohortChanged.
        """
        _require_named(cohort)
        with self.registry.acting() as c:
            seen = cohorts.count(c, cohort)
            if seen != expected:
                raise CohortChanged(seen=f"{seen} devices", expected=f"{expected} devices")
            due = min(seen, MAX_COHORT)
            done = cohorts.release(c, cohort, reason=act.reason, now=act.at, limit=due, note=_noting(c, "release", act))
            if done != due:  # somebody else decided about one of them since it was counted
                raise CohortChanged(seen=f"{done} devices", expected=f"{due} devices")
            act.note(c, "release-cohort", FLEET, released=done, left=seen - done, cohort=cohort.criteria)
        return Released(done, seen - done)


def _noting(c: Connection, verb: str, act: Act) -> Callable[[Sequence[tuple[DeviceId, Mapping[str, Any]]]], None]:
    """An audit row for each device."""

    def note(found: Sequence[tuple[DeviceId, Mapping[str, Any]]]) -> None:
        entries = [(str(device_id), {**detail, **act.said}) for device_id, detail in found]
        audit.append_all(c, entries, at=act.at, actor=act.actor, act=verb, request_id=act.request_id)

    return note


def _require_named(cohort: Cohort) -> None:
    if not cohort.criteria:
        raise CohortUnnamed
