"""Signatures of files as IMA lists have them: `security.ima` digests that a key of some keyring signed.

Linux 6.10, security/integrity: integrity.h (signature_v2_hdr, ima_file_id, evm_ima_xattr_type), digsig_asymmetric.c
(how a key is found: by the last four octets of its identifier; PKCS #1 v1.5 for RSA, X9.62 for ECDSA), ima_appraise.c,
calc_file_id_hash (what version 3 signs). ima-evm-utils, src/libimaevm.c: a key without an identifier of its own has
the SHA-1 of its public key (RFC 5280, section 4.2.1.2, method 1).

The header: type (3: over the file's digest; 6: over an fs-verity digest), version, the hash's number, four octets of
the key's identifier, the signature's size, all big-endian. Version 2 signs the digest itself; version 3 the hash of
type, hash number and digest, so that one kind can't stand for the other. A certificate's dates do not count, as they do
not for the kernel's keyrings: who no longer trusts a key takes it out.

Everything read here is untrusted. `verify_file_signature` tells who signed, or raises the error that names why not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from struct import Struct
from types import MappingProxyType
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from attestd.errors import EvidenceRefused, MalformedInput
from attestd.tpm.der import MalformedCertificate, children, whole
from attestd.tpm.imatemplates import HASH_BY_NUMBER, FileDigest

MAX_SIGNATURE = 2048  # octets of security.ima
MAX_KEY = 16 * 1024  # octets of a certificate or a public key
MIN_RSA_BITS = 2048
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)  # those of the kernel that are still sound

# security.ima's first octet (enum evm_ima_xattr_type).
_DIGSIG, _PORTABLE, _VERITY = 3, 5, 6
_HEADER = Struct(">BBBIH")

# The hashes by which a signature is believed at all; which of them a policy believes is the policy's word.
SIGNING_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = MappingProxyType(
    {
        "sha1": hashes.SHA1(),  # noqa: S303
        "sha224": hashes.SHA224(),
        "sha256": hashes.SHA256(),
        "sha384": hashes.SHA384(),
        "sha512": hashes.SHA512(),
        "sha3-256": hashes.SHA3_256(),
        "sha3-384": hashes.SHA3_384(),
        "sha3-512": hashes.SHA3_512(),
    }
)
HASHLIB_NAMES = {"sha3-256": "sha3_256", "sha3-384": "sha3_384", "sha3-512": "sha3_512"}

# What `cryptography` raises for certificates, besides ValueError and TypeError.
_ODD_CERTIFICATES = (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, IndexError)

FilePublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class UnusableFileKey(MalformedInput):
    """A key for file signatures can't be used"""

    remedy = "Give an X.509 certificate or a public key, in PEM or DER: RSA of 2048 bits or more, or P-256, 384, 521."


class MalformedFileSignature(MalformedInput):
    """A file's signature can't be read"""

    remedy = "Sign the file anew: `evmctl ima_sign`, or `sign-file` for a module."


class FileSignatureKindWrong(EvidenceRefused):
    """The signature is of a kind that says nothing of this digest"""

    remedy = "Sign the file's own digest: `evmctl ima_sign`, with --veritysig for fs-verity."


class FileSignatureHashWrong(EvidenceRefused):
    """The signature is by another hash than the file's digest"""

    remedy = "Measure and sign by the same hash: `ima_hash=` on the kernel's command line, --hashalgo of evmctl."


class FileSignerUnknown(EvidenceRefused):
    """The signer's key is in no keyring that counts here"""

    remedy = "Add the signer's certificate to the policy's keyring, if it may sign these files."


class FileSignatureWrong(EvidenceRefused):
    """The signature is not the key's over this digest"""


@dataclass(frozen=True, slots=True)
class FileKey:
    """A key that may sign files. Its identifiers are what signatures name it by; they prove nothing themselves."""

    public: FilePublicKey
    identifiers: tuple[bytes, ...]  # of 20 octets mostly; the last four count in `security.ima`
    name: str  # for people: the certificate's subject, or the key's identifier
    issuer_and_serial: tuple[bytes, int] | None = None  # as modules' signatures name their signer

    @classmethod
    def load(cls, data: bytes) -> Self:
        """From a certificate or a public key, PEM or DER. Raises UnusableFileKey."""
        if len(data) > MAX_KEY:
            raise UnusableFileKey(seen=f"{len(data)} octets", expected=f"at most {MAX_KEY}")
        certificate: x509.Certificate | None = None
        try:
            if data.lstrip().startswith(b"-----BEGIN CERTIFICATE"):
                certificate = x509.load_pem_x509_certificate(data)
            elif data.lstrip().startswith(b"-----BEGIN"):
                return cls._of(load_pem_public_key(data))
            else:
                try:
                    return cls._of(load_der_public_key(data))
                except ValueError:
                    certificate = x509.load_der_x509_certificate(data)
            return cls._of(certificate.public_key(), certificate)
        except UnusableFileKey:
            raise
        except (ValueError, TypeError, UnsupportedAlgorithm, *_ODD_CERTIFICATES, MalformedCertificate):
            raise UnusableFileKey(seen=f"{len(data)} octets that are neither a certificate nor a public key") from None

    @classmethod
    def _of(cls, public: object, certificate: x509.Certificate | None = None) -> Self:
        if isinstance(public, rsa.RSAPublicKey):
            if public.key_size < MIN_RSA_BITS:
                raise UnusableFileKey(seen=f"RSA of {public.key_size} bits")
        elif not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, _CURVES):
            raise UnusableFileKey(seen=getattr(getattr(public, "curve", None), "name", type(public).__name__))
        own = _identifier(public)
        if certificate is None:
            return cls(public, (own,), own.hex())
        named: tuple[bytes, ...] = ()
        with suppress(x509.ExtensionNotFound):
            named = (certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest,)
        return cls(
            public,
            tuple(dict.fromkeys((*named, own))),
            certificate.subject.rfc4514_string()[:240] or own.hex(),
            _issuer_and_serial(certificate),
        )

    def verify(self, signature: bytes, digest: bytes, algorithm: str) -> None:
        """Raises FileSignatureWrong."""
        hashed = Prehashed(SIGNING_HASHES[algorithm])
        try:
            if isinstance(self.public, rsa.RSAPublicKey):
                self.public.verify(signature, digest, padding.PKCS1v15(), hashed)
            else:
                self.public.verify(signature, digest, ec.ECDSA(hashed))
        except (InvalidSignature, ValueError):
            raise FileSignatureWrong(seen=f"a signature said to be by {self.name}") from None


def _issuer_and_serial(certificate: x509.Certificate) -> tuple[bytes, int]:
    """The issuer's name in the certificate's own octets, and the serial number."""
    parts = children(whole(certificate.tbs_certificate_bytes))
    return parts[3 if parts[0].tag == 0xA0 else 2].raw, certificate.serial_number


def _identifier(public: FilePublicKey) -> bytes:
    """The SHA-1 of the subjectPublicKey's bits (RFC 5280, section 4.2.1.2): a name, not a proof of anything."""
    if isinstance(public, rsa.RSAPublicKey):
        bits = public.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    else:
        bits = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return hashlib.sha1(bits, usedforsecurity=False).digest()


class Keyring:
    """Keys that may sign files, by what signatures name them by. Never changes: `with_key` makes another one."""

    __slots__ = ("_by_last_four", "keys")

    def __init__(self, keys: Iterable[FileKey] = ()) -> None:
        self.keys = tuple(keys)
        by_last_four: dict[bytes, list[FileKey]] = {}
        for key in self.keys:
            for last_four in dict.fromkeys(identifier[-4:] for identifier in key.identifiers):
                by_last_four.setdefault(last_four, []).append(key)
        self._by_last_four = by_last_four

    def with_key(self, key: FileKey) -> Keyring:
        return Keyring((*self.keys, key))

    def named(self, last_four: bytes) -> list[FileKey]:
        """The keys whose identifier ends so: mostly one or none."""
        return self._by_last_four.get(last_four, [])


def verify_file_signature(
    signature: bytes, digest: FileDigest, keyrings: Iterable[Keyring], *, allowed: frozenset[str]
) -> FileKey:
    """The key of these keyrings that signed this digest: `signature` is `security.ima`. `allowed`: hashes that count.

    Raises MalformedFileSignature, or the error that names the check that failed.
    """
    # 1. Read the header, to the signature's last octet.
    if not _HEADER.size < len(signature) <= MAX_SIGNATURE:
        raise MalformedFileSignature(seen=f"{len(signature)} octets", expected=f"{_HEADER.size + 1} to {MAX_SIGNATURE}")
    kind, version, number, key_id, size = _HEADER.unpack_from(signature)
    value = signature[_HEADER.size :]
    # 2. It is of the kind that this digest takes: an EVM signature, say, is over other things.
    if (kind, digest.kind) not in ((_DIGSIG, "ima"), (_VERITY, "verity")):
        raise FileSignatureKindWrong(
            seen=f"type {kind} for a digest of the kind {digest.kind}"
            + (", an EVM portable signature" if kind == _PORTABLE else "")
        )
    if version not in ((2, 3) if kind == _DIGSIG else (3,)):
        raise FileSignatureKindWrong(seen=f"version {version} of type {kind}")
    if size != len(value):
        raise MalformedFileSignature(seen=f"{len(value)} octets of signature", expected=f"{size} by its header")
    # 3. It is by the digest's own hash, and by one that counts.
    algorithm = HASH_BY_NUMBER[number] if number < len(HASH_BY_NUMBER) else f"hash {number}"
    if algorithm != digest.algorithm:
        raise FileSignatureHashWrong(seen=algorithm, expected=digest.algorithm)
    if algorithm not in allowed or algorithm not in SIGNING_HASHES:
        raise FileSignatureHashWrong("Signatures by this hash do not count here.", seen=algorithm)
    # 4. A key that counts is named, and signed.
    signed = digest.value
    if version == 3:
        signed = hashlib.new(HASHLIB_NAMES.get(algorithm, algorithm), bytes((kind, number)) + signed).digest()
    wrong: FileSignatureWrong | None = None
    for keyring in keyrings:
        for key in keyring.named(key_id.to_bytes(4, "big")):
            try:
                key.verify(value, signed, algorithm)
            except FileSignatureWrong as error:
                wrong = error
            else:
                return key
    if wrong is not None:
        raise wrong
    raise FileSignerUnknown(seen=f"a key whose identifier ends in {key_id:08x}")
