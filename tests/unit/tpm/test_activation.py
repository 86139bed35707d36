"""Attestation keys: what makes one fit, what proves that a TPM holds it; one lie a test."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestd.errors import EvidenceRefused, MalformedInput
from attestd.ids import EkHash
from attestd.protocol.derivations import completion_proof
from attestd.tpm.activation import (
    ActivationProofWrong,
    AkDecrypts,
    AkHashWeak,
    AkKeyUnsuitable,
    AkNameAlgUnsuitable,
    AkNotFixedParent,
    AkNotFixedTpm,
    AkNotMadeByTpm,
    AkNotRestricted,
    AkNotSigning,
    AkSchemeUnsuitable,
    AkSymmetricPresent,
    VerifiedAk,
    check_proof,
    make_credential,
    recall_ak,
    verify_activation,
    vet_ak,
)
from attestd.tpm.endorsement import VerifiedEndorsement, endorse_by_inventory
from tests import forger as f
from tests.forger import Forger, ForgerRefused, forge_ek, forge_key, new_private_key

EC_KEY = ec.derive_private_key(0x1234567, ec.SECP256R1())
SECRET = bytes(range(32))
BODY = b'{"ck": "and the rest of the evidence"}'


@pytest.fixture(scope="module")
def rsa_keys() -> dict[str, f.PrivateKey]:
    return {kind: new_private_key(kind) for kind in ("rsa1024", "rsa2048", "rsa3072")}


def endorsed(forger: Forger) -> VerifiedEndorsement:
    return endorse_by_inventory(forger.ek.public, known=EkHash.of(forger.ek.public))


# ---- Vetting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
@pytest.mark.parametrize("hash", [f.SHA256, f.SHA384, f.SHA512])
def test_ecdsa_keys_are_fit(curve: ec.EllipticCurve, hash: int) -> None:
    key = forge_key(private=ec.derive_private_key(0x1234567, curve), scheme=(f.ECDSA, hash))
    assert vet_ak(key.public).name == key.name


@pytest.mark.parametrize("kind", ["rsa2048", "rsa3072"])
@pytest.mark.parametrize("scheme", [f.RSASSA, f.RSAPSS])
@pytest.mark.parametrize("hash", [f.SHA256, f.SHA384, f.SHA512])
def test_rsa_keys_are_fit(rsa_keys: dict[str, f.PrivateKey], kind: str, scheme: int, hash: int) -> None:
    key = forge_key(private=rsa_keys[kind], scheme=(scheme, hash))
    assert vet_ak(key.public).name == key.name


@pytest.mark.parametrize(
    "attributes",
    [
        f.AK_ATTRIBUTES & ~f.USER_WITH_AUTH,
        f.AK_ATTRIBUTES | f.ADMIN_WITH_POLICY,
        f.AK_ATTRIBUTES | f.NO_DA,
    ],
)
def test_who_may_use_the_key_is_the_owners_business(attributes: int) -> None:
    vet_ak(forge_key(private=EC_KEY, attributes=attributes, auth_policy=b"p" * 32).public)


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"attributes": f.AK_ATTRIBUTES & ~f.FIXED_TPM}, AkNotFixedTpm),
        ({"attributes": f.AK_ATTRIBUTES & ~f.FIXED_PARENT}, AkNotFixedParent),
        ({"attributes": f.AK_ATTRIBUTES & ~f.SENSITIVE_DATA_ORIGIN}, AkNotMadeByTpm),
        ({"attributes": f.AK_ATTRIBUTES & ~f.RESTRICTED}, AkNotRestricted),
        ({"attributes": f.AK_ATTRIBUTES & ~f.SIGN}, AkNotSigning),
        ({"attributes": f.AK_ATTRIBUTES | f.DECRYPT}, AkDecrypts),
        ({"name_alg": f.SHA1}, AkNameAlgUnsuitable),
        ({"name_alg": f.SHA384}, AkNameAlgUnsuitable),
        ({"name_alg": f.SHA512}, AkNameAlgUnsuitable),
        ({"symmetric": f.AES_128_CFB}, AkSymmetricPresent),
        ({"scheme": (f.NULL,)}, AkSchemeUnsuitable),
        ({"scheme": (f.ECDAA, f.SHA256, 0)}, AkSchemeUnsuitable),
        ({"scheme": (0x001C, f.SHA256)}, AkSchemeUnsuitable),  # ECSCHNORR
        ({"scheme": (0x0019, f.SHA256)}, AkSchemeUnsuitable),  # ECDH
        ({"scheme": (f.ECDSA, f.SHA1)}, AkHashWeak),
        ({"private": ec.derive_private_key(7, ec.SECP521R1())}, AkKeyUnsuitable),
        ({"trailing": b"\0"}, MalformedInput),
    ],
)
def test_one_lie_in_an_ecdsa_key(lie: dict[str, Any], refusal: type[Exception]) -> None:
    vet_ak(forge_key(private=EC_KEY).public)
    with pytest.raises(refusal):
        vet_ak(forge_key(**{"private": EC_KEY, **lie}).public)


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"scheme": (f.NULL,)}, AkSchemeUnsuitable),
        ({"scheme": (f.OAEP, f.SHA256)}, AkSchemeUnsuitable),
        ({"scheme": (f.RSAES,)}, AkSchemeUnsuitable),
        ({"scheme": (f.RSASSA, f.SHA1)}, AkHashWeak),
        ({"scheme": (f.RSAPSS, f.SHA1)}, AkHashWeak),
        ({"kind": "rsa1024"}, AkKeyUnsuitable),
    ],
)
def test_one_lie_in_an_rsa_key(
    rsa_keys: dict[str, f.PrivateKey], lie: dict[str, Any], refusal: type[EvidenceRefused]
) -> None:
    assert isinstance(rsa_keys["rsa2048"], rsa.RSAPrivateKey)
    vet_ak(forge_key(private=rsa_keys["rsa2048"]).public)
    private = rsa_keys[lie.pop("kind", "rsa2048")]
    with pytest.raises(refusal):
        vet_ak(forge_key(private=private, **lie).public)


def test_a_refusal_says_what_was_seen_expected_and_what_to_do() -> None:
    with pytest.raises(AkNotRestricted) as refused:
        vet_ak(forge_key(private=EC_KEY, attributes=f.AK_ATTRIBUTES & ~f.RESTRICTED).public)
    assert refused.value.seen == "0x00040072"
    assert refused.value.expected == "RESTRICTED set"
    assert "AK" in refused.value.what_to_do


# ---- Activation -------------------------------------------------------------------------------------------------


def test_an_ek_that_nobody_vouches_for_activates_nothing() -> None:
    """The EK of an enrollment by an identity key may be anybody's: a right proof by it says nothing of the AK."""
    ak, ek = vet_ak(Forger().ak.public), forge_ek().public
    told = replace(endorse_by_inventory(ek, known=EkHash.of(ek)), kind="iak")
    proof = completion_proof(secret=SECRET, body=BODY)
    check_proof(secret=SECRET, body=BODY, proof=proof)
    with pytest.raises(ValueError, match="nobody vouches"):
        verify_activation(told, ak, secret=SECRET, body=BODY, proof=proof)


@pytest.mark.parametrize("template", ["L-1", "L-2", "H-3"])
def test_activation_end_to_end(template: str) -> None:
    forger = Forger(ek=template)
    endorsement, ak = endorsed(forger), vet_ak(forger.ak.public)
    made = make_credential(endorsement, ak, secret=SECRET, entropy=os.urandom)
    recovered = forger.activate(made.credential_blob, made.encrypted_secret)
    proof = completion_proof(secret=recovered, body=BODY)
    verified = verify_activation(endorsement, ak, secret=SECRET, body=BODY, proof=proof)
    assert isinstance(verified, VerifiedAk)
    assert (verified.public.area, verified.name) == (forger.ak.public, forger.ak.name)


@pytest.mark.parametrize("lie", [{"ak": forge_key(private=ec.derive_private_key(7, ec.SECP256R1()))}, {"ek": None}])
def test_a_secret_for_another_ak_or_tpm_is_not_recovered(lie: dict[str, f.ForgedKey | None]) -> None:
    forger = Forger()
    made = make_credential(endorsed(forger), vet_ak(forger.ak.public), secret=SECRET, entropy=os.urandom)
    assert forger.activate(made.credential_blob, made.encrypted_secret) == SECRET
    other = Forger(ek=forger.ek if "ak" in lie else "L-2", ak=lie.get("ak") or forger.ak)
    with pytest.raises(ForgerRefused):
        other.activate(made.credential_blob, made.encrypted_secret)


@pytest.mark.parametrize(
    "lie",
    [
        {"secret": bytes(32)},
        {"body": BODY + b" "},
        {"proof": b""},
        {"proof": bytes(32)},
        {"proof": completion_proof(secret=SECRET, body=BODY)[:31]},
        {"proof": completion_proof(secret=SECRET, body=BODY) + b"\0"},
    ],
)
def test_a_wrong_proof_is_refused(lie: dict[str, bytes]) -> None:
    forger = Forger(ek=forge_ek("L-2", private=EC_KEY))
    endorsement, ak = endorsed(forger), vet_ak(forger.ak.public)
    truth = {"secret": SECRET, "body": BODY, "proof": completion_proof(secret=SECRET, body=BODY)}
    verify_activation(endorsement, ak, **truth)
    with pytest.raises(ActivationProofWrong) as refused:
        verify_activation(endorsement, ak, **{**truth, **lie})
    assert (refused.value.seen, refused.value.expected) == (None, None)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_secret_of_another_size_is_this_programs_mistake(size: int) -> None:
    forger = Forger(ek=forge_ek("L-2", private=EC_KEY))
    endorsement, ak, secret = endorsed(forger), vet_ak(forger.ak.public), bytes(size)
    with pytest.raises(ValueError, match="32 octets"):
        make_credential(endorsement, ak, secret=secret, entropy=os.urandom)
    with pytest.raises(ValueError, match="32 octets"):
        verify_activation(endorsement, ak, secret=secret, body=BODY, proof=completion_proof(secret=secret, body=BODY))


def test_a_recalled_key_is_vetted_again() -> None:
    key = forge_key(private=EC_KEY)
    assert recall_ak(key.public).name == key.name
    with pytest.raises(AkNotRestricted):
        recall_ak(forge_key(private=EC_KEY, attributes=f.AK_ATTRIBUTES & ~f.RESTRICTED).public)
