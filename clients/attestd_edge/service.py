"""What an edge asks of the service: the bundle, proofs that the audit trail only grew, and a new certificate for itself
(docs/protocol.md, sections 2, 5 and 8).

Each request is signed by the proxy's key over method, URL, body and a nonce of the service; each answer brings the next
nonce. TLS is verified against the pinned root alone: no system store, no proxy settings from the environment.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestd.credentials.copies import DELTA, MAX_COPY
from attestd.credentials.hashtree import HASH, MAX_PATH
from attestd.errors import AttestdError, InputTooLarge, Unauthenticated, Unavailable
from attestd.protocol.encoding import Members, b64decode, read_object, write_object
from attestd.protocol.messages import MAX_BEGIN, MAX_SMALL
from attestd.protocol.signed import sign_detached
from attestd_edge.identity import ProxyIdentity

_TIMEOUT = httpx.Timeout(10.0, connect=3.0)  # seconds, for each read or write
_LISTENING = httpx.Timeout(5.0, connect=3.0)  # the service says something each second
_MAX_SECONDS = 60.0  # for a whole answer, however slowly it drips
_MAX_RETRY_AFTER = 300  # seconds


class ServiceUnreachable(Unavailable):
    """The service can't be reached"""

    remedy = "Check the network, the configured address and the service itself; the edge goes on with what it has."


class ServiceBusy(Unavailable):
    """The service asks to come back later"""


class ServiceRefused(Unauthenticated):
    """The service refused the request"""

    remedy = "Check with an operator of the service that this proxy is known there and not disabled."


class ServiceAnswerWrong(Unavailable):
    """The service's answer makes no sense"""

    remedy = "Check the configured address; something else may answer there."


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came, unverified: a whole bundle, or what is different from the one that was named."""

    content: bytes = field(repr=False)
    is_delta: bool


def tls_context(roots: Sequence[bytes]) -> ssl.SSLContext:
    """A client's context that trusts the pinned roots (DER) and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks names and demands a certificate
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for der in roots:
        pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        context.load_verify_locations(cadata=pem.decode("ascii"))
    return context


class Service:
    """The service's doors that proxies use. Not safe for threads: one refresher owns it."""

    def __init__(
        self,
        base: str,
        *,
        roots: Sequence[bytes],
        transport: httpx.BaseTransport | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`base`: `https://host[:port]`, as the service knows itself: signatures are over it. `transport` is tests'."""
        self._monotonic = monotonic
        self._base = base.rstrip("/")
        self._nonce: bytes | None = None
        self._roots = tuple(roots)
        self._transport = transport
        self._client = self._connected()

    def _connected(self) -> httpx.Client:
        return httpx.Client(
            transport=self._transport or httpx.HTTPTransport(verify=tls_context(self._roots), retries=0),
            timeout=_TIMEOUT,
            follow_redirects=False,
            trust_env=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "attestd-edge"},
        )

    def trust(self, roots: Sequence[bytes]) -> None:
        """These roots count from now on; a connection made under others ends."""
        if self._transport is None and tuple(roots) != self._roots:
            self._client.close()
            self._roots = tuple(roots)
            self._client = self._connected()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def bundle(self, who: ProxyIdentity, *, known: str | None) -> Fetched | None:
        """The current bundle, what is different from the one named `known` (as in `2.5`), or None if it is still that.

        Raises ServiceUnreachable, ServiceBusy, ServiceRefused, ServiceAnswerWrong or InputTooLarge.
        """
        extra = {} if known is None else {"If-None-Match": f'"{known}"', "A-IM": DELTA}
        status, headers, body = self._ask(who, "GET", "/v1/bundle", b"", extra, limit=MAX_COPY)
        if status == httpx.codes.NOT_MODIFIED and known is not None:
            return None
        is_delta = status == httpx.codes.IM_USED and known is not None and headers.get("IM") == DELTA
        if status != httpx.codes.OK and not is_delta:
            raise ServiceAnswerWrong(seen=f"status {status}", expected="200 with a bundle, 226 with a delta, or 304")
        return Fetched(body, is_delta)

    def follow(self, who: ProxyIdentity, *, known: str | None) -> Generator[Fetched | None, None, None]:
        """What is new since the bundle named `known`, as it comes, until the service ends it; None about once a second
        while nothing does. Raises what `bundle` raises, also between two of them."""
        extra = {"Accept": "text/event-stream"} | ({} if known is None else {"Last-Event-ID": known})
        url = self._base + "/v1/bundle/stream"
        headers = self._signed(who, "GET", url, b"", self._nonce or self._first_nonce()) | extra
        self._nonce = None
        try:
            with self._client.stream("GET", url, headers=headers, timeout=_LISTENING) as response:
                self._learn_nonce(response)
                if response.status_code != httpx.codes.OK:
                    _require_served(response.status_code, response.headers, b"")
                    raise ServiceAnswerWrong(seen=f"status {response.status_code}", expected="200 with a stream")
                yield from read_events(response.iter_raw())
        except httpx.HTTPError as error:
            raise ServiceUnreachable(f"{type(error).__name__}: {error}"[:300]) from error

    def consistency(self, who: ProxyIdentity, log: int, first: int, second: int) -> tuple[bytes, ...]:
        """The proof, unverified, that the audit tree of `second` leaves begins with that of `first`.

        Raises what `bundle` raises.
        """
        path = f"/v1/audit/consistency?log={log}&first={first}&second={second}"
        status, _, body = self._ask(who, "GET", path, b"", {}, limit=MAX_SMALL)
        if status != httpx.codes.OK:
            raise ServiceAnswerWrong(f"No proof: {_problem(body)}.", seen=f"status {status}", expected="200")
        try:
            answer = Members(read_object(body, limit=MAX_SMALL, name="answer"), "answer")
            answer.version()
            return answer.many_octets("path", limit=HASH, most=MAX_PATH)
        except AttestdError as error:
            raise ServiceAnswerWrong(f"The proof can't be read: {error}") from error

    def renew(self, who: ProxyIdentity) -> bytes:
        """A new chain (PEM) for the proxy's key, unverified. Raises what `bundle` raises."""
        status, _, body = self._ask(who, "POST", "/v1/proxies/renewals", write_object({"v": 1}), {}, limit=MAX_BEGIN)
        if status != httpx.codes.OK:
            raise ServiceAnswerWrong(seen=f"status {status}", expected="200")
        try:
            answer = Members(read_object(body, limit=MAX_BEGIN, name="answer"), "answer")
            answer.version()
            return answer.text("chain", limit=MAX_BEGIN).encode("ascii")
        except (AttestdError, UnicodeEncodeError) as error:
            raise ServiceAnswerWrong(f"The renewal's answer can't be read: {error}") from error

    def _ask(
        self, who: ProxyIdentity, method: str, path: str, body: bytes, extra: Mapping[str, str], *, limit: int
    ) -> tuple[int, httpx.Headers, bytes]:
        """One signed request; a second one if the first one's nonce had been spent or had expired."""
        url = self._base + path
        for last in (False, True):
            nonce, self._nonce = self._nonce or self._first_nonce(), None
            headers = self._signed(who, method, url, body, nonce) | dict(extra)
            status, found, answer = self._exchange(method, url, body, headers, limit=limit)
            if status == httpx.codes.UNAUTHORIZED and self._nonce is not None and not last:
                continue
            break
        _require_served(status, found, answer)
        return status, found, answer

    def _signed(self, who: ProxyIdentity, method: str, url: str, body: bytes, nonce: bytes) -> dict[str, str]:
        signature = sign_detached(
            body, sign=who.key.sign, alg="ES256", kid=who.kid, method=method, url=url, nonce=nonce
        )
        return {"Authorization": signature} | ({"Content-Type": "application/json"} if body else {})

    def _first_nonce(self) -> bytes:
        status, headers, _ = self._exchange("GET", self._base + "/v1/nonce", b"", {}, limit=MAX_BEGIN)
        if self._nonce is None:
            if status in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE):
                raise ServiceBusy(seen=f"status {status}", retry_after=_retry_after(headers))
            raise ServiceAnswerWrong("The service gave no nonce.", seen=f"status {status}", expected="Replay-Nonce")
        nonce, self._nonce = self._nonce, None
        return nonce

    def _exchange(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], *, limit: int
    ) -> tuple[int, httpx.Headers, bytes]:
        """Sends one request and reads at most `limit` octets of its answer; remembers the nonce that came along."""
        chunks: list[bytes] = []
        size, started = 0, self._monotonic()
        try:
            with self._client.stream(method, url, content=body or None, headers=dict(headers)) as response:
                for chunk in response.iter_raw():
                    size += len(chunk)
                    if size > limit:
                        raise InputTooLarge("The service's answer is too large.", expected=f"at most {limit} octets")
                    if self._monotonic() - started > _MAX_SECONDS:
                        raise ServiceUnreachable("The service's answer takes too long.", seen=f"{size} octets so far")
                    chunks.append(chunk)
        except httpx.HTTPError as error:
            raise ServiceUnreachable(f"{type(error).__name__}: {error}"[:300]) from error
        self._learn_nonce(response)
        return response.status_code, response.headers, b"".join(chunks)

    def _learn_nonce(self, response: httpx.Response) -> None:
        if text := response.headers.get("Replay-Nonce"):
            try:
                self._nonce = b64decode(text, name="Replay-Nonce") or None
            except AttestdError as error:
                raise ServiceAnswerWrong("The service's nonce can't be read.") from error


def read_events(chunks: Iterable[bytes]) -> Iterator[Fetched | None]:
    """Server-sent events (WHATWG HTML, section 9.2.6) as the service writes them; None for a comment, which says that
    the line stands. Raises ServiceAnswerWrong or InputTooLarge."""
    waiting = bytearray()
    for chunk in chunks:
        looked_at = max(0, len(waiting) - 1)
        waiting += chunk
        if waiting.find(b"\n\n", looked_at) >= 0:
            *events, rest = bytes(waiting).split(b"\n\n")
            waiting = bytearray(rest)
            for text in events:
                yield _read_event(text)
        if len(waiting) > MAX_COPY:
            raise InputTooLarge("An event of the service is too large.", expected=f"at most {MAX_COPY} octets")


def _read_event(text: bytes) -> Fetched | None:
    if text.startswith(b":"):
        return None
    fields = dict(line.partition(b": ")[::2] for line in text.split(b"\n"))
    kind, data = fields.get(b"event"), fields.get(b"data")
    if kind not in (b"bundle", b"delta") or not data:
        raise ServiceAnswerWrong("The service's event can't be read.", seen=repr(text[:80]))
    return Fetched(data, kind == b"delta")


def _require_served(status: int, headers: httpx.Headers, answer: bytes) -> None:
    """Raises ServiceBusy or ServiceRefused."""
    if status in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE):
        raise ServiceBusy(seen=f"status {status}", retry_after=_retry_after(headers))
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise ServiceRefused(seen=f"status {status}: {_problem(answer)}")


def _retry_after(headers: httpx.Headers) -> int:
    text = headers.get("Retry-After", "")
    return min(int(text), _MAX_RETRY_AFTER) if text.isascii() and text.isdigit() else 5


def _problem(body: bytes) -> str:
    """The problem's type, for the log: what kind of refusal it is."""
    try:
        return str(read_object(body, limit=MAX_BEGIN, name="problem").get("type", ""))[:200]
    except AttestdError:
        return "no problem document"
