"""Turns: everybody gets one, in order, and nobody two in a row while another process waits."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from attestd.registry.turns import Turns, Turnstile


def waiting(turns: Turns, count: int) -> None:
    """Returns when so many threads stand in line."""
    until = time.monotonic() + 10
    while len(turns._queue) < count:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_the_first_waits_for_nobody() -> None:
    turns = Turns()
    assert turns.take(0)
    turns.end()
    assert turns.take(0)


def test_a_turn_that_does_not_come() -> None:
    turns = Turns()
    turns.take(0)
    assert not turns.take(0.01)
    assert not turns._queue, "who gave up stands in line no more"
    turns.end()
    assert turns.take(0)


def test_first_come_first_served() -> None:
    turns = Turns()
    turns.take(0)
    came: list[int] = []

    def come(number: int) -> None:
        assert turns.take(10)
        came.append(number)
        turns.end()

    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=come, args=(number,)))
        threads[-1].start()
        waiting(turns, number + 1)
    turns.end()
    for thread in threads:
        thread.join(10)
    assert came == list(range(5))


def test_one_inside_at_a_time(tmp_path: Path) -> None:
    first, second = Turnstile(tmp_path / "turn"), Turnstile(tmp_path / "turn")
    assert first.enter(0)
    assert not second.enter(0.01)
    first.leave()
    assert second.enter(0)
    assert not first.enter(0.01)


def test_who_gave_up_at_the_turnstile_blocks_nobody(tmp_path: Path) -> None:
    first, second, third = (Turnstile(tmp_path / "turn") for _ in range(3))
    first.enter(0)
    assert not second.enter(0.01)
    first.leave()
    assert third.enter(0)


def test_nobody_enters_twice_while_another_waits(tmp_path: Path) -> None:
    first, second = Turnstile(tmp_path / "turn"), Turnstile(tmp_path / "turn")
    entered = threading.Event()
    first.enter(0)

    def come() -> None:
        assert second.enter(10)
        entered.set()

    thread = threading.Thread(target=come)
    thread.start()
    until = time.monotonic() + 10
    while first._set(0, 1):  # F_WRLCK: until the other holds the turnstile, so that it is seen to wait
        first._set(0, 2)
        assert time.monotonic() < until
        time.sleep(0.001)
    first.leave()
    assert not first.enter(0.05), "the other was first in line"
    assert entered.wait(10)
    thread.join()


def test_a_process_that_is_killed_inside_leaves_the_room_empty(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from attestd.registry.turns import Turnstile;"
        "t = Turnstile(Path(sys.argv[1])); t.enter(0); print('inside', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "turn")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        mine = Turnstile(tmp_path / "turn")
        assert not mine.enter(0.01)
        process.kill()
        process.wait(10)
    assert mine.enter(1)
