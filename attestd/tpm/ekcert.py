"""Certificates of TPM makers, of EKs and of CAs, read as they come: octets in, claims out. Nothing is proven here.

Specifications: RFC 5280, section 4 (certificate and extensions); TCG EK Credential Profile for TPM Family 2.0, version
2.5 revision 2, section 3.2 (the EK certificate); ITU-T X.690 (DER).

Makers' certificates break rules, and a chip can't be recalled for that. Each departure that is let through has a name,
a narrow condition and a reason; it is recorded with the endorsement. Every other departure is refused.

| quirk           | what, and where seen                                | why it is let through                        |
|-----------------|-----------------------------------------------------|----------------------------------------------|
| padded          | octets after the certificate: NV dumps of any maker | its own length says where it ends; the rest  |
|                 |                                                     | is not used                                  |
| nv-header       | a header of 5 or 7 octets: TPM 1.2 style NV         | its tags are checked, nothing else is used   |
| set-order       | a SET within a name is not sorted: Nuvoton          | names are compared as octets, never rebuilt  |
| encoded-default | FALSE is written out: Intel PTT                     | the value is the same                        |
| long-serial     | a serial number with a needless octet: STM          | the serial number decides nothing here       |
| odd-serial      | a serial number of zero or less: private CAs        | the serial number decides nothing here       |
| ecdsa-null      | ECDSA's identifier with a NULL: Intel on-die CAs    | the algorithm is the same                    |
| rsaes-oaep-key  | an RSA key marked "OAEP only": STM and Infineon     | it is an RSA key; the mark only narrows it   |
| google-cas      | no EKU and no SAN: Google Compute Engine            | one pinned root, marker extension and exact  |
|                 |                                                     | key usage: see `endorsement`                 |
| sha1-signature  | SHA-1 under a signature: TPM 1.2 chips, until 2014  | signed before 2017: a collision had to be    |
|                 |                                                     | made before the CA signed, and none could be |
| tpm12-profile   | no key usage, or no purpose either: TPM 1.2 chips   | the key itself is marked for OAEP alone,     |
|                 |                                                     | which says what the two would say            |
| expired-root    | a trusted root is over: Nuvoton, AMD, from 2037 on  | it was valid when it signed, all below it is |
|                 |                                                     | valid now, and an operator trusts it still   |

The two of the chips for TPM 1.2 are refused unless a policy lets them through (`REFUSED_BY_DEFAULT`); any other one
can be refused by a policy, too. What a quirk lets through is never the check itself: what the check is for holds by
other means, which the last column names.

How it is read. A small walker (`der`) cuts the certificate out and takes it apart into the very octets that were
signed; names, algorithm and key come from these. `cryptography` reads the rest, strictly. Where it refuses and the
walker sees one of the departures above, asn1crypto reads the rest (`claims`). Nothing is encoded anew: signatures are
checked by `cryptography` over the original octets.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from attestd.errors import EvidenceRefused, InputTooLarge
from attestd.protocol.evidence import MAX_CERTIFICATE
from attestd.tpm.claims import (
    ALTERNATIVE_NAME,
    BASIC_CONSTRAINTS,
    Claims,
    directory_names,
    list_extensions,
    read_leniently,
    read_strictly,
)
from attestd.tpm.der import (
    BITS,
    INTEGER,
    SEQUENCE,
    Element,
    MalformedCertificate,
    children,
    element,
    expect,
    octets_of,
    read_oid,
    whole,
)
from attestd.tpm.objects import PublicKey


class CertificateTooLarge(InputTooLarge):
    """A certificate is larger than any TPM maker's"""


class SignatureAlgorithmsDiffer(MalformedCertificate):
    """A certificate names two different signature algorithms"""


class UnsupportedCertificateKey(EvidenceRefused):
    """A certificate's key is of a kind or size that is not accepted"""

    remedy = "Use another of the TPM's EK certificates, or enroll the device by its EK's hash in the inventory."


class Quirk(StrEnum):
    """A departure from the rules that is let through; the module's table gives the reason for each."""

    PADDED = "padded"
    NV_HEADER = "nv-header"
    SET_ORDER = "set-order"
    ENCODED_DEFAULT = "encoded-default"
    LONG_SERIAL = "long-serial"
    ODD_SERIAL = "odd-serial"
    ECDSA_NULL = "ecdsa-null"
    RSAES_OAEP_KEY = "rsaes-oaep-key"
    SHA1_SIGNATURE = "sha1-signature"
    TPM12_PROFILE = "tpm12-profile"
    EXPIRED_ROOT = "expired-root"
    GOOGLE_CAS = "google-cas"


# Chips of the TPM 1.2 time: all but over, so a service has to be told that its fleet has some.
REFUSED_BY_DEFAULT = frozenset({Quirk.SHA1_SIGNATURE, Quirk.TPM12_PROFILE})


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """What an AlgorithmIdentifier stands for. The collisions of a `weak` hash can be bought."""

    name: str
    key: type[PublicKey]
    hash: hashes.HashAlgorithm
    weak: bool = False


# Whole AlgorithmIdentifiers, from the OID's tag on (RFC 4055, section 5; RFC 5758, section 3.2): one with parameters
# that are not listed is another algorithm. RSASSA-PSS is not here: no known maker's certificate uses it.
_RSA, _ECDSA, _NULL = bytes.fromhex("06092a864886f70d0101"), bytes.fromhex("06082a8648ce3d0403"), b"\x05\x00"
_SHA1 = hashes.SHA1()  # noqa: S303  (listed so that it can be refused by its name)
_SHA2: tuple[tuple[hashes.HashAlgorithm, bytes, bytes], ...] = (
    (hashes.SHA256(), b"\x0b", b"\x02"),
    (hashes.SHA384(), b"\x0c", b"\x03"),
    (hashes.SHA512(), b"\x0d", b"\x04"),
)
_ECDSA_WITH_NULL = frozenset(_ECDSA + arc + _NULL for _, _, arc in _SHA2)
_ALGORITHMS = {
    _RSA + b"\x05" + _NULL: SignatureAlgorithm("RSA with SHA-1", rsa.RSAPublicKey, _SHA1, weak=True),
    bytes.fromhex("06072a8648ce3d0401"): SignatureAlgorithm(
        "ECDSA with SHA-1", ec.EllipticCurvePublicKey, _SHA1, weak=True
    ),
    **{_RSA + arc + _NULL: SignatureAlgorithm(f"RSA with {h.name}", rsa.RSAPublicKey, h) for h, arc, _ in _SHA2},
    **{
        _ECDSA + arc + null: SignatureAlgorithm(f"ECDSA with {h.name}", ec.EllipticCurvePublicKey, h)
        for h, _, arc in _SHA2
        for null in (b"", _NULL)
    },
}


class MakerCertificate(NamedTuple):
    """One certificate, read and not verified. `issuer` and `subject` are DER names, compared octet for octet.

    Octet for octet is stricter than RFC 5280, section 7.1, and enough: each of the 2,240 known makers' CA certificates
    names its issuer with the very octets that the issuer uses. `algorithm` is None where it is unknown.
    """

    der: bytes
    sha256: bytes
    tbs: bytes
    signature: bytes
    algorithm: SignatureAlgorithm | None
    algorithm_oid: str
    issuer: bytes
    subject: bytes
    serial: int
    key: PublicKey
    claims: Claims
    quirks: frozenset[Quirk]

    def __repr__(self) -> str:
        return f"MakerCertificate(sha256={self.sha256.hex()})"


class _Parts(NamedTuple):
    """The octets of one certificate, cut but not interpreted (RFC 5280, section 4.1)."""

    der: bytes
    tbs: Element
    algorithm: Element
    signature: Element
    serial: Element
    issuer: Element
    validity: Element
    subject: Element
    spki: Element
    extensions: Element | None


@lru_cache(maxsize=512)  # all TPMs of a batch come with the same intermediates
def parse_certificate(unverified: bytes) -> MakerCertificate:
    """Reads one DER certificate, with or without an NV index's header and padding.

    Raises CertificateTooLarge, MalformedCertificate or one of its kinds, or UnsupportedCertificateKey.
    """
    # 1. The size is bounded before any parser runs.
    if len(unverified) > MAX_CERTIFICATE:
        raise CertificateTooLarge(seen=f"{len(unverified)} octets", expected=f"at most {MAX_CERTIFICATE}")
    # 2. The certificate is cut out of what surrounds it, and taken apart.
    outer, around = _cut(unverified)
    parts, der = _take_apart(outer), outer.raw
    # 3. Strictly first; leniently only for the departures that have a name.
    claims, within = _read_claims(parts)
    key, marked = _read_key(parts.spki)
    identifier = parts.algorithm.content
    return MakerCertificate(
        der,
        hashlib.sha256(der).digest(),
        parts.tbs.raw,
        octets_of(parts.signature),
        _ALGORITHMS.get(identifier),
        _oid_of(identifier),
        parts.issuer.raw,
        parts.subject.raw,
        int.from_bytes(parts.serial.content, "big", signed=True),
        key,
        claims,
        around | within | marked,
    )


@lru_cache(maxsize=64)  # there are few
def _oid_of(identifier: bytes) -> str:
    """What an AlgorithmIdentifier's content begins with."""
    return read_oid(element(identifier).content)


def read_names(unverified: bytes) -> tuple[bytes, bytes]:
    """Issuer and subject of a DER certificate, as `MakerCertificate` has them, and nothing else of it: to look through
    thousands for the few that matter. Raises MalformedCertificate."""
    parts = _take_apart(element(unverified))
    return parts.issuer.raw, parts.subject.raw


# TCG_PCCLIENT_STORED_CERT (TCG PC Client Specific Implementation Specification for Conventional BIOS, for TPM 1.2,
# section 7.3.2): a tag, the type "full" and a 16-bit size; most write the tag of a full certificate after it.
STORED_CERTIFICATE, _FULL_CERT = b"\x10\x01\x00", b"\x10\x02"


def _cut(data: bytes) -> tuple[Element, frozenset[Quirk]]:
    quirks: set[Quirk] = set()
    if data.startswith(STORED_CERTIFICATE):
        data = data[5:].removeprefix(_FULL_CERT)
        quirks.add(Quirk.NV_HEADER)
    outer = element(data)
    if len(outer.raw) < len(data):
        quirks.add(Quirk.PADDED)
    return outer, frozenset(quirks)


_VERSION, _EXTENSIONS = 0xA0, 0xA3
_VERSION_3 = b"\x02\x01\x02"


def _take_apart(outer: Element) -> _Parts:
    expect([outer], SEQUENCE)
    tbs, algorithm, signature = expect(children(outer), SEQUENCE, SEQUENCE, BITS)
    fields = children(tbs)
    if not fields or fields[0].tag != _VERSION or fields[0].content != _VERSION_3:
        raise MalformedCertificate("This is not an X.509 certificate of version 3.", expected="version 3")
    serial, inner, issuer, validity, subject, spki = expect(fields[1:7], INTEGER, *(SEQUENCE,) * 5)
    if not serial.content:
        raise MalformedCertificate("A certificate's serial number has no octets.")
    if inner.raw != algorithm.raw:  # RFC 5280, section 4.1.1.2
        raise SignatureAlgorithmsDiffer(seen=algorithm.content.hex(), expected=inner.content.hex())
    extensions = next((item for item in fields[7:] if item.tag == _EXTENSIONS), None)
    return _Parts(outer.raw, tbs, algorithm, signature, serial, issuer, validity, subject, spki, extensions)


# ---- The key ----------------------------------------------------------------------------------------------------

_RSAES_OAEP = bytes.fromhex("06092a864886f70d010107")  # RFC 4055, section 4
_MAX_RSA_BITS = 8192  # bounds what a signature check costs; makers use 2048 to 4096. Who uses a key judges its strength
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


def _read_key(spki: Element) -> tuple[PublicKey, frozenset[Quirk]]:
    algorithm, bits = expect(children(spki), SEQUENCE, BITS)
    marked = algorithm.content.startswith(_RSAES_OAEP)
    try:
        key = _read_marked_key(octets_of(bits)) if marked else load_der_public_key(spki.raw)
    except (ValueError, TypeError, OverflowError, UnsupportedAlgorithm) as refusal:
        raise UnsupportedCertificateKey("A certificate's key can't be used.", seen=str(refusal)[:120]) from None
    quirks = frozenset([Quirk.RSAES_OAEP_KEY] * marked)
    if isinstance(key, rsa.RSAPublicKey) and key.key_size <= _MAX_RSA_BITS:
        return key, quirks
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key, quirks
    raise UnsupportedCertificateKey(
        seen=f"{type(key).__name__} {getattr(key, 'key_size', '')}".strip(),
        expected=f"RSA of at most {_MAX_RSA_BITS} bits, or NIST P-256, P-384 or P-521",
    )


def _read_marked_key(octets: bytes) -> rsa.RSAPublicKey:
    """The RSAPublicKey (RFC 8017, appendix A.1.1) under an algorithm identifier that `cryptography` does not know."""
    modulus, exponent = expect(children(whole(octets)), INTEGER, INTEGER)
    numbers = [int.from_bytes(number.content, "big", signed=True) for number in (exponent, modulus)]
    return rsa.RSAPublicNumbers(*numbers).public_key()


# ---- Validity and extensions: the departures that have a name ---------------------------------------------------


def _read_claims(parts: _Parts) -> tuple[Claims, frozenset[Quirk]]:
    # `cryptography` warns of a serial number below one and announces that it will refuse it: asn1crypto reads these.
    if int.from_bytes(parts.serial.content, "big", signed=True) > 0:
        try:
            return read_strictly(parts.der, parts.extensions.raw if parts.extensions else b""), frozenset()
        except MalformedCertificate:
            departures = _departures(parts)
            if not departures:
                raise
    else:
        departures = _departures(parts) | {Quirk.ODD_SERIAL}
    return read_leniently(parts.validity, parts.extensions), departures


_NOT_A_CA_WRITTEN_OUT = b"\x30\x03\x01\x01\x00"


def _departures(parts: _Parts) -> frozenset[Quirk]:
    """The named departures from DER in a certificate that `cryptography` refused."""
    found: set[Quirk] = set()
    serial = parts.serial.content
    if len(serial) > 1 and serial[0] in (0x00, 0xFF) and serial[0] >> 7 == serial[1] >> 7:
        found.add(Quirk.LONG_SERIAL)
    if parts.algorithm.content in _ECDSA_WITH_NULL:
        found.add(Quirk.ECDSA_NULL)
    names = [parts.issuer, parts.subject]
    for oid, critical, value in list_extensions(parts.extensions):
        if critical is False or (oid == BASIC_CONSTRAINTS and value == _NOT_A_CA_WRITTEN_OUT):
            found.add(Quirk.ENCODED_DEFAULT)
        if oid == ALTERNATIVE_NAME:
            names += directory_names(value)
    for relative in (relative for name in names for relative in children(name)):
        encoded = [attribute.raw for attribute in children(relative)]
        if encoded != sorted(encoded):  # X.690, section 11.6
            found.add(Quirk.SET_ORDER)
    return frozenset(found)
