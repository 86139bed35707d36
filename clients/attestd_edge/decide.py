"""One crossing, judged: bundle + boundary + what was presented + request + now -> identity and decision. No I/O.

Steps of `judge` (docs/protocol.md, sections 4 and 6):
1. the bundle is fresh, or nothing may cross;
2. something was presented;
3. the certificate's chain leads to a pinned root, and everything on it is within its time;
4. the token is the service's, for us, and bound: to that certificate (RFC 8705), or to a key of which this very request
   carries a proof (RFC 9449); a token that is merely borne proves nothing;
5. the credential was not revoked, and its device still stands;
6. policy permits this crossing.

`views` has what is remembered of earlier ones.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from attestd.credentials.dpop import EdgeNonces, ProofRefused, ReplayCache, normal_uri
from attestd.credentials.identity import VerifiedIdentity
from attestd.credentials.tokens import (
    BoundElsewhere,
    VerifiedToken,
    bind_to_certificate,
    bind_to_proof,
    token_identity,
    verify_token,
)
from attestd.credentials.x509 import (
    VerifiedCertificate,
    check_device_stands,
    device_identity,
    verify_chain,
)
from attestd.errors import Forbidden, Unauthenticated
from attestd.policy import Boundary, Crossing
from attestd_edge.paths import read_path
from attestd_edge.views import (
    CREDENTIAL_OBJECTS,
    VERDICT_OBJECTS,
    Held,
    Proven,
    Staleness,
    Verdict,
    View,
    octets_of,
)


class NoCredential(Unauthenticated):
    """No credential was presented"""

    remedy = "Connect with the device's certificate, or send a token with a proof of its key."


class TokensNotAccepted(Unauthenticated):
    """This boundary accepts certificates only"""

    remedy = "Connect with the device's certificate."


class ProofMissing(ProofRefused):
    """The token came without a proof of its key"""


class OriginUnknown(ProofRefused):
    """The request is addressed to a name that this edge does not have"""

    remedy = "Use the edge's public address; its operator lists it under tokens.origins."


class CredentialsDisagree(Unauthenticated):
    """The token and the certificate are two different machines'"""

    remedy = "Present the certificate and the token of one device."


class CrossingDenied(Forbidden):
    """The policy of this boundary does not permit this"""

    remedy = "Ask the operator of this boundary; the reasons are in its log under this request id."


@dataclass(frozen=True, slots=True)
class Presented:
    """What came with a request, as it came: a chain (DER, leaf first) and a token with its scheme and proof."""

    chain: tuple[bytes, ...] = ()
    token: str | None = field(default=None, repr=False)
    scheme: Literal["dpop", "bearer"] = "dpop"
    proof: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Request:
    """What was asked: `origin` is scheme and authority as the client used them, `target` path and query as sent.

    `labels` are this boundary's word about the data, `claims` the sender's (labels.py).
    """

    method: str
    origin: str
    target: str
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    claims: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class TokenRules:
    """How this edge takes tokens: for one audience, at its own origins (`https://host[:port]`)."""

    audience: str
    origins: frozenset[str]
    nonces: EdgeNonces
    replays: ReplayCache


def judge(
    view: View,
    *,
    boundary: Boundary,
    presented: Presented,
    request: Request,
    tokens: TokenRules | None,
    now: datetime,
    staleness: Staleness | None = None,
) -> Verdict:
    """Who wants to cross, and may it? A denial by policy is a Verdict; everything before it raises an AttestdError."""
    # 1. Fresh, or fresh enough for some.
    stale = view.standing(staleness, now)
    path = read_path(request.target)
    # Was just this judged before? Then nothing is left but the time.
    labels = tuple(sorted(request.labels.items())) if request.labels else ()
    policies = view.decisions.policies.for_crossing(boundary.name, stale=stale)
    # What the sender claims is looked at only where a policy does: else senders could crowd out what is remembered.
    claims = tuple(sorted(request.claims.items())) if request.claims and policies.reads_claims else ()
    circumstances = (boundary.key, labels, claims, (request.method, path) if policies.reads_request else None, stale)
    key: Hashable = None
    if presented.token is None or presented.scheme == "bearer":
        key = (presented.chain, presented.token, None if tokens is None else tokens.audience, circumstances)
        held = view.verdicts.get(key)
        if held is not None and held.since <= now < held.until:
            return held.verdict
    # 2. to 5. Who is it?
    identity = identify(view, presented, request, tokens, now)
    # 6. May it?
    crossing = Crossing(boundary, request.method, path, request.labels, request.claims, stale)
    decision = view.decisions.about(identity, crossing, circumstances, now)
    verdict = Verdict(identity, decision, stale=stale)
    if key is not None and decision.cacheable:
        held = Held(Verdict(identity, decision, remembered=True, stale=stale), now, identity.not_after)
        size = _octets(presented.chain) + len(presented.token or "") + octets_of(crossing)
        view.verdicts.keep(key, held, octets=VERDICT_OBJECTS + size)
    return verdict


def identify(
    view: View, presented: Presented, request: Request, tokens: TokenRules | None, now: datetime
) -> VerifiedIdentity:
    """Steps 2 to 5 alone, for a door that asks policy several things about one login. Spends the proof."""
    status, revoked = view.bundle.status, view.bundle.revoked
    # 3. The certificate.
    certificate = _certificate(view, presented.chain, now) if presented.chain else None
    if presented.token is None or (tokens is None and presented.scheme == "bearer"):
        # 2. Nothing of either kind. Where we take no tokens, a bearer token is the application's own business.
        if certificate is None:
            raise NoCredential
        # 5. It stands.
        return device_identity(certificate, status=status, revoked=revoked)
    # 4. The token.
    if tokens is None:
        raise TokensNotAccepted
    token = _token(view, presented.token, tokens, now)
    if presented.scheme == "bearer":
        if certificate is None:
            raise BoundElsewhere("A token without a proof counts only with the certificate that it is bound to.")
        bound = bind_to_certificate(token, certificate)
    else:
        if presented.proof is None:
            raise ProofMissing
        origin = normal_uri(request.origin).removesuffix("/")
        if origin not in tokens.origins:
            raise OriginUnknown(seen=repr(origin[:200]), expected=", ".join(sorted(tokens.origins)))
        bound = bind_to_proof(
            token,
            presented.proof,
            method=request.method,
            uri=origin + request.target,
            nonces=tokens.nonces,
            replays=tokens.replays,
            now=now,
        )
    # 5. It stands; and so does the certificate beside it, which must be the same machine's.
    identity = token_identity(bound, status=status, revoked=revoked)
    if certificate is not None:
        check_device_stands(certificate, status=status, revoked=revoked)
        if certificate.spiffe_id != identity.spiffe_id:
            raise CredentialsDisagree(seen=f"{identity.spiffe_id} and {certificate.spiffe_id}")
    return identity


def _certificate(view: View, chain: tuple[bytes, ...], now: datetime) -> VerifiedCertificate:
    found = view.proofs.certificates.get(chain)
    if found is not None and found.holds(now):
        return found.credential
    verified = verify_chain(chain, authorities=view.authorities, now=now)
    view.proofs.certificates.keep(chain, Proven(verified, now), octets=CREDENTIAL_OBJECTS + _octets(chain))
    return verified


def _token(view: View, token: str, rules: TokenRules, now: datetime) -> VerifiedToken:
    key = (token, rules.audience)
    found = view.proofs.tokens.get(key)
    if found is not None and found.holds(now):
        return found.credential
    verified = verify_token(
        token,
        keys=view.keys,
        issuer=view.bundle.token_issuer,
        audience=rules.audience,
        trust_domain=view.bundle.trust_domain,
        now=now,
    )
    view.proofs.tokens.keep(key, Proven(verified, now), octets=CREDENTIAL_OBJECTS + len(token))
    return verified


def _octets(chain: tuple[bytes, ...]) -> int:
    return sum(map(len, chain))
