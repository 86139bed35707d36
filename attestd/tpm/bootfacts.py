"""Facts about a boot, for policy and for people: what a log says, as far as a TPM bears it out.

`boot_facts` takes a VerifiedEventLog, so nothing is said of a log that no quote has proven; `unquoted_facts` is for the
command that looks at a file, and says plainly what it was compared with.

| facts | PCR | rest on | need |
|---|---|---|---|
| secure_boot, setup_mode, pk, kek, db*, dbx* | 7 | digests over UEFI_VARIABLE_DATA | all known; its separator |
| signers, authorities, mok_used | 7 | the same | all known |
| shim, sbat, sbat_level, mok_validation_disabled | 7 | the same, after the separator | all known |
| firmware_debug_mode, dma_protection_disabled, firmware_actions | 7 | digests over texts | all known |
| audit_mode, deployed_mode | 1 | digests over UEFI_VARIABLE_DATA | its separator |
| boot_options | 1 | digests over a variable or its content | |
| firmware_version | 0 | the digest over the version | its separator |
| drivers, loaders | 2, 4 | the digests: an image's, by Authenticode | |
| grub_commands, kernel_command_lines | 8, 12 | digests over texts | all known |
| boot_files, system_extensions, mok_lists | 9, 13, 14 | the digests: a file's | |
| uki, uki_sections, initrd | 11 | a digest over a name before each section's | |
| disks, boot_services_exited, boot_attempts_omitted | 5, 4 | digests over a partition table, texts | |
| windows_* | 12, 13 | digests over Windows' events | all of them known; "WBCL" |

Lists hold all that was ever measured there: who comes later can add to them and take nothing away, so a policy asks
whether all of a list is good. What comes after the firmware is as good as the loaders that measured it: judge `loaders`
(or `signers`) first. A fact that is not proven is left out, never false.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from attestd.tpm.bootloaders import LoadingFacts, loading_facts, trace_loading
from attestd.tpm.eventlog import UnverifiedEventLog
from attestd.tpm.measured import Measured, Trace
from attestd.tpm.platformfirmware import FirmwareFacts, firmware_facts, trace_firmware
from attestd.tpm.replay import PREFERENCE, Match, VerifiedEventLog, replay_bank
from attestd.tpm.secureboot import SecureBootFacts, Signer, secure_boot_facts, trace_secure_boot
from attestd.tpm.sipa import WindowsFacts, windows_facts
from attestd.tpm.uefi import LoadOption

_PLAIN: Final = (bool, int, str)


@dataclass(frozen=True, slots=True)
class _Facts:
    """`bank`: the one whose digests were recomputed; `pcrs`: those that were compared to the last event.

    `doubts` name what does not fit together, in words with dashes; a machine without doubts has none.
    `phases`: how far systemd says that the boot went, in PCR 11.
    """

    compared: ClassVar[bool]

    bank: str
    pcrs: tuple[int, ...]
    phases: tuple[str, ...]
    doubts: tuple[str, ...]
    firmware: FirmwareFacts
    secure_boot: SecureBootFacts
    loading: LoadingFacts
    windows: WindowsFacts

    def to_members(self) -> dict[str, Any]:
        """The JSON form: flat, of booleans, numbers, texts and lists of these; what is not proven is left out."""
        members: dict[str, Any] = {
            "compared": self.compared,
            "bank": self.bank,
            "pcrs": list(self.pcrs),
            "doubts": list(self.doubts),
        }
        if self.phases:
            members["boot_phases"] = list(self.phases)
        for section in (self.firmware, self.secure_boot, self.loading, self.windows):
            for name in section.__dataclass_fields__:
                value = getattr(section, name)
                if value is not None:
                    members[name] = value if isinstance(value, _PLAIN) else _listed(name, value)
        signers = self.secure_boot.signers
        if signers is not None:
            members["authorities"] = list(dict.fromkeys(signer.certificate for signer in signers))
        lines = self.loading.kernel_command_lines
        if lines is not None and len(lines) == 1:
            members["kernel_command_line"] = lines[0]
        return members


@dataclass(frozen=True, slots=True)
class BootFacts(_Facts):
    """Facts that a verified quote bears out."""

    compared: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class ComparedFacts(_Facts):
    """Facts that PCR values bear out which came from a file: as good as the file."""

    compared: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class UncomparedFacts(_Facts):
    """What a log says of itself. Nobody has proven that any machine ever measured this."""

    compared: ClassVar[bool] = False


def boot_facts(verified: VerifiedEventLog) -> BootFacts:
    """The facts of a log that a quote has proven, from the PCRs of that quote."""
    return BootFacts(*_derive(verified.log, verified.match))


def trace_facts(log: UnverifiedEventLog, match: Match, facts: _Facts) -> list[Trace]:
    """Which events these facts of the log rest on, in its order. What says that something is absent rests on none."""
    measured = Measured(log, match.bank, match.pcrs)
    found = [
        *trace_firmware(measured),
        *trace_secure_boot(measured, facts.secure_boot),
        *trace_loading(measured, facts.loading),
    ]
    signers = [trace for trace in found if trace.fact == "signers"]
    found += [Trace(trace.event, "authorities", trace.value["certificate"]) for trace in signers]
    return sorted(found, key=lambda trace: trace.event)


@dataclass(frozen=True, slots=True)
class RecalledFacts:
    """What `boot_facts` found of the same log and the same PCR values before, in its JSON form."""

    members: Mapping[str, Any]

    def to_members(self) -> dict[str, Any]:
        return dict(self.members)


def recall_facts(members: Mapping[str, Any]) -> RecalledFacts:
    """Facts out of storage that nobody else writes. Nothing is verified again; facts that were compared with nothing
    are no facts: ValueError."""
    if members.get("compared") is not True:
        raise ValueError("these facts were never proven")
    return RecalledFacts(members)


def unquoted_facts(log: UnverifiedEventLog, match: Match | None) -> ComparedFacts | UncomparedFacts | None:
    """The facts of a log that no quote has proven; None for a log that is not of PCRs."""
    if match is not None:
        return ComparedFacts(*_derive(log, match))
    if not log.of_pcrs:
        return None
    bank = next(bank for bank in PREFERENCE if bank in log.banks)
    return UncomparedFacts(*_derive(log, Match((bank,), bank, frozenset(replay_bank(log, bank)))))


def _derive(log: UnverifiedEventLog, match: Match) -> tuple[Any, ...]:
    measured = Measured(log, match.bank, match.pcrs)
    doubts: list[str] = []
    firmware = firmware_facts(measured, doubts)
    secure_boot = secure_boot_facts(measured, doubts)
    windows = windows_facts(measured, doubts)
    loading = loading_facts(measured, windows=windows.windows is not None, doubts=doubts)
    pcrs, once = tuple(sorted(match.pcrs)), tuple(dict.fromkeys(doubts))
    return match.bank, pcrs, match.phases, once, firmware, secure_boot, loading, windows


def _listed(name: str, value: Any) -> Any:
    """A tuple's JSON form."""
    if name == "uki_sections":
        return dict(value)
    return [_record(item) if isinstance(item, Signer | LoadOption) else item for item in value]


def _record(item: Signer | LoadOption) -> dict[str, str]:
    if isinstance(item, LoadOption):
        return item._asdict()
    return {"source": item.source, "certificate": item.certificate, "subject": item.subject}
