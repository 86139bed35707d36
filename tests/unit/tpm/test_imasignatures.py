"""Signatures of files: who signed, and each lie in a header, a digest or a key."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.tpm.imasignatures import (
    MAX_SIGNATURE,
    FileKey,
    FileSignatureHashWrong,
    FileSignatureKindWrong,
    FileSignatureWrong,
    FileSignerUnknown,
    Keyring,
    MalformedFileSignature,
    UnusableFileKey,
    verify_file_signature,
)
from attestd.tpm.imatemplates import FileDigest
from tests import ima_lists as w
from tests.ek_ca import ec_key, rsa_key

KEYS: dict[str, w.PrivateKey] = {
    "rsa": rsa_key("file signer"),
    "p256": ec_key("file signer"),
    "p384": ec_key("file signer", ec.SECP384R1),
    "p521": ec_key("file signer", ec.SECP521R1),
}
every_key = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
KEY = KEYS["p256"]
OTHER = ec_key("another")
VALUE = w.digest_of(b"content")
DIGEST = FileDigest("sha256", VALUE)
VERITY = FileDigest("sha256", VALUE, "verity")
ALLOWED = frozenset({"sha256", "sha384", "sha512", "sha3-256"})


def public(key: w.PrivateKey, encoding: Encoding = Encoding.DER) -> bytes:
    return key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


def ring(*keys: w.PrivateKey) -> Keyring:
    return Keyring(FileKey.load(public(key)) for key in keys)


def verify(
    signature: bytes, digest: FileDigest = DIGEST, *rings: Keyring, allowed: frozenset[str] = ALLOWED
) -> FileKey:
    return verify_file_signature(signature, digest, rings or (ring(*KEYS.values()),), allowed=allowed)


# ---- Accepted -----------------------------------------------------------------------------------------------------


@every_key
@pytest.mark.parametrize("algorithm", sorted(ALLOWED))
def test_the_signer_is_told(key: w.PrivateKey, algorithm: str) -> None:
    value = w.digest_of(b"content", algorithm)
    signer = verify(w.sign(key, value, algorithm), FileDigest(algorithm, value))
    assert signer == FileKey.load(public(key))
    assert signer.name == w.key_id(key).hex()


@every_key
@pytest.mark.parametrize("kind", [3, 6])
def test_version_3_signs_what_is_signed_too(key: w.PrivateKey, kind: int) -> None:
    digest = VERITY if kind == 6 else DIGEST
    assert verify(w.sign(key, VALUE, version=3, kind=kind), digest)


def test_a_key_goes_by_its_certificates_identifier_or_by_its_own() -> None:
    key = FileKey.load(w.certificate(KEY))
    assert key.name == "CN=modules"
    for identifier in key.identifiers:
        assert verify(w.sign(KEY, VALUE, key_id=identifier[-4:]), DIGEST, Keyring([key]))
    assert w.key_id(KEY) in key.identifiers


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
def test_keys_are_loaded_from_either_form(encoding: Encoding) -> None:
    certificate = x509.load_der_x509_certificate(w.certificate(KEY))
    assert FileKey.load(certificate.public_bytes(encoding)).public == KEY.public_key()
    assert FileKey.load(public(KEY, encoding)).public == KEY.public_key()


def test_two_keys_of_the_same_last_octets() -> None:
    """Four octets name, and do not decide: each key that they name is tried."""
    first = FileKey.load(public(OTHER))
    twin = FileKey(first.public, (b"x" * 16 + w.key_id(KEY)[-4:],), "twin")
    for keys in ([twin, FileKey.load(public(KEY))], [FileKey.load(public(KEY)), twin]):
        assert verify(w.sign(KEY, VALUE), DIGEST, Keyring(keys)).public == KEY.public_key()
    with pytest.raises(FileSignatureWrong):
        verify(w.sign(KEY, VALUE), DIGEST, Keyring([twin]))


def test_any_of_several_keyrings_will_do() -> None:
    assert verify(w.sign(KEY, VALUE), DIGEST, ring(OTHER), ring(KEY))
    assert ring(OTHER).with_key(FileKey.load(public(KEY))).keys == ring(OTHER, KEY).keys


# ---- Refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lies", "error"),
    [
        ({"signed": w.digest_of(b"evil")}, FileSignatureWrong),
        ({"kind": 2}, FileSignatureKindWrong),
        ({"kind": 5}, FileSignatureKindWrong),
        ({"kind": 6}, FileSignatureKindWrong),
        ({"version": 1}, FileSignatureKindWrong),
        ({"version": 4}, FileSignatureKindWrong),
        ({"number": 5}, FileSignatureHashWrong),
        ({"number": 200}, FileSignatureHashWrong),
        ({"size": 3}, MalformedFileSignature),
        ({"key_id": b"\0\0\0\0"}, FileSignerUnknown),
        ({"key_id": w.key_id(KEYS["rsa"])[-4:]}, FileSignatureWrong),
    ],
    ids=[
        "another digest", "type 2", "type 5", "type 6", "version 1", "version 4", "another hash", "an unknown hash",
        "another size", "an unknown key", "another key's identifier",
    ],
)  # fmt: skip
def test_one_lie_in_a_signature(lies: dict[str, Any], error: type[Exception]) -> None:
    assert verify(w.sign(KEY, VALUE))
    version = lies.pop("version", 2)
    with pytest.raises(error):
        verify(w.sign(KEY, VALUE, version=version, **lies))


@every_key
def test_another_file(key: w.PrivateKey) -> None:
    with pytest.raises(FileSignatureWrong):
        verify(w.sign(key, VALUE), FileDigest("sha256", w.digest_of(b"evil")))


def test_a_flipped_bit_anywhere_is_noticed() -> None:
    signature = w.sign(KEYS["rsa"], VALUE)
    for at in range(0, len(signature), 5):
        changed = signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]
        with pytest.raises(
            (
                FileSignatureWrong,
                FileSignatureKindWrong,
                FileSignatureHashWrong,
                FileSignerUnknown,
                MalformedFileSignature,
            )
        ):
            verify(changed)


def test_one_kind_does_not_stand_for_the_other() -> None:
    """fs-verity digests and digests of data look alike: type and version keep their signatures apart."""
    assert verify(w.sign(KEY, VALUE, version=3), VERITY)
    with pytest.raises(FileSignatureKindWrong):
        verify(w.sign(KEY, VALUE, version=3), DIGEST)
    with pytest.raises(FileSignatureKindWrong):
        verify(w.sign(KEY, VALUE), VERITY)
    with pytest.raises(FileSignatureKindWrong):
        verify(w.sign(KEY, VALUE, kind=6), VERITY)  # version 2 of the verity type
    with pytest.raises(FileSignatureWrong):
        verify(w.sign(KEY, VALUE, version=3, signed_kind=3), VERITY)
    with pytest.raises(FileSignatureWrong):
        verify(w.sign(KEY, VALUE, version=3, signed=w.digest_of(b"evil")), VERITY)


def test_hashes_that_do_not_count() -> None:
    value = w.digest_of(b"content", "sha1")
    digest = FileDigest("sha1", value)
    with pytest.raises(FileSignatureHashWrong):
        verify(w.sign(KEY, value, "sha1"), digest)
    assert verify(w.sign(KEY, value, "sha1"), digest, allowed=frozenset({"sha1"}))
    md5 = FileDigest("md5", bytes(16))
    with pytest.raises(FileSignatureHashWrong):  # named by a policy, and by no key of ours to be verified
        verify(w.sign(KEY, VALUE, number=1), md5, allowed=frozenset({"md5"}))


def test_no_keyring_and_an_empty_one() -> None:
    for rings in ((), (Keyring(),)):
        with pytest.raises(FileSignerUnknown):
            verify_file_signature(w.sign(KEY, VALUE), DIGEST, rings, allowed=ALLOWED)


@pytest.mark.parametrize(
    "signature",
    [b"", b"\3", b"\3\2\4" + bytes(6), b"\3\2\4" + bytes(4) + struct.pack(">H", MAX_SIGNATURE) + bytes(MAX_SIGNATURE)],
)
def test_signatures_of_impossible_sizes(signature: bytes) -> None:
    with pytest.raises(MalformedFileSignature):
        verify(signature)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b"\x30\x82\xff\xff",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        public(KEY, Encoding.PEM) + b"\n" * 20_000,
        public(rsa.generate_private_key(65537, 1024)),
        public(ec.generate_private_key(ec.SECP256K1())),
        ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        dsa.generate_private_key(1024).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=[
        "nothing", "nonsense", "cut", "no key in PEM", "no certificate in PEM", "large", "RSA of 1024 bits",
        "secp256k1", "Ed25519", "DSA",
    ],
)  # fmt: skip
def test_keys_that_can_not_be_used(data: bytes) -> None:
    with pytest.raises(UnusableFileKey):
        FileKey.load(data)
