"""From a log that anybody can write to one that a TPM's PCRs bear out.

TPM 2.0 Library, revision 1.59, Part 1, section 17.2 (extending: the new value is the hash of the old one and the
digest) and 34.3 (an H-CRTM begins PCR 0 at 4); TCG PC Client Platform Firmware Profile, version 1.06 revision 52,
sections 3.3.3 (PCR 0 begins at the locality of TPM2_Startup) and 3.3.4 (PCRs 0 to 7 are the firmware's).

What a replay proves of an event: its PCR, its digest, and its place among the events of that PCR. It proves neither its
type, nor its data, nor its place among the events of other PCRs; and whoever runs later can append, never remove.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from attestd.errors import EvidenceRefused
from attestd.protocol.evidence import BANKS, PcrValues
from attestd.tpm.attest import VerifiedQuote
from attestd.tpm.eventlog import Event, UnverifiedEventLog
from attestd.tpm.eventtypes import EFI_HCRTM_EVENT, NO_ACTION
from attestd.tpm.misfit import locate

# Where more than one bank is proven, facts rest on the first of these: SHA-256 is the one whose digests people publish.
PREFERENCE: Final = ("sha256", "sha384", "sha512", "sha1")

_FIRMWARES_OWN: Final = range(8)  # a value in these that the log does not explain is a log that was cut
_DYNAMIC: Final = range(17, 23)  # all ones until a dynamic launch (TPM 2.0 Library, Part 1, section 17.4)
_HCRTM_LOCALITY: Final = 4

# systemd's boot phases, which user space measures into PCR 11 after the firmware's log has ended, in this order
# (systemd, docs/TPM2_PCR_MEASUREMENTS.md).
_PHASES_PCR: Final = 11
_PHASES: Final = ("enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final")


class EventLogMismatch(EvidenceRefused):
    """The event log does not replay to the PCRs

    `bank` and `pcr` are the first that differ; `last_fitting` is the number of the last event of that PCR which still
    fits, None where none does or none can be named; `events` is how many of them the log has.
    """

    remedy = (
        "Send the firmware's log of this very boot, whole. If the system measures into this PCR after the firmware "
        "(IMA 10; systemd 9, 12, 13 and 15), leave it out of the PCRs that are quoted with the log."
    )

    def __init__(
        self, detail: str, *, seen: str, expected: str, bank: str, pcr: int, last_fitting: int | None, events: int
    ) -> None:
        super().__init__(detail, seen=seen, expected=expected)
        self.bank, self.pcr, self.last_fitting, self.events = bank, pcr, last_fitting, events


class EventLogBankMissing(EvidenceRefused):
    """The event log has no digests for the banks that were quoted"""

    remedy = "Quote a bank that the firmware keeps a log for, as `tpm2_eventlog` shows, or activate it in the firmware."


class NotALogOfPcrs(EvidenceRefused):
    """The event log is of a confidential guest's registers, not of a TPM's PCRs"""

    remedy = "Send the TPM's own log: /sys/kernel/security/tpm0/binary_bios_measurements."


@dataclass(frozen=True, slots=True)
class Match:
    """What of a log some PCR values bear out.

    `banks`: those in which the log replays to each value given. `bank`: the one that facts rest on; `pcrs`: the PCRs
    that were compared in it, to the last event. `phases`: what systemd measured into PCR 11 after the log's end.
    """

    banks: tuple[str, ...]
    bank: str
    pcrs: frozenset[int]
    phases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VerifiedEventLog:
    """A log that replays to the PCRs of a verified quote. `verify_event_log` alone makes these."""

    log: UnverifiedEventLog
    match: Match


def verify_event_log(log: UnverifiedEventLog, quote: VerifiedQuote) -> VerifiedEventLog:
    """The log, borne out by a quote's PCR values. Raises what `match_values` raises."""
    return VerifiedEventLog(log, match_values(log, quote.pcrs))


def match_values(log: UnverifiedEventLog, values: PcrValues) -> Match:
    """Compares a log with PCR values, which are as good as where they come from.

    Steps:
    1. The log is of PCRs, and of a bank that there are values for.
    2. In each such bank, the log replays to each value given.
    3. PCRs 0 to 7 are the firmware's own: where the log has no events for one, its value is the one at reset. In other
       PCRs a value without events is what came after the firmware; nothing is believed of them.

    Raises NotALogOfPcrs, EventLogBankMissing or EventLogMismatch.
    """
    # 1.
    if not log.of_pcrs:
        raise NotALogOfPcrs
    banks = tuple(bank for bank in PREFERENCE if bank in log.banks and values.get(bank))
    if not banks:
        raise EventLogBankMissing(seen=", ".join(log.banks), expected=", ".join(values) or "PCR values")
    matched: dict[str, tuple[frozenset[int], tuple[str, ...]]] = {}
    for bank in banks:
        replayed = replay_bank(log, bank)
        compared = set()
        phases: tuple[str, ...] = ()
        for pcr, value in sorted(values[bank].items()):
            # 3.
            found = replayed.get(pcr, _at_reset(bank, pcr))
            if pcr not in replayed and pcr not in _FIRMWARES_OWN and value != found:
                continue
            # 2.
            if value != found and (pcr != _PHASES_PCR or not (phases := _phases_after(bank, found, value))):
                raise _mismatch(log, bank, pcr, found, value)
            compared.add(pcr)
        matched[bank] = frozenset(compared), phases
    return Match(banks, banks[0], *matched[banks[0]])


def replay(log: UnverifiedEventLog) -> Mapping[str, Mapping[int, bytes]]:
    """The values that the log's events lead to, by bank and PCR; PCRs without events are left out."""
    return MappingProxyType({bank: MappingProxyType(replay_bank(log, bank)) for bank in log.banks})


def replay_bank(log: UnverifiedEventLog, bank: str) -> dict[int, bytes]:
    """`replay` for one bank, which must be one of the log's."""
    position, new = log.banks.index(bank), getattr(hashlib, bank)
    values: dict[int, bytes] = {}
    for event in log.events:
        digest = event.digests[position]
        if event.type != NO_ACTION and digest is not None:
            pcr = event.pcr
            value = values.get(pcr) or _start(log, bank, event)
            values[pcr] = new(value + digest).digest()
    return values


def _start(log: UnverifiedEventLog, bank: str, first: Event) -> bytes:
    """A PCR's value before its first event."""
    zeros = bytes(BANKS[bank])
    if first.pcr != 0 or not log.of_pcrs:
        return zeros
    locality = _HCRTM_LOCALITY if first.type == EFI_HCRTM_EVENT else log.startup_locality or 0
    return zeros[1:] + bytes([locality])


def _at_reset(bank: str, pcr: int) -> bytes:
    return (b"\xff" if pcr in _DYNAMIC else b"\0") * BANKS[bank]


def _phases_after(bank: str, value: bytes, wanted: bytes) -> tuple[str, ...]:
    """The boot phases that lead from one value to the other, beginning with the first; () where none do."""
    new = getattr(hashlib, bank)
    for count, phase in enumerate(_PHASES, start=1):
        value = new(value + new(phase.encode()).digest()).digest()
        if value == wanted:
            return _PHASES[:count]
    return ()


def _mismatch(log: UnverifiedEventLog, bank: str, pcr: int, found: bytes, wanted: bytes) -> EventLogMismatch:
    """The refusal, and how far the log fits."""
    position = log.banks.index(bank)
    events = [e for e in log.events if e.pcr == pcr and e.type != NO_ACTION and e.digests[position] is not None]
    start = _start(log, bank, events[0]) if events else found
    misfit = locate(events, bank, position, start, wanted)
    return EventLogMismatch(
        f"The event log does not replay to PCR {pcr} of the {bank} bank: {misfit.how}.",
        seen=found.hex(),
        expected=wanted.hex(),
        bank=bank,
        pcr=pcr,
        last_fitting=misfit.last_fitting,
        events=len(events),
    )
