"""Attacks on quotes, told alike at both doors that take one: an enrollment's completion and a re-attestation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from attestd.config import AttestationSettings
from attestd.protocol.derivations import device_quote_data, enrollment_quote_data
from attestd.protocol.evidence import MAX_LOG, QuoteEvidence
from attestd.protocol.messages import AttestationRequest, EnrollmentEvidence
from attestd.registry.states import State
from tests.attacks.ledger import Ledger, refused
from tests.forger import CERTIFY, SHA1, SHA256, forge_key
from tests.service import PCRS, SoftDevice, World
from tests.service import problem as problem_of

Count = Callable[[], Ledger]
Lie = Callable[[QuoteEvidence], QuoteEvidence]


def same(quote: QuoteEvidence) -> QuoteEvidence:
    return quote


def at_enrollment(device: SoftDevice, spoil: Lie = same, **lies: Any) -> TestResponse:
    challenge = device.begin()
    data = enrollment_quote_data(
        nonce=challenge.nonce,
        id=challenge.id,
        ek_hash=device.ek_hash,
        ak_name=device.tpm.ak.name,
        ck_name=device.tpm.ck.name,
    )
    honest = device.evidence(challenge)
    attest, signature = device.tpm.quote(data, device.pcrs, **lies)
    quote = spoil(QuoteEvidence(attest, signature, device.pcrs))
    return device.complete(challenge, EnrollmentEvidence(honest.key, quote).to_bytes())


def at_attestation(device: SoftDevice, spoil: Lie = same, **lies: Any) -> TestResponse:
    nonce = device.world.nonce()
    data = device_quote_data(nonce=nonce, device_id=device.id, ak_name=device.tpm.ak.name, ck_name=device.tpm.ck.name)
    attest, signature = device.tpm.quote(data, device.pcrs, **lies)
    quote = spoil(QuoteEvidence(attest, signature, device.pcrs))
    return device.signed("/v1/attestations", AttestationRequest(quote).to_bytes(), nonce=nonce)


both_doors = pytest.mark.parametrize("door", [at_enrollment, at_attestation])
ALL_8 = bytes([0xFF, 0, 0])


@both_doors
@pytest.mark.parametrize(
    ("lies", "name"),
    [
        ({"magic": 0x00000000}, "not-made-by-tpm"),
        ({"magic": 0xFF544346}, "not-made-by-tpm"),
        ({"type": CERTIFY}, "attestation-type-wrong"),
        ({"extra_data": b""}, "nonce-mismatch"),
        ({"extra_data": bytes(32)}, "nonce-mismatch"),
        ({"selection": []}, "pcr-selection-mismatch"),
        ({"selection": [(SHA256, bytes(3))]}, "pcr-selection-mismatch"),
        ({"selection": [(SHA256, bytes([0x7F, 0, 0]))]}, "pcr-selection-mismatch"),
        ({"selection": [(SHA256, bytes([0xFF, 1, 0]))]}, "pcr-selection-mismatch"),
        ({"selection": [(SHA1, ALL_8)]}, "pcr-selection-mismatch"),
        ({"selection": [(SHA256, ALL_8), (SHA256, ALL_8)]}, ""),
        ({"digest": bytes(32)}, "pcr-digest-mismatch"),
        ({"digest": b""}, "pcr-digest-mismatch"),
        ({"signer": forge_key()}, "attestation-signature-wrong"),
        ({"trailing": b"\0"}, ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_a_quote_that_lies(
    world: World, ledger: Count, door: Callable[..., TestResponse], lies: dict[str, Any], name: str
) -> None:
    device = world.enrolled()
    assert door(device).status_code == 200
    before = ledger()
    answer = door(device, **lies)
    assert answer.status_code in (400, 403), answer.text
    assert not name or refused(answer, 403, name)
    assert ledger() == before


def with_pcrs(values: Mapping[str, Mapping[int, bytes]]) -> Lie:
    return lambda quote: quote._replace(pcrs=values)


HONEST = PCRS["sha256"]


@both_doors
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"sha256": {}},
        {"sha256": {**HONEST, 9: bytes(32)}},  # beside the quoted ones: go-attestation, CVE-2022-0317
        {"sha256": {**HONEST, 7: b"\xff" * 32}},
        {"sha256": {index: value for index, value in HONEST.items() if index}},
        {"sha256": HONEST, "sha1": {0: bytes(20)}},
        {"sha256": HONEST, "sha384": {index: bytes(48) for index in range(8)}},
        {"sha384": {index: value + bytes(16) for index, value in HONEST.items()}},
    ],
    ids=["none", "empty", "uncovered", "changed", "missing", "sha1 beside", "sha384 beside", "another bank"],
)
def test_values_that_the_quote_does_not_cover(
    world: World, ledger: Count, door: Callable[..., TestResponse], values: Mapping[str, Mapping[int, bytes]]
) -> None:
    device = world.enrolled()
    assert door(device, with_pcrs(PCRS)).status_code == 200
    before = ledger()
    answer = door(device, with_pcrs(values))
    assert answer.status_code == 403, answer.text
    assert ledger() == before


@both_doors
def test_two_quotes_with_one_signature(world: World, ledger: Count, door: Callable[..., TestResponse]) -> None:
    """The signature is over the very octets that are parsed."""
    device = world.enrolled()
    other, _ = device.tpm.quote(b"", device.pcrs)
    before = ledger()
    assert refused(door(device, lambda quote: quote._replace(attest=other)), 403, "attestation-signature-wrong")
    assert ledger() == before


def test_a_quote_is_good_once(world: World, ledger: Count) -> None:
    """A recorded quote under a fresh nonce: the machine was good then, and is asked about now."""
    device = world.enrolled()
    nonce = world.nonce()
    recorded = device.attestation(nonce).to_bytes()
    assert device.signed("/v1/attestations", recorded, nonce=nonce).status_code == 200
    before = ledger()
    assert refused(device.signed("/v1/attestations", recorded), 403, "nonce-mismatch")
    assert ledger() == before


def test_an_enrollment_s_quote_does_not_re_attest(world: World, ledger: Count) -> None:
    device = world.enrolled()
    quote = device.evidence(device.begin()).quote
    before = ledger()
    assert refused(device.signed("/v1/attestations", AttestationRequest(quote).to_bytes()), 403, "nonce-mismatch")
    assert ledger() == before


def test_a_re_attestation_s_quote_does_not_enroll(world: World, ledger: Count) -> None:
    device = world.enrolled()
    challenge = device.begin()
    quote = device.attestation(challenge.nonce).quote
    before = ledger()
    body = EnrollmentEvidence(device.evidence(challenge).key, quote).to_bytes()
    assert refused(device.complete(challenge, body), 403, "nonce-mismatch")
    assert ledger() == before


def test_a_good_machine_s_quote_for_a_bad_one(world: World, ledger: Count) -> None:
    """Two devices of one owner: the good one quotes for the bad one's request."""
    good, bad = world.enrolled(), world.enrolled()
    nonce = world.nonce()
    data = device_quote_data(nonce=nonce, device_id=bad.id, ak_name=bad.tpm.ak.name, ck_name=bad.tpm.ck.name)
    attest, signature = good.tpm.quote(data, good.pcrs)
    payload = AttestationRequest(QuoteEvidence(attest, signature, good.pcrs)).to_bytes()
    before = ledger()
    assert refused(bad.signed("/v1/attestations", payload, nonce=nonce), 403, "attestation-signature-wrong")
    assert ledger() == before


@pytest.mark.parametrize("bound", ["device_id", "ak_name", "ck_name"])
def test_everything_that_a_quote_is_bound_to(world: World, ledger: Count, bound: str) -> None:
    device = world.enrolled()
    nonce = world.nonce()
    lie = "another" if bound == "device_id" else device.tpm.ek.name
    payload = device.attestation(nonce, **{bound: lie}).to_bytes()
    before = ledger()
    assert refused(device.signed("/v1/attestations", payload, nonce=nonce), 403, "nonce-mismatch")
    assert ledger() == before


def test_a_refused_quote_can_not_be_corrected_under_the_same_nonce(world: World, ledger: Count) -> None:
    device = world.enrolled()
    nonce = world.nonce()
    lie = device.attestation(nonce, device_id="another").to_bytes()
    assert refused(device.signed("/v1/attestations", lie, nonce=nonce), 403, "nonce-mismatch")
    before = ledger()
    assert refused(device.attest(nonce=nonce), 401, "nonce-spent")
    assert ledger() == before


@pytest.mark.parametrize(("reset", "restart"), [(8, 0), (7, 4), (8, 7)])
def test_a_new_boot_is_recorded_and_is_no_attack(world: World, reset: int, restart: int) -> None:
    """restartCount starts anew with each reset, so a smaller one alone proves nothing."""
    device = world.enrolled()
    assert at_attestation(device, reset_count=reset, restart_count=restart).status_code == 200
    clock = world.row(device).clock
    assert clock is not None
    assert (clock["reset_count"], clock["restart_count"]) == (reset, restart)


@pytest.mark.parametrize(("reset", "restart"), [(7, 2), (6, 3), (0, 0)])
def test_a_tpm_whose_counts_went_back_is_a_copy(world: World, reset: int, restart: int) -> None:
    """With the same key, which no TPM2_Clear leaves loadable: this state was saved before the quote that is known."""
    device = world.enrolled()
    assert refused(at_attestation(device, reset_count=reset, restart_count=restart), 403, "clock-went-back")
    assert at_attestation(device).status_code == 200


# ---- Logs -------------------------------------------------------------------------------------------------------


@both_doors
@pytest.mark.parametrize("log", ["eventlog", "ima"])
def test_a_log_is_bounded(world: World, ledger: Count, door: Callable[..., TestResponse], log: str) -> None:
    device = world.enrolled()
    before = ledger()
    answer = door(device, lambda quote: quote._replace(**{log: bytes(MAX_LOG + 1)}))
    assert refused(answer, 400, "malformed-json")
    assert ledger() == before
    answer = door(device, lambda quote: quote._replace(**{log: bytes(MAX_LOG)}))
    assert problem_of(answer) in ("malformed-event-log", "malformed-ima-list", "ima-list-mismatch", "pcr10-not-quoted")


@both_doors
def test_a_log_that_nobody_asked_for_affirms_nothing(world: World, door: Callable[..., TestResponse]) -> None:
    """Logs are not appraised yet (`wants` is empty): whatever they say, the result is what it is without."""
    device = world.enrolled()
    door(device)
    assert device.answer is not None
    without = device.answer.result["vector"]
    door(device, lambda quote: quote._replace(eventlog=b"all is well", ima=b"all is well"))
    assert device.answer.result["vector"] == without
    assert without["executables"] == without["configuration"] == 0


# ---- References -------------------------------------------------------------------------------------------------


def test_without_reference_values_nothing_is_affirmed(world: World) -> None:
    """Keylime #1932: a default policy accepted every state. Here, without values, no claim about software is made."""
    device = world.enrolled()
    assert device.answer is not None
    assert device.answer.result["status"] != "affirming"
    assert device.answer.result["reasons"]


def test_a_bank_that_settings_do_not_name_is_no_evidence(tmp_path: Path) -> None:
    """SHA-1 counts where the settings name it, and nowhere else."""
    world = World(tmp_path / "instance", attestation=AttestationSettings(pcrs={"sha1": tuple(range(8))}))
    device = world.device()
    device.pcrs = {"sha1": {index: bytes([index]) * 20 for index in range(8)}}
    assert device.enroll().status_code == 202
    world.approve(device)
    assert device.enroll().status_code == 200
    device.pcrs = PCRS
    assert refused(device.attest(), 403, "pcr-selection-mismatch")
    assert world.row(device).state is State.ACTIVE
    world.close()
