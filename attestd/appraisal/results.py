"""What an appraisal comes to (draft-ietf-rats-ar4si-09, section 2.3, the trustworthiness vector).

Values of a claim: 0 none; 2 to 31 affirming; 32 to 95 warning; 96 to 127 contraindicated. A claim about which nothing
is known stays none: without reference values nothing about a device's software is affirmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from attestd.appraisal.differences import Difference
from attestd.credentials.facts import tier_of


@dataclass(frozen=True, slots=True)
class Monitored:
    """What a manifest would have said that is only watched: nothing, or why it would refuse."""

    policy: str
    reasons: tuple[str, ...]

    def to_members(self) -> dict[str, Any]:
        return {"policy": self.policy, "would": "refuse" if self.reasons else "hold", "reasons": list(self.reasons)}


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """What relying parties and operators are told. `reasons` are sentences for people.

    `facts` are what was proven beside the claims; they go into the credential, for policies to ask for. `policies` are
    the reference manifests that decided, by name and digest. `differences` are what reasons about the boot are made of;
    they are not told again, for they follow from the evidence.
    """

    vector: Mapping[str, int]
    reasons: tuple[str, ...]
    attested_at: int  # unix seconds
    facts: Mapping[str, str | bool | int] = field(default_factory=dict)
    policies: tuple[str, ...] = ()
    monitored: tuple[Monitored, ...] = ()
    differences: tuple[Difference, ...] = field(default=(), compare=False, repr=False)

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

    @classmethod
    def of_members(cls, members: Mapping[str, Any]) -> Self:
        """What `to_members` wrote, as far as credentials tell it again; older ones lack facts and policies."""
        return cls(
            dict(members["vector"]),
            tuple(members["reasons"]),
            int(members["attested_at"]),
            dict(members.get("facts", {})),
            tuple(members.get("policies", ())),
        )

    def to_members(self) -> dict[str, Any]:
        """The JSON form that devices and operators see and the registry keeps."""
        return {
            "status": self.status,
            "vector": dict(self.vector),
            "reasons": list(self.reasons),
            "attested_at": self.attested_at,
            "facts": dict(self.facts),
            "policies": list(self.policies),
            "monitored": [watched.to_members() for watched in self.monitored],
        }
