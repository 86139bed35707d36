"""What is in force, as each process sees it: soon, in order, and without anybody waiting for another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from attestd.issuance.references import References
from attestd.registry.engine import Connection, Registry
from attestd.web.baton import Baton
from tests.booted import BOOT, refer
from tests.service import World

pytestmark = pytest.mark.database


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "instance")


def names(found: References, world: World) -> list[str]:
    return [manifest.name for manifest in found.in_force(world.clock()).manifests]


def test_a_change_counts_a_second_later_and_not_before(world: World) -> None:
    found = References(world.settings, world.registry)
    assert names(found, world) == []
    world.clock.advance(seconds=-2)
    refer(world, boot=BOOT)  # which lets two seconds pass
    assert names(found, world) == []
    world.clock.advance(seconds=1)
    assert names(found, world) == ["model"]


def test_what_ends_by_time_ends_without_a_change(world: World) -> None:
    found = References(world.settings, world.registry)
    refer(world, boot=BOOT)
    refer(world, boot={"secure_boot": True}, overlap=60)
    assert len(names(found, world)) == 2
    world.clock.advance(seconds=61)
    assert len(names(found, world)) == 1


def test_manifests_are_parsed_once(world: World) -> None:
    found = References(world.settings, world.registry)
    refer(world, boot=BOOT)
    (first,) = found.in_force(world.clock()).manifests
    refer(world, name="another", boot=BOOT)
    assert first in found.in_force(world.clock()).manifests
    assert any(manifest is first for manifest in found.in_force(world.clock()).manifests)


class _Waits:
    """A registry that puts the baton down while it is asked, until somebody else has asked, too."""

    def __init__(self, registry: Registry, baton: Baton, meanwhile: threading.Thread) -> None:
        self._registry, self._baton, self._meanwhile = registry, baton, meanwhile

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        if threading.current_thread() is not self._meanwhile:
            with self._baton.waiting():
                self._meanwhile.start()
                self._meanwhile.join(5)
        with self._registry.reading() as c:
            yield c


def test_nobody_waits_for_who_waits_for_the_baton(world: World) -> None:
    baton = Baton()
    seen: list[Any] = []
    meanwhile = threading.Thread(target=lambda: baton.run(lambda: seen.append(found.in_force(world.clock()))))
    found = References(world.settings, _Waits(world.registry, baton, meanwhile))  # type: ignore[arg-type]
    asking = threading.Thread(target=lambda: baton.run(lambda: seen.append(found.in_force(world.clock()))), daemon=True)
    asking.start()
    asking.join(4)
    assert not asking.is_alive()
    assert len(seen) == 2


def test_a_manifest_asks_nobody_for_another_bank(world: World) -> None:
    found = References(world.settings, world.registry)
    refer(world, pcrs={"sha384": {"0": ["ab" * 48]}, "sha256": {"14": ["ab" * 32]}})
    assert found.in_force(world.clock()).demanded.pcrs == {"sha256": (*range(8), 14)}
