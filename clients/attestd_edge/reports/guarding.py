"""What this edge guards, as its reports tell it: each boundary from where to where, and what is demanded there.

Names and tiers only: labels, subjects and who may cross stay on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attestd_edge.settings import Guarded, Receipted

MAX_GUARDED: Final = 256  # boundaries that a report names


def guarding(boundaries: Mapping[str, Guarded]) -> dict[str, Any]:
    """As JSON has them, by name; what is not set is left out."""
    return {name: _members(guarded) for name, guarded in list(boundaries.items())[:MAX_GUARDED]}


def _members(guarded: Guarded) -> dict[str, Any]:
    there, rule = guarded.boundary, guarded.staleness
    found: dict[str, Any] = {
        "from": {"tier": there.from_tier.value} | ({"site": str(there.from_site)} if there.from_site else {}),
        "to": {"tier": there.to_tier.value, "site": str(there.to_site)},
    }
    if guarded.receipts is not Receipted.NOTHING:
        found["receipts"] = guarded.receipts.value
    if rule is not None:
        found["max_staleness"] = rule.after
        if rule.allows is not None:
            found["when_stale"] = rule.allows
    return found
