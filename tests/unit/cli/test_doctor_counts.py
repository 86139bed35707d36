"""`attestd doctor` counts the devices one by one, and `--recount` makes up for what differs."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import insert

from attestd.cli.doctor import _database
from attestd.registry.tables import fleet_changes
from tests.service import World


def test_a_count_that_differs_is_named_and_made_up_for(tmp_path: Path) -> None:
    world = World(tmp_path / "instance")
    world.enrolled()
    now = world.clock()

    def named(*, recount: bool) -> list[tuple[str, str | None, str | None]]:
        found = _database(world.settings, now, recount)
        return [(error.slug(), error.seen, error.expected) for error in found if error.slug() == "counts-differ"]

    assert named(recount=False) == []
    group = {"tier": "edge", "site": "x", "state": "active", "result_status": "none"}
    with world.registry.acting() as c:
        c.execute(insert(fleet_changes).values(**group, delta=3))
    assert named(recount=False) == [("counts-differ", "3", "0")]
    assert named(recount=True) == []
    assert named(recount=False) == []
    world.close()
