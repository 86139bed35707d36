"""Windows' own events: weaknesses and strengths, believed whole or not at all."""

from __future__ import annotations

import hashlib
import struct
from copy import deepcopy
from typing import Any

import pytest

from attestd.tpm.bootfacts import unquoted_facts
from attestd.tpm.eventlog import parse_event_log
from attestd.tpm.replay import match_values
from tests import logwriter as w
from tests.logwriter import EV, Boot, sipa

WEAK = (
    *("boot_debugging", "kernel_debugging", "test_signing", "flight_signing", "safe_mode", "pe"),
    "hypervisor_debugging",
)


def facts_of(boot: Boot) -> dict[str, Any]:
    log = parse_event_log(boot.agile())
    facts = unquoted_facts(log, match_values(log, boot.pcrs))
    assert facts is not None
    return facts.to_members()


def windows_of(boot: Boot) -> dict[str, Any]:
    return {name.removeprefix("windows_"): value for name, value in facts_of(boot).items() if "windows" in name}


def module(name: bytes) -> str:
    return hashlib.sha256(w.image(name)).hexdigest()


def test_an_honest_windows() -> None:
    assert windows_of(w.windows_boot()) == {
        "windows": True,
        **dict.fromkeys(("boot_debugging", "kernel_debugging", "test_signing", "flight_signing"), False),
        **dict.fromkeys(("safe_mode", "pe", "resumed"), False),
        "code_integrity": True,
        "hypervisor_launch_type": 1,
        "vsm_launch_type": 2,
        "bitlocker_unlocks": [4],
        "boot_count": 85,
        "elam": ["Windows Defender"],
        "modules": [module(b"ci.dll"), module(b"partmgr.sys")],
        "modules_not_validated": [],
    }


@pytest.mark.parametrize("name", WEAK)
@pytest.mark.parametrize("late", [False, True])
def test_a_weakness_counts_whoever_says_so(name: str, late: bool) -> None:
    block = w.windows_block(**{name: 1})
    boot = w.windows_boot(late=block) if late else w.windows_boot(early=block)
    assert windows_of(boot)[name] is True


def test_code_integrity_counts_if_all_say_so() -> None:
    off = w.windows_block(code_integrity=0)
    assert windows_of(w.windows_boot(early=off))["code_integrity"] is False
    assert windows_of(w.windows_boot(late=off))["code_integrity"] is False
    assert "code_integrity" not in windows_of(w.windows_boot(early=sipa(0x20009, b"1"), late=sipa(0x20009, b"1")))


def test_what_was_never_measured_is_not_said() -> None:
    quiet = w.windows_block(test_signing=None)
    assert "test_signing" not in windows_of(w.windows_boot(early=quiet, late=quiet))


def test_resumed_from_hibernation() -> None:
    late = w.windows_block() + sipa(0x20003, struct.pack("<I", 2))
    assert windows_of(w.windows_boot(late=late))["resumed"] is True


def test_modules_that_were_not_validated() -> None:
    late = w.windows_block() + w.windows_module(b"good.sys") + w.windows_module(b"odd.sys", validated=0)
    facts = windows_of(w.windows_boot(late=late))
    assert facts["modules"] == [module(b"good.sys"), module(b"odd.sys")]
    assert facts["modules_not_validated"] == [module(b"odd.sys")]


def test_types_change_nothing() -> None:
    boot = w.windows_boot(early=w.windows_block(test_signing=1))
    for number, event in enumerate(boot.log, 1):
        if event.pcr in (12, 13, 14):
            boot = boot.lie(number, type=EV.UNUSED)
    assert windows_of(boot) == windows_of(w.windows_boot(early=w.windows_block(test_signing=1)))


def test_data_that_were_not_measured_are_not_believed() -> None:
    boot = w.windows_boot(early=w.windows_block(test_signing=1))
    number = next(n for n, event in enumerate(boot.log, 1) if event.pcr == 12)
    lying = boot.lie(number, data=sipa(0x40010001, w.windows_block()))
    facts = facts_of(lying)
    assert facts["doubts"] == ["windows-events-unexplained"]
    assert windows_of(lying) == {"windows": True}


def test_one_unknown_measurement_and_nothing_is_believed() -> None:
    boot = w.windows_boot(ends=())
    boot.measure(13, EV.TAG, b"?").separate((12, 13, 14), b"WBCL")
    assert facts_of(boot)["doubts"] == ["windows-events-unexplained"]


def test_what_follows_the_separator_is_anybody_s() -> None:
    boot = deepcopy(w.windows_boot(early=w.windows_block(test_signing=1)))
    for pcr in (12, 13):
        boot.measure(pcr, EV.TAG, sipa(0x40010001, w.windows_block()))
    assert windows_of(boot)["test_signing"] is True
    later = deepcopy(w.windows_boot())
    later.measure(12, EV.TAG, b"anything")
    assert windows_of(later) == windows_of(w.windows_boot())


@pytest.mark.parametrize("ends", [(), (12,), (13,)])
def test_without_its_separators_nothing_is_believed(ends: tuple[int, ...]) -> None:
    boot = w.windows_boot(ends=ends)
    assert facts_of(boot)["doubts"] == ["windows-events-not-proven"]
    assert windows_of(boot) == {"windows": True}


def test_without_one_of_its_pcrs_nothing_is_believed() -> None:
    boot = w.windows_boot()
    log = parse_event_log(boot.agile())
    values = {"sha256": {pcr: value for pcr, value in boot.pcrs["sha256"].items() if pcr != 13}}
    facts = unquoted_facts(log, match_values(log, values))
    assert facts is not None
    assert facts.windows.windows is True
    assert facts.windows.windows_test_signing is None
    assert facts.doubts == ("windows-events-not-proven",)


def test_linux_is_no_windows() -> None:
    assert windows_of(w.grub_boot()) == {}
    assert windows_of(w.uki_boot()) == {}


def nested(depth: int) -> bytes:
    data = sipa(0x90001, b"")
    for _ in range(depth):
        data = sipa(0x40010002, data)
    return data


@pytest.mark.parametrize(
    "late",
    [
        b"\x01\x02\x03",
        struct.pack("<II", 0x50003, 0xFFFFFFFF),
        sipa(0x50003, b""),
        sipa(0x50003, bytes(9)),
        sipa(0x40010002, struct.pack("<II", 0x90001, 5)),
        sipa(0x40010003, b"\x04"),
        sipa(0x40010003, sipa(0x7000A, b"")),
        nested(5),
        b"".join(sipa(0x40010003, sipa(0x70004, number.to_bytes(4, "big"))) for number in range(1025)),
        b"".join(sipa(0x20005, bytes([number])) for number in range(65)),
        sipa(0x20009, b"") * 65_537,
    ],
    ids=[
        *("cut", "huge", "no number", "a long number", "a nested lie", "a cut module", "no verdict", "deep"),
        *("modules", "unlocks", "events"),
    ],
)
def test_events_that_are_none(late: bytes) -> None:
    boot = w.windows_boot(late=late)
    assert facts_of(boot)["doubts"] == ["windows-events-unreadable"]
    assert windows_of(boot) == {"windows": True}


def test_nested_as_deep_as_allowed() -> None:
    assert windows_of(w.windows_boot(late=nested(3)))["elam"] == ["Windows Defender", ""]


def test_numbers_that_no_policy_could_hold_are_cut() -> None:
    early = sipa(0x20002, b"\xff" * 8)
    assert windows_of(w.windows_boot(early=early, late=early))["boot_count"] == (1 << 63) - 1
