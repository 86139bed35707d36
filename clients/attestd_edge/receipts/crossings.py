"""What a receipt says of a crossing: only what policy saw, and never a token, a query or an EK hash."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import replace
from typing import Final

from attestd.credentials.bundle import Bundle
from attestd.credentials.identity import VerifiedIdentity
from attestd.credentials.receipts import DIGEST, Crossed, Where
from attestd.errors import AttestdError
from attestd.policy import Boundary, Decision
from attestd_edge.decide import Request
from attestd_edge.hop import Headers
from attestd_edge.paths import read_path
from attestd_edge.views import Verdict

_LONGEST: Final = 256  # characters of a stranger's path
_METHOD: Final = re.compile(r"[A-Z-]{1,32}", re.ASCII)
# RFC 9530, section 2, in the spelling that everybody writes.
_SHA256: Final = re.compile(r"(?:^|,)[ \t]*sha-256=:([A-Za-z0-9+/]{43}=):[ \t]*(?=,|$)", re.ASCII)


def where(boundary: Boundary) -> Where:
    """The boundary's names."""
    return Where(boundary.name, boundary.from_tier, boundary.from_site, boundary.to_tier, boundary.to_site)


def judged(
    boundary: Boundary,
    request: Request,
    verdict: Verdict,
    bundle: Bundle,
    *,
    request_id: str,
    problem: str = "",
    digest_claimed: bytes | None = None,
) -> Crossed:
    """A request that policy decided about; `problem` names what refused it."""
    said = decided(boundary, verdict.identity, verdict.decision, bundle, request_id=request_id, problem=problem)
    return replace(
        said,
        method=request.method,
        path=read_path(request.target),
        labels=request.labels,
        digest_claimed=digest_claimed,
    )


def decided(
    boundary: Boundary,
    identity: VerifiedIdentity,
    decision: Decision,
    bundle: Bundle,
    *,
    request_id: str,
    problem: str = "",
) -> Crossed:
    """Who it was, and what policy said, without the what."""
    return Crossed(
        where=where(boundary),
        allowed=not problem,
        request_id=request_id,
        problem=problem,
        who=identity.spiffe_id,
        credential=identity.credential_id,
        policies=decision.policy_ids,
        policy_version=decision.policy_version,
        bundle=(bundle.epoch, bundle.version),
    )


def unjudged(boundary: Boundary, request: Request | None, *, request_id: str, problem: str) -> Crossed:
    """A request that was refused before policy was asked: nobody proved who it was. What it says of itself is kept only
    where it is short and plain: a stranger writes here."""
    said = Crossed(where=where(boundary), allowed=False, request_id=request_id, problem=problem)
    if request is None:
        return said
    try:
        path = read_path(request.target)
    except AttestdError:
        path = ""
    method = request.method if _METHOD.fullmatch(request.method) else ""
    return replace(said, method=method, path=path if len(path) <= _LONGEST else "", labels=request.labels)


def claimed_digest(headers: Headers) -> bytes | None:
    """The SHA-256 in the request's Content-Digest or Repr-Digest (RFC 9530); None for whatever is not exactly one. It
    is the sender's claim: an edge does not see bodies."""
    values = headers.values.get("content-digest") or headers.values.get("repr-digest") or ()
    found = _SHA256.findall(values[0]) if len(values) == 1 else []
    if len(found) != 1:
        return None
    try:
        digest = base64.b64decode(found[0], validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == DIGEST else None
