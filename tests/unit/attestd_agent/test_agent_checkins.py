"""Asking whether an attestation is wanted: when, and what becomes of the answer. Pure."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from attestd_agent.checkins import CheckIns
from attestd_agent.server import ServerRefused
from attestd_agent.transport import ServerUnreachable


def check_ins(ask: Callable[[], bool] = lambda: False, *, every: float = 300.0, chance: float = 0.5) -> CheckIns:
    return CheckIns(ask, every=every, random=lambda: chance)


@pytest.mark.parametrize(("chance", "due"), [(0.0, 270.0), (0.5, 300.0), (1.0, 330.0)])
def test_intervals_are_jittered_by_a_tenth(chance: float, due: float) -> None:
    found = check_ins(chance=chance)
    assert found.due_in(1000.0) == pytest.approx(due)
    found.check(1000.0 + due)
    assert found.due_in(1000.0 + due) == pytest.approx(due)


def test_each_interval_is_drawn_anew() -> None:
    chances = iter([0.0, 1.0])
    found = CheckIns(lambda: False, every=300.0, random=lambda: next(chances))
    assert found.due_in(0.0) == pytest.approx(270.0)
    found.check(270.0)
    assert found.due_in(270.0) == pytest.approx(330.0)


def test_one_that_was_slept_through_is_due_at_once() -> None:
    found = check_ins()
    found.due_in(0.0)
    assert found.due_in(90_000.0) == 0.0


def test_zero_turns_it_off() -> None:
    assert check_ins(every=0.0).due_in(1e9) == float("inf")


@pytest.mark.parametrize("wanted", [True, False])
def test_the_answer_is_passed_on(wanted: bool) -> None:
    assert check_ins(lambda: wanted).check(0.0) is wanted


@pytest.mark.parametrize("failure", [ServerUnreachable("away"), ServerRefused("no", status=404)])
def test_failures_are_quiet(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def ask() -> bool:
        raise failure

    with caplog.at_level(logging.DEBUG):
        assert not check_ins(ask).check(0.0)
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_a_fault_of_ours_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def ask() -> bool:
        raise RuntimeError("a fault of ours")

    assert not check_ins(ask).check(0.0)
    assert "unexpected failure" in caplog.text
