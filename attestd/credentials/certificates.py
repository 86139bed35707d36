"""One certificate at a time: bytes -> parsed certificate, and what RFC 5280 asks of it in its place in a path.

Nothing here is trusted yet; `x509` walks the path and `bundle` follows a delegation with these steps.
RFC 5280, sections 4.1, 4.2 and 6.1; SPIFFE X509-SVID, sections 2 to 5.

`cryptography` reads the certificate, strictly, and does the arithmetic. What the signature is about (the TBS part, the
names of subject and issuer, the algorithm) is cut out of the very octets that came: nothing is written again to be
verified, and an issuer's key is made ready once, not for each signature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, Self, TypeGuard

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from attestd.credentials.facts import FACTS_OID
from attestd.credentials.fields import (
    FACTS,
    KEY_ID,
    URIS,
    WITH_SHA256,
    WITH_SHA384,
    WITH_SHA512,
    Fields,
    KnownParts,
)
from attestd.errors import Unauthenticated
from attestd.ids import MalformedName, Serial

MAX_CERTIFICATE = 8 * 1024  # octets of DER

_CURVES = (ec.SECP256R1, ec.SECP384R1)
_SIGNATURES = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: WITH_SHA256,
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: WITH_SHA384,
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: WITH_SHA512,
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


class ParsedCertificate(NamedTuple):
    """A certificate's fields, well formed, with no critical extension left aside. Nothing is proven yet."""

    der: bytes
    signed: bytes  # the TBS part, as it came
    signature: bytes
    algorithm: ec.ECDSA
    issuer_name: bytes  # DER, as it came
    subject_name: bytes  # DER, as it came
    serial: Serial
    not_before: datetime
    not_after: datetime
    constraints: x509.BasicConstraints | None
    usage: x509.Extension[x509.KeyUsage] | None
    purposes: frozenset[x509.ObjectIdentifier] | None
    uris: tuple[str, ...]
    key_id: bytes | None
    issuer_key_id: bytes | None
    facts: bytes | None  # the extension's value
    point: bytes  # the key's, uncompressed

    @classmethod
    def parse(cls, der: bytes) -> Self:
        """Raises CertificateMalformed, AlgorithmRefused or CriticalExtensionUnknown."""
        if len(der) > MAX_CERTIFICATE:
            raise CertificateMalformed(
                "The certificate is too large.", seen=f"{len(der)} octets", expected=f"at most {MAX_CERTIFICATE}"
            )
        read = _KNOWN.read(der)
        return cls._read(der) if read is None else cls._of(der, *read)

    @classmethod
    def _read(cls, der: bytes) -> Self:
        """The long way, with `cryptography`, for every form of certificate; the parts that it reads are known then."""
        try:
            certificate = x509.load_der_x509_certificate(der)
            key = certificate.public_key()
            algorithm = certificate.signature_algorithm_oid
            found = {extension.oid: extension for extension in certificate.extensions}
        except UnsupportedAlgorithm:
            raise AlgorithmRefused from None
        except (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            raise CertificateMalformed from None
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
        for oid, extension in found.items():
            if extension.critical and oid not in _PROCESSED:
                raise CriticalExtensionUnknown(seen=oid.dotted_string)
        values = dict(map(_said, found.values()))
        _KNOWN.learn(der, values)
        fields = Fields(
            signed=signed,
            serial=certificate.serial_number,
            algorithm=_SIGNATURES[algorithm],
            issuer_name=issuer_name,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            subject_name=subject_name,
            point=key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint),
            signature=certificate.signature,
        )
        return cls._of(der, fields, values)

    @classmethod
    def _of(cls, der: bytes, fields: Fields, values: Mapping[str, Any]) -> Self:
        try:
            serial = Serial(fields.serial)
        except MalformedName as error:
            raise CertificateMalformed("The serial number is out of range.", expected=error.expected) from None
        said = values.get
        return cls(
            der,
            fields.signed,
            fields.signature,
            fields.algorithm,
            fields.issuer_name,
            fields.subject_name,
            serial,
            fields.not_before,
            fields.not_after,
            said("constraints"),
            said("usage"),
            said("purposes"),
            said(URIS, ()),
            said(KEY_ID),
            said("issuer_key_id"),
            said(FACTS),
            fields.point,
        )

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        """Made ready once. A leaf's is seldom asked for: that the peer holds it, the TLS handshake proves."""
        return _ready(self.point)

    @property
    def certificate(self) -> x509.Certificate:
        """As `cryptography` reads it."""
        return x509.load_der_x509_certificate(self.der)

    def names_issuer(self, issuer: ParsedCertificate) -> bool:
        """Whether `issuer`'s key may be this certificate's, by the key identifiers alone: no more than a filter."""
        return self.issuer_key_id is None or issuer.key_id is None or self.issuer_key_id == issuer.key_id

    def check_issued_by(self, issuer: ParsedCertificate) -> None:
        """RFC 5280, 6.1.3 (a)(1) and (a)(4): the signature and the name. Raises IssuerMismatch, CertificateForged."""
        if not self.names_issuer(issuer):
            raise IssuerMismatch("The certificate names another issuer's key.")
        if self.issuer_name != issuer.subject_name:  # octet by octet: the service writes a name in one way
            raise IssuerMismatch
        try:
            issuer.key.verify(self.signature, self.signed, self.algorithm)
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


# What each extension says, under its name in ParsedCertificate.
_SAID: Mapping[x509.ObjectIdentifier, tuple[str, Callable[[x509.Extension[Any]], Any]]] = {
    _CONSTRAINTS: ("constraints", lambda extension: extension.value),
    _USAGE: ("usage", lambda extension: extension),
    _PURPOSES: ("purposes", lambda extension: frozenset(extension.value)),
    _NAMES: (URIS, lambda extension: tuple(extension.value.get_values_for_type(x509.UniformResourceIdentifier))),
    _KEY_ID: (KEY_ID, lambda extension: extension.value.digest),
    _ISSUER_KEY_ID: ("issuer_key_id", lambda extension: extension.value.key_identifier),
    FACTS_OID: (FACTS, lambda extension: extension.value.value),
}


def _said(extension: x509.Extension[Any]) -> tuple[str, Any]:
    """Of an extension that is not processed here nothing is read."""
    name, read = _SAID.get(extension.oid, (extension.oid.dotted_string, lambda _: None))
    return name, read(extension)


_KNOWN = KnownParts()
_CURVE_OF = {1 + 2 * curve.key_size // 8: curve for curve in (ec.SECP256R1(), ec.SECP384R1())}  # by a point's octets


@lru_cache(maxsize=256)
def _ready(point: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE_OF[len(point)], point)


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
