"""From errors to answers: one table, RFC 9457 problem documents, RFC 9449 challenges.

What a caller reads is the error's class: its title and its remedy, the same for every occurrence. What was seen and
expected, and what policy said, stands in the operator's log under the same request id.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from attestd.credentials.dpop import FreshNonceNeeded, ProofRefused
from attestd.credentials.tokens import TokenRefused
from attestd.errors import (
    AttestdError,
    EvidenceRefused,
    Forbidden,
    InputTooLarge,
    Limited,
    MalformedInput,
    Unauthenticated,
    Unavailable,
)

URN = "urn:attestd:problem:"
MEDIA_TYPE = "application/problem+json"

# 401, 403 and 503 only: what a forward-auth hop can pass on. Whatever is not in the table is the edge's own fault.
_STATUSES: tuple[tuple[type[AttestdError], int], ...] = (
    (Unauthenticated, 401),
    (EvidenceRefused, 401),
    (MalformedInput, 401),
    (InputTooLarge, 401),
    (Forbidden, 403),
    (Limited, 503),
    (Unavailable, 503),
)


class EdgeFailed(Unavailable):
    """The edge failed, and refuses what it can't judge"""

    remedy = "Try again; if it stays, tell the operator of this edge the request id."


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal as it goes over the wire."""

    status: int
    slug: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    request_id: str


def status_of(error: AttestdError) -> int:
    """401, 403 or 503."""
    return next((status for category, status in _STATUSES if isinstance(error, category)), 503)


def refusal(error: AttestdError, *, request_id: str, nonce: str | None) -> Refusal:
    """The answer to a request that this error ended. `nonce`: the edge's current DPoP nonce if it takes tokens."""
    status = status_of(error)
    shown = error if (status != 503 or isinstance(error, (Limited, Unavailable))) else EdgeFailed()
    document = {
        "type": URN + shown.slug(),
        "title": shown.title(),
        "status": status,
        "detail": type(shown).remedy,
        "request_id": request_id,
    }
    headers = [("Content-Type", MEDIA_TYPE), ("Cache-Control", "no-store")]
    if status == 401:
        headers.append(("WWW-Authenticate", _challenge(error, tokens=nonce is not None)))
        if nonce is not None:
            headers.append(("DPoP-Nonce", nonce))  # RFC 9449, section 8
    if isinstance(shown, (Limited, Unavailable)):
        headers.append(("Retry-After", str(shown.retry_after)))
    return Refusal(status, shown.slug(), tuple(headers), json.dumps(document).encode(), request_id)


def _challenge(error: AttestdError, *, tokens: bool) -> str:
    """WWW-Authenticate (RFC 9110, 11.6.1; RFC 9449, 7.1 and 9). Certificates have no registered scheme."""
    if not tokens:
        return 'Certificate realm="attestd"'
    names: tuple[tuple[type[AttestdError], str], ...] = (
        (FreshNonceNeeded, "use_dpop_nonce"),
        (ProofRefused, "invalid_dpop_proof"),
        (TokenRefused, "invalid_token"),
    )
    for kind, name in names:
        if isinstance(error, kind):
            return f'DPoP error="{name}", algs="ES256"'
    return 'DPoP algs="ES256"'
