"""Bytes and JSON as the protocol writes them: base64url without padding (RFC 7515, section 2), strict JSON objects.

Everything here reads untrusted bytes: every function either returns a value of the stated shape or raises a
`MalformedInput`; none costs more than a constant factor of its input's size.
"""

from __future__ import annotations

import binascii
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, cast

from attestd.errors import InputTooLarge, MalformedInput

_TO_URL = bytes.maketrans(b"+/", b"-_")
# What is not in the alphabet becomes a NUL, which is in none; base64's own two and its padding are among that.
_FROM_URL = bytes.maketrans(b"-_+/=", b"+/\0\0\0")
_ALPHABET = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_PADDING = (b"", b"", b"==", b"=")
_LAST = ("", "", "AQgw", "AEIMQUYcgkosw048")
MAX_DEPTH = 16  # nesting of JSON containers in any message
MAX_SECONDS = 10 * 366 * 86400  # any duration in a message


class MalformedJson(MalformedInput):
    """This is not the JSON object that the protocol describes"""


class MalformedBase64(MalformedInput):
    """This is not base64url without padding"""

    remedy = "Encode binary values with base64url and leave out the '=' padding (RFC 7515, section 2)."


class UnsupportedVersion(MalformedInput):
    """The message is of a protocol version that this service does not speak"""

    remedy = "Update the older side; a service speaks its own version and the one before."


def b64encode(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL, b"=").decode("ascii")


def b64decode(text: str, *, name: str = "value") -> bytes:
    """The only octets this text can stand for; a second spelling of the same octets is refused."""
    rest = len(text) % 4
    try:
        data = binascii.a2b_base64(text.encode("ascii").translate(_FROM_URL) + _PADDING[rest], strict_mode=True)
    except ValueError:  # a character that is not ASCII, or binascii.Error
        if rest == 1 and _ALPHABET.fullmatch(text):
            raise MalformedBase64(f"{name} has an impossible length.", seen=f"{len(text)} characters") from None
        raise MalformedBase64(f"{name} holds a character outside base64url.", seen=repr(text[:40])) from None
    # The last character of two or three has bits that stand for nothing: in one spelling they are zero.
    if rest and text[-1] not in _LAST[rest]:
        raise MalformedBase64(f"{name} has stray bits at its end.", expected="the canonical spelling")
    return data


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedJson("A member name appears twice in one object.")
    return found


def _no_constant(text: str) -> NoReturn:
    raise MalformedJson("JSON has no such number.", seen=text)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_constant(text[:20])


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite)
_ENCODER = json.JSONEncoder(separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def read_object(data: bytes, *, limit: int, name: str = "message") -> dict[str, Any]:
    """One JSON object of at most `limit` octets, without duplicate names, NaN or deep nesting.

    The depth is bounded before the parser runs, by counting brackets: the parser's own recursion is then bounded too.
    """
    if len(data) > limit:
        raise InputTooLarge(f"The {name} is too large.", seen=f"{len(data)} octets", expected=f"at most {limit}")
    _bound_depth(data, name)
    try:
        text = data.decode("utf-8").strip(" \t\n\r")
        found, end = _DECODER.raw_decode(text)
        if end != len(text):
            raise ValueError("something follows")  # noqa: TRY301
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise MalformedJson(f"The {name} is not JSON.", expected="one JSON object in UTF-8") from None
    if b"\\" in data and _SURROGATE.search(data):
        _refuse_half_characters(found, name)
    if type(found) is not dict:
        raise MalformedJson(f"The {name} is not an object.", seen=type(found).__name__, expected="one JSON object")
    return cast("dict[str, Any]", found)


# Possessive (`++`, `*+`), or the matcher keeps a way back for every octet of a long string, some 120 octets each. A
# string may lack its end here, or every quote in one would be tried as a beginning, which is quadratic.
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _bound_depth(data: bytes, name: str) -> None:
    if _has_few_brackets(data):  # most messages
        return
    depth = 0
    for token in _TOKENS.finditer(data):
        if token[0] in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise MalformedJson(f"The {name} is nested too deeply.", expected=f"at most {MAX_DEPTH} levels")
        elif token[0] in (b"]", b"}"):
            depth -= 1


def _has_few_brackets(data: bytes) -> bool:
    """So few that they could not nest too deeply. Looks for them one by one: counting reads each octet twice."""
    left = MAX_DEPTH
    for bracket in (b"[", b"{"):
        at = data.find(bracket)
        while at >= 0:
            if left == 0:
                return False
            left -= 1
            at = data.find(bracket, at + 1)
    return True


def _refuse_half_characters(found: Any, name: str) -> None:
    """An escaped surrogate without its other half is no text (RFC 8259, section 8.2): nothing could write it again."""
    try:
        _ENCODER.encode(found).encode()
    except UnicodeEncodeError:
        raise MalformedJson(f"The {name} holds half a character.", expected="surrogates in pairs") from None


def write_object(members: Mapping[str, Any]) -> bytes:
    """Compact JSON with sorted names: the same members give the same octets."""
    return _ENCODER.encode(members).encode()


class Members:
    """Reads one object's members by name and type; `done()` refuses members that nobody asked for.

    The types are those that JSON is read as, exactly: a bool is no whole number.
    """

    __slots__ = ("_asked", "_members", "_where")

    def __init__(self, members: Mapping[str, Any], where: str) -> None:
        self._members = members
        self._where = where
        self._asked: set[str] = set()

    def _refuse_type(self, name: str, said: str) -> NoReturn:
        if name not in self._members:
            raise MalformedJson(f"{self._where}.{name} is missing.", expected=said)
        seen = type(self._members[name]).__name__
        raise MalformedJson(f"{self._where}.{name} has the wrong type.", seen=seen, expected=said)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def is_text(self, name: str) -> bool:
        """For a member that may be of several types."""
        return type(self._members.get(name)) is str

    def is_null(self, name: str) -> bool:
        """For a member that may be null; counts as having asked for it."""
        self._asked.add(name)
        return name in self._members and self._members[name] is None

    def text(self, name: str, *, limit: int = 1024) -> str:
        self._asked.add(name)
        value = self._members.get(name)
        if type(value) is not str:
            self._refuse_type(name, "a string")
        if len(value) > limit:
            raise self._too_long(name, len(value), limit)
        if "\0" in value:  # no database and no C string takes it
            raise MalformedJson(f"{self._where}.{name} holds a NUL character.")
        return value

    def _too_long(self, name: str, seen: int, limit: int) -> InputTooLarge:
        return InputTooLarge(f"{self._where}.{name} is too long.", seen=seen, expected=f"at most {limit} characters")

    def integer(self, name: str) -> int:
        self._asked.add(name)
        value = self._members.get(name)
        if type(value) is not int:
            self._refuse_type(name, "a whole number")
        return value

    def number(self, name: str, *, least: int = 0, most: int) -> int:
        """A whole number within these bounds, both included."""
        value = self.integer(name)
        if not least <= value <= most:
            raise MalformedJson(
                f"{self._where}.{name} is out of range.",
                seen=value if abs(value) <= most else None,
                expected=f"{least} to {most}",
            )
        return value

    def boolean(self, name: str) -> bool:
        self._asked.add(name)
        value = self._members.get(name)
        if type(value) is not bool:
            self._refuse_type(name, "true or false")
        return value

    def seconds(self, name: str) -> int:
        """A duration: nothing that a clock's arithmetic could stumble over."""
        if not 0 <= (value := self.integer(name)) <= MAX_SECONDS:
            raise MalformedJson(f"{self._where}.{name} is not a duration.", expected=f"0 to {MAX_SECONDS} seconds")
        return value

    def octets(self, name: str, *, limit: int, least: int = 0) -> bytes:
        """A base64url member of `least` to `limit` octets."""
        self._asked.add(name)
        text = self._members.get(name)
        if type(text) is not str:
            self._refuse_type(name, "a string")
        if len(text) > (most := limit * 4 // 3 + 4):
            raise self._too_long(name, len(text), most)
        data = b64decode(text, name=f"{self._where}.{name}")
        if not least <= len(data) <= limit:
            raise MalformedJson(
                f"{self._where}.{name} has the wrong size.", seen=len(data), expected=f"{least} to {limit} octets"
            )
        return data

    def _array(self, name: str, most: int) -> Members:
        """An array of at most `most` entries, as members that are named by their place."""
        self._asked.add(name)
        values = self._members.get(name)
        if type(values) is not list:
            self._refuse_type(name, "an array")
        if len(values) > most:
            raise InputTooLarge(
                f"{self._where}.{name} has too many entries.", seen=len(values), expected=f"at most {most}"
            )
        return Members({str(place): value for place, value in enumerate(values)}, f"{self._where}.{name}")

    def many_octets(self, name: str, *, limit: int, most: int) -> tuple[bytes, ...]:
        """An array of at most `most` base64url strings of at most `limit` octets each."""
        array = self._array(name, most)
        return tuple(array.octets(place, limit=limit) for place in array._members)

    def texts(self, name: str, *, most: int, limit: int = 1024) -> tuple[str, ...]:
        array = self._array(name, most)
        return tuple(array.text(place, limit=limit) for place in array._members)

    def integers(self, name: str, *, most: int) -> tuple[int, ...]:
        array = self._array(name, most)
        return tuple(array.integer(place) for place in array._members)

    def object(self, name: str) -> Members:
        self._asked.add(name)
        value = self._members.get(name)
        if type(value) is not dict:
            self._refuse_type(name, "an object")
        return Members(value, f"{self._where}.{name}")

    def objects(self, name: str, *, most: int) -> tuple[Members, ...]:
        """An array of at most `most` objects."""
        array = self._array(name, most)
        return tuple(array.object(place) for place in array._members)

    def items(self) -> Iterable[tuple[str, Any]]:
        """All members, for objects whose names are data; counts as having asked for them."""
        self._asked.update(self._members)
        return self._members.items()

    def version(self) -> None:
        """`"v": 1`, the only version there is."""
        if (seen := self.integer("v")) != 1:
            raise UnsupportedVersion("This protocol version is unknown here.", seen=seen, expected="1")

    def done(self) -> None:
        if unknown := self._members.keys() - self._asked:
            raise MalformedJson(
                f"{self._where} has members that the protocol does not know.",
                seen=", ".join(sorted(unknown)[:5])[:200],
            )
