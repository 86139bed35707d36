"""One crossing, judged: bundle + boundary + what was presented + request + now -> identity and decision. No I/O.

Steps of `judge` (docs/protocol.md, sections 4 and 6):
1. the bundle is fresh, or nothing may cross;
2. something was presented;
3. the certificate's chain leads to a pinned root, and everything on it is within its time;
4. the token is the service's, for us, and bound: to that certificate (RFC 8705), or to a key of which this very request
   carries a proof (RFC 9449); a token that is merely borne proves nothing;
5. the credential was not revoked, and its device still stands;
6. policy permits this crossing.

What is remembered, each for as long as nothing changes that it rests on (docs/adr/0013-what-an-edge-remembers.md):
- what signatures proved (3, 4): while the same authorities and token keys hold, within the credential's time;
- what policy said (6): while that policy holds, for all machines that look the same to it;
- a whole verdict (2 to 6): under one bundle, so one list of states and revocations, until the first end of a credential
  that it rests on. A proof (RFC 9449) is for one request, so what it binds is judged each time.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Generic, Literal, Self, TypeVar
from urllib.parse import quote, unquote_to_bytes

from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.bundle import Bundle, BundleStale
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
    Authorities,
    VerifiedCertificate,
    check_device_stands,
    device_identity,
    verify_chain,
)
from attestd.errors import AttestdError, Forbidden, Unauthenticated, Unavailable
from attestd.policy import Boundary, Crossing, Decision, Look, PolicySet, decide
from attestd_edge.memo import Memo

# How many are remembered, how many octets they may take together, and what the objects made of one take beside the
# octets that were presented (tests/unit/attestd_edge/test_edge_memory.py weighs them).
CREDENTIALS, CREDENTIALS_OCTETS, CREDENTIAL_OBJECTS = 32 * 1024, 64 << 20, 2 * 1024
VERDICTS, VERDICTS_OCTETS, VERDICT_OBJECTS = 32 * 1024, 64 << 20, 3 * 512
DECISIONS, DECISIONS_OCTETS, DECISION_OBJECTS = 32 * 1024, 32 << 20, 2 * 1024
MAX_TARGET = 8 * 1024  # characters of a request's path and query


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


class PathAmbiguous(Forbidden):
    """The request's path can be read in two ways"""

    remedy = "Send the path without dot segments, empty segments, backslashes or encoded slashes."


class CrossingDenied(Forbidden):
    """The policy of this boundary does not permit this"""

    remedy = "Ask the operator of this boundary; the reasons are in its log under this request id."


class BoundaryStale(BundleStale):
    """This edge has not heard from the service for longer than this boundary allows"""


class BundleUnusable(Unavailable):
    """The bundle can't be decided with"""

    remedy = "Bring this edge and the service to the same version; the edge's log names the fault."


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
class Staleness:
    """How long an edge may go without hearing from its service before a boundary notices, in seconds; and the class of
    crossings that go on then, until the bundle's own limit: those of which policies say `@when_stale`. None: none."""

    after: int
    allows: str | None = None


@dataclass(frozen=True, slots=True)
class TokenRules:
    """How this edge takes tokens: for one audience, at its own origins (`https://host[:port]`)."""

    audience: str
    origins: frozenset[str]
    nonces: EdgeNonces
    replays: ReplayCache


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
class _Proven(Generic[Credential]):
    """A credential whose signatures were checked at `since`."""

    credential: Credential
    since: datetime

    def holds(self, now: datetime) -> bool:
        return self.since <= now < self.credential.not_after


class Proofs:
    """The credentials proven under one set of authorities and token keys, by their octets."""

    def __init__(self) -> None:
        self.certificates: Memo[tuple[bytes, ...], _Proven[VerifiedCertificate]] = Memo(
            CREDENTIALS, octets=CREDENTIALS_OCTETS
        )
        self.tokens: Memo[tuple[str, str], _Proven[VerifiedToken]] = Memo(CREDENTIALS, octets=CREDENTIALS_OCTETS)


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
                self._found.keep(key, found, octets=DECISION_OBJECTS + _octets_of(crossing))
        return found


@dataclass(frozen=True, slots=True)
class _Held:
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
    verdicts: Memo[Hashable, _Held] = field(init=False, default_factory=lambda: Memo(VERDICTS, octets=VERDICTS_OCTETS))

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
        held = _Held(Verdict(identity, decision, remembered=True, stale=stale), now, identity.not_after)
        size = _octets(presented.chain) + len(presented.token or "") + _octets_of(crossing)
        view.verdicts.keep(key, held, octets=VERDICT_OBJECTS + size)
    return verdict


def check_fresh(bundle: Bundle, now: datetime) -> None:
    """Raises BundleStale, which says since when, from the bundle's own limit on."""
    if now >= bundle.age_limit:
        issued = datetime.fromtimestamp(bundle.issued_at, UTC)
        raise BundleStale(
            f"This edge has not heard from the service in time; its bundle is stale since {_shown(bundle.age_limit)}.",
            seen=f"issued {_shown(issued)}",
            expected=f"at most {bundle.stale_after} s ago",
        )


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
    view.proofs.certificates.keep(chain, _Proven(verified, now), octets=CREDENTIAL_OBJECTS + _octets(chain))
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
    view.proofs.tokens.keep(key, _Proven(verified, now), octets=CREDENTIAL_OBJECTS + len(token))
    return verified


def _octets(chain: tuple[bytes, ...]) -> int:
    return sum(map(len, chain))


def _octets_of(crossing: Crossing) -> int:
    """What a crossing's own words may take in a key: a character of text takes up to four octets."""
    words = len(crossing.path) + len(crossing.method)
    told = (*crossing.labels.items(), *crossing.claims.items())
    return 4 * (words + sum(len(name) + len(text) + 32 for name, text in told))


# Letters, digits and marks that stand for themselves, no segment empty or beginning with a dot: one reading, the first.
_PLAIN = re.compile(r"((?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*+)++/?+|/)(?:\?.*)?", re.ASCII | re.DOTALL)
_ENCODED_SEPARATOR = re.compile(r"%(?:2f|5c|3b)", re.IGNORECASE)


def read_path(target: str) -> str:
    """The path that policies see, decoded once, or PathAmbiguous.

    Upstreams differ in what they make of `/a/../b`, `//`, `%2f`, `;` and backslashes; a policy about `/b` must not be
    passed by writing it in one of these ways (RFC 3986, section 6.2.2, names the ones that are equivalent).
    """
    if len(target) <= MAX_TARGET and (plain := _PLAIN.fullmatch(target)) is not None:
        return plain[1]
    raw, _, _ = target.partition("?")
    if len(target) > MAX_TARGET or not raw.startswith("/") or "#" in raw:
        raise PathAmbiguous("The request's target is not a path.", seen=repr(target[:80]), expected="/<path>")
    try:
        path = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise PathAmbiguous("The path is not UTF-8.", seen=repr(raw[:80])) from None
    segments = path.split("/")
    if (
        _ENCODED_SEPARATOR.search(raw)
        or any(mark in path for mark in ("//", "\\", ";", "%"))  # `%`: a second decoding would find something else
        or not path.isprintable()
        or "." in segments
        or ".." in segments
    ):
        raise PathAmbiguous(seen=repr(raw[:80]))
    return path


def encode_path(path: bytes) -> str:
    """A path's octets as a target: what `read_path` decodes to the same octets again."""
    return quote(path, safe="/~!$&'()*+,;=:@-._")


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
