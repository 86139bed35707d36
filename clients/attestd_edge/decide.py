"""One crossing, judged: bundle + boundary + what was presented + request + now -> identity and decision. No I/O.

Steps of `judge` (docs/protocol.md, sections 4 and 6):
1. the bundle is fresh, or nothing may cross;
2. something was presented;
3. the certificate's chain leads to a pinned root, and everything on it is within its time;
4. the token is the service's, for us, and bound: to that certificate (RFC 8705), or to a key of which this very request
   carries a proof (RFC 9449); a token that is merely borne proves nothing;
5. the credential was not revoked, and its device still stands;
6. policy permits this crossing.

What signatures proved (3, 4) and what policy said (6) is remembered. Dates, proofs and states are looked at each time.
"""

from __future__ import annotations

import hashlib
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
from attestd.credentials.x509 import Authorities, VerifiedCertificate, device_identity, verify_chain
from attestd.errors import AttestdError, Forbidden, Unauthenticated, Unavailable
from attestd.policy import Boundary, Crossing, Decision, PolicySet, Subject, decide
from attestd_edge.memo import Memo

PROVEN_CAPACITY = 8 * 1024  # credentials, of some kilobytes each
VERDICT_CAPACITY = 32 * 1024
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
    """What was asked: `origin` is scheme and authority as the client used them, `target` path and query as sent."""

    method: str
    origin: str
    target: str
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class TokenRules:
    """How this edge takes tokens: for one audience, at its own origins (`https://host[:port]`)."""

    audience: str
    origins: frozenset[str]
    nonces: EdgeNonces
    replays: ReplayCache


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who it is, and whether it may cross; `remembered` if policy had been asked before."""

    identity: VerifiedIdentity
    decision: Decision
    remembered: bool = False


Credential = TypeVar("Credential", VerifiedCertificate, VerifiedToken)


@dataclass(slots=True)
class _Proven(Generic[Credential]):
    """A credential whose signatures were checked at `since`; `subject` is its machine as policies see it."""

    credential: Credential
    since: datetime
    subject: Subject | None = None

    def holds(self, now: datetime) -> bool:
        return self.since <= now < self.credential.not_after


class Proofs:
    """The credentials proven under one set of authorities and token keys."""

    def __init__(self, capacity: int = PROVEN_CAPACITY) -> None:
        self.certificates: Memo[bytes, _Proven[VerifiedCertificate]] = Memo(capacity)
        self.tokens: Memo[bytes, _Proven[VerifiedToken]] = Memo(capacity)


@dataclass(frozen=True)
class View:
    """One verified bundle, ready to decide with.

    Verdicts live and die with it, so bundle and policy version need not be part of their keys.
    """

    bundle: Bundle
    authorities: Authorities
    keys: Mapping[str, ec.EllipticCurvePublicKey]
    policies: PolicySet
    proofs: Proofs
    verdicts: Memo[Hashable, Decision]

    @classmethod
    def of(cls, bundle: Bundle, *, pinned: Sequence[bytes], before: View | None = None) -> Self:
        """`pinned`: the pinned roots (DER). What signatures proved under `before` is kept if the same keys hold.

        Raises BundleUnusable: what this edge does not understand, it does not leave out.
        """
        try:
            authorities = bundle.authorities(pinned)
            keys = bundle.verification_keys()
            policies = (
                before.policies
                if before is not None
                and before.policies.text == bundle.policy
                and before.policies.version == bundle.policy_version
                else PolicySet.parse(bundle.policy, bundle.policy_version)
            )
        except AttestdError as error:
            raise BundleUnusable(f"Bundle {bundle.epoch}.{bundle.version} can't be used: {error}") from error
        same = before is not None and _signers(before.bundle) == _signers(bundle)
        proofs = before.proofs if before is not None and same else Proofs()
        return cls(bundle, authorities, keys, policies, proofs, Memo(VERDICT_CAPACITY))


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
) -> Verdict:
    """Who wants to cross, and may it? A denial by policy is a Verdict; everything before it raises an AttestdError."""
    # 1. Fresh.
    check_fresh(view.bundle, now)
    path = read_path(request.target)
    # 2. to 5. Who is it?
    identity, digest, proven = _identify(view, presented, request, tokens, now)
    # 6. May it?
    crossing = Crossing(boundary, request.method, path, request.labels)
    route = (request.method, path) if view.policies.reads_request else None
    key = (digest, boundary, tuple(sorted(request.labels.items())), route)
    if (found := view.verdicts.get(key)) is not None:
        return Verdict(identity, found, remembered=True)
    if proven.subject is None:
        proven.subject = Subject.of(identity)
    decision = decide(view.policies, proven.subject, crossing, now)
    if decision.cacheable:
        view.verdicts.keep(key, decision)
    return Verdict(identity, decision)


def check_fresh(bundle: Bundle, now: datetime) -> None:
    """Raises BundleStale, which says since when, from the bundle's own limit on."""
    if now >= bundle.age_limit:
        issued = datetime.fromtimestamp(bundle.issued_at, UTC)
        raise BundleStale(
            f"This edge has not heard from the service in time; its bundle is stale since {_shown(bundle.age_limit)}.",
            seen=f"issued {_shown(issued)}",
            expected=f"at most {bundle.stale_after} s ago",
        )


def _identify(
    view: View, presented: Presented, request: Request, tokens: TokenRules | None, now: datetime
) -> tuple[VerifiedIdentity, bytes, _Proven[VerifiedCertificate] | _Proven[VerifiedToken]]:
    """The identity, the digest of the credential that it rests on, and that credential."""
    status, revoked = view.bundle.status, view.bundle.revoked
    certificate: _Proven[VerifiedCertificate] | None = None
    digest = b""
    # 3. The certificate.
    if presented.chain:
        digest = _digest(presented.chain)
        certificate = _certificate(view, presented.chain, digest, now)
    if presented.token is None or (tokens is None and presented.scheme == "bearer"):
        # 2. Nothing of either kind. Where we take no tokens, a bearer token is the application's own business.
        if certificate is None:
            raise NoCredential
        # 5. It stands.
        return device_identity(certificate.credential, status=status, revoked=revoked), digest, certificate
    # 4. The token.
    if tokens is None:
        raise TokensNotAccepted
    name = _digest((presented.token.encode("utf-8", "replace"),))
    token = _token(view, presented.token, name, tokens, now)
    if presented.scheme == "bearer":
        if certificate is None:
            raise BoundElsewhere("A token without a proof counts only with the certificate that it is bound to.")
        bound = bind_to_certificate(token.credential, certificate.credential)
    else:
        if presented.proof is None:
            raise ProofMissing
        origin = normal_uri(request.origin).removesuffix("/")
        if origin not in tokens.origins:
            raise OriginUnknown(seen=repr(origin[:200]), expected=", ".join(sorted(tokens.origins)))
        bound = bind_to_proof(
            token.credential,
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
        beside = device_identity(certificate.credential, status=status, revoked=revoked)
        if beside.spiffe_id != identity.spiffe_id:
            raise CredentialsDisagree(seen=f"{identity.spiffe_id} and {beside.spiffe_id}")
    return identity, name + digest, token


def _certificate(view: View, chain: tuple[bytes, ...], digest: bytes, now: datetime) -> _Proven[VerifiedCertificate]:
    found = view.proofs.certificates.get(digest)
    if found is not None and found.holds(now):
        return found
    verified = verify_chain(chain, authorities=view.authorities, now=now)
    return view.proofs.certificates.keep(digest, _Proven(verified, now))


def _token(view: View, token: str, digest: bytes, rules: TokenRules, now: datetime) -> _Proven[VerifiedToken]:
    found = view.proofs.tokens.get(digest)
    if found is not None and found.holds(now):
        return found
    verified = verify_token(
        token,
        keys=view.keys,
        issuer=view.bundle.token_issuer,
        audience=rules.audience,
        trust_domain=view.bundle.trust_domain,
        now=now,
    )
    return view.proofs.tokens.keep(digest, _Proven(verified, now))


def _digest(parts: Sequence[bytes]) -> bytes:
    """SHA-256 of the parts with their lengths, so that no two lists of parts give the same octets."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


_ENCODED_SEPARATOR = re.compile(r"%(?:2f|5c|3b)", re.IGNORECASE)


def read_path(target: str) -> str:
    """The path that policies see, decoded once, or PathAmbiguous.

    Upstreams differ in what they make of `/a/../b`, `//`, `%2f`, `;` and backslashes; a policy about `/b` must not be
    passed by writing it in one of these ways (RFC 3986, section 6.2.2, names the ones that are equivalent).
    """
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
