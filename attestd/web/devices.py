"""The devices' door: enrollment, nonces, the time, requests signed by a credential key (docs/protocol.md, 1, 2, 7)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from flask import Blueprint, Response, request

from attestd.errors import Limited, MalformedInput
from attestd.protocol.encoding import MalformedBase64, b64decode
from attestd.protocol.messages import BeginRequest, CompleteRequest, WaitAnswer
from attestd.protocol.signed import SignedEnvelope
from attestd.tpm.activation import ActivationProofWrong
from attestd.web.access import signed_url
from attestd.web.context import Service, exchange
from attestd.web.sources import Buckets, source_of

JSON = "application/json"
JOSE = "application/jose"

WRONG_PROOFS_A_SOURCE = 10  # at once, and as many a minute
WRONG_PROOFS_A_CHALLENGE = 5  # the same
_REMEMBERED = 4096  # sources, and challenges, that are told apart: 1 MB


class TooManyWrongProofs(Limited):
    """Too many wrong activation proofs came from here"""


class TimeNonceMalformed(MalformedInput):
    """The time's nonce can't be read"""

    remedy = "Ask for /v1/time?nonce=<16 to 64 random octets, base64url>."


class ProofLimits:
    """How many wrong proofs one source may send, and one challenge may see; per process.

    A wrong proof spends nothing, so that a stranger can't spoil a device's enrollment. Past the limit a wrong one is
    told to wait, and a right one still passes: who shares an address with a fleet can't keep it from enrolling.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._sources, self._challenges = (
            Buckets(amount / 60, amount, _REMEMBERED) for amount in (WRONG_PROOFS_A_SOURCE, WRONG_PROOFS_A_CHALLENGE)
        )

    def count(self, source: str, challenge: bytes) -> None:
        """One wrong proof more. Raises TooManyWrongProofs if either limit was used up before it."""
        with self._lock:
            now = self._clock()
            wait = self._sources.take(source_of(source), now) or self._challenges.take(
                sha256(challenge).hexdigest(), now
            )
        if wait:
            raise TooManyWrongProofs("Too many wrong proofs.", retry_after=int(wait) + 1)


@dataclass(frozen=True, slots=True)
class _Devices:
    service: Service
    limits: ProofLimits

    # ---- Enrollment -------------------------------------------------------------------------------------------

    def begin(self) -> Response:
        """POST /v1/enrollments"""
        current = exchange()
        answer = self.service.enrollment.begin(BeginRequest.parse(current.body), now=current.now)
        return Response(answer.to_bytes(), content_type=JSON)

    def complete(self) -> Response:
        """POST /v1/enrollments/complete"""
        current = exchange()
        asked = CompleteRequest.parse(current.body)
        try:
            answer = self.service.enrollment.complete(asked, now=current.now, request_id=current.request_id)
        except ActivationProofWrong:
            self.limits.count(current.source, asked.challenge)
            raise
        return _answered(answer)

    # ---- Nonces and the time ----------------------------------------------------------------------------------

    def nonce(self) -> Response:
        """GET /v1/nonce: nothing but the Replay-Nonce that `access` puts on every answer of this door."""
        answer = Response(status=204)
        del answer.headers["Content-Type"]
        return answer

    def time(self) -> Response:
        """GET /v1/time"""
        if list(request.args) != ["nonce"] or len(values := request.args.getlist("nonce")) != 1:
            raise TimeNonceMalformed("The query is not one nonce.", expected="?nonce=…")
        try:
            nonce = b64decode(values[0][:100], name="nonce")
        except MalformedBase64 as error:
            raise TimeNonceMalformed(error.detail, seen=error.seen, expected=error.expected) from None
        if not 16 <= len(nonce) <= 64:
            raise TimeNonceMalformed(
                "The nonce has the wrong size.", seen=f"{len(nonce)} octets", expected="16 to 64 octets"
            )
        return Response(self.service.publication.signed_time(nonce, exchange().now), content_type=JOSE)

    # ---- Signed requests --------------------------------------------------------------------------------------

    def attest(self) -> Response:
        """POST /v1/attestations"""
        current = exchange()
        return _answered(
            self.service.attestations.attest(
                self._envelope(),
                url=signed_url(self.service, request),
                now=current.now,
                request_id=current.request_id,
            )
        )

    def renew(self) -> Response:
        """POST /v1/renewals"""
        current = exchange()
        return _answered(
            self.service.lifecycle.renew(
                self._envelope(),
                url=signed_url(self.service, request),
                now=current.now,
                request_id=current.request_id,
            )
        )

    def token(self) -> Response:
        """POST /v1/tokens"""
        current = exchange()
        return _answered(
            self.service.lifecycle.token(
                self._envelope(),
                url=signed_url(self.service, request),
                now=current.now,
                request_id=current.request_id,
            )
        )

    def _envelope(self) -> SignedEnvelope:
        current = exchange()
        envelope = SignedEnvelope.parse_flattened(current.body, limit=len(current.body))
        current.device = envelope.unverified_kid
        return envelope


def _answered(answer: bytes | WaitAnswer) -> Response:
    """200 with the very octets, or 202 with the time to wait."""
    if isinstance(answer, bytes):
        return Response(answer, content_type=JSON)
    return Response(
        answer.to_bytes(), status=202, content_type=JSON, headers={"Retry-After": str(max(1, answer.retry_after))}
    )


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    door = _Devices(service, ProofLimits())
    routes = Blueprint("devices", __name__, url_prefix="/v1")
    routes.post("/enrollments")(door.begin)
    routes.post("/enrollments/complete")(door.complete)
    routes.get("/nonce")(door.nonce)
    routes.get("/time")(door.time)
    routes.post("/attestations")(door.attest)
    routes.post("/renewals")(door.renew)
    routes.post("/tokens")(door.token)
    return routes
