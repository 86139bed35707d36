"""A whole service for each test, and the question that ends most of them: did the attack change anything?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.attacks.ledger import Ledger
from tests.service import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "instance")
    yield world
    world.close()


@pytest.fixture
def ledger(world: World) -> Callable[[], Ledger]:
    """`before = ledger()`, the attack, `assert ledger() == before`."""
    return lambda: Ledger.of(world)
