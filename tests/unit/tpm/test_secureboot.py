"""Secure Boot's facts: each from digests alone, and gone with the first lie that touches them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest

from attestd.tpm.bootfacts import unquoted_facts
from attestd.tpm.eventlog import parse_event_log
from attestd.tpm.replay import match_values
from tests import logwriter as w
from tests.logwriter import EV, GLOBAL, SECURITY, SHIM_LOCK, Boot


def facts_without(boot: Boot, pcr: int) -> dict[str, Any]:
    """The facts where this PCR was not compared."""
    log = parse_event_log(boot.agile())
    values = {index: value for index, value in boot.pcrs["sha256"].items() if index != pcr}
    facts = unquoted_facts(log, match_values(log, {"sha256": values}))
    assert facts is not None
    return facts.to_members()


def facts_of(boot: Boot, *, bank: str | None = None) -> dict[str, Any]:
    """The facts of a log that replays to what its TPM holds."""
    log = parse_event_log(boot.agile())
    facts = unquoted_facts(log, match_values(log, boot.pcrs if bank is None else {bank: boot.pcrs[bank]}))
    assert facts is not None
    return facts.to_members()


def sha256(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


CONFIGURATION = ("secure_boot", "setup_mode", "pk", "kek", "db", "db_images", "dbx_count", "dbx_digest")
POLICY = (*CONFIGURATION, "signers", "authorities", "firmware_debug_mode", "dma_protection_disabled", "shim")
GRUB = w.grub_boot()


def test_state_and_keys() -> None:
    facts = facts_of(GRUB)
    assert facts["doubts"] == []
    assert facts["secure_boot"] is True
    assert facts["setup_mode"] is False
    assert facts["pk"] == [sha256(w.certificate("A maker's platform key"))]
    assert facts["kek"] == [sha256(w.certificate(name)) for name in ("A maker's KEK", "Microsoft's KEK")]
    assert facts["db"] == [sha256(w.certificate(name)) for name in ("Windows Production PCA", "UEFI CA")]
    assert facts["db_images"] == [sha256(b"an image")]
    assert facts["dbx_count"] == len(w.DBX) + 1
    assert facts["dbx_digest"] == sha256(w.keys()["dbx"])
    assert facts["dbx_certificates"] == [sha256(w.certificate("A revoked CA"))]


@pytest.mark.parametrize("bank", ["sha1", "sha256"])
def test_the_same_facts_by_every_bank(bank: str) -> None:
    facts = facts_of(GRUB, bank=bank)
    assert facts["bank"] == bank
    assert {name: facts[name] for name in POLICY} == {name: facts_of(GRUB)[name] for name in POLICY}


@pytest.mark.parametrize(("content", "state"), [(b"\x01", True), (b"\0", False), (b"", False)])
def test_on_or_off(content: bytes, state: bool) -> None:
    """Firmware without keys has no such variable, and measures an empty one."""
    assert facts_of(w.grub_boot(secure_boot=content))["secure_boot"] is state


@pytest.mark.parametrize("content", [b"\x02", b"\x01\0", b"\xff"])
def test_a_state_that_is_none(content: bytes) -> None:
    assert "secure_boot" not in facts_of(w.grub_boot(secure_boot=content))


def test_setup_mode_is_a_machine_without_a_platform_key() -> None:
    empty = dict.fromkeys(w.keys(), b"")
    facts = facts_of(w.grub_boot(secure_boot=b"\0", variables=empty))
    assert (facts["setup_mode"], facts["pk"], facts["db"], facts["dbx_count"]) == (True, [], [], 0)


def test_firmware_that_measures_no_state_says_nothing_of_it() -> None:
    boot = Boot().separate(range(8))
    facts = facts_of(w.authority(boot, "db", "UEFI CA"))
    assert "secure_boot" not in facts
    assert facts["authorities"] == [sha256(w.certificate("UEFI CA"))]


def test_a_pcr_that_was_not_compared_says_nothing() -> None:
    without_7 = facts_without(GRUB, 7)
    assert not set(POLICY) & set(without_7)
    assert (without_7["audit_mode"], without_7["doubts"]) == (False, [])
    without_1 = facts_without(GRUB, 1)
    assert not {"audit_mode", "deployed_mode", "boot_options"} & set(without_1)
    assert without_1["secure_boot"] is True
    assert "firmware_version" not in facts_without(GRUB, 0)


# ---- What nobody can change -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [EV.UNUSED, EV.POST_CODE, EV.IPL, EV.SEPARATOR, 0xDEADBEEF])
def test_types_change_nothing(kind: int) -> None:
    """Every event of PCR 7 called something else, and the facts are the same (google/go-attestation's disclosure)."""
    honest = facts_of(GRUB)
    renamed = GRUB
    for number, event in enumerate(GRUB.log, 1):
        if event.pcr == 7:
            renamed = renamed.lie(number, type=kind)
    assert {name: facts_of(renamed)[name] for name in POLICY} == {name: honest[name] for name in POLICY}


def test_a_second_set_of_variables_behind_the_first() -> None:
    """The disclosure's attack: real events renamed, new ones appended and extended, from a system that is booted."""
    attacked = deepcopy(w.grub_boot(secure_boot=b"\0"))
    for number, event in enumerate(attacked.log, 1):
        if event.pcr == 7:
            attacked = attacked.lie(number, type=EV.UNUSED)
    attacked.measure(7, EV.VAR_CONFIG, w.variable(GLOBAL, "SecureBoot", b"\x01"))
    attacked.measure(7, EV.VAR_CONFIG, w.variable(GLOBAL, "PK", w.signatures(w.certificate("An attacker's"))))
    attacked.separate((7,))
    w.authority(attacked, "db", "Windows Production PCA")
    facts = facts_of(attacked)
    assert facts["secure_boot"] is False
    assert facts["pk"] == [sha256(w.certificate("A maker's platform key"))]


def test_data_that_were_not_measured_are_not_believed() -> None:
    """Secure Boot is off, and the log's data say that it is on: then nothing is said of PCR 7."""
    off = w.grub_boot(secure_boot=b"\0")
    number = off.find(7, w.utf16("SecureBoot"))
    facts = facts_of(off.lie(number, data=w.variable(GLOBAL, "SecureBoot", b"\x01")))
    assert "pcr-7-unexplained" in facts["doubts"]
    assert not set(POLICY) & set(facts)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 5, -1])
def test_one_unknown_measurement_and_nothing_of_pcr_7_is_believed(at: int) -> None:
    """Before the separator or after it: it could be a debugger, or Secure Boot switched off."""
    numbers = [number for number, event in enumerate(GRUB.log, 1) if event.pcr == 7]
    separator = next(n for n in numbers if GRUB.log[n - 1].type == EV.SEPARATOR)
    chosen = [number for number in numbers if number != separator][at]
    facts = facts_of(GRUB.lie(chosen, data=b"\0\x01\x02 whatever"))
    assert facts["doubts"] == ["pcr-7-unexplained"]
    assert not set(POLICY) & set(facts)


def test_a_separator_is_known_by_its_digest() -> None:
    """With other data and another type it ends the phase all the same: what follows is not the firmware's."""
    attacked = deepcopy(w.grub_boot(secure_boot=b"\0"))
    number = next(n for n, event in enumerate(attacked.log, 1) if (event.pcr, event.type) == (7, EV.SEPARATOR))
    attacked = attacked.lie(number, type=EV.EFI_ACTION, data=b"nothing to see here")
    attacked.measure(7, EV.VAR_CONFIG, w.variable(GLOBAL, "SecureBoot", b"\x01"))
    assert facts_of(attacked)["secure_boot"] is False


def test_without_a_separator_nobody_knows_who_measured() -> None:
    facts = facts_of(w.shim(w.firmware(Boot(), separated=False)))
    assert "pcr-7-not-separated" in facts["doubts"]
    assert not set(CONFIGURATION) & set(facts)
    assert "shim" in facts


def test_a_separator_in_its_other_spelling() -> None:
    boot = w.firmware(Boot(), separated=False).separate(range(8), b"\xff\xff\xff\xff")
    assert facts_of(w.authority(boot, "db", "UEFI CA"))["secure_boot"] is True


@pytest.mark.parametrize("name", ["SecureBoot", "PK", "KEK", "db", "dbx"])
def test_a_variable_measured_twice_is_believed_neither_time(name: str) -> None:
    boot = w.firmware(Boot(), separated=False)
    content = {**w.keys(), "SecureBoot": b"\x01"}[name]
    vendor = SECURITY if name.startswith("db") else GLOBAL
    boot.measure(7, EV.VAR_CONFIG, w.variable(vendor, name, content)).separate(range(8))
    facts = facts_of(w.authority(boot, "db", "UEFI CA"))
    assert facts["doubts"] == [f"{name.lower()}-measured-twice"]
    gone = {
        "SecureBoot": {"secure_boot"},
        "PK": {"pk", "setup_mode"},
        "KEK": {"kek"},
        "db": {"db", "db_images"},
        "dbx": {"dbx_count", "dbx_digest"},
    }
    assert not gone[name] & set(facts)
    assert set(CONFIGURATION) - gone[name] <= set(facts)


def test_a_variable_of_another_vendor_is_another_variable() -> None:
    boot = w.firmware(Boot(), separated=False, secure_boot=b"\0")
    boot.measure(7, EV.VAR_CONFIG, w.variable(SHIM_LOCK, "SecureBoot", b"\x01")).separate(range(8))
    assert facts_of(boot)["secure_boot"] is False


@pytest.mark.parametrize(
    "content",
    [
        b"octets that are no lists",
        w.keys()["db"][:-1],
        w.keys()["db"] + b"\0",
        w.signatures(w.certificate("UEFI CA"))[:16] + bytes(12),
        w.signatures(*(bytes([n]) * 40 for n in range(129)), each=False),
    ],
    ids=["nothing", "cut", "longer", "no sizes", "too many"],
)
def test_a_database_that_can_not_be_read(content: bytes) -> None:
    facts = facts_of(w.grub_boot(variables={**w.keys(), "db": content}))
    assert facts["doubts"] == ["db-unreadable"]
    assert not {"db", "db_images"} & set(facts)
    assert facts["secure_boot"] is True


def test_a_database_as_long_as_a_signer_is_a_database() -> None:
    """One key of four octets makes 48, as an owner and an image's SHA-256 do."""
    content = w.signatures(b"abcd")
    assert len(content) == 48
    facts = facts_of(w.grub_boot(variables={**w.keys(), "db": content}))
    assert facts["db"] == [sha256(b"abcd")]
    assert len(facts["signers"]) == 2


def test_only_signature_databases_vouch() -> None:
    """A platform key of 32 octets is none, and is no image's digest either."""
    facts = facts_of(w.grub_boot(variables={**w.keys(), "PK": bytes(range(32))}))
    assert facts["doubts"] == ["pk-unreadable"]
    assert "setup_mode" not in facts


def test_as_many_keys_as_bounded() -> None:
    content = w.signatures(*(bytes([n]) * 40 for n in range(128)), each=False)
    assert len(facts_of(w.grub_boot(variables={**w.keys(), "db": content}))["db"]) == 128


def test_a_database_of_nothing_but_images() -> None:
    images = [bytes([n]) * 32 for n in range(3)]
    content = w.signatures(*images, kind=w.IMAGE_SHA256, each=False)
    facts = facts_of(w.grub_boot(variables={**w.keys(), "db": content}))
    assert (facts["db"], facts["db_images"]) == ([], [image.hex() for image in images])


# ---- Modes, in PCR 1 --------------------------------------------------------------------------------------------


def test_modes_before_pcr_1_s_separator() -> None:
    facts = facts_of(GRUB)
    assert (facts["audit_mode"], facts["deployed_mode"]) == (False, True)


def test_modes_after_it_are_anybody_s() -> None:
    boot = Boot().separate(range(8)).measure(1, EV.VAR_CONFIG, w.variable(GLOBAL, "DeployedMode", b"\x01"))
    assert "deployed_mode" not in facts_of(boot)


def test_the_first_mode_counts() -> None:
    boot = w.firmware(Boot(), separated=False)
    boot.measure(1, EV.VAR_CONFIG, w.variable(GLOBAL, "AuditMode", b"\x01")).separate(range(8))
    assert facts_of(boot)["audit_mode"] is False


def test_modes_without_a_separator_are_anybody_s() -> None:
    boot = Boot().measure(1, EV.VAR_CONFIG, w.variable(GLOBAL, "AuditMode", b"\0"))
    assert "audit_mode" not in facts_of(boot)
    assert facts_of(boot.separate((1,)))["audit_mode"] is False


@pytest.mark.parametrize("lie", ["data", "vendor", "value"])
def test_one_lie_about_the_mode(lie: str) -> None:
    vendor, value = (SHIM_LOCK if lie == "vendor" else GLOBAL), (b"\x07" if lie == "value" else b"\x01")
    boot = Boot().measure(1, EV.VAR_CONFIG, w.variable(vendor, "AuditMode", value)).separate(range(8))
    if lie == "data":
        assert facts_of(boot)["audit_mode"] is True
        boot = boot.lie(1, data=w.variable(GLOBAL, "AuditMode", b"\0"))
    assert "audit_mode" not in facts_of(boot)


# ---- Who vouched ------------------------------------------------------------------------------------------------


def test_signers() -> None:
    facts = facts_of(GRUB)
    assert [(signer["source"], signer["certificate"]) for signer in facts["signers"]] == [
        ("db", sha256(w.certificate("UEFI CA"))),
        ("Shim", sha256(w.certificate("A distribution's CA"))),
    ]
    assert facts["signers"][1]["subject"].startswith("CN=A distribution's CA, O=An organization")
    assert facts["authorities"] == [signer["certificate"] for signer in facts["signers"]]
    assert facts["mok_used"] is False


def test_an_owner_s_own_key() -> None:
    boot = deepcopy(GRUB)
    w.authority(boot, "MokList", "An owner's key", vendor=SHIM_LOCK, owner=b"")
    facts = facts_of(boot)
    assert facts["mok_used"] is True
    assert sha256(w.certificate("An owner's key")) in facts["authorities"]


def test_an_image_may_vouch_by_its_digest() -> None:
    boot = w.firmware(Boot())
    boot.measure(7, EV.VAR_AUTHORITY, w.variable(SECURITY, "db", w.OWNER + b"\x0d" * 32))
    assert facts_of(boot)["signers"] == [
        {"source": "db", "certificate": "0d" * 32, "subject": "an image by its digest"},
    ]


def test_a_driver_s_authority_before_the_separator_is_no_second_database() -> None:
    boot = w.firmware(Boot(), separated=False)
    w.authority(boot, "db", "UEFI CA").separate(range(8))
    facts = facts_of(boot)
    assert facts["doubts"] == []
    assert (len(facts["db"]), facts["authorities"]) == (2, [sha256(w.certificate("UEFI CA"))])


def test_early_shims_log_more_than_they_measure() -> None:
    """Five zeros behind the content, which are measured, and one octet more, which is not (go-attestation#157)."""
    boot = w.firmware(Boot())
    measured = w.variable(SHIM_LOCK, "Shim", w.certificate("A distribution's CA")) + bytes(5)
    boot.measure(7, EV.VAR_AUTHORITY, measured + b"\xaf", measured)
    assert facts_of(boot)["authorities"] == [sha256(w.certificate("A distribution's CA"))]
    for octets in (measured + b"\0", measured[:-1] + b"\x01"):
        other = w.firmware(Boot())
        other.measure(7, EV.VAR_AUTHORITY, octets + b"\xaf", octets)
        assert "pcr-7-unexplained" in facts_of(other)["doubts"]


def test_secure_boot_without_anybody_who_vouched() -> None:
    assert facts_of(w.firmware(Boot()))["doubts"] == ["secure-boot-on-and-nobody-vouched"]
    assert facts_of(w.firmware(Boot(), secure_boot=b"\0"))["doubts"] == []


def test_a_certificate_that_can_not_be_read_still_has_a_digest() -> None:
    der = b"\x30\x82\x01\x00" + b"\x31" * 256
    boot = w.firmware(Boot()).measure(7, EV.VAR_AUTHORITY, w.variable(SECURITY, "db", w.OWNER + der))
    assert facts_of(boot)["signers"] == [
        {"source": "db", "certificate": sha256(der), "subject": "an unreadable certificate"}
    ]


def test_more_signers_than_any_boot_has() -> None:
    boot = w.firmware(Boot())
    for number in range(64):
        boot.measure(7, EV.VAR_AUTHORITY, w.variable(SECURITY, "db", bytes([number]) * 32))
    assert len(facts_of(boot)["signers"]) == 64
    boot.measure(7, EV.VAR_AUTHORITY, w.variable(SECURITY, "db", b"\xff" * 32))
    facts = facts_of(boot)
    assert "too-many-signers" in facts["doubts"]
    assert not {"signers", "authorities", "mok_used"} & set(facts)


# ---- Actions ----------------------------------------------------------------------------------------------------

ACTIONS: Mapping[bytes, str] = {
    b"UEFI Debug Mode": "firmware_debug_mode",
    b"DMA Protection Disabled": "dma_protection_disabled",
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("end", [b"", b"\0"])
def test_what_weakens_a_machine_is_said(action: bytes, end: bytes) -> None:
    facts = facts_of(w.grub_boot(actions=[action + end]))
    other = next(name for text, name in ACTIONS.items() if text != action)
    assert (facts[ACTIONS[action]], facts[other]) == (True, False)
    assert facts["firmware_actions"] == [action.decode()]


@pytest.mark.parametrize("action", ACTIONS)
def test_what_weakens_a_machine_can_not_be_renamed(action: bytes) -> None:
    boot = w.grub_boot(actions=[action])
    lying = boot.lie(boot.find(7, action), type=EV.UNUSED, data=b"All Is Well")
    assert facts_of(lying)[ACTIONS[action]] is True


def test_other_texts_are_told_as_they_are() -> None:
    facts = facts_of(w.grub_boot(actions=[b"Security Level is Downgraded to 0"]))
    assert facts["firmware_actions"] == ["Security Level is Downgraded to 0"]


def test_more_texts_than_any_firmware_has() -> None:
    texts = [f"action {number}".encode() for number in range(17)]
    assert len(facts_of(w.grub_boot(actions=texts[:16]))["firmware_actions"]) == 16
    facts = facts_of(w.grub_boot(actions=texts))
    assert "too-many-firmware-actions" in facts["doubts"]
    assert not set(POLICY) & set(facts)


# ---- shim -------------------------------------------------------------------------------------------------------


def test_shim_s_state() -> None:
    facts = facts_of(GRUB)
    assert facts["shim"] is True
    assert facts["sbat"] == ["sbat,1,2023012900", "shim,2", "grub,3"]
    assert facts["sbat_level"] == 2023012900
    assert facts["mok_validation_disabled"] is False


def test_a_boot_without_shim() -> None:
    facts = facts_of(w.windows_boot())
    assert facts["shim"] is False
    assert not {"sbat", "sbat_level", "mok_validation_disabled"} & set(facts)


@pytest.mark.parametrize(("state", "disabled"), [(b"\x01", True), (b"\x02", True), (b"\0", False)])
def test_shim_that_validates_nothing(state: bytes, disabled: bool) -> None:
    facts = facts_of(w.shim(w.firmware(Boot()), mok_state=state))
    assert facts["mok_validation_disabled"] is disabled


def test_shim_s_state_before_the_separator_is_not_shim_s() -> None:
    boot = w.firmware(Boot(), separated=False)
    boot.measure(7, EV.VAR_AUTHORITY, w.variable(SHIM_LOCK, "SbatLevel", b"sbat,1,2099010100\n")).separate(range(8))
    facts = facts_of(boot)
    assert facts["shim"] is False
    assert "sbat_level" not in facts


def test_the_first_sbat_level_counts() -> None:
    boot = deepcopy(GRUB)
    boot.measure(7, EV.VAR_AUTHORITY, w.variable(SHIM_LOCK, "SbatLevel", b"sbat,1,2099010100\n"))
    assert facts_of(boot)["sbat_level"] == 2023012900


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"sbat,1", b"sbat,1,x", b"shim,1,2023", b"sbat,1,1234567890123", b"s" * 5000]
)
def test_an_sbat_level_that_is_none(content: bytes) -> None:
    facts = facts_of(w.shim(w.firmware(Boot()), sbat=content))
    assert "sbat_level" not in facts
    assert facts["shim"] is True


def test_an_sbat_level_without_bounds() -> None:
    lines = b"sbat,1,2023012900\n" + b"component,1\n" * 64
    facts = facts_of(w.shim(w.firmware(Boot()), sbat=lines))
    assert (facts["sbat_level"], len(facts["sbat"])) == (2023012900, 64)
    assert "sbat" not in facts_of(w.shim(w.firmware(Boot()), sbat=lines + b"x" * 4096))


def test_shim_s_states_are_no_signers() -> None:
    """A level of 32 octets, or of 48, is as long as a digest."""
    level = b"sbat,1,2023012900\nshim,2\ngrub,3\n"
    assert len(level) == 32
    assert len(facts_of(w.shim(w.firmware(Boot()), sbat=level))["signers"]) == 1
