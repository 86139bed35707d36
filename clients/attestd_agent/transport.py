"""HTTPS to the service, within bounds: one pinned root, one time limit for a whole exchange, one size limit.

TLS trusts the pinned root alone. While the device's clock is behind its floor, OpenSSL can't judge dates
(X509_V_FLAG_NO_CHECK_TIME): the peer's own dates are then judged here, within the handshake, before anything is sent.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestd.errors import AttestdError, MalformedInput, Misconfigured, Unauthenticated, Unavailable
from attestd.protocol.messages import MAX_BEGIN
from attestd_agent.clock import DeviceClock

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, since OpenSSL 1.1.0
MAX_ANSWER = 2 * MAX_BEGIN  # octets of a body; no answer to a device is larger
TIME_LIMIT = 20.0  # seconds for one exchange, from connecting to the last octet


class ServerUnreachable(Unavailable):
    """The service can't be reached"""

    remedy = "Check --server and the network; the agent tries again by itself."


class ProxyUnusable(ServerUnreachable):
    """The proxy that the environment names can't be used"""

    remedy = "Set HTTPS_PROXY to http://[USER:PASSWORD@]HOST:PORT, or name the service in NO_PROXY."


class ServerTooSlow(Unavailable):
    """The service did not answer in time"""

    remedy = ServerUnreachable.remedy


class ServerNotTrusted(Unauthenticated):
    """The server did not prove that it is this device's service"""

    remedy = "Check --server and --ca; if the service got a new root, hand it to the device again with --ca."


class ServerCertificateOutdated(ServerNotTrusted):
    """The server's certificate is not valid at this time"""

    remedy = "Renew the server's certificate: `attestd doctor` on the service."


class AnswerTooLarge(MalformedInput):
    """The service's answer is larger than any answer can be"""

    remedy = "Check that --server is an attestd service."


class ServerUrlInvalid(Misconfigured):
    """The service's address can't be used"""

    remedy = "Give --server as https://HOST[:PORT]."


class RootDiffers(Unauthenticated):
    """The service's root certificate is not the pinned one"""

    remedy = "Compare the fingerprint with the operator's; if it is right, somebody else answers at this address."


class RootMalformed(MalformedInput):
    """This is not a root certificate"""

    remedy = "Give --ca the root's PEM file, or sha256: and the 64 hexadecimal digits of its fingerprint."


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, read whole. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def read_url(text: str) -> str:
    """`https://host[:port][/path]` without a trailing slash. Raises ServerUrlInvalid."""
    try:
        url = urlsplit(text)
        usable = url.scheme == "https" and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or any(sign in text for sign in " @?#\\"):
        raise ServerUrlInvalid(seen=repr(text[:200]), expected="https://HOST[:PORT]")
    return text.rstrip("/")


def read_roots(pem: bytes) -> tuple[bytes, ...]:
    """The root certificates of a PEM file, as DER. Raises RootMalformed."""
    try:
        return tuple(root.public_bytes(Encoding.DER) for root in x509.load_pem_x509_certificates(pem))
    except (ValueError, x509.InvalidVersion):
        raise RootMalformed(expected="PEM certificates") from None


def write_roots(roots: Sequence[bytes]) -> bytes:
    """Certificates (DER) as PEM."""
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in roots).encode("ascii")


def fetch_root(url: str, fingerprint: bytes, *, path: str = "/v1/root", limit: float = TIME_LIMIT) -> bytes:
    """The root as PEM, from a server that nobody vouches for yet: only its fingerprint (SHA-256 of the DER) counts.

    Raises RootDiffers where it is another one.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    exchange = _Exchange(time.monotonic() + limit, None)
    reply = exchange.run(context, "GET", url + path, None, {})
    if reply.status != 200:
        raise ServerUnreachable("The service does not hand out its root.", seen=reply.status, expected=200)
    for der in read_roots(reply.body):
        if hmac.compare_digest(hashlib.sha256(der).digest(), fingerprint):
            return ssl.DER_cert_to_PEM_cert(der).encode("ascii")
    raise RootDiffers(seen=hashlib.sha256(read_roots(reply.body)[0]).hexdigest(), expected=fingerprint.hex())


class Transport:
    """Exchanges with one service. Connections are not kept: an agent asks a few times an hour."""

    def __init__(
        self,
        url: str,
        roots: bytes,
        clock: DeviceClock,
        *,
        limit: float = TIME_LIMIT,
        interruptible: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.url = read_url(url)
        self.trust(read_roots(roots))
        self._clock = clock
        self._limit = limit
        self._interruptible = interruptible  # entered around each exchange: where a daemon may be told to stop

    def trust(self, roots: Sequence[bytes]) -> None:
        """These roots (DER) count from the next exchange on."""
        self._roots = write_roots(roots).decode("ascii")

    def exchange(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Raises ServerUnreachable, ServerTooSlow, ServerNotTrusted or AnswerTooLarge; an error status is a Reply."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=self._roots)
        behind = self._clock.behind
        if behind:
            context.verify_flags |= _NO_CHECK_TIME
        exchange = _Exchange(time.monotonic() + self._limit, self._check_dates if behind else None)
        with self._interruptible():
            return exchange.run(context, method, self.url + path, body, dict(headers or {}))

    def _check_dates(self, leaf: bytes) -> None:
        """The dates that OpenSSL was told to leave to us.

        Of the floor it is only known that it has passed: a certificate that ended before it is over, one that begins
        after it may well be valid. Once a time is known, both ends count.
        """
        certificate = x509.load_der_x509_certificate(leaf)
        now = self._clock.now()
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now > ends or (now < begins and not self._clock.needs_time):
            raise ServerCertificateOutdated(
                seen=f"{now:%Y-%m-%dT%H:%M:%SZ}", expected=f"{begins:%Y-%m-%dT%H:%M:%SZ} to {ends:%Y-%m-%dT%H:%M:%SZ}"
            )


class _Exchange:
    """One request and its answer. The socket itself keeps the time limit: slow drips can't stretch it."""

    def __init__(self, deadline: float, check: Callable[[bytes], None] | None) -> None:
        self._deadline = deadline
        self._check = check
        self._refusal: AttestdError | None = None

    def left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time limit for the whole exchange is over")
        return left

    def judge(self, leaf: bytes | None) -> None:
        """Called with the peer's certificate at the end of the handshake."""
        if self._check is None:
            return
        try:
            self._check(leaf or b"")
        except AttestdError as refusal:
            self._refusal = refusal
            raise ssl.SSLError(refusal.detail) from refusal

    def run(self, context: ssl.SSLContext, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> Reply:
        headers |= {"Accept-Encoding": "identity", "User-Agent": "attestd-agent"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        address = urlsplit(url)
        target = address._replace(scheme="", netloc="").geturl()
        try:
            connection = http.client.HTTPSConnection(address.hostname or "", address.port, context=context)
            with closing(connection):
                connection.sock = self._reach(context, address)
                connection.request(method, target, body, headers)
                response = connection.getresponse()
                return Reply(response.status, _joined(response.getheaders()), _read(response))
        except TimeoutError as error:
            raise ServerTooSlow(seen=str(error) or type(error).__name__) from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            if self._refusal is not None:
                raise self._refusal from error
            if isinstance(error, ssl.SSLCertVerificationError):
                raise ServerNotTrusted(seen=error.verify_message or str(error)) from error
            raise ServerUnreachable(seen=str(error) or type(error).__name__, expected=url) from error

    def _reach(self, context: ssl.SSLContext, address: SplitResult) -> ssl.SSLSocket:
        """TLS with the service, through a proxy where the environment names one. The time limit goes with it."""
        plain_class, context.sslsocket_class = _sockets(self)
        proxy = _proxy_for(address)
        near = address if proxy is None else proxy
        port = near.port or (443 if near is address else 80)
        with socket.create_connection((near.hostname or "", port), self.left()) as made:
            plain = plain_class(fileno=made.detach())
        try:
            plain.settimeout(self.left())
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if proxy is not None:
                _tunnel(plain, proxy, address)
            return context.wrap_socket(plain, server_hostname=address.hostname)
        finally:
            plain.close()  # TLS has taken it over, or failed


def _sockets(exchange: _Exchange) -> tuple[type[socket.socket], type[ssl.SSLSocket]]:
    """Sockets that keep the time limit of their exchange by themselves, without and with TLS."""

    class Plain(socket.socket):
        def recv_into(self, *args: Any, **kwargs: Any) -> int:
            self.settimeout(exchange.left())
            return super().recv_into(*args, **kwargs)

    class Secure(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            self.settimeout(exchange.left())
            super().do_handshake(block)
            exchange.judge(self.getpeercert(binary_form=True))

        def recv_into(self, *args: Any, **kwargs: Any) -> int:
            self.settimeout(exchange.left())
            return super().recv_into(*args, **kwargs)

        def send(self, *args: Any, **kwargs: Any) -> int:
            self.settimeout(exchange.left())
            return super().send(*args, **kwargs)

    return Plain, Secure


def _read(response: http.client.HTTPResponse) -> bytes:
    body = response.read(MAX_ANSWER + 1)
    if len(body) > MAX_ANSWER:
        raise AnswerTooLarge(expected=f"at most {MAX_ANSWER} octets")
    if response.length:  # what was promised and did not come; of chunks, http.client says so itself
        raise http.client.IncompleteRead(body, response.length)
    return body


def _joined(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Values of one name with commas between them (RFC 9110, section 5.3)."""
    found: dict[str, str] = {}
    for spelled, value in headers:
        name = spelled.lower()
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


# ---- A proxy on the way ---------------------------------------------------------------------------------------------


def _proxy_for(address: SplitResult) -> SplitResult | None:
    """The proxy that HTTPS_PROXY or ALL_PROXY names, unless NO_PROXY names the host or the host is this machine itself.

    Raises ProxyUnusable.
    """
    host = address.hostname or ""
    if _is_here(host) or not any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - large, and rarely used

    named = getproxies()
    text = named.get("https") or named.get("all")
    if not text or proxy_bypass(host, named):
        return None
    try:
        proxy = urlsplit(text if "://" in text else f"http://{text}")
        usable = proxy.scheme == "http" and bool(proxy.hostname) and proxy.port != 0
    except ValueError:
        usable = False
    if not usable:  # nothing of it is repeated: it may hold a password
        raise ProxyUnusable(expected="http://HOST:PORT")
    return proxy


def _is_here(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _tunnel(plain: socket.socket, proxy: SplitResult, address: SplitResult) -> None:
    """CONNECT (RFC 9110, section 9.3.6)."""
    host = (address.hostname or "").encode("idna").decode("ascii")
    target = f"[{host}]:{address.port or 443}" if ":" in host else f"{host}:{address.port or 443}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.username is not None:
        secret = unquote_to_bytes(proxy.username) + b":" + unquote_to_bytes(proxy.password or "")
        lines.append(f"Proxy-Authorization: Basic {b64encode(secret).decode('ascii')}")
    plain.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
    answer = http.client.HTTPResponse(plain, method="CONNECT")
    answer.begin()
    if not 200 <= answer.status < 300:
        raise ProxyUnusable("The proxy refuses.", seen=f"{answer.status} {answer.reason}"[:200], expected=200)
