"""Issuers' certificates fetched from where a device's certificate says they are. Off, unless a setting names hosts.

What is fetched is an intermediate like one that came with the request: it helps to reach a root that an operator
trusts, and is trusted for nothing. So a lie costs no security. It could cost something else: the address is a
stranger's choice, and this service makes the request. Therefore:

1. Only hosts that `endorsement.fetch_issuers_from` names are asked, at HTTP's own ports or at the one that is named
   with the host, also after a redirect.
2. Their names must lead to public addresses (unless a setting allows private ones), all of them, and the connection is
   made to the very address that was looked at: a name that changes its mind in between changes nothing.
3. Size, time, redirects, the number of requests at once and in a minute are bounded; no proxy of the environment is
   used, and no cookie or credential is sent.
4. An answer is kept for a day, and a failure for ten minutes, in this process; both in a bounded number.

RFC 5280, section 4.2.2.1: the answer is one certificate in DER. PEM is read, too, since some serve it; PKCS #7 is not.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urljoin, urlsplit

from attestd.config import EndorsementSettings, SettingInvalid
from attestd.errors import AttestdError, Unavailable
from attestd.tpm.authority_info import issuer_urls
from attestd.tpm.chain import MAX_ISSUERS
from attestd.tpm.ekcert import MakerCertificate, parse_certificate
from attestd.tpm.makers import certificates_in

if TYPE_CHECKING:  # where nothing is fetched, the library is not loaded
    import httpx

_logger = logging.getLogger("attestd.issuers")

MAX_ANSWER: Final = 32 * 1024  # octets; a certificate has 1 to 3 thousand
_MAX_REDIRECTS: Final = 2
_AT_ONCE: Final = 2  # requests of one process
_A_MINUTE: Final = 30
_KEPT: Final = 512
_GOOD_FOR: Final = 24 * 3600.0  # seconds
_BAD_FOR: Final = 600.0

_NAMED: Final = re.compile(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){0,8}(:[1-9][0-9]{0,4})?", re.ASCII)

# Name and port -> addresses, as text.
Resolve = Callable[[str, int], Sequence[str]]


class NotFetched(Unavailable):
    """An issuer's certificate could not be fetched"""


@dataclass(frozen=True, slots=True)
class _Kept:
    certificates: tuple[bytes, ...]  # none: it could not be fetched
    until: float  # seconds of the monotonic clock


def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, by the system's resolver."""
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError as error:
        raise NotFetched(f"{host} has no address.", seen=error.strerror) from None


class Issuers:
    """Fetches, and remembers. One a process; any number of threads."""

    def __init__(
        self,
        settings: EndorsementSettings,
        *,
        transport: httpx.BaseTransport | None = None,
        resolve: Resolve = resolve,
        clock: Callable[[], float] = time.monotonic,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`transport` and `resolve` are the network; tests bring their own. `waiting` is entered around its answers.

        Raises SettingInvalid.
        """
        self._hosts = frozenset(host.lower() for host in settings.fetch_issuers_from if host)  # or host:port
        if odd := sorted(host for host in self._hosts if not _NAMED.fullmatch(host)):
            raise SettingInvalid(
                "endorsement.fetch_issuers_from names no hosts.",
                seen=", ".join(odd)[:200],
                expected='like ["pki.infineon.com", "ca.example:8080"]',
            )
        self._private_too = settings.fetch_private_addresses
        self._timeout = settings.fetch_timeout.total_seconds()
        self._transport, self._resolve, self._clock = transport, resolve, clock
        self._waiting = waiting
        self._lock = threading.Lock()
        self._permits = threading.Semaphore(_AT_ONCE)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lately: list[float] = []

    @property
    def enabled(self) -> bool:
        return bool(self._hosts)

    def above(self, certificates: Sequence[bytes]) -> tuple[bytes, ...]:
        """What can be had of the issuers of these, one step up after the other. Never raises: nothing is an answer."""
        if not self.enabled:
            return ()
        found: dict[bytes, None] = {}
        asked: set[str] = set()
        todo = list(certificates)
        deadline = self._clock() + self._timeout
        while todo and len(asked) < MAX_ISSUERS:
            for url in self._hints(todo.pop(0)):
                if url in asked or len(asked) >= MAX_ISSUERS:
                    continue
                asked.add(url)
                for der in self._get(url, deadline):
                    if der not in found:
                        found[der] = None
                        todo.append(der)
        return tuple(found)[:MAX_ISSUERS]

    def _hints(self, der: bytes) -> tuple[str, ...]:
        try:
            certificate: MakerCertificate = parse_certificate(der)
        except AttestdError:
            return ()
        return () if certificate.subject == certificate.issuer else issuer_urls(certificate)

    def _get(self, url: str, deadline: float) -> tuple[bytes, ...]:
        """From memory, or else from the network; a failure is remembered, too."""
        import httpx  # noqa: PLC0415

        now = self._clock()
        if not self._may_ask(url) or now >= deadline:
            return ()
        with self._lock:
            kept = self._kept.get(url)
            if kept is not None and kept.until > now:
                self._kept.move_to_end(url)
                return kept.certificates
            self._lately = [moment for moment in self._lately if moment > now - 60]
            if len(self._lately) >= _A_MINUTE:
                _logger.warning("no issuer is fetched: %d requests in the last minute", len(self._lately))
                return ()
        if not self._permits.acquire(blocking=False):
            return ()  # the device comes again; a line here would be everybody's line
        try:
            with self._lock:
                self._lately.append(now)
            with self._waiting():
                certificates = self._fetch(url, deadline)
        except (AttestdError, httpx.HTTPError, httpx.InvalidURL) as failure:
            _logger.warning("no issuer from %s: %s", url, failure)
            certificates = ()
        finally:
            self._permits.release()
        with self._lock:
            self._kept[url] = _Kept(certificates, self._clock() + (_GOOD_FOR if certificates else _BAD_FOR))
            self._kept.move_to_end(url)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return certificates

    def _may_ask(self, url: str) -> bool:
        """Rule 1. A user's name in an address is somebody's trick."""
        try:
            parts = urlsplit(url)
            host, port = _host_and_port(parts)
        except ValueError:
            return False
        usual = port == _PORTS.get(parts.scheme)
        named = f"{host}:{port}" in self._hosts or (usual and host in self._hosts)
        return named and parts.scheme in _PORTS and "@" not in parts.netloc

    def _fetch(self, url: str, deadline: float) -> tuple[bytes, ...]:
        import httpx  # noqa: PLC0415

        timeout = max(deadline - self._clock(), 0.1)
        with httpx.Client(
            transport=self._transport, trust_env=False, follow_redirects=False, timeout=timeout
        ) as client:
            for _ in range(1 + _MAX_REDIRECTS):
                answer, location = self._ask(client, url, deadline)
                if location is None:
                    return tuple(parse_certificate(der).der for der in certificates_in(answer))
                url = urljoin(url, location)
                if not self._may_ask(url):
                    raise NotFetched("The answer sends elsewhere.", seen=url[:200], expected="a host that is named")
        raise NotFetched("The answer sends from one address to the next.", expected=f"at most {_MAX_REDIRECTS}")

    def _ask(self, client: httpx.Client, url: str, deadline: float) -> tuple[bytes, str | None]:
        """One request: the answer's octets, or where it sends us."""
        import httpx  # noqa: PLC0415

        parts = urlsplit(url)
        host, port = _host_and_port(parts)
        address = self._address(host, port)
        target = httpx.URL(url).copy_with(host=f"[{address}]" if ":" in address else address, fragment=None)
        request = client.build_request(
            "GET",
            target,
            headers={"Host": parts.netloc, "Accept": "application/pkix-cert, */*", "Accept-Encoding": "identity"},
            extensions={"sni_hostname": host},  # TLS is with the name, though the connection is to the address
        )
        answer = client.send(request, stream=True)
        try:
            if answer.is_redirect:
                return b"", answer.headers.get("Location", "")
            if answer.status_code != 200 or "Content-Encoding" in answer.headers:
                raise NotFetched("The answer is no certificate.", seen=f"status {answer.status_code}")
            body = bytearray()
            for part in answer.iter_bytes():
                body += part
                if len(body) > MAX_ANSWER:
                    raise NotFetched("The answer is too large.", seen=f"over {MAX_ANSWER} octets")
                if self._clock() > deadline:
                    raise NotFetched("The answers take too long.", expected=f"{self._timeout:g} s for a chain")
            return bytes(body), None
        finally:
            answer.close()

    def _address(self, host: str, port: int) -> str:
        """Rule 2. One private address among public ones is a refusal: which one would be taken, chance would say."""
        addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in self._resolve(host, port)]
        if not addresses:
            raise NotFetched(f"{host} has no address.")
        private = [address for address in addresses if not address.is_global or address.is_multicast]
        if private and not self._private_too:
            raise NotFetched(
                f"{host} leads to an address that is not public.",
                seen=private[0],
                expected="public addresses, or endorsement.fetch_private_addresses = true",
            )
        return str(addresses[0])


_PORTS: Final = {"http": 80, "https": 443}


def _host_and_port(parts: SplitResult) -> tuple[str, int]:
    """Raises ValueError for a port that is none."""
    port = parts.port
    return (parts.hostname or "").lower(), _PORTS.get(parts.scheme, 0) if port is None else port
