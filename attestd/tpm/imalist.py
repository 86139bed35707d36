"""IMA measurement lists: binary and text ones told apart by themselves, and cut into entries as they stream in.

Linux 6.10, security/integrity/ima/ima_fs.c: ima_measurements_show and ima_ascii_measurements_show. A binary entry is
the PCR's index, the template digest, the template's name behind its length, and the template data behind its length
(the oldest template, `ima`, has no length there). Numbers are little-endian, or as the machine has them where the
kernel was not told `ima_canonical_fmt`. Since 6.10 there is one list for each PCR bank, of which the template digests
are by the bank's hash; the lists without a suffix stay SHA-1's. A text entry is a line of the same.

Everything read here is untrusted. No more than a block and one entry is held at a time, no entry is larger than
`MAX_ENTRY`, and the errors are `MalformedImaList` and, for what a text line says of its file, `MalformedImaEntry`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple, NoReturn

from attestd.errors import MalformedInput
from attestd.tpm.imatemplates import (
    OLD_NAME_SIZE,
    SHA1_SIZE,
    U32,
    ByteOrder,
    MalformedImaEntry,
    data_of_text,
    fields_of,
)

MAX_ENTRY = 1024 * 1024  # octets of template data
MAX_TEMPLATE_NAME = 255  # octets; the longest format that Linux takes has 83
MAX_LINE = 2 * MAX_ENTRY + 1024  # octets of a line of text
PCRS = 24

BEGINNING = 4 + 64 + 4 + MAX_TEMPLATE_NAME  # octets that tell a list's form

# Octets of a template digest -> the hash it is by.
LIST_HASHES: Final = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}
_BLOCK = 256 * 1024  # octets


class MalformedImaList(MalformedInput):
    """An IMA measurement list can't be read"""

    remedy = "Send the kernel's list as it is: /sys/kernel/security/ima/binary_runtime_measurements."


class Entry(NamedTuple):
    """One entry as it stands in a list. `data` is None where a text line says what can't be read."""

    pcr: int
    digest: bytes  # the template digest; all zeros for a violation
    template: bytes
    data: bytes | None  # the template data: what the digest is over


class Feed:
    """A list's octets as they come, in blocks: many small pieces are joined, a large one is not copied."""

    def __init__(self, source: bytes | Iterable[bytes]) -> None:
        self._source = iter((source,) if isinstance(source, bytes) else source)
        self.ended = False

    def more(self, rest: bytes, least: int = 0) -> bytes:
        """`rest` and what follows it: a block or more, `least` octets or more, or all that there is.

        It comes to at least twice the `rest`, so that an entry in many pieces is not joined anew for each of them.
        """
        pieces, have = [rest] if rest else [], len(rest)
        wanted = max(2 * have, least, _BLOCK)
        while have < wanted and not self.ended:
            piece = next(self._source, None)
            if piece is None:
                self.ended = True
            elif piece:
                pieces.append(piece)
                have += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@dataclass(frozen=True, slots=True)
class BinaryForm:
    """How a binary list writes its numbers, and the size of its template digests."""

    order: ByteOrder
    digest_size: int

    def _u32(self, data: bytes, at: int) -> int:
        found: int = U32[self.order].unpack_from(data, at)[0]
        return found

    def cut(self, data: bytes, at: int, number: int) -> tuple[Entry, int] | int:
        """The entry that begins at `at` and where the next one begins; or how many octets it takes at least, as far as
        those in hand tell. `number` names it in errors."""
        name_at = at + 4 + self.digest_size
        if name_at + 4 > len(data):
            return name_at + 4 - at
        pcr, name_size = self._u32(data, at), self._u32(data, name_at)
        if pcr >= PCRS:
            refuse(number, "is for a PCR that there is not", pcr)
        if not 1 <= name_size <= MAX_TEMPLATE_NAME:
            refuse(number, "has a template's name of an impossible size", f"{name_size} octets")
        data_at = name_at + 4 + name_size
        if data_at + 4 > len(data):
            return data_at + 4 - at
        template = data[name_at + 4 : data_at]
        if template == b"ima":
            return self._cut_old(data, at, pcr, data_at, number)
        if not template.isascii() or not template.decode("ascii").isprintable():
            refuse(number, "has a template's name that is no name", repr(template[:40]))
        data_size = self._u32(data, data_at)
        if data_size > MAX_ENTRY:
            refuse(number, "is too large", f"{data_size} octets", f"at most {MAX_ENTRY}")
        to = data_at + 4 + data_size
        if to > len(data):
            return to - at
        return Entry(pcr, data[at + 4 : name_at], template, data[data_at + 4 : to]), to

    def skip(self, data: bytes, at: int, template: bytes, most: int) -> tuple[int, int]:
        """Where the neighbours from `at` on end that are whole and of this template, at most so many; and how many they
        are. Whatever is not so plain is left where it is, for `cut`."""
        marker = U32[self.order].pack(len(template)) + template
        layout = _head(self.order, self.digest_size, len(marker))
        passed = 0
        while passed < most and at + layout.size <= len(data):
            pcr, name, size = layout.unpack_from(data, at)
            to = at + layout.size + size
            if name != marker or pcr >= PCRS or size > MAX_ENTRY or to > len(data):
                break
            at, passed = to, passed + 1
        return at, passed

    def _cut_old(self, data: bytes, at: int, pcr: int, data_at: int, number: int) -> tuple[Entry, int] | int:
        """Of the template `ima`: the file's digest, the name's size, the name."""
        name_at = data_at + SHA1_SIZE
        if name_at + 4 > len(data):
            return name_at + 4 - at
        name_size = self._u32(data, name_at)
        if name_size >= OLD_NAME_SIZE:
            refuse(number, "has a name too long for its template", f"{name_size} octets", f"below {OLD_NAME_SIZE}")
        to = name_at + 4 + name_size
        if to > len(data):
            return to - at
        hashed = data[data_at:name_at] + data[name_at + 4 : to].ljust(OLD_NAME_SIZE, b"\0")
        return Entry(pcr, data[at + 4 : at + 4 + self.digest_size], b"ima", hashed), to


def refuse(number: int, what: str, seen: object, expected: object = None) -> NoReturn:
    raise MalformedImaList(f"Entry {number} of the IMA list {what}.", seen=seen, expected=expected)


def is_text(data: bytes) -> bool:
    """Whether this is the beginning of a text list: a PCR's index in digits, where a binary list has an octet below
    PCRS. Raises MalformedImaList for what begins neither."""
    first = data[:1]
    if first and (first.isdigit() or first == b" "):
        return True
    if first and first[0] < PCRS:
        return False
    raise MalformedImaList(
        "This is no IMA measurement list, neither a binary nor a text one.",
        seen=repr(data[:24]) if data else "no octets",
        expected="a PCR's index, a template digest, a template's name",
    )


@lru_cache(maxsize=64)
def _head(order: ByteOrder, digest_size: int, marker_size: int) -> Struct:
    """An entry's octets before its template data, without its digest."""
    return Struct(f"{'<' if order == 'little' else '>'}I{digest_size}x{marker_size}sI")


def form_of(data: bytes) -> BinaryForm:
    """The form of the binary list that begins with these octets, by where its first template's name turns out to be.

    Raises MalformedImaList where no form puts the name of a known template there.
    """
    orders: tuple[ByteOrder, ...] = ("little", "big")
    for order in orders:
        if int.from_bytes(data[:4], order) >= PCRS:
            continue
        for size in LIST_HASHES:
            name_size = int.from_bytes(data[4 + size : 8 + size], order)
            name = data[8 + size : 8 + size + name_size] if name_size <= MAX_TEMPLATE_NAME else b""
            if name_size == len(name) > 0 and fields_of(name) is not None:
                return BinaryForm(order, size)
    raise MalformedImaList(
        "This is no binary IMA measurement list that is known.",
        seen=f"{len(data)} octets, {data[:32].hex()}…",
        expected="entries of a known template, with template digests by " + ", ".join(LIST_HASHES.values()),
    )


def read_line(line: bytes, number: int, order: ByteOrder, *, strict: bool) -> Entry:
    """One line of a text list. Raises MalformedImaList; and MalformedImaEntry where what it says of its file can't be
    read, unless that is to be told by an entry without data (not `strict`). A violation's fields are not read: nothing
    proves them, and the kernel itself leaves its digest shorter than its hash."""
    if len(line) > MAX_LINE:
        refuse(number, "is too long a line", f"more than {MAX_LINE} octets")
    parts = line.lstrip(b" ").split(b" ", 3)
    if len(parts) < 3 or not (parts[0].isdigit() and len(parts[0]) <= 2 and int(parts[0]) < PCRS):
        refuse(number, "is no line of an IMA list", repr(line[:48]), "a PCR, a template digest, a template's name")
    try:
        digest = bytes.fromhex(parts[1].decode("ascii"))
    except ValueError:
        digest = b""
    if len(digest) not in LIST_HASHES or len(parts[1]) != 2 * len(digest):
        refuse(number, "has no template digest", repr(parts[1][:48]), "20, 32, 48 or 64 octets in hexadecimal digits")
    template, data = parts[2], None
    if any(digest):
        try:
            data = data_of_text(template, parts[3] if len(parts) > 3 else b"", order)
        except MalformedImaEntry:
            if strict:
                raise
    return Entry(int(parts[0]), digest, template, data)


def position_of(data: bytes, entries: int) -> int | None:
    """The octet at which the entry of this number (counted from 0) begins in a list, and what may be left out before
    it; the list's size where it ends there; None where it has fewer entries. What follows is not read.

    Raises MalformedImaList.
    """
    if entries == 0:
        return 0
    if not data:
        return None
    return _text_position(data, entries) if is_text(data) else _binary_position(data, entries)


def _binary_position(data: bytes, entries: int) -> int | None:
    form, at, number = form_of(data[:BEGINNING]), 0, 0
    while number < entries:
        if at == len(data):
            return None
        number += 1
        found = form.cut(data, at, number)
        if isinstance(found, int):
            refuse(number, "ends too early", f"{len(data) - at} octets", f"at least {found}")
        entry, at = found
        if entry.template != b"ima":
            at, passed = form.skip(data, at, entry.template, entries - number)
            number += passed
    return at


def _text_position(data: bytes, entries: int) -> int | None:
    at, number = 0, 0
    while number < entries:
        if at == len(data):
            return None
        end = data.find(b"\n", at, at + MAX_LINE + 1)
        to = end if end >= 0 else min(len(data), at + MAX_LINE + 1)
        if to > at:  # an empty line is no entry
            number += 1
            read_line(data[at:to], number, "little", strict=False)
        at = to + (end >= 0)
    return at
