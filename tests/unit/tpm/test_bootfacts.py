"""Facts as a whole: who may make them, what they were compared with, and their form in JSON."""

from __future__ import annotations

import hashlib
import json
import struct
from copy import deepcopy
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from attestd.tpm.bootclaims import boot_claims
from attestd.tpm.bootfacts import (
    BootFacts,
    ComparedFacts,
    UncomparedFacts,
    boot_facts,
    unquoted_facts,
)
from attestd.tpm.eventlog import parse_event_log
from attestd.tpm.replay import match_values, verify_event_log
from tests import logwriter as w
from tests.logwriter import EV, Boot
from tests.unit.tpm.test_replay import quoted, selected

GRUB = w.grub_boot()


def facts_of(boot: Boot) -> dict[str, Any]:
    log = parse_event_log(boot.agile())
    facts = unquoted_facts(log, match_values(log, boot.pcrs))
    assert facts is not None
    return facts.to_members()


def test_facts_of_a_quoted_boot() -> None:
    """From octets to facts, each step taking its predecessor's type."""
    pcrs = selected(GRUB, 0, 1, 2, 4, 5, 7, 8, 9, 14)
    facts = boot_facts(verify_event_log(parse_event_log(GRUB.agile()), quoted(pcrs)))
    assert type(facts) is BootFacts
    members = facts.to_members()
    assert members["compared"] is True
    assert members["pcrs"] == [0, 1, 2, 4, 5, 7, 8, 9, 14]
    assert members["secure_boot"] is True
    with pytest.raises(FrozenInstanceError):
        facts.bank = "sha1"  # type: ignore[misc]


def test_facts_that_nobody_compared_say_so() -> None:
    log = parse_event_log(GRUB.agile())
    facts = unquoted_facts(log, None)
    assert type(facts) is UncomparedFacts
    members = facts.to_members()
    assert members["compared"] is False
    assert members["secure_boot"] is True
    compared = unquoted_facts(log, match_values(log, GRUB.pcrs))
    assert type(compared) is ComparedFacts
    assert compared.to_members()["compared"] is True


def test_a_log_of_no_pcrs_has_no_facts() -> None:
    assert unquoted_facts(parse_event_log(b"\x01" + GRUB.agile()[1:]), None) is None
    assert boot_claims(parse_event_log(b"\x01" + GRUB.agile()[1:]), "sha256") == {}


@pytest.mark.parametrize("boot", [GRUB, w.uki_boot(), w.windows_boot()], ids=["GRUB", "UKI", "Windows"])
def test_members_are_flat_and_of_policy_s_kinds(boot: Boot) -> None:
    """Booleans, numbers, texts, and lists or records of these; nothing is null."""
    members = facts_of(boot)
    assert json.loads(json.dumps(members)) == members
    for name, value in members.items():
        assert name == name.lower()
        if isinstance(value, list):
            for item in value:
                assert isinstance(item, str | int) or all(isinstance(part, str) for part in item.values())
        elif isinstance(value, dict):
            assert all(isinstance(part, str) for part in value.values())
        else:
            assert isinstance(value, bool | int | str)
    assert len(json.dumps(members)) < 8192


def test_phases_are_told() -> None:
    boot = w.uki_boot()
    assert "boot_phases" not in facts_of(boot)
    boot.extend(11, b"enter-initrd")
    boot.extend(11, b"leave-initrd")
    assert facts_of(boot)["boot_phases"] == ["enter-initrd", "leave-initrd"]


def test_each_lie_about_a_boot_changes_its_facts_or_its_replay() -> None:
    """Whatever one event's data become, no fact but those of a type's words and names says more than before."""
    honest = facts_of(GRUB)
    for number in range(1, len(GRUB.log) + 1):
        for data in (b"", b"\0", GRUB.log[number - 2].data):
            lying = facts_of(GRUB.lie(number, data=data))
            for name, value in lying.items():
                if name in ("doubts", "boot_options"):
                    continue
                assert value == honest[name] or isinstance(value, list), (number, name)


# ---- Firmware ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "version"),
    [
        (w.utf16("N40ET41W", end=True), "N40ET41W"),
        (w.utf16("2.5.1"), "2.5.1"),
        (w.utf16("M60", end=True) + bytes(range(200)), "M60"),
        (b"R1CET67W\0", "R1CET67W"),
        (bytes.fromhex("1efb6b540c1d5540a4ad4ef4bf17b83a"), "546bfb1e-1d0c-4055-a4ad-4ef4bf17b83a"),
        (w.utf16("x" * 100), "x" * 63 + "…"),
    ],
)
def test_the_firmware_s_version(data: bytes, version: str) -> None:
    boot = Boot().measure(0, EV.CRTM_VERSION, data).separate(range(8))
    assert facts_of(boot)["firmware_version"] == version


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\xff\xd8\xff", bytes(range(17))])
def test_a_version_that_is_none(data: bytes) -> None:
    assert "firmware_version" not in facts_of(Boot().measure(0, EV.CRTM_VERSION, data).separate(range(8)))


def test_one_lie_about_the_version() -> None:
    boot = Boot().measure(0, EV.CRTM_VERSION, b"1.0").separate((0,))
    assert facts_of(boot)["firmware_version"] == "1.0"
    assert "firmware_version" not in facts_of(boot.lie(1, data=b"2.0"))
    assert "firmware_version" not in facts_of(Boot().measure(0, EV.CRTM_VERSION, b"1.0"))
    assert "firmware_version" not in facts_of(Boot().separate((0,)).measure(0, EV.CRTM_VERSION, b"1.0"))


@pytest.mark.parametrize("whole", [False, True])
def test_boot_options(whole: bool) -> None:
    options = [
        w.load_option("debian", w.hard_drive(), w.file_path(r"\x.efi")),
        w.load_option("PXE", w.node(3, 24, b"u")),
    ]
    facts = facts_of(w.grub_boot(options=options, whole_options=whole))
    assert facts["boot_options"] == [
        {"description": "debian", "path": rf"HD(1,GPT,{w.DISK})/\x.efi"},
        {"description": "PXE", "path": "Uri(u)"},
    ]


def test_a_boot_option_that_was_not_measured() -> None:
    number = GRUB.find(1, w.utf16("Boot0000"))
    lying = GRUB.lie(number, data=w.variable(w.GLOBAL, "Boot0000", w.load_option("good", w.node(3, 24, b"u"))))
    assert facts_of(lying)["boot_options"] == []


def test_no_more_boot_options_than_bounded() -> None:
    options = [w.load_option(f"option {number}", w.node(3, 24, b"u")) for number in range(70)]
    assert len(facts_of(w.grub_boot(options=options))["boot_options"]) == 64


def test_firmware_that_could_not_measure() -> None:
    boot = Boot().separate((0, 1, 2)).separate((3,), b"\x01\0\0\0")
    facts = facts_of(boot)
    assert facts["measuring_failed"] is True
    assert facts["doubts"] == ["firmware-could-not-measure"]
    assert facts_of(GRUB)["measuring_failed"] is False


@pytest.mark.parametrize("pcr", [0, 2, 3, 4, 5, 6, 7])
def test_that_firmware_could_not_measure_can_not_be_renamed(pcr: int) -> None:
    boot = Boot().separate((pcr,), b"\x01\0\0\0").lie(1, type=EV.UNUSED, data=b"all is well")
    assert facts_of(boot)["measuring_failed"] is True


def test_firmware_that_could_not_measure_into_pcr_1() -> None:
    assert facts_of(Boot().separate((1,), b"\x01\0\0\0"))["measuring_failed"] is True
    order = Boot().measure(1, EV.VAR_BOOT, b"BootOrder", b"\x01\0\0\0").separate(range(8))
    assert facts_of(order)["measuring_failed"] is False


def test_that_firmware_could_not_measure_stays_said() -> None:
    boot = Boot().separate((4,), b"\x01\0\0\0").separate((4,))
    assert facts_of(boot)["measuring_failed"] is True


def test_a_file_of_a_failed_separator_s_octets_is_a_file() -> None:
    facts = facts_of(w.grub_file(w.firmware(Boot()), "/one", b"\x01\0\0\0"))
    assert facts["measuring_failed"] is False
    assert facts["boot_files"] == [hashlib.sha256(b"\x01\0\0\0").hexdigest()]
    in_8 = facts_of(w.firmware(Boot()).measure(8, EV.SEPARATOR, b"x", b"\x01\0\0\0"))
    assert in_8["measuring_failed"] is False


def test_what_extends_nothing_is_no_measurement() -> None:
    noisy = deepcopy(GRUB)
    for pcr in (2, 4, 7, 8, 9, 14):
        noisy.note(b"SP800-155 Event3" + bytes(40), pcr=pcr)
    assert facts_of(noisy) == facts_of(GRUB)


def test_what_has_no_digest_in_the_bank_is_no_measurement() -> None:
    """It extended another bank alone, so this one's PCR knows nothing of it."""
    boot = deepcopy(GRUB)
    boot.log.append(w.Logged(4, EV.BS_APP, b"", w.digests_of(b"x", ("sha1",))))
    log = parse_event_log(boot.agile())
    facts = unquoted_facts(log, match_values(log, {"sha256": boot.pcrs["sha256"]}))
    assert facts is not None
    assert facts.to_members()["loaders"] == facts_of(GRUB)["loaders"]


def test_a_boot_order_may_look_like_a_separator() -> None:
    """Boot0001, Boot0000 are the octets of one that says that measuring failed."""
    order = struct.pack("<HH", 1, 0)
    boot = Boot().measure(1, EV.VAR_BOOT, w.variable(w.GLOBAL, "BootOrder", order), order).separate(range(8))
    assert facts_of(boot)["doubts"] == []


def test_four_zeros_measured_for_another_reason() -> None:
    """As some firmware does for an empty part of its own: nothing is doubted, and what follows is not believed."""
    boot = Boot().measure(0, 7, b"FIT Type 0x2D Measured S-CRTM.", bytes(4)).measure(0, EV.CRTM_VERSION, b"1.0")
    facts = facts_of(boot.separate(range(8)))
    assert facts["doubts"] == []
    assert "firmware_version" not in facts


def test_a_pcr_separated_twice() -> None:
    boot = deepcopy(GRUB).separate((4,))
    assert facts_of(boot)["doubts"] == ["pcr-4-separated-twice"]


# ---- Claims -----------------------------------------------------------------------------------------------------


def test_claims_are_names_beside_digests() -> None:
    claims = boot_claims(parse_event_log(GRUB.agile()), "sha256")
    digest = hashlib.sha256
    assert [(claim["digest"], claim["name"]) for claim in claims["loaders"]] == [
        (digest(w.image(b"shim")).hexdigest(), rf"HD(1,GPT,{w.DISK})/\EFI\debian\shimx64.efi"),
        (digest(w.image(b"grub")).hexdigest(), rf"HD(1,GPT,{w.DISK})/\EFI\debian\grubx64.efi"),
        (digest(w.image(b"kernel")).hexdigest(), rf"HD(1,GPT,{w.DISK})/"),
    ]
    assert claims["boot_files"][-1] == {
        "event": GRUB.find(9, b"initrd"),
        "digest": digest(b"initrd").hexdigest(),
        "name": "/initrd.img-6.1",
    }
    assert [claim["name"] for claim in claims["mok_lists"]] == ["MokList", "MokListX", "MokListTrusted"]
    assert [claim["name"] for claim in claims["drivers"]] == ["Offset()"]


def test_linux_says_what_it_measures() -> None:
    claims = boot_claims(parse_event_log(w.uki_boot().agile()), "sha256")
    assert claims["boot_files"][0]["name"] == "initrd, says Linux"


def test_claims_are_bounded() -> None:
    boot = Boot()
    for number in range(1025):
        w.grub_file(boot, "x" * 500, b"%d" % number)
    claims = boot_claims(parse_event_log(boot.agile()), "sha256")["boot_files"]
    assert len(claims) == 1024
    assert all(len(claim["name"]) <= 128 for claim in claims)
