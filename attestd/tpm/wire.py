"""The TPM's wire format: big-endian integers and sized buffers, read within bounds and to the last octet.

TPM 2.0 Library, Part 2: Structures, revision 1.59: section 5.1 (base types; numbers are big-endian on the wire), 10.4
(TPM2B: a 16-bit size, then that many octets).

Everything read here is untrusted. A `Reader` never reads past its data, copies no more than it was given, and the one
error it raises is `MalformedTpmStructure`.
"""

from __future__ import annotations

from struct import Struct

from attestd.errors import MalformedInput


class MalformedTpmStructure(MalformedInput):
    """A TPM structure can't be read"""

    remedy = "Send each TPM structure whole and unchanged, as the TPM returned it."


_U16 = Struct(">H")
_U32 = Struct(">I")
_U64 = Struct(">Q")


class Reader:
    """Walks once through one marshalled structure; `what` names it in errors.

    Every method checks for itself that what it takes is there: a structure is read in twenty steps, and one more call
    in each of them would be half of the time.
    """

    __slots__ = ("_at", "_data", "_end", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0
        self._end = len(data)

    def _too_short(self, wanted: int) -> MalformedTpmStructure:
        return MalformedTpmStructure(
            f"The {self._what} ends too early.", seen=f"{self._end} octets", expected=f"at least {wanted}"
        )

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        at = self._at
        if (end := at + 2) > self._end:
            raise self._too_short(end)
        self._at = end
        return self._data[at] << 8 | self._data[at + 1]

    def u32(self) -> int:
        return self.unpack(_U32)[0]

    def u64(self) -> int:
        return self.unpack(_U64)[0]

    def take(self, count: int) -> bytes:
        """The next `count` octets."""
        at = self._at
        if (end := at + count) > self._end:
            raise self._too_short(end)
        self._at = end
        return self._data[at:end]

    def unpack(self, layout: Struct) -> tuple[int, ...]:
        """Several fixed-size integers at once."""
        at = self._at
        if (end := at + layout.size) > self._end:
            raise self._too_short(end)
        self._at = end
        return layout.unpack_from(self._data, at)

    def sized(self, limit: int) -> bytes:
        """The content of a TPM2B of at most `limit` octets."""
        at = self._at + 2
        if at > self._end:
            raise self._too_short(at)
        size = self._data[at - 2] << 8 | self._data[at - 1]
        if size > limit:
            raise MalformedTpmStructure(
                f"A sized buffer of the {self._what} is too large.", seen=f"{size} octets", expected=f"at most {limit}"
            )
        if (end := at + size) > self._end:
            raise self._too_short(end)
        self._at = end
        return self._data[at:end]

    def done(self) -> None:
        """Refuses trailing octets: what nobody read, nobody verified."""
        if self._at != self._end:
            raise MalformedTpmStructure(
                f"Octets follow the end of the {self._what}.",
                seen=f"{self._end} octets",
                expected=f"{self._at}",
            )


def u16(value: int) -> bytes:
    """A 16-bit integer as the TPM writes it."""
    return _U16.pack(value)


def u32(value: int) -> bytes:
    """A 32-bit integer as the TPM writes it."""
    return _U32.pack(value)


def u64(value: int) -> bytes:
    """A 64-bit integer as the TPM writes it."""
    return _U64.pack(value)


def sized(content: bytes) -> bytes:
    """A TPM2B: the content's size in 16 bits, then the content."""
    return _U16.pack(len(content)) + content
