"""What was signed, read and compared with what was meant, before it may leave.

`tbs` writes certificates; another implementation stands against it here. The library reads the finished certificate,
strictly, and its values must be the specification's. What the library's interface does not tell apart (how a point or a
time is spelled, fields that it has no name for) and the extensions are compared in octets with those that the library
writes: DER spells each value in one way (X.690, section 10). Facts are read as relying parties read them. So no error
of the writer gets out, none in what it keeps from one certificate to the next, and nothing that a signing module made.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import TYPE_CHECKING, NoReturn, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.der import content, elements, tlv
from attestd.ca.profiles import key_usage
from attestd.credentials.facts import Facts
from attestd.errors import AttestdError, InputTooLarge, MalformedInput

if TYPE_CHECKING:
    from attestd.ca.certificates import CertificateSpec
    from attestd.ca.signer import Signer

_ES256 = ec.ECDSA(hashes.SHA256())
# All spelled once more, and by hand: what is shared with the writer would not be compared.
_ECDSA_WITH_SHA256 = bytes.fromhex("300a 0608 2a8648ce3d040302")  # RFC 5758, section 3.2: no parameters
_NOBODY = bytes.fromhex("3000")
_BIT_STRING = bytes.fromhex("03")
_EXTENSIONS = bytes.fromhex("a3")
_CRITICAL = bytes.fromhex("0101ff")
_BASIC = bytes.fromhex("0603 551d13")
_USAGE = bytes.fromhex("0603 551d0f")
_PURPOSES = bytes.fromhex("0603 551d25")
_NAMES = bytes.fromhex("0603 551d11")
_AUTHORITY = bytes.fromhex("0603 551d23")
_OWN = bytes.fromhex("0603 551d0e")
_FACTS = bytes.fromhex("0622 2a864886f71401be40937a83a76683b16881af1a818d4a829d3581b09b708587b046")
_LISTS = bytes.fromhex("0603 551d1f")

_FIELDS = (
    "serial number",
    "algorithm",
    "issuer",
    "beginning",
    "end",
    "size of times",
    "subject",
    "public key",
    "last field",
    "signature algorithm",
)
_CALLED = {
    _BASIC: "basic constraints",
    _USAGE: "key usage",
    _PURPOSES: "extended key usage",
    _NAMES: "names",
    _AUTHORITY: "authority key identifier",
    _OWN: "subject key identifier",
    _FACTS: "facts",
    _LISTS: "CRL distribution point",
}


class SignedBytesDiffer(AttestdError):
    """What was signed is not what was meant"""

    remedy = (
        "Stop issuing and examine the signing key's module: it signed something else, and nothing left the service."
    )


def require_as_meant(der: bytes, spec: CertificateSpec, issuer: Signer) -> None:
    """Raises SignedBytesDiffer unless `der` is the certificate that `spec` describes, signed by `issuer`.

    1. The signature over these very octets is the issuer's.
    2. It is a certificate, to the last octet, with the fields that it must have and no others.
    3. Each field is the one that was meant.
    4. Each extension is, and there are no others.
    """
    same = _in_common(issuer.certificate, spec.profile.key_usage, spec.profile.extended_key_usage, spec.crl_url)
    try:
        tbs, outer, signature = elements(der)
        _require_signed(tbs, signature, same.key)  # 1: first, since the signing just before has warmed the caches
        certificate = x509.load_der_x509_certificate(der)  # 2
        # Version 3 alone has eight with extensions for the last; the library refuses version 2.
        _, _, inner, named, period, subject, key, extensions = elements(tbs)
    except (ValueError, IndexError, x509.InvalidVersion) as error:
        raise SignedBytesDiffer("The signed octets are not a certificate of the form meant.", seen=error) from None
    begins, ends = spec.not_before, spec.not_after
    found = (
        certificate.serial_number,
        inner,
        named,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        len(period),
        subject,
        key,
        extensions[:1],
        outer,
    )
    meant = (
        spec.serial.number,
        _ECDSA_WITH_SHA256,
        same.issuer,
        begins,
        ends,
        # 15 octets a time, and two more from 2050 on (RFC 5280, section 4.1.2.5).
        32 + 2 * (begins.year >= 2050) + 2 * (ends.year >= 2050),
        _NOBODY,
        spec.spki,
        _EXTENSIONS,
        _ECDSA_WITH_SHA256,
    )
    if found != meant:  # 3
        _refuse_field(found, meant)
    _require_extensions(content(content(extensions)), spec, same)  # 4


def _require_signed(tbs: bytes, signature: bytes, key: ec.EllipticCurvePublicKey) -> None:
    """`signature`: the BIT STRING, whose length is one octet, as that of every signature by a P-256 key."""
    if signature[:1] != _BIT_STRING or signature[2:3] != b"\x00":  # no bits of its last octet are left out
        raise SignedBytesDiffer("The signature is not the issuer's.", seen=signature[:3].hex(), expected="a bit string")
    try:
        key.verify(signature[3:], tbs, _ES256)
    except InvalidSignature:
        raise SignedBytesDiffer("The signature is not the issuer's.") from None


def _require_extensions(found: bytes, spec: CertificateSpec, same: _Common) -> None:
    """`found`: all of them, one after the other."""
    # RFC 5280, section 4.2.1.2, method 1: of the key's point, which is its last 65 octets.
    own = hashlib.sha1(spec.spki[-65:], usedforsecurity=False).digest()
    meant = same.uses + _names(spec) + same.identifiers + own
    if spec.facts is None:
        if found != meant + same.lists:
            _refuse_extension(found, meant + same.lists)
        return
    facts = found[len(meant) : len(found) - len(same.lists)]
    if found != meant + facts + same.lists or not _are_facts(facts, spec.facts):
        _refuse_extension(found, meant + _extension(_FACTS, spec.facts.to_extension()) + same.lists)


def _names(spec: CertificateSpec) -> bytes:
    uri = str(spec.spiffe_id)
    if not spec.dns_names and not spec.ip_addresses:
        return _before_name(len(uri)) + uri.encode("ascii")
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
    names += [x509.DNSName(name) for name in spec.dns_names]
    names += [x509.IPAddress(address) for address in spec.ip_addresses]
    return _extension(_NAMES + _CRITICAL, x509.SubjectAlternativeName(names))


def _are_facts(extension: bytes, meant: Facts) -> bool:
    """Whether relying parties, who refuse each spelling but one, read these facts from it."""
    try:
        inside = content(extension)
        seen = Facts.from_extension(content(inside[len(_FACTS) :]))
    except (ValueError, IndexError, MalformedInput, InputTooLarge):
        return False
    if not inside.startswith(_FACTS) or seen != meant:
        return False
    # True equals 1 in Python, but not for policies.
    return not meant.boot or all(type(seen.boot[fact]) is type(held) for fact, held in meant.boot.items())


def _extension(name: bytes, value: x509.ExtensionType) -> bytes:
    return tlv(0x30, name + tlv(0x04, value.public_bytes()))


# ---- Which one it is, once it is known that one differs ----------------------------------------------------------


def _refuse_field(found: tuple[object, ...], meant: tuple[object, ...]) -> NoReturn:
    for name, seen, expected in zip(_FIELDS, found, meant, strict=True):
        if seen != expected:
            raise SignedBytesDiffer(
                f"The signed certificate's {name} is not what was meant.", seen=_shown(seen), expected=_shown(expected)
            )
    raise AssertionError("unreachable")


def _refuse_extension(found: bytes, meant: bytes) -> NoReturn:
    for seen, expected in zip_longest(elements(tlv(0x30, found)), elements(tlv(0x30, meant)), fillvalue=b""):
        if seen != expected:
            name = _CALLED[elements(expected)[0]] if expected else "number of extensions"
            raise SignedBytesDiffer(
                f"The signed certificate's {name} is not what was meant.", seen=seen.hex(), expected=expected.hex()
            )
    raise SignedBytesDiffer("The signed certificate's facts are not what was meant.", seen=found.hex())


def _shown(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


# ---- What certificates of one issuer and profile have in common -------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Common:
    """Read from the issuer's own certificate, and written by the library."""

    issuer: bytes
    key: ec.EllipticCurvePublicKey
    uses: bytes  # basic constraints, key usage, extended key usage
    identifiers: bytes  # the authority's key identifier, and the subject's up to its 20 octets
    lists: bytes  # the CRL distribution point, if there is one


@lru_cache(maxsize=64)
def _in_common(
    issuer: x509.Certificate,
    usages: frozenset[str],
    purposes: tuple[x509.ObjectIdentifier, ...],
    crl_url: str | None,
) -> _Common:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    lists = b""
    if crl_url is not None:
        point = x509.DistributionPoint([x509.UniformResourceIdentifier(crl_url)], None, None, None)
        lists = _extension(_LISTS, x509.CRLDistributionPoints([point]))
    return _Common(
        issuer=elements(issuer.tbs_certificate_bytes)[5],
        key=cast("ec.EllipticCurvePublicKey", issuer.public_key()),
        uses=_extension(_BASIC + _CRITICAL, x509.BasicConstraints(ca=False, path_length=None))
        + _extension(_USAGE + _CRITICAL, key_usage(usages))
        + _extension(_PURPOSES, x509.ExtendedKeyUsage(purposes)),
        identifiers=_extension(_AUTHORITY, x509.AuthorityKeyIdentifier(identifier, None, None))
        + _extension(_OWN, x509.SubjectKeyIdentifier(bytes(20)))[:-20],
        lists=lists,
    )


@lru_cache(maxsize=2048)  # a SPIFFE ID has at most 2048 octets
def _before_name(size: int) -> bytes:
    """Of an extension with one URI of this many characters, what stands before the URI."""
    one = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("x" * size)])
    return _extension(_NAMES + _CRITICAL, one)[:-size]
