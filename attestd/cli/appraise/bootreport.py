"""The report on one event log: what it replays to, the facts, the claims, and the same in words."""

from __future__ import annotations

from typing import Any

from attestd.errors import EvidenceRefused
from attestd.protocol.evidence import PcrValues
from attestd.tpm.bootclaims import boot_claims
from attestd.tpm.bootfacts import unquoted_facts
from attestd.tpm.eventlog import UnverifiedEventLog
from attestd.tpm.replay import PREFERENCE, EventLogMismatch, Match, match_values, replay


def compare(log: UnverifiedEventLog, values: PcrValues | None) -> tuple[Match | None, EvidenceRefused | None]:
    """What of the log the values bear out, or why they don't; neither where there are none."""
    if values is None:
        return None, None
    try:
        return match_values(log, values), None
    except EvidenceRefused as refusal:
        return None, refusal


def report_on(
    log: UnverifiedEventLog, match: Match | None, refusal: EvidenceRefused | None, values: PcrValues | None
) -> dict[str, Any]:
    """The command's JSON document."""
    replayed = replay(log)
    document: dict[str, Any] = {
        "format": log.format,
        "registers": "pcr" if log.of_pcrs else "mr",
        "events": len(log.events),
        "pcrs": {
            bank: {str(pcr): value.hex() for pcr, value in sorted(found.items())} for bank, found in replayed.items()
        },
        "compared": values is not None,
        "facts": {},
    }
    if log.startup_locality is not None:
        document["startup_locality"] = log.startup_locality
    if isinstance(refusal, EventLogMismatch):
        document["mismatch"] = {
            "bank": refusal.bank,
            "pcr": refusal.pcr,
            "last_fitting_event": refusal.last_fitting,
            "events": refusal.events,
            "replayed": refusal.seen,
            "given": refusal.expected,
        }
    if match is not None and values is not None:
        document["compared_banks"] = list(match.banks)
        document["not_compared_banks"] = [bank for bank in values if bank not in match.banks]
    facts = unquoted_facts(log, match) if refusal is None else None
    if facts is not None:
        document["facts"] = facts.to_members()
        document["claimed"] = boot_claims(log, facts.bank)
    return document


_SHOWN = (
    ("secure_boot", "Secure Boot"),
    ("setup_mode", "setup mode"),
    ("firmware_version", "firmware"),
    ("shim", "shim"),
    ("sbat_level", "SBAT level"),
    ("mok_used", "a machine owner's key vouched"),
    ("mok_validation_disabled", "shim validates nothing"),
    ("dma_protection_disabled", "DMA protection disabled"),
    ("firmware_debug_mode", "firmware debugger"),
    ("kernel_command_lines", "kernel command line"),
    ("uki", "unified kernel image"),
    ("initrd", "initrd"),
    ("windows", "Windows"),
    ("windows_test_signing", "test signing"),
    ("windows_kernel_debugging", "kernel debugging"),
    ("windows_boot_debugging", "boot debugging"),
    ("doubts", "doubts"),
)


def in_words(document: dict[str, Any]) -> str:
    """The short form for people; `--json` has everything."""
    facts = document["facts"]
    banks = document["pcrs"]
    bank = next(bank for bank in PREFERENCE if bank in banks)
    kind = "PCR" if document["registers"] == "pcr" else "register"
    lines = [f"{document['events']} events, {document['format']} format, banks: {', '.join(banks)}"]
    lines += [f"  {kind} {index:>2}  {value}" for index, value in banks[bank].items()]
    if not document["compared"]:
        lines.append("Nothing was given to compare this log with, so all of it is the log's own word.")
    for name, shown in _SHOWN:
        if (value := facts.get(name)) not in (None, []):
            told = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
            lines.append(f"  {shown + ':':<32}{'; '.join(told) if isinstance(told, list) else told}")
    for claim in document.get("claimed", {}).get("loaders", []):
        lines.append(f"  {'loader (its name is a claim):':<32}{claim['digest']}  {claim['name']}")
    return "\n".join(lines)
