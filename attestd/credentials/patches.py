"""What changed in a bundle's two long lists, in as few octets as it takes (docs/protocol.md, section 5).

A patch is untrusted until the list that it leads to has the digest that the bundle's statement names. So a patch that
does not fit is refused or found out, and never believed; what it may cost is bounded by what it leads to.

- The status list: entries in the order of their indices, each `gap << 2 | status` as an unsigned LEB128 number; the gap
  is how many entries were skipped. Entries past the end of the old list begin as INVALID.
- Serial numbers, each in 20 octets: those that came and those that went.
"""

from __future__ import annotations

from collections.abc import Iterator

from attestd.credentials.status import BITS, MAX_OCTETS, PER_OCTET, Status
from attestd.errors import InputTooLarge, MalformedInput

SERIAL = 20  # octets
_EMPTY = Status.INVALID * 0b01_01_01_01
_CHUNK = 4096  # octets compared at once
_MAX_NUMBER = 1 << 40


class PatchMalformed(MalformedInput):
    """This is no patch of a list"""

    remedy = "Fetch the whole bundle from the service."


def status_patch(old: bytes, new: bytes) -> bytes:
    """What leads from one status list's octets to another's; the new one's length is told beside it."""
    entries, at = bytearray(), 0
    for place in _differing(old, new):
        before = old[place] if place < len(old) else _EMPTY
        for slot in range(PER_OCTET):
            status = new[place] >> BITS * slot & 3
            if status != before >> BITS * slot & 3:
                index = place * PER_OCTET + slot
                entries += _leb128((index - at) << BITS | status)
                at = index + 1
    return bytes(entries)


def patched_status(old: bytes, patch: bytes, size: int) -> bytes:
    """The list of `size` octets that `patch` leads to. Raises PatchMalformed or InputTooLarge."""
    if not 0 <= size <= MAX_OCTETS:
        raise InputTooLarge("The status list is too large.", seen=size, expected=f"at most {MAX_OCTETS} octets")
    new = bytearray(old[:size]).ljust(size, bytes([_EMPTY]))
    index = 0
    for number in _numbers(patch):
        index += number >> BITS
        place, shift = index // PER_OCTET, BITS * (index % PER_OCTET)
        if place >= size:
            raise PatchMalformed("The patch leads beyond the list.", seen=index, expected=f"below {size * PER_OCTET}")
        new[place] = new[place] & ~(3 << shift) | (number & 3) << shift
        index += 1
    return bytes(new)


def serials_patch(old: bytes, new: bytes) -> tuple[bytes, bytes]:
    """Which serial numbers came and which went, both sorted."""
    before, after = set(each_serial(old)), set(each_serial(new))
    return b"".join(sorted(after - before)), b"".join(sorted(before - after))


def patched_serials(old: bytes, came: bytes, went: bytes) -> bytes:
    """The sorted list that a patch leads to. Raises PatchMalformed."""
    before, added, removed = set(each_serial(old)), set(each_serial(came)), set(each_serial(went))
    if added & before or removed - before:
        raise PatchMalformed("The patch adds serial numbers that are there, or removes some that are not.")
    return b"".join(sorted(before - removed | added))


def each_serial(octets: bytes) -> Iterator[bytes]:
    """The list's serial numbers. Raises PatchMalformed."""
    if len(octets) % SERIAL:
        raise PatchMalformed("A list of serial numbers ends within one.", seen=len(octets))
    return (octets[at : at + SERIAL] for at in range(0, len(octets), SERIAL))


def _differing(old: bytes, new: bytes) -> Iterator[int]:
    """The places of the new list's octets that are others than before."""
    filled = old[: len(new)].ljust(len(new), bytes([_EMPTY]))
    for start in range(0, len(new), _CHUNK):
        before, after = filled[start : start + _CHUNK], new[start : start + _CHUNK]
        if before != after:
            yield from (start + at for at in range(len(after)) if before[at] != after[at])


def _leb128(number: int) -> bytes:
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def _numbers(octets: bytes) -> Iterator[int]:
    number = shift = 0
    for octet in octets:
        number |= (octet & 0x7F) << shift
        if number > _MAX_NUMBER:
            raise PatchMalformed("The patch holds a number that is too large.")
        if octet & 0x80:
            shift += 7
            continue
        if not octet and shift:
            raise PatchMalformed("The patch holds a number that is longer than it has to be.")
        yield number
        number = shift = 0
    if shift:
        raise PatchMalformed("The patch ends within a number.")
