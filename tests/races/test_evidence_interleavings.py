"""Attestations with logs at the same moment, on both kinds of database: one wins, and what is kept is that one's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres import require_postgres
from tests.races.evidence import SCENES, Drama, Scene

pytestmark = pytest.mark.once

TRIES = {"sqlite": 40, "postgresql": 20}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def drama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drama]:
    if request.param == "postgresql":
        require_postgres()
    drama = Drama(tmp_path_factory.mktemp("races") / "instance", request.param)
    yield drama
    drama.close()


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_what_is_kept_is_one_attestation_s(drama: Drama, scene: Scene) -> None:
    assert drama.play(scene, TRIES[drama.kind]) >= 10
