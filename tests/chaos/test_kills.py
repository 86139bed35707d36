"""SIGKILL of any worker, the service or its database at any moment: nothing acknowledged is lost, nothing is issued
unrecorded.

    make chaos                       # hundreds of kills
    CHAOS_SEED=… make chaos          # the same ones again, as far as a machine's timing can be the same
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.conftest import Database, show
from tests.chaos.invariants import check_registry
from tests.chaos.killer import Killer
from tests.chaos.load import Load
from tests.chaos.served import Served

_SETTLE_EVERY = 20  # kills


@pytest.mark.timeout(3600)
def test_whatever_is_killed_the_registry_is_whole_and_clients_were_told_the_truth(
    tmp_path: Path, database: Database, seed: int, kills: int
) -> None:
    served = Served.make(tmp_path / "instance", database=database.url)
    served.start()
    load = served.load(seed)
    killer = Killer(served, random.Random(seed + 1), lambda: load.ledger.answered, database.postgres)
    try:
        load.start()
        for number in range(1, kills + 1):
            killer.strike()
            if number % _SETTLE_EVERY == 0:
                settle(served, load)
        served.wait()
        load.stop()
        load.recover()
        settle(served, load)
        # The run meant something: clients were cut off, and got their answers in the end.
        assert load.ledger.counted["sent again and answered"] >= kills // 2
    finally:
        show(f"struck: {dict(killer.struck)}")
        show(load.ledger.summary() + served.failures)
        load.close()
        served.close()


def settle(served: Served, load: Load) -> None:
    """The registry is sound, and what clients were told is in it."""
    registry = served.registry()
    try:
        check_registry(registry)
        load.ledger.settle(registry)
    finally:
        registry.close()
