"""Admission: turns, bounds and deadlines, with real threads and a clock that stands still where time is the matter."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from attestd.web.admission import Admission, AnswerTooLate, Overloaded, Told, Work


async def stays() -> None:
    """A client that does not go away."""
    await asyncio.Event().wait()


class Gate:
    """Calls that return when they are let, and the order in which they began."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._open = threading.Event()

    def call(self, name: str) -> Callable[[], str]:
        def run() -> str:
            self.begun.append(name)
            assert self._open.wait(20)
            return name

        return run

    def open(self) -> None:
        self._open.set()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0.01)


def start(
    admission: Admission[str], gate: Gate, work: Work, name: str, gone: Callable[[], Awaitable[Any]] = stays
) -> asyncio.Task[str]:
    return asyncio.create_task(admission.run(work, gate.call(name), gone))


def test_strangers_never_take_the_threads_of_known_parties() -> None:
    async def story() -> None:
        admission, gate = Admission[str](4), Gate()
        flood = [start(admission, gate, Work.UNKNOWN, f"unknown-{n}") for n in range(50)]
        await settle()
        assert len(gate.begun) == 4
        device = start(admission, gate, Work.DEVICE, "device")
        await settle()
        assert gate.begun[4:] == ["device"]
        gate.open()
        await asyncio.gather(device, *flood)
        admission.close()

    asyncio.run(story())


def test_a_class_whose_work_hangs_leaves_threads_to_the_others() -> None:
    async def story() -> None:
        admission, gate = Admission[str](4), Gate()
        hanging = [start(admission, gate, Work.NEWCOMER, "hangs") for _ in range(20)]
        await settle()
        read = start(admission, gate, Work.READ, "read")
        await settle()
        assert gate.begun == ["hangs"] * 4 + ["read"]
        gate.open()
        await asyncio.gather(read, *hanging)
        admission.close()

    asyncio.run(story())


def test_known_parties_leave_a_thread_to_strangers() -> None:
    async def story() -> None:
        admission, gate = Admission[str](4), Gate()
        herd = [start(admission, gate, Work.DEVICE, f"device-{n}") for n in range(50)]
        await settle()
        stranger = start(admission, gate, Work.ENROLLMENT, "begin")
        await settle()
        assert len(gate.begun) == 5
        assert gate.begun[4] == "begin"
        gate.open()
        await asyncio.gather(stranger, *herd)
        admission.close()

    asyncio.run(story())


def test_a_freed_thread_goes_to_a_device_first() -> None:
    async def story() -> None:
        admission, first, rest = Admission[str](1), Gate(), Gate()
        held = [start(admission, first, Work.UNKNOWN, "u0"), start(admission, first, Work.DEVICE, "d0")]
        await settle()
        later = [start(admission, rest, Work.UNKNOWN, "u1"), start(admission, rest, Work.DEVICE, "d1")]
        await settle()
        assert rest.begun == []
        rest.open()
        first.open()
        await asyncio.gather(*held, *later)
        assert sorted(rest.begun) == ["d1", "u1"]
        admission.close()

    asyncio.run(story())


def test_lines_share_by_weight() -> None:
    async def story() -> None:
        admission, first, rest = Admission[str](4), Gate(), Gate()
        rest.open()
        held = [start(admission, first, work, "first") for work in [Work.UNKNOWN] * 4 + [Work.READ]]
        await settle()
        crowd = [work for work in (Work.UNKNOWN, Work.NEWCOMER) for _ in range(40)]
        waiting = [start(admission, rest, work, work.value) for work in crowd]
        await settle()
        assert rest.begun == []
        first.open()
        await asyncio.gather(*held, *waiting)
        early = rest.begun[:30]
        assert early.count("newcomer") > 2 * early.count("unknown") > 0
        admission.close()

    asyncio.run(story())


def test_a_line_is_bounded() -> None:
    async def story() -> None:
        refused: list[tuple[Work, str]] = []
        told = Told(refused=lambda work, reason: refused.append((work, reason)))
        admission, gate = Admission[str](1, waiting=3, told=told), Gate()
        held = [start(admission, gate, Work.READ, str(n)) for n in range(4)]
        await settle()
        with pytest.raises(Overloaded) as caught:
            await admission.run(Work.READ, gate.call("late"), stays)
        assert 1 <= caught.value.retry_after <= 60
        assert refused == [(Work.READ, "line-full")]
        gate.open()
        await asyncio.gather(*held)
        admission.close()

    asyncio.run(story())


def test_one_full_line_is_not_another() -> None:
    async def story() -> None:
        admission, gate = Admission[str](1, waiting=1), Gate()
        held = [start(admission, gate, Work.READ, str(n)) for n in range(2)]
        await settle()
        other = start(admission, gate, Work.ENROLLMENT, "begin")
        await settle()
        assert not other.done()
        gate.open()
        assert await other == "begin"
        await asyncio.gather(*held)
        admission.close()

    asyncio.run(story())


def test_nobody_waits_longer_than_promised() -> None:
    async def story() -> None:
        admission, gate = Admission[str](1, max_wait=0.2), Gate()
        held = start(admission, gate, Work.READ, "held")
        await settle()
        with pytest.raises(Overloaded):
            await asyncio.wait_for(admission.run(Work.READ, gate.call("stale"), stays), 10)
        gate.open()
        await held
        await admission.run(Work.READ, gate.call("later"), stays)
        assert gate.begun == ["held", "later"]  # who gave up was never served
        admission.close()

    asyncio.run(story())


def test_who_would_wait_too_long_is_told_at_once() -> None:
    async def story() -> None:
        time = [0.0]
        admission, gate = Admission[str](1, max_wait=5.0, clock=lambda: time[0]), Gate()
        held = [start(admission, gate, Work.READ, str(n)) for n in range(2)]
        await settle()
        time[0] = 5.1  # the line has not moved since
        with pytest.raises(Overloaded) as caught:
            await admission.run(Work.READ, gate.call("late"), stays)
        assert "too-long" in caught.value.detail
        gate.open()
        await asyncio.gather(*held)
        admission.close()

    asyncio.run(story())


def test_a_slow_line_refuses_what_it_cant_serve_in_time() -> None:
    async def story() -> None:
        time = [0.0]
        admission = Admission[str](1, max_wait=5.0, clock=lambda: time[0])
        gates = [Gate() for _ in range(60)]
        tasks = [start(admission, gate, Work.READ, "x") for gate in gates[:40]]
        await settle()
        for gate in gates[:30]:  # one every second
            time[0] += 1.0
            gate.open()
            await asyncio.sleep(0.005)
        with pytest.raises(Overloaded):
            await admission.run(Work.READ, gates[50].call("late"), stays)
        for gate in gates:
            gate.open()
        await asyncio.gather(*tasks)
        admission.close()

    asyncio.run(story())


def test_a_client_that_went_away_is_not_served() -> None:
    async def story() -> None:
        admission, gate = Admission[str](1), Gate()
        held = start(admission, gate, Work.READ, "held")
        await settle()
        left = asyncio.Event()

        async def gone() -> None:
            await left.wait()

        waiting = start(admission, gate, Work.READ, "gone", gone)
        await settle()
        left.set()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(waiting, 10)
        gate.open()
        await held
        assert gate.begun == ["held"]
        admission.close()

    asyncio.run(story())


def test_a_cancelled_request_gives_its_place_back() -> None:
    async def story() -> None:
        admission, gate = Admission[str](1, waiting=1), Gate()
        held = start(admission, gate, Work.READ, "held")
        await settle()
        waiting = start(admission, gate, Work.READ, "cancelled")
        await settle()
        waiting.cancel()
        await settle()
        later = start(admission, gate, Work.READ, "later")
        await settle()
        gate.open()
        assert await asyncio.wait_for(later, 10) == "later"
        await held
        assert gate.begun == ["held", "later"]
        admission.close()

    asyncio.run(story())


def test_a_call_that_does_not_return_is_answered_and_keeps_its_thread() -> None:
    async def story() -> None:
        admission, gate = Admission[str](1, answer_time=0.2, waiting=1), Gate()
        with pytest.raises(AnswerTooLate):
            await asyncio.wait_for(admission.run(Work.READ, gate.call("hangs"), stays), 10)
        waiting = start(admission, gate, Work.READ, "next")
        await settle()
        assert gate.begun == ["hangs"]
        gate.open()
        assert await asyncio.wait_for(waiting, 10) == "next"
        admission.close()

    asyncio.run(story())


def test_errors_of_a_call_reach_its_caller() -> None:
    async def story() -> None:
        admission = Admission[str](1)

        def fails() -> str:
            raise LookupError("no")

        for _ in range(5):  # and its thread is free again
            with pytest.raises(LookupError):
                await admission.run(Work.READ, fails, stays)
        admission.close()

    asyncio.run(story())


def test_those_told_to_come_back_come_at_different_times() -> None:
    chances = iter([0.0, 0.5, 0.99])
    admission = Admission[str](1, chance=lambda: next(chances))
    waits = [admission.refusal(Work.READ, "x", 10.0).retry_after for _ in range(3)]
    assert waits == [1, 11, 20]
    assert Admission[str](1, chance=lambda: 1.0).refusal(Work.READ, "x", 1000.0).retry_after == 60
