"""When the daemon acts next: pure, with the time and the dice in the test's hands."""

from __future__ import annotations

import random

import pytest

from attestd_agent.records import Waiting
from attestd_agent.schedule import MAX_BACKOFF, SPREAD, Act, Plan, Schedule
from tests.unit.attestd_agent.keysmith import NOW, record

T = NOW.timestamp()
PENDING = Waiting("pending", "https://attestd.test", int(T), int(T) + 30)
QUARANTINED = Waiting("quarantined", "https://attestd.test", int(T), int(T) + 600)


def schedule(chance: float = 0.5) -> Schedule:
    return Schedule(lambda: chance)


# ---- After a start --------------------------------------------------------------------------------------------------


def test_a_new_device_enrolls_at_once() -> None:
    assert schedule().start(None, None, now=T) == Plan(Act.ENROLL, 0.0)


def test_a_healthy_one_waits_until_its_renewal() -> None:
    assert schedule().start(record(renew_in=1800), None, now=T + 300) == Plan(Act.ATTEST, 1500.0)


@pytest.mark.parametrize("late", [1800, 3599, 3600, 10**6])
def test_an_overdue_one_acts_within_seconds_and_not_all_at_once(late: int) -> None:
    plans = [schedule(chance).start(record(), None, now=T + late) for chance in (0.0, 0.5, 0.999)]
    assert [plan.act for plan in plans] == [Act.ATTEST] * 3
    assert [plan.delay for plan in plans] == [0.0, SPREAD / 2, pytest.approx(SPREAD * 0.999)]


def test_a_clock_that_was_set_back_does_not_put_the_renewal_off() -> None:
    assert schedule().start(record(), None, now=T - 30).delay == 1830.0  # a little is nothing
    assert schedule().start(record(), None, now=T - 10**7).delay <= SPREAD


def test_a_waiting_device_keeps_its_appointment() -> None:
    assert schedule().start(None, PENDING, now=T + 10) == Plan(Act.ENROLL, 20.0)
    assert schedule().start(None, PENDING, now=T + 100) == Plan(Act.ENROLL, 0.0)


def test_an_appointment_beyond_reason_is_not_kept() -> None:
    assert schedule().start(None, PENDING, now=T - 10**7) == Plan(Act.ENROLL, 0.0)


def test_a_quarantined_device_attests_and_a_retired_one_enrolls() -> None:
    assert schedule().start(record(), QUARANTINED, now=T).act is Act.ATTEST
    assert schedule().start(record(), PENDING, now=T).act is Act.ENROLL


# ---- While it runs --------------------------------------------------------------------------------------------------


def test_after_success_it_waits_for_the_renewal() -> None:
    assert schedule().succeeded(record(renew_in=1700), now=T) == Plan(Act.ATTEST, 1700.0)
    assert schedule().succeeded(record(renew_in=0), now=T).delay == 1.0


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_told_to_wait_it_never_comes_early(chance: float) -> None:
    plan = schedule(chance).told_to_wait(30, None, PENDING)
    assert plan.act is Act.ENROLL
    assert 30 <= plan.delay <= 33


def test_a_wait_is_bounded_both_ways() -> None:
    assert schedule().told_to_wait(-5, None, PENDING).delay >= 1
    assert schedule().told_to_wait(10**9, None, PENDING).delay <= 86400 * 1.1


def test_failures_back_off_up_to_five_minutes() -> None:
    found = schedule(0.999)
    delays = [found.failed(Act.ENROLL, record=None, now=T).delay for _ in range(2000)]
    assert delays[:4] == [
        pytest.approx(2 * 0.999),
        pytest.approx(4 * 0.999),
        pytest.approx(8 * 0.999),
        pytest.approx(16 * 0.999),
    ]
    assert max(delays) <= MAX_BACKOFF
    assert delays[-1] == pytest.approx(MAX_BACKOFF * 0.999)


def test_the_jitter_is_full() -> None:
    dice = random.Random(1)
    delays = []
    for _ in range(500):
        found = Schedule(dice.random)
        for _ in range(12):
            plan = found.failed(Act.ATTEST, record=None, now=T)
        delays.append(plan.delay)
    assert min(delays) < 10
    assert max(delays) > 290
    assert 130 < sum(delays) / len(delays) < 170


def test_success_forgets_the_failures() -> None:
    found = schedule(0.999)
    for _ in range(10):
        found.failed(Act.ATTEST, record=None, now=T)
    found.succeeded(record(), now=T)
    assert found.failed(Act.ATTEST, record=None, now=T).delay < 2
    for _ in range(10):
        found.failed(Act.ATTEST, record=None, now=T)
    found.told_to_wait(30, None, PENDING)
    assert found.failed(Act.ATTEST, record=None, now=T).delay < 2


def test_while_the_credential_lives_no_attempt_comes_too_late() -> None:
    found = schedule(0.999)
    for _ in range(10):
        found.failed(Act.ATTEST, record=None, now=T)
    for left in (3600, 200, 60, 8):
        plan = found.failed(Act.ATTEST, record=record(expires_in=left), now=T)
        assert plan.delay <= max(left / 2, 1.0)
    assert found.failed(Act.ATTEST, record=record(expires_in=3600), now=T + 4000).delay > 60


def test_no_attempt_follows_at_once() -> None:
    assert schedule(0.0).failed(Act.ATTEST, record=record(expires_in=1), now=T).delay == 1.0


@pytest.mark.parametrize("left", [10, 3600])
def test_retry_after_is_obeyed_even_then(left: int) -> None:
    plan = schedule(0.0).failed(Act.ATTEST, record=record(expires_in=left), now=T, retry_after=120)
    assert plan.delay == 120.0


def test_a_failure_may_ask_for_a_new_enrollment() -> None:
    assert schedule().failed(Act.ATTEST, record=record(), now=T).act is Act.ATTEST
    assert schedule().failed(Act.ATTEST, record=record(), now=T, enroll=True).act is Act.ENROLL
