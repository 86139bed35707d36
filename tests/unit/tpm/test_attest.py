"""Certifications and quotes: each check has an accepted twin and a forgery that changes one field."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import AttestdError, EvidenceRefused, MalformedInput
from attestd.tpm import attest as a
from attestd.tpm.activation import VerifiedAk, recall_ak
from attestd.tpm.attest import VerifiedKey, VerifiedQuote, verify_certified_key, verify_quote
from attestd.tpm.statements import AttestationTypeWrong, NotMadeByTpm
from attestd.tpm.wire import MalformedTpmStructure
from tests import forger as f
from tests.forger import Attestation, ForgedKey, Forger, forge_ck, forge_key, new_private_key, tpm2b

NONCE = hashlib.sha256(b"qualifying data").digest()
PCRS = {"sha256": {0: b"a" * 32, 7: b"b" * 32, 10: b"c" * 32}}
SELECTION = {"sha256": (0, 7, 10)}
EC_KEY = ec.derive_private_key(0x1234567, ec.SECP256R1())
OTHER_KEY = forge_key(private=ec.derive_private_key(0x7654321, ec.SECP256R1()))

SCHEMES: dict[str, tuple[str, tuple[int, int]]] = {
    "ecdsa-p256": ("p256", (f.ECDSA, f.SHA256)),
    "ecdsa-p256-sha512": ("p256", (f.ECDSA, f.SHA512)),
    "ecdsa-p384": ("p384", (f.ECDSA, f.SHA384)),
    "rsassa": ("rsa2048", (f.RSASSA, f.SHA256)),
    "rsassa-sha384": ("rsa2048", (f.RSASSA, f.SHA384)),
    "rsapss": ("rsa2048", (f.RSAPSS, f.SHA256)),
}


@pytest.fixture(scope="module")
def aks() -> dict[str, ForgedKey]:
    rsa = new_private_key("rsa2048")
    return {
        name: forge_key(kind, private=rsa if kind == "rsa2048" else None, scheme=scheme)
        for name, (kind, scheme) in SCHEMES.items()
    }


@pytest.fixture(scope="module")
def forger() -> Forger:
    return Forger(ek="L-2", ak=forge_key(private=EC_KEY))


def recalled(forger: Forger) -> VerifiedAk:
    return recall_ak(forger.ak.public)


def check_quote(forger: Forger, quoted: Attestation, **changes: Any) -> VerifiedQuote:
    told = {"qualifying_data": NONCE, "pcrs": PCRS, "selection": SELECTION, **changes}
    return verify_quote(recalled(forger), attest=quoted.attest, signature=quoted.signature, **told)


def check_certification(forger: Forger, certified: Attestation, **changes: Any) -> VerifiedKey:
    told = {"public": forger.ck.public, "qualifying_data": NONCE, **changes}
    return verify_certified_key(recalled(forger), attest=certified.attest, signature=certified.signature, **told)


# ---- Quotes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_true_quote_gives_its_facts(aks: dict[str, ForgedKey], scheme: str) -> None:
    forger = Forger(ak=aks[scheme])
    verified = check_quote(forger, forger.quote(NONCE, PCRS))
    assert {bank: dict(values) for bank, values in verified.pcrs.items()} == PCRS
    clock = verified.clock
    assert (clock.clock, clock.reset_count, clock.restart_count, clock.safe) == (123_456, 7, 3, True)
    assert verified.firmware_version == 0x2016_0511_0016_2800
    assert verified.qualified_signer == b"\x00\x0b" + bytes(32)


def test_verified_values_can_not_be_changed(forger: Forger) -> None:
    mine = {"sha256": dict(PCRS["sha256"])}
    verified = check_quote(forger, forger.quote(NONCE, PCRS), pcrs=mine)
    mine["sha256"][0] = b"z" * 32
    assert verified.pcrs["sha256"][0] == b"a" * 32
    with pytest.raises(TypeError):
        verified.pcrs["sha256"][0] = b"z" * 32  # type: ignore[index]


@pytest.mark.parametrize("indices", [(0,), (23,), (7, 8, 15, 16), tuple(range(24))])
def test_any_pcrs_can_be_selected(forger: Forger, indices: tuple[int, ...]) -> None:
    pcrs = {"sha256": {index: hashlib.sha256(bytes([index])).digest() for index in indices}}
    check_quote(forger, forger.quote(NONCE, pcrs), pcrs=pcrs, selection={"sha256": indices})


@pytest.mark.parametrize("order", [("sha256", "sha384", "sha512"), ("sha512", "sha256", "sha384")])
def test_banks_are_digested_in_the_quotes_order(forger: Forger, order: tuple[str, ...]) -> None:
    values = {bank: {0: b"a" * size, 9: b"b" * size} for bank, size in (("sha256", 32), ("sha384", 48), ("sha512", 64))}
    quoted = forger.quote(NONCE, {bank: values[bank] for bank in order})
    check_quote(forger, quoted, pcrs=values, selection=dict.fromkeys(values, (9, 0)))


def test_an_unsafe_clock_is_reported(forger: Forger) -> None:
    assert check_quote(forger, forger.quote(NONCE, PCRS, safe=0)).clock.safe is False


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"magic": 0xFF544346}, NotMadeByTpm),
        ({"magic": 0}, NotMadeByTpm),
        ({"type": f.CERTIFY}, AttestationTypeWrong),
        ({"type": f.CREATION}, AttestationTypeWrong),
        ({"type": 0x8014}, AttestationTypeWrong),  # TPM_ST_ATTEST_NV
        ({"extra_data": b""}, a.NonceMismatch),
        ({"extra_data": NONCE[:31]}, a.NonceMismatch),
        ({"extra_data": NONCE + b"\0"}, a.NonceMismatch),
        ({"extra_data": bytes(32)}, a.NonceMismatch),
        ({"extra_data": bytes(67)}, MalformedTpmStructure),
        ({"qualified_signer": bytes(67)}, MalformedTpmStructure),
        ({"safe": 2}, MalformedTpmStructure),
        ({"trailing": b"\0"}, MalformedTpmStructure),
        ({"digest": bytes(32)}, a.PcrDigestMismatch),
        ({"digest": b""}, a.PcrDigestMismatch),
        ({"digest": bytes(65)}, MalformedTpmStructure),
        ({"selection": [(f.SHA256, b"\x81\x00\x00")]}, a.PcrSelectionMismatch),
        ({"selection": [(f.SHA256, b"\x81\x0c\x00")]}, a.PcrSelectionMismatch),
        ({"selection": [(f.SHA256, b"\x81\x04\x00\x01")]}, a.PcrSelectionMismatch),
        ({"selection": [(f.SHA256, b"\x00\x00\x00")]}, a.PcrSelectionMismatch),
        ({"selection": [(f.SHA256, b"")]}, a.PcrSelectionMismatch),
        ({"selection": [(f.SHA384, b"\x81\x04\x00")]}, a.PcrSelectionMismatch),
        ({"selection": []}, a.PcrSelectionMismatch),
        ({"selection": [(f.SHA256, b"\x81\x04\x00"), (f.SHA384, b"\0\0\0")]}, a.PcrSelectionMismatch),
        ({"selection": [(f.SHA256, b"\x81\x04\x00"), (f.SHA256, b"\x81\x04\x00")]}, MalformedTpmStructure),
        ({"selection": [(f.SHA256, b"\x81\x00\x00"), (f.SHA256, b"\x00\x04\x00")]}, MalformedTpmStructure),
        ({"selection": [(f.SHA256, b"\x81\x04\x00\x00\x00")]}, MalformedTpmStructure),
        ({"selection": [(0x0012, b"\x81\x04\x00")]}, MalformedTpmStructure),
        ({"selection": [(f.NULL, b"\x81\x04\x00")]}, MalformedTpmStructure),
        ({"selection": [(f.SHA256, b"\x81\x04\x00")] * 17}, MalformedTpmStructure),
        ({"signer": OTHER_KEY}, a.AttestationSignatureWrong),
        ({"scheme": (f.ECDSA, f.SHA384)}, a.SignatureSchemeMismatch),
        ({"scheme": (f.ECDSA, f.SHA1)}, a.SignatureSchemeMismatch),
        ({"signature": f.u16s(f.RSASSA, f.SHA256) + tpm2b(bytes(256))}, a.SignatureSchemeMismatch),
        ({"signature": f.u16s(f.ECDSA, f.SHA256) + tpm2b(bytes(32)) + tpm2b(bytes(32))}, a.AttestationSignatureWrong),
        ({"signature": f.u16s(f.ECDSA, f.SHA256) + tpm2b(b"") + tpm2b(b"")}, a.AttestationSignatureWrong),
        (
            {"signature": f.u16s(f.ECDSA, f.SHA256) + tpm2b(b"\xff" * 66) + tpm2b(b"\xff" * 66)},
            a.AttestationSignatureWrong,
        ),
        ({"signature": f.u16s(f.NULL)}, MalformedTpmStructure),
        ({"signature": b""}, MalformedTpmStructure),
    ],
)
def test_one_lie_in_a_quote(forger: Forger, lie: dict[str, Any], refusal: type[AttestdError]) -> None:
    check_quote(forger, forger.quote(NONCE, PCRS))
    with pytest.raises(refusal):
        check_quote(forger, forger.quote(NONCE, PCRS, **lie))


@pytest.mark.parametrize(
    ("told", "refusal"),
    [
        ({"qualifying_data": bytes(32)}, a.NonceMismatch),
        ({"selection": {}}, a.NothingSelected),
        ({"selection": {"sha256": ()}}, a.NothingSelected),
        ({"selection": {"sha256": (0, 7, 10), "sha384": ()}}, a.NothingSelected),
        ({"selection": {"sha256": (0, 7)}}, a.PcrSelectionMismatch),
        ({"selection": {"sha256": (0, 7, 10, 11)}}, a.PcrSelectionMismatch),
        ({"selection": {"sha384": (0, 7, 10)}}, a.PcrSelectionMismatch),
        ({"selection": {**SELECTION, "sha384": (0,)}}, a.PcrSelectionMismatch),
        ({"pcrs": {}}, a.PcrValuesMismatch),
        ({"pcrs": {"sha256": {}}}, a.PcrValuesMismatch),
        ({"pcrs": {"sha384": PCRS["sha256"]}}, a.PcrValuesMismatch),
        ({"pcrs": {"sha256": {0: b"a" * 32, 7: b"b" * 32}}}, a.PcrValuesMismatch),
        ({"pcrs": {"sha256": {**PCRS["sha256"], 11: bytes(32)}}}, a.PcrValuesMismatch),
        ({"pcrs": {**PCRS, "sha384": {}}}, a.PcrValuesMismatch),
        ({"pcrs": {**PCRS, "sha384": {0: bytes(48)}}}, a.PcrValuesMismatch),
        ({"pcrs": {"sha256": {0: b"a" * 32 + b"b", 7: b"b" * 31, 10: b"c" * 32}}}, a.PcrValuesMismatch),
        ({"pcrs": {"sha256": {0: b"a" * 32, 7: b"b" * 32, 10: b"d" * 32}}}, a.PcrDigestMismatch),
        ({"pcrs": {"sha256": {0: b"b" * 32, 7: b"a" * 32, 10: b"c" * 32}}}, a.PcrDigestMismatch),
    ],
)
def test_a_true_quote_for_something_else(forger: Forger, told: dict[str, Any], refusal: type[EvidenceRefused]) -> None:
    quoted = forger.quote(NONCE, PCRS)
    check_quote(forger, quoted)
    with pytest.raises(refusal):
        check_quote(forger, quoted, **told)


def test_octets_moved_between_neighbours_hash_alike_and_are_refused(forger: Forger) -> None:
    """Without the check of sizes this forgery has the right digest."""
    moved = {0: b"a" * 32 + b"b", 7: b"b" * 31, 10: b"c" * 32}
    assert b"".join(moved.values()) == b"".join(PCRS["sha256"].values())
    with pytest.raises(a.PcrValuesMismatch, match="PCR 0 has the wrong size"):
        check_quote(forger, forger.quote(NONCE, PCRS), pcrs={"sha256": moved})


def test_without_qualifying_data_there_is_nothing_to_verify(forger: Forger) -> None:
    with pytest.raises(a.NonceMismatch):
        check_quote(forger, forger.quote(b"", PCRS), qualifying_data=b"")


def test_sha1_banks_are_evidence_only_where_the_policy_names_them(forger: Forger) -> None:
    pcrs = {"sha1": {0: b"a" * 20}}
    quoted, told = forger.quote(NONCE, pcrs), {"pcrs": pcrs, "selection": {"sha1": (0,)}}
    assert check_quote(forger, quoted, **told, allow_sha1=True).pcrs["sha1"][0] == b"a" * 20
    with pytest.raises(a.Sha1BankRefused):
        check_quote(forger, quoted, **told)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_flipped_bit_anywhere_is_noticed(aks: dict[str, ForgedKey], scheme: str) -> None:
    forger = Forger(ek="L-2", ak=aks[scheme])
    attest, signature = forger.quote(NONCE, PCRS)
    check_quote(forger, Attestation(attest, signature))
    for at in range(0, len(attest), 3):
        flipped = attest[:at] + bytes([attest[at] ^ 1]) + attest[at + 1 :]
        with pytest.raises((MalformedInput, EvidenceRefused)):
            check_quote(forger, Attestation(flipped, signature))
    for at in range(0, len(signature), 7):
        flipped = signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]
        with pytest.raises((MalformedInput, EvidenceRefused)):
            check_quote(forger, Attestation(attest, flipped))


@pytest.mark.parametrize(
    ("own", "other", "refusal"),
    [
        ("rsassa", (f.RSAPSS, f.SHA256), a.SignatureSchemeMismatch),
        ("rsapss", (f.RSASSA, f.SHA256), a.SignatureSchemeMismatch),
        ("rsassa", (f.RSASSA, f.SHA384), a.SignatureSchemeMismatch),
        ("rsassa", (f.RSASSA, f.SHA1), a.SignatureSchemeMismatch),
    ],
)
def test_the_scheme_is_the_keys_own(
    aks: dict[str, ForgedKey], own: str, other: tuple[int, int], refusal: type[EvidenceRefused]
) -> None:
    forger = Forger(ek="L-2", ak=aks[own])
    with pytest.raises(refusal):
        check_quote(forger, forger.quote(NONCE, PCRS, scheme=other))


@pytest.mark.parametrize("size", [0, 255, 257])
def test_an_rsa_signature_of_another_size_is_wrong(aks: dict[str, ForgedKey], size: int) -> None:
    for own, scheme in (("rsassa", f.RSASSA), ("rsapss", f.RSAPSS)):
        forger = Forger(ek="L-2", ak=aks[own])
        signature = f.u16s(scheme, f.SHA256) + tpm2b(b"\x7f" * size)
        with pytest.raises(a.AttestationSignatureWrong):
            check_quote(forger, forger.quote(NONCE, PCRS, signature=signature))


# ---- Certifications ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_true_certification_gives_the_key(aks: dict[str, ForgedKey], scheme: str) -> None:
    forger = Forger(ek="L-2", ak=aks[scheme])
    verified = check_certification(forger, forger.certify(NONCE))
    assert (verified.public.area, verified.name) == (forger.ck.public, forger.ck.name)
    assert verified.key == forger.ck.private.public_key()


@pytest.mark.parametrize("scheme", [(f.NULL,), (f.ECDSA, f.SHA256)])
@pytest.mark.parametrize(
    "attributes",
    [f.CK_ATTRIBUTES, f.CK_ATTRIBUTES & ~f.USER_WITH_AUTH | f.ADMIN_WITH_POLICY, f.CK_ATTRIBUTES | f.NO_DA],
)
def test_fit_credential_keys(scheme: tuple[int, ...], attributes: int) -> None:
    forger = Forger(ck=forge_ck(scheme=scheme, attributes=attributes))
    check_certification(forger, forger.certify(NONCE))


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"magic": 0}, NotMadeByTpm),
        ({"type": f.QUOTE}, AttestationTypeWrong),
        ({"type": f.CREATION}, AttestationTypeWrong),
        ({"extra_data": b""}, a.NonceMismatch),
        ({"extra_data": bytes(32)}, a.NonceMismatch),
        ({"name": b""}, a.CertifiedNameMismatch),
        ({"name": b"\x00\x0b" + bytes(32)}, a.CertifiedNameMismatch),
        ({"name": OTHER_KEY.name}, a.CertifiedNameMismatch),
        ({"name": bytes(67)}, MalformedTpmStructure),
        ({"safe": 255}, MalformedTpmStructure),
        ({"trailing": b"\0"}, MalformedTpmStructure),
        ({"signer": OTHER_KEY}, a.AttestationSignatureWrong),
        ({"scheme": (f.ECDSA, f.SHA1)}, a.SignatureSchemeMismatch),
    ],
)
def test_one_lie_in_a_certification(forger: Forger, lie: dict[str, Any], refusal: type[AttestdError]) -> None:
    check_certification(forger, forger.certify(NONCE))
    with pytest.raises(refusal):
        check_certification(forger, forger.certify(NONCE, **lie))


def test_a_key_may_not_certify_itself(forger: Forger) -> None:
    """The credential key signs anything it is given, a certification of itself too."""
    with pytest.raises(a.AttestationSignatureWrong):
        check_certification(forger, forger.certify(NONCE, signer=forger.ck))


def test_without_qualifying_data_a_certification_proves_nothing(forger: Forger) -> None:
    with pytest.raises(a.NonceMismatch):
        check_certification(forger, forger.certify(b""), qualifying_data=b"")


def test_another_public_area_than_the_certified_one(forger: Forger) -> None:
    certified = forger.certify(NONCE)
    with pytest.raises(a.CertifiedNameMismatch):
        check_certification(forger, certified, public=forge_ck().public)
    with pytest.raises(MalformedTpmStructure):
        check_certification(forger, certified, public=forger.ck.public + b"\0")


@pytest.mark.parametrize(
    ("make", "refusal"),
    [
        (lambda: forge_ck(attributes=f.CK_ATTRIBUTES & ~f.FIXED_TPM), a.CkNotFixedTpm),
        (lambda: forge_ck(attributes=f.CK_ATTRIBUTES & ~f.FIXED_PARENT), a.CkNotFixedParent),
        (lambda: forge_ck(attributes=f.CK_ATTRIBUTES & ~f.SENSITIVE_DATA_ORIGIN), a.CkNotMadeByTpm),
        (lambda: forge_ck(attributes=f.CK_ATTRIBUTES & ~f.SIGN), a.CkNotSigning),
        (lambda: forge_ck(attributes=f.CK_ATTRIBUTES | f.RESTRICTED), a.CkRestricted),
        (lambda: forge_ck(attributes=f.CK_ATTRIBUTES | f.DECRYPT), a.CkDecrypts),
        (lambda: forge_ck(name_alg=f.SHA1), a.CkNameAlgUnsuitable),
        (lambda: forge_ck(name_alg=f.SHA384), a.CkNameAlgUnsuitable),
        (lambda: forge_ck("p384"), a.CkKeyUnsuitable),
        (lambda: forge_ck("rsa2048"), a.CkKeyUnsuitable),
        (lambda: forge_ck(scheme=(f.ECDSA, f.SHA384)), a.CkSchemeUnsuitable),
        (lambda: forge_ck(scheme=(f.ECDSA, f.SHA1)), a.CkSchemeUnsuitable),
        (lambda: forge_ck(scheme=(0x0019, f.SHA256)), a.CkSchemeUnsuitable),  # ECDH
    ],
)
def test_one_lie_in_a_credential_key(make: Callable[[], ForgedKey], refusal: type[EvidenceRefused]) -> None:
    forger = Forger(ek="L-2", ck=make())
    with pytest.raises(refusal):
        check_certification(forger, forger.certify(NONCE))


# ---- Any octets -------------------------------------------------------------------------------------------------

FIXED = Forger(ak=forge_key(private=EC_KEY), ck=forge_ck(private=EC_KEY))


@given(st.binary(max_size=400), st.binary(max_size=200), st.binary(max_size=300))
def test_random_evidence_is_refused(attest: bytes, signature: bytes, public: bytes) -> None:
    ak = recalled(FIXED)
    pcrs: Mapping[str, Mapping[int, bytes]] = PCRS
    with pytest.raises((MalformedInput, EvidenceRefused)):
        verify_quote(ak, attest=attest, signature=signature, qualifying_data=NONCE, pcrs=pcrs, selection=SELECTION)
    with pytest.raises((MalformedInput, EvidenceRefused)):
        verify_certified_key(ak, public=public, attest=attest, signature=signature, qualifying_data=NONCE)
