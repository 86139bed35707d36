"""A certificate's fields, cut from its octets in one walk, for certificates of the form that services issue.

The form is RFC 5280's (section 4.1) with what fleets have: version 3, a P-256 key, ECDSA with SHA-2, times before 2050.
DER spells each value in one way (X.690, section 10), so most of the form is compared rather than interpreted. What is
cut is what `cryptography` reads in the same octets, in a fraction of the time. Whatever is not of the form, however
legitimate, gives None: `cryptography` judges it. Names and extensions are cut here and read elsewhere, but for those
extensions that differ from device to device.

Everything read here is untrusted. Nothing recurses, and no more is copied than was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.facts import der_length

WITH_SHA256, WITH_SHA384, WITH_SHA512 = ec.ECDSA(hashes.SHA256()), ec.ECDSA(hashes.SHA384()), ec.ECDSA(hashes.SHA512())
_INTEGER, _BITS, _OCTETS, _SEQUENCE, _EXTENSIONS = 0x02, 0x03, 0x04, 0x30, 0xA3
_URI, _DNS_NAME, _IP_ADDRESS = 0x86, 0x82, 0x87  # GeneralName (RFC 5280, section 4.2.1.6)
_V3: Final = bytes.fromhex("a003020102")
# RFC 5758, section 3.2: AlgorithmIdentifiers without parameters, of one size.
_ALGORITHMS: Final = {
    bytes.fromhex("300a06082a8648ce3d040302"): WITH_SHA256,
    bytes.fromhex("300a06082a8648ce3d040303"): WITH_SHA384,
    bytes.fromhex("300a06082a8648ce3d040304"): WITH_SHA512,
}
_ALGORITHM: Final = 12
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
# Of these each certificate has its own.
URIS, KEY_ID, FACTS = "uris", "key_id", "facts"  # what those extensions say that each certificate has for itself
_OWN: Final = frozenset((URIS, KEY_ID, FACTS))
MAX_PARTS, MAX_PART = 256, 1024  # names, and as many extensions, that are known; octets of each


class _OtherForm(Exception):
    """The octets are not of the form."""


class Fields(NamedTuple):
    """The fields as they came, and well formed, but for names and extensions, which nobody has read yet."""

    signed: bytes  # the TBS part
    serial: int
    algorithm: ec.ECDSA
    issuer_name: bytes  # DER
    not_before: datetime
    not_after: datetime
    subject_name: bytes  # DER
    point: bytes  # of P-256, uncompressed
    extensions: tuple[bytes, ...]  # DER
    signature: bytes


def cut_fields(der: bytes) -> Fields | None:
    """The fields of a certificate of the form; None for any other octets."""
    try:
        return _cut(der)
    except (_OtherForm, IndexError, ValueError):
        return None


def _cut(der: bytes) -> Fields:
    # Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }
    tbs, end = _inside(der, 0, _SEQUENCE)
    at, tbs_end = _inside(der, tbs, _SEQUENCE)
    octets, signature_end = _inside(der, tbs_end + _ALGORITHM, _BITS)
    if end != len(der) or signature_end != end or der[octets] != 0 or octets + 1 == end:  # whole octets
        raise _OtherForm
    # TBSCertificate ::= SEQUENCE { version, serialNumber, signature, issuer, validity, subject, … }
    if der[at : at + len(_V3)] != _V3:
        raise _OtherForm
    begin, at = _inside(der, at + len(_V3), _INTEGER)
    serial = der[begin:at]
    if serial[0] & 0x80 or (serial[0] == 0 and len(serial) > 1 and not serial[1] & 0x80):
        raise _OtherForm
    name = at + _ALGORITHM
    spelled = der[at:name]
    if spelled != der[tbs_end : tbs_end + _ALGORITHM] or spelled not in _ALGORITHMS:  # RFC 5280, 4.1.1.2
        raise _OtherForm
    _, dates = _inside(der, name, _SEQUENCE)
    if der[dates : dates + 4] != b"\x30\x1e\x17\x0d" or der[dates + 17 : dates + 19] != b"\x17\x0d":
        raise _OtherForm
    subject = dates + 32
    _, key = _inside(der, subject, _SEQUENCE)
    at = key + len(_P256_KEY)
    extensions = at + 2 * _SIZE
    if der[key:at] != _P256_KEY or not _on_curve(der[at:extensions]):
        raise _OtherForm
    # … extensions [3] EXPLICIT SEQUENCE, and nothing before or behind it }
    at, outer_end = _inside(der, extensions, _EXTENSIONS)
    at, inner_end = _inside(der, at, _SEQUENCE)
    if outer_end != tbs_end or inner_end != tbs_end or at == tbs_end:
        raise _OtherForm
    return Fields(
        der[tbs:tbs_end],
        int.from_bytes(serial, "big"),
        _ALGORITHMS[spelled],
        der[name:dates],
        _moment(der[dates + 4 : dates + 17]),
        _moment(der[dates + 19 : subject]),
        der[subject:key],
        der[extensions - 2 * _SIZE - 1 : extensions],
        _elements(der, at, tbs_end),
        der[octets + 1 : end],
    )


def _elements(der: bytes, at: int, end: int) -> tuple[bytes, ...]:
    """The SEQUENCEs that fill these octets."""
    found = []
    while at < end:
        begin = at
        if der[at] == _SEQUENCE and der[at + 1] < 0x80:  # most
            at += 2 + der[at + 1]
        else:
            _, at = _inside(der, at, _SEQUENCE)
        found.append(der[begin:at])
    if at != end:
        raise _OtherForm
    return tuple(found)


def _inside(der: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where the content begins and ends of the element with this tag; its length is in the shortest form."""
    if der[at] != tag:
        raise _OtherForm
    size, begin = der[at + 1], at + 2
    if size >= 0x80:
        if size == 0x81:
            size, begin = der[begin], at + 3
            shortest = 0x80
        elif size == 0x82:
            size, begin = der[begin] << 8 | der[at + 3], at + 4
            shortest = 0x100
        else:
            raise _OtherForm
        if size < shortest:
            raise _OtherForm
    end = begin + size
    if end > len(der):
        raise _OtherForm
    return begin, end


def _on_curve(coordinates: bytes) -> bool:
    x, y = int.from_bytes(coordinates[:_SIZE], "big"), int.from_bytes(coordinates[_SIZE:], "big")
    return x < _P and y < _P and (y * y - (x * x - 3) * x - _B) % _P == 0


def _moment(text: bytes) -> datetime:
    """UTCTime of RFC 5280, section 4.1.2.5.1: YYMMDDHHMMSSZ, here from 2000 to 2049. Raises ValueError."""
    if not text[:12].isdigit() or text[12:] != b"Z" or text[0] >= 0x35 or text[6:8] > b"23":
        raise _OtherForm
    return datetime.fromisoformat(f"20{text[:6].decode()}T{text[6:].decode()}")


class KnownParts:
    """Names and extensions that `cryptography` has read, by their octets: a fleet's certificates share most of them.

    What they say depends on nothing else. They may stem from certificates that nobody proved: to remember them believes
    nothing, and takes bounded room.
    """

    def __init__(self) -> None:
        self._names: set[bytes] = set()
        self._extensions: dict[bytes, tuple[str, Any]] = {}

    def values(self, fields: Fields) -> dict[str, Any] | None:
        """What each extension says, by its name; None if some part is not known, or an extension comes twice."""
        if fields.issuer_name not in self._names or fields.subject_name not in self._names:
            return None
        found: dict[str, Any] = {}
        for extension in fields.extensions:
            known = self._extensions.get(extension) or read_extension(extension)
            if known is None or known[0] in found:
                return None
            found[known[0]] = known[1]
        return found

    def learn(self, fields: Fields, values: Mapping[str, Any]) -> None:
        """`values`: what `cryptography` read in this certificate's extensions, in their order."""
        for name in (fields.issuer_name, fields.subject_name):
            if len(name) <= MAX_PART:
                if len(self._names) >= MAX_PARTS:
                    self._names.clear()
                self._names.add(name)
        for extension, said in zip(fields.extensions, values.items(), strict=True):
            if len(extension) <= MAX_PART and said[0] not in _OWN:
                if len(self._extensions) >= MAX_PARTS:
                    self._extensions.clear()
                self._extensions[extension] = said


# ---- The extensions that differ from device to device -------------------------------------------------------------


def read_extension(extension: bytes) -> tuple[str, tuple[str, ...] | bytes] | None:
    """What an Extension (DER) says, by its name: the URIs, the facts' octets, the key's identifier.

    None for any other kind, and for these in another form.
    """
    heads = _heads(len(extension))
    for head in heads.names:
        if extension.startswith(head):
            uris = _uris(extension, len(head))
            return None if uris is None else (URIS, uris)
    if extension.startswith(heads.facts):
        return FACTS, extension[len(heads.facts) :]
    if extension.startswith(heads.key_id):
        return KEY_ID, extension[len(heads.key_id) :]
    return None


def _uris(names: bytes, at: int) -> tuple[str, ...] | None:
    """The URIs among these GeneralNames, of at most 127 octets each."""
    found = []
    while at + 1 < len(names):
        kind, begin = names[at], at + 2
        at = begin + names[begin - 1]
        name = names[begin:at]
        if names[begin - 1] >= 0x80 or at > len(names):
            return None
        if kind == _URI and name.isascii():
            found.append(name.decode("ascii"))
        elif not (kind == _DNS_NAME and name.isascii()) and not (kind == _IP_ADDRESS and len(name) in (4, 16)):
            return None
    return tuple(found) if at == len(names) else None


class _Heads(NamedTuple):
    names: tuple[bytes, bytes]  # up to the first name; critical, and not
    facts: bytes  # up to the extension's value
    key_id: bytes  # up to the identifier


@lru_cache(maxsize=1024)
def _heads(size: int) -> _Heads:
    """How an Extension of this size begins: the length is known from the outside, so heads are compared, not parsed."""
    return _Heads(
        (
            _head(size, _SEQUENCE, _CRITICAL_NAMES, _OCTETS, _SEQUENCE),
            _head(size, _SEQUENCE, _NAMES, _OCTETS, _SEQUENCE),
        ),
        _head(size, _SEQUENCE, _FACTS, _OCTETS),
        _head(size, _SEQUENCE, _KEY_ID, _OCTETS, _OCTETS),
    )


def _head(size: int, *parts: int | bytes) -> bytes:
    """What comes before the content of elements within one another, `size` octets in all, which end together.

    `parts`: their tags, and the octets that stand between them. No length fits some sizes: then what nothing begins
    with.
    """
    made = b""
    for part in parts:
        if isinstance(part, bytes):
            made += part
            continue
        left = size - len(made)
        fitting = [n for n in (1, 2, 3) if left > n and len(der_length(left - 1 - n)) == n]
        if not fitting:
            return _NOTHING
        made += bytes((part,)) + der_length(left - 1 - fitting[0])
    return made
