"""A machine that booted what it should not have, and an owner of its operating system who makes the log look well.

He has the TPM: he reads the log, changes any of its octets, extends any PCR with anything, and lets the TPM quote. What
he can't do is take a measurement back. Each attack ends in a refusal, or in facts that tell what really booted.
"""

from __future__ import annotations

import hashlib
from copy import deepcopy
from typing import Any

import pytest

from attestd.tpm.activation import recall_ak
from attestd.tpm.attest import Sha1BankRefused, VerifiedQuote, verify_quote
from attestd.tpm.bootfacts import boot_facts
from attestd.tpm.eventlog import MalformedEventLog, parse_event_log
from attestd.tpm.replay import EventLogMismatch, verify_event_log
from tests import forger as f
from tests import logwriter as w
from tests.logwriter import EV, GLOBAL, SECURITY, Boot

NONCE = bytes(range(32))
SELECTION = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14)
EVIL_LINE = "/vmlinuz-6.1 root=/dev/mapper/root init=/bin/sh"


def quote(boot: Boot, selection: tuple[int, ...] = SELECTION, *, bank: str = "sha256") -> VerifiedQuote:
    """What the TPM says of its PCRs: nobody can make it say something else."""
    tpm = f.Forger()
    pcrs = {bank: {pcr: boot.pcrs[bank].get(pcr, bytes(w.SIZES[bank])) for pcr in selection}}
    attest, signature = tpm.quote(NONCE, pcrs)
    return verify_quote(
        recall_ak(tpm.ak.public),
        attest=attest,
        signature=signature,
        qualifying_data=NONCE,
        pcrs=pcrs,
        selection={bank: selection},
    )


def attest(boot: Boot, log: bytes | None = None) -> dict[str, Any]:
    """The facts that the service gets of this machine, by the log that it sends."""
    written = boot.agile() if log is None else log
    return boot_facts(verify_event_log(parse_event_log(written), quote(boot))).to_members()


def digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


def evil() -> Boot:
    """Secure Boot off, an evil loader, an evil command line, an evil initrd."""
    boot = w.shim(w.firmware(Boot(), secure_boot=b"\0"))
    w.load(boot, b"evil", r"\EFI\BOOT\evil.efi")
    return w.exit_boot_services(w.grub(boot, cmdline=EVIL_LINE, initrd=b"evil initrd"))


def test_an_honest_machine() -> None:
    """The twin of all below."""
    facts = attest(w.grub_boot())
    assert (facts["secure_boot"], facts["kernel_command_line"], facts["doubts"]) == (True, w.CMDLINE, [])
    told = attest(evil())
    assert told["secure_boot"] is False
    assert told["kernel_command_line"] == EVIL_LINE
    assert digest(w.image(b"evil")) in told["loaders"]


def test_the_log_of_a_good_boot_for_a_bad_one() -> None:
    with pytest.raises(EventLogMismatch) as refused:
        attest(evil(), w.grub_boot().agile())
    assert (refused.value.bank, refused.value.pcr) == ("sha256", 4)


@pytest.mark.parametrize("pcr", [0, 1, 2, 4, 5, 7, 8, 9, 14])
def test_events_left_out(pcr: int) -> None:
    """One, or all of a PCR: what is left does not replay, or leaves what it does not explain unproven."""
    boot = evil()
    for kept in (1, 0):
        cut = deepcopy(boot)
        gone = [event for event in cut.log if event.pcr == pcr][kept:]
        cut.log = [event for event in cut.log if event not in gone]
        if kept or pcr < 8:
            with pytest.raises(EventLogMismatch) as refused:
                attest(boot, cut.agile())
            assert refused.value.pcr == pcr
        else:
            facts = attest(boot, cut.agile())
            assert pcr not in facts["pcrs"]
            own = {8: ("grub_commands", "kernel_command_lines"), 9: ("boot_files",), 14: ("mok_lists",)}[pcr]
            assert not set(own) & set(facts)


def test_a_log_from_before_the_evil_event() -> None:
    boot = w.grub_boot()
    before = boot.agile()
    boot.measure(4, EV.BS_APP, w.image_load(), w.image(b"evil"))
    with pytest.raises(EventLogMismatch, match="PCR 4"):
        attest(boot, before)


def test_an_event_s_type_is_a_word() -> None:
    """Every event renamed to what nobody reads, and a good boot's events appended and extended behind them."""
    boot = evil()
    for number in range(1, len(boot.log) + 1):
        boot = boot.lie(number, type=EV.UNUSED)
    good = w.grub_boot()
    for event in good.log:
        measured = {7: event.data, 4: w.image(b"shim"), 8: event.data.partition(b": ")[2].rstrip(b"\0")}
        boot.measure(event.pcr, event.type, event.data, measured.get(event.pcr, event.data))
    facts = attest(boot)
    assert facts["secure_boot"] is False
    assert digest(w.image(b"evil")) in facts["loaders"]
    assert EVIL_LINE in facts.get("kernel_command_lines", [EVIL_LINE])
    assert "kernel_command_line" not in facts


def test_data_that_hash_to_something_else() -> None:
    """Each variable, command and action dressed up: the digests stay, and nothing that needs them is believed."""
    boot = evil()
    lying = boot.lie(boot.find(7, w.utf16("SecureBoot")), data=w.variable(GLOBAL, "SecureBoot", b"\x01"))
    lying = lying.lie(boot.find(8, b"grub_cmd: linux"), data=b"grub_cmd: linux " + w.CMDLINE.encode() + b"\0")
    lying = lying.lie(boot.find(8, b"kernel_cmdline: "), data=b"kernel_cmdline: " + w.CMDLINE.encode() + b"\0")
    facts = attest(lying)
    assert facts["doubts"] == ["pcr-7-unexplained", "pcr-8-unexplained"]
    assert not {"secure_boot", "pk", "db", "signers", "kernel_command_lines", "grub_commands"} & set(facts)


def test_a_loader_s_name_is_a_word() -> None:
    boot = evil()
    number = boot.find(4, w.utf16("evil.efi"))
    lying = boot.lie(number, data=w.image_load(w.hard_drive(), w.file_path(r"\EFI\debian\shimx64.efi")))
    assert attest(lying) == attest(boot)


def test_a_file_s_name_is_a_word() -> None:
    boot = evil()
    good, bad = boot.find(9, b"/vmlinuz"), boot.find(9, b"/initrd")
    lying = boot.lie(good, data=b"/initrd.img-6.1\0").lie(bad, data=b"/vmlinuz-6.1\0")
    assert attest(lying) == attest(boot)
    assert digest(b"evil initrd") in attest(lying)["boot_files"]
    assert "initrd" not in attest(lying)


def test_a_separator_that_is_called_something_else() -> None:
    """So that variables measured by the system would be the firmware's."""
    boot = evil()
    number = next(n for n, event in enumerate(boot.log, 1) if (event.pcr, event.type) == (7, EV.SEPARATOR))
    lying = boot.lie(number, type=EV.EFI_ACTION, data=b"DMA Protection Disabled")
    lying.measure(7, EV.VAR_CONFIG, w.variable(GLOBAL, "SecureBoot", b"\x01")).separate((7,))
    assert attest(lying)["secure_boot"] is False


def test_keys_of_ones_own_behind_the_separator() -> None:
    boot = w.grub_boot()
    boot.measure(7, EV.VAR_CONFIG, w.variable(SECURITY, "db", w.signatures(w.certificate("An attacker's"))))
    assert attest(boot)["db"] == attest(w.grub_boot())["db"]


def test_weaknesses_can_not_be_hidden() -> None:
    weak = w.grub_boot(actions=[b"DMA Protection Disabled", b"UEFI Debug Mode"])
    for action in (b"DMA Protection Disabled", b"UEFI Debug Mode"):
        weak = weak.lie(weak.find(7, action), type=EV.NO_ACTION + 0x80000000, data=b"nothing")
    facts = attest(weak)
    assert (facts["dma_protection_disabled"], facts["firmware_debug_mode"]) == (True, True)


def test_a_weakness_called_an_event_that_extends_nothing() -> None:
    weak = w.grub_boot(actions=[b"UEFI Debug Mode"])
    with pytest.raises(EventLogMismatch, match="PCR 7"):
        attest(weak.lie(weak.find(7, b"UEFI Debug Mode"), type=EV.NO_ACTION))


def test_startup_locality_that_is_a_lie() -> None:
    boot = w.firmware(Boot(locality=3))
    assert attest(boot)
    for data in (b"StartupLocality\0\x00", b"StartupLocality\0\x04"):
        with pytest.raises(EventLogMismatch, match="PCR 0"):
            attest(boot, boot.lie(1, data=data).agile())
    other = w.firmware(Boot())
    other.log.insert(0, boot.log[0])
    with pytest.raises(EventLogMismatch, match="PCR 0"):
        attest(other)


def test_a_log_of_another_bank() -> None:
    """A good boot's digests in the bank that is quoted can't be had; those of SHA-1 are no evidence."""
    with pytest.raises(Sha1BankRefused):
        quote(w.grub_boot(), bank="sha1")
    boot = evil()
    good = w.grub_boot()
    mixed = deepcopy(boot)
    mixed.log = [
        w.Logged(event.pcr, event.type, event.data, (event.digests[0], own.digests[1]))
        for event, own in zip(good.log, boot.log, strict=False)
    ]
    with pytest.raises(EventLogMismatch):
        attest(boot, mixed.agile())


def test_windows_in_test_mode_called_linux() -> None:
    boot = w.windows_boot(early=w.windows_block(test_signing=1))
    facts = attest(boot)
    assert (facts["windows"], facts["windows_test_signing"]) == (True, True)
    lying = boot
    for number, event in enumerate(boot.log, 1):
        if event.pcr == 12:
            lying = lying.lie(number, data=b"x")
    told = attest(lying)
    assert "windows_test_signing" not in told
    assert "windows-events-unexplained" in told["doubts"]


@pytest.mark.parametrize("at", [1, 2, 3, 5, 10])
def test_a_log_that_ends_anywhere(at: int) -> None:
    written = w.grub_boot().agile()
    with pytest.raises((MalformedEventLog, EventLogMismatch)):
        attest(w.grub_boot(), written[: len(written) * at // 11])


def test_real_logs_that_break_strict_parsers() -> None:
    """MokListTrusted in PCR 7 (go-attestation#283), SBAT (#222), DMA protection (#235), shim's odd octet (#157)."""
    boot = w.firmware(Boot(), actions=[b"DMA Protection Disabled\0"])
    w.shim(boot, mok_state=b"\0")
    measured = w.variable(w.SHIM_LOCK, "Shim", w.certificate("A distribution's CA")) + bytes(5)
    boot.measure(7, EV.VAR_AUTHORITY, measured + b"\xaf", measured)
    facts = attest(boot)
    assert facts["doubts"] == []
    assert (facts["sbat_level"], facts["dma_protection_disabled"]) == (2023012900, True)
    assert digest(w.certificate("A distribution's CA")) in facts["authorities"]
