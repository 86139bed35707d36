"""State races where transactions run side by side: the same scenes, held between the statements of their transactions.

A verb that waits for another one's lock is seen waiting, and somebody else goes on; so every order that PostgreSQL
allows can be played, and one that ends in a deadlock is a failure.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres import require_postgres
from tests.races.cast import Cast
from tests.races.play import play, require_played
from tests.races.scenes import ON_POSTGRESQL, SCENES, Scene

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cast]:
    require_postgres()
    cast = Cast(tmp_path_factory.mktemp("races"), "postgresql")
    yield cast
    cast.close()


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_nothing_is_issued_on_an_old_state(cast: Cast, scene: Scene) -> None:
    play(cast, scene, ON_POSTGRESQL)


def test_two_thousand_were_played() -> None:
    require_played("postgresql", 2_000)
