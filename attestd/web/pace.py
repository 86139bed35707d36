"""How fast this process answered lately: the time that 95 of 100 answers took at most.

Each answer is remembered for a while, not a histogram kept: a percentile of buckets is a guess between two bounds.
Times are unix seconds, durations in seconds.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from math import ceil
from typing import Final

WINDOW: Final = 900  # seconds
MOST: Final = 4096  # answers that are remembered; of more, the last ones


@dataclass(frozen=True, slots=True)
class Lately:
    """`count` answers since `since`; 95 of 100 took `seconds` at most. None of both where there was none."""

    count: int
    since: int | None
    seconds: float | None


class Pace:
    """One kind of request. Safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: deque[tuple[int, float]] = deque(maxlen=MOST)

    def note(self, seconds: float, *, now: int) -> None:
        with self._lock:
            self._answers.append((now, seconds))

    def lately(self, *, now: int) -> Lately:
        with self._lock:
            recent = [(at, seconds) for at, seconds in self._answers if now - WINDOW < at <= now]
        if not recent:
            return Lately(0, None, None)
        taken = sorted(seconds for _, seconds in recent)
        return Lately(len(recent), min(at for at, _ in recent), taken[ceil(len(taken) * 0.95) - 1])
