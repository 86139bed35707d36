"""Replays: a log is believed where a TPM's PCRs bear it out, and a refusal says where it stops fitting."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from dataclasses import FrozenInstanceError

import pytest

from attestd.protocol.evidence import PcrValues
from attestd.tpm.activation import recall_ak
from attestd.tpm.attest import PcrDigestMismatch, VerifiedQuote, verify_quote
from attestd.tpm.eventlog import UnverifiedEventLog, parse_event_log
from attestd.tpm.replay import (
    EventLogBankMissing,
    EventLogMismatch,
    Match,
    NotALogOfPcrs,
    VerifiedEventLog,
    match_values,
    replay,
    verify_event_log,
)
from tests import forger as f
from tests import logwriter as w
from tests.logwriter import EV, Boot

NONCE = bytes(range(32))


def read(boot: Boot) -> UnverifiedEventLog:
    return parse_event_log(boot.agile())


def quoted(pcrs: PcrValues, *, allow_sha1: bool = False) -> VerifiedQuote:
    """A quote that a TPM signs over these PCRs, verified."""
    tpm = f.Forger()
    attest, signature = tpm.quote(NONCE, pcrs)
    return verify_quote(
        recall_ak(tpm.ak.public),
        attest=attest,
        signature=signature,
        qualifying_data=NONCE,
        pcrs=pcrs,
        selection={bank: tuple(sorted(values)) for bank, values in pcrs.items()},
        allow_sha1=allow_sha1,
    )


def selected(boot: Boot, *pcrs: int, bank: str = "sha256") -> dict[str, dict[int, bytes]]:
    return {bank: {pcr: boot.pcrs[bank][pcr] for pcr in pcrs}}


def refused(log: UnverifiedEventLog, values: PcrValues) -> EventLogMismatch:
    with pytest.raises(EventLogMismatch) as found:
        match_values(log, values)
    return found.value


# ---- Values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boot", [w.grub_boot(), w.uki_boot(), w.windows_boot()], ids=["GRUB", "UKI", "Windows"])
def test_a_log_leads_to_the_pcrs_that_it_was_kept_with(boot: Boot) -> None:
    assert {bank: dict(values) for bank, values in replay(read(boot)).items()} == boot.pcrs
    assert dict(replay(parse_event_log(boot.sha1()))["sha1"]) == boot.pcrs["sha1"]


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384", "sha512"])
def test_every_bank(bank: str) -> None:
    boot = w.firmware(Boot((bank,), locality=3))
    assert {name: dict(values) for name, values in replay(read(boot)).items()} == boot.pcrs


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_pcr_0_begins_where_startup_came_from(locality: int) -> None:
    boot = w.firmware(Boot(locality=locality))
    assert dict(replay(read(boot))["sha256"]) == boot.pcrs["sha256"]


def test_without_its_startup_locality_the_log_does_not_replay() -> None:
    boot = w.firmware(Boot(locality=3))
    assert match_values(read(boot), boot.pcrs)
    assert refused(read(boot.without(1)), boot.pcrs).pcr == 0


def test_startup_locality_is_pcr_0_s_alone() -> None:
    boot = w.firmware(Boot(locality=3))
    first = hashlib.sha256(bytes(32) + hashlib.sha256(bytes(4)).digest()).digest()
    assert replay(read(boot))["sha256"][3] == first


def test_an_h_crtm_begins_pcr_0_at_four() -> None:
    """TPM 2.0 Library, Part 1, section 34.3; the log need not say StartupLocality."""
    boot = Boot(locality=4).measure(0, EV.HCRTM, b"HCRTM", b"the H-CRTM's code").separate((0,))
    assert dict(replay(read(boot))["sha256"]) == boot.pcrs["sha256"]
    assert dict(replay(read(boot.lie(1, type=EV.POST_CODE)))["sha256"]) != boot.pcrs["sha256"]


def test_what_extends_nothing_extends_nothing() -> None:
    boot = w.grub_boot()
    noisy = deepcopy(boot)
    for pcr in (0, 4, 7):
        noisy.note(b"SP800-155 Event3" + bytes(40), pcr=pcr)
    assert replay(read(noisy)) == replay(read(boot))
    assert refused(read(boot.lie(1, type=EV.NO_ACTION)), boot.pcrs).pcr == 0


def test_a_bank_that_an_event_lacks_is_not_extended() -> None:
    boot = Boot(("sha256",)).separate((7,))
    boot.banks = ("sha1", "sha256")
    log = read(boot)
    assert log.banks == ("sha1", "sha256")
    assert {bank: dict(values) for bank, values in replay(log).items()} == {"sha1": {}, **boot.pcrs}


def test_a_confidential_guest_s_registers_are_replayed_and_are_no_pcrs() -> None:
    boot = Boot(("sha384",)).separate((1, 2))
    log = parse_event_log(b"\x01" + boot.agile()[1:])
    assert {bank: dict(values) for bank, values in replay(log).items()} == boot.pcrs
    with pytest.raises(NotALogOfPcrs):
        match_values(log, boot.pcrs)


# ---- Verified ----------------------------------------------------------------------------------------------------


def test_a_log_is_verified_by_a_verified_quote() -> None:
    boot = w.grub_boot()
    verified = verify_event_log(read(boot), quoted(selected(boot, 0, 4, 7)))
    assert isinstance(verified, VerifiedEventLog)
    assert verified.match == Match(("sha256",), "sha256", frozenset({0, 4, 7}))
    with pytest.raises(FrozenInstanceError):
        verified.match = Match((), "sha1", frozenset())  # type: ignore[misc]


def test_a_log_of_another_boot_is_not_verified() -> None:
    other = w.grub_boot(secure_boot=b"\0")
    with pytest.raises(EventLogMismatch, match="PCR 7 of the sha256 bank"):
        verify_event_log(read(w.grub_boot()), quoted(selected(other, 0, 4, 7)))


def test_values_that_the_quote_does_not_have_never_reach_the_log() -> None:
    boot = w.grub_boot()
    tpm = f.Forger()
    attest, signature = tpm.quote(NONCE, selected(boot, 0, 4))
    lying = selected(boot, 0, 4)
    lying["sha256"][4] = bytes(32)
    with pytest.raises(PcrDigestMismatch):
        verify_quote(
            recall_ak(tpm.ak.public),
            attest=attest,
            signature=signature,
            qualifying_data=NONCE,
            pcrs=lying,
            selection={"sha256": (0, 4)},
        )


def test_facts_rest_on_the_bank_that_people_publish_digests_of() -> None:
    boot = w.firmware(Boot(("sha1", "sha256", "sha384", "sha512")))
    match = match_values(read(boot), boot.pcrs)
    assert (match.bank, match.banks) == ("sha256", ("sha256", "sha384", "sha512", "sha1"))
    assert match_values(read(boot), {"sha1": boot.pcrs["sha1"]}).bank == "sha1"
    assert match_values(read(boot), {bank: boot.pcrs[bank] for bank in ("sha1", "sha384")}).bank == "sha384"


def test_every_bank_that_was_quoted_must_fit() -> None:
    boot = w.grub_boot()
    lying = deepcopy(boot.pcrs)
    lying["sha1"][7] = bytes(20)
    found = refused(read(boot), lying)
    assert (found.bank, found.pcr) == ("sha1", 7)


def test_a_bank_without_a_log_is_not_compared() -> None:
    boot = w.grub_boot()
    assert match_values(read(boot), boot.pcrs | {"sha384": {7: bytes(48)}}).banks == ("sha256", "sha1")
    for values in ({"sha384": {7: bytes(48)}}, {}, {"sha256": {}}):
        with pytest.raises(EventLogBankMissing):
            match_values(read(boot), values)


def test_a_pcr_of_the_firmware_without_events_holds_its_first_value() -> None:
    """Or the log was cut: all events of PCR 7 left out leave nothing to contradict."""
    boot = w.grub_boot()
    cut = deepcopy(boot)
    cut.log = [event for event in boot.log if event.pcr != 7]
    found = refused(read(cut), boot.pcrs)
    assert (found.pcr, found.last_fitting, found.events) == (7, None, 0)
    other = Boot().separate((0,))
    assert match_values(read(other), {"sha256": {0: other.pcrs["sha256"][0], 7: bytes(32)}}).pcrs == {0, 7}


def test_what_came_after_the_firmware_is_not_the_log_s() -> None:
    """IMA's PCR 10 has no events in the firmware's log, and nothing is believed of it; PCR 23 is untouched."""
    boot = w.grub_boot()
    values = {"sha256": {**boot.pcrs["sha256"], 10: b"\x10" * 32, 17: b"\xff" * 32, 23: bytes(32)}}
    match = match_values(read(boot), values)
    assert match.pcrs == {*boot.pcrs["sha256"], 17, 23}
    cut = deepcopy(boot)
    cut.log = [event for event in boot.log if event.pcr != 14]
    assert 14 not in match_values(read(cut), values).pcrs


def test_a_pcr_that_was_not_quoted_is_not_proven() -> None:
    boot = w.grub_boot()
    lying = boot.lie(boot.find(8, b"linux "), digests=w.digests_of(b"linux good"))
    assert match_values(read(lying), selected(boot, 0, 4, 7)).pcrs == {0, 4, 7}


# ---- Boot phases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(7))
def test_systemd_measures_its_phases_after_the_log_s_end(count: int) -> None:
    phases = ("enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final")[:count]
    boot = w.uki_boot()
    for phase in phases:
        boot.extend(11, phase.encode())
    match = match_values(read(boot), boot.pcrs)
    assert (match.phases, 11 in match.pcrs) == (phases, True)


@pytest.mark.parametrize("phases", [("leave-initrd",), ("enter-initrd", "ready"), ("enter-initrd", "evil"), ("x",)])
def test_other_measurements_after_the_log_s_end_are_no_phases(phases: tuple[str, ...]) -> None:
    boot = w.uki_boot()
    for phase in phases:
        boot.extend(11, phase.encode())
    assert refused(read(boot), boot.pcrs).pcr == 11


def test_phases_are_pcr_11_s_alone() -> None:
    boot = w.uki_boot()
    boot.extend(12, b"enter-initrd")
    assert refused(read(boot), boot.pcrs).pcr == 12


# ---- How far it fits ---------------------------------------------------------------------------------------------


def test_the_first_pcr_that_differs_is_named() -> None:
    boot = w.grub_boot()
    later = deepcopy(boot)
    for pcr in (9, 4, 8):
        later.extend(pcr, b"after the log's end")
    found = refused(read(boot), later.pcrs)
    assert (found.bank, found.pcr) == ("sha256", 4)
    assert found.seen == boot.pcrs["sha256"][4].hex()
    assert found.expected == later.pcrs["sha256"][4].hex()


def test_the_last_event_that_still_fits() -> None:
    """A log that goes on after the quote: each of its beginnings has its last fitting event."""
    boot = w.grub_boot()
    longer = deepcopy(boot).measure(4, EV.BS_APP, b"more", b"more").measure(4, EV.BS_APP, b"more", b"still more")
    found = refused(read(longer), boot.pcrs)
    last = max(at for at, event in enumerate(boot.log, 1) if event.pcr == 4)
    assert (found.pcr, found.last_fitting) == (4, last)
    assert f"event {last} (EV_EFI_BOOT_SERVICES_APPLICATION), and 2 more follow it" in found.detail


def test_a_pcr_that_was_never_extended() -> None:
    boot = w.grub_boot()
    found = refused(read(boot), {"sha256": {**boot.pcrs["sha256"], 5: bytes(32)}})
    assert (found.pcr, found.last_fitting) == (5, None)
    assert "never extended" in found.detail


def events_of(boot: Boot, pcr: int) -> list[int]:
    return [at for at, event in enumerate(boot.log, 1) if event.pcr == pcr]


def test_an_event_too_many_is_found() -> None:
    boot = w.grub_boot()
    numbers = events_of(boot, 7)
    forged = deepcopy(boot)
    forged.log.insert(numbers[3] - 1, boot.log[numbers[0] - 1])
    found = refused(read(forged), boot.pcrs)
    assert (found.pcr, found.last_fitting) == (7, numbers[2])
    assert f"without event {numbers[3]}" in found.detail


def test_an_event_with_another_digest_than_its_data_is_found() -> None:
    boot = w.grub_boot()
    numbers = events_of(boot, 7)
    found = refused(read(boot.lie(numbers[2], digests=w.digests_of(b"another"))), boot.pcrs)
    assert (found.pcr, found.last_fitting) == (7, numbers[1])
    assert f"with the digest of its data event {numbers[2]}" in found.detail
    first = refused(read(boot.lie(numbers[0], digests=w.digests_of(b"another"))), boot.pcrs)
    assert (first.pcr, first.last_fitting) == (7, None)


def test_two_events_in_turn_are_found() -> None:
    boot = w.grub_boot()
    one, two, three = events_of(boot, 9)
    turned = boot.lie(two, **vars(boot.log[three - 1])).lie(three, **vars(boot.log[two - 1]))
    found = refused(read(turned), {"sha256": {9: boot.pcrs["sha256"][9]}})
    assert (found.pcr, found.last_fitting) == (9, one)
    assert "the other way round" in found.detail


def test_an_event_that_is_gone_can_not_be_named() -> None:
    boot = w.grub_boot()
    numbers = events_of(boot, 4)
    found = refused(read(boot.without(numbers[2])), boot.pcrs)
    assert (found.pcr, found.last_fitting, found.events) == (4, None, len(numbers) - 1)


def test_a_long_log_is_not_searched_for_what_would_make_it_fit() -> None:
    boot = Boot()
    for number in range(1000):
        boot.measure(8, EV.IPL, b"text", bytes([number % 256]))
    found = refused(read(boot.lie(500, digests=w.digests_of(b"text"))), boot.pcrs)
    assert (found.pcr, found.last_fitting, found.events) == (8, None, 1000)
