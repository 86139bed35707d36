"""Plays a scene again and again, in another order each time, and judges every run."""

from __future__ import annotations

from collections import defaultdict

import pytest

from tests.races.cast import Cast
from tests.races.oracle import judge
from tests.races.scenes import SCENES, Scene
from tests.races.schedule import Stage, Tree

__all__ = ["play", "require_played"]

_SEED = 1
_played: dict[str, dict[str, int]] = defaultdict(dict)  # different interleavings, by kind of database and scene


def play(cast: Cast, scene: Scene, tries: int) -> None:
    """Plays that many different interleavings, or all that there are. Raises AssertionError with the first story that
    breaks a rule."""
    cast.restore()
    parts = scene.parts(cast)
    stage, tree = Stage(cast.waits_for_lock()), Tree(_SEED)
    with stage.watching():
        while tree.tried < tries and not tree.exhausted:
            cast.restore()
            run = stage.run([part.verb for part in parts], tree)
            tree.end()
            judge(cast, parts, run)
    assert tree.tried == tries or tree.exhausted
    _played[cast.kind][scene.name] = tree.tried


def require_played(kind: str, least: int) -> None:
    """Raises AssertionError if all scenes together were fewer. Skips where only some of them were played."""
    if len(_played[kind]) < len(SCENES):
        pytest.skip("not all scenes were played")
    assert sum(_played[kind].values()) >= least
