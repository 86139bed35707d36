"""Why a result is not better, in plain words: the cause first, no blame, and nothing that the evidence does not say.

The service says each thing exactly, for programs and for the record ("sha256 PCR 7 is ab…, which 'gateway-os' does not
list as good."). `cause` says what that means; `headline` says all of it in a line. What is not known here is shown as
the service said it: a newer service is still readable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attestd_console.visible import visible

_MOST_NAMED: Final = 2  # causes in a headline

# What it means that a boot fact is not among the good values (docs/measured-boot.md). `{}` is the value.
FACTS: Final[Mapping[str, str]] = {
    "firmware_version": "the firmware has version {}, which no reference value knows",
    "boot_options": "a boot option is set that no reference value knows",
    "measuring_failed": "the firmware says that it could not measure something",
    "secure_boot": "Secure Boot is off",
    "setup_mode": "the firmware is in setup mode, where anybody may change its keys",
    "audit_mode": "the firmware is in audit mode, where nothing has to be signed",
    "deployed_mode": "the firmware is not in deployed mode",
    "pk": "the platform key is not one that reference values know",
    "kek": "a key exchange key is not one that reference values know",
    "db": "a key may sign what starts that no reference value knows",
    "db_images": "a single program is allowed to start that no reference value knows",
    "dbx_count": "the list of forbidden programs has another length",
    "dbx_digest": "the list of forbidden programs is another one",
    "dbx_certificates": "a forbidden key is not one that reference values know",
    "signers": "a key vouched for what was started that no reference value knows",
    "authorities": "a key vouched for what was started that no reference value knows",
    "firmware_debug_mode": "the firmware is in debug mode",
    "dma_protection_disabled": "the firmware switched off its protection against devices that write to memory",
    "firmware_actions": "the firmware noted something that no reference value knows",
    "shim": "shim did, or did not, take part in the boot, against what reference values say",
    "sbat": "the list of revoked boot loaders is another one",
    "sbat_level": "the list of revoked boot loaders is older than reference values ask for",
    "mok_used": "a key of the machine's owner vouched for what was started",
    "mok_validation_disabled": "shim was told to check no signatures",
    "mok_lists": "the owner's list of keys is not one that reference values know",
    "drivers": "a driver was loaded before the system that no reference value knows",
    "loaders": "a boot program ran that no reference value knows",
    "boot_attempts_omitted": "the firmware tried to start something and left it out of the log",
    "boot_services_exited": "the firmware did not hand over to a system as reference values say",
    "disks": "the machine has a disk that no reference value knows",
    "grub_commands": "the boot loader ran a command that no reference value knows",
    "kernel_command_lines": "the kernel was started with options that no reference value knows",
    "kernel_command_line": "the kernel was started with options that no reference value knows",
    "boot_files": "the boot loader read a file that no reference value knows",
    "uki": "the kernel did, or did not, come as one signed image, against what reference values say",
    "uki_sections": "a part of the kernel image is not one that reference values know",
    "initrd": "the kernel's first file system is not one that reference values know",
    "system_extensions": "a system extension was loaded that no reference value knows",
    "boot_phases": "the boot went another way than reference values say",
    "windows": "Windows did, or did not, take part in the boot, against what reference values say",
    "windows_boot_debugging": "Windows' boot can be debugged",
    "windows_kernel_debugging": "Windows' kernel can be debugged",
    "windows_test_signing": "Windows takes drivers with test signatures",
    "windows_flight_signing": "Windows takes code of preview builds",
    "windows_code_integrity": "Windows does not check the integrity of code",
    "windows_safe_mode": "Windows runs in safe mode",
    "windows_pe": "a Windows installation or rescue system was started",
    "windows_hypervisor_debugging": "Windows' hypervisor can be debugged",
    "windows_hypervisor_launch_type": "Windows' hypervisor starts otherwise than reference values say",
    "windows_vsm_launch_type": "Windows' secure kernel starts otherwise than reference values say",
    "windows_bitlocker_unlocks": "BitLocker was unlocked in a way that reference values don't know",
    "windows_resumed": "Windows was resumed from hibernation",
    "windows_boot_count": "Windows' boot count is not one of those that reference values list",
    "windows_elam": "Windows' early malware protection is not the one that reference values know",
    "windows_modules": "Windows loaded a module that no reference value knows",
    "windows_modules_not_validated": "Windows loaded a module without checking it",
}
# The same for PCRs whose value reference values name as a whole (TCG PC Client Platform Firmware Profile, 3.3.4).
PCRS: Final[Mapping[int, str]] = {
    0: "the firmware is not one that reference values know",
    1: "the firmware's settings are not as reference values say",
    2: "a driver was loaded before the system that no reference value knows",
    3: "a driver's settings are not as reference values say",
    4: "a boot program ran that no reference value knows",
    5: "the disk's layout, or how the boot went, is not as reference values say",
    6: "the maker's own measurement is not as reference values say",
    7: "Secure Boot's state or keys are not as reference values say",
    8: "the boot loader ran commands that no reference value knows",
    9: "the boot loader read files that no reference value knows",
    10: "what ran since the boot is not exactly what reference values name",
    11: "the kernel image is not one that reference values know",
    12: "the kernel's options are not as reference values say",
    13: "a system extension was loaded that no reference value knows",
    14: "the owner's keys are not as reference values say",
    15: "the system's identity is not as reference values say",
}
_ANY_PCR: Final = "PCR {} is not as reference values say"
# Doubts are things of a log that don't fit together.
DOUBTS: Final[tuple[tuple[str, str], ...]] = (
    (r"pcr-(\d+)-unexplained", "the event log has something in PCR {} that nobody can explain"),
    (r"pcr-(\d+)-not-separated", "the firmware never marked the end of its own measurements in PCR {}"),
    (r"pcr-(\d+)-separated-twice", "the firmware's end mark in PCR {} stands there twice"),
    (r"firmware-could-not-measure", "the firmware says that it could not measure something"),
    (r"secure-boot-on-and-nobody-vouched", "Secure Boot is said to be on, and nobody vouched for what was started"),
    (r"(\w+)-measured-twice", "the setting {} was measured twice, so neither is believed"),
    (r"uki-section-measured-twice", "a part of the kernel image was measured twice, so none is believed"),
    (r"(\w+)-unreadable", "the key list {} can't be read"),
    (r"windows-events-not-proven", "Windows' own events are not proven"),
    (r"windows-events-unexplained", "Windows' own events have something that nobody can explain"),
    (r"windows-events-unreadable", "Windows' own events can't be read"),
    (r"too-many-([a-z-]+)", "the event log holds more {} than any machine's"),
)
# Sentences of an appraisal that are about no one value.
WHOLE: Final[tuple[tuple[str, str], ...]] = (
    (
        r"No reference values for this device, so nothing about its software can be affirmed\.",
        "no reference values speak of this device, so nothing about its software can be affirmed",
    ),
    (
        r"No IMA list shows what ran since the boot, and reference values speak of it\.",
        "nothing shows what ran since the boot, and reference values ask for it",
    ),
    (r"(\d+) more IMA entries are not good\.", "{} more files ran that no reference value knows"),
    (
        r"(\d+) files were written while IMA measured them; (\d+) may\.",
        "{} files were written while they were measured, so it is not known what ran; {} may be",
    ),
    (
        r"No maker's certificate vouches for this TPM; the inventory alone knows it\.",
        "no maker vouches for this TPM; it is known from your inventory alone",
    ),
    (r"And (\d+) more\.", "{} more things differ"),
)
_VALUE: Final = re.compile(
    r"(?P<what>.+?) is (?P<value>.*), which (?P<manifest>'.*'|\".*\") does not list as good\.", re.S
)
_PCR: Final = re.compile(r"(?P<bank>sha\d+) PCR (?P<pcr>\d+)", re.ASCII)
_FILE: Final = re.compile(r"IMA entry (?P<entry>\d+), (?P<path>.*?) \((?P<digest>[^()]*)\): (?P<why>.*)", re.S)
_ADVISORY: Final = re.compile(
    r"(?P<id>[A-Za-z0-9._-]+): (?P<means>.+) \((?P<chip>[^()]*), firmware (?P<version>[^()]*)\)\.", re.S
)

# Refusals of an attestation or an enrollment of a known device, by the problem's name.
REFUSALS: Final[Mapping[str, str]] = {
    "nonce-mismatch": "The quote was signed for another nonce: probably a replayed or delayed request.",
    "event-log-mismatch": "The event log does not replay to the quote.",
    "malformed-event-log": "The event log can't be read.",
    "event-log-unknown": "The event log was not sent, and is not one that was seen before.",
    "not-a-log-of-pcrs": "The event log is of a confidential guest, not of a TPM.",
    "event-log-bank-missing": "The event log has no digests of the kind that was quoted.",
    "ima-list-mismatch": "The list of what ran does not lead to the quote.",
    "malformed-ima-list": "The list of what ran can't be read.",
    "template-digest-mismatch": "An entry in the list of what ran is not what its digest says.",
    "boot-aggregate-mismatch": "The list of what ran is of another boot than the quote.",
    "evidence-incomplete": "Reference values ask for a log that was not sent.",
    "evidence-contraindicated": "What it showed must not be trusted.",
    "pcr-selection-mismatch": "The quote does not cover the PCRs that were asked for.",
    "pcr-digest-mismatch": "The PCR values that were sent are not those of the quote.",
    "pcr10-not-quoted": "The quote does not cover PCR 10, so it proves nothing of what ran.",
    "attestation-signature-wrong": "The quote is not signed by this device's attestation key.",
    "attestation-type-wrong": "What was signed is no quote.",
    "not-made-by-tpm": "What was signed was not made by a TPM.",
    "certificate-for-another-key": "The TPM's certificate is for another key: it may be another machine's.",
    "device-quarantined": "The device is quarantined: enrolling again does not end that.",
    "enrollment-rejected": "An operator rejected this device.",
    "endorsement-key-blocked": "This TPM was replaced by another.",
    "ak-not-restricted": "The attestation key may sign anything, so its word means nothing.",
    "signature-wrong": "A signature is wrong.",
    "others": "Other reasons.",
}


def cause(reason: str) -> str:
    """What one sentence of an appraisal means, as a part of a sentence."""
    if found := _VALUE.fullmatch(reason):
        return _of_value(found["what"], found["value"])
    if found := _FILE.fullmatch(reason):
        return f"{visible(found['path'], 120)} ran, and is not as reference values say"
    for pattern, words in WHOLE:
        if found := re.fullmatch(pattern, reason):
            return words.format(*found.groups())
    if found := _ADVISORY.fullmatch(reason):
        return f"its kind of TPM has a known weakness, {visible(found['id'], 40)}"
    return visible(reason.rstrip("."))


def _of_value(what: str, value: str) -> str:
    missing = value in ("not quoted", "not proven")
    if found := _PCR.fullmatch(what):
        number = int(found["pcr"])
        if missing:
            return f"PCR {number} was not quoted, and reference values ask for it"
        return PCRS.get(number, _ANY_PCR.format(number))
    if missing:
        return f"nothing shows “{visible(what, 63).replace('_', ' ')}”, and reference values ask for it"
    if what == "doubts":
        return doubt(value.strip("'\""))
    return FACTS.get(what, f"“{visible(what, 63)}” is not as reference values say").format(
        visible(value.strip("'\""), 40)
    )


def doubt(name: str) -> str:
    """What a doubt means."""
    for pattern, words in DOUBTS:
        if found := re.fullmatch(pattern, name):
            return words.format(*(group.replace("-", " ") for group in found.groups()))
    return f"the event log does not fit together: {visible(name, 80)}"


def sentence(reason: str) -> str:
    """One reason as a sentence of its own."""
    return _capital(cause(reason)) + "."


def headline(reasons: Sequence[str], *, ordered: bool = False) -> str:
    """All reasons in a line, each cause once: in the order of a boot, unless they are in a better one already."""
    causes = list(dict.fromkeys(map(cause, reasons if ordered else sorted(reasons, key=_place))))
    if not causes:
        return ""
    named, more = causes[:_MOST_NAMED], len(causes) - _MOST_NAMED
    text = ", and ".join(named)
    if more > 0:
        text = f"{text}, and {more} more {'thing' if more == 1 else 'things'}"
    return _capital(text)


def line(why: str) -> str:
    """The same from a text in which the sentences stand one after the other. What is not of this kind, as an operator's
    own words, stays as it is."""
    found = [f"{part.removesuffix('.')}." for part in why.split("; ")]
    return headline(found) if all(map(_is_understood, found)) else visible(why)


def _is_understood(reason: str) -> bool:
    return bool(_VALUE.fullmatch(reason) or _FILE.fullmatch(reason)) or any(
        re.fullmatch(pattern, reason) for pattern, _ in WHOLE
    )


_FACTS: Final = tuple(FACTS)
# Facts that stand for a PCR where its value as a whole is meant.
_FACT_OF_PCR: Final = {0: "firmware_version", 1: "boot_options", 2: "drivers", 4: "loaders", 7: "secure_boot"}


def _place(reason: str) -> int:
    """Where in a boot this belongs, by the order of FACTS; what is of no one place stays behind."""
    found = _VALUE.fullmatch(reason)
    if found is None:
        return len(_FACTS) if _FILE.fullmatch(reason) else len(_FACTS) + 1
    what = found["what"]
    if pcr := _PCR.fullmatch(what):
        what = _FACT_OF_PCR.get(int(pcr["pcr"]), "grub_commands")
    return _FACTS.index(what) if what in FACTS else len(_FACTS)


def in_order(reasons: Sequence[str], differences: Sequence[Mapping[str, Any]]) -> list[str]:
    """Reasons, those first whose event came first; differences are in that order."""
    placed = {str(found["reason"]): place for place, found in enumerate(differences)}
    return sorted(reasons, key=lambda reason: placed.get(reason, len(placed)))


def refusal(name: str, detail: str = "") -> str:
    """Why an attestation or enrollment was refused."""
    return REFUSALS.get(name) or visible(detail or name.replace("-", " ").capitalize())


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
