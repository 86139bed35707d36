"""The admin API as the console calls it: every call signed with the session's key, every answer bounded.

Inside `attestd serve` a call goes to the application in the same process; apart, over HTTPS. Both are an httpx
transport, so that nothing above here knows the difference.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode
from wsgiref.types import StartResponse, WSGIApplication

import httpx

from attestd.credentials.requests import SoftwareKey
from attestd.errors import AttestdError, MalformedInput, Unavailable
from attestd.protocol.encoding import b64decode
from attestd.protocol.signed import sign_detached

MAX_ANSWER: Final = 8 * 1024 * 1024  # octets; pages ask for some hundred rows at most
_TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
_LISTEN: Final = httpx.Timeout(30.0, connect=5.0, read=15.0)  # an event stream says something every second
_TYPE: Final = "urn:attestd:problem:"
_ADDRESS: Final = "attestd.address"  # the request extension that carries the browser's address
UNATTENDED: Final = "Attestd-Unattended"  # nobody asked for this: it keeps no session alive
_NONCES: Final = frozenset({"nonce-invalid", "nonce-expired", "call-nonce-spent"})

Query = Mapping[str, object]


class Unreachable(Unavailable):
    """The service does not answer"""

    remedy = "Nothing was changed as far as is known. Try again in a moment; if it stays away, look at its log."


class Refused(AttestdError):
    """The service refused this"""

    remedy = "Read what the service says, and try again."

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(
            str(problem.get("detail") or problem.get("title") or "The service refused this."),
            seen=problem.get("seen"),
            expected=problem.get("expected"),
            remedy=str(problem["remedy"]) if problem.get("remedy") else None,
        )
        self.status = status
        self.problem = problem

    @property
    def name(self) -> str:
        """Which refusal this is: `state-changed`, `role-too-low`, …; empty when the answer names none."""
        kind = self.problem.get("type")
        return kind.removeprefix(_TYPE) if isinstance(kind, str) and kind.startswith(_TYPE) else ""

    @property
    def heading(self) -> str:
        return str(self.problem.get("title") or "The service refused this")


class _InProcess(httpx.BaseTransport):
    """The application in this process. It hears the browser's address, as its own front would tell it."""

    def __init__(self, application: WSGIApplication) -> None:
        def called(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
            # The transport leaves characters where PEP 3333 has octets.
            environ["PATH_INFO"] = environ["PATH_INFO"].encode().decode("latin-1")
            return application(environ, start_response)

        self._application = called

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        address = str(request.extensions.get(_ADDRESS) or "127.0.0.1")
        transport = httpx.WSGITransport(self._application, raise_app_exceptions=False, remote_addr=address)
        try:
            return transport.handle_request(request)
        except Exception as error:
            raise httpx.RemoteProtocolError(type(error).__name__) from error


@dataclass
class Service:
    """One service and the way to it. Serves every thread; holds nobody's key."""

    client: httpx.Client
    base: str  # the public address: what signatures name
    mounted: bool = False
    _lock: Lock = field(default_factory=Lock)
    _nonce: bytes = b""  # serves any number of reads while it lives

    @classmethod
    def inside(cls, application: WSGIApplication, base: str) -> Service:
        """The service whose application this is."""
        client = httpx.Client(transport=_InProcess(application), base_url=base, timeout=_TIMEOUT, trust_env=False)
        return cls(client, base, mounted=True)

    @classmethod
    def over_https(cls, base: str, trust: ssl.SSLContext) -> Service:
        return cls(httpx.Client(base_url=base, verify=trust, timeout=_TIMEOUT, trust_env=False), base)

    def fresh_nonce(self) -> bytes:
        """One that serves a change."""
        answer = self._send(self.client.build_request("GET", "/v1/nonce"))
        self.keep(answer)
        return self._nonce

    def nonce(self) -> bytes:
        """One that serves a read."""
        return self._nonce or self.fresh_nonce()

    def send(self, request: httpx.Request) -> httpx.Response:
        answer = self._send(request)
        self.keep(answer)
        return answer

    def keep(self, answer: httpx.Response) -> None:
        """The nonce that came along, for the next call. Raises Unreachable."""
        said = answer.headers.get("Replay-Nonce")
        if said is None:
            return
        try:
            nonce = b64decode(said, name="Replay-Nonce")
        except MalformedInput:
            raise Unreachable("The service's answer can't be read.", seen="a malformed Replay-Nonce") from None
        with self._lock:
            self._nonce = nonce

    def _send(self, request: httpx.Request) -> httpx.Response:
        """The answer with its whole, bounded content. Raises Unreachable."""
        try:
            answer = self.client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise Unreachable(seen=type(error).__name__) from None
        content = bytearray()
        try:
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER:
                    raise Unreachable("The service's answer is too large.", expected=f"at most {MAX_ANSWER} octets")
        except httpx.HTTPError as error:
            raise Unreachable("The service's answer broke off.", seen=type(error).__name__) from None
        finally:
            answer.close()
        return httpx.Response(answer.status_code, headers=_plain(answer.headers), content=bytes(content))


def _plain(headers: httpx.Headers) -> list[tuple[bytes, bytes]]:
    """Without what spoke of the octets on the wire, which have been read and unpacked."""
    gone = (b"content-encoding", b"content-length", b"transfer-encoding")
    return [(name, value) for name, value in headers.raw if name.lower() not in gone]


@dataclass(frozen=True, slots=True)
class Api:
    """Calls to one service in the name of one key; without a key, public ones.

    Paths are the service's own, `/v1/…`; whoever puts a name into one quotes it (`at`).
    """

    service: Service
    key: SoftwareKey | None = None
    address: str = ""  # the browser's
    agent: str = ""
    unattended: bool = False  # the page looks again by itself

    def get(self, path: str, query: Query | None = None, /, **more: object) -> dict[str, Any]:
        """Members of the query that are None or empty are left out. Raises Refused, Unreachable."""
        return document(self.call("GET", _with(path, {**(query or {}), **more})))

    def post(
        self, path: str, message: Mapping[str, Any] | None = None, *, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        return document(self.call("POST", path, written(message), headers=headers))

    def put(self, path: str, message: Mapping[str, Any], *, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        return document(self.call("PUT", path, written(message), headers=headers))

    def delete(self, path: str, *, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        return document(self.call("DELETE", path, headers=headers))

    def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Any call, as it is answered. Raises Refused, Unreachable."""
        answer = self._once(method, path, body, content_type, headers or {})
        refusal = refusal_of(answer)
        if refusal is not None and refusal.name in _NONCES:
            # Nothing was done. The answer brought another nonce.
            answer = self._once(method, path, body, content_type, headers or {})
            refusal = refusal_of(answer)
        if refusal is not None:
            raise refusal
        return answer

    def _once(
        self, method: str, path: str, body: bytes, content_type: str, headers: Mapping[str, str]
    ) -> httpx.Response:
        return self.service.send(self._request(method, path, body, content_type, headers))

    def _request(
        self, method: str, path: str, body: bytes, content_type: str, headers: Mapping[str, str]
    ) -> httpx.Request:
        told = dict(headers)
        if body:
            told["Content-Type"] = content_type
        if self.unattended:
            told[UNATTENDED] = "1"
        if self.key is not None:
            told["Authorization"] = self._authorization(self.key, method, path, body)
        client = self.service.client
        return client.build_request(method, path, content=body, headers=told, extensions={_ADDRESS: self.address})

    def _authorization(self, key: SoftwareKey, method: str, path: str, body: bytes) -> str:
        nonce = self.service.nonce() if method == "GET" else self.service.fresh_nonce()
        return sign_detached(
            body,
            sign=key.sign,
            alg="ES256",
            kid=key.thumbprint,
            method=method,
            url=self.service.base + path,
            nonce=nonce,
        )

    @contextmanager
    def stream(self, path: str, query: Query | None = None) -> Iterator[httpx.Response]:
        """An answer of any length, to be read bit by bit. Raises Refused, Unreachable."""
        path = _with(path, query or {})
        answer = self._opened(path)
        refusal = refusal_of(answer)
        if refusal is not None and refusal.name in _NONCES:
            answer = self._opened(path)
            refusal = refusal_of(answer)
        if refusal is not None:
            raise refusal
        try:
            yield answer
        finally:
            answer.close()

    def _opened(self, path: str) -> httpx.Response:
        """The beginning of an answer, or all of a refusal."""
        try:
            answer = self.service.client.send(self._request("GET", path, b"", "", {}), stream=True)
            self.service.keep(answer)
            if answer.status_code >= 400:
                answer.read()
                answer.close()
        except httpx.HTTPError as error:
            raise Unreachable(seen=type(error).__name__) from None
        return answer


def at(*segments: object) -> str:
    """A path of these segments, each quoted: `at("v1", "admin", "devices", name)`."""
    return "".join("/" + quote(str(segment), safe="") for segment in segments)


def written(message: Mapping[str, Any] | None) -> bytes:
    """A message's octets: the same ones whenever it is the same message, since a touch is for these."""
    return json.dumps({"v": 1, **(message or {})}, separators=(",", ":"), sort_keys=True).encode()


def _with(path: str, query: Query) -> str:
    wanted = {name: value for name, value in query.items() if value not in (None, "", (), [])}
    # The service signs over the path as it quotes it itself, so that there is one spelling.
    return quote(unquote(path)) + (f"?{urlencode(wanted, doseq=True)}" if wanted else "")


def refusal_of(answer: httpx.Response) -> Refused | None:
    """What an answer says went wrong; None for one that went well."""
    if answer.status_code < 400:
        return None
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    return Refused(answer.status_code, problem if isinstance(problem, dict) else {})


def document(answer: httpx.Response) -> dict[str, Any]:
    """An answer's JSON object; nothing is an empty one. Raises Unreachable."""
    try:
        found = answer.json() if answer.content else {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unreachable("The service's answer can't be read.", seen=f"status {answer.status_code}")
    return found
