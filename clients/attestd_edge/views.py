"""One verified bundle, ready to decide with, and what is remembered under it.

What is remembered, each for as long as nothing changes that it rests on (docs/adr/0013-what-an-edge-remembers.md):
- what signatures proved: while the same authorities and token keys hold, within the credential's time;
- what policy said: while that policy holds, for all machines that look the same to it;
- a whole verdict: under one bundle, so one list of states and revocations, until the first end of a credential that it
  rests on. A proof (RFC 9449) is for one request, so what it binds is judged each time.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.bundle import Bundle, BundleStale
from attestd.credentials.identity import VerifiedIdentity
from attestd.credentials.tokens import (
    VerifiedToken,
)
from attestd.credentials.x509 import (
    Authorities,
    VerifiedCertificate,
)
from attestd.errors import AttestdError, Unavailable
from attestd.policy import Crossing, Decision, Look, PolicySet, decide
from attestd_edge.memo import Memo

# How many are remembered, how many octets they may take together, and what the objects made of one take beside the
# octets that were presented (tests/unit/attestd_edge/test_edge_memory.py weighs them).
CREDENTIALS, CREDENTIALS_OCTETS, CREDENTIAL_OBJECTS = 32 * 1024, 64 << 20, 2 * 1024
VERDICTS, VERDICTS_OCTETS, VERDICT_OBJECTS = 32 * 1024, 64 << 20, 3 * 512
DECISIONS, DECISIONS_OCTETS, DECISION_OBJECTS = 32 * 1024, 32 << 20, 2 * 1024


class BoundaryStale(BundleStale):
    """This edge has not heard from the service for longer than this boundary allows"""


class BundleUnusable(Unavailable):
    """The bundle can't be decided with"""

    remedy = "Bring this edge and the service to the same version; the edge's log names the fault."


@dataclass(frozen=True, slots=True)
class Staleness:
    """How long an edge may go without hearing from its service before a boundary notices, in seconds; and the class of
    crossings that go on then, until the bundle's own limit: those of which policies say `@when_stale`. None: none."""

    after: int
    allows: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who it is, and whether it may cross; `remembered` if policy had been asked before; `stale`: the class that alone
    might, since nothing was heard for long."""

    identity: VerifiedIdentity
    decision: Decision
    remembered: bool = False
    stale: str | None = None


Credential = TypeVar("Credential", VerifiedCertificate, VerifiedToken)


@dataclass(frozen=True, slots=True)
class Proven(Generic[Credential]):
    """A credential whose signatures were checked at `since`."""

    credential: Credential
    since: datetime

    def holds(self, now: datetime) -> bool:
        return self.since <= now < self.credential.not_after


class Proofs:
    """The credentials proven under one set of authorities and token keys, by their octets."""

    def __init__(self) -> None:
        self.certificates: Memo[tuple[bytes, ...], Proven[VerifiedCertificate]] = Memo(
            CREDENTIALS, octets=CREDENTIALS_OCTETS
        )
        self.tokens: Memo[tuple[str, str], Proven[VerifiedToken]] = Memo(CREDENTIALS, octets=CREDENTIALS_OCTETS)


class Decisions:
    """What one set of policies said, by all that it looked at but the time."""

    def __init__(self, policies: PolicySet) -> None:
        self.policies = policies
        self._found: Memo[Hashable, Decision] = Memo(DECISIONS, octets=DECISIONS_OCTETS)

    def about(
        self,
        identity: VerifiedIdentity,
        crossing: Crossing,
        circumstances: Hashable,
        now: datetime,
    ) -> Decision:
        """`circumstances`: what beside the machine sets this crossing apart from others, as `judge` writes it."""
        policies = self.policies.for_crossing(crossing.boundary.name, stale=crossing.stale)
        look = Look.of(policies, identity)
        key = (look, circumstances)
        found = self._found.get(key)
        if found is None:
            found = decide(policies, look, crossing, now)
            if found.cacheable:
                self._found.keep(key, found, octets=DECISION_OBJECTS + octets_of(crossing))
        return found


@dataclass(frozen=True, slots=True)
class Held:
    """A verdict that holds from `since` until before `until`, under one bundle."""

    verdict: Verdict
    since: datetime
    until: datetime


@dataclass(frozen=True)
class View:
    """One verified bundle, ready to decide with. Verdicts live and die with it.

    `proofs` and `decisions` are handed on to the next view as far as what they rest on is the same.
    """

    bundle: Bundle
    pinned: tuple[bytes, ...]
    authorities: Authorities
    keys: Mapping[str, ec.EllipticCurvePublicKey]
    decisions: Decisions
    proofs: Proofs
    stale_at: datetime
    verdicts: Memo[Hashable, Held] = field(init=False, default_factory=lambda: Memo(VERDICTS, octets=VERDICTS_OCTETS))

    @classmethod
    def of(cls, bundle: Bundle, *, pinned: Sequence[bytes], before: View | None = None) -> Self:
        """`pinned`: the pinned roots (DER). What signatures proved under `before` is kept if the same keys hold.

        Raises BundleUnusable: what this edge does not understand, it does not leave out.
        """
        roots = tuple(pinned)
        try:
            if before is not None and before._rests_on(bundle, roots):
                authorities, keys, proofs = before.authorities, before.keys, before.proofs
            else:
                authorities, keys, proofs = bundle.authorities(roots), bundle.verification_keys(), Proofs()
            if before is not None and before._said_by(bundle):
                decisions = before.decisions
            else:
                decisions = Decisions(PolicySet.parse(bundle.policy, bundle.policy_version))
        except AttestdError as error:
            raise BundleUnusable(f"Bundle {bundle.epoch}.{bundle.version} can't be used: {error}") from error
        return cls(bundle, roots, authorities, keys, decisions, proofs, bundle.age_limit)

    def standing(self, rule: Staleness | None, now: datetime) -> str | None:
        """None while everything may cross here that policy permits; else the class that alone may.

        Raises BundleStale when nothing may.
        """
        if now >= self.stale_at:
            check_fresh(self.bundle, now)
        if rule is None or now < self.notices(rule):
            return None
        if rule.allows is None:
            since = _shown(self.notices(rule))
            raise BoundaryStale(
                f"This edge has not heard from the service in time for this boundary, since {since}.",
                seen=f"issued {_shown(datetime.fromtimestamp(self.bundle.issued_at, UTC))}",
                expected=f"at most {rule.after} s ago",
            )
        return rule.allows

    def notices(self, rule: Staleness | None) -> datetime:
        """When that changes next, if nothing is heard."""
        return self.stale_at if rule is None else datetime.fromtimestamp(self.bundle.issued_at + rule.after, UTC)

    def _rests_on(self, bundle: Bundle, pinned: tuple[bytes, ...]) -> bool:
        return (self.pinned, _signers(self.bundle)) == (pinned, _signers(bundle))

    def _said_by(self, bundle: Bundle) -> bool:
        policies = self.decisions.policies
        return (policies.text, policies.version) == (bundle.policy, bundle.policy_version)


def _signers(bundle: Bundle) -> tuple[object, ...]:
    return bundle.trust_domain, bundle.roots, bundle.issuers, bundle.token_issuer, dict(bundle.token_keys)


def check_fresh(bundle: Bundle, now: datetime) -> None:
    """Raises BundleStale, which says since when, from the bundle's own limit on."""
    if now >= bundle.age_limit:
        issued = datetime.fromtimestamp(bundle.issued_at, UTC)
        raise BundleStale(
            f"This edge has not heard from the service in time; its bundle is stale since {_shown(bundle.age_limit)}.",
            seen=f"issued {_shown(issued)}",
            expected=f"at most {bundle.stale_after} s ago",
        )


def octets_of(crossing: Crossing) -> int:
    """What a crossing's own words may take in a key: a character of text takes up to four octets."""
    words = len(crossing.path) + len(crossing.method)
    told = (*crossing.labels.items(), *crossing.claims.items())
    return 4 * (words + sum(len(name) + len(text) + 32 for name, text in told))


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
