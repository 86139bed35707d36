"""One login, judged: bundle + settings + nats-server's question + now -> who it is, its subjects, until when. No I/O.

Steps of `log_in` (docs/adr/0036-nats.md):
1. the bundle is fresh, or nobody logs in;
2. who is it: the edge's own verifier, with the certificate that the TLS layer proved, or a bound token with a proof
   over the server's challenge to this very connection;
3. each subject is a crossing of its own, which policy permits or not;
4. without any subject there is nothing to log in for;
5. the login ends before anything that it rests on, and within minutes.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from attestd.credentials.bundle import BundleStale
from attestd.credentials.dpop import EdgeNonces, FreshNonceNeeded, ReplayCache
from attestd.credentials.identity import VerifiedIdentity
from attestd.errors import MalformedInput
from attestd.policy import Crossing, Decision
from attestd.protocol.encoding import b64decode
from attestd_edge.decide import CrossingDenied, Presented, ProofMissing, Request, TokenRules, identify
from attestd_edge.nats.request import LoginRequest, Permissions
from attestd_edge.nats.settings import Grant, NatsSettings
from attestd_edge.nats.subjects import Template
from attestd_edge.settings import Guarded
from attestd_edge.views import View, check_fresh

Method = Literal["PUBLISH", "SUBSCRIBE"]
PUBLISH: Final = "PUBLISH"
SUBSCRIBE: Final = "SUBSCRIBE"
CONNECT: Final = "CONNECT"  # the method that a proof names
PROOF_PATH: Final = "/nats"  # and the path, behind nats.origin
_SHORTEST = timedelta(seconds=2)


class LoginTooShort(CrossingDenied):
    """What this login rests on ends at once"""

    remedy = "Renew the credential; if that does not help, this edge has not heard from the service for long."


class ConnectionNonce(EdgeNonces):
    """nats-server's challenge to one connection, in the place of nonces of ours: fresh because the server says so."""

    def __init__(self, challenge: str) -> None:
        self._challenge = challenge

    def issue(self, now: datetime) -> str:
        """The challenge, whatever the time."""
        return self._challenge

    def check(self, nonce: str, now: datetime) -> None:
        """Returns for the challenge itself. No challenge is not met by no nonce."""
        if not self._challenge or not hmac.compare_digest(nonce.encode(), self._challenge.encode()):
            raise FreshNonceNeeded


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing that policy was asked, and what it said."""

    method: Method
    subject: str
    boundary: str
    decision: Decision


@dataclass(frozen=True, slots=True)
class Login:
    """A connection's leave."""

    identity: VerifiedIdentity
    permissions: Permissions
    until: datetime
    asked: tuple[Asked, ...]


def log_in(
    view: View,
    settings: NatsSettings,
    request: LoginRequest,
    *,
    audience: str | None,
    replays: ReplayCache,
    now: datetime,
) -> Login:
    """Raises an AttestdError for everything that is not a leave."""
    # 1. Fresh.
    check_fresh(view.bundle, now)
    # 2. Who?
    identity = _who(view, settings, request, audience, replays=replays, now=now)
    # 3. May do what? 4. Anything at all?
    asked, permissions = ask_policy(view, settings.grants, identity, now)
    if not permissions.publish and not permissions.subscribe:
        raise CrossingDenied("; ".join(sorted({reason for one in asked for reason in one.decision.reasons})))
    # 5. Until when?
    until = min(now + settings.lifetime, identity.not_after, *_changes(view, settings.grants, now))
    if until < now + _SHORTEST:
        raise LoginTooShort(seen=until, expected=f"after {now + _SHORTEST}")
    return Login(identity, permissions, until, asked)


def _changes(view: View, grants: Sequence[Grant], now: datetime) -> Iterator[datetime]:
    """When a boundary will let less cross, if nothing is heard until then: what was granted ends with that."""
    yield view.stale_at
    yield from (at for grant in grants if (at := view.notices(grant.guarded.staleness)) > now)


def _who(
    view: View,
    settings: NatsSettings,
    request: LoginRequest,
    audience: str | None,
    *,
    replays: ReplayCache,
    now: datetime,
) -> VerifiedIdentity:
    rules = None
    if settings.origin is not None and audience is not None:
        rules = TokenRules(audience, frozenset({settings.origin}), ConnectionNonce(request.nonce), replays)
    # Without a proof the token must be the certificate's own (RFC 8705). Where no tokens are read, none may come: it is
    # no other application's business here, as it may be in HTTP.
    bound = rules is not None and request.proof is None and bool(request.chain)
    presented = Presented(
        chain=request.chain,
        token=request.token,
        scheme="bearer" if bound else "dpop",
        proof=_proof(request.proof) if request.token is not None else None,
    )
    return identify(view, presented, Request(CONNECT, settings.origin or "", PROOF_PATH), rules, now)


def _proof(text: str | None) -> str | None:
    """The proof as clients send it: some hand over their signature as it is, some in base64url."""
    if text is None or "." in text:
        return text
    try:
        return b64decode(text, name="sig").decode("ascii")
    except (MalformedInput, UnicodeDecodeError):
        raise ProofMissing("The connection's signature is not a proof.", expected="a DPoP proof") from None


def ask_policy(
    view: View, grants: Sequence[Grant], identity: VerifiedIdentity, now: datetime
) -> tuple[tuple[Asked, ...], Permissions]:
    """Asks about each subject of each grant."""
    asked = tuple(_ask(view, grants, identity, now))
    allowed = [one for one in asked if one.decision.allowed]
    return asked, Permissions(
        tuple(dict.fromkeys(one.subject for one in allowed if one.method == PUBLISH)),
        tuple(dict.fromkeys(one.subject for one in allowed if one.method == SUBSCRIBE)),
    )


def _ask(view: View, grants: Sequence[Grant], identity: VerifiedIdentity, now: datetime) -> Iterator[Asked]:
    for grant in grants:
        wanted: tuple[tuple[Method, tuple[Template, ...]], ...] = (
            (PUBLISH, grant.publish),
            (SUBSCRIBE, grant.subscribe),
        )
        for method, templates in wanted:
            for template in templates:
                subject = template.filled_for(identity)
                try:
                    decision = decide_subject(view, grant.guarded, identity, method, subject, now=now)
                except BundleStale as error:  # at this boundary; others may go on
                    decision = Decision(False, (), (str(error),), False, view.bundle.policy_version)
                yield Asked(method, subject, grant.guarded.boundary.name, decision)


def decide_subject(
    view: View,
    guarded: Guarded,
    identity: VerifiedIdentity,
    method: Method,
    subject: str,
    *,
    now: datetime,
) -> Decision:
    """May this device send or get this at this boundary? Policies see `/field/munich/bike-1/>` as the path.

    Raises BundleStale where nothing crosses, since nothing was heard for too long.
    """
    stale = view.standing(guarded.staleness, now)
    path = "/" + subject.replace(".", "/")
    crossing = Crossing(guarded.boundary, method, path, guarded.labels, stale=stale)
    labels = tuple(sorted(guarded.labels.items()))
    reads_request = view.decisions.policies.for_crossing(guarded.boundary.name, stale=stale).reads_request
    # As `judge` writes it: where no policy looks at the subject, one answer is all devices' that look the same.
    circumstances = (guarded.boundary.key, labels, (method, path) if reads_request else None, stale)
    return view.decisions.about(identity, crossing, circumstances, now)
