"""What of an event log may be believed: digests that a PCR bears out, and octets that hash to one of them.

google/go-attestation, docs/event-log-disclosure.md: a replay proves digests, not types and data. So here no event is
told by its type, and none by its data alone:

- A separator is an event whose digest is that of a separator's value. It can't be renamed away.
- Octets are proven where their digest is the event's. Loaders hash the data as it stands, or a part of it that they
  describe: the forms are listed with each reader.
- A digest is never dropped because its octets are known: whoever has a file has octets for the file's digest.
- Before a PCR's separator there was firmware alone; after it anybody could append, but nobody remove.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from attestd.tpm.eventlog import UnverifiedEventLog
from attestd.tpm.eventtypes import NO_ACTION, SEPARATOR

# TCG PC Client Platform Firmware Profile, version 1.06 revision 52, sections 2.3.2 and 10.4.1: the end of the pre-OS
# phase, in either spelling. Windows ends PCRs 12 to 14 by "WBCL".
_SEPARATORS: Final = ((range(8), (bytes(4), b"\xff\xff\xff\xff")), (range(12, 15), (b"WBCL",)))
# The separator that says that firmware could not measure. In PCR 1 a boot order may have the same octets, so there the
# type counts as well: whoever changes it gains a word on boot options and modes.
_FAILED: Final = b"\x01\0\0\0"
_BOOT_ORDERS: Final = 1

# Texts of EV_ACTION and EV_EFI_ACTION (the same document, section 10.4.4; PC Client Specific Implementation
# Specification for Conventional BIOS 1.21, section 11.3.3). Firmware measures them with and without a NUL.
CALLING: Final = "Calling EFI Application from Boot Option"
DEBUG_MODE: Final = "UEFI Debug Mode"
DMA_PROTECTION_DISABLED: Final = "DMA Protection Disabled"
EXITED: Final = "Exit Boot Services Returned with Success"
OMITTED: Final = "BOOT ATTEMPTS OMITTED"
_ACTIONS: Final = (
    CALLING,
    "Returning from EFI Application from Boot Option",
    "Exit Boot Services Invocation",
    "Exit Boot Services Returned with Failure",
    EXITED,
    DEBUG_MODE,
    DMA_PROTECTION_DISABLED,
    OMITTED,
    "Calling INT 19h",
    "Returned INT 19h",
    "Return via INT 18h",
)


class Measurement(NamedTuple):
    """An event that a PCR bears out: its number and its digest are proven, its type and its data are the log's word."""

    number: int
    digest: bytes
    type: int
    data: bytes


class Trace(NamedTuple):
    """Which event a fact, or an element of one, rests on; the value is as in the fact's JSON form."""

    event: int
    fact: str
    value: Any


@dataclass(slots=True)
class Register:
    """One PCR's measurements in their order, parted at its first separator. Separators themselves are left out.

    `called` counts those that the log calls so, too: firmware measures four zeros for other reasons as well.
    """

    before: list[Measurement] = field(default_factory=list)
    after: list[Measurement] = field(default_factory=list)
    separated: bool = False
    called: int = 0
    failed: bool = False  # firmware says that it could not measure

    @property
    def all(self) -> list[Measurement]:
        return self.before + self.after


class Measured:
    """The measurements of those PCRs of a log that are proven, by one bank."""

    def __init__(self, log: UnverifiedEventLog, bank: str, pcrs: Iterable[int]) -> None:
        self.bank = bank
        self.hash: Callable[[bytes], Any] = getattr(hashlib, bank)
        self.registers: Mapping[int, Register] = _registers(log, bank, pcrs)

    def __getitem__(self, pcr: int) -> Register | None:
        """None where the PCR is not proven: nothing can be said of it, not even that it is empty."""
        return self.registers.get(pcr)

    def proves(self, digest: bytes, octets: bytes) -> bool:
        """Whether these octets are what was measured."""
        return bool(self.hash(octets).digest() == digest)

    def action(self, measurement: Measurement) -> str | None:
        """The action that this measurement is, whatever the log calls it."""
        return actions(self.bank).get(measurement.digest)


@cache
def actions(bank: str) -> Mapping[bytes, str]:
    """The digests of the actions' texts."""
    new = getattr(hashlib, bank)
    forms = ((text.encode() + end, text) for text in _ACTIONS for end in (b"", b"\0"))
    return MappingProxyType({new(form).digest(): text for form, text in forms})


@cache
def separators(bank: str) -> frozenset[tuple[int, bytes]]:
    """The digests of the separators' values, each with a PCR that it ends."""
    new = getattr(hashlib, bank)
    return frozenset((pcr, new(value).digest()) for pcrs, values in _SEPARATORS for pcr in pcrs for value in values)


def _registers(log: UnverifiedEventLog, bank: str, pcrs: Iterable[int]) -> Mapping[int, Register]:
    position, ends = log.banks.index(bank), separators(bank)
    failure = getattr(hashlib, bank)(_FAILED).digest()
    found = {pcr: Register() for pcr in pcrs}
    for number, pcr, event_type, digests, data in log.events:
        register, digest = found.get(pcr), digests[position]
        if register is None or digest is None or event_type == NO_ACTION:
            continue
        failed = digest == failure and pcr < 8 and (pcr != _BOOT_ORDERS or event_type == SEPARATOR)
        if failed or (pcr, digest) in ends:
            register.separated = True
            register.called += event_type == SEPARATOR
            register.failed = register.failed or failed
        elif register.separated:
            register.after.append(Measurement(number, digest, event_type, data))
        else:
            register.before.append(Measurement(number, digest, event_type, data))
    return MappingProxyType(found)
