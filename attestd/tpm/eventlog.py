"""The TCG event log: what firmware and boot loaders say that they measured, read record by record and believed not yet.

TCG PC Client Platform Firmware Profile, version 1.06 revision 52, section 10: 10.2.1 (TCG_PCR_EVENT, the SHA-1 format),
10.2.2 (TCG_PCR_EVENT2, the crypto-agile one), 10.4.5.1 (TCG_EfiSpecIdEvent, which begins it) and 10.4.5.3
(StartupLocality). All numbers are little-endian. A log of a confidential guest (ACPI table CCEL; UEFI Specification
2.10, section 38) has the same records, whose index is a measurement register of the CPU and no PCR.

Everything read here is anybody's words: a type, a size and the data may each be a lie, and a digest is one until it
has been replayed to a PCR. `replay` compares the log with PCR values; `bootfacts` says what follows.

Sizes and counts are the attacker's: the log is at most MAX_OCTETS long and holds at most MAX_EVENTS records, nothing is
copied twice, and the errors raised are MalformedEventLog and EventLogTooLarge.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from attestd.errors import InputTooLarge, MalformedInput
from attestd.protocol.evidence import BANKS, MAX_LOG
from attestd.tpm.eventtypes import NO_ACTION, name_of

MAX_OCTETS: Final = MAX_LOG
MAX_EVENTS: Final = 8192  # the longest log of a real machine known here has 140
PCRS: Final = 24  # TCG PC Client Platform TPM Profile, section 4.6

_SHA1_EVENT = Struct("<II20sI")  # pcrIndex, eventType, digest, eventSize
_AGILE_EVENT = Struct("<III")  # pcrIndex, eventType, count of digests
_ALG = Struct("<H")
_SIZE = Struct("<I")
_SPEC_ID = Struct("<16sIBBBBI")  # signature, platformClass, minor, major, errata, uintnSize, numberOfAlgorithms
_ALG_SIZE = Struct("<HH")
_SPEC_ID_3 = b"Spec ID Event03\0"
_STARTUP_LOCALITY = b"StartupLocality\0"
_NO_REGISTER = 0xFFFFFFFF
_MOST_BANKS = 16

# TCG Algorithm Registry, revision 1.34, section 6.10. Banks without a name here are stepped over by their stated size.
_BANK_NAMES: Final = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}


class MalformedEventLog(MalformedInput):
    """The event log can't be read"""

    remedy = "Send the log whole, as the firmware wrote it: /sys/kernel/security/tpm0/binary_bios_measurements."


class EventLogTooLarge(InputTooLarge):
    """The event log is larger than any machine's"""

    remedy = "Send the firmware's log of one boot alone."


class Event(NamedTuple):
    """One record. `number` counts from 0 as tpm2_eventlog's EventNum does; `digests` are in the order of the banks."""

    number: int
    pcr: int  # or the measurement register, in a log of a confidential guest
    type: int
    digests: tuple[bytes | None, ...]  # None: the record has no digest for this bank
    data: bytes

    def __str__(self) -> str:
        return f"event {self.number} ({name_of(self.type)})"


@dataclass(frozen=True, slots=True)
class UnverifiedEventLog:
    """A log that could be read. Nothing in it is proven.

    `startup_locality` is where the log says that TPM2_Startup came from: 0, 3, 4, or None where it doesn't say.
    `of_pcrs` is false for a confidential guest's log, whose registers are not a TPM's.
    `apart` are records of no register, which extend nothing: Windows keeps its own quote in one at the log's end.
    `padding` is the number of octets after the last record.
    """

    format: str  # "crypto-agile" or "sha1"
    banks: tuple[str, ...]
    events: tuple[Event, ...]
    apart: tuple[Event, ...]
    startup_locality: int | None
    of_pcrs: bool
    padding: int


def parse_event_log(data: bytes) -> UnverifiedEventLog:
    """Reads a whole log in either format, told apart by its first record; the crypto-agile format's is no event.

    Octets after the last event are padding if they are all 0xff or all zero, as firmware fills its buffer, and an
    error otherwise. Raises MalformedEventLog or EventLogTooLarge.
    """
    if len(data) > MAX_OCTETS:
        raise EventLogTooLarge(seen=f"{len(data)} octets", expected=f"at most {MAX_OCTETS}")
    if len(data) < _SHA1_EVENT.size:
        raise MalformedEventLog("This is no event log.", seen=f"{len(data)} octets", expected="at least one event")
    register, event_type, _, size = _SHA1_EVENT.unpack_from(data, 0)
    begin = _SHA1_EVENT.size
    if event_type == NO_ACTION and data.startswith(_SPEC_ID_3, begin):
        _check_size(data, begin, size)
        banks, layout = _read_spec_id(data[begin : begin + size])
        records, end = _agile_events(data, begin + size, layout)
        return _log("crypto-agile", banks, records, register == 0, len(data) - end)
    records, end = _sha1_events(data)
    return _log("sha1", ("sha1",), records, True, len(data) - end)


def _log(form: str, banks: tuple[str, ...], records: list[Event], of_pcrs: bool, padding: int) -> UnverifiedEventLog:
    apart = tuple(record for record in records if record.pcr == _NO_REGISTER)
    events = tuple(record for record in records if record.pcr != _NO_REGISTER) if apart else tuple(records)
    return UnverifiedEventLog(form, banks, events, apart, _startup_locality(events), of_pcrs, padding)


class _Layout:
    """How the digests of a log's records lie: those that the spec-id event lists, usually in its order."""

    __slots__ = ("ids", "named", "sizes", "usual")

    def __init__(self, algorithms: dict[int, int]) -> None:
        self.ids = tuple(algorithms)
        self.sizes = algorithms
        self.named = tuple(alg for alg in algorithms if alg in _BANK_NAMES)
        self.usual = Struct("<III" + "".join(f"H{size}s" for size in algorithms.values()) + "I")


def _read_spec_id(data: bytes) -> tuple[tuple[str, ...], _Layout]:
    """The banks of a TCG_EfiSpecIdEvent, read to its last octet."""
    if len(data) < _SPEC_ID.size:
        raise MalformedEventLog("The log's first event ends too early.", seen=f"{len(data)} octets")
    count = _SPEC_ID.unpack_from(data)[-1]
    if not 1 <= count <= _MOST_BANKS:
        raise MalformedEventLog(
            "The log names an impossible number of algorithms.", seen=count, expected=f"1 to {_MOST_BANKS}"
        )
    end = _SPEC_ID.size + count * _ALG_SIZE.size
    if len(data) < end + 1 or len(data) != end + 1 + data[end]:  # vendorInfoSize, vendorInfo
        raise MalformedEventLog("The log's first event has another size than its parts.", seen=f"{len(data)} octets")
    algorithms: dict[int, int] = {}
    for at in range(_SPEC_ID.size, end, _ALG_SIZE.size):
        alg, size = _ALG_SIZE.unpack_from(data, at)
        known = BANKS.get(_BANK_NAMES.get(alg, ""), size)
        if alg in algorithms or size != known or not 1 <= size <= 64:
            raise MalformedEventLog(
                "The log's algorithms have wrong sizes, or come twice.",
                seen=f"algorithm 0x{alg:04x} of {size} octets",
                expected=f"each once, with {known if 1 <= known <= 64 else 'at most 64'} octets",
            )
        algorithms[alg] = size
    layout = _Layout(algorithms)
    if not layout.named:
        raise MalformedEventLog(
            "The log has no bank that is known here.",
            seen=", ".join(f"0x{alg:04x}" for alg in algorithms),
            expected=", ".join(BANKS),
        )
    return tuple(_BANK_NAMES[alg] for alg in layout.named), layout


def _agile_events(data: bytes, at: int, layout: _Layout) -> tuple[list[Event], int]:
    """The TCG_PCR_EVENT2 records from `at` on, and where they end."""
    usual, ids, end, last = layout.usual, layout.ids, len(data), _end_of_records(data)
    ids_at, digests_at = slice(3, -1, 2), slice(4, -1, 2)
    plain = len(layout.named) == len(ids)
    count = len(ids)
    events: list[Event] = []
    while at < last:
        if plain and at + usual.size <= end:
            fields = usual.unpack_from(data, at)
            if fields[2] == count and fields[ids_at] == ids:
                register, event_type, digests, size = fields[0], fields[1], fields[digests_at], fields[-1]
                begin = at + usual.size
            else:
                register, event_type, digests, size, begin = _read_digests(data, at, layout)
        else:
            register, event_type, digests, size, begin = _read_digests(data, at, layout)
        at = begin + size
        if at > end:
            _check_size(data, begin, size)
        _check(register, event_type, len(events))
        events.append(Event(len(events) + 1, register, event_type, digests, data[begin:at]))
    return events, at


def _read_digests(data: bytes, at: int, layout: _Layout) -> tuple[int, int, tuple[bytes | None, ...], int, int]:
    """A record's head whose digests are in another order than usual, or fewer, or of banks without a name here."""
    register, event_type, count = _unpack(_AGILE_EVENT, data, at)
    if count > len(layout.ids):
        raise MalformedEventLog(
            "An event has more digests than the log has algorithms.", seen=count, expected=f"at most {len(layout.ids)}"
        )
    at += _AGILE_EVENT.size
    found: dict[int, bytes] = {}
    for _ in range(count):
        (alg,) = _unpack(_ALG, data, at)
        size = layout.sizes.get(alg)
        if size is None or alg in found:
            raise MalformedEventLog(
                "An event's digest is of an algorithm that the log does not name, or comes twice.",
                seen=f"0x{alg:04x}",
                expected=", ".join(f"0x{known:04x}" for known in layout.ids),
            )
        at += _ALG.size
        found[alg] = data[at : at + size]
        at += size
    (size,) = _unpack(_SIZE, data, at)  # whatever was cut before it is noticed here
    return register, event_type, tuple(found.get(alg) for alg in layout.named), size, at + _SIZE.size


def _sha1_events(data: bytes) -> tuple[list[Event], int]:
    """TCG_PCR_EVENT records from the beginning on, and where they end."""
    at, last = 0, _end_of_records(data)
    events: list[Event] = []
    while at < last:
        _check_size(data, at, _SHA1_EVENT.size)
        register, event_type, digest, size = _SHA1_EVENT.unpack_from(data, at)
        begin = at + _SHA1_EVENT.size
        _check_size(data, begin, size)
        _check(register, event_type, len(events))
        at = begin + size
        events.append(Event(len(events), register, event_type, (digest,), data[begin:at]))
    if not events:
        raise MalformedEventLog("This is no event log.", seen="padding alone", expected="at least one event")
    return events, at


def _end_of_records(data: bytes) -> int:
    """Where padding begins, if there is any: from a record's end to the log's end all is 0xff, or all is zero."""
    return min(len(data.rstrip(b"\xff")), len(data.rstrip(b"\0")))


def _unpack(layout: Struct, data: bytes, at: int) -> tuple[int, ...]:
    _check_size(data, at, layout.size)
    return layout.unpack_from(data, at)


def _check_size(data: bytes, at: int, size: int) -> None:
    if size > len(data) - at:
        raise MalformedEventLog(
            "The event log ends within an event.",
            seen=f"{max(0, len(data) - at)} octets from octet {at} on",
            expected=f"{size}",
        )


def _check(register: int, event_type: int, count: int) -> None:
    """An event that extends must extend a PCR; one that doesn't may name none, which is 0xffffffff."""
    if register >= PCRS and (event_type != NO_ACTION or register != _NO_REGISTER):
        raise MalformedEventLog(
            "An event names a PCR that there is not.", seen=f"PCR {register}", expected=f"0 to {PCRS - 1}"
        )
    if count >= MAX_EVENTS:
        raise EventLogTooLarge("The event log holds too many events.", expected=f"at most {MAX_EVENTS}")


def _startup_locality(events: tuple[Event, ...]) -> int | None:
    """What the StartupLocality event says; it stands before anything is measured into PCR 0 (section 10.4.5.3)."""
    for event in events:
        if event.type != NO_ACTION:
            if event.pcr == 0:
                return None
        elif event.data.startswith(_STARTUP_LOCALITY):
            if len(event.data) != len(_STARTUP_LOCALITY) + 1 or event.data[-1] not in (0, 3, 4):
                raise MalformedEventLog(
                    "The log's StartupLocality is none.", seen=event.data[16:24].hex(), expected="00, 03 or 04"
                )
            return event.data[-1]
    return None
