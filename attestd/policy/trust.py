"""The tiers of an attestation result's claims (draft-ietf-rats-ar4si, section 2.3.2), as policies name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attestd.credentials.facts import AFFIRMING, CONTRAINDICATED, NONE, VECTOR_CLAIMS, WARNING, tier_of

# The trustworthiness vector's claims (section 2.3.4), under the names that a Cedar attribute can have.
CLAIMS = {claim: claim.replace("-", "_") for claim in VECTOR_CLAIMS}

# From best to worst for the question "does anything speak against it": silence is no objection, and no support.
_ORDER = (AFFIRMING, NONE, WARNING, CONTRAINDICATED)


def worst_of(tiers: Iterable[str]) -> str:
    """The worst tier of a vector; none for an empty one."""
    return max(tiers, key=_ORDER.index, default=NONE)


def contraindicated_claims(vector: Mapping[str, int]) -> tuple[str, ...]:
    """The names of the claims that speak against the machine."""
    return tuple(sorted(name for name, value in vector.items() if tier_of(value) == CONTRAINDICATED))
