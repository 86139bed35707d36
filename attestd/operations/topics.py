"""What each act is about, in the words of those who watch: a page that shows approvals need not look again when a
policy is set.

An act that is not named here is about everything: whoever adds one forgets nothing, and pays with a few looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

DEVICES: Final = "devices"
APPROVALS: Final = "approvals"
ATTESTATIONS: Final = "attestations"
POLICY: Final = "policy"
REFERENCES: Final = "references"
PEOPLE: Final = "people"
PROXIES: Final = "proxies"
TRUST: Final = "trust"
BRAKE: Final = "brake"
RECEIPTS: Final = "receipts"
EDGES: Final = "edges"  # what they report of themselves; no act, so no row of the trail tells it

EVERY: Final = frozenset(
    {DEVICES, APPROVALS, ATTESTATIONS, POLICY, REFERENCES, PEOPLE, PROXIES, TRUST, BRAKE, RECEIPTS, EDGES}
)


class Concerns(Enum):
    """Which devices an act concerns: the one that its row names, several that it does not, or none."""

    ITS_SUBJECT = "its subject"
    SOME = "some"
    NOBODY = "nobody"


Known = tuple[Concerns, frozenset[str]]


def _one(*topics: str) -> Known:
    return Concerns.ITS_SUBJECT, frozenset(topics)


def _some(*topics: str) -> Known:
    return Concerns.SOME, frozenset(topics)


def _none(*topics: str) -> Known:
    return Concerns.NOBODY, frozenset(topics)


_UNKNOWN: Final[Known] = (Concerns.SOME, EVERY)

_TOPICS: Final[Mapping[str, Known]] = {
    "ask": _one(DEVICES, APPROVALS),
    "enroll": _one(DEVICES, APPROVALS, ATTESTATIONS),
    "refuse-enrollment": _some(ATTESTATIONS),
    "attest": _one(ATTESTATIONS),
    "refuse-attestation": _one(ATTESTATIONS),
    "renew": _one(ATTESTATIONS),
    "rekey": _one(ATTESTATIONS),
    "refuse-rekey": _one(ATTESTATIONS),
    "token": _one(ATTESTATIONS),
    "overdue": _one(DEVICES),
    "export-evidence": _one(DEVICES),
    "approve": _one(DEVICES, APPROVALS),
    "reject": _one(DEVICES, APPROVALS),
    "quarantine": _one(DEVICES, ATTESTATIONS),
    "release": _one(DEVICES),
    "retire": _one(DEVICES),
    "replace-tpm": _one(DEVICES, APPROVALS),
    "demand": _one(DEVICES),
    "label": _one(DEVICES),
    "import-inventory": _some(DEVICES, APPROVALS),
    "release-cohort": _some(DEVICES),
    "revoke": _some(DEVICES, PROXIES, PEOPLE),
    "hold": _one(BRAKE, ATTESTATIONS),
    "engage-brake": _none(BRAKE),
    "release-brake": _some(BRAKE, DEVICES),
    "set-policy": _none(POLICY),
    "rollback-policy": _none(POLICY),
    "add-reference": _none(REFERENCES),
    "promote-reference": _none(REFERENCES),
    "withdraw-reference": _none(REFERENCES),
    "learn-reference": _none(REFERENCES),
    "trust-makers": _none(TRUST),
    "distrust-maker": _none(TRUST),
    "expiring": _none(TRUST),
    "add-operator": _none(PEOPLE),
    "register-operator": _none(PEOPLE),
    "disable-operator": _none(PEOPLE),
    "invite": _none(PEOPLE),
    "withdraw-invitation": _none(PEOPLE),
    "accept-invitation": _none(PEOPLE),
    "bind-identity": _none(PEOPLE),
    "change-role": _none(PEOPLE),
    "end-sessions": _none(PEOPLE),
    "sign-in": _none(PEOPLE),
    "sign-out": _none(PEOPLE),
    "end-session": _none(PEOPLE),
    "add-passkey": _none(PEOPLE),
    "remove-passkey": _none(PEOPLE),
    "passkey-copied": _none(PEOPLE),
    "add-proxy": _none(PROXIES),
    "renew-proxy": _none(PROXIES),
    "disable-proxy": _none(PROXIES),
    "edge-silent": _none(PROXIES),
    "edge-back": _none(PROXIES),
    "miss-reports": _none(PROXIES),
    "receive-receipts": _none(RECEIPTS),
    "refuse-receipts": _none(RECEIPTS),
    "certify-service": _none(),
    "backup": _none(),
}


def topics_of(act: str) -> Known:
    """Which devices an act concerns, and what it is about."""
    return _TOPICS.get(act, _UNKNOWN)
