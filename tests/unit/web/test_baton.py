"""The baton: one computes, who waits lets others compute, and who never had it changes nothing."""

from __future__ import annotations

import threading
import time

import pytest

from attestd.web.baton import Baton


def together(*calls: object) -> None:
    threads = [threading.Thread(target=call) for call in calls]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_one_computes_at_a_time() -> None:
    baton, inside, most = Baton(), [0], [0]

    def compute() -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.002)
        inside[0] -= 1

    together(*(lambda: baton.run(compute) for _ in range(6)))
    assert most == [1]


def test_who_waits_lets_another_compute_and_goes_on_afterwards() -> None:
    baton, come, said = Baton(), threading.Event(), []

    def waits() -> None:
        with baton.waiting():
            assert come.wait(5), "nobody else computed"
        said.append("went on")

    def computes() -> None:
        said.append("computed")
        come.set()

    together(lambda: baton.run(waits), lambda: baton.run(computes))
    assert said == ["computed", "went on"]


def test_waiting_within_waiting_ends_with_the_outer_one() -> None:
    baton = Baton()

    def call() -> None:
        with baton.waiting():
            with baton.waiting():
                pass
            assert baton._lock.acquire(timeout=1), "the baton is still down"
            baton._lock.release()
        assert not baton._lock.acquire(blocking=False), "it is taken up again"

    baton.run(call)
    assert baton._lock.acquire(blocking=False)


def test_without_the_baton_waiting_takes_it_from_nobody() -> None:
    baton, holding, done = Baton(), threading.Event(), threading.Event()

    def holds() -> None:
        holding.set()
        assert done.wait(5)

    holder = threading.Thread(target=baton.run, args=(holds,))
    holder.start()
    assert holding.wait(5)
    with baton.waiting():
        assert not baton._lock.acquire(blocking=False)
    assert not baton._lock.acquire(blocking=False)
    done.set()
    holder.join(5)


def test_an_error_puts_it_down() -> None:
    baton = Baton()

    def fails() -> None:
        with baton.waiting():
            raise LookupError

    with pytest.raises(LookupError):
        baton.run(fails)
    assert baton.run(lambda: "free") == "free"
