"""What time it is, on a device whose clock may be wrong (docs/protocol.md, section 7). Pure; never sets any clock.

The floor is the latest of build time, last signed server time and the certificate's notBefore: all of them have passed.
A system clock that is not behind the floor is believed. One that is behind it is not: then only a signed time helps,
which goes on by the boot clock until the process ends.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

# When this release was made. Moved forward with every release; a clock before it is wrong for certain.
BUILD_TIME = datetime(2026, 11, 1, tzinfo=UTC)


class DeviceClock:
    """`system` is the machine's clock; `boot` counts seconds since some moment and goes on during suspend."""

    def __init__(self, *, system: Callable[[], datetime], boot: Callable[[], float], floor: datetime) -> None:
        self._system = system
        self._boot = boot
        self._floor = max(BUILD_TIME, floor)
        self._signed: tuple[datetime, float] | None = None

    @property
    def floor(self) -> datetime:
        """No time before this can be true."""
        return self._floor

    @property
    def behind(self) -> bool:
        """Whether the system's clock is certainly wrong."""
        return self._system() < self._floor

    @property
    def needs_time(self) -> bool:
        """Whether it is, and no signed time has made up for it yet."""
        return self._signed is None and self.behind

    def now(self) -> datetime:
        """The best belief: the system's clock, or the signed time and what has gone by since, or the floor."""
        system = self._system()
        if system >= self._floor:
            return system
        if self._signed is None:
            return self._floor
        signed, at = self._signed
        return signed + timedelta(seconds=self._boot() - at)

    def learn(self, signed: datetime) -> None:
        """A time that the service signed just now, in answer to this device's nonce."""
        self._signed = (signed, self._boot())
        self.raise_floor(signed)

    def raise_floor(self, passed: datetime) -> None:
        """A moment that has surely passed, such as a new certificate's notBefore."""
        self._floor = max(self._floor, passed)
