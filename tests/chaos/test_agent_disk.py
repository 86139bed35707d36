"""The agent's disk without room, at any call of a save and for real: its state stays whole, and it says what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from attestd_agent.records import Enrolled
from attestd_agent.state import StateDir, StateUnwritable
from tests.chaos.disks import Disk
from tests.unit.attestd_agent.keysmith import enrolled, record
from tests.unit.attestd_agent.power_cut import Disk as CountedDisk
from tests.unit.attestd_agent.power_cut import NoRoom

OLD, NEW, AGAIN = (enrolled(record(obtained_at=at)) for at in (1_700_000_000, 1_800_000_000, 1_900_000_000))


def held(state: StateDir) -> int:
    """When the credential was obtained, which tells it from the others."""
    found = state.load()
    assert found is not None
    return found.record.obtained_at


def save(state: StateDir, one: Enrolled) -> None:
    with state.exclusive():
        state.save(one)


@pytest.mark.parametrize("lasting", [True, False], ids=["until-the-end", "once"])
def test_no_room_at_any_call_leaves_the_old_pair_or_the_new(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lasting: bool
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    outcomes: set[str] = set()
    number, failed = 0, True
    while failed:
        state = StateDir(tmp_path / str(number))
        save(state, OLD)
        disk = CountedDisk(state.path, at=number, full=NoRoom(lasting=lasting))
        said = ""
        with state.exclusive(), disk.mounted(monkeypatch):
            try:
                state.save(NEW)
            except StateUnwritable as refusal:
                said = f"{refusal}; {refusal.what_to_do}"
        failed = disk.dead
        assert not said or os.strerror(errno.ENOSPC) in said
        assert not said or "room" in said, "what to do"
        assert held(state) in ((OLD if said else NEW).record.obtained_at, NEW.record.obtained_at)
        outcomes.add("old" if held(state) == OLD.record.obtained_at else "new")
        save(state, AGAIN)  # there is room again
        assert held(state) == AGAIN.record.obtained_at
        assert not [entry for entry in state.path.iterdir() if entry.name.startswith((".gen", ".cred"))]
        number += 1
    assert number > 10, "the model has lost sight of the calls"
    assert outcomes == {"old", "new"}


@pytest.mark.small_disk(megabytes=1)
def test_a_disk_that_is_really_full(disk: Disk) -> None:
    state = StateDir(disk.path / "state")
    save(state, OLD)
    disk.fill()
    for _ in range(3):
        with pytest.raises(StateUnwritable, match="No space left"):
            save(state, NEW)
        assert held(state) == OLD.record.obtained_at
    with pytest.raises(StateUnwritable), state.exclusive():
        state.save_unanswered(True)
    with pytest.raises(StateUnwritable), state.exclusive():
        state.raise_floor(2_000_000_000)
    assert state.floor() == 0
    disk.free()
    save(state, NEW)
    assert held(state) == NEW.record.obtained_at
    with state.exclusive():
        state.raise_floor(2_000_000_000)
    assert state.floor() == 2_000_000_000
