"""The state folder: pairs that always match, power cuts at every system call, locks, permissions, bounds."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from attestd.protocol.encoding import MalformedJson
from attestd_agent.keys import TpmKey
from attestd_agent.records import ChainNotOfThisKey, Enrolled, MalformedChain, Record, Waiting
from attestd_agent.state import StateBroken, StateBusy, StateDir, StateExposed, StateOfAnotherUser, StateUnwritable
from tests.forger import forge_ck, forge_key
from tests.unit.attestd_agent.keysmith import chain_for, enrolled, record, tpm_key
from tests.unit.attestd_agent.power_cut import Disk, PowerCut

OLD, NEW, AGAIN = (enrolled(record(obtained_at=at)) for at in (1_700_000_000, 1_800_000_000, 1_900_000_000))


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real syncs take their time, and prove nothing here: `power_cut` counts them."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path / "state")


def save(state: StateDir, one: Enrolled) -> None:
    with state.exclusive():
        state.save(one)


def same(one: Enrolled | None, other: Enrolled) -> bool:
    return one is not None and (one.ak, one.ck, one.chain, one.record) == (
        other.ak,
        other.ck,
        other.chain,
        other.record,
    )


# ---- The pair -------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_what_is_loaded(state: StateDir) -> None:
    assert state.load() is None
    save(state, OLD)
    assert same(state.load(), OLD)
    save(state, NEW)
    assert same(state.load(), NEW)


def test_the_stable_paths_hold_the_current_pair(state: StateDir) -> None:
    save(state, OLD)
    save(state, NEW)
    assert state.chain_path.read_text() == NEW.chain
    assert TpmKey.from_pem(state.key_path.read_bytes()) == NEW.ck


def test_a_chain_for_another_key_is_never_a_credential() -> None:
    ck = forge_ck()
    Enrolled.of(ak=tpm_key(forge_key()), ck=tpm_key(ck), chain=chain_for(ck), record=record())
    with pytest.raises(ChainNotOfThisKey):
        Enrolled.of(ak=tpm_key(forge_key()), ck=tpm_key(ck), chain=chain_for(forge_ck()), record=record())


@pytest.mark.parametrize(
    "chain", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "é"]
)
def test_a_chain_that_can_t_be_read_is_named(chain: str) -> None:
    with pytest.raises(MalformedChain):
        Enrolled.of(ak=OLD.ak, ck=OLD.ck, chain=chain, record=record())


def test_a_pair_mixed_on_disk_is_noticed(state: StateDir) -> None:
    save(state, OLD)
    state.chain_path.write_text(NEW.chain)
    with pytest.raises(StateBroken):
        state.load()


@pytest.mark.parametrize("name", ["ak.pem", "key.pem", "chain.pem", "device.json"])
@pytest.mark.parametrize("data", [None, b"", b"\xff\x00", b"x" * 300_000])
def test_a_broken_file_is_named(state: StateDir, name: str, data: bytes | None) -> None:
    save(state, OLD)
    path = state.path / "credentials" / name
    path.unlink() if data is None else path.write_bytes(data)
    with pytest.raises(StateBroken):
        state.load()


def test_a_link_to_anywhere_else_is_refused(state: StateDir, tmp_path: Path) -> None:
    save(state, OLD)
    (state.path / "credentials").unlink()
    (state.path / "credentials").symlink_to(tmp_path)
    with pytest.raises(StateBroken):
        state.load()
    save(state, NEW)  # and the next save mends it
    assert same(state.load(), NEW)


def test_the_generation_before_stays_for_its_readers_and_older_ones_go(state: StateDir) -> None:
    for one in (OLD, NEW, OLD, NEW):
        save(state, one)
    assert sorted(entry.name for entry in state.path.glob("*gen-*")) == ["gen-3", "gen-4"]


# ---- Power cuts -----------------------------------------------------------------------------------------------------


def _cut(
    monkeypatch: pytest.MonkeyPatch,
    state: StateDir,
    write: Callable[[], None],
    *,
    at: int,
    contents: bool,
    entries: bool | int,
) -> bool | None:
    """Writes until the power is cut, or to the end and then cuts it. True: it was cut. None: no such rename to lose."""
    disk = Disk(state.path, at=at)
    with disk.mounted(monkeypatch), suppress(PowerCut):
        write()
    if type(entries) is int and entries >= disk.renames:
        return None if disk.dead else False
    disk.forget(contents=contents, entries=entries)
    return disk.dead


LOSSES = pytest.mark.parametrize("entries", [False, True, 0], ids=["kept", "lost", "first-rename-lost"])
CONTENTS = pytest.mark.parametrize("contents", [False, True], ids=["contents-kept", "contents-lost"])


@pytest.mark.parametrize("before", [None, OLD], ids=["first", "renewal"])
@CONTENTS
@LOSSES
def test_a_power_cut_at_any_call_leaves_the_old_pair_or_the_new(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: Enrolled | None, contents: bool, entries: bool | int
) -> None:
    outcomes: set[str] = set()
    cut: bool | None = True
    number = 0
    while cut is not False:
        state = StateDir(tmp_path / str(number))
        with state.exclusive():
            if before is not None:
                state.save(before)
            cut = _cut(
                monkeypatch,
                state,
                lambda: state.save(NEW),  # noqa: B023
                at=number,
                contents=contents,
                entries=entries,
            )
        found, was = state.load(), f"cut at call {number}"
        old = found is None if before is None else same(found, before)
        assert old or same(found, NEW), f"neither old nor new, {was}"
        assert same(found, NEW) or cut is not False, "a save that returned must last"
        outcomes.add("old" if old else "new")
        save(state, AGAIN)
        assert same(state.load(), AGAIN), was
        assert not [entry for entry in state.path.iterdir() if entry.name.startswith((".gen", ".cred"))], was
        number += 1
    assert number > 20, "the model has lost sight of the calls"
    assert outcomes == {"old", "new"}


@CONTENTS
@LOSSES
def test_a_power_cut_leaves_the_old_time_floor_or_the_new(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, contents: bool, entries: bool | int
) -> None:
    cut: bool | None = True
    number = 0
    while cut is not False:
        state = StateDir(tmp_path / str(number))
        with state.exclusive():
            state.raise_floor(1_700_000_000)
            cut = _cut(
                monkeypatch,
                state,
                lambda: state.raise_floor(1_800_000_000),  # noqa: B023
                at=number,
                contents=contents,
                entries=entries,
            )
            assert state.floor() in ((1_800_000_000,) if cut is False else (1_700_000_000, 1_800_000_000))
            state.raise_floor(1_900_000_000)
            assert state.floor() == 1_900_000_000
        number += 1
    assert number > 5, "the model has lost sight of the calls"


# ---- The other files ------------------------------------------------------------------------------------------------


def test_the_floor_never_falls(state: StateDir) -> None:
    with state.exclusive():
        state.raise_floor(2_000_000_000)
        state.raise_floor(1_900_000_000)
    assert state.floor() == 2_000_000_000


@pytest.mark.parametrize("data", [b"", b"[]", b'{"v":1,"floor":"2"}', b'{"v":2,"floor":2}'])
def test_a_floor_that_can_t_be_read_is_none(state: StateDir, data: bytes) -> None:
    with state.exclusive():
        state.raise_floor(2_000_000_000)
    (state.path / "time-floor.json").write_bytes(data)
    assert state.floor() == 0


def test_waiting_comes_and_goes(state: StateDir) -> None:
    waiting = Waiting("pending", "https://attestd.test", 1, 31)
    with state.exclusive():
        state.save_waiting(waiting)
        assert state.waiting() == waiting
        state.save_waiting(None)
        state.save_waiting(None)
    assert state.waiting() is None


def test_a_waiting_file_that_can_t_be_read_is_none(state: StateDir) -> None:
    with state.exclusive():
        (state.path / "waiting.json").write_bytes(b'{"v":1}')
    assert state.waiting() is None


def test_a_waiting_file_is_read_strictly() -> None:
    good = Waiting("pending", "https://attestd.test", 1, 31).to_bytes()
    assert Waiting.parse(good).retry_at == 31
    with pytest.raises(MalformedJson):
        Waiting.parse(good[:-1] + b',"extra":1}')


def test_roots_are_kept(state: StateDir) -> None:
    with state.exclusive():
        assert state.roots() is None
        state.save_roots(b"one")
        state.save_roots(b"two")
    assert state.roots() == b"two"


@pytest.mark.parametrize("lie", ["v", "device_id", "selection", "renew_at", "extra"])
def test_a_record_is_read_strictly(lie: str) -> None:
    good = record().to_bytes()
    assert Record.parse(good) == record()
    bad = good.replace(f'"{lie}"'.encode(), f'"{lie}2"'.encode()) if lie != "extra" else good[:-1] + b',"extra":1}'
    with pytest.raises(MalformedJson, match=r"missing|not know"):
        Record.parse(bad)


# ---- Who may, and how many at once ----------------------------------------------------------------------------------


def test_everything_is_private(state: StateDir) -> None:
    former = os.umask(0)
    try:
        save(state, OLD)
    finally:
        os.umask(former)
    for entry in (state.path, *state.path.rglob("*")):
        if not entry.is_symlink():
            assert stat.S_IMODE(entry.stat().st_mode) & 0o077 == 0, entry


def test_a_folder_that_others_can_read_is_refused(state: StateDir) -> None:
    state.path.mkdir(mode=0o700)
    with state.exclusive():
        pass
    state.path.chmod(0o750)
    with pytest.raises(StateExposed), state.exclusive():
        pass


def test_another_user_s_folder_is_refused(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    with state.exclusive():
        pass
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(StateOfAnotherUser), state.exclusive():
        pass


def test_a_second_writer_waits_and_gives_up(state: StateDir) -> None:
    with state.exclusive(), pytest.raises(StateBusy), StateDir(state.path).exclusive(patience=0.1):
        pass


def test_a_second_writer_goes_on_when_the_first_is_done(state: StateDir) -> None:
    entered, done = threading.Event(), threading.Event()

    def hold() -> None:
        with state.exclusive():
            entered.set()
            done.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(5)
    threading.Timer(0.1, done.set).start()
    with StateDir(state.path).exclusive(patience=5):
        assert done.is_set()
    thread.join()


def test_a_path_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((StateUnwritable, StateExposed)), StateDir(tmp_path / "file").exclusive():
        pass
