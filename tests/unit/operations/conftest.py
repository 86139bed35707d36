"""An operator's desk: a fleet of any past, and the verbs on manifests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from attestd.appraisal.learning import Wish
from attestd.appraisal.manifests import ReferenceManifest, Stage
from attestd.ids import DeviceId
from attestd.operations.learning import Learned, Learning
from attestd.operations.references import References
from attestd.registry import audit, references
from attestd.registry.references import StoredManifest
from attestd.registry.states import State
from attestd.registry.tables import devices, held
from tests.service import World
from tests.unit.registry.conftest import Fleet

GOOD_VALUE = "11" * 32


class Desk:
    """An operator's desk: the verbs, a fleet, and what its devices said last."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fleet = Fleet(world.registry)
        self.verbs = References(world.settings, world.registry)
        self.learning = Learning(world.registry)

    @property
    def now(self) -> int:
        return int(self.world.clock().timestamp())

    def add(self, of: ReferenceManifest | None = None, stage: Stage = Stage.ENFORCE, **options: Any) -> StoredManifest:
        return self.verbs.add((of or manifest()).at_stage(stage), self.world.act, **options)

    def promote(self, stored: StoredManifest, stage: Stage = Stage.ENFORCE, **options: Any) -> StoredManifest:
        return self.verbs.promote(stored.number, stage, self.world.act, **options)

    def learn(self, *ids: DeviceId, **wish: Any) -> Learned:
        return self.learning.learn(ids, "bike-4", self.world.act, wish=Wish(**wish))

    def device(
        self, *, attested_at: int | None = None, held_by: StoredManifest | None = None, **labels: str
    ) -> DeviceId:
        """An active one. It attested at this time, and this manifest held."""
        device_id = self.fleet.device(State.ACTIVE).id
        self.say(device_id, attested_at=attested_at, labels=labels)
        if held_by is not None:
            policy = f"{held_by.name}@sha256:{held_by.digest}"
            self.say(device_id, result={"status": "affirming", "policies": [policy]})
        return device_id

    def say(self, device_id: DeviceId, **values: Any) -> None:
        with self.world.registry.acting() as c:
            c.execute(update(devices).where(devices.c.id == device_id).values(**values))

    def brake(self, device_id: DeviceId) -> None:
        """The brake holds a contraindicated result of it."""
        row = {"device_id": device_id, "at": self.now, "result": {"status": "contraindicated"}}
        with self.world.registry.acting() as c:
            c.execute(insert(held).values(**row))

    def watched(self, device_id: DeviceId, stored: StoredManifest, *reasons: str) -> None:
        """The device attests, and this is what the watched manifest says of it."""
        self.say(device_id, attested_at=self.now)
        self.world.registry.act(*references.watching(device_id, stored.digest, reasons, now=self.now))

    def rows(self) -> list[Any]:
        with self.world.registry.reading() as c:
            return [row for row in audit.page(c) if "reference" in row.act]

    def counting(self) -> list[tuple[str, str]]:
        with self.world.registry.reading() as c:
            return [(each.name, each.stage) for each in references.in_force(c, now=self.now)]


def manifest(**members: Any) -> ReferenceManifest:
    found = {"name": "bike-4", "stage": "enforce", "pcrs": {"sha256": {"0": [GOOD_VALUE]}}}
    return ReferenceManifest.from_members(found | members)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "instance")
    yield world
    world.close()


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)
