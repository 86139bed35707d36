"""The path from a row to the tree's head, as points and lines (RFC 9162, section 2.1.3): what is computed from the row
is full, what the service adds is hollow.

A tree of a million rows has a path of twenty steps. Drawn are the ends; how many are left out in between is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 420
_STEP: Final = 40
_TOP: Final = 20
_SHOWN: Final = 3  # steps at either end


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float
    on: bool  # on the way from the row to the head
    label: str
    anchor: str = "start"  # of the label: start, middle, end


@dataclass(frozen=True, slots=True)
class Picture:
    height: int
    lines: tuple[tuple[float, float, float, float, bool], ...]  # the last: steps are left out here
    points: tuple[Point, ...]
    left_out: int
    steps: int


def drawn(leaf: int, size: int, path: Sequence[bytes], root: bytes) -> Picture:
    """The picture of a path. Its steps come from the row upwards, as a proof has them."""
    sides, hashes = _sides(leaf, size), list(reversed(path))
    left_out = max(0, len(hashes) - 2 * _SHOWN)
    if left_out:
        sides, hashes = sides[:_SHOWN] + sides[-_SHOWN:], hashes[:_SHOWN] + hashes[-_SHOWN:]
    x, y = WIDTH / 2, float(_TOP)
    points = [Point(x, y, True, f"head {short(root)}")]
    lines = []
    for depth, (at_left, sibling) in enumerate(zip(sides, hashes, strict=False)):
        spread = max(40.0, 100 / (1 + depth % _SHOWN))
        skipped = bool(left_out) and depth == _SHOWN
        down = y + (_STEP + 14 if skipped else _STEP)
        own, other = (x + spread / 2, x - spread / 2) if at_left else (x - spread / 2, x + spread / 2)
        lines += [(x, y, own, down, skipped), (x, y, other, down, False)]
        points.append(Point(other, down, False, short(sibling), "end" if at_left else "start"))
        last = depth == len(hashes) - 1
        points.append(Point(own, down, True, "this row" if last else "", "middle"))
        x, y = own, down
    if not hashes:
        points = [Point(x, y, True, f"this row is the head {short(root)}")]
    return Picture(int(y) + 36, tuple(lines), tuple(points), left_out, len(path))


def short(digest: bytes) -> str:
    text = digest.hex()
    return f"{text[:4]}…{text[-2:]}"


def _sides(leaf: int, size: int) -> list[bool]:
    """For each step from the head down to the leaf, whether what the service adds stands at the left (RFC 9162, section
    2.1.3.1)."""
    sides = []
    start, end = 0, size
    while end - start > 1:
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        sides.append(leaf >= middle)
        start, end = (middle, end) if leaf >= middle else (start, middle)
    return sides
