"""Attacks on activation and certification: secrets, challenges and keys that belong to something else.

What one function refuses is in tests/unit/tpm and tests/unit/issuance; here two enrollments, two devices or two
services meet at the HTTP door.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.sealing import SealingKey, SealingKeys
from attestd.issuance.challenges import EnrollmentChallenge
from attestd.protocol.derivations import completion_proof, device_certify_data, enrollment_certify_data
from attestd.protocol.evidence import CertifiedKey
from attestd.protocol.messages import BeginAnswer, CompleteRequest, EnrollmentEvidence, RenewalRequest
from attestd.protocol.signed import Sign
from attestd.registry import issued
from attestd.registry.states import State
from tests.attacks.ledger import Ledger, refused
from tests.forger import (
    AK_ATTRIBUTES,
    CK_ATTRIBUTES,
    CREATION,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    ForgedKey,
    Forger,
    ForgerRefused,
    forge_ck,
    forge_key,
)
from tests.service import SoftDevice, World, signer

COMPLETE = "/v1/enrollments/complete"
Count = Callable[[], Ledger]


def raw_signer(key: ForgedKey) -> Sign:
    """Signs as a credential key does."""
    assert isinstance(key.private, ec.EllipticCurvePrivateKey)
    return signer(key.private)


def secret_of(device: SoftDevice, challenge: BeginAnswer) -> bytes:
    return device.tpm.activate(challenge.credential_blob, challenge.secret)


def send(world: World, challenge: bytes, body: bytes, secret: bytes) -> Any:
    proof = completion_proof(secret=secret, body=body)
    return world.post(COMPLETE, CompleteRequest(challenge, body, proof).to_bytes())


# ---- Challenges and secrets -------------------------------------------------------------------------------------


def test_another_challenge_s_secret(world: World, ledger: Count) -> None:
    """Two challenges of one device at once: each is answered with its own secret only."""
    device = world.enrolled()
    first, second = device.begin(), device.begin()
    before = ledger()
    body = device.evidence(first).to_bytes()
    assert refused(send(world, first.challenge, body, secret_of(device, second)), 403, "activation-proof-wrong")
    assert ledger() == before
    assert send(world, first.challenge, body, secret_of(device, first)).status_code == 200


def test_another_device_s_challenge(world: World, ledger: Count) -> None:
    """A thief completes the victim's challenge with all of its own evidence and its own secret."""
    victim, thief = world.enrolled(), world.enrolled()
    of_victim, of_thief = victim.begin(), thief.begin()
    before = ledger()
    body = thief.evidence(of_thief).to_bytes()
    assert refused(send(world, of_victim.challenge, body, secret_of(thief, of_thief)), 403, "activation-proof-wrong")
    assert ledger() == before
    assert victim.complete(of_victim).status_code == 200  # nothing of it was spoiled


@pytest.mark.parametrize("swapped", ["all", "key", "quote"])
def test_evidence_swapped_between_two_devices(world: World, ledger: Count, swapped: str) -> None:
    """Two enrollments running at once, both of real devices: neither vouches for the other's key or state."""
    one, other = world.enrolled(), world.enrolled()
    of_one, of_other = one.begin(), other.begin()
    mine, foreign = one.evidence(of_one), other.evidence(of_other)
    mixed = EnrollmentEvidence(
        mine.key if swapped == "quote" else foreign.key, mine.quote if swapped == "key" else foreign.quote
    )
    before = ledger()
    answer = send(world, of_one.challenge, mixed.to_bytes(), secret_of(one, of_one))
    assert refused(answer, 403, "attestation-signature-wrong")
    assert ledger() == before
    assert one.enroll().status_code == 200


@pytest.mark.parametrize("swapped", ["key", "quote"])
def test_evidence_swapped_between_two_enrollments_of_one_device(world: World, ledger: Count, swapped: str) -> None:
    """The same TPM signed both, so the signatures are right; the nonce and the id are not."""
    device = world.enrolled()
    first, second = device.begin(), device.begin()
    fresh, stale = device.evidence(first), device.evidence(second)
    mixed = EnrollmentEvidence(
        stale.key if swapped == "key" else fresh.key, stale.quote if swapped == "quote" else fresh.quote
    )
    before = ledger()
    assert refused(send(world, first.challenge, mixed.to_bytes(), secret_of(device, first)), 403, "nonce-mismatch")
    assert ledger() == before
    assert device.complete(second).status_code == 200


@pytest.mark.parametrize("bound", ["nonce", "id", "ek_hash", "ak_name", "ck_name"])
def test_everything_that_evidence_is_bound_to(world: World, ledger: Count, bound: str) -> None:
    device = world.enrolled()
    challenge = device.begin()
    lie = {"nonce": bytes(32), "id": bytes(16), "ek_hash": bytes(32), "ak_name": device.tpm.ck.name}
    body = device.evidence(challenge, **{bound: lie.get(bound, device.tpm.ak.name)}).to_bytes()
    before = ledger()
    assert refused(device.complete(challenge, body), 403, "nonce-mismatch")
    assert ledger() == before
    assert device.complete(device.begin()).status_code == 200


def resealed(world: World, challenge: BeginAnswer, keys: SealingKeys) -> bytes:
    """The same challenge, sealed by somebody else."""
    opened = EnrollmentChallenge.open(challenge.challenge, world.hierarchy.sealing)
    return opened.seal(keys, os.urandom)


def test_a_challenge_of_another_instance(world: World, ledger: Count) -> None:
    """Whoever can seal can say that any EK is endorsed; so only this service's keys open anything here."""
    device = world.enrolled()
    challenge = device.begin()
    foreign = SealingKeys([SealingKey.fresh("current", os.urandom)])
    body = device.evidence(challenge).to_bytes()
    before = ledger()
    sealed = resealed(world, challenge, foreign)
    assert refused(send(world, sealed, body, secret_of(device, challenge)), 400, "seal-key-unknown")
    assert ledger() == before
    sealed = resealed(world, challenge, world.hierarchy.sealing)
    assert send(world, sealed, body, secret_of(device, challenge)).status_code == 200


def test_a_challenge_that_was_touched(world: World, ledger: Count) -> None:
    """Every octet of it counts: version, key id, nonce, content and tag."""
    device = world.enrolled()
    challenge = device.begin()
    body, secret = device.evidence(challenge).to_bytes(), secret_of(device, challenge)
    before = ledger()
    for at in (0, 1, 8, 9, 20, 21, len(challenge.challenge) // 2, len(challenge.challenge) - 1):
        touched = bytearray(challenge.challenge)
        touched[at] ^= 1
        assert send(world, bytes(touched), body, secret).status_code == 400
    assert send(world, challenge.challenge[:-1], body, secret).status_code == 400
    assert send(world, challenge.challenge + b"\0", body, secret).status_code == 400
    assert ledger() == before
    assert send(world, challenge.challenge, body, secret).status_code == 200


def test_a_thief_of_the_answer_learns_nothing_more(world: World, ledger: Count) -> None:
    """Whoever saw a completion on the wire repeats it: the same public octets, and never a second certificate."""
    device = world.enrolled()
    device.enroll()
    before = ledger()
    again = world.post(COMPLETE, device.completion)
    assert again.status_code == 200
    assert again.data == device.answer.to_bytes() if device.answer else False
    assert ledger() == before
    world.operator.post(f"/v1/admin/devices/{device.id}/retire", {"v": 1})
    assert refused(world.post(COMPLETE, device.completion), 409, "answer-outdated")


def test_a_revoked_certificate_is_not_handed_out_again(world: World, ledger: Count) -> None:
    """The device is still active, and only this one certificate was revoked: a retry must not bring it back."""
    device = world.enrolled()
    with world.registry.reading() as c:
        serial = issued.page(c, device_id=world.row(device).id)[0].serial
    assert device.resend().status_code == 200
    assert world.operator.post(f"/v1/admin/credentials/{serial}/revoke", {"v": 1}).status_code == 200
    before = ledger()
    assert refused(device.resend(), 409, "answer-outdated")
    assert ledger() == before


def test_a_spent_challenge_with_another_proof(world: World, ledger: Count) -> None:
    """The stored answer is for the very same request: the right body with a guessed proof gets nothing."""
    device = world.enrolled()
    challenge = device.begin()
    body = device.evidence(challenge).to_bytes()
    assert device.complete(challenge, body).status_code == 200
    before = ledger()
    assert refused(device.complete(challenge, body, proof=bytes(32)), 409, "challenge-spent")
    assert ledger() == before


def test_waiting_spends_the_challenge(world: World, ledger: Count) -> None:
    """The evidence that an operator approved is not the evidence that gets the credential; fresh evidence does."""
    device = world.device()
    assert device.enroll().status_code == 202
    world.approve(device)
    before = ledger()
    assert refused(device.resend(), 409, "challenge-spent")
    assert ledger() == before
    assert device.enroll().status_code == 200


def test_an_old_challenge_does_not_undo_a_newer_enrollment(world: World, ledger: Count) -> None:
    """Refused evidence spends: the challenge that it came with is no second chance."""
    device = world.enrolled()
    challenge = device.begin()
    assert refused(device.complete(challenge, b"{}"), 400, "malformed-json")
    before = ledger()
    assert refused(device.complete(challenge), 409, "challenge-spent")
    assert ledger() == before


@pytest.mark.parametrize("seconds", [0, 3600])
def test_a_challenge_ends_with_its_time(world: World, ledger: Count, seconds: int) -> None:
    device = world.enrolled()
    punctual, late = device.begin(), device.begin()
    world.clock.advance(seconds=punctual.expires_in - 1)
    assert device.complete(punctual).status_code == 200
    world.clock.advance(seconds=1 + seconds)
    before = ledger()
    assert refused(device.complete(late), 409, "challenge-expired")
    assert ledger() == before


# ---- Attestation keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "name"),
    [
        (RESTRICTED, "ak-not-restricted"),
        (FIXED_TPM, "ak-not-fixed-tpm"),
        (FIXED_PARENT, "ak-not-fixed-parent"),
        (SENSITIVE_DATA_ORIGIN, "ak-not-made-by-tpm"),
    ],
)
def test_an_attestation_key_that_can_lie(world: World, missing: int, name: str) -> None:
    """A key of a genuine TPM, endorsed and activatable; but it signs quotes that the TPM never made."""
    device = world.device(Forger(ak=forge_key(attributes=AK_ATTRIBUTES & ~missing)))
    assert refused(world.post("/v1/enrollments", device.begin_request().to_bytes()), 403, name)
    assert world.device().begin()


def test_another_attestation_key_after_begin(world: World, ledger: Count) -> None:
    """The vetted key begins, a key that can lie signs: the signatures are the vetted key's or nothing."""
    device = world.enrolled()
    challenge = device.begin()
    secret = secret_of(device, challenge)
    device.tpm.ak = forge_key(attributes=AK_ATTRIBUTES & ~RESTRICTED)
    before = ledger()
    assert refused(
        send(world, challenge.challenge, device.evidence(challenge).to_bytes(), secret),
        403,
        "attestation-signature-wrong",
    )
    assert ledger() == before


def test_an_attestation_key_of_another_tpm(world: World, ledger: Count) -> None:
    """The thief names the victim's AK beside its own EK: its own TPM does not hold it, so nothing is released."""
    victim = world.enrolled()
    thief = world.device()
    before = ledger()
    challenge = thief.begin(ak_public=victim.tpm.ak.public)
    with pytest.raises(ForgerRefused):
        secret_of(thief, challenge)
    assert ledger() == before


# ---- Credential keys --------------------------------------------------------------------------------------------


def certified(device: SoftDevice, challenge: BeginAnswer, **lies: Any) -> bytes:
    """A completion's body whose certification lies in one way."""
    honest = device.evidence(challenge)
    data = enrollment_certify_data(
        nonce=challenge.nonce,
        id=challenge.id,
        ek_hash=device.ek_hash,
        ak_name=device.tpm.ak.name,
        ck_name=device.tpm.ck.name,
    )
    attest, signature = device.tpm.certify(data, **lies)
    return EnrollmentEvidence(CertifiedKey(device.tpm.ck.public, attest, signature), honest.quote).to_bytes()


@pytest.mark.parametrize(
    ("lies", "name"),
    [
        ({"signer": forge_key()}, "attestation-signature-wrong"),
        ({"name": forge_ck().name}, "certified-name-mismatch"),
        ({"magic": 0}, "not-made-by-tpm"),
        ({"type": CREATION}, "attestation-type-wrong"),
        ({"extra_data": bytes(32)}, "nonce-mismatch"),
        ({"trailing": b"\0"}, "malformed-tpm-structure"),
    ],
)
def test_a_certification_that_lies(world: World, ledger: Count, lies: dict[str, Any], name: str) -> None:
    device = world.enrolled()
    challenge = device.begin()
    before = ledger()
    answer = device.complete(challenge, certified(device, challenge, **lies))
    assert refused(answer, 400 if name.startswith("malformed") else 403, name)
    assert ledger() == before
    challenge = device.begin()
    assert device.complete(challenge, certified(device, challenge)).status_code == 200


def test_a_key_put_in_the_place_of_the_certified_one(world: World, ledger: Count) -> None:
    """Key substitution: the certification is genuine, the public area beside it is a software key's."""
    device = world.enrolled()
    challenge = device.begin()
    honest = device.evidence(challenge)
    swapped = EnrollmentEvidence(honest.key._replace(public=forge_ck().public), honest.quote)
    before = ledger()
    assert refused(device.complete(challenge, swapped.to_bytes()), 403, "nonce-mismatch")
    assert ledger() == before


@pytest.mark.parametrize(
    ("missing", "name"),
    [
        (FIXED_TPM, "ck-not-fixed-tpm"),
        (FIXED_PARENT, "ck-not-fixed-parent"),
        (SENSITIVE_DATA_ORIGIN, "ck-not-made-by-tpm"),
    ],
)
def test_a_credential_key_that_can_leave_its_tpm(world: World, ledger: Count, missing: int, name: str) -> None:
    """The AK certifies what it is shown, an imported or exportable key too; the certificate must not."""
    device = world.enrolled()
    device.tpm.ck = forge_ck(attributes=CK_ATTRIBUTES & ~missing)
    before = ledger()
    assert refused(device.enroll(), 403, name)
    assert ledger() == before


def test_the_attestation_key_is_no_credential_key(world: World, ledger: Count) -> None:
    device = world.enrolled()
    honest, device.tpm.ck = device.tpm.ck, device.tpm.ak
    before = ledger()
    assert refused(device.enroll(), 403, "ck-restricted")
    assert ledger() == before
    device.tpm.ck = honest
    assert device.enroll().status_code == 200


# ---- Re-keying --------------------------------------------------------------------------------------------------


def test_re_keying_with_a_key_of_another_tpm(world: World, ledger: Count) -> None:
    """The accomplice's TPM certifies its own key by its own AK, for this very request."""
    device, accomplice = world.enrolled(), world.enrolled()
    nonce = world.nonce()
    new = accomplice.tpm.ck
    data = device_certify_data(nonce=nonce, device_id=device.id, ak_name=device.tpm.ak.name, ck_name=new.name)
    attest, signature = accomplice.tpm.certify(data)
    payload = RenewalRequest(CertifiedKey(new.public, attest, signature)).to_bytes()
    before = ledger()
    assert refused(device.signed("/v1/renewals", payload, nonce=nonce), 403, "attestation-signature-wrong")
    assert ledger() == before
    assert device.rekey().status_code == 200


@pytest.mark.parametrize("bound", ["nonce", "device_id", "ak_name", "ck_name"])
def test_everything_that_re_keying_is_bound_to(world: World, ledger: Count, bound: str) -> None:
    device = world.enrolled()
    lie = {"nonce": bytes(32), "device_id": "another"}.get(bound, device.tpm.ck.name)
    before = ledger()
    assert refused(lying_rekey(device, bound, lie), 403, "nonce-mismatch")
    assert ledger() == before
    assert device.rekey().status_code == 200


def lying_rekey(device: SoftDevice, bound: str, lie: Any) -> Any:
    nonce, new = device.world.nonce(), forge_ck()
    told = {"nonce": nonce, "device_id": device.id, "ak_name": device.tpm.ak.name, "ck_name": new.name}
    old, device.tpm.ck = device.tpm.ck, new
    attest, signature = device.tpm.certify(device_certify_data(**{**told, bound: lie}))
    device.tpm.ck = old
    payload = RenewalRequest(CertifiedKey(new.public, attest, signature)).to_bytes()
    return device.signed("/v1/renewals", payload, nonce=nonce)


def test_re_keying_with_the_enrollment_s_certification(world: World, ledger: Count) -> None:
    """A certification recorded at enrollment is bound to that challenge, and introduces no key later."""
    device = world.enrolled()
    recorded = device.evidence(device.begin()).key
    before = ledger()
    assert refused(device.signed("/v1/renewals", RenewalRequest(recorded).to_bytes()), 403, "nonce-mismatch")
    assert ledger() == before


def test_re_keying_signed_by_the_new_key(world: World, ledger: Count) -> None:
    """Whoever brings a new key proves the old one; else a stolen AK password would be enough."""
    device = world.enrolled()
    nonce, new, old = world.nonce(), forge_ck(), device.tpm.ck
    device.tpm.ck = new
    data = device_certify_data(nonce=nonce, device_id=device.id, ak_name=device.tpm.ak.name, ck_name=new.name)
    attest, signature = device.tpm.certify(data)
    payload = RenewalRequest(CertifiedKey(new.public, attest, signature)).to_bytes()
    before = ledger()
    answer = device.signed("/v1/renewals", payload, nonce=nonce, sign=raw_signer(new))
    assert refused(answer, 401, "signature-wrong")
    assert ledger() == before
    device.tpm.ck = old
    assert device.signed("/v1/renewals", payload, nonce=nonce).status_code == 200


def test_re_keying_while_quarantined(world: World, ledger: Count) -> None:
    device = world.enrolled()
    world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1})
    before = ledger()
    assert refused(device.rekey(), 403, "device-quarantined")
    assert ledger() == before
    assert world.row(device).state is State.QUARANTINED
