"""The tiers of an attestation result's claims (draft-ietf-rats-ar4si, section 2.3.2), as policies name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attestd.credentials.facts import VECTOR_CLAIMS

# The trustworthiness vector's claims (section 2.3.4), under the names that a Cedar attribute can have.
CLAIMS = {claim: claim.replace("-", "_") for claim in VECTOR_CLAIMS}

NONE, AFFIRMING, WARNING, CONTRAINDICATED = "none", "affirming", "warning", "contraindicated"
# From best to worst for the question "does anything speak against it": silence is no objection, and no support.
_ORDER = (AFFIRMING, NONE, WARNING, CONTRAINDICATED)


def tier_of(value: int) -> str:
    """The tier of a claim's value, an eight-bit signed number; what is outside its range is contraindicated."""
    if -1 <= value <= 1:
        return NONE
    if 2 <= value <= 31 or -32 <= value <= -2:
        return AFFIRMING
    if 32 <= value <= 95 or -96 <= value <= -33:
        return WARNING
    return CONTRAINDICATED


def worst_of(tiers: Iterable[str]) -> str:
    """The worst tier of a vector; none for an empty one."""
    return max(tiers, key=_ORDER.index, default=NONE)


def contraindicated_claims(vector: Mapping[str, int]) -> tuple[str, ...]:
    """The names of the claims that speak against the machine."""
    return tuple(sorted(name for name, value in vector.items() if tier_of(value) == CONTRAINDICATED))
