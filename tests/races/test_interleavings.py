"""State races: whatever the order in which verbs meet at the registry, nothing is issued on an old state.

Ten thousand interleavings, each another one: here on SQLite, in test_interleavings_postgresql.py on PostgreSQL, where
transactions run side by side and are held between their statements. The same ones on every run.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.races.cast import Cast
from tests.races.play import play, require_played
from tests.races.scenes import SCENES, Scene

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cast]:
    cast = Cast(tmp_path_factory.mktemp("races"), "sqlite")
    yield cast
    cast.close()


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_nothing_is_issued_on_an_old_state(cast: Cast, scene: Scene) -> None:
    play(cast, scene, scene.tries)


def test_eight_thousand_were_played() -> None:
    require_played("sqlite", 8_000)
