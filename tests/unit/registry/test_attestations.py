"""The history of a device's results: runs of equal ones, bounded, and the digests that nobody knew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attestd.ids import DeviceId
from attestd.registry import attestations
from attestd.registry.attestations import MAX_COUNTED, MAX_OPENED, MAX_RUNS, MAX_STATE, AttestationUnknown, Found, Run
from attestd.registry.engine import Registry
from attestd.registry.states import State

from .conftest import NOW, Fleet


def found(word: bytes = b"good", **members: Any) -> Found:
    values: dict[str, Any] = {
        "digest": word.ljust(32, b"."),
        "boot": "1.0",
        "result": word,
        "inputs": b"inputs of " + word,
        "boot_log": b"l" * 32,
        "ima_entries": 3,
        "runtime_state": b"state",
    }
    return Found(**values | members)


@pytest.fixture
def device_id(fleet: Fleet) -> DeviceId:
    return fleet.device(State.ACTIVE).id


def count(registry: Registry, device_id: DeviceId, one: Found, *, at: int = NOW, as_before: bool = False) -> None:
    registry.act(*attestations.counting(device_id, one, as_before=as_before, now=at))


def runs(registry: Registry, device_id: DeviceId, **page: Any) -> list[Run]:
    with registry.reading() as c:
        return attestations.page(c, device_id, **page)


def of_number(registry: Registry, device_id: DeviceId, number: int) -> Run:
    with registry.reading() as c:
        return attestations.of_number(c, device_id, number)


def test_equal_ones_are_one_run(registry: Registry, device_id: DeviceId) -> None:
    for seconds in range(3):
        count(registry, device_id, found(), at=NOW + seconds)
    (run,) = runs(registry, device_id)
    assert (run.run, run.first, run.last, run.count) == (1, 1, 3, 3)
    assert (run.first_at, run.last_at, run.ended_at) == (NOW, NOW + 2, None)
    assert (run.result, run.inputs, run.boot_log, run.ima_entries) == (b"good", b"inputs of good", b"l" * 32, 3)


def test_another_one_ends_a_run_and_the_way_back_is_a_third(registry: Registry, device_id: DeviceId) -> None:
    for at, word in enumerate((b"good", b"bad", b"bad", b"good")):
        count(registry, device_id, found(word), at=NOW + at)
    third, second, first = runs(registry, device_id)
    assert [(run.first, run.last) for run in (first, second, third)] == [(1, 1), (2, 3), (4, 4)]
    assert [run.ended_at for run in (first, second, third)] == [NOW + 1, NOW + 3, None]
    assert runs(registry, device_id, before=3, limit=1) == [second]


@pytest.mark.parametrize("word", [b"good", b"bad"])
def test_a_wrong_hint_costs_nothing(registry: Registry, device_id: DeviceId, word: bytes) -> None:
    count(registry, device_id, found())
    count(registry, device_id, found(word), as_before=True)
    assert runs(registry, device_id)[0].last == 2
    assert len(runs(registry, device_id)) == (1 if word == b"good" else 2)


def test_devices_have_runs_of_their_own(registry: Registry, fleet: Fleet, device_id: DeviceId) -> None:
    other = fleet.device(State.ACTIVE).id
    count(registry, device_id, found())
    count(registry, other, found(b"bad"))
    count(registry, device_id, found())
    assert [run.count for run in runs(registry, device_id)] == [2]
    assert [run.ended_at for run in runs(registry, other)] == [None]


def test_one_is_found_by_its_number(registry: Registry, device_id: DeviceId) -> None:
    for word in (b"good", b"bad", b"bad"):
        count(registry, device_id, found(word))
    assert [of_number(registry, device_id, number).run for number in (1, 2, 3)] == [1, 2, 2]
    for number in (0, 4):
        with pytest.raises(AttestationUnknown):
            of_number(registry, device_id, number)


def test_runs_and_evidence_are_bounded(registry: Registry, device_id: DeviceId) -> None:
    for number in range(MAX_RUNS + 5):
        count(registry, device_id, found(b"result %d" % number))
    kept = runs(registry, device_id, limit=MAX_RUNS + 10)
    assert (len(kept), kept[0].first) == (MAX_RUNS, MAX_RUNS + 5)
    assert [run.inputs is not None for run in kept] == [True] * MAX_OPENED + [False] * (MAX_RUNS - MAX_OPENED)
    assert all(run.boot_log is None and run.runtime_state is None for run in kept[MAX_OPENED:])
    assert kept[-1].result == b"result 5"


def test_a_large_judgement_is_not_kept_with_a_run(registry: Registry, device_id: DeviceId) -> None:
    count(registry, device_id, found(runtime_state=b"x" * MAX_STATE))
    count(registry, device_id, found(b"bad", runtime_state=b"x" * (MAX_STATE + 1)))
    assert [run.runtime_state is None for run in runs(registry, device_id)] == [True, False]


# ---- Digests that nobody knew -----------------------------------------------------------------------------------


def test_others_who_showed_a_digest(registry: Registry, fleet: Fleet, device_id: DeviceId) -> None:
    others = sorted(fleet.device(State.ACTIVE).id for _ in range(4))
    bad = replace(found(b"bad"), differing=((b"d" * 32, "loaders"), (b"e" * 32, "drivers")))
    for each in (device_id, *others):
        count(registry, each, bad)
        count(registry, each, bad)  # again: it is told once
    with registry.reading() as c:
        shown = attestations.shown_by(c, b"d" * 32, besides=device_id)
        assert (shown.count, shown.devices) == (4, tuple(others[:3]))
        assert attestations.shown_by(c, b"f" * 32, besides=device_id).count == 0
    assert MAX_COUNTED >= 4


# ---- Forgetting -------------------------------------------------------------------------------------------------


def test_what_ended_long_ago_goes_and_what_goes_on_stays(registry: Registry, device_id: DeviceId) -> None:
    bad = replace(found(b"bad"), differing=((b"d" * 32, "loaders"),))
    count(registry, device_id, bad, at=NOW)
    count(registry, device_id, found(), at=NOW + 10)
    with registry.acting() as c:
        assert attestations.purge(c, before=NOW, limit=10) == 0
        assert attestations.purge(c, before=NOW + 10, limit=10) == 1  # the digest; the run ended at that time
        assert attestations.purge(c, before=NOW + 11, limit=10) == 1
    (run,) = runs(registry, device_id)
    assert (run.run, run.first, run.result) == (2, 2, b"good")
    count(registry, device_id, found(b"bad"), at=NOW + 20)
    assert runs(registry, device_id)[0].first == 3


def test_a_purge_takes_no_more_than_it_is_told(registry: Registry, device_id: DeviceId) -> None:
    for at in range(6):
        count(registry, device_id, found(b"%d" % at), at=NOW + at)
    with registry.acting() as c:
        assert attestations.purge(c, before=NOW + 100, limit=2) == 2
    assert len(runs(registry, device_id)) == 4


def test_a_forgotten_device_leaves_nothing(registry: Registry, device_id: DeviceId) -> None:
    count(registry, device_id, replace(found(), differing=((b"d" * 32, "loaders"),)))
    with registry.acting() as c:
        attestations.forget(c, [device_id])
        assert attestations.shown_by(c, b"d" * 32, besides=DeviceId("a" * 26)).count == 0
    assert runs(registry, device_id) == []
