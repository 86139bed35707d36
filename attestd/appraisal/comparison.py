"""From verified evidence and reference manifests to a result: the one engine (docs/adr/0025).

Steps of `appraise`:
1. instance-identity: the keys were activated against, or certified by, the endorsed TPM.
2. hardware: what the chip is worth (`hardware`).
3. The manifests that apply to this device now: those of stage `enforce` decide, those of stage `monitor` are told.
4. Each is compared whole: its PCRs with the quote's, its boot facts with those of the replayed event log.
5. What ran since the boot was judged by all of those that decide together (`runtime`), and counts only beside a boot
   that one of them holds good: the list is the word of the kernel that was booted.
6. One that holds affirms; none that holds contraindicates, with the reasons of the one that came closest; none at all
   leaves the claims about software at none.

The result is a function of its arguments, and its JSON form is canonical.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from attestd.appraisal.differences import Difference
from attestd.appraisal.hardware import Chip
from attestd.appraisal.manifests import Good, ReferenceManifest, Stage, Subject
from attestd.appraisal.results import AttestationResult, Monitored
from attestd.appraisal.runtime import RuntimeAppraisal
from attestd.tpm.attest import VerifiedQuote
from attestd.tpm.bootfacts import BootFacts, RecalledFacts

UNKNOWN: Final = 0
# The named values of draft-ietf-rats-ar4si-09, sections 2.3.2 to 2.3.4, that are used here.
TRUSTWORTHY_INSTANCE: Final = 2
APPROVED_RUNTIME: Final = 2
APPROVED_BOOT: Final = 3
APPROVED_CONFIGURATION: Final = 2
CONTRAINDICATED: Final = 96

_DOUBTS: Final = "doubts"
MAX_REASONS: Final = 64


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is proven of one device at one moment. `boot` and `runtime` are None where no log was asked for or sent.

    `watched` is what the watched manifests alone say of what ran, by their digests.
    """

    quote: VerifiedQuote
    chip: Chip
    boot: BootFacts | RecalledFacts | None = None
    runtime: RuntimeAppraisal | None = None
    watched: Mapping[str, RuntimeAppraisal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one manifest says: the claims that it speaks of, and what is not good by it."""

    manifest: ReferenceManifest
    values: Mapping[str, int]
    differences: tuple[Difference, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(difference.reason for difference in self.differences)


def deciding(
    manifests: Sequence[ReferenceManifest], subject: Subject, at: int, stage: Stage = Stage.ENFORCE
) -> tuple[ReferenceManifest, ...]:
    """Step 3: those of a stage that speak of this subject now, in an order of their own."""
    found = (manifest for manifest in manifests if manifest.stage is stage and manifest.applies(subject, at))
    return tuple(sorted(found, key=lambda manifest: manifest.policy_id))


def appraise(
    evidence: Evidence, *, subject: Subject, manifests: Sequence[ReferenceManifest], attested_at: int
) -> AttestationResult:
    """The result. `evidence.runtime` must have been judged by the runtime sections of `deciding(manifests, …)`."""
    hardware, why = evidence.chip.claim()  # 2
    vector = {
        "instance-identity": TRUSTWORTHY_INSTANCE,  # 1
        "hardware": hardware,
        "executables": UNKNOWN,
        "configuration": UNKNOWN,
    }
    reasons = list(why)
    enforced = deciding(manifests, subject, attested_at)  # 3
    verdicts = [compare(manifest, evidence.quote, evidence.boot) for manifest in enforced]  # 4
    held, closest = counting(verdicts)
    if closest is None:
        reasons.append("No reference values for this device, so nothing about its software can be affirmed.")
    elif held:  # 6
        for verdict in held:
            vector |= verdict.values
        reasons += _judge_runtime(evidence, enforced, vector)  # 5
    else:
        vector |= closest.values
        reasons += closest.reasons
    return AttestationResult(
        vector=MappingProxyType(vector),
        reasons=_bounded(reasons),
        attested_at=attested_at,
        facts=MappingProxyType(dict(evidence.chip.facts()) | _shown(evidence.boot)),
        policies=tuple(verdict.manifest.policy_id for verdict in (held or verdicts)),
        monitored=tuple(
            Monitored(
                manifest.policy_id,
                _bounded(compare(manifest, evidence.quote, evidence.boot).reasons + _watch(manifest, evidence)),
            )
            for manifest in deciding(manifests, subject, attested_at, Stage.MONITOR)
        ),
        differences=() if held or closest is None else closest.differences,
    )


def counting(verdicts: Sequence[Verdict]) -> tuple[list[Verdict], Verdict | None]:
    """Step 6: those that hold, and the one whose word counts if none does: it came closest."""
    held = [verdict for verdict in verdicts if not verdict.differences]
    closest = min(verdicts, key=lambda each: (len(each.differences), each.manifest.policy_id), default=None)
    return held, closest


def compare(manifest: ReferenceManifest, quote: VerifiedQuote, boot: BootFacts | RecalledFacts | None) -> Verdict:
    """Step 4. Absence fails: a PCR that was not quoted, a fact that is not proven, a log that was not sent."""
    claims: dict[str, int] = {}
    differences: list[Difference] = []

    def differs(difference: Difference) -> None:
        claims[difference.claim] = CONTRAINDICATED
        differences.append(difference)

    def speaks_of(part: Difference) -> None:
        claims.setdefault(part.claim, _AFFIRMED[part.claim])

    for bank, values in sorted(manifest.pcrs.items()):
        for index, good in sorted(values.items()):
            measured = quote.pcrs.get(bank, {}).get(index)
            found = Difference(manifest.name, bank=bank, pcr=index, value=measured)
            speaks_of(found) if measured in good else differs(found)
    if manifest.boot:
        facts = {} if boot is None else boot.to_members()
        for name, condition in conditions(manifest):
            speaks_of(Difference(manifest.name, fact=name))
            for value in _not_good(facts.get(name), condition):
                differs(Difference(manifest.name, fact=name, value=value))
    return Verdict(manifest, claims, tuple(differences))


def conditions(manifest: ReferenceManifest) -> list[tuple[str, Good]]:
    """What a manifest asks of boot facts, by their names; a boot without doubts, where it does not say which may be."""
    return sorted(({_DOUBTS: _NO_DOUBTS} | dict(manifest.boot)).items()) if manifest.boot else []


_AFFIRMED: Final = {"executables": APPROVED_BOOT, "configuration": APPROVED_CONFIGURATION}
_NO_DOUBTS: Final = Good(frozenset())
_NO_LIST: Final = "No IMA list shows what ran since the boot, and reference values speak of it."


def _not_good(value: Any, good: Good) -> list[Any]:
    """What of a fact is not among the good values: of a list, the elements. None: it is not proven."""
    if value is None:
        return [None]
    return [element for element in elements_of(value) if not good.covers(element)]


def elements_of(value: Any) -> list[Any]:
    """What of a fact is compared one by one."""
    return value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else [value]


def _judge_runtime(
    evidence: Evidence, enforced: Sequence[ReferenceManifest], vector: dict[str, int]
) -> tuple[str, ...]:
    """Step 5."""
    if not any(manifest.runtime is not None for manifest in enforced):
        return ()
    if evidence.runtime is None:
        vector["executables"] = CONTRAINDICATED
        return (_NO_LIST,)
    if not evidence.runtime.acceptable:
        vector["executables"] = CONTRAINDICATED
        return evidence.runtime.reasons
    if vector["executables"] == APPROVED_BOOT:
        vector["executables"] = APPROVED_RUNTIME
    return ()


def _watch(manifest: ReferenceManifest, evidence: Evidence) -> tuple[str, ...]:
    """Step 5, for a manifest that is only watched: what it says alone."""
    if manifest.runtime is None:
        return ()
    runtime = evidence.watched.get(manifest.digest)
    return (_NO_LIST,) if runtime is None else runtime.reasons


def _shown(boot: BootFacts | RecalledFacts | None) -> dict[str, str | bool | int]:
    """Boot facts for credentials, where they are for policies to ask: single values, short ones."""
    members = {} if boot is None else boot.to_members()
    return {name: members[name] for name in _TRAVELLING if isinstance(members.get(name), str | bool | int)}


# A credential's facts share 1024 octets: these travel, the rest stays with the evidence.
_TRAVELLING: Final = (
    *("secure_boot", "setup_mode", "shim", "sbat_level", "mok_validation_disabled", "uki"),
    *("dma_protection_disabled", "firmware_debug_mode", "dbx_count"),
)


def _bounded(reasons: Sequence[str]) -> tuple[str, ...]:
    if len(reasons) <= MAX_REASONS:
        return tuple(reasons)
    return (*reasons[: MAX_REASONS - 1], f"And {len(reasons) - MAX_REASONS + 1} more.")
