"""Appraisal: what verified evidence is worth (draft-ietf-rats-ar4si-09, section 2.3, the trustworthiness vector).

Values of a claim: 0 none; 2 to 31 affirming; 32 to 95 warning; 96 to 127 contraindicated. A claim about which nothing
is known stays none: without reference values nothing about a device's software is affirmed.

Steps of `appraise`:
1. instance-identity: the keys were activated against, or certified by, the endorsed TPM.
2. hardware: a maker's certificate vouches for the chip, and no advisory speaks against it (`hardware`).
3. executables and configuration: each PCR that reference values speak of holds one of the good values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from attestd.appraisal.hardware import Chip
from attestd.credentials.facts import tier_of
from attestd.tpm.attest import VerifiedQuote

UNKNOWN = 0
# The named values of draft-ietf-rats-ar4si-09, section 2.3.2 to 2.3.4, that are used here.
TRUSTWORTHY_INSTANCE = 2
APPROVED_BOOT = 3
APPROVED_CONFIGURATION = 2
CONTRAINDICATED_EXECUTABLES = 96
UNSUPPORTABLE_CONFIGURATION = 96

# PCRs that measure code; the rest measures configuration (TCG PC Client Platform Firmware Profile, section 3.3.4).
CODE_PCRS = frozenset({0, 2, 4, 6, 8, 9, 10, 11})


@dataclass(frozen=True, slots=True)
class Reference:
    """Good PCR values, by bank and index, and the name under which operators know them."""

    name: str
    pcrs: Mapping[str, Mapping[int, tuple[bytes, ...]]]


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """What relying parties and operators are told. `reasons` are sentences for people.

    `facts` are what was proven beside the claims; they go into the credential, for policies to ask for.
    """

    vector: Mapping[str, int]
    reasons: tuple[str, ...]
    attested_at: int  # unix seconds
    facts: Mapping[str, str | bool | int] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """The overall tier: the worst that any claim says; affirming only if the software is affirmed, too."""
        tiers = {tier_of(value) for value in self.vector.values()}
        for worst in ("contraindicated", "warning"):
            if worst in tiers:
                return worst
        return "none" if "none" in tiers else "affirming"

    @property
    def contraindicated(self) -> bool:
        return self.status == "contraindicated"

    def to_members(self) -> dict[str, Any]:
        """The JSON form that devices and operators see and the registry keeps."""
        return {
            "status": self.status,
            "vector": dict(self.vector),
            "reasons": list(self.reasons),
            "attested_at": self.attested_at,
            "facts": dict(self.facts),
        }


def appraise(
    quote: VerifiedQuote, *, chip: Chip, references: Sequence[Reference], attested_at: int
) -> AttestationResult:
    """The result for one verified quote. `references` are those that apply to this device; any one may match whole."""
    hardware, why = chip.claim()
    vector = {
        "instance-identity": TRUSTWORTHY_INSTANCE,
        "hardware": hardware,
        "executables": UNKNOWN,
        "configuration": UNKNOWN,
    }
    reasons = list(why)
    if not references:
        reasons.append("No reference values for this device, so nothing about its software can be affirmed.")
    else:
        verdicts = [_compare(quote, reference) for reference in references]
        best = min(verdicts, key=lambda verdict: (max(verdict[0].values()), len(verdict[1])))
        vector |= best[0]
        reasons += best[1]
    return AttestationResult(MappingProxyType(vector), tuple(reasons), attested_at, chip.facts())


def _compare(quote: VerifiedQuote, reference: Reference) -> tuple[dict[str, int], list[str]]:
    """The two software claims under one set of reference values, and why they are not better."""
    claims: dict[str, int] = {}
    reasons: list[str] = []
    for bank, values in sorted(reference.pcrs.items()):
        for index, good in sorted(values.items()):
            claim, affirmed, refused = (
                ("executables", APPROVED_BOOT, CONTRAINDICATED_EXECUTABLES)
                if index in CODE_PCRS
                else ("configuration", APPROVED_CONFIGURATION, UNSUPPORTABLE_CONFIGURATION)
            )
            # A PCR that the quote does not cover is no evidence of anything: absence fails.
            measured = quote.pcrs.get(bank, {}).get(index)
            if measured is not None and measured in good:
                claims.setdefault(claim, affirmed)
            else:
                claims[claim] = refused
                seen = "not quoted" if measured is None else measured.hex()
                reasons.append(f"{bank} PCR {index} is {seen}, which {reference.name!r} does not list as good.")
    return claims, reasons
