"""The service's doors for devices, as the protocol describes them (docs/protocol.md, sections 1, 2 and 7).

Nonces: every answer of these doors carries the next one in `Replay-Nonce`. A request that is refused for its nonce is
signed once more with the nonce of the refusal. With it comes what an attestation must hold now (`Attestd-Evidence`):
both go into one quote. A request whose answer got lost is sent once more as it is: the service gives the same answer to
the same request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import quote

from attestd.credentials.times import verify_time
from attestd.errors import AttestdError, InputTooLarge, MalformedInput
from attestd.protocol.demanded import HEADER, Demanded
from attestd.protocol.encoding import Members, b64decode, b64encode, read_object
from attestd.protocol.messages import (
    BeginAnswer,
    BeginRequest,
    CompleteRequest,
    CredentialAnswer,
    TokenAnswer,
    TokenRequest,
    WaitAnswer,
)
from attestd.protocol.signed import Sign, sign_flattened
from attestd_agent.clock import DeviceClock
from attestd_agent.transport import MAX_ANSWER, Reply, ServerTooSlow, ServerUnreachable, Transport, read_roots

T = TypeVar("T")

ALG = "ES256"
MAX_NONCE = 256  # octets
MAX_WAIT = 86400  # seconds; no Retry-After keeps a device away for longer than a day
_PROBLEM = "urn:attestd:problem:"
# Refusals that a fresh nonce cures. The seal's are for services that were restored without their sealing keys.
_NONCE_PROBLEMS = ("nonce-", "seal-")


class ServerRefused(AttestdError):
    """The service refused the request"""

    remedy = "See the service's log under this request id."

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        type: str = "about:blank",
        title: str = "",
        seen: object = None,
        expected: object = None,
        remedy: str | None = None,
        request_id: str = "",
        retry_after: int | None = None,
    ) -> None:
        super().__init__(detail or title, seen=seen, expected=expected, remedy=remedy)
        self.status = status
        self.type = type
        self.problem_title = title
        self.request_id = request_id
        self.retry_after = retry_after  # seconds

    @property
    def problem(self) -> str:
        """The problem's stable name: `urn:attestd:problem:device-unknown` -> `device-unknown`."""
        return self.type.removeprefix(_PROBLEM)

    def __str__(self) -> str:
        title = self.problem_title.rstrip(".") or self.title()
        told = {
            "": self.detail if self.detail.rstrip(".") != title else None,
            "seen: ": self.seen,
            "expected: ": self.expected,
            "request ": self.request_id or None,
        }
        parts = "; ".join(f"{name}{value}" for name, value in told.items() if value is not None)
        return f"{title} ({self.status}, {self.problem})" + (f": {parts}" if parts else "")


class AnswerMalformed(MalformedInput):
    """The service's answer can't be read"""

    remedy = "Check that --server is an attestd service, and that its version and the agent's go together."


class Server:
    """One service, seen from one device. Not for several threads at once."""

    def __init__(self, transport: Transport, roots: bytes, *, entropy: Callable[[int], bytes]) -> None:
        self._transport = transport
        self.roots = read_roots(roots)  # DER
        self._entropy = entropy
        self._nonce: bytes | None = None
        self._told: str | None = None  # what came with the last nonce

    @property
    def url(self) -> str:
        return self._transport.url

    def published_roots(self) -> tuple[bytes, ...]:
        """The service's roots, and during a rollover what they say for each other's keys (DER), unverified."""
        return read_roots(self._answered(self._transport.exchange("GET", "/v1/root")).body)

    def trust(self, roots: Sequence[bytes]) -> None:
        """These roots (DER) count from now on."""
        self.roots = tuple(roots)
        self._transport.trust(self.roots)

    # ---- Enrollment: two round trips, without a signature ---------------------------------------------------------

    def begin(self, request: BeginRequest) -> BeginAnswer:
        return self._parsed(BeginAnswer.parse, self._sent("/v1/enrollments", request.to_bytes()))

    def complete(self, request: CompleteRequest) -> CredentialAnswer | WaitAnswer:
        return self._granted(self._sent("/v1/enrollments/complete", request.to_bytes()))

    # ---- Afterwards: signed by the credential key ------------------------------------------------------------------

    def attest(self, build: Callable[[bytes], bytes], *, sign: Sign, kid: str) -> CredentialAnswer | WaitAnswer:
        """`build` makes the payload for a nonce: a quote covers it."""
        return self._granted(self._signed("/v1/attestations", build, sign, kid))

    def renew(self, build: Callable[[bytes], bytes], *, sign: Sign, kid: str) -> CredentialAnswer | WaitAnswer:
        return self._granted(self._signed("/v1/renewals", build, sign, kid))

    def token(self, request: TokenRequest, *, sign: Sign, kid: str) -> TokenAnswer:
        payload = request.to_bytes()
        return self._parsed(TokenAnswer.parse, self._signed("/v1/tokens", lambda _: payload, sign, kid))

    @property
    def demanded(self) -> Demanded | None:
        """What an attestation must hold, by the last answer with a nonce; None if the service says nothing of it.

        Read when somebody asks: what can't be read spoils no other answer. Raises EvidenceHeaderMalformed.
        """
        return None if self._told is None else Demanded.parse(self._told)

    def ask(self) -> None:
        """For a nonce, and what an attestation must hold now."""
        self._answered(self._transport.exchange("GET", "/v1/nonce"))

    def demands(self, device_id: str) -> bool:
        """Whether this device is to attest now."""
        reply = self._answered(self._transport.exchange("GET", f"/v1/demands/{quote(device_id, safe='')}"))
        return reply.status != 204 and self._parsed(_read_demand, reply)

    # ---- Time -----------------------------------------------------------------------------------------------------

    def fetch_time(self, clock: DeviceClock) -> None:
        """Teaches the clock the time that the service signs for a nonce of ours (section 7)."""
        nonce = self._entropy(32)
        reply = self._answered(self._transport.exchange("GET", f"/v1/time?nonce={b64encode(nonce)}"))
        try:
            text = reply.body.decode("ascii").strip()
        except UnicodeDecodeError:
            raise AnswerMalformed("The time answer is no JWS.") from None
        clock.learn(verify_time(text, roots=self.roots, nonce=nonce, floor=clock.floor))
        # The handshake was judged at the floor. Now that the time is known, the server has to hold up to it again.
        self.ask()

    # ---- Exchanges --------------------------------------------------------------------------------------------------

    def _signed(self, path: str, build: Callable[[bytes], bytes], sign: Sign, kid: str) -> Reply:
        for last in (False, True):
            nonce = self._take_nonce()
            payload = build(nonce)
            body = sign_flattened(payload, sign=sign, alg=ALG, kid=kid, url=self.url + path, nonce=nonce)
            try:
                return self._sent(path, body)
            except ServerRefused as refused:
                if last or refused.status >= 500 or not refused.problem.startswith(_NONCE_PROBLEMS):
                    raise
        raise AssertionError("unreachable")

    def _take_nonce(self) -> bytes:
        nonce, self._nonce = self._nonce, None
        if nonce is None:
            self.ask()
            nonce, self._nonce = self._nonce, None
        if nonce is None:
            raise AnswerMalformed("The service sent no nonce.", expected="a Replay-Nonce header")
        return nonce

    def _sent(self, path: str, body: bytes) -> Reply:
        try:
            reply = self._transport.exchange("POST", path, body=body)
        except (ServerTooSlow, ServerUnreachable):
            reply = self._transport.exchange("POST", path, body=body)
        return self._answered(reply)

    def _answered(self, reply: Reply) -> Reply:
        """Keeps the reply's nonce; raises ServerRefused unless it is a success."""
        if (text := reply.headers.get("replay-nonce")) and len(text) <= 2 * MAX_NONCE:
            self._nonce = b64decode(text, name="Replay-Nonce")
            self._told = reply.headers.get(HEADER.lower())
        if reply.status in (200, 202, 204):
            return reply
        raise _refused(reply)

    def _granted(self, reply: Reply) -> CredentialAnswer | WaitAnswer:
        if reply.status == 202:
            return self._parsed(WaitAnswer.parse, reply)
        return self._parsed(CredentialAnswer.parse, reply)

    def _parsed(self, parse: Callable[[bytes], T], reply: Reply) -> T:
        try:
            return parse(reply.body)
        except (MalformedInput, InputTooLarge) as error:
            raise AnswerMalformed(error.detail, seen=error.seen, expected=error.expected) from error


def _read_demand(body: bytes) -> bool:
    message = Members(read_object(body, limit=MAX_ANSWER), "demand")
    message.version()
    return dict(message.items()).get("attest") is True


def _refused(reply: Reply) -> ServerRefused:
    """The problem document (RFC 9457), or what can be said without one: a proxy may have answered."""
    text: dict[str, str] = {}
    if reply.headers.get("content-type", "").partition(";")[0].strip() == "application/problem+json":
        try:
            members = Members(read_object(reply.body, limit=MAX_ANSWER, name="problem"), "problem")
            text = {name: _printable(value) for name, value in members.items() if isinstance(value, (str, int))}
        except (MalformedInput, InputTooLarge):
            text = {}
    return ServerRefused(
        text.get("detail", ""),
        status=reply.status,
        type=text.get("type", "about:blank"),
        title=text.get("title", f"HTTP status {reply.status}"),
        seen=text.get("seen"),
        expected=text.get("expected"),
        remedy=text.get("remedy"),
        request_id=text.get("request_id", ""),
        retry_after=_retry_after(reply),
    )


def _printable(value: str | int) -> str:
    """What a stranger sent, fit for a terminal and a log line."""
    return re.sub(r"[^\x20-\x7e\u00a0-\uffff]", "?", str(value))[:500]


def _retry_after(reply: Reply) -> int | None:
    """Seconds (RFC 9110, 10.2.3). A date is of no use to a device whose clock may be wrong."""
    text = reply.headers.get("retry-after", "")
    return min(int(text), MAX_WAIT) if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) else None
