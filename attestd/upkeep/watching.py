"""What the service notices by itself, every minute, and says in the audit trail, from where webhooks carry it outward.

| what | row | when |
|---|---|---|
| an active device whose result stopped counting | `overdue` | attestation.overdue_after later |
| certificates of authorities and makers, manifests, credentials that end | `expiring` | 30 and 3 days before |
| an edge that reports no more | `edge-silent` | edges.silent_after later; `edge-back` once it does again |

Demands that were answered are forgotten, and what acts wrote for the fleet's counts is added up. Any number of services
on one database may run rounds at the same time: each thing is told once. When the last whole round ended is a metric,
for a watch that stopped looks like a quiet fleet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

from attestd.ca.hierarchy import Hierarchy
from attestd.config import Settings
from attestd.errors import AttestdError
from attestd.registry import counts, demands, edges, expiring, operators, outcomes, overdue, trust
from attestd.registry.engine import Connection, Registry
from attestd.registry.expiring import Ending

BATCH: Final = 250  # devices of one act
ROUNDS: Final = 400  # acts of one round; what is left is the next round's
_PAUSE: Final = 0.005  # seconds between two acts: others come first


@dataclass(frozen=True, slots=True)
class Watched:
    """What one round told (`silent`: edges), and how many demands it forgot. `errors`: what it could not do; the next
    one tries again."""

    overdue: int
    expiring: int
    silent: int
    answered: int
    errors: tuple[AttestdError, ...]


def watch(
    registry: Registry, settings: Settings, hierarchy: Hierarchy, *, now: datetime, pause: Callable[[float], object]
) -> Watched:
    """One round. `pause` waits for so many seconds, or returns at once when the service ends. Raises nothing."""
    at = int(now.timestamp())
    ended_by = int((now - settings.attestation.overdue_after).timestamp())
    errors: list[AttestdError] = []

    def in_acts(kind: Callable[[Connection], int], batch: int = BATCH) -> int:
        """Acts until one does less than a batch."""
        done = 0
        try:
            for _ in range(ROUNDS):
                with registry.acting() as c:
                    taken = kind(c)
                done += taken
                if taken < batch:
                    break
                pause(_PAUSE)
        except AttestdError as error:
            errors.append(error)
        return done

    lapsed = in_acts(lambda c: len(overdue.tell(c, ended_by=ended_by, now=at, limit=BATCH)))
    ending = 0
    try:
        ending = _tell_endings(registry, hierarchy, at)
    except AttestdError as error:
        errors.append(error)
    silent_after = int(settings.edges.silent_after.total_seconds())
    silent = in_acts(lambda c: len(edges.tell_silent(c, silent_after=silent_after, now=at, limit=BATCH)))
    answered = in_acts(lambda c: demands.purge(c, limit=BATCH))
    in_acts(lambda c: counts.fold(c, limit=counts.BATCH), counts.BATCH)
    in_acts(lambda c: outcomes.fold(c, now=at, limit=outcomes.BATCH), outcomes.BATCH)
    if not errors:
        try:
            with registry.acting() as c:
                overdue.watched(c, now=at)
        except AttestdError as error:
            errors.append(error)
    return Watched(lapsed, ending, silent, answered, tuple(errors))


def _tell_endings(registry: Registry, hierarchy: Hierarchy, now: int) -> int:
    with registry.reading() as c:
        since = expiring.told_by(c)
        if 0 <= now - since < expiring.EVERY:
            return 0
        endings = [*_of_authorities(hierarchy), *_of_the_registry(c, now)]
    with registry.acting() as c:
        return len(expiring.tell(c, endings, since=since, now=now))


def _of_authorities(hierarchy: Hierarchy) -> Iterator[Ending]:
    """Those in use; what was rotated out may end."""
    for name, certificate in authorities(hierarchy).items():
        yield _ending("authority", name, certificate)


def authorities(hierarchy: Hierarchy) -> dict[str, x509.Certificate]:
    """The certificates that this instance signs with, by what they are for."""
    keys = hierarchy.keys
    return {
        "root": keys.roots[0],
        "issuer": keys.issuers[0].certificate,
        "bundle_signer": keys.bundle_signers[0].certificate,
        "audit_signer": keys.audit_signers[0].certificate,
    }


def _of_the_registry(c: Connection, now: int) -> Iterator[Ending]:
    for maker in trust.every(c):
        yield Ending("TPM maker", maker.subject, 0, maker.not_after)
    for operator in operators.every(c):
        if operator.disabled_at is None and operator.key is not None:
            yield _ending("operator", operator.name, x509.load_der_x509_certificate(operator.key.certificate))
    yield from expiring.of_proxies(c)
    yield from expiring.manifests(c, now=now)


def _ending(what: str, name: str, certificate: x509.Certificate) -> Ending:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Ending(what, name, int(begins.timestamp()), int(ends.timestamp()))
