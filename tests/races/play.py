"""Plays a scene again and again, in another order each time, and judges every run."""

from __future__ import annotations

from tests.races.cast import Cast
from tests.races.oracle import judge
from tests.races.scenes import Scene
from tests.races.schedule import Stage, Tree

__all__ = ["play"]

_SEED = 1


def play(cast: Cast, scene: Scene, tries: int) -> int:
    """How many different interleavings were played: `tries`, or all that there are. Raises AssertionError with the
    first story that breaks a rule."""
    cast.restore()
    parts = scene.parts(cast)
    stage, tree = Stage(cast.waits_for_lock()), Tree(_SEED)
    with stage.watching():
        while tree.tried < tries and not tree.exhausted:
            cast.restore()
            run = stage.run([part.verb for part in parts], tree)
            tree.end()
            judge(cast, parts, run)
    return tree.tried
