"""What was signed, compared octet by octet with what was meant, before it may leave.

DER spells each value in one way (X.690, section 10). So the expected TBSCertificate (RFC 5280, section 4.1) is written
here a second time, by hand and from the specification alone, and each field of the signed octets must equal it: no
field that nobody thought of can slip through, whatever a library's builder, its parser or a signing module does.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.facts import FACTS_OID
from attestd.errors import AttestdError

if TYPE_CHECKING:
    from attestd.ca.certificates import CertificateSpec
    from attestd.ca.signer import Signer


class SignedBytesDiffer(AttestdError):
    """What was signed is not what was meant"""

    remedy = (
        "Stop issuing and examine the signing key's module: it signed something else, and nothing left the service."
    )


def require_as_meant(der: bytes, spec: CertificateSpec, issuer: Signer) -> None:
    """Raises SignedBytesDiffer unless `der` is the certificate that `spec` describes, signed by `issuer`.

    1. It has a certificate's shape, with nothing after it.
    2. Each field, and each extension, is the expected one.
    3. The signature over these very octets is the issuer's.
    """
    try:  # 1
        tbs, algorithm, signature = elements(der)
        fields = elements(tbs)
        extensions = elements(elements(fields[-1])[0])
    except (ValueError, IndexError):
        raise SignedBytesDiffer("The signed octets are not a certificate.") from None
    point = spec.public_key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    _require_same(_expected_fields(spec, issuer, point), fields[:-1])  # 2
    _require_same(_expected_extensions(spec, issuer, point), extensions)
    _require_same({"signature algorithm": _ECDSA_WITH_SHA256}, [algorithm])
    try:  # 3
        issuer.public_key.verify(_bit_string(signature), tbs, _ES256)
    except InvalidSignature:
        raise SignedBytesDiffer("The signature is not the issuer's.") from None


def _require_same(expected: dict[str, bytes], seen: list[bytes]) -> None:
    for (name, meant), found in zip(expected.items(), seen, strict=False):
        if found != meant:
            raise SignedBytesDiffer(
                f"The signed certificate's {name} is not what was meant.", seen=found.hex(), expected=meant.hex()
            )
    if len(seen) != len(expected):
        raise SignedBytesDiffer(
            "The signed certificate has more or fewer fields than meant.", seen=len(seen), expected=", ".join(expected)
        )


# ---- The expected octets ----------------------------------------------------------------------------------------


def tlv(tag: int, content: bytes) -> bytes:
    """One DER element (X.690, sections 8.1 and 10.1)."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


@cache
def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER (X.690, section 8.19)."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    content = bytearray()
    for arc in (first * 40 + second, *rest):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(0x80 | arc & 0x7F)
        content += bytes(reversed(septets))
    return tlv(0x06, bytes(content))


_ES256 = ec.ECDSA(hashes.SHA256())
_ECDSA_WITH_SHA256 = tlv(0x30, oid("1.2.840.10045.4.3.2"))  # RFC 5758, section 3.2: no parameters
_V3 = bytes.fromhex("a003020102")
_NOBODY = bytes.fromhex("3000")
# SubjectPublicKeyInfo of a P-256 key, up to the point (RFC 5480, section 2).
_P256_KEY = tlv(0x30, oid("1.2.840.10045.2.1") + oid("1.2.840.10045.3.1.7"))
_BASIC, _USAGE, _PURPOSES, _NAMES = (oid(f"2.5.29.{arc}") for arc in (19, 15, 37, 17))
_AUTHORITY, _OWN, _LISTS = (oid(f"2.5.29.{arc}") for arc in (35, 14, 31))
_FACTS = oid(FACTS_OID.dotted_string)
# RFC 5280, section 4.2.1.3: bits 0 and 4 of a named bit list, trailing zero bits left out (X.690, section 11.2).
_USAGES = {
    frozenset(("digitalSignature",)): bytes.fromhex("03020780"),
    frozenset(("digitalSignature", "keyAgreement")): bytes.fromhex("03020388"),
}


def _expected_fields(spec: CertificateSpec, issuer: Signer, point: bytes) -> dict[str, bytes]:
    serial = spec.serial.number
    return {
        "version": _V3,
        "serial number": tlv(0x02, serial.to_bytes(serial.bit_length() // 8 + 1, "big")),
        "algorithm": _ECDSA_WITH_SHA256,
        "issuer": issuer.subject,
        "validity": tlv(0x30, _time(spec.not_before) + _time(spec.not_after)),
        "subject": _NOBODY,
        "public key": tlv(0x30, _P256_KEY + tlv(0x03, b"\x00" + point)),
    }


def _expected_extensions(spec: CertificateSpec, issuer: Signer, point: bytes) -> dict[str, bytes]:
    names = tlv(0x86, str(spec.spiffe_id).encode("ascii"))
    names += b"".join(tlv(0x82, name.encode("ascii")) for name in spec.dns_names)
    names += b"".join(tlv(0x87, address.packed) for address in spec.ip_addresses)
    purposes = b"".join(oid(purpose.dotted_string) for purpose in spec.profile.extended_key_usage)
    # RFC 5280, section 4.2.1.2, method 1: SHA-1 as a short name for the key, on which nothing's safety rests.
    own = hashlib.sha1(point, usedforsecurity=False).digest()
    found = {
        "basic constraints": _extension(_BASIC, _NOBODY, critical=True),  # cA is FALSE by default
        "key usage": _extension(_USAGE, _USAGES[spec.profile.key_usage], critical=True),
        "extended key usage": _extension(_PURPOSES, tlv(0x30, purposes)),
        "names": _extension(_NAMES, tlv(0x30, names), critical=True),
        "authority key identifier": _extension(_AUTHORITY, tlv(0x30, tlv(0x80, issuer.key_identifier))),
        "subject key identifier": _extension(_OWN, tlv(0x04, own)),
    }
    if spec.facts is not None:
        found["facts"] = _extension(_FACTS, tlv(0x0C, spec.facts.encode()))
    if spec.crl_url is not None:
        # One DistributionPoint with a fullName (RFC 5280, section 4.2.1.13).
        place = tlv(0x30, tlv(0xA0, tlv(0xA0, tlv(0x86, spec.crl_url.encode("ascii")))))
        found["CRL distribution point"] = _extension(_LISTS, tlv(0x30, place))
    return found


def _extension(oid: bytes, value: bytes, *, critical: bool = False) -> bytes:
    return tlv(0x30, oid + (b"\x01\x01\xff" if critical else b"") + tlv(0x04, value))


def _time(moment: datetime) -> bytes:
    """UTCTime until 2049, GeneralizedTime from 2050 on (RFC 5280, section 4.1.2.5)."""
    if moment.year < 2050:
        return tlv(0x17, moment.strftime("%y%m%d%H%M%SZ").encode("ascii"))
    return tlv(0x18, moment.strftime("%Y%m%d%H%M%SZ").encode("ascii"))


# ---- The signed octets ------------------------------------------------------------------------------------------


def elements(der: bytes) -> list[bytes]:
    """The elements directly inside the one DER element that `der` is. Raises ValueError, IndexError."""
    start, end = _content(der, 0)
    if end != len(der):
        raise ValueError("an element is cut off or followed by something")
    found = []
    while start < end:
        _, after = _content(der, start)
        found.append(der[start:after])
        start = after
    if start != end:
        raise ValueError("an element reaches beyond its container")
    return found


def _content(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at `at` begins and ends. Tags of one octet are all there are."""
    size, start = der[at + 1], at + 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[at + 2 : start], "big")
    return start, start + size


def _bit_string(element: bytes) -> bytes:
    """The octets of a BIT STRING without unused bits; anything else is no signature."""
    start, _ = _content(element, 0)
    return element[start + 1 :] if element[:1] == b"\x03" and element[start : start + 1] == b"\x00" else b""
