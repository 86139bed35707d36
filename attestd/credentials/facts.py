"""What the service has established about a device, as it travels in the device's credentials (docs/protocol.md, 4).

The same JSON object stands in an X.509 certificate (a non-critical private extension whose value is a DER UTF8String)
and in a JWT (the claim `attestd`): `{"v":1,"vec":{},"lbl":{},"boot":{},"idx":n,"att":t}`. `vec` is the AR4SI vector
(draft-ietf-rats-ar4si-09, section 2.3: claim names and values from -128 to 127), `lbl` the operator's labels, `boot`
the boot facts that policies read, `idx` the device's index in the status list, `att` the time of its last attestation.

The octets are canonical: sorted names, no white space, one spelling. Reading refuses any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Self, TypeVar

from cryptography import x509

from attestd.errors import InputTooLarge, MalformedInput
from attestd.protocol.encoding import Members, read_object, write_object

# UUID d3e6d8e8-579a-46ca-8eb5-2c0df0a1d846, under the arc for GUIDs, in seven small arcs (docs/adr/0009-object-ids.md).
FACTS_OID = x509.ObjectIdentifier("1.2.840.113556.1.8000.2554.54246.55528.22426.18122.36533.2887152.10606662")
MAX_FACTS = 1024  # octets of JSON

# draft-ietf-rats-ar4si-09, section 2.3.
VECTOR_CLAIMS = (
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
)
# The tiers of a claim (section 2.3.2).
NONE, AFFIRMING, WARNING, CONTRAINDICATED = "none", "affirming", "warning", "contraindicated"
MAX_INDEX = 1 << 26  # the longest status list a bundle may hold, in entries
_MAX_TIME = 1 << 40
_MAX_NUMBER = 1 << 53  # what every JSON reader keeps exactly (RFC 8259, section 6)

# The names that labels and boot facts may have, and the text they may hold: printable, so safe in logs and pages.
LABEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}", re.ASCII)
MAX_LABEL = 256  # characters of a label's or boot fact's text


class MalformedFacts(MalformedInput):
    """These are not the facts that a credential carries"""

    remedy = "Renew the credential at the service that issued it."


class FactsTooLarge(InputTooLarge):
    """The facts about this device do not fit into a credential"""

    remedy = "Give the device fewer or shorter labels."


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about one device; well formed by construction (MalformedFacts otherwise)."""

    vector: Mapping[str, int]
    labels: Mapping[str, str]
    boot: Mapping[str, str | bool | int]
    status_index: int
    attested_at: int  # unix seconds
    # `boot`, `labels` and `vector` in their canonical JSON, where it is known.
    _spelled: tuple[bytes, bytes, bytes] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_vector(self.vector)
        _check_labels(self.labels)
        _check_boot(self.boot)
        if type(self.status_index) is not int or not 0 <= self.status_index < MAX_INDEX:
            raise MalformedFacts("idx is not a status index.", expected=f"0 to {MAX_INDEX - 1}")
        if type(self.attested_at) is not int or not 0 < self.attested_at < _MAX_TIME:
            raise MalformedFacts("att is not a time.", expected="unix seconds")
        for name in ("vector", "labels", "boot"):  # frozen all the way down: identities are kept in memory for long
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __hash__(self) -> int:
        return hash((self.status_index, self.attested_at, tuple(sorted(self.vector.items()))))

    @classmethod
    def of_fleet(
        cls,
        vector: Mapping[str, int],
        labels: Mapping[str, str],
        boot: Mapping[str, str | bool | int],
        *,
        status_index: int,
        attested_at: int,
    ) -> Facts:
        """These facts, too. What a fleet's devices have in common is checked and kept once for all."""
        spelled = _spelling(_typed(boot)), _spelling(_typed(labels)), _spelling(_typed(vector))
        return _shared(spelled, status_index, attested_at)

    def to_members(self) -> dict[str, Any]:
        """The JSON object, as the JWT claim `attestd` holds it."""
        return {
            "v": 1,
            "vec": dict(self.vector),
            "lbl": dict(self.labels),
            "boot": dict(self.boot),
            "idx": self.status_index,
            "att": self.attested_at,
        }

    def encode(self) -> bytes:
        """The canonical JSON, at most 1024 octets; FactsTooLarge otherwise."""
        boot, labels, vector = self._spelled or [
            write_object(dict(part)) for part in (self.boot, self.labels, self.vector)
        ]
        data = b'{"att":%d,"boot":%b,"idx":%d,"lbl":%b,"v":1,"vec":%b}' % (
            self.attested_at,
            boot,
            self.status_index,
            labels,
            vector,
        )
        if len(data) > MAX_FACTS:
            raise FactsTooLarge(seen=f"{len(data)} octets", expected=f"at most {MAX_FACTS}")
        return data

    @classmethod
    def read(cls, members: Members, *, octets: int = MAX_FACTS + 1) -> Self:
        """From an object that came with something already parsed, such as a token's claims, within so many `octets`."""
        facts = cls._read(members)
        if octets > MAX_FACTS:  # the canonical spelling is the shortest, so what came in fewer fits
            facts.encode()  # the same bound for every carrier
        return facts

    @classmethod
    def _read(cls, members: Members) -> Self:
        members.version()
        facts = cls(
            vector=dict(members.object("vec").items()),
            labels=dict(members.object("lbl").items()),
            boot=dict(members.object("boot").items()),
            status_index=members.integer("idx"),
            attested_at=members.integer("att"),
        )
        members.done()
        return facts

    @classmethod
    def decode(cls, data: bytes) -> Facts:
        """From the canonical JSON, and no other spelling of it. Raises MalformedInput or InputTooLarge."""
        if len(data) <= MAX_FACTS:
            try:
                return _parts(data)
            except MalformedInput:
                pass  # the long way names the fault
        return cls._decode(data)

    @classmethod
    def _decode(cls, data: bytes) -> Facts:
        facts = cls._read(Members(read_object(data, limit=MAX_FACTS, name="facts"), "facts"))
        if facts.encode() != data:
            raise MalformedFacts("The facts are not in their canonical spelling.", expected="sorted, compact JSON")
        return facts

    def to_extension(self) -> x509.UnrecognizedExtension:
        """The X.509 extension: a DER UTF8String; to be added as not critical."""
        data = self.encode()
        return x509.UnrecognizedExtension(FACTS_OID, bytes((_UTF8_STRING,)) + der_length(len(data)) + data)

    @classmethod
    def from_extension(cls, value: bytes) -> Facts:
        """From the extension's value (extnValue's octets). Raises MalformedInput or InputTooLarge."""
        if len(value) > MAX_FACTS + 4:
            raise FactsTooLarge(
                "The facts extension is too large.", seen=f"{len(value)} octets", expected=f"at most {MAX_FACTS + 4}"
            )
        header = der_header(_UTF8_STRING, len(value))
        if header is None or not value.startswith(header):
            raise MalformedFacts("The facts extension is not a UTF8String.", expected="DER: tag 12, definite length")
        return cls.decode(value[len(header) :])


def _parts(data: bytes) -> Facts:
    """The short way, for a fleet's facts differ in little, such as index, time, a label. Raises MalformedInput.

    Three objects and two numbers in their canonical spelling, put into the canonical frame, are the canonical whole;
    where the cuts were made does not matter then.
    """
    attested_at, _, rest = data.removeprefix(b'{"att":').partition(b',"boot":')
    boot, _, rest = rest.partition(b',"idx":')
    status_index, _, rest = rest.partition(b',"lbl":')
    labels, _, rest = rest.rpartition(b',"v":1,"vec":')
    if not (attested_at.isdigit() and status_index.isdigit()):
        raise MalformedFacts
    vector, index, at = rest[:-1], int(status_index), int(attested_at)
    if data != b'{"att":%d,"boot":%b,"idx":%d,"lbl":%b,"v":1,"vec":%b}' % (at, boot, index, labels, vector):
        raise MalformedFacts
    return _shared((boot, labels, vector), index, at)


def _shared(spelled: tuple[bytes, bytes, bytes], status_index: int, attested_at: int) -> Facts:
    """Facts from their parts' spelling (boot, labels, vector); equal parts are one object. Raises MalformedInput."""
    boot, labels, vector = _boot(spelled[0]), _labels(spelled[1]), _vector(spelled[2])
    if (
        type(status_index) is not int
        or not 0 <= status_index < MAX_INDEX
        or type(attested_at) is not int
        or not 0 < attested_at < _MAX_TIME
    ):
        return Facts(vector, labels, boot, status_index, attested_at)  # raises
    made = object.__new__(Facts)
    put = object.__setattr__
    put(made, "vector", vector)
    put(made, "labels", labels)
    put(made, "boot", boot)
    put(made, "status_index", status_index)
    put(made, "attested_at", attested_at)
    put(made, "_spelled", spelled)
    return made


_Typed = tuple[tuple[str, type, object], ...]


def _typed(part: Mapping[str, object]) -> _Typed:
    """For Python, True equals 1; in JSON it does not."""
    return tuple([(name, type(value), value) for name, value in part.items()])


@lru_cache(maxsize=1024)
def _spelling(part: _Typed) -> bytes:
    return write_object({name: value for name, _, value in part})


@lru_cache(maxsize=1024)
def _vector(data: bytes) -> Mapping[str, int]:
    """A part in its canonical spelling, as `Facts` keep it. Raises MalformedInput; the two below do so too."""
    return MappingProxyType(_check_vector(_part(data)))


@lru_cache(maxsize=1024)
def _labels(data: bytes) -> Mapping[str, str]:
    if data.isascii() and b"\\" not in data:  # then JSON's text is what stands between the quotes
        text = data.decode("ascii")
        labels = dict(_LABEL.findall(text))
        spelled = ",".join([f'"{name}":"{labels[name]}"' for name in sorted(labels)])
        if text == f"{{{spelled}}}":
            return MappingProxyType(_check_labels(labels))
    return MappingProxyType(_check_labels(_part(data)))


@lru_cache(maxsize=1024)
def _boot(data: bytes) -> Mapping[str, str | bool | int]:
    return MappingProxyType(_check_boot(_part(data)))


_LABEL = re.compile(rf'"({LABEL_NAME.pattern})":"([^"]*)"', re.ASCII)


def _part(data: bytes) -> dict[str, Any]:
    part = read_object(data, limit=MAX_FACTS, name="facts")
    if write_object(part) != data:
        raise MalformedFacts("The facts are not in their canonical spelling.", expected="sorted, compact JSON")
    return part


_UTF8_STRING = 0x0C


@lru_cache(maxsize=4096)
def der_header(tag: int, size: int) -> bytes | None:
    """The only beginning that DER allows for an element of `size` octets in all, so that it is compared rather than
    parsed. None if no length fits, as for 130."""
    for octets in (1, 2, 3):
        if size > octets and len(length := der_length(size - 1 - octets)) == octets:
            return bytes((tag,)) + length
    return None


def der_length(size: int) -> bytes:
    """DER's shortest form (X.690, 8.1.3 and 10.1), up to two octets of length."""
    if size < 0x80:
        return bytes((size,))
    if size < 0x100:
        return bytes((0x81, size))
    return bytes((0x82, size >> 8, size & 0xFF))


Part = TypeVar("Part", bound=Mapping[str, Any])


def _check_vector(vector: Part) -> Part:
    for claim, value in vector.items():
        if claim not in VECTOR_CLAIMS:
            raise MalformedFacts("This is not a claim of AR4SI.", seen=repr(claim[:40]), expected=VECTOR_CLAIMS)
        if type(value) is not int or not -128 <= value <= 127:
            raise MalformedFacts(f"vec.{claim} is not a trust claim's value.", expected="-128 to 127")
    return vector


def _check_labels(labels: Part) -> Part:
    for name, text in labels.items():
        _check_name("lbl", name)
        _check_text("lbl", name, text)
    return labels


def _check_boot(boot: Part) -> Part:
    for name, fact in boot.items():
        _check_name("boot", name)
        if type(fact) is int:
            if abs(fact) > _MAX_NUMBER:
                raise MalformedFacts(f"boot.{name} is too large a number.", expected="at most 2^53")
        elif type(fact) is not bool:
            _check_text("boot", name, fact)
    return boot


def _check_name(where: str, name: str) -> None:
    if not LABEL_NAME.fullmatch(name):
        raise MalformedFacts(f"{where} has a name that facts may not have.", seen=repr(name[:70]))


def _check_text(where: str, name: str, text: object) -> None:
    if not isinstance(text, str):
        raise MalformedFacts(f"{where}.{name} has the wrong type.", seen=type(text).__name__)
    if len(text) > MAX_LABEL or not text.isprintable():
        raise MalformedFacts(f"{where}.{name} is not printable text.", expected=f"at most {MAX_LABEL} characters")


def tier_of(value: int) -> str:
    """The tier of a claim's value, an eight-bit signed number; what is outside its range is contraindicated."""
    if -1 <= value <= 1:
        return NONE
    if 2 <= value <= 31 or -32 <= value <= -2:
        return AFFIRMING
    if 32 <= value <= 95 or -96 <= value <= -33:
        return WARNING
    return CONTRAINDICATED
