"""The status list: two bits a device (draft-ietf-oauth-status-list-21, sections 4 and 7).

Index i stands in octet i // 4, bits 2 * (i % 4) and up, least significant first. The wire form is the octets in a ZLIB
stream, base64url without padding. Values: VALID 0, INVALID 1, SUSPENDED 2 (section 7.1); 3 is not ours and denies.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from attestd.errors import InputTooLarge, MalformedInput
from attestd.protocol.encoding import b64decode, b64encode

BITS = 2
STATUS_LIST_TYP = "statuslist+jwt"  # section 5.1
PER_OCTET = 4
_EACH = 0b01_01_01_01  # times a status: an octet that is full of it
MAX_OCTETS = 16 * 1024 * 1024  # 67 million devices


class MalformedStatusList(MalformedInput):
    """This is not a status list"""

    remedy = "Fetch the bundle again from the service."


class Status(IntEnum):
    """A device's state as its credentials' verifiers see it."""

    VALID = 0
    INVALID = 1
    SUSPENDED = 2


_STATUSES = (Status.VALID, Status.INVALID, Status.SUSPENDED, Status.INVALID)  # by what two bits say


@dataclass(frozen=True, slots=True)
class StatusList:
    """The states of all devices, by status index. What the list does not say is INVALID."""

    octets: bytes

    @classmethod
    def of(cls, statuses: Mapping[int, Status], size: int, *, rest: Status = Status.VALID) -> Self:
        """`size` entries, rounded up to whole octets; `rest` where `statuses` says nothing, and after the last one."""
        octets = bytearray([rest * _EACH]) * ((size + PER_OCTET - 1) // PER_OCTET)
        for index, status in statuses.items():
            if not 0 <= index < size:
                raise ValueError(f"index {index} is outside a list of {size}")
            at, shift = index // PER_OCTET, BITS * (index % PER_OCTET)
            octets[at] = octets[at] & ~(3 << shift) | Status(status) << shift
        return cls(bytes(octets))

    def __len__(self) -> int:
        return len(self.octets) * PER_OCTET

    def __contains__(self, index: int) -> bool:
        return 0 <= index < len(self)

    def __getitem__(self, index: int) -> Status:
        """INVALID for an index outside the list and for the value that has no meaning here."""
        if not 0 <= index < len(self):
            return Status.INVALID
        return _STATUSES[self.octets[index // PER_OCTET] >> BITS * (index % PER_OCTET) & 3]

    def encode(self) -> str:
        """The `lst` member's text: ZLIB at the highest level, base64url."""
        return b64encode(zlib.compress(self.octets, 9))

    @classmethod
    def decode(cls, text: str, *, max_octets: int = MAX_OCTETS) -> Self:
        """From `lst`. Never holds more than `max_octets` decompressed. Raises MalformedInput or InputTooLarge."""
        # Incompressible data grows by less than 1/1000 and a few octets in ZLIB (RFC 1950); base64 by a third.
        most = (max_octets + max_octets // 1000 + 64) * 4 // 3
        if len(text) > most:
            raise InputTooLarge("The status list is too long.", seen=len(text), expected=f"at most {most} characters")
        stream = zlib.decompressobj()
        try:
            octets = stream.decompress(b64decode(text, name="lst"), max_octets + 1)
        except zlib.error:
            raise MalformedStatusList("The status list is not a ZLIB stream.") from None
        if len(octets) > max_octets:
            raise InputTooLarge("The status list is too large.", expected=f"at most {max_octets} octets")
        if not stream.eof:
            raise MalformedStatusList("The status list is cut off.")
        if stream.unused_data:
            raise MalformedStatusList("Something follows the status list.", seen=f"{len(stream.unused_data)} octets")
        return cls(octets)
