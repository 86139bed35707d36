"""Keys that sign. The only private keys in the product's hands are in objects of this module and in `sealing`.

`Signer` is what issuing needs of a key; a token (`pkcs11`) can stand behind it as well as a file. Keys are P-256.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.keyfiles import read_public, read_secret
from attestd.ca.manifest import KeyState
from attestd.ca.unlocking import NOTHING, PassphraseWrong, Unlocking, is_encrypted
from attestd.credentials.jws import raw_signature
from attestd.errors import MalformedInput, Misconfigured
from attestd.ids import TrustDomain

MAX_PEM = 16 * 1024  # octets of a PEM file: far more than one P-256 key or certificate needs

_SHA256 = hashes.SHA256()
_ES256 = ec.ECDSA(_SHA256)


class KeyFileMalformed(Misconfigured):
    """A key file does not hold a P-256 key"""

    remedy = "Restore the file from the backup of this instance's folder."


class CertificateFileMalformed(Misconfigured):
    """A certificate file does not hold one certificate"""

    remedy = "Restore the file from the backup of this instance's folder."


class KeyMismatch(Misconfigured):
    """A key does not belong to its certificate"""

    remedy = "Restore both files from the same backup of this instance's folder."


class NotAnAuthority(Misconfigured):
    """The certificate names no trust domain that it may issue for"""

    remedy = "Restore the folder ca/ from the backup of this instance's folder."


class SigningKey(Protocol):
    """A P-256 key that signs, before or without a certificate: in a file or in a token."""

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""

    def sign_certificate(self, builder: x509.CertificateBuilder) -> bytes:
        """The built certificate, signed with ecdsa-with-SHA256, as DER."""

    def certified(self, certificate: x509.Certificate) -> Signer:
        """This key with the certificate that speaks for it. Raises KeyMismatch if it speaks for another."""


class TokenSigning(Protocol):
    """What access tokens need of a key."""

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""

    @property
    def thumbprint(self) -> str:
        """RFC 7638, base64url."""

    def sign(self, data: bytes) -> bytes:
        """An ES256 signature as r ‖ s."""


class Signer(Protocol):
    """A P-256 key with the certificate that speaks for it."""

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate of this key."""

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The certificate's key."""

    @property
    def subject(self) -> bytes:
        """The certificate's subject in DER: what certificates of this signer name as their issuer."""

    @property
    def key_identifier(self) -> bytes:
        """The certificate's subject key identifier (RFC 5280, section 4.2.1.2)."""

    @property
    def trust_domain(self) -> TrustDomain:
        """The trust domain that the certificate may issue for; a certificate that is no CA's has none."""

    def sign(self, data: bytes) -> bytes:
        """An ES256 signature as r ‖ s."""

    def sign_tbs(self, tbs: bytes) -> bytes:
        """An ecdsa-with-SHA256 signature in DER (RFC 5758, section 3.2) over a TBSCertificate's octets.

        It need not have been checked: who issues reads back what was signed (`readback`).
        """

    def sign_certificate(self, builder: x509.CertificateBuilder) -> bytes:
        """The built certificate, signed with ecdsa-with-SHA256, as DER."""

    def sign_crl(self, builder: x509.CertificateRevocationListBuilder) -> bytes:
        """The built list, signed with ecdsa-with-SHA256, as DER."""


@dataclass(frozen=True)
class Certified:
    """What a signer's certificate says of it, read once."""

    certificate: x509.Certificate

    @cached_property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        # The certificate's, which was found to be this key's: what relying parties will verify with.
        return cast("ec.EllipticCurvePublicKey", self.certificate.public_key())

    @cached_property
    def subject(self) -> bytes:
        return self.certificate.subject.public_bytes()

    @cached_property
    def key_identifier(self) -> bytes:
        return self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest

    @cached_property
    def trust_domain(self) -> TrustDomain:
        return authority_domain(self.certificate)


@dataclass(frozen=True)
class FileSigner(Certified):
    """A signer whose key came from a file. Showing it shows the certificate's subject, never the key.

    `certificate` must be the key's; `load` makes sure of it.
    """

    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def load(cls, key_path: Path, certificate_path: Path, unlocking: Unlocking = NOTHING) -> Self:
        """Raises the errors of `keyfiles` and `load_key`, CertificateFileMalformed, KeyMismatch."""
        certificate = load_certificate(certificate_path)
        key = load_key(key_path, unlocking)
        if certificate.public_key() != key.public_key():
            raise KeyMismatch(f"{key_path} is not the key in {certificate_path}.")
        return cls(certificate, key)

    def sign(self, data: bytes) -> bytes:
        return raw_signature(self._key.sign(data, _ES256))

    def sign_tbs(self, tbs: bytes) -> bytes:
        return self._key.sign(tbs, _ES256)

    def sign_certificate(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, _SHA256).public_bytes(serialization.Encoding.DER)

    def sign_crl(self, builder: x509.CertificateRevocationListBuilder) -> bytes:
        return builder.sign(self._key, _SHA256).public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True, slots=True)
class FileKey:
    """A key in memory that has no certificate yet."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self.key.public_key()

    def sign_certificate(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self.key, _SHA256).public_bytes(serialization.Encoding.DER)

    def certified(self, certificate: x509.Certificate) -> FileSigner:
        if certificate.public_key() != self.key.public_key():
            raise KeyMismatch
        return FileSigner(certificate, self.key)


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key that signs access tokens, and where it stands in its rotation. Its `kid` is its RFC 7638 thumbprint."""

    state: KeyState
    key: TokenSigning

    @property
    def kid(self) -> str:
        return self.key.thumbprint


def authority_domain(certificate: x509.Certificate) -> TrustDomain:
    """The trust domain in a CA's certificate: its one URI name, a SPIFFE ID without a path (X509-SVID, section 3.2).

    Raises NotAnAuthority.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        return TrustDomain(uri.removeprefix("spiffe://") if uri.startswith("spiffe://") else "")
    except (x509.ExtensionNotFound, ValueError, MalformedInput):
        raise NotAnAuthority(
            seen=certificate.subject.rfc4514_string(), expected="one name: spiffe://<domain>"
        ) from None


def load_key(path: Path, unlocking: Unlocking = NOTHING) -> ec.EllipticCurvePrivateKey:
    """A P-256 private key in PKCS #8 PEM, encrypted or not.

    Raises the errors of `keyfiles`, KeyFileMalformed; for an encrypted one PassphraseWrong and those of `Unlocking`.
    """
    data = read_secret(path, limit=MAX_PEM)
    passphrase = unlocking.passphrase() if is_encrypted(data) else None
    try:
        key = serialization.load_pem_private_key(data, password=passphrase)
    except (ValueError, TypeError):
        if passphrase is not None:
            raise PassphraseWrong(f"{path} does not open.") from None
        # Without the cause: a parser's words about a private key's octets stay out of logs.
        raise KeyFileMalformed(f"{path} can't be read as a private key.", expected="PKCS #8 in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyFileMalformed(f"{path} holds a key of another kind.", expected="a P-256 private key")
    return key


def load_certificate(path: Path) -> x509.Certificate:
    """The one certificate in a PEM file. Raises the errors of `keyfiles` and CertificateFileMalformed."""
    data = read_public(path, limit=MAX_PEM)
    try:
        found = x509.load_pem_x509_certificates(data)
    except (ValueError, x509.InvalidVersion):
        raise CertificateFileMalformed(f"{path} can't be read as a certificate.", expected="PEM") from None
    if len(found) != 1:
        raise CertificateFileMalformed(f"{path} holds several certificates.", seen=len(found), expected="one")
    return found[0]
