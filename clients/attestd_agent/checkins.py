"""Asking the service now and then whether it wants an attestation ahead of the schedule.

A check-in is one small unsigned request, and only brings an act forward: whatever becomes of it, the plan stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from attestd.errors import AttestdError

DEFAULT_INTERVAL = 300.0  # seconds
_JITTER = 0.1  # of the interval, either way
_log = logging.getLogger(__name__)


class CheckIns:
    """`ask` may raise AttestdError; `every` is in seconds, 0 for never; `random` is uniform in [0, 1)."""

    def __init__(self, ask: Callable[[], bool], *, every: float, random: Callable[[], float]) -> None:
        self._ask = ask
        self._every = every
        self._random = random
        self._next: float | None = None

    def due_in(self, now: float) -> float:
        """Seconds until the next one, infinite if there is none. The first comes an interval after the first call."""
        if self._every <= 0:
            return float("inf")
        if self._next is None:
            self._next = self._drawn(now)
        return max(self._next - now, 0.0)

    def check(self, now: float) -> bool:
        """Asks. False where nobody answers, too."""
        self._next = self._drawn(now)
        try:
            return self._ask()
        except AttestdError as failure:
            _log.debug("nobody said whether to attest", extra={"failure": failure.slug(), "why": str(failure)})
        except Exception:  # noqa: BLE001  (a fault of ours must not end the device's identity)
            _log.exception("unexpected failure")
        return False

    def _drawn(self, now: float) -> float:
        return now + self._every * (1 - _JITTER + 2 * _JITTER * self._random())
