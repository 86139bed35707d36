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
from typing import Any, Self, cast

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
    # `boot`, `labels` and `vector` in their canonical JSON, once somebody asked for it.
    _spelled: tuple[bytes, bytes, bytes] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for claim, value in self.vector.items():
            if claim not in VECTOR_CLAIMS:
                raise MalformedFacts("This is not a claim of AR4SI.", seen=repr(claim[:40]), expected=VECTOR_CLAIMS)
            if type(value) is not int or not -128 <= value <= 127:
                raise MalformedFacts(f"vec.{claim} is not a trust claim's value.", expected="-128 to 127")
        for name, text in self.labels.items():
            _check_name("lbl", name)
            _check_text("lbl", name, text)
        for name, fact in self.boot.items():
            _check_name("boot", name)
            if type(fact) is int:
                if abs(fact) > _MAX_NUMBER:
                    raise MalformedFacts(f"boot.{name} is too large a number.", expected="at most 2^53")
            elif type(fact) is not bool:
                _check_text("boot", name, fact)
        if type(self.status_index) is not int or not 0 <= self.status_index < MAX_INDEX:
            raise MalformedFacts("idx is not a status index.", expected=f"0 to {MAX_INDEX - 1}")
        if type(self.attested_at) is not int or not 0 < self.attested_at < _MAX_TIME:
            raise MalformedFacts("att is not a time.", expected="unix seconds")
        for name in ("vector", "labels", "boot"):  # frozen all the way down: identities are kept in memory for long
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __hash__(self) -> int:
        return hash((self.status_index, self.attested_at, tuple(sorted(self.vector.items()))))

    @classmethod
    def without_boot(
        cls, vector: Mapping[str, int], labels: Mapping[str, str], *, status_index: int, attested_at: int
    ) -> Facts:
        """These facts and no boot facts. What a fleet's devices have in common is checked and spelled once for all."""
        # With the types, since True equals 1 and is no claim's value.
        claims = tuple([(claim, type(value), value) for claim, value in vector.items()])
        return _without_boot(claims, tuple(labels.items()))._at(status_index, attested_at)

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
        if self._spelled is None:
            parts = [write_object(dict(part)) for part in (self.boot, self.labels, self.vector)]
            object.__setattr__(self, "_spelled", tuple(parts))
        boot, labels, vector = cast("tuple[bytes, bytes, bytes]", self._spelled)
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
    def read(cls, members: Members) -> Self:
        """From an object that came with something already parsed, such as a token's claims."""
        facts = cls._read(members)
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
        # A fleet's facts differ in index and time alone. `"idx":` can't stand within a string, where quotes are
        # escaped; where it stands once, it is the member.
        if len(data) <= MAX_FACTS and (match := _CANONICAL.fullmatch(data)) and data.count(b'"idx":') == 1:
            alike = _alike(match["boot"], match["lbl"], match["vec"])
            return alike._at(int(match["idx"]), int(match["att"]))
        return cls._decode(data)

    @classmethod
    def _decode(cls, data: bytes) -> Facts:
        facts = cls._read(Members(read_object(data, limit=MAX_FACTS, name="facts"), "facts"))
        if facts.encode() != data:
            raise MalformedFacts("The facts are not in their canonical spelling.", expected="sorted, compact JSON")
        return facts

    def _at(self, status_index: int, attested_at: int) -> Facts:
        """These facts with another index and time; what they share is shared, and was checked."""
        if type(status_index) is not int or not 0 <= status_index < MAX_INDEX:
            return Facts(self.vector, self.labels, self.boot, status_index, attested_at)  # raises
        if type(attested_at) is not int or not 0 < attested_at < _MAX_TIME:
            return Facts(self.vector, self.labels, self.boot, status_index, attested_at)  # raises
        made = object.__new__(Facts)
        for name in ("vector", "labels", "boot", "_spelled"):
            object.__setattr__(made, name, getattr(self, name))
        object.__setattr__(made, "status_index", status_index)
        object.__setattr__(made, "attested_at", attested_at)
        return made

    def to_extension(self) -> x509.UnrecognizedExtension:
        """The X.509 extension: a DER UTF8String; to be added as not critical."""
        data = self.encode()
        return x509.UnrecognizedExtension(FACTS_OID, _UTF8_STRING + _der_length(len(data)) + data)

    @classmethod
    def from_extension(cls, value: bytes) -> Facts:
        """From the extension's value (extnValue's octets). Raises MalformedInput or InputTooLarge."""
        if len(value) > MAX_FACTS + 4:
            raise FactsTooLarge(
                "The facts extension is too large.", seen=f"{len(value)} octets", expected=f"at most {MAX_FACTS + 4}"
            )
        # The length is known from the outside, so the only header DER allows is compared rather than parsed.
        for header in (2, 3, 4):
            size = len(value) - header
            if size >= 0 and value[:header] == _UTF8_STRING + _der_length(size):
                return cls.decode(value[header:])
        raise MalformedFacts("The facts extension is not a UTF8String.", expected="DER: tag 12, definite length")


# The canonical spelling, its index and time told apart; whether the rest is one, `_alike` finds out.
_CANONICAL = re.compile(
    rb'\{"att":(?P<att>[1-9][0-9]{0,12}),"boot":(?P<boot>\{.*\}),"idx":(?P<idx>0|[1-9][0-9]{0,7}),'
    rb'"lbl":(?P<lbl>\{.*\}),"v":1,"vec":(?P<vec>\{.*\})\}',
    re.DOTALL,
)


@lru_cache(maxsize=1024)
def _alike(boot: bytes, labels: bytes, vector: bytes) -> Facts:
    """The facts that these parts stand for, with an index and a time of no meaning. Raises as `Facts.decode` does."""
    return Facts._decode(b'{"att":1,"boot":%s,"idx":0,"lbl":%s,"v":1,"vec":%s}' % (boot, labels, vector))


@lru_cache(maxsize=1024)
def _without_boot(claims: tuple[tuple[str, type, int], ...], labels: tuple[tuple[str, str], ...]) -> Facts:
    """These facts, with an index and a time of no meaning, spelled. Raises as `Facts` does, and `Facts.encode`."""
    facts = Facts({claim: value for claim, _, value in claims}, dict(labels), {}, 0, 1)
    facts.encode()
    return facts


_UTF8_STRING = b"\x0c"


def _der_length(size: int) -> bytes:
    """DER's shortest form (X.690, 8.1.3 and 10.1), up to two octets of length."""
    if size < 0x80:
        return bytes((size,))
    if size < 0x100:
        return bytes((0x81, size))
    return bytes((0x82, size >> 8, size & 0xFF))


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
