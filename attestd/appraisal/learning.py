"""From golden devices' evidence to the draft of a manifest, which an operator reads first (docs/references.md).

What is learned is what stays the same on a healthy fleet, and what an attacker would have to change:
- PCRs: where event logs explain the boot, 0 and 2 (firmware and option ROMs: logs say little of their code); without
  logs 4 and 7, too. PCR 10 holds what ran so far and is never the same; 16 and 23 anybody can reset; the rest is
  learned if it is asked for.
- Facts: those of `RULES`. A list learns whatever any of the devices had; a single value must be the same on all of
  them; a number that only grows becomes `at_least`. What names one machine or one boot is left out.
- What ran: files and buffers that were measured (`runtimelearning`), if it is asked for.

A draft finds good every device that it was learned from, but for what `notes` tell: doubts are for people to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import reduce
from typing import Any, Final

from attestd.appraisal.manifests import MAX_MANIFEST, MAX_TEXT, MAX_VALUES, Match, ReferenceManifest, Stage
from attestd.appraisal.runtimelearning import RuntimeDraft
from attestd.errors import Conflict, InputTooLarge, MalformedInput

EXPLAINED: Final = frozenset({0, 2})  # PCRs to learn beside boot facts
UNEXPLAINED: Final = frozenset({0, 2, 4, 7})  # without any
NEVER: Final = frozenset({10, 16, 23})
_BANKS: Final = ("sha256", "sha384", "sha512", "sha1")  # the first that all devices quoted
_MAX_SHOWN: Final = 4  # values in a note


class NotToLearn(MalformedInput):
    """This is nothing that a manifest could hold good"""

    remedy = "Name PCRs but 10 (what ran is learned from the IMA list), 16 and 23, and facts of docs/measured-boot.md."


class NothingStable(Conflict):
    """These devices' evidence holds nothing that a manifest could say"""

    remedy = "Have them quote PCRs 0 to 9 and send their event logs: a manifest at stage learn asks them to."


class Rule(Enum):
    """How a fact is learned from several devices."""

    SAME = "same"  # one value, the same on all
    ANY = "any"  # a list, or a value of which several are good
    GROWS = "grows"  # a number, of which the lowest is good and any higher one


RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(
        (
            *("secure_boot", "setup_mode", "audit_mode", "deployed_mode", "shim", "mok_used"),
            *("mok_validation_disabled", "firmware_debug_mode", "dma_protection_disabled", "measuring_failed", "uki"),
            *("windows", "windows_boot_debugging", "windows_kernel_debugging", "windows_hypervisor_debugging"),
            *("windows_test_signing", "windows_flight_signing", "windows_code_integrity", "windows_safe_mode"),
            "windows_pe",
        ),
        Rule.SAME,
    ),
    **dict.fromkeys(
        (
            *("firmware_version", "pk", "kek", "db", "db_images", "authorities", "drivers", "loaders", "boot_files"),
            *("initrd", "uki_sections", "system_extensions", "mok_lists", "sbat", "windows_elam"),
        ),
        Rule.ANY,
    ),
    **dict.fromkeys(("dbx_count", "sbat_level"), Rule.GROWS),
}
# Learned only where they are asked for, or where all devices have the same: they may name a disk or a machine.
_NAMES_MACHINES: Final = ("kernel_command_lines",)
_WORDS: Final[Mapping[str, str]] = {
    "dbx_count": "Revoked images: grows with each update of dbx.",
    "loaders": "Authenticode digests of firmware's loaders. An update of shim, GRUB or the kernel adds one.",
    "boot_files": "What GRUB or Linux read: an update of the kernel, its initrd or GRUB's settings adds one.",
    "drivers": "Option ROMs. A machine with another card has others.",
    "firmware_version": "An update of the firmware adds one, and one to PCR 0.",
    "authorities": "Whose signatures let loaders start.",
    "initrd": "An initrd that is built on the machine itself differs on each.",
    "measuring_failed": "Firmware says that it could not measure something.",
}


@dataclass(frozen=True, slots=True)
class Golden:
    """One device to learn from: its newest evidence, verified when it was kept. None: it sent no log, or no list."""

    device_id: str
    pcrs: Mapping[str, Mapping[int, bytes]]
    facts: Mapping[str, Any] | None = None  # as `BootFacts.to_members()`
    runtime: RuntimeDraft | None = None
    contraindicated: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """What to learn. None: what is stable."""

    pcrs: frozenset[int] | None = None
    facts: frozenset[str] | None = None
    runtime: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """A manifest of stage `learn`, and what its reader should know, by member (`boot.loaders`; "" for all of it)."""

    manifest: ReferenceManifest
    members: Mapping[str, Any]
    notes: Mapping[str, Sequence[str]]


@dataclass(slots=True)
class _Notes:
    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, where: str, *lines: str) -> None:
        self.found.setdefault(where, []).extend(lines)


def most_alike(devices: Sequence[Match]) -> Match:
    """What several devices have in common: tier, the TPM's maker and model. Labels only people can choose."""
    tiers, makers, models = ({getattr(each, name) for each in devices} for name in ("tier", "manufacturer", "model"))
    return Match(
        tiers.pop() if len(tiers) == 1 else None,
        {},
        makers.pop() or None if len(makers) == 1 else None,
        models.pop() or None if len(models) == 1 else None,
    )


def learn(golden: Sequence[Golden], *, name: str, match: Match, wish: Wish) -> Draft:
    """The draft. Raises NotToLearn, NothingStable, ManifestInvalid (the name's), InputTooLarge."""
    notes = _Notes()
    members: dict[str, Any] = {"name": name, "stage": Stage.LEARN.value, "match": _match(match)}
    notes.add("", f"A draft, learned from {len(golden)} devices: {_shown([each.device_id for each in golden])}.")
    notes.add("", 'Read it, correct it, then add it with stage = "monitor" and look at what it would refuse.')
    notes.add("", *(f"Contraindicated when it was learned from: {g.device_id}." for g in golden if g.contraindicated))
    if not members["match"]:
        notes.add("match", "Nothing: this is for EVERY device. Name a tier, labels or a TPM before you add it.")
    with_log = [each for each in golden if each.facts is not None]
    explained = bool(with_log) and (wish.facts is None or bool(wish.facts))
    if pcrs := _pcrs(golden, wish.pcrs, EXPLAINED if explained else UNEXPLAINED, notes):
        members["pcrs"] = pcrs
    if explained and (boot := _boot([each.facts or {} for each in with_log], wish.facts, notes)):
        members["boot"] = boot
    for each in golden if explained else ():
        if each.facts is None:
            notes.add("boot", f"Not learned from {each.device_id}: it sent no event log, and would be refused.")
    if not with_log and (wish.facts is None or wish.facts):
        notes.add("", "No device sent an event log, so PCR values are all there is: each update changes them.")
    if wish.runtime:
        _runtime(golden, members, notes)
    if "pcrs" not in members and "boot" not in members:
        raise NothingStable(seen="; ".join(line for lines in notes.found.values() for line in lines)[:500])
    manifest = ReferenceManifest.from_members(members)
    if len(manifest.document) > MAX_MANIFEST:
        raise InputTooLarge("The draft is too large.", seen=len(manifest.document), expected=f"≤ {MAX_MANIFEST} octets")
    return Draft(manifest, members, {where: tuple(lines) for where, lines in notes.found.items() if lines})


def _match(match: Match) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if match.tier is not None:
        found["tier"] = match.tier.value
    if match.labels:
        found["labels"] = dict(match.labels)
    if match.manufacturer is not None:
        found["manufacturer"] = match.manufacturer
    if match.model is not None:
        found["tpm_model"] = match.model
    return found


# ---- PCRs -------------------------------------------------------------------------------------------------------


def _pcrs(
    golden: Sequence[Golden], wished: frozenset[int] | None, stable: frozenset[int], notes: _Notes
) -> dict[str, Any]:
    wanted = stable if wished is None else wished
    if refused := wanted & NEVER | {index for index in wanted if not 0 <= index < 24}:
        raise NotToLearn("These PCRs can't be learned.", seen=sorted(refused))
    bank = next((each for each in _BANKS if all(one.pcrs.get(each) for one in golden)), None)
    if bank is None:
        if wanted:
            notes.add("", "These devices quoted no bank of PCRs in common, so no PCR is learned.")
        return {}
    if bank == "sha1":
        notes.add(f"pcrs.{bank}", "SHA-1 can be forged: have the devices quote another bank if they can.")
    found: dict[str, list[str]] = {}
    for index in sorted(wanted):
        values = {one.pcrs[bank].get(index) for one in golden}
        if None in values:
            notes.add(f"pcrs.{bank}", f"PCR {index} was not quoted by all of them, and is left out.")
            continue
        found[str(index)] = sorted(value.hex() for value in values if value is not None)
        if len(values) > 1:
            notes.add(f"pcrs.{bank}", f"PCR {index} has {len(values)} values on these {len(golden)} devices.")
    return {bank: found} if found else {}


# ---- Boot facts -------------------------------------------------------------------------------------------------


def _boot(devices: Sequence[Mapping[str, Any]], wished: frozenset[str] | None, notes: _Notes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    known = {name for facts in devices for name in facts}
    if wished is not None and (unknown := wished - known):
        raise NotToLearn("None of these devices proves this fact.", seen=", ".join(sorted(unknown))[:200])
    doubts = sorted({doubt for facts in devices for doubt in facts.get("doubts", ())})
    if doubts:
        notes.add(
            "boot",
            "DOUBTS: something about these devices' boots does not fit together (docs/measured-boot.md). As it stands,",
            "the manifest refuses devices that have any. Find out why; to tolerate them, say",
            f"doubts = {doubts!r}".replace("'", '"'),
        )
    wanted = set(RULES) | set(_NAMES_MACHINES) if wished is None else wished - {"doubts"}
    for name in sorted(wanted & known):
        values = [facts.get(name) for facts in devices]
        if any(value is None for value in values):
            notes.add("boot", f"{name} is not proven on all of them, and is left out.")
            continue
        learned = _fact(name, values, asked=wished is not None, notes=notes)
        if learned is not None:
            found[name] = learned
            if words := _WORDS.get(name):
                notes.add(f"boot.{name}", words)
    return found


def _fact(name: str, values: Sequence[Any], *, asked: bool, notes: _Notes) -> Any:
    """What a manifest says of a fact, None where it says nothing."""
    rule = RULES.get(name, Rule.ANY if asked else Rule.SAME)
    if rule is Rule.GROWS and all(type(value) is int for value in values):
        return {"at_least": min(values)}
    elements = [_elements(value) for value in values]
    if name in _NAMES_MACHINES and not asked:
        if any("UUID=" in str(element) for each in elements for element in each):
            notes.add("boot", f"{name} name a disk by its UUID, which is one machine's own, and are left out.")
            return None
        if len({frozenset(map(str, each)) for each in elements}) > 1:
            notes.add("boot", f"{name} differ, and are left out: {_shown([str(v) for v in values])}")
            return None
    union = list(dict.fromkeys(element for each in elements for element in each if _is_plain(element)))
    if any(not _is_plain(element) for each in elements for element in each):
        notes.add("boot", f"{name} holds what no manifest can name, and is left out.")
        return None
    if not union:
        notes.add("boot", f"{name} is empty on all of them; a manifest can't ask for that, so it is left out.")
        return None
    if len(union) > MAX_VALUES:
        notes.add("boot", f"{name} has {len(union)} values, more than a manifest takes, and is left out.")
        return None
    if rule is Rule.SAME and not isinstance(values[0], list | dict) and len(union) > 1:
        notes.add("boot", f"{name} differs, and is left out: {_shown([str(v) for v in values])}")
        return None
    if rule is Rule.SAME and len(union) == 1 and not isinstance(values[0], list | dict):
        return union[0]
    return sorted(union, key=str)


def _elements(value: Any) -> list[Any]:
    """As a comparison takes a fact apart (`comparison`)."""
    return value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else [value]


def _is_plain(value: Any) -> bool:
    return type(value) in (bool, int) or (type(value) is str and len(value) <= MAX_TEXT)


# ---- What ran ---------------------------------------------------------------------------------------------------


def _runtime(golden: Sequence[Golden], members: dict[str, Any], notes: _Notes) -> None:
    ran = [each.runtime for each in golden if each.runtime is not None]
    if not ran:
        notes.add("", "No device's IMA list could be learned from, so nothing is said of what may run.")
        return
    total = reduce(RuntimeDraft.plus, ran)
    if not total.files and not total.buffers:
        notes.add("", "The IMA lists hold nothing that could be learned.")
        return
    if "pcrs" not in members and "boot" not in members:
        raise NothingStable("What ran is as good as the kernel that says so, and nothing says which kernel is good.")
    members["runtime"] = total.to_members()
    notes.add(
        "runtime",
        "Lists what ran on these devices until they attested; what others run, or run later, is refused. Rules by",
        "path and keyrings of signers (docs/ima.md) make it bear updates.",
    )
    if total.violations:
        notes.add("runtime.violations", "Files were written while they were measured: find out which, and why.")
    for count, what in ((total.weak, "are by a hash that does not count"), (total.unreadable, "can't be named")):
        if count:
            notes.add("runtime", f"{count} entries {what}, and would be refused.")
    if total.signers:
        told = ", ".join(f"{key} ({count})" for key, count in sorted(total.signers.items())[:_MAX_SHOWN])
        notes.add("runtime", f"Keys that signed files, by the end of their identifiers: {told}.")


def _shown(values: Sequence[str]) -> str:
    told = ", ".join(value[:120] for value in dict.fromkeys(values[:_MAX_SHOWN]))
    return told if len(values) <= _MAX_SHOWN else f"{told} and {len(values) - _MAX_SHOWN} more"
