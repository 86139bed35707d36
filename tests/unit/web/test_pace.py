"""How fast a process answered lately."""

from __future__ import annotations

import pytest

from attestd.web import pace
from attestd.web.pace import WINDOW, Lately, Pace

NOW = 1_800_000_000


def test_nothing_lately() -> None:
    assert Pace().lately(now=NOW) == Lately(0, None, None)


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 2), (19, 19), (20, 19), (100, 95), (101, 96)])
def test_ninety_five_of_a_hundred_took_no_longer(count: int, expected: int) -> None:
    """The smallest time that so many answers took at most; none between two of them is made up."""
    seen = Pace()
    for place in range(count, 0, -1):
        seen.note(float(place), now=NOW)
    assert seen.lately(now=NOW) == Lately(count, NOW, float(expected))


def test_what_was_long_ago_does_not_count() -> None:
    seen = Pace()
    seen.note(9.0, now=NOW)
    seen.note(1.0, now=NOW + 1)
    assert seen.lately(now=NOW + WINDOW) == Lately(1, NOW + 1, 1.0)
    assert seen.lately(now=NOW + WINDOW + 1) == Lately(0, None, None)


def test_of_very_many_the_last_ones_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "MOST", 2)
    seen = Pace()
    for place in range(3):
        seen.note(float(3 - place), now=NOW + place)
    assert seen.lately(now=NOW + 2) == Lately(2, NOW + 1, 2.0)
