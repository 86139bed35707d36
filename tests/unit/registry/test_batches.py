"""Acts that are carried out together: who leads, who is waited for, and what each is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from attestd.errors import Unavailable
from attestd.registry.acts import Refused
from attestd.registry.batches import Act, Batches, Company
from attestd.registry.failures import DatabaseBusy, DatabaseFailed

WINDOW = 10.0  # long enough that nobody is forgotten within a test


def until(seen: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not seen():
        assert time.monotonic() < ends
        time.sleep(0.001)


class Line:
    """A line before a database that notes who was carried out with whom, and may be held."""

    def __init__(self, *, most: int = 32, patience: float = 0.0) -> None:
        self.company = Company(WINDOW)
        self.batches = Batches(self.carry_out, company=self.company, most=most, patience=patience, waiting=self.waiting)
        self.sizes: list[int] = []
        self.fails: BaseException | None = None
        self.refuses: set[int] = set()  # by their places
        self.held = threading.Event()
        self.held.set()
        self.waits = 0
        self.told: list[Act] = []
        self._threads: list[threading.Thread] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self.waits += 1
        yield

    def carry_out(self, waits: ExitStack) -> None:
        assert self.held.wait(10)
        if isinstance(self.fails, DatabaseBusy):  # its turn did not come
            raise self.fails
        acts = self.batches.take()
        self.sizes.append(len(acts))
        for place, act in enumerate(acts):
            if place in self.refuses:
                act.refused = Refused(0, taken=False)
        waits.enter_context(self.waiting())
        if self.fails is not None:
            raise self.fails

    def come(self) -> None:
        """One more thread acts; it stands in line, or leads, when this returns."""
        before = len(self.batches._line)
        self._threads.append(threading.Thread(target=lambda: self.told.append(self.batches.join([]))))
        self._threads[-1].start()
        until(lambda: len(self.batches._line) > before)

    def leave(self) -> list[Act]:
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        return self.told


def test_who_is_alone_does_not_wait() -> None:
    line = Line(patience=10)
    for _ in range(3):
        act = line.batches.join([])
        assert (act.refused, act.error, act.alone) == (None, None, False)
    assert line.sizes == [1, 1, 1]


def test_who_came_meanwhile_is_carried_out_together() -> None:
    line = Line()
    line.held.clear()
    line.come()  # leads, and is held
    until(lambda: line.batches._led)
    for _ in range(4):
        line.come()
    line.held.set()
    line.leave()
    assert line.sizes in ([5], [1, 4]), "the leader takes the line when it can begin"


def test_a_batch_has_an_end_and_the_first_of_the_others_leads() -> None:
    line = Line(most=2)
    line.held.clear()
    for _ in range(5):
        line.come()
    line.held.set()
    assert len(line.leave()) == 5
    assert line.sizes == [2, 2, 1]
    assert not line.batches._led


def test_each_is_told_of_its_own() -> None:
    line = Line()
    line.refuses = {1}
    line.held.clear()
    for _ in range(3):
        line.come()
    line.held.set()
    assert sorted(act.refused is None for act in line.leave()) == [False, True, True]


@pytest.mark.parametrize("error", [DatabaseBusy("not now"), DatabaseFailed("no more")])
def test_what_fails_is_told_to_everybody(error: Unavailable) -> None:
    line = Line()
    line.fails = error
    line.held.clear()
    for _ in range(3):
        line.come()
    line.held.set()
    told = [act.error for act in line.leave()]
    assert {(type(one), str(one)) for one in told} == {(type(error), str(error))}
    assert len({id(one) for one in told}) == 3, "tracebacks of threads do not mix"
    line.fails = None
    assert line.batches.join([]).error is None


def test_an_odd_error_is_the_leader_s_and_the_others_hear_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    line.fails = RuntimeError("odd")
    line.held.clear()
    raised: list[BaseException] = []

    def lead() -> None:
        try:
            line.batches.join([])
        except RuntimeError as error:
            raised.append(error)

    leader = threading.Thread(target=lead)
    leader.start()
    until(lambda: line.batches._led)
    line.come()
    line.held.set()
    (follower,) = line.leave()
    leader.join(10)
    assert raised == [line.fails]
    assert isinstance(follower.error, DatabaseFailed)


# ---- Company ----------------------------------------------------------------------------------------------------


def expect(company: Company) -> threading.Thread:
    """Another thread asks something, to act on it."""
    thread = threading.Thread(target=company.expect)
    thread.start()
    thread.join()
    return thread


def test_it_waits_for_who_is_about_to_act() -> None:
    line = Line(patience=10)
    asked, go = threading.Event(), threading.Event()

    def act() -> None:
        line.company.expect()
        asked.set()
        go.wait(10)
        line.told.append(line.batches.join([]))

    late = threading.Thread(target=act)
    late.start()
    asked.wait(10)
    line.come()
    until(lambda: line.batches._lingering is not None)
    assert line.sizes == []
    go.set()
    line.leave()
    late.join(10)
    assert line.sizes == [2]


def test_it_does_not_wait_for_ever() -> None:
    line = Line(patience=0.01)
    expect(line.company)
    line.batches.join([])
    assert line.sizes == [1]


def test_it_does_not_wait_for_more_than_it_takes() -> None:
    line = Line(most=1, patience=10)
    expect(line.company)
    line.batches.join([])
    assert line.sizes == [1]


def test_the_time_that_it_waited_in_line_counts() -> None:
    """Who was held up by the batch before has waited for company meanwhile."""
    line = Line(patience=60)
    expect(line.company)
    heir = Act([])
    heir.came -= 60
    line.batches._linger(heir)
    assert line.waits == 0


def test_who_asked_long_ago_is_not_expected() -> None:
    company = Company(0.01)
    expect(company)
    assert company.about()
    time.sleep(0.02)
    assert not company.about()


def test_who_acts_is_not_expected_any_more() -> None:
    company = Company(WINDOW)
    company.expect()
    assert company.about()
    company.arrived()
    assert not company.about()


# ---- Waiting ----------------------------------------------------------------------------------------------------


def test_what_is_given_up_while_waiting() -> None:
    line = Line()
    line.batches.join([])
    assert line.waits == 1, "for the disk, and for nothing else"
    line.waits = 0
    line.held.clear()
    line.come()
    line.come()
    until(lambda: line.waits == 1)  # the second, for the first
    line.held.set()
    line.leave()
    assert line.waits in (2, 3), "the disk, once for each batch"


def test_what_is_given_up_while_lingering() -> None:
    line = Line(patience=0.01)
    expect(line.company)
    line.batches.join([])
    assert line.waits == 2


def test_everybody_is_told_before_the_leader_takes_back_what_it_gave_up() -> None:
    line = Line()
    order: list[str] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        yield
        order.append("left")
        assert not line.batches._led

    line.waiting = waiting  # type: ignore[method-assign]
    line.batches.join([])
    assert order == ["left"]
