"""What clockInfo says of the time between two quotes."""

from __future__ import annotations

import pytest

from attestd.tpm.clock import ClockWentBack, Reading, read_clock
from attestd.tpm.statements import ClockInfo

BEFORE = ClockInfo(clock=10_000, reset_count=7, restart_count=3, safe=True)
LAST = (1 << 32) - 1


@pytest.mark.parametrize(
    ("now", "reading"),
    [
        (BEFORE, Reading.SAME_BOOT),
        (BEFORE._replace(clock=10_001), Reading.SAME_BOOT),
        (BEFORE._replace(clock=10_001, safe=False), Reading.SAME_BOOT),
        (BEFORE._replace(restart_count=4, clock=11_000), Reading.RESUMED),
        (BEFORE._replace(restart_count=4, clock=9_000), Reading.RESUMED),
        (BEFORE._replace(reset_count=8, restart_count=0, clock=11_000), Reading.REBOOTED),
        (BEFORE._replace(reset_count=9, restart_count=3), Reading.REBOOTED),
        (BEFORE._replace(reset_count=8, restart_count=9), Reading.REBOOTED),
    ],
)
def test_readings(now: ClockInfo, reading: Reading) -> None:
    assert read_clock(BEFORE, now) is reading


@pytest.mark.parametrize("safe", [True, False])
def test_after_a_power_cut_the_clock_may_be_behind(safe: bool) -> None:
    """Software TPMs say that it is safe long before it is."""
    assert read_clock(BEFORE, ClockInfo(5_000, 8, 0, safe)) is Reading.REBOOTED


def test_counts_of_a_key_that_sees_them_obfuscated_run_over() -> None:
    before = BEFORE._replace(reset_count=LAST, restart_count=LAST)
    assert read_clock(before, before._replace(reset_count=0, restart_count=12)) is Reading.REBOOTED
    assert read_clock(before, before._replace(restart_count=0)) is Reading.RESUMED
    with pytest.raises(ClockWentBack):
        read_clock(before._replace(reset_count=0), before)


@pytest.mark.parametrize(
    "now",
    [
        BEFORE._replace(clock=9_999),
        BEFORE._replace(clock=9_999, safe=False),
        BEFORE._replace(restart_count=2, clock=20_000),
        BEFORE._replace(reset_count=6, restart_count=9, clock=20_000),
        BEFORE._replace(reset_count=0, restart_count=0, clock=0),
    ],
)
def test_a_copy_of_an_earlier_state(now: ClockInfo) -> None:
    with pytest.raises(ClockWentBack) as refused:
        read_clock(BEFORE, now)
    assert refused.value.seen
    assert refused.value.expected
