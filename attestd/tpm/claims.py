"""What a certificate claims in its validity and its extensions, by two readers that must agree.

RFC 5280, sections 4.1.2.5 (validity) and 4.2 (extensions). `read_strictly` is `cryptography`, which refuses whatever is
not DER; `read_leniently` is asn1crypto, for the certificates whose departures from DER have a name (see `ekcert`). The
tests compare the two on every well-formed certificate at hand.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple, TypeVar, cast

from asn1crypto import core as asn1
from asn1crypto import x509 as lenient
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from attestd.tpm.der import (
    BOOLEAN,
    OCTETS,
    OID,
    Element,
    MalformedCertificate,
    children,
    expect,
    read_name,
    read_oid,
    whole,
)

BASIC_CONSTRAINTS = "2.5.29.19"
KEY_USAGE = "2.5.29.15"
EXTENDED_KEY_USAGE = "2.5.29.37"
ALTERNATIVE_NAME = "2.5.29.17"
POLICIES = "2.5.29.32"
SUBJECT_KEY_ID = "2.5.29.14"
AUTHORITY_KEY_ID = "2.5.29.35"
NAME_CONSTRAINTS = "2.5.29.30"
POLICY_CONSTRAINTS = "2.5.29.36"
INHIBIT_ANY_POLICY = "2.5.29.54"

# Key usages (RFC 5280, section 4.2.1.3) as `cryptography` and as asn1crypto spell them.
_USAGES = {
    "digital_signature": "digital_signature",
    "content_commitment": "non_repudiation",
    "key_encipherment": "key_encipherment",
    "data_encipherment": "data_encipherment",
    "key_agreement": "key_agreement",
    "key_cert_sign": "key_cert_sign",
    "crl_sign": "crl_sign",
}

# Everything that the two libraries are known to raise on octets that are not what they say.
_STRICT_FAILURES = (
    ValueError,
    TypeError,
    OverflowError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)
_LENIENT_FAILURES = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)


class Claims(NamedTuple):
    """What an unverified certificate says in its validity and its extensions; None where it says nothing.

    `usages` are the names of RFC 5280, section 4.2.1.3, as `cryptography` spells them; `purposes` are the extended key
    usage's OIDs; `directory_names` are the subject alternative name's, as (OID, text) pairs in their order;
    `extensions` and `critical` are the OIDs of all extensions and of the critical ones.
    """

    not_before: datetime
    not_after: datetime
    is_ca: bool
    path_length: int | None
    usages: frozenset[str] | None
    purposes: frozenset[str] | None
    subject_key_id: bytes | None
    authority_key_id: bytes | None
    directory_names: tuple[tuple[tuple[str, str], ...], ...]
    extensions: frozenset[str]
    critical: frozenset[str]


# The fields of `Claims` after the dates.
_Said = tuple[
    bool,
    int | None,
    frozenset[str] | None,
    frozenset[str] | None,
    bytes | None,
    bytes | None,
    tuple[tuple[tuple[str, str], ...], ...],
    frozenset[str],
    frozenset[str],
]
_Value = TypeVar("_Value", bound=x509.ExtensionType)


def read_strictly(der: bytes, extensions: bytes | None = None) -> Claims:
    """The claims of a certificate that keeps every rule; MalformedCertificate for any other.

    `extensions` are the very octets of its extensions, if they have been cut out already. All TPMs of a batch have the
    same, and what stands in them is read once: three quarters of the work. Dates and the rest are read every time.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        said = None if extensions is None else _known.get(extensions)
        if said is None:
            said = _read_extensions(certificate)
            if extensions is not None and len(extensions) <= _MOST_REMEMBERED:
                if len(_known) >= _MOST_KNOWN:  # then it begins anew
                    _known.clear()
                _known[extensions] = said
        return Claims(certificate.not_valid_before_utc, certificate.not_valid_after_utc, *said)
    except _STRICT_FAILURES as refusal:
        raise MalformedCertificate("This is not a well-formed certificate.", seen=str(refusal)[:160]) from None


# What extensions said, by their octets. Anybody can fill it: it is bounded, and only what was read well is kept.
_known: dict[bytes, _Said] = {}
_MOST_KNOWN = 256
_MOST_REMEMBERED = 2048  # octets; makers' have 200 to 900


def _read_extensions(certificate: x509.Certificate) -> _Said:
    extensions = list(certificate.extensions)
    values = {type(extension.value): extension.value for extension in extensions}  # `cryptography` allows each once

    def pick(kind: type[_Value]) -> _Value | None:
        return cast("_Value | None", values.get(kind))

    basic, usage = pick(x509.BasicConstraints), pick(x509.KeyUsage)
    purposes, names = pick(x509.ExtendedKeyUsage), pick(x509.SubjectAlternativeName)
    subject_key, authority_key = pick(x509.SubjectKeyIdentifier), pick(x509.AuthorityKeyIdentifier)
    return (
        basic is not None and basic.ca,
        None if basic is None else basic.path_length,
        None if usage is None else frozenset(name for name in _USAGES if getattr(usage, name)),
        None if purposes is None else frozenset(purpose.dotted_string for purpose in purposes),
        None if subject_key is None else subject_key.digest,
        None if authority_key is None else authority_key.key_identifier,
        tuple(
            tuple((item.oid.dotted_string, str(item.value)) for item in name)
            for name in (() if names is None else names.get_values_for_type(x509.DirectoryName))
        ),
        frozenset(extension.oid.dotted_string for extension in extensions),
        frozenset(extension.oid.dotted_string for extension in extensions if extension.critical),
    )


def read_leniently(validity: Element, extensions: Element | None) -> Claims:
    """The same claims, of a certificate whose encoding breaks rules; MalformedCertificate where they can't be read."""
    try:
        return _read_leniently(validity, extensions)
    except _LENIENT_FAILURES as failure:
        raise MalformedCertificate("This is not a well-formed certificate.", seen=str(failure)[:160]) from None


def _read_leniently(validity: Element, extensions: Element | None) -> Claims:
    dates = lenient.Validity.load(_of_at_most(2, validity.raw))
    values: dict[str, bytes] = {}
    critical = set()
    for oid, is_critical, value in list_extensions(extensions):
        if oid in values:
            raise MalformedCertificate("An extension appears twice.", seen=oid)
        values[oid] = value
        if is_critical:
            critical.add(oid)

    def pick(oid: str, kind: Any, members: int | None = None) -> Any:
        if oid not in values:
            return None
        return kind.load(values[oid] if members is None else _of_at_most(members, values[oid]), strict=True)

    basic, usage = pick(BASIC_CONSTRAINTS, lenient.BasicConstraints, 2), pick(KEY_USAGE, lenient.KeyUsage)
    purposes, subject_key = pick(EXTENDED_KEY_USAGE, lenient.ExtKeyUsageSyntax), pick(SUBJECT_KEY_ID, asn1.OctetString)
    authority_key = pick(AUTHORITY_KEY_ID, lenient.AuthorityKeyIdentifier, 3)
    for policy in pick(POLICIES, lenient.CertificatePolicies) or ():
        policy["policy_identifier"].native  # noqa: B018  (reading it is the check: asn1crypto parses on access)
    return Claims(
        not_before=_date(dates["not_before"].native),
        not_after=_date(dates["not_after"].native),
        is_ca=basic is not None and bool(basic["ca"].native),
        path_length=None if basic is None else basic["path_len_constraint"].native,
        usages=None if usage is None else frozenset(name for name, also in _USAGES.items() if also in usage.native),
        purposes=None if purposes is None else frozenset(purpose.dotted for purpose in purposes),
        subject_key_id=None if subject_key is None else subject_key.native,
        authority_key_id=None if authority_key is None else authority_key["key_identifier"].native,
        directory_names=tuple(read_name(name) for name in directory_names(values.get(ALTERNATIVE_NAME))),
        extensions=frozenset(values),
        critical=frozenset(critical),
    )


def _of_at_most(members: int, sequence: bytes) -> bytes:
    """These octets, if they are a SEQUENCE of so few members: asn1crypto lets more of them pass."""
    if (seen := len(children(whole(sequence)))) > members:
        raise MalformedCertificate("A part of a certificate has too many members.", seen=seen, expected=members)
    return sequence


def _date(read: object) -> datetime:
    if not isinstance(read, datetime):  # asn1crypto has a type of its own for the year 0
        raise MalformedCertificate("A certificate's date is none.", seen=str(read)[:40])
    return read


def list_extensions(extensions: Element | None) -> list[tuple[str, bool | None, bytes]]:
    """(OID, critical, value) of each extension in a TBSCertificate's `[3]` (RFC 5280, section 4.1).

    `critical` is None where the certificate leaves it out, which means false; DER forbids to write false out.
    """
    if extensions is None:
        return []
    found = []
    for item in children(whole(extensions.content)):
        parts = children(item)
        expect(parts, *((OID, BOOLEAN, OCTETS) if len(parts) == 3 else (OID, OCTETS)))
        critical = parts[1].content != b"\0" if len(parts) == 3 else None
        found.append((read_oid(parts[0].content), critical, parts[-1].content))
    return found


_EXTENSIONS = 0xA3  # [3], explicit: TBSCertificate


def extension_of(tbs: bytes, wanted: str) -> bytes | None:
    """The value of one extension, from the octets that were signed; None where there is none. Raises
    MalformedCertificate, also where it stands twice."""
    found = next((item for item in children(whole(tbs)) if item.tag == _EXTENSIONS), None)
    values = [value for oid, _, value in list_extensions(found) if oid == wanted]
    if len(values) > 1:
        raise MalformedCertificate("An extension appears twice.", seen=wanted)
    return values[0] if values else None


_DIRECTORY_NAME = 0xA4  # [4], explicit: a Name is a CHOICE (RFC 5280, section 4.2.1.6)


def directory_names(value: bytes | None) -> list[Element]:
    """The directoryNames of a subject alternative name's value, each as a Name."""
    if value is None:
        return []
    return [whole(name.content) for name in children(whole(value)) if name.tag == _DIRECTORY_NAME]
