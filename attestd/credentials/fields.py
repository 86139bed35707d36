"""A certificate's fields, cut from its octets in one walk, for certificates of the form that services issue.

The form is RFC 5280's (section 4.1) with what fleets have: version 3, a P-256 key, ECDSA with SHA-2, times before 2050.
DER spells each value in one way (X.690, section 10), so most of the form is compared rather than interpreted. What is
cut is what `cryptography` reads in the same octets, in a fraction of the time. Whatever is not of the form, however
legitimate, gives None: `cryptography` judges it. Names and extensions are cut here and read elsewhere, but for those
extensions that differ from device to device.

Everything read here is untrusted. Nothing recurses, and no more is copied than was given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.facts import der_header

WITH_SHA256, WITH_SHA384, WITH_SHA512 = ec.ECDSA(hashes.SHA256()), ec.ECDSA(hashes.SHA384()), ec.ECDSA(hashes.SHA512())
_BITS, _OCTETS, _SEQUENCE, _EXTENSIONS = 0x03, 0x04, 0x30, 0xA3
_URI, _DNS_NAME, _IP_ADDRESS = 0x86, 0x82, 0x87  # GeneralName (RFC 5280, section 4.2.1.6)
_LARGE: Final = b"\x30\x82"  # a SEQUENCE of 256 octets or more, up to its length
_BEFORE_SERIAL: Final = bytes.fromhex("a00302010202")  # version 3; what follows is the serial number's length
_MAX_SERIAL: Final = 20  # octets
# RFC 5758, section 3.2: AlgorithmIdentifiers without parameters, of one size.
_ALGORITHMS: Final = {
    bytes.fromhex("300a06082a8648ce3d040302"): WITH_SHA256,
    bytes.fromhex("300a06082a8648ce3d040303"): WITH_SHA384,
    bytes.fromhex("300a06082a8648ce3d040304"): WITH_SHA512,
}
_ALGORITHM: Final = 12
# RFC 5280, section 4.1.2.5.1: Validity with two UTCTimes, here from 2000 to 2049, as days and times.
_VALIDITY: Final = re.compile(
    r"\x30\x1e\x17\x0d([0-4]\d{5})([01]\d{5}|2[0-3]\d{4})Z\x17\x0d([0-4]\d{5})([01]\d{5}|2[0-3]\d{4})Z", re.ASCII
)
_DATES: Final = 32
# RFC 5480, section 2: SubjectPublicKeyInfo of a P-256 key, up to the octet that says "uncompressed point".
_P256_KEY: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
# SEC 2 (version 2), section 2.4.2: y^2 = x^3 - 3x + b over the field of p elements.
_P: Final = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_B: Final = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_SIZE: Final = 32
# The extensions that are read here: their OID, and whether they are critical.
_NAMES: Final = bytes.fromhex("0603551d11")
_CRITICAL_NAMES: Final = _NAMES + b"\x01\x01\xff"
_FACTS: Final = bytes.fromhex("06222a864886f71401be40937a83a76683b16881af1a818d4a829d3581b09b708587b046")
_KEY_ID: Final = bytes.fromhex("0603551d0e")
_NOTHING: Final = b"\0"  # what no Extension begins with
URIS, KEY_ID, FACTS = "uris", "key_id", "facts"  # what those extensions say that each certificate has for itself
_OWN: Final = frozenset((URIS, KEY_ID, FACTS))
MAX_PARTS, MAX_PART = 256, 1024  # names, and as many extensions, that are known; octets of each


Said = TypeVar("Said")


class OtherForm(Exception):
    """The octets are not of the form."""


class Fields(NamedTuple):
    """The fields before the extensions as they came, and the signature; well formed but for the names, which nobody has
    read yet."""

    signed: bytes  # the TBS part
    serial: int
    algorithm: ec.ECDSA
    issuer_name: bytes  # DER
    not_before: datetime
    not_after: datetime
    subject_name: bytes  # DER
    point: bytes  # of P-256, uncompressed
    signature: bytes


class KnownParts:
    """Names and extensions that `cryptography` has read, by their octets: a fleet's certificates share most of them.

    What they say depends on nothing else. They may stem from certificates that nobody proved: to remember them believes
    nothing, and takes bounded room.
    """

    def __init__(self) -> None:
        self._names: dict[bytes, bool] = {}
        self._extensions: dict[bytes, tuple[str, Any]] = {}

    def read(self, der: bytes) -> tuple[Fields, dict[str, Any]] | None:
        """A certificate of the form whose parts are known: its fields, and what its extensions say, by their names."""
        try:
            fields, at, end = _cut(der)
            return fields, self._said(fields, der, at, end)
        except (OtherForm, IndexError):
            return None

    def _said(self, fields: Fields, der: bytes, at: int, end: int) -> dict[str, Any]:
        if fields.issuer_name not in self._names or fields.subject_name not in self._names:
            raise OtherForm
        found: dict[str, Any] = {}
        known = self._extensions.get
        while at < end:
            begin, length = at, der[at + 1]
            at = at + 2 + length if length < 0x80 and der[at] == _SEQUENCE else _after(der, at)
            extension = der[begin:at]
            name, said = known(extension) or read_extension(extension)
            if name in found:
                raise OtherForm
            found[name] = said
        if at != end:
            raise OtherForm
        return found

    def learn(self, der: bytes, values: Mapping[str, Any]) -> None:
        """`values`: what `cryptography` read in this certificate's extensions, in their order."""
        with suppress(OtherForm, IndexError):
            fields, at, _ = _cut(der)
            for part in (fields.issuer_name, fields.subject_name):
                _keep(self._names, part, True)
            for name, said in values.items():
                begin, at = at, _after(der, at)
                if name not in _OWN:
                    _keep(self._extensions, der[begin:at], (name, said))


def _keep(known: dict[bytes, Said], part: bytes, said: Said) -> None:
    if len(part) <= MAX_PART:
        if len(known) >= MAX_PARTS:
            known.clear()  # a fleet has a few; who sends others makes the edge read a few again
        known[part] = said


def _cut(der: bytes) -> tuple[Fields, int, int]:
    """The fields, and where the extensions begin and end. Raises OtherForm, IndexError."""
    # Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }, the latter of whole octets
    if der[:2] != _LARGE or der[4:6] != _LARGE or der[8:14] != _BEFORE_SERIAL:
        raise OtherForm
    size, tbs_end = len(der), 8 + (der[6] << 8 | der[7])
    bits = tbs_end + _ALGORITHM
    if size != 4 + (der[2] << 8 | der[3]) or not der[6]:
        raise OtherForm
    if not 3 < size - bits < 2 + 0x80 or der[bits : bits + 3] != bytes((_BITS, size - bits - 2, 0)):
        raise OtherForm
    # TBSCertificate ::= SEQUENCE { version, serialNumber, signature, issuer, validity, subject, … }
    length = der[14]
    at = 15 + length
    serial = der[15:at]
    if not 0 < length <= _MAX_SERIAL or serial[0] & 0x80 or (length > 1 and not serial[0] and not serial[1] & 0x80):
        raise OtherForm
    issuer = at + _ALGORITHM
    spelled = der[at:issuer]
    if spelled not in _ALGORITHMS or spelled != der[tbs_end:bits]:  # RFC 5280, 4.1.1.2
        raise OtherForm
    dates = _after(der, issuer)
    subject = dates + _DATES
    validity = _VALIDITY.fullmatch(der[dates:subject].decode("latin-1"))
    if validity is None:
        raise OtherForm
    key = _after(der, subject)
    point, at = key + len(_P256_KEY), key + len(_P256_KEY) + 2 * _SIZE
    if der[key:point] != _P256_KEY or not _on_curve(der[point:at]):
        raise OtherForm
    # … extensions [3] EXPLICIT SEQUENCE, and nothing before or behind it }
    head = _extensions_head(tbs_end - at)
    if head is None or not der.startswith(head, at):
        raise OtherForm
    first, first_time, last, last_time = validity.groups()
    fields = Fields(
        der[4:tbs_end],
        int.from_bytes(serial, "big"),
        _ALGORITHMS[spelled],
        der[issuer:dates],
        _moment(first, first_time),
        _moment(last, last_time),
        der[subject:key],
        der[point - 1 : at],
        der[bits + 3 :],
    )
    return fields, at + len(head), tbs_end


def _after(der: bytes, at: int) -> int:
    """Where the SEQUENCE ends that begins here; its length is in the shortest form."""
    if der[at] != _SEQUENCE:
        raise OtherForm
    length = der[at + 1]
    if length < 0x80:
        end = at + 2 + length
    elif length == 0x81 and der[at + 2] >= 0x80:
        end = at + 3 + der[at + 2]
    elif length == 0x82 and der[at + 2]:
        end = at + 4 + (der[at + 2] << 8 | der[at + 3])
    else:
        raise OtherForm
    if end > len(der):
        raise OtherForm
    return end


def _on_curve(coordinates: bytes) -> bool:
    x, y = int.from_bytes(coordinates[:_SIZE], "big"), int.from_bytes(coordinates[_SIZE:], "big")
    return x < _P and y < _P and (y * y - (x * x - 3) * x - _B) % _P == 0


def _moment(day: str, time: str) -> datetime:
    try:
        return datetime.fromisoformat(f"20{day}T{time}Z")
    except ValueError:
        raise OtherForm from None


@lru_cache(maxsize=1024)
def _extensions_head(size: int) -> bytes | None:
    return _head(size, _EXTENSIONS, _SEQUENCE)


# ---- The extensions that differ from device to device -------------------------------------------------------------


def read_extension(extension: bytes) -> tuple[str, tuple[str, ...] | bytes]:
    """What an Extension (DER, framed) says, by its name: the URIs, the facts' octets, the key's identifier.

    Raises OtherForm for any other kind, and for these in another form.
    """
    heads = _heads(len(extension))
    if extension.startswith(heads.uri):
        name = extension[len(heads.uri) :]
        if not name.isascii():
            raise OtherForm
        return URIS, (name.decode("ascii"),)
    if extension.startswith(heads.facts):
        return FACTS, extension[len(heads.facts) :]
    if extension.startswith(heads.key_id):
        return KEY_ID, extension[len(heads.key_id) :]
    for head in heads.names:
        if extension.startswith(head):
            return URIS, _uris(extension, len(head))
    raise OtherForm


def _uris(names: bytes, at: int) -> tuple[str, ...]:
    """The URIs among these GeneralNames, of at most 127 octets each."""
    found = []
    while at + 1 < len(names):
        kind, begin = names[at], at + 2
        at = begin + names[begin - 1]
        name = names[begin:at]
        if names[begin - 1] >= 0x80 or at > len(names):
            raise OtherForm
        if kind == _URI and name.isascii():
            found.append(name.decode("ascii"))
        elif not (kind == _DNS_NAME and name.isascii()) and not (kind == _IP_ADDRESS and len(name) in (4, 16)):
            raise OtherForm
    if at != len(names):
        raise OtherForm
    return tuple(found)


class _Heads(NamedTuple):
    uri: bytes  # of critical names that are one URI, up to the URI
    facts: bytes  # up to the extension's value
    key_id: bytes  # up to the identifier
    names: tuple[bytes, bytes]  # up to the first name; critical, and not


@lru_cache(maxsize=1024)
def _heads(size: int) -> _Heads:
    """How an Extension of this size begins: the length is known from the outside, so heads are compared, not parsed."""

    def head(*parts: int | bytes) -> bytes:
        return _head(size, _SEQUENCE, *parts) or _NOTHING

    return _Heads(
        head(_CRITICAL_NAMES, _OCTETS, _SEQUENCE, _URI),
        head(_FACTS, _OCTETS),
        head(_KEY_ID, _OCTETS, _OCTETS),
        (head(_CRITICAL_NAMES, _OCTETS, _SEQUENCE), head(_NAMES, _OCTETS, _SEQUENCE)),
    )


def _head(size: int, *parts: int | bytes) -> bytes | None:
    """What comes before the content of elements within one another, `size` octets in all, which end together; `parts`
    are their tags, and the octets that stand between them. None if no lengths fit."""
    made = b""
    for part in parts:
        header = part if isinstance(part, bytes) else der_header(part, size - len(made))
        if header is None:
            return None
        made += header
    return made
