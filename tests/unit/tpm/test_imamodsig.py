"""Signatures appended to files: as `cryptography` and sign-file write them, and each lie in their CMS."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from attestd.tpm.imamodsig import MAX_APPENDED, verify_appended_signature
from attestd.tpm.imasignatures import (
    FileKey,
    FileSignatureHashWrong,
    FileSignatureWrong,
    FileSignerUnknown,
    Keyring,
    MalformedFileSignature,
)
from attestd.tpm.imatemplates import FileDigest
from tests import ima_lists as w
from tests.ek_ca import der, ec_key, integer, oid, rsa_key, seq

CONTENT = b"a kernel module"
DIGEST = FileDigest("sha256", w.digest_of(CONTENT))
ALLOWED = frozenset({"sha256", "sha384", "sha512"})
KEYS: dict[str, w.PrivateKey] = {"rsa": rsa_key("modules"), "p256": ec_key("modules")}
every_key = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
KEY = KEYS["p256"]
DETACHED, BINARY, BARE, NO_CERTIFICATES = (
    pkcs7.PKCS7Options.DetachedSignature,
    pkcs7.PKCS7Options.Binary,
    pkcs7.PKCS7Options.NoAttributes,
    pkcs7.PKCS7Options.NoCerts,
)
SHA256, SHA384 = "2.16.840.1.101.3.4.2.1", "2.16.840.1.101.3.4.2.2"
DATA, SIGNED_DATA = "1.2.840.113549.1.7.1", "1.2.840.113549.1.7.2"
RSA, ECDSA_SHA256, ECDSA_SHA384 = "1.2.840.113549.1.1.1", "1.2.840.10045.4.3.2", "1.2.840.10045.4.3.3"


def ring(*certificates: bytes) -> Keyring:
    return Keyring(FileKey.load(one) for one in certificates)


RING = ring(*map(w.certificate, KEYS.values()))


def verify(cms: bytes, digest: FileDigest = DIGEST, *rings: Keyring, allowed: frozenset[str] = ALLOWED) -> FileKey:
    return verify_appended_signature(cms, digest, rings or (RING,), allowed=allowed)


def by_library(key: w.PrivateKey, *options: pkcs7.PKCS7Options, algorithm: Any = None, name: str = "modules") -> bytes:
    signer = x509.load_der_x509_certificate(w.certificate(key, name))
    builder = pkcs7.PKCS7SignatureBuilder().set_data(CONTENT).add_signer(signer, key, algorithm or hashes.SHA256())
    return builder.sign(Encoding.DER, [DETACHED, BINARY, *options])


def cms(key: w.PrivateKey = KEY, **lies: Any) -> bytes:
    """As sign-file writes it with key identifiers: one signer, no attributes, no certificates."""
    signed = lies.get("signed", DIGEST.value)
    attributes = b""
    if "attributes" in lies:
        content = b"".join(lies["attributes"])
        attributes = der(0xA0, content)
        signed = hashlib.sha256(der(0x31, content)).digest()
    value = w.raw_signature(key, signed, lies.get("signing_hash", "sha256"))
    algorithm = lies.get("algorithm", RSA if key is KEYS["rsa"] else ECDSA_SHA256)
    info = seq(
        integer(3),
        lies.get("sid", der(0x80, w.key_id(key))),
        seq(oid(lies.get("hash", SHA256))),
        attributes,
        seq(oid(algorithm)),
        der(0x04, value),
    )
    signers = lies.get("signers", [info])
    content = lies.get("content", seq(oid(DATA)))
    body = seq(integer(3), der(0x31, seq(oid(SHA256))), content, lies.get("certificates", b""), der(0x31, *signers))
    return seq(oid(lies.get("type", SIGNED_DATA)), der(0xA0, body))


def attribute(kind: str, *values: bytes) -> bytes:
    return seq(oid(kind), der(0x31, *values))


TYPE = attribute("1.2.840.113549.1.9.3", oid(DATA))
MESSAGE_DIGEST = attribute("1.2.840.113549.1.9.4", der(0x04, DIGEST.value))


# ---- Accepted -----------------------------------------------------------------------------------------------------


@every_key
@pytest.mark.parametrize("options", [(), (BARE,), (NO_CERTIFICATES,), (BARE, NO_CERTIFICATES)], ids=str)
def test_as_the_library_signs(key: w.PrivateKey, options: tuple[pkcs7.PKCS7Options, ...]) -> None:
    assert verify(by_library(key, *options)).public == key.public_key()


@every_key
def test_a_signer_by_key_identifier(key: w.PrivateKey) -> None:
    assert verify(cms(key)).public == key.public_key()


def test_signed_attributes() -> None:
    assert verify(cms(attributes=[TYPE, MESSAGE_DIGEST]))


def test_another_hash() -> None:
    digest = FileDigest("sha384", w.digest_of(CONTENT, "sha384"))
    assert verify(by_library(KEY, BARE, algorithm=hashes.SHA384()), digest)


def test_one_signer_of_several_will_do() -> None:
    stranger = cms(ec_key("stranger"))
    mine = cms()
    infos = [signers_of(stranger), signers_of(mine)]
    assert verify(cms(signers=infos))
    assert verify(cms(signers=infos[::-1]))
    with pytest.raises(FileSignerUnknown):
        verify(cms(signers=infos[:1] * 2))


def signers_of(data: bytes) -> bytes:
    """The one SignerInfo of a `cms`."""
    tail = data[data.rindex(seq(oid(DATA))) + len(seq(oid(DATA))) :]
    return tail[2:] if tail[1] < 0x80 else tail[2 + (tail[1] & 0x7F) :]


# ---- Refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lies", "error"),
    [
        ({"signed": w.digest_of(b"evil")}, FileSignatureWrong),
        ({"hash": SHA384}, FileSignatureHashWrong),
        ({"hash": "1.2.3"}, FileSignatureHashWrong),
        ({"algorithm": ECDSA_SHA384}, FileSignatureHashWrong),
        ({"algorithm": "1.2.840.113549.1.1.10"}, FileSignatureHashWrong),
        ({"algorithm": RSA}, FileSignerUnknown),
        ({"sid": der(0x80, w.key_id(KEYS["rsa"]))}, FileSignerUnknown),
        ({"sid": der(0x80, b"\0\0\0\0")}, FileSignerUnknown),
        ({"sid": der(0x80, w.key_id(KEY)[-4:])}, FileSignerUnknown),
        ({"sid": seq(seq(), integer(5))}, FileSignerUnknown),
        ({"sid": seq(seq(), integer(-5))}, FileSignerUnknown),
        ({"sid": seq(seq(), der(0x02, bytes(65)))}, MalformedFileSignature),
        ({"sid": seq(seq())}, MalformedFileSignature),
        ({"type": DATA}, MalformedFileSignature),
        ({"content": seq(oid(DATA), der(0xA0, der(0x04, CONTENT)))}, MalformedFileSignature),
        ({"content": seq()}, MalformedFileSignature),
        ({"content": seq(oid(SIGNED_DATA))}, MalformedFileSignature),
        ({"signers": []}, MalformedFileSignature),
        ({"signers": [signers_of(cms())] * 5}, MalformedFileSignature),
        ({"signers": [seq(integer(1))]}, MalformedFileSignature),
        ({"attributes": [TYPE]}, FileSignatureWrong),
        ({"attributes": [MESSAGE_DIGEST]}, FileSignatureWrong),
        ({"attributes": []}, FileSignatureWrong),
        ({"attributes": [TYPE, MESSAGE_DIGEST, MESSAGE_DIGEST]}, FileSignatureWrong),
        ({"attributes": [TYPE, attribute("1.2.840.113549.1.9.4", der(4, w.digest_of(b"x")))]}, FileSignatureWrong),
        ({"attributes": [attribute("1.2.840.113549.1.9.3", oid(SIGNED_DATA)), MESSAGE_DIGEST]}, FileSignatureWrong),
        ({"attributes": [integer(1)]}, MalformedFileSignature),
    ],
)
def test_one_lie_in_an_appended_signature(lies: dict[str, Any], error: type[Exception]) -> None:
    assert verify(cms())
    with pytest.raises(error):
        verify(cms(**lies))


@every_key
@pytest.mark.parametrize("options", [(), (BARE,)], ids=str)
def test_another_file(key: w.PrivateKey, options: tuple[pkcs7.PKCS7Options, ...]) -> None:
    with pytest.raises(FileSignatureWrong):
        verify(by_library(key, *options), FileDigest("sha256", w.digest_of(b"evil")))


def test_a_certificate_that_comes_along_is_nobody_to_trust() -> None:
    stranger = ec_key("stranger")
    with pytest.raises(FileSignerUnknown):
        verify(by_library(stranger, name="stranger"))
    assert verify(by_library(stranger, name="stranger"), DIGEST, ring(w.certificate(stranger, "stranger")))


def test_an_issuer_and_serial_number_of_another_key() -> None:
    """The name is right, and the key is not the one that signed."""
    other = w.certificate(ec_key("other"))
    assert FileKey.load(other).issuer_and_serial == FileKey.load(w.certificate(KEY)).issuer_and_serial
    with pytest.raises(FileSignatureWrong):
        verify(by_library(KEY, BARE), DIGEST, ring(other))
    assert verify(by_library(KEY, BARE), DIGEST, ring(other), ring(w.certificate(KEY)))


def test_hashes_that_do_not_count_and_verity_digests() -> None:
    with pytest.raises(FileSignatureHashWrong):
        verify(cms(), allowed=frozenset({"sha384"}))
    with pytest.raises(FileSignatureHashWrong):
        verify(cms(), FileDigest("sha256", DIGEST.value, "verity"))


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", b"\x30\x80\0\0", b"\x30\x84\xff\xff\xff\xff", seq(), bytes(MAX_APPENDED + 1)]
)
def test_what_is_no_cms(data: bytes) -> None:
    with pytest.raises(MalformedFileSignature):
        verify(data)


def test_certificates_that_come_along_are_bounded() -> None:
    assert verify(cms(certificates=der(0xA0, bytes(MAX_APPENDED - 2000))))
    with pytest.raises(MalformedFileSignature):
        verify(cms(certificates=der(0xA0, bytes(MAX_APPENDED))))


def test_a_flipped_bit_or_a_cut_anywhere_is_noticed() -> None:
    genuine = cms()
    refusals = (MalformedFileSignature, FileSignatureWrong, FileSignerUnknown, FileSignatureHashWrong)
    # Neither signed nor used: the versions, and the list of digest algorithms before the content's type.
    for at in range(len(genuine)):
        with pytest.raises(refusals):
            verify(genuine[:at])
        changed = genuine[:at] + bytes([genuine[at] ^ 1]) + genuine[at + 1 :]
        try:
            verify(changed)
        except refusals:
            continue
        assert genuine[at - 2 : at] == b"\x02\x01" or at < genuine.index(seq(oid(DATA)))
