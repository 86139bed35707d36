"""Attacks on the second way in: identity keys that are somebody else's, that can lie, or that nobody asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attestd.config import EndorsementSettings
from attestd.protocol.evidence import Identification, IdentityKey
from attestd.registry.states import State
from tests import ek_ca
from tests import forger as f
from tests.attacks.ledger import refused
from tests.service import SoftDevice, World, problem

BEGIN = "/v1/enrollments"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An instance that takes identity keys."""
    world = World(tmp_path / "taking", endorsement=EndorsementSettings(accept_iak=True))
    yield world
    world.close()


def enrolled(world: World) -> SoftDevice:
    device = world.identified()
    assert device.enroll().status_code == 202
    world.approve(device)
    answer = device.enroll()
    assert answer.status_code == 200, answer.text
    return device


def test_a_certified_identity_key_enrolls_like_an_endorsed_one(world: World) -> None:
    device = enrolled(world)
    row = world.row(device)
    assert (row.endorsement, row.manufacturer, row.state) == ("iak", "IFX", State.ACTIVE)
    assert device.attest().status_code == 200
    assert device.renew().status_code == 200
    assert device.answer is not None
    assert device.answer.result["vector"]["hardware"] == 2


_IDEVID = ek_ca.policies(ek_ca.TPM_RESIDENCY, ek_ca.TPM_FIXED)


def test_no_identity_keys_unless_a_setting_says_so(tmp_path: Path) -> None:
    world = World(tmp_path / "not taking")
    device = world.identified()
    answer = world.post(BEGIN, device.begin_request().to_bytes())
    assert refused(answer, 403, "identity-keys-not-taken")
    world.close()


@pytest.mark.parametrize(
    ("form", "name"),
    [
        (lambda form: form.with_extension(_IDEVID), "identity-key-not-restricted"),
        (lambda form: form.without("2.5.29.32"), "identity-key-not-verified"),
        (lambda form: form.without("2.5.29.17"), "hardware-module-missing"),
        (lambda form: form.with_extension(ek_ca.key_usage("key_agreement")), "identity-key-usage-wrong"),
    ],
)
def test_a_certificate_that_is_no_identity_key_s(
    world: World, form: Callable[[ek_ca.Form], ek_ca.Form], name: str
) -> None:
    device = world.identified(form=form)
    assert refused(world.post(BEGIN, device.begin_request().to_bytes()), 403, name)


def test_a_stolen_certificate_for_the_thief_s_own_key(world: World) -> None:
    victim, thief = world.identified(), world.identified()
    thief.certificates = victim.certificates
    assert refused(world.post(BEGIN, thief.begin_request().to_bytes()), 403, "certificate-for-another-key")


def test_an_ek_certificate_is_no_identity_key_s_and_the_other_way_round(world: World) -> None:
    by_ek, by_iak = world.device(), world.identified()
    assert by_iak.iak is not None
    request = by_ek.begin_request(ek_certificates=(), iak=IdentityKey(by_iak.iak.public, tuple(by_ek.certificates)))
    assert refused(world.post(BEGIN, request.to_bytes()), 403, "certificate-for-another-key")
    request = by_ek.begin_request(ek_certificates=tuple(by_iak.certificates))
    assert refused(world.post(BEGIN, request.to_bytes()), 403, "certificate-for-another-key")


def test_certificates_of_both(world: World) -> None:
    device = world.identified()
    request = device.begin_request(ek_certificates=tuple(world.device().certificates))
    assert refused(world.post(BEGIN, request.to_bytes()), 400, "malformed-json")


def test_the_inventory_does_not_stand_in_for_an_identity_key(world: World) -> None:
    """It lists hashes, and a hash proves nothing of where an AK is."""
    device = world.identified(form=lambda form: form.without("2.5.29.32"))
    line = f"ek_hash,tier,site\n{device.ek_hash.hex()},device,shop-1\n".encode()
    assert world.operator.post("/v1/admin/devices/import", line, content_type="text/csv").status_code == 200
    assert refused(world.post(BEGIN, device.begin_request().to_bytes()), 403, "identity-key-not-verified")


# ---- The identity key's word ------------------------------------------------------------------------------------


def complete(device: SoftDevice, word: f.Attestation | None) -> Any:
    """The enrollment, with another word of the identity key, or none."""
    challenge = device.begin()
    iak = None if word is None else Identification(*word)
    return device.complete(challenge, device.evidence(challenge)._replace(iak=iak).to_bytes())


def test_an_attestation_key_that_nobody_vouches_for(world: World) -> None:
    """Its EK opens the challenge, since anybody's EK would: that proves nothing here."""
    assert refused(complete(world.identified(), None), 403, "identity-missing")


def test_a_stranger_with_the_victim_s_certificate(world: World) -> None:
    """Certificates are public. The thief has an EK and an AK of its own, and not the key."""
    victim = enrolled(world)
    thief = SoftDevice(world, f.Forger(), victim.certificates)
    thief.iak = victim.iak
    challenge = thief.begin()
    forged = thief.tpm.identify(f.forge_iak(), b"whatever")
    body = thief.evidence(challenge)._replace(iak=Identification(*forged)).to_bytes()
    assert refused(thief.complete(challenge, body), 403, "attestation-signature-wrong")
    assert world.row(victim).state is State.ACTIVE
    assert victim.renew().status_code == 200


def test_a_word_for_another_challenge(world: World) -> None:
    device = world.identified()
    old = device.evidence(device.begin()).iak
    assert old is not None
    assert refused(complete(device, f.Attestation(old.attest, old.signature)), 403, "nonce-mismatch")


def test_a_word_for_another_attestation_key(world: World) -> None:
    device = world.identified()
    assert device.iak is not None
    challenge = device.begin()
    honest = device.evidence(challenge)
    other = f.Forger()
    word = other.identify(device.iak, _extra_data(honest))
    body = honest._replace(iak=Identification(*word)).to_bytes()
    assert refused(device.complete(challenge, body), 403, "certified-name-mismatch")


def test_a_key_of_the_owner_s_hierarchy(world: World) -> None:
    """Whoever owns the machine can make such keys; the maker certified the endorsement hierarchy's."""
    device = world.identified()
    assert device.iak is not None
    challenge = device.begin()
    honest = device.evidence(challenge)
    word = device.tpm.identify(device.iak, _extra_data(honest), hierarchy=0x40000001)
    body = honest._replace(iak=Identification(*word)).to_bytes()
    assert refused(device.complete(challenge, body), 403, "identity-name-mismatch")


def test_a_public_area_that_is_not_the_certified_key_s(world: World) -> None:
    """The same key, described as something else: the certificate can't tell, the TPM does."""
    device = world.identified()
    honest = device.iak
    assert honest is not None
    device.iak = f.forge_iak(private=honest.private, auth_policy=b"")
    challenge = device.begin()
    evidence = device.evidence(challenge)
    word = device.tpm.identify(honest, _extra_data(evidence))
    body = evidence._replace(iak=Identification(*word)).to_bytes()
    assert refused(device.complete(challenge, body), 403, "identity-name-mismatch")


def test_a_word_that_nobody_asked_for(world: World) -> None:
    device = world.device()
    challenge = device.begin()
    word = device.tpm.identify(f.forge_iak(), b"whatever")
    body = device.evidence(challenge)._replace(iak=Identification(*word)).to_bytes()
    assert refused(device.complete(challenge, body), 403, "identity-unexpected")


def test_one_tpm_by_both_ways_is_two_devices(world: World) -> None:
    by_iak = enrolled(world)
    by_ek = world.device(by_iak.tpm)
    assert by_ek.enroll().status_code == 202
    assert world.row(by_ek).id != world.row(by_iak).id
    assert world.row(by_ek).state is State.PENDING


def test_a_wrong_proof_spends_nothing(world: World) -> None:
    device = world.identified()
    challenge = device.begin()
    wrong = device.complete(challenge, proof=bytes(32))
    assert (wrong.status_code, problem(wrong)) == (403, "activation-proof-wrong")
    assert device.complete(challenge).status_code == 202


def _extra_data(evidence: Any) -> bytes:
    """What the honest word was asked for."""
    from attestd.tpm.statements import parse_certification

    return parse_certification(evidence.iak.attest).extra_data
