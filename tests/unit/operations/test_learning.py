"""A draft of a manifest from kept evidence, and what could not be learned."""

from __future__ import annotations

from typing import Any

import pytest

from attestd.ids import DeviceId
from attestd.operations.learning import NothingToLearn, TooManyGolden
from attestd.protocol.encoding import write_object
from attestd.registry import evidence
from attestd.registry.evidence import BAD, GOOD, ImaPart, Kept
from attestd.registry.states import UnknownDevice
from tests import ima_lists as w
from tests.unit.operations.conftest import Desk

LIST = [w.boot_aggregate(), w.ng("/bin/sh", b"sh")]


def keep(desk: Desk, device_id: DeviceId, *, ima: bool = False, entries: int | None = None, **members: Any) -> None:
    pcrs = w.quote(LIST).pcrs if ima else {"sha256": {0: bytes(32), 2: bytes(32), 10: b"\x0a" * 32}}
    written = {bank: {str(i): value.hex() for i, value in each.items()} for bank, each in pcrs.items()}
    found: dict[str, Any] = {
        "verdict": GOOD,
        "at": desk.now,
        "inputs": write_object({"pcrs": written, "and": "more"}),
        "boot": "1.0",
        "boot_log": None,
        "boot_pcrs": None,
        "boot_facts": {"secure_boot": True, "doubts": []},
        "ima_entries": entries or (len(LIST) if ima else None),
        "runtime_state": None,
        "result": b"{}",
    }
    part = ImaPart(0, w.binary(LIST)) if ima else None
    desk.world.registry.act(*evidence.keeping(device_id, Kept(**found | members), ima=part, new_boot=True))


def test_a_draft_from_kept_evidence(desk: Desk) -> None:
    one, two = desk.device(), desk.device()
    for device in (one, two):
        keep(desk, device)
    found = desk.learn(one, two)
    assert found.draft.members["boot"] == {"secure_boot": True}
    assert set(found.draft.members["pcrs"]["sha256"]) == {"0", "2"}
    assert found.draft.members["match"] == {"tier": "device", "manufacturer": "IFX", "tpm_model": "SLB9670"}
    assert [(source.device_id, source.has_log, source.why) for source in found.sources] == [
        (one, True, ""),
        (two, True, ""),
    ]
    (row,) = desk.rows()
    assert (row.act, row.subject, row.detail["devices"]) == ("learn-reference", "reference bike-4", [one, two])
    assert desk.counting() == []


def test_what_could_not_be_learned_is_said_device_by_device(desk: Desk) -> None:
    one, without, none = desk.device(), desk.device(), desk.device()
    keep(desk, one)
    keep(desk, without, boot_facts=None)
    found = desk.learn(one, without, none, runtime=True)
    why = {source.device_id: source.why for source in found.sources}
    assert why[one] == "it sent no IMA list, so nothing that ran is learned from it"
    assert why[without].startswith("it sent no event log")
    assert why[none].startswith("no evidence is kept of it")


def test_devices_without_any_evidence(desk: Desk) -> None:
    device = desk.device()
    with pytest.raises(NothingToLearn) as refusal:
        desk.learn(device)
    assert str(device) in str(refusal.value.seen)
    assert 'stage = "learn"' in refusal.value.what_to_do
    assert desk.rows() == []


def test_the_newest_evidence_counts_whatever_it_came_to(desk: Desk) -> None:
    device = desk.device()
    keep(desk, device)
    keep(desk, device, verdict=BAD, at=desk.now + 1, boot_facts={"secure_boot": False})
    found = desk.learn(device)
    assert found.draft.members["boot"] == {"secure_boot": False}
    assert found.sources[0].why == "its newest evidence was contraindicated"


def test_what_ran(desk: Desk) -> None:
    device = desk.device()
    keep(desk, device, ima=True)
    assert "/bin/sh" in desk.learn(device, runtime=True, pcrs=frozenset()).draft.members["runtime"]["files"]
    assert "runtime" not in desk.learn(device, pcrs=frozenset()).draft.members


def test_a_list_that_can_t_be_learned_is_said(desk: Desk) -> None:
    device = desk.device()
    keep(desk, device, ima=True, inputs=write_object({"pcrs": {"sha256": {"0": "00" * 32, "10": "66" * 32}}}))
    found = desk.learn(device, runtime=True)
    assert "its IMA list can't be learned" in found.sources[0].why


@pytest.mark.parametrize("count", [0, 33])
def test_how_many_to_learn_from(desk: Desk, count: int) -> None:
    with pytest.raises(TooManyGolden):
        desk.learn(*(DeviceId(f"d-{n}") for n in range(count)))


def test_one_device_twice(desk: Desk) -> None:
    device = desk.device()
    keep(desk, device)
    desk.learn(device)
    with pytest.raises(TooManyGolden):
        desk.learn(device, device)


def test_a_device_that_is_not_there(desk: Desk) -> None:
    with pytest.raises(UnknownDevice):
        desk.learn(DeviceId("nobody"))
