"""Signatures appended to files, as modules have them and IMA lists tell them (`ima-modsig`).

RFC 5652, section 5 (SignedData, detached: the content is the file without its signature, of which the list gives the
digest). Linux 6.10, scripts/sign-file.c: no signed attributes, the signer named by issuer and serial number or by key
identifier; security/integrity/ima/ima_modsig.c. Other tools sign attributes (section 5.4), which works here too.

The certificates that may come along are not looked at: who may sign is in the keyrings, and nowhere else.
Everything read here is untrusted. `verify_appended_signature` tells who signed, or raises the error that names why not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import rsa

from attestd.tpm.der import (
    INTEGER,
    OCTETS,
    OID,
    SEQUENCE,
    SET,
    Element,
    MalformedCertificate,
    children,
    expect,
    read_oid,
    shown_name,
    whole,
)
from attestd.tpm.imasignatures import (
    HASHLIB_NAMES,
    FileKey,
    FileSignatureHashWrong,
    FileSignatureWrong,
    FileSignerUnknown,
    Keyring,
    MalformedFileSignature,
)
from attestd.tpm.imatemplates import FileDigest

MAX_APPENDED = 64 * 1024  # octets; certificates may come along
MAX_SIGNERS = 4

_SIGNED_DATA = "1.2.840.113549.1.7.2"
_DATA = bytes.fromhex("06092a864886f70d010701")  # id-data, 1.2.840.113549.1.7.1, encoded
_CONTENT_TYPE, _MESSAGE_DIGEST = "1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4"
_HASHES = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.4": "sha224",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
    "2.16.840.1.101.3.4.2.8": "sha3-256",
    "2.16.840.1.101.3.4.2.9": "sha3-384",
    "2.16.840.1.101.3.4.2.10": "sha3-512",
}
# Signature algorithms: whether RSA, and the hash that they name, if any (RFC 8017, annex C; RFC 5758, section 3.2).
_ALGORITHMS: dict[str, tuple[bool, str | None]] = {
    "1.2.840.113549.1.1.1": (True, None),
    "1.2.840.113549.1.1.5": (True, "sha1"),
    "1.2.840.113549.1.1.14": (True, "sha224"),
    "1.2.840.113549.1.1.11": (True, "sha256"),
    "1.2.840.113549.1.1.12": (True, "sha384"),
    "1.2.840.113549.1.1.13": (True, "sha512"),
    "1.2.840.10045.2.1": (False, None),
    "1.2.840.10045.4.1": (False, "sha1"),
    "1.2.840.10045.4.3.1": (False, "sha224"),
    "1.2.840.10045.4.3.2": (False, "sha256"),
    "1.2.840.10045.4.3.3": (False, "sha384"),
    "1.2.840.10045.4.3.4": (False, "sha512"),
}


@dataclass(frozen=True, slots=True)
class _Signer:
    """One SignerInfo."""

    identifier: bytes | None
    issuer_and_serial: tuple[bytes, int] | None
    hash: str
    attributes: Element | None
    algorithm: str
    signature: bytes

    @property
    def shown(self) -> str:
        """For people."""
        if self.issuer_and_serial is None:
            return f"a key of the identifier {(self.identifier or b'').hex()[:80]}"
        issuer, serial = self.issuer_and_serial
        return f"the serial number {serial} of {shown_name(issuer)}"[:300]

    def is_named(self, key: FileKey) -> bool:
        if self.identifier is not None:
            return self.identifier in key.identifiers
        return self.issuer_and_serial is not None and self.issuer_and_serial == key.issuer_and_serial


def verify_appended_signature(
    cms: bytes, digest: FileDigest, keyrings: Iterable[Keyring], *, allowed: frozenset[str]
) -> FileKey:
    """The key of these keyrings that signed the file of which this is the digest. `allowed`: hashes that count.

    Raises MalformedFileSignature, or the error that names the check that failed; with several signers, the last one's.
    """
    if len(cms) > MAX_APPENDED:
        raise MalformedFileSignature(seen=f"{len(cms)} octets", expected=f"at most {MAX_APPENDED}")
    try:
        signers = _parse(cms)
        rings, refused = tuple(keyrings), None
        for signer in signers:
            try:
                return _verify(signer, digest, rings, allowed)
            except (FileSignatureHashWrong, FileSignerUnknown, FileSignatureWrong) as error:
                refused = error
    except MalformedCertificate as error:
        raise MalformedFileSignature("An appended signature is not CMS SignedData.", seen=str(error)[:200]) from None
    raise refused or FileSignerUnknown(seen="a signature without a signer")


def _verify(signer: _Signer, digest: FileDigest, keyrings: tuple[Keyring, ...], allowed: frozenset[str]) -> FileKey:
    # 1. It is by the digest's own hash, and by one that counts.
    if (signer.hash, digest.kind) != (digest.algorithm, "ima"):
        raise FileSignatureHashWrong(seen=signer.hash, expected=digest.text.rpartition(":")[0])
    if signer.hash not in allowed:
        raise FileSignatureHashWrong("Signatures by this hash do not count here.", seen=signer.hash)
    # 2. It is over the digest, or over attributes that hold it (RFC 5652, section 5.4).
    signed = digest.value
    if signer.attributes is not None:
        signed = _over_attributes(signer.attributes, signer.hash, digest)
    # 3. A key that counts is named, can sign so, and signed.
    is_rsa, named_hash = _ALGORITHMS.get(signer.algorithm, (False, "unknown"))
    if named_hash not in (None, signer.hash):
        raise FileSignatureHashWrong(seen=signer.algorithm, expected=signer.hash)
    wrong: FileSignatureWrong | None = None
    for key in (key for keyring in keyrings for key in keyring.keys if signer.is_named(key)):
        if isinstance(key.public, rsa.RSAPublicKey) is is_rsa:
            try:
                key.verify(signer.signature, signed, signer.hash)
            except FileSignatureWrong as error:
                wrong = error
            else:
                return key
    raise wrong or FileSignerUnknown(seen=signer.shown)


def _over_attributes(attributes: Element, algorithm: str, digest: FileDigest) -> bytes:
    """The hash of the signed attributes, which must hold the digest and the content's type, each once."""
    found: dict[str, list[bytes]] = {}
    for attribute in children(attributes):
        kind, values = expect(children(attribute), OID, SET)
        found.setdefault(read_oid(kind.content), []).extend(value.raw for value in children(values))
    if found.get(_MESSAGE_DIGEST) != [bytes((OCTETS, len(digest.value))) + digest.value]:
        raise FileSignatureWrong("A signature's attributes hold another digest than the file's.")
    if found.get(_CONTENT_TYPE) != [_DATA]:
        raise FileSignatureWrong("A signature's attributes are of another content type than a file's.")
    raw = bytes((SET,)) + attributes.raw[1:]  # signed as what they are, a SET OF, not by their place
    return hashlib.new(HASHLIB_NAMES.get(algorithm, algorithm), raw).digest()


def _parse(cms: bytes) -> list[_Signer]:
    """The signers of detached data. Raises MalformedCertificate and MalformedFileSignature."""
    kind, wrapped = expect(children(_sequence(whole(cms))), OID, 0xA0)
    if read_oid(kind.content) != _SIGNED_DATA:
        raise MalformedFileSignature("An appended signature is not CMS SignedData.", seen=read_oid(kind.content))
    parts = _at_least(children(_sequence(whole(wrapped.content))), 4)
    _, content, signer_set = expect((parts[0], parts[2], parts[-1]), INTEGER, SEQUENCE, SET)
    content_type, *inner = _at_least(children(content), 1)
    if content_type.raw != _DATA or inner:
        raise MalformedFileSignature("An appended signature is of something else than the file that it stands in.")
    signers = children(signer_set)
    if not 1 <= len(signers) <= MAX_SIGNERS:
        raise MalformedFileSignature(seen=f"{len(signers)} signers", expected=f"1 to {MAX_SIGNERS}")
    return [_signer(signer) for signer in signers]


def _sequence(found: Element) -> Element:
    expect((found,), SEQUENCE)
    return found


def _signer(info: Element) -> _Signer:
    version, sid, hash_algorithm, *rest = _at_least(children(_sequence(info)), 5)
    expect((version, hash_algorithm), INTEGER, SEQUENCE)
    attributes = rest.pop(0) if rest[0].tag == 0xA0 else None
    algorithm, signature = expect(_at_least(rest, 2)[:2], SEQUENCE, OCTETS)
    identifier, issuer_and_serial = None, None
    if sid.tag == 0x80:
        identifier = sid.content
    else:
        issuer, serial = expect(children(_sequence(sid)), SEQUENCE, INTEGER)
        if len(serial.content) > 64:
            raise MalformedFileSignature("A signer's serial number is too long.", seen=f"{len(serial.content)} octets")
        issuer_and_serial = (issuer.raw, int.from_bytes(serial.content, "big", signed=True))
    hash_oid = _algorithm(hash_algorithm)
    return _Signer(
        identifier,
        issuer_and_serial,
        _HASHES.get(hash_oid, hash_oid),
        attributes,
        _algorithm(algorithm),
        signature.content,
    )


def _at_least(items: list[Element], count: int) -> list[Element]:
    if len(items) < count:
        raise MalformedFileSignature("A part of an appended signature is missing.", seen=f"{len(items)}")
    return items


def _algorithm(identifier: Element) -> str:
    (kind, *_) = _at_least(children(identifier), 1)
    expect((kind,), OID)
    return read_oid(kind.content)
