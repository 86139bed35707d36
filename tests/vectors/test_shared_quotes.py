"""Quotes, Names, certifications and MakeCredential of real machines and of other implementations.

The files are other projects' data and stay where they are: `../shared/vectors`, or where `ATTESTD_VECTORS` points.
Where the folder is absent these tests are skipped, each by its name. The verdicts are the manifest's.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from attestd.tpm.activation import AkHashWeak, VerifiedAk, recall_ak, vet_ak
from attestd.tpm.attest import (
    AttestationSignatureWrong,
    NonceMismatch,
    PcrDigestMismatch,
    PcrValuesMismatch,
    Sha1BankRefused,
    verify_certified_key,
    verify_quote,
)
from attestd.tpm.ektemplates import POLICY_A_SHA256, check_ek_template
from attestd.tpm.makecred import encrypt_oaep, protect
from attestd.tpm.objects import HASHES, Alg, parse_public, parse_signature
from attestd.tpm.statements import AttestationTypeWrong, Quote, parse_quote
from attestd.tpm.wire import sized

VECTORS = Path(os.environ.get("ATTESTD_VECTORS", Path(__file__).resolve().parents[2].parent / "shared" / "vectors"))

pytestmark = pytest.mark.skipif(
    not (VECTORS / "manifest.json").exists(), reason=f"no test vectors of real machines in {VECTORS}"
)

# Quotes with their PCR values, whose attestation key is not in the evidence: signatures can't be checked.
UNSIGNED = (
    "immune-DESKTOP-MIMU51J-EPP-ESET",
    "immune-IMN-SUPERMICRO-EPP-MSDefender",
    "immune-dell-notebook-5eventlogs-WBCL",
    "immune-failed-1",
    "immune-failed-2",
    "immune-good-1",
    "immune-ludmilla",
    "immune-r340",
)


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / "quotes" / f"{name}.json").read_text())
    return found


def expected(name: str) -> dict[str, Any]:
    manifest = json.loads((VECTORS / "manifest.json").read_text())
    found: dict[str, Any] = next(entry["expected"] for entry in manifest if entry["file"] == f"quotes/{name}.json")
    return found


def octets(vector: Mapping[str, Any], member: str) -> bytes:
    return base64.b64decode(vector[member])


def area(tpm2b: bytes) -> bytes:
    """The TPMT_PUBLIC in a TPM2B_PUBLIC."""
    assert len(tpm2b) == 2 + int.from_bytes(tpm2b[:2], "big")
    return tpm2b[2:]


def read_pcrs(vector: Mapping[str, Any]) -> dict[str, dict[int, bytes]]:
    return {
        bank: {int(index): bytes.fromhex(value) for index, value in values.items()}
        for bank, values in vector["pcrs"].items()
    }


def digest_of(quote: Quote, pcrs: Mapping[str, Mapping[int, bytes]], hash_name: str) -> bytes:
    return hashlib.new(
        hash_name, b"".join(pcrs[bank][index] for bank, indices in quote.selection for index in indices)
    ).digest()


def assert_as_listed(quote: Quote, listed: Mapping[str, Any]) -> None:
    assert quote.qualified_signer.hex() == listed["qualifiedSigner"]
    assert quote.extra_data.hex() == listed["extraData"]
    assert quote.clock.clock == listed["clock"]
    assert quote.clock.reset_count == listed["resetCount"]
    assert quote.clock.restart_count == listed["restartCount"]
    assert quote.clock.safe == bool(listed["safe"])
    assert quote.firmware_version == listed["fw"]
    assert [[bank, list(indices)] for bank, indices in quote.selection] == listed["select"]
    assert quote.digest.hex() == listed["pcrDigest"]


@pytest.mark.parametrize("name", UNSIGNED)
def test_quotes_of_real_machines_are_read_and_their_digests_recomputed(name: str) -> None:
    vector, verdict = load(name), expected(name)
    quote = parse_quote(octets(vector, "attest_b64"))
    assert_as_listed(quote, verdict["attest"])
    signature = parse_signature(octets(vector, "signature_b64"))
    assert (signature.scheme.name.lower(), signature.hash.name) == (verdict["sig_alg"], verdict["sig_hash"])
    pcrs = read_pcrs(vector)
    assert (digest_of(quote, pcrs, signature.hash.name) == quote.digest) is verdict["pcr_digest_matches_pcrs"]


def test_the_three_immune_quotes_differ_in_pcr_0_alone() -> None:
    pcrs = [read_pcrs(load(name))["sha256"] for name in ("immune-good-1", "immune-failed-1", "immune-failed-2")]
    assert len({values.pop(0) for values in pcrs}) == 3
    assert pcrs[0] == pcrs[1] == pcrs[2]


def test_keylime_quote() -> None:
    """Its PCR values are in a format of keylime's own, so the digest is compared as listed, and the signature here."""
    vector, verdict = load("keylime-quote"), expected("keylime-quote")
    quote = parse_quote(octets(vector, "attest_b64"))
    assert_as_listed(quote, verdict["attest"])
    ak = recall_ak(area(octets(vector, "ak_public_tpm2b_b64")))
    told: dict[str, Any] = {
        "attest": octets(vector, "attest_b64"),
        "signature": octets(vector, "signature_b64"),
        "qualifying_data": quote.extra_data,
        "selection": {"sha256": (15, 16, 22)},
        "pcrs": {"sha256": {15: bytes(32), 16: bytes(32), 22: bytes(32)}},
    }
    # The signature, the nonce and the selection are right: what is left is the digest of the values made up here.
    with pytest.raises(PcrDigestMismatch):
        verify_quote(ak, **told)
    with pytest.raises(AttestationSignatureWrong):
        verify_quote(ak, **{**told, "attest": told["attest"][:-1] + b"\0"})


def test_keylime_names() -> None:
    vector, verdict = load("keylime-ak-name"), expected("keylime-ak-name")
    ak = vet_ak(area(octets(vector, "ak_pub_file_b64")))
    assert ak.name.hex() == vector["ak_name_hex"] == verdict["computed_name"]
    assert check_ek_template(parse_public(area(octets(vector, "ek_pub_file_b64")))) == "L-1"


def test_gce_quotes() -> None:
    vector, verdict = load("gotpmtools-gce-cos-85-nonce9009"), expected("gotpmtools-gce-cos-85-nonce9009")
    ak = recall_ak(octets(vector, "ak_public_tpmt_b64"))
    assert ak.name.hex() == verdict["ak_name"]
    assert [entry["bank"] for entry in vector["quotes"]] == ["sha1", "sha256", "sha384"]
    for entry in vector["quotes"]:
        bank = entry["bank"]
        pcrs = read_pcrs({"pcrs": {bank: entry["pcrs"]}})
        told: dict[str, Any] = {
            "attest": octets(entry, "attest_b64"),
            "signature": octets(entry, "signature_b64"),
            "qualifying_data": bytes.fromhex("9009"),
            "selection": {bank: tuple(range(24))},
            "pcrs": pcrs,
        }
        verified = verify_quote(ak, **told, allow_sha1=True)
        assert dict(verified.pcrs[bank]) == pcrs[bank]
        if bank == "sha1":
            with pytest.raises(Sha1BankRefused):
                verify_quote(ak, **told)
        less = {bank: {index: value for index, value in pcrs[bank].items() if index != 7}}
        with pytest.raises(PcrValuesMismatch):
            verify_quote(ak, **{**told, "pcrs": less}, allow_sha1=True)


def test_a_windows_quote_by_sha1_is_right_and_refused_by_policy() -> None:
    """Valid in its time, but the key signs by SHA-1: it never becomes an attestation key here."""
    vector, verdict = load("goattest-windows_gcp_shielded_vm"), expected("goattest-windows_gcp_shielded_vm")
    public = parse_public(octets(vector, "ak_public_tpmt_b64"))
    assert public.name.hex() == verdict["ak_name"]
    with pytest.raises(AkHashWeak):
        vet_ak(public.area)
    quote = parse_quote(octets(vector, "attest_b64"))
    assert_as_listed(quote, verdict["attest"])
    signature = parse_signature(octets(vector, "signature_b64"))
    assert (signature.scheme, signature.hash.name) == (Alg.RSASSA, verdict["sig_hash"])
    assert digest_of(quote, read_pcrs(vector), "sha1") == quote.digest
    # Were the key vouched for all the same: the signature holds, and an empty nonce answers no challenge.
    told: dict[str, Any] = {
        "attest": octets(vector, "attest_b64"),
        "signature": octets(vector, "signature_b64"),
        "qualifying_data": b"",
        "selection": {"sha1": tuple(range(24))},
        "pcrs": read_pcrs(vector),
        "allow_sha1": True,
    }
    with pytest.raises(NonceMismatch):
        verify_quote(VerifiedAk(public), **told)
    with pytest.raises(AttestationSignatureWrong):
        verify_quote(VerifiedAk(public), **{**told, "attest": told["attest"][:-1] + b"\0"})
    with pytest.raises(AttestationTypeWrong):
        parse_quote(octets(vector, "creation_attest_b64"))


def test_a_certify_creation_is_no_certification() -> None:
    """A real AK certifies itself by TPM2_CertifyCreation: the Name is right, and the protocol wants TPM2_Certify."""
    vector, verdict = load("attezt-ntc-certifycreation"), expected("attezt-ntc-certifycreation")
    ak = recall_ak(octets(vector, "public"))
    assert ak.name.hex() == verdict["attest"]["objectName"]
    with pytest.raises(AttestationTypeWrong) as refused:
        verify_certified_key(
            ak,
            public=octets(vector, "public"),
            attest=octets(vector, "createAttestation"),
            signature=octets(vector, "createSignature"),
            qualifying_data=b"nonce",
        )
    assert refused.value.seen == f"0x{verdict['attest']['type']:04x}"


def test_make_credential_as_go_tpm_makes_it_with_zeros_for_randomness() -> None:
    """go-tpm takes a seed of 16 octets where Part 1, annex B.10.4 has a digest's size; TPMs take both."""
    vector = load("gotpm-makecredential-rsa")
    key = load_pem_public_key(vector["ek_public_pem"].encode())
    assert isinstance(key, rsa.RSAPublicKey)
    ek = parse_public(_template_l1(key))
    assert check_ek_template(ek) == "L-1"
    seed, name = bytes(16), bytes.fromhex(vector["ak_name_hex"])
    blob = protect(ek, seed=seed, name=name, secret=bytes.fromhex(vector["credential_hex"]))
    secret = sized(encrypt_oaep(key, HASHES[Alg.SHA256], seed, entropy=bytes))
    assert blob + secret == octets(vector, "credentialBlob_plus_secret_b64")


def _template_l1(key: rsa.RSAPublicKey) -> bytes:
    """A TPMT_PUBLIC by template L-1 around a key of which only the PEM form is known."""
    head = bytes.fromhex("0001000b000300b2") + sized(POLICY_A_SHA256)
    return head + bytes.fromhex("000600800043 0010 0800 00000000") + sized(key.public_numbers().n.to_bytes(256, "big"))
