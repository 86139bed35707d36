"""What an edge counted is told once: through restarts, deaths, power cuts, damage; rather a count too few than two."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from attestd_edge import files
from attestd_edge.reports import ledger as ledger_module
from attestd_edge.reports.counts import CountFile, Found, Judged, by_name
from attestd_edge.reports.ledger import MAX_COUNT, Ledger

ALLOWED, REFUSED = Judged("field", ""), Judged("field", "no-credential")
HOUR = 3600
NOON = 500_000 * HOUR


class Process:
    """One that counts."""

    def __init__(self, folder: Path) -> None:
        self.counted: dict[Judged, int] = {}
        self.file = CountFile(folder, lambda: self.counted, entropy=os.urandom)

    def judge(self, count: int = 1, what: Judged = ALLOWED) -> None:
        self.counted[what] = self.counted.get(what, 0) + count
        self.file.flush()


class Told:
    """A service that adds what it has not seen."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()
        self.sums: dict[Judged, int] = {}

    def take(self, ledger: Ledger) -> None:
        assert ledger.pending is not None
        if (ledger.name, ledger.pending.sequence) not in self.seen:
            self.seen.add((ledger.name, ledger.pending.sequence))
            for judged, count in ledger.pending.counts.items():
                self.sums[judged] = self.sums.get(judged, 0) + count

    def report(self, ledger: Ledger, now: int = NOON) -> None:
        ledger.take(now)
        ledger.begin(now)
        self.take(ledger)
        ledger.answered()


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path)


@pytest.fixture
def told() -> Told:
    return Told()


def make(folder: Path) -> Ledger:
    (folder / "reports").mkdir(exist_ok=True)
    return Ledger(folder)


def test_what_is_counted_is_told_once(tmp_path: Path, process: Process, told: Told) -> None:
    ledger = make(tmp_path)
    process.judge(3)
    process.judge(2, REFUSED)
    for _ in range(3):
        told.report(ledger)
    assert told.sums == {ALLOWED: 3, REFUSED: 2}
    process.judge(4)
    told.report(ledger)
    assert told.sums == {ALLOWED: 7, REFUSED: 2}
    assert ledger.sequence == 4


def test_nothing_is_written_while_nothing_is_counted(tmp_path: Path, process: Process) -> None:
    assert not process.file.flush()
    assert list(tmp_path.iterdir()) == []
    process.judge()
    assert not process.file.flush()


def test_what_was_counted_before_a_process_began_is_not_its(tmp_path: Path, told: Told) -> None:
    """A process that was forked off, or that stopped and starts again, has another's numbers in its memory."""
    first = Process(tmp_path)
    first.judge(5)
    second = CountFile(tmp_path, lambda: first.counted, entropy=os.urandom)
    first.file.close()
    second.flush()
    told.report(make(tmp_path))
    assert told.sums == {ALLOWED: 5}


def test_several_processes_add_up(tmp_path: Path, told: Told) -> None:
    processes = [Process(tmp_path) for _ in range(3)]
    ledger = make(tmp_path)
    for number, process in enumerate(processes):
        process.judge(number + 1)
    told.report(ledger)
    processes[0].judge(10)
    told.report(ledger)
    assert told.sums == {ALLOWED: 16}


def test_a_process_that_ended_leaves_its_counts_and_then_no_file(tmp_path: Path, process: Process, told: Told) -> None:
    ledger = make(tmp_path)
    process.judge(2)
    ledger.take(NOON)
    assert len(list(Found.all_in(tmp_path))) == 1
    process.judge(3)
    process.file.close()
    told.report(ledger)
    assert list(Found.all_in(tmp_path)) == []
    told.report(make(tmp_path))
    assert told.sums == {ALLOWED: 5}
    assert {path.name for path in (tmp_path / "reports").iterdir()} == {"ledger.json"}


def test_a_living_process_keeps_its_file(tmp_path: Path, process: Process, told: Told) -> None:
    process.judge()
    told.report(make(tmp_path))
    assert len(list(Found.all_in(tmp_path))) == 1


class Crash(Exception):
    """The power went."""


@pytest.mark.parametrize("at", range(1, 14))
def test_a_crash_anywhere_counts_nothing_twice_and_loses_nothing_that_was_written(
    tmp_path: Path, process: Process, told: Told, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Before each write of the ledger's and each removal, in turn; an answer gets lost each time."""
    left = [at]

    def dying(real: Any) -> Any:
        def step(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Crash
            return real(*arguments, **named)

        return step

    process.judge(3)
    process.judge(1, REFUSED)
    gone = Process(tmp_path)
    gone.judge(10)
    gone.file.close()
    with monkeypatch.context() as patched:
        patched.setattr(ledger_module, "replace_file", dying(files.replace_file))
        patched.setattr(Found, "remove", dying(Found.remove))
        try:
            ledger = make(tmp_path)
            for _ in range(3):
                ledger.take(NOON)
                ledger.begin(NOON)
                told.take(ledger)
                told.take(ledger)  # its answer got lost
                ledger.answered()
                process.counted[ALLOWED] += 1
                process.file.flush()
        except Crash:
            pass
    for _ in range(3):
        told.report(make(tmp_path))
    assert told.sums == {ALLOWED: 10 + process.counted[ALLOWED], REFUSED: 1}


def test_a_report_that_was_under_way_goes_again_as_it_was(tmp_path: Path, process: Process) -> None:
    ledger = make(tmp_path)
    process.judge(3)
    ledger.take(NOON)
    first = ledger.begin(NOON)
    process.judge(4)
    again = make(tmp_path)
    again.take(NOON + 60)
    assert again.begin(NOON + 60) == first
    assert again.name == ledger.name


def test_a_file_that_a_power_cut_set_back_is_not_taken_again(tmp_path: Path, process: Process, told: Told) -> None:
    ledger = make(tmp_path)
    process.judge(3)
    (path,) = (tmp_path / "reports").glob("????????????????????????????????.json")
    before = path.read_bytes()
    process.judge(4)
    told.report(ledger)
    path.write_bytes(before)
    process.file.close()
    told.report(ledger)
    told.report(make(tmp_path))
    assert told.sums == {ALLOWED: 7}


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"v":1,"ledger":5}', b"[]"])
def test_a_damaged_ledger_is_begun_anew_and_counts_nothing_twice(
    tmp_path: Path, process: Process, told: Told, damage: bytes
) -> None:
    ledger = make(tmp_path)
    process.judge(3)
    told.report(ledger)
    (tmp_path / "reports" / "ledger.json").write_bytes(damage)
    anew = make(tmp_path)
    assert anew.damaged
    assert anew.name != ledger.name
    told.report(anew)
    assert told.sums == {ALLOWED: 3}
    process.judge(2)
    told.report(anew)
    assert told.sums == {ALLOWED: 5}
    assert not make(tmp_path).damaged


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"v":1,"counts":{"field":{"allowed":-5,"refused":{"x":-1}}}}'])
def test_a_damaged_file_of_counts_keeps_no_other_from_being_told(
    tmp_path: Path, process: Process, told: Told, damage: bytes
) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / ("0" * 32 + ".json")).write_bytes(damage)
    process.judge(2)
    told.report(make(tmp_path))
    assert told.sums == {ALLOWED: 2}


# ---- Hours ------------------------------------------------------------------------------------------------------


def test_each_hour_is_told_for_itself_the_oldest_first(tmp_path: Path, process: Process) -> None:
    ledger = make(tmp_path)
    for hour in range(3):
        process.judge(hour + 1)
        ledger.take(NOON + hour * HOUR + 60)
    ledger = make(tmp_path)
    seen = []
    now = NOON + 2 * HOUR + 90
    while ledger.waits:
        pending = ledger.begin(now)
        seen.append((pending.since, pending.until, pending.counts[ALLOWED]))
        ledger.answered()
    assert seen == [
        (NOON, NOON + HOUR - 1, 1),
        (NOON + HOUR, NOON + 2 * HOUR - 1, 2),
        (NOON + 2 * HOUR, now, 3),
    ]
    assert ledger.begin(now + 5).since == now


def test_a_clock_that_went_back_tells_of_no_time_that_ends_before_it_begins(tmp_path: Path, process: Process) -> None:
    ledger = make(tmp_path)
    ledger.begin(NOON + 600)
    ledger.answered()
    process.judge()
    ledger.take(NOON)
    pending = ledger.begin(NOON)
    assert pending.since <= pending.until == NOON


def test_a_week_is_kept_by_the_hour_and_what_is_older_is_not_lost(
    tmp_path: Path, process: Process, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MAX_HOURS", 3)
    ledger = make(tmp_path)
    for hour in range(10):
        process.judge(1)
        ledger.take(NOON + hour * HOUR)
    assert len(json.loads((tmp_path / "reports" / "ledger.json").read_text())["hours"]) == 3
    while ledger.waits:
        ledger.begin(NOON + 10 * HOUR)
        told.take(ledger)
        ledger.answered()
    assert told.sums == {ALLOWED: 10}


def test_what_is_too_much_for_one_report_goes_in_several(tmp_path: Path, process: Process, told: Told) -> None:
    expected = {}
    for boundary in range(70):
        for reason in range(40):
            judged = Judged(f"b{boundary}", f"r{reason}" if reason else "")
            expected[judged] = process.counted[judged] = reason + 1
    expected[ALLOWED] = process.counted[ALLOWED] = 2 * MAX_COUNT + 5
    process.file.flush()
    ledger = make(tmp_path)
    ledger.take(NOON)
    while ledger.waits:
        counts = ledger.begin(NOON).counts
        boundaries = {judged.boundary for judged in counts}
        assert len(boundaries) <= 64
        for name in boundaries:
            assert len([judged for judged in counts if judged.boundary == name and judged.reason]) <= 32
        assert max(counts.values()) <= MAX_COUNT
        told.take(ledger)
        ledger.answered()
    assert told.sums == expected


def test_a_boundary_that_no_report_can_name_is_another() -> None:
    found = by_name(
        {("Ladentür", "allowed", ""): 2, ("a b", "allowed", ""): 3, ("x" * 65, "refused", "no-credential"): 1}
    )
    assert found == {Judged("other", ""): 5, Judged("other", "no-credential"): 1}
