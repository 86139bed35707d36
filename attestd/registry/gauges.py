"""What /metrics says of the watch over the fleet: each number by an index, or from a small table. Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select

from attestd.registry import demands, overdue
from attestd.registry.tables import brake, held, quarantines, reference_manifests, tpm_makers


@dataclass(frozen=True, slots=True)
class Gauges:
    """One moment. `makers_first`: when the first of the trusted makers' certificates ends that have not."""

    overdue: int
    unattested: int
    demanded: int
    brake_engaged: bool
    held: int
    quarantines: int  # by results, in the last minute
    manifests: Mapping[str, int]  # by stage
    makers_first: int | None
    watched_at: int


def read(c: Connection, *, now: int, ended_by: int) -> Gauges:
    """`ended_by`: a result that ended by then makes a device overdue."""
    m = reference_manifests.c
    counted = select(m.stage, func.count()).where(or_(m.until.is_(None), m.until > now)).group_by(m.stage)
    first = select(func.min(tpm_makers.c.not_after)).where(tpm_makers.c.not_after > now)
    recent = select(func.count()).select_from(quarantines).where(quarantines.c.at > now - 60)
    engaged = select(func.count()).select_from(brake).where(brake.c.engaged_at.is_not(None))
    return Gauges(
        overdue=overdue.count(c, ended_by=ended_by),
        unattested=overdue.count_unattested(c),
        demanded=demands.count(c),
        brake_engaged=bool(c.execute(engaged).scalar_one()),
        held=int(c.execute(select(func.count()).select_from(held)).scalar_one()),
        quarantines=int(c.execute(recent).scalar_one()),
        manifests={stage: int(count) for stage, count in c.execute(counted)},
        makers_first=c.execute(first).scalar_one(),
        watched_at=overdue.watched_at(c),
    )
