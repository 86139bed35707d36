"""What the agent believes about the time."""

from __future__ import annotations

from datetime import datetime, timedelta

from attestd_agent.clock import BUILD_TIME, DeviceClock
from tests.unit.attestd_agent.keysmith import NOW


class Times:
    def __init__(self, system: datetime) -> None:
        self.system, self.boot = system, 100.0


def clock(times: Times, floor: datetime) -> DeviceClock:
    return DeviceClock(system=lambda: times.system, boot=lambda: times.boot, floor=floor)


def test_a_clock_at_or_above_the_floor_is_believed() -> None:
    for system in (NOW, NOW + timedelta(days=1)):
        found = clock(Times(system), NOW)
        assert (found.behind, found.needs_time, found.now()) == (False, False, system)


def test_a_clock_behind_the_floor_is_not() -> None:
    found = clock(Times(NOW - timedelta(seconds=1)), NOW)
    assert (found.behind, found.needs_time, found.now()) == (True, True, NOW)


def test_the_floor_is_never_before_the_build() -> None:
    found = clock(Times(BUILD_TIME - timedelta(days=1)), datetime.min.replace(tzinfo=NOW.tzinfo))
    assert found.behind
    assert found.floor == BUILD_TIME


def test_a_signed_time_goes_on_by_the_boot_clock() -> None:
    times = Times(NOW - timedelta(days=365))
    found = clock(times, NOW)
    found.learn(NOW + timedelta(hours=1))
    assert (found.behind, found.needs_time) == (True, False)
    times.boot += 30
    assert found.now() == NOW + timedelta(hours=1, seconds=30)
    assert found.floor == NOW + timedelta(hours=1)


def test_a_system_clock_that_was_set_right_is_believed_again() -> None:
    times = Times(NOW - timedelta(days=365))
    found = clock(times, NOW)
    found.learn(NOW + timedelta(hours=1))
    times.system = NOW + timedelta(hours=2)
    assert (found.behind, found.now()) == (False, NOW + timedelta(hours=2))


def test_the_floor_only_rises() -> None:
    found = clock(Times(NOW), NOW)
    found.raise_floor(NOW - timedelta(days=1))
    assert found.floor == NOW
    found.raise_floor(NOW + timedelta(days=1))
    assert found.floor == NOW + timedelta(days=1)
    assert found.behind
