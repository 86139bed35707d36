"""What is signed of a leaf's certificate: its TBSCertificate, written here octet by octet (RFC 5280, section 4.1).

DER spells each value in one way (X.690, section 10), so there is no choice to leave to a library's builder, which takes
several times as long as the signature. What all certificates of one issuer and profile have in common is written once.
`readback` reads the finished certificate with another implementation before it leaves; the tests hold these octets to
those that the library's builder makes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509

from attestd.ca.der import oid, tlv
from attestd.credentials.facts import FACTS_OID

if TYPE_CHECKING:
    from attestd.ca.certificates import CertificateSpec
    from attestd.ca.signer import Signer

_ECDSA_WITH_SHA256 = tlv(0x30, oid("1.2.840.10045.4.3.2"))  # RFC 5758, section 3.2: no parameters
_V3 = bytes.fromhex("a003020102")
_NOBODY = bytes.fromhex("3000")
# SubjectPublicKeyInfo of a P-256 key, up to the point, which is uncompressed: 65 octets (RFC 5480, section 2).
_P256_KEY = bytes.fromhex("3059") + tlv(0x30, oid("1.2.840.10045.2.1") + oid("1.2.840.10045.3.1.7")) + b"\x03\x42\x00"
_BASIC, _USAGE, _PURPOSES, _NAMES = (oid(f"2.5.29.{arc}") for arc in (19, 15, 37, 17))
_AUTHORITY, _OWN, _LISTS = (oid(f"2.5.29.{arc}") for arc in (35, 14, 31))
_FACTS = oid(FACTS_OID.dotted_string)
# RFC 5280, section 4.2.1.3: bits 0 and 4 of a named bit list, trailing zero bits left out (X.690, section 11.2).
_USAGES = {
    frozenset(("digitalSignature",)): bytes.fromhex("03020780"),
    frozenset(("digitalSignature", "keyAgreement")): bytes.fromhex("03020388"),
}


def write_tbs(spec: CertificateSpec, issuer: Signer) -> bytes:
    """The TBSCertificate that `spec` describes, for `issuer` to sign, in DER."""
    profile, serial = spec.profile, spec.serial.number
    same = _in_common(
        issuer.subject, issuer.key_identifier, profile.key_usage, profile.extended_key_usage, spec.crl_url
    )
    point = spec.spki[-65:]
    names = tlv(0x86, str(spec.spiffe_id).encode("ascii"))
    for name in spec.dns_names:
        names += tlv(0x82, name.encode("ascii"))
    for address in spec.ip_addresses:
        names += tlv(0x87, address.packed)
    extensions = (
        same.uses
        + _extension(_NAMES, tlv(0x30, names), critical=True)
        + same.identifiers
        # RFC 5280, section 4.2.1.2, method 1: SHA-1 as a short name for the key, on which nothing's safety rests.
        + hashlib.sha1(point, usedforsecurity=False).digest()
        + (b"" if spec.facts is None else _extension(_FACTS, tlv(0x0C, spec.facts.encode())))
        + same.lists
    )
    return tlv(
        0x30,
        _V3
        + tlv(0x02, serial.to_bytes(serial.bit_length() // 8 + 1, "big"))
        + same.issuer
        + tlv(0x30, _time(spec.not_before) + _time(spec.not_after))
        + _NOBODY
        + _P256_KEY
        + point
        + tlv(0xA3, tlv(0x30, extensions)),
    )


def put_together(tbs: bytes, signature: bytes) -> bytes:
    """The certificate, or revocation list, of what was signed and its ecdsa-with-SHA256 signature, all in DER."""
    return tlv(0x30, tbs + _ECDSA_WITH_SHA256 + tlv(0x03, b"\x00" + signature))


@dataclass(frozen=True, slots=True)
class _Common:
    """Parts of a TBSCertificate that stay the same from one certificate to the next."""

    issuer: bytes  # the signature's algorithm and the issuer's name
    uses: bytes  # basic constraints, key usage, extended key usage
    identifiers: bytes  # the authority's key identifier, and what stands before the 20 octets of the key's own
    lists: bytes  # the CRL distribution point, if there is one


@lru_cache(maxsize=64)  # by value: another issuer, profile or URL is another entry, however it came to be
def _in_common(
    subject: bytes,
    key_identifier: bytes,
    usages: frozenset[str],
    purposes: tuple[x509.ObjectIdentifier, ...],
    crl_url: str | None,
) -> _Common:
    listed = b"".join(oid(purpose.dotted_string) for purpose in purposes)
    lists = b""
    if crl_url is not None:
        # One DistributionPoint with a fullName (RFC 5280, section 4.2.1.13).
        place = tlv(0x30, tlv(0xA0, tlv(0xA0, tlv(0x86, crl_url.encode("ascii")))))
        lists = _extension(_LISTS, tlv(0x30, place))
    return _Common(
        issuer=_ECDSA_WITH_SHA256 + subject,
        uses=_extension(_BASIC, tlv(0x30, b""), critical=True)  # cA is FALSE by default
        + _extension(_USAGE, _USAGES[usages], critical=True)
        + _extension(_PURPOSES, tlv(0x30, listed)),
        identifiers=_extension(_AUTHORITY, tlv(0x30, tlv(0x80, key_identifier)))
        + _extension(_OWN, tlv(0x04, bytes(20)))[:-20],
        lists=lists,
    )


def _extension(oid: bytes, value: bytes, *, critical: bool = False) -> bytes:
    return tlv(0x30, oid + (b"\x01\x01\xff" if critical else b"") + tlv(0x04, value))


def _time(moment: datetime) -> bytes:
    """UTCTime until 2049, GeneralizedTime from 2050 on (RFC 5280, section 4.1.2.5)."""
    year = moment.year
    rest = b"%02d%02d%02d%02d%02dZ" % (moment.month, moment.day, moment.hour, moment.minute, moment.second)
    return b"\x17\x0d%02d%b" % (year % 100, rest) if year < 2050 else b"\x18\x0f%04d%b" % (year, rest)
