"""`attestd appraise eventlog`: what a firmware's log says, what it replays to, and what follows from that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attestd.cli.appraise.pcrs import read_pcr_file
from attestd.cli.appraise.verdicts import judging, read_input, tell
from attestd.cli.options import Json
from attestd.errors import EvidenceRefused
from attestd.protocol.messages import PcrValues
from attestd.tpm.bootclaims import boot_claims
from attestd.tpm.bootfacts import unquoted_facts
from attestd.tpm.eventlog import MAX_OCTETS, UnverifiedEventLog, parse_event_log
from attestd.tpm.replay import PREFERENCE, EventLogMismatch, Match, match_values, replay


def eventlog(
    file: Annotated[
        Path, typer.Argument(help="The log: /sys/kernel/security/tpm0/binary_bios_measurements; - is stdin.")
    ],
    pcrs: Annotated[
        Path | None, typer.Option(help="PCR values to compare it with: what tpm2_pcrread prints, or JSON.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read a TCG event log, replay it, and say what it proves of the boot.

    With --pcrs the log must replay to these values, in every bank that both have. Without it nothing is compared, and
    the output says so: "compared": false. Facts rest on digests that were recomputed; "claimed" are names that a log
    gives to digests, which nobody can prove.
    """
    with judging(as_json=as_json):
        log = parse_event_log(read_input(file, limit=MAX_OCTETS))
        values = None if pcrs is None else read_pcr_file(pcrs)
        match, refusal = _compare(log, values)
        document = _document(log, match, refusal, values)
        tell(document, as_json=as_json, text=_text(document), refusal=refusal)


def _compare(log: UnverifiedEventLog, values: PcrValues | None) -> tuple[Match | None, EvidenceRefused | None]:
    if values is None:
        return None, None
    try:
        return match_values(log, values), None
    except EvidenceRefused as refusal:
        return None, refusal


def _document(
    log: UnverifiedEventLog, match: Match | None, refusal: EvidenceRefused | None, values: PcrValues | None
) -> dict[str, Any]:
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


def _text(document: dict[str, Any]) -> str:
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
