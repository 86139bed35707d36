"""One certificate at a time: bytes -> parsed certificate, and what RFC 5280 asks of it in its place in a path.

Nothing here is trusted yet; `x509` walks the path and `bundle` follows a delegation with these steps.
RFC 5280, sections 4.1, 4.2 and 6.1; SPIFFE X509-SVID, sections 2 to 5.

`cryptography` reads the certificate, strictly, and does the arithmetic. What the signature is about (the TBS part, the
names of subject and issuer, the algorithm) is cut out of the very octets that came: nothing is written again to be
verified, and an issuer's key is made ready once, not for each signature.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, TypeGuard

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from attestd.credentials.facts import FACTS_OID
from attestd.errors import Unauthenticated
from attestd.ids import MalformedName, Serial
from attestd.protocol.encoding import b64encode

MAX_CERTIFICATE = 8 * 1024  # octets of DER

_CURVES = (ec.SECP256R1, ec.SECP384R1)
_SIGNATURES = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: ec.ECDSA(hashes.SHA256()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: ec.ECDSA(hashes.SHA384()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: ec.ECDSA(hashes.SHA512()),
}
_CONSTRAINTS = ExtensionOID.BASIC_CONSTRAINTS
_USAGE = ExtensionOID.KEY_USAGE
_PURPOSES = ExtensionOID.EXTENDED_KEY_USAGE
_NAMES = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
_KEY_ID = ExtensionOID.SUBJECT_KEY_IDENTIFIER
_ISSUER_KEY_ID = ExtensionOID.AUTHORITY_KEY_IDENTIFIER
# What is processed here, and may therefore be critical (RFC 5280, section 4.2).
_PROCESSED = frozenset((_CONSTRAINTS, _USAGE, _PURPOSES, _NAMES))


class CertificateRefused(Unauthenticated):
    """The certificate proves nothing here"""

    remedy = "Present the certificate that this trust domain's service issued, with its chain."


class CertificateMalformed(CertificateRefused):
    """The certificate can't be read"""


class CriticalExtensionUnknown(CertificateRefused):
    """The certificate has a critical extension that is not processed here"""


class AlgorithmRefused(CertificateRefused):
    """The certificate's key or signature is of a kind that is not used here"""


class CertificateExpired(CertificateRefused):
    """The certificate has expired"""

    remedy = "Attest again: it renews the certificate, also after it has expired."


class CertificateNotYetValid(CertificateRefused):
    """The certificate is not valid yet"""

    remedy = "Check the clocks of this machine and of the service."


class IssuerMismatch(CertificateRefused):
    """The certificate was not issued by the certificate that follows it"""


class CertificateForged(CertificateRefused):
    """The certificate's signature is wrong"""


class NotAnAuthority(CertificateRefused):
    """The certificate's issuer may not issue certificates"""


class PathTooLong(CertificateRefused):
    """An issuer may not have this many issuers below it"""


class PurposeWrong(CertificateRefused):
    """The certificate is for another purpose"""


class LeafIsAuthority(CertificateRefused):
    """An authority's certificate identifies nobody"""


class KeyUsageWrong(CertificateRefused):
    """The certificate's key usage is not a leaf's"""


@dataclass(frozen=True, slots=True)
class ParsedCertificate:
    """A certificate's fields, well formed, with no critical extension left aside. Nothing is proven yet."""

    der: bytes
    certificate: x509.Certificate
    signed: bytes  # the TBS part, as it came
    issuer_name: bytes  # DER, as it came
    subject_name: bytes  # DER, as it came
    serial: Serial
    key: ec.EllipticCurvePublicKey
    not_before: datetime
    not_after: datetime
    constraints: x509.BasicConstraints | None
    usage: x509.Extension[x509.KeyUsage] | None
    purposes: frozenset[x509.ObjectIdentifier] | None
    uris: tuple[str, ...]
    key_id: bytes | None
    issuer_key_id: bytes | None
    facts: bytes | None  # the extension's value

    @classmethod
    def parse(cls, der: bytes) -> Self:
        """Raises CertificateMalformed, AlgorithmRefused or CriticalExtensionUnknown."""
        if len(der) > MAX_CERTIFICATE:
            raise CertificateMalformed(
                "The certificate is too large.", seen=f"{len(der)} octets", expected=f"at most {MAX_CERTIFICATE}"
            )
        try:
            certificate = x509.load_der_x509_certificate(der)
            key = certificate.public_key()
            algorithm = certificate.signature_algorithm_oid
            found = {extension.oid: extension for extension in certificate.extensions}
            serial = Serial(certificate.serial_number)
        except UnsupportedAlgorithm:
            raise AlgorithmRefused from None
        except (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            raise CertificateMalformed from None
        except MalformedName as error:
            raise CertificateMalformed("The serial number is out of range.", expected=error.expected) from None
        if certificate.version is not x509.Version.v3:
            raise CertificateMalformed("The certificate is not of version 3.", seen=certificate.version.name)
        # The one field that is not signed is the signature: its BIT STRING has one spelling, without unused bits.
        if not der.endswith(b"\x00" + certificate.signature):
            raise CertificateMalformed("The signature is not a whole number of octets.")
        if not _is_of_ours(key):
            raise AlgorithmRefused("The key is of another kind.", expected="P-256 or P-384")
        if algorithm not in _SIGNATURES:
            raise AlgorithmRefused(
                "The signature is of another kind.", seen=algorithm.dotted_string, expected="ECDSA with SHA-2"
            )
        signed, inner, issuer_name, subject_name, outer = _cut(der)
        if inner != outer:  # RFC 5280, 4.1.1.2: only the inner one is signed
            raise CertificateMalformed("The certificate names two signature algorithms.")
        values: dict[x509.ObjectIdentifier, Any] = {}
        for oid, extension in found.items():
            if extension.critical and oid not in _PROCESSED:
                raise CriticalExtensionUnknown(seen=oid.dotted_string)
            values[oid] = extension.value
        return cls(
            der=der,
            certificate=certificate,
            signed=signed,
            issuer_name=issuer_name,
            subject_name=subject_name,
            serial=serial,
            key=key,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            constraints=values.get(_CONSTRAINTS),
            usage=found.get(_USAGE),
            purposes=frozenset(values[_PURPOSES]) if _PURPOSES in values else None,
            uris=tuple(values[_NAMES].get_values_for_type(x509.UniformResourceIdentifier)) if _NAMES in values else (),
            key_id=values[_KEY_ID].digest if _KEY_ID in values else None,
            issuer_key_id=values[_ISSUER_KEY_ID].key_identifier if _ISSUER_KEY_ID in values else None,
            facts=values[FACTS_OID].value if FACTS_OID in values else None,
        )

    @property
    def thumbprint(self) -> str:
        """SHA-256 of the DER, base64url: x5t#S256 (RFC 8705, section 3.1)."""
        return b64encode(hashlib.sha256(self.der).digest())

    def names_issuer(self, issuer: ParsedCertificate) -> bool:
        """Whether `issuer`'s key may be this certificate's, by the key identifiers alone: no more than a filter."""
        return self.issuer_key_id is None or issuer.key_id is None or self.issuer_key_id == issuer.key_id

    def check_issued_by(self, issuer: ParsedCertificate) -> None:
        """RFC 5280, 6.1.3 (a)(1) and (a)(4): the signature and the name. Raises IssuerMismatch, CertificateForged."""
        if not self.names_issuer(issuer):
            raise IssuerMismatch("The certificate names another issuer's key.")
        if self.issuer_name != issuer.subject_name:  # octet by octet: the service writes a name in one way
            raise IssuerMismatch
        algorithm = _SIGNATURES[self.certificate.signature_algorithm_oid]
        try:
            issuer.key.verify(self.certificate.signature, self.signed, algorithm)
        except InvalidSignature:
            raise CertificateForged from None

    def check_dates(self, now: datetime) -> None:
        """RFC 5280, 6.1.3 (a)(2). Raises CertificateNotYetValid, CertificateExpired."""
        if now < self.not_before:
            raise CertificateNotYetValid(seen=now, expected=f"from {self.not_before} on")
        if now > self.not_after:
            raise CertificateExpired(seen=now, expected=f"until {self.not_after}")

    def check_authority(self, *, below: int) -> None:
        """RFC 5280, 6.1.4 (k) to (n): may issue, with `below` issuers between it and the leaf.

        Self-issued certificates count too, which is stricter than (l). Raises NotAnAuthority, PathTooLong.
        """
        if self.constraints is None or not self.constraints.ca:
            raise NotAnAuthority("The issuer's certificate is not an authority's.", expected="basicConstraints: cA")
        if self.usage is None or not self.usage.value.key_cert_sign:
            raise NotAnAuthority("The issuer's key may not sign certificates.", expected="keyUsage: keyCertSign")
        if (allowed := self.constraints.path_length) is not None and below > allowed:
            raise PathTooLong(seen=below, expected=f"at most {allowed}")

    def check_leaf(self, purpose: x509.ObjectIdentifier) -> None:
        """SPIFFE X509-SVID, sections 4.1, 4.3, 4.4 and 5.2. An absent or empty extended key usage is refused."""
        if self.constraints is not None and self.constraints.ca:
            raise LeafIsAuthority(expected="basicConstraints without cA")
        if self.usage is None or not self.usage.critical:
            raise KeyUsageWrong("There is no critical key usage.")
        usage = self.usage.value
        if not usage.digital_signature:
            raise KeyUsageWrong("The key may not sign.", expected="keyUsage: digitalSignature")
        if usage.key_cert_sign or usage.crl_sign:
            raise KeyUsageWrong("A leaf's key may sign neither certificates nor revocation lists.")
        if self.purposes is None or purpose not in self.purposes:
            raise PurposeWrong(expected=f"extendedKeyUsage: {purpose.dotted_string}")


def _is_of_ours(key: object) -> TypeGuard[ec.EllipticCurvePublicKey]:
    """P-256 or P-384. Only keys on curves have one; asking an abstract class costs a tenth of a signature check."""
    return isinstance(getattr(key, "curve", None), _CURVES)


def _cut(der: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """The TBS part, its signature algorithm, issuer and subject, and the algorithm beside it (RFC 5280, section 4.1).

    `der` was read by `cryptography` before, so lengths are definite, minimal and within bounds, and the fields are all
    there; were they not, the cuts would be wrong ones, which no signature fits.
    """
    _, begin, _ = _field(der, 0)
    signed, at, tbs_end = _field(der, begin)
    if der[at : at + 1] == b"\xa0":  # the version
        _, _, at = _field(der, at)
    _, _, at = _field(der, at)  # the serial number
    inner, _, at = _field(der, at)
    issuer, _, at = _field(der, at)
    _, _, at = _field(der, at)  # the dates
    subject, _, _ = _field(der, at)
    outer, _, _ = _field(der, tbs_end)
    return signed, inner, issuer, subject, outer


def _field(der: bytes, at: int) -> tuple[bytes, int, int]:
    """The field at this offset, tag and length included, and the offsets where its content begins and ends."""
    size, begin = der[at + 1], at + 2
    if size & 0x80:
        begin += size & 0x7F
        size = int.from_bytes(der[at + 2 : begin], "big")
    return der[at : begin + size], begin, begin + size
