"""Kept evidence: of each device the newest, and the newest that was contraindicated; IMA lists in parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from attestd.ids import DeviceId
from attestd.registry import evidence
from attestd.registry.engine import Registry
from attestd.registry.evidence import BAD, GOOD, Endorsement, ImaPart, Kept
from attestd.registry.states import State, StateChanged
from attestd.registry.tables import ima_parts

from .conftest import NOW, Fleet


def kept(**members: Any) -> Kept:
    found: dict[str, Any] = {
        "verdict": GOOD,
        "at": NOW,
        "inputs": b"{}",
        "boot": "1.0",
        "boot_log": None,
        "boot_pcrs": b"p" * 32,
        "boot_facts": {"secure_boot": True, "loaders": ["ab"]},
        "ima_entries": None,
        "runtime_state": b"state",
        "result": b"{}",
    }
    return Kept(**found | members)


def keep(registry: Registry, device_id: DeviceId, *, ima: ImaPart | None = None, new: bool = False, **m: Any) -> Kept:
    one = kept(**m)
    registry.act(*evidence.keeping(device_id, one, ima=ima, new_boot=new))
    return one


def parts(registry: Registry, device_id: DeviceId, boot: str = "1.0", entries: int = 1000) -> list[ImaPart]:
    with registry.reading() as c:
        return evidence.ima_list(c, device_id, boot, entries=entries)


@pytest.fixture
def device_id(fleet: Fleet) -> DeviceId:
    return fleet.device(State.ACTIVE).id


def test_evidence_as_it_was_kept(registry: Registry, device_id: DeviceId) -> None:
    assert evidence.newest(registry, device_id) is None
    one = keep(registry, device_id)
    assert evidence.newest(registry, device_id) == one
    with registry.reading() as c:
        assert evidence.every(c, device_id) == [one]


def test_the_next_takes_its_place(registry: Registry, device_id: DeviceId) -> None:
    keep(registry, device_id)
    newer = keep(registry, device_id, at=NOW + 1, inputs=b"newer")
    with registry.reading() as c:
        assert evidence.every(c, device_id) == [newer]


def test_what_was_contraindicated_is_kept_beside_what_was_good(registry: Registry, device_id: DeviceId) -> None:
    bad = keep(registry, device_id, verdict=BAD, at=NOW + 1)
    keep(registry, device_id)
    good = keep(registry, device_id, at=NOW + 2)
    with registry.reading() as c:
        assert evidence.every(c, device_id) == [good, bad]
    assert evidence.newest(registry, device_id) == good


def test_another_device_s_is_another_s(registry: Registry, fleet: Fleet, device_id: DeviceId) -> None:
    keep(registry, device_id, ima=ImaPart(0, b"entries"))
    other = fleet.device(State.ACTIVE).id
    assert evidence.newest(registry, other) is None
    assert parts(registry, other) == []


# ---- What goes on from other evidence -----------------------------------------------------------------------------

LOG, VALUES = b"l" * 32, b"p" * 32


def goes_on(registry: Registry, device_id: DeviceId, after: Kept, **members: Any) -> Kept:
    newer = kept(**{"boot_log": LOG, "at": NOW + 1, "ima_entries": 12, "inputs": b"newer"} | members)
    registry.act(*evidence.keeping(device_id, newer, after=after, ima=None, new_boot=False))
    return newer


def test_the_same_log_s_facts_are_not_written_again(registry: Registry, device_id: DeviceId) -> None:
    before = keep(registry, device_id, boot_log=LOG)
    newer = goes_on(registry, device_id, before, boot_facts={"written": True}, boot="2.0", runtime_state=b"later")
    assert evidence.newest(registry, device_id) == replace(newer, boot_facts=before.boot_facts)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ({}, {"boot_log": b"o" * 32}),
        ({}, {"boot_pcrs": b"o" * 32}),
        ({"boot_log": None, "boot_facts": None}, {}),
        ({"boot_facts": None}, {}),
        ({}, {"boot_log": None, "boot_pcrs": None, "boot_facts": None}),
    ],
)
def test_another_log_s_facts_are_written(
    registry: Registry, device_id: DeviceId, was: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    before = keep(registry, device_id, **{"boot_log": LOG} | was)
    newer = goes_on(registry, device_id, before, **{"boot_facts": {"written": True}} | now)
    assert evidence.newest(registry, device_id) == newer


def test_what_goes_on_from_the_other_verdict_keeps_both(registry: Registry, device_id: DeviceId) -> None:
    bad = keep(registry, device_id, verdict=BAD, boot_log=LOG)
    good = goes_on(registry, device_id, bad)
    with registry.reading() as c:
        assert evidence.every(c, device_id) == [good, bad]


@pytest.mark.parametrize("members", [{}, {"boot_log": b"o" * 32}, {"verdict": BAD}])
def test_of_two_at_once_the_second_is_refused(
    registry: Registry, device_id: DeviceId, members: Mapping[str, Any]
) -> None:
    """Of the same log, of another one, with another verdict: each is a statement of its own."""
    before = keep(registry, device_id, boot_log=LOG)
    first = keep(registry, device_id, boot_log=LOG, inputs=b"first")
    with pytest.raises(StateChanged):
        goes_on(registry, device_id, before, **members)
    with registry.reading() as c:
        assert evidence.every(c, device_id) == [first]
    assert goes_on(registry, device_id, first, **members) == evidence.newest(registry, device_id)


# ---- IMA lists --------------------------------------------------------------------------------------------------


def test_a_list_grows_by_parts(registry: Registry, device_id: DeviceId) -> None:
    keep(registry, device_id, ima=ImaPart(0, b"a" * 1000), ima_entries=10)
    keep(registry, device_id, ima=ImaPart(10, b"b"), ima_entries=12)
    keep(registry, device_id, ima_entries=12)
    assert parts(registry, device_id) == [ImaPart(0, b"a" * 1000), ImaPart(10, b"b")]
    assert parts(registry, device_id, entries=10) == [ImaPart(0, b"a" * 1000)]
    assert parts(registry, device_id, boot="2.0") == []


def test_a_whole_list_takes_the_place_of_its_parts(registry: Registry, device_id: DeviceId) -> None:
    keep(registry, device_id, ima=ImaPart(0, b"a"))
    keep(registry, device_id, ima=ImaPart(10, b"b"))
    keep(registry, device_id, ima=ImaPart(0, b"all"))
    assert parts(registry, device_id) == [ImaPart(0, b"all")]


def test_a_part_takes_the_place_of_those_from_there_on(registry: Registry, device_id: DeviceId) -> None:
    keep(registry, device_id, ima=ImaPart(0, b"a"))
    keep(registry, device_id, ima=ImaPart(10, b"b"))
    keep(registry, device_id, ima=ImaPart(5, b"c"))
    assert parts(registry, device_id) == [ImaPart(0, b"a"), ImaPart(5, b"c")]


def test_lists_of_other_boots_go_unless_evidence_speaks_of_them(registry: Registry, device_id: DeviceId) -> None:
    keep(registry, device_id, boot="1.0", verdict=BAD, ima=ImaPart(0, b"bad"), new=True)
    keep(registry, device_id, boot="2.0", ima=ImaPart(0, b"two"), new=True)
    keep(registry, device_id, boot="3.0", ima=ImaPart(0, b"three"), new=True)
    assert [parts(registry, device_id, boot) for boot in ("1.0", "2.0", "3.0")] == [
        [ImaPart(0, b"bad")],
        [],
        [ImaPart(0, b"three")],
    ]


def test_parts_are_stored_compressed(registry: Registry, device_id: DeviceId) -> None:
    keep(registry, device_id, ima=ImaPart(0, b"a" * 10_000))
    with registry.reading() as c:
        assert len(c.execute(select(ima_parts.c.content)).scalar_one()) < 1000


# ---- Endorsements -----------------------------------------------------------------------------------------------


def test_by_what_a_tpm_was_endorsed(registry: Registry, device_id: DeviceId) -> None:
    nothing = Endorsement(None, ())
    first = Endorsement(b"a certificate", (b"1" * 32, b"2" * 32))
    second = Endorsement(b"another", (b"3" * 32,))
    with registry.reading() as c:
        assert evidence.endorsed_by(c, device_id) == nothing
    for endorsement in (first, second, nothing):
        registry.act(*evidence.keeping_endorsement(device_id, endorsement, now=NOW))
        with registry.reading() as c:
            assert evidence.endorsed_by(c, device_id) == endorsement


def test_a_device_that_is_forgotten_leaves_nothing(registry: Registry, fleet: Fleet, device_id: DeviceId) -> None:
    other = fleet.device(State.ACTIVE).id
    endorsed = Endorsement(b"a certificate", (b"1" * 32,))
    for each in (device_id, other):
        keep(registry, each, ima=ImaPart(0, b"a"))
        registry.act(*evidence.keeping_endorsement(each, endorsed, now=NOW))
    with registry.acting() as c:
        evidence.forget(c, [device_id])
        assert evidence.every(c, device_id) == []
        assert evidence.endorsed_by(c, device_id) == Endorsement(None, ())
        assert evidence.ima_list(c, device_id, "1.0", entries=9) == []
        assert (len(evidence.every(c, other)), evidence.endorsed_by(c, other)) == (1, endorsed)
        assert len(evidence.ima_list(c, other, "1.0", entries=9)) == 1
