"""What a request presents: from the TLS layer, or from an authenticated hop's headers, and from nobody else.

A hop is a reverse proxy that ended TLS and tells in a header which certificate it saw. That word counts only if the hop
itself is authenticated: by the permissions of a Unix socket, or by mutual TLS (docs/protocol.md, section 6). A loopback
address is no authentication. From anyone else these headers are nothing: they are removed before the application sees
the request, and a request that brings two of them through an authenticated hop is refused, because one of the two may
be the client's own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Literal, Protocol, Self
from urllib.parse import unquote

from attestd.errors import Misconfigured, Unauthenticated
from attestd.protocol.encoding import b64encode
from attestd_edge.decide import Presented
from attestd_edge.envoy import forwarded

MAX_HEADER = 64 * 1024  # characters of a certificate header
# Headers that only a hop may set, and those that applications may take for our word.
CERTIFICATE_HEADERS = frozenset({"client-cert", "client-cert-chain", "x-client-cert", forwarded.NAME})
OUR_PREFIX = "attestd-"


class HeaderDuplicated(Unauthenticated):
    """A header that counts came twice"""

    remedy = "Send the header once; a reverse proxy must overwrite it, not add to it."


class CertificateHeaderMalformed(Unauthenticated):
    """The certificate header can't be read"""

    remedy = "Let the reverse proxy write it: RFC 9440, nginx's $ssl_client_escaped_cert, Envoy's SANITIZE_SET."


class AuthorizationMalformed(Unauthenticated):
    """The Authorization header can't be read"""

    remedy = "Send `Authorization: DPoP <token>` and a DPoP header with the proof."


class HopUnauthenticated(Misconfigured):
    """A certificate header is expected from a hop that nothing authenticates"""

    remedy = "Name the hop: a Unix socket, or mutual TLS with its certificate."


class HopIncomplete(Misconfigured):
    """The reverse proxy does not say what is being asked"""

    remedy = (
        "Let it set X-Forwarded-Method, -Proto, -Host and -Uri (docs/proxies.md), and Attestd-Labels for a "
        "boundary with labels_from_hop."
    )


class CertificateSource(StrEnum):
    """Where the client's certificate comes from. There is no default: whoever installs the edge says it."""

    TLS = "tls"  # this server's own TLS layer
    RFC9440 = "client-cert"  # Client-Cert and Client-Cert-Chain, from the hop
    NGINX = "x-client-cert"  # X-Client-Cert with $ssl_client_escaped_cert, from the hop
    ENVOY = forwarded.NAME  # as Envoy writes it, from the hop

    @property
    def headers(self) -> frozenset[str]:
        """The headers that this source reads; any other certificate header beside them is a contradiction."""
        return {
            CertificateSource.TLS: frozenset[str](),
            CertificateSource.RFC9440: frozenset({"client-cert", "client-cert-chain"}),
            CertificateSource.NGINX: frozenset({"x-client-cert"}),
            CertificateSource.ENVOY: frozenset({forwarded.NAME}),
        }[self]


# Envoy's header is no contradiction where another proxy is the hop: meshes put it on requests that pass through them.
_CONTRADICTIONS = {source: CERTIFICATE_HEADERS - source.headers - {forwarded.NAME} for source in CertificateSource}


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of this connection: over a Unix socket, or with which TLS certificates (DER)."""

    unix: bool = False
    chain: tuple[bytes, ...] = ()


class Hop(Protocol):
    """Says whether a peer is the reverse proxy."""

    def is_peer(self, peer: Peer) -> bool:
        """True only for the hop itself."""


class UnixSocketHop:
    """The hop connects over a Unix socket, whose permissions let nobody else in."""

    def is_peer(self, peer: Peer) -> bool:
        """Whether this connection came over a Unix socket."""
        return peer.unix


class MutualTlsHop:
    """The hop connects with one of these TLS client certificates, named by thumbprint (x5t#S256, base64url)."""

    def __init__(self, thumbprints: Iterable[str]) -> None:
        self._thumbprints = frozenset(thumbprints)

    def is_peer(self, peer: Peer) -> bool:
        """Whether this connection's own certificate is a known hop's."""
        return bool(peer.chain) and b64encode(hashlib.sha256(peer.chain[0]).digest()) in self._thumbprints


class OnlyPeerHop:
    """The listener lets nobody else connect: it was opened by this process with that in mind (listen.py)."""

    def is_peer(self, peer: Peer) -> bool:
        """Always: who got here, the listener has authenticated."""
        return True


@dataclass(frozen=True, slots=True)
class Headers:
    """A request's headers by lower-case name, each value as it came."""

    values: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Self:
        found: dict[str, tuple[str, ...]] = {}
        for name, value in pairs:
            key = name.lower()
            before = found.get(key)
            found[key] = (value,) if before is None else (*before, value)
        return cls(found)

    def one(self, name: str) -> str | None:
        """The header's only value, None without it. Raises HeaderDuplicated."""
        values = self.values.get(name, ())
        if len(values) > 1:
            raise HeaderDuplicated(seen=f"{name}, {len(values)} times", expected="once")
        return values[0].strip() if values else None


def is_reserved(name: str) -> bool:
    """Whether only a hop or the edge itself may set this header. `_` counts as `-`: WSGI makes them one."""
    return _is_reserved_again(name) if len(name) <= _USUAL else _is_reserved(name)


def _is_reserved(name: str) -> bool:
    plain = name.lower().replace("_", "-")
    return plain in CERTIFICATE_HEADERS or plain.startswith(OUR_PREFIX)


_USUAL = 64  # characters of a header's name that is remembered
_is_reserved_again = lru_cache(maxsize=1024)(_is_reserved)


@dataclass(frozen=True, slots=True)
class Door:
    """How this edge takes certificates: from where, and from whom."""

    source: CertificateSource | None = None
    hop: Hop | None = None

    def __post_init__(self) -> None:
        if self.source not in (None, CertificateSource.TLS) and self.hop is None:
            raise HopUnauthenticated(seen=self.source, expected="a hop")

    def present(self, headers: Headers, peer: Peer) -> Presented:
        """What this request presents. Raises Unauthenticated for what can't be read or came twice."""
        scheme, token = _authorization(headers)
        return Presented(
            chain=self._chain(headers, peer),
            token=token,
            scheme=scheme,
            proof=headers.one("dpop") if token is not None else None,
        )

    def believes(self, peer: Peer) -> bool:
        """Whether this peer is the reverse proxy, whose headers count."""
        return self.hop is not None and self.hop.is_peer(peer)

    def _chain(self, headers: Headers, peer: Peer) -> tuple[bytes, ...]:
        if self.source is None:
            return ()
        if self.source is CertificateSource.TLS:
            return peer.chain
        if not self.believes(peer):
            return ()  # from anyone else, such headers are nothing
        for name in _CONTRADICTIONS[self.source]:
            if name in headers.values:
                raise HeaderDuplicated(
                    "The certificate came in two ways.", seen=name, expected=", ".join(sorted(self.source.headers))
                )
        if self.source is CertificateSource.NGINX:
            escaped = headers.one("x-client-cert")
            return (_from_escaped_pem(escaped),) if escaped else ()
        if self.source is CertificateSource.ENVOY:
            told = headers.one(forwarded.NAME)
            return (_from_forwarded(told),) if told else ()
        leaf, issuers = headers.one("client-cert"), headers.one("client-cert-chain")
        if not leaf:
            if issuers:
                raise CertificateHeaderMalformed("A Client-Cert-Chain came without a Client-Cert.")
            return ()
        chain = tuple(_from_binary_item(item) for item in issuers.split(",")) if issuers else ()
        return (_from_binary_item(leaf), *chain)


def _authorization(headers: Headers) -> tuple[Literal["dpop", "bearer"], str | None]:
    """The token and how it is presented. Other schemes are the application's own business."""
    value = headers.one("authorization")
    if value is None:
        return "dpop", None
    scheme, _, token = value.partition(" ")
    kind = scheme.lower()
    if kind not in ("dpop", "bearer"):
        return "dpop", None
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", token, re.ASCII):  # RFC 9110, 11.2: token68
        raise AuthorizationMalformed
    return ("dpop" if kind == "dpop" else "bearer"), token


_BINARY_ITEM = re.compile(r"[ \t]*:([A-Za-z0-9+/]*={0,2}):[ \t]*", re.ASCII)


def _from_binary_item(text: str) -> bytes:
    """A Byte Sequence without parameters (RFC 9440, section 2; RFC 8941, section 3.3.5)."""
    match = _BINARY_ITEM.fullmatch(text) if len(text) <= MAX_HEADER else None
    if match is None:
        raise CertificateHeaderMalformed(seen=repr(text[:40]), expected=":<base64>:")
    return _from_base64(match[1])


_PEM = re.compile(r"\s*-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----\s*", re.ASCII)


def _from_escaped_pem(text: str) -> bytes:
    """nginx's $ssl_client_escaped_cert: one certificate in PEM, percent-encoded."""
    return _from_escaped_again(text) if len(text) <= _SHORT else _from_escaped(text)


def _from_escaped(text: str) -> bytes:
    return _from_pem(unquote(text) if len(text) <= MAX_HEADER else "")


def _from_forwarded(text: str) -> bytes:
    """Envoy's X-Forwarded-Client-Cert: the certificate, if it is the one of the digest beside it."""
    found = forwarded.parse(text)
    certificate = _from_escaped_pem(found.certificate)
    if hashlib.sha256(certificate).hexdigest() != found.digest:
        raise CertificateHeaderMalformed("The certificate is not the one that the proxy's digest is of.")
    return certificate


def from_pem(text: str) -> bytes:
    """Exactly one certificate in PEM, as DER. Raises CertificateHeaderMalformed."""
    return _from_pem_again(text) if len(text) <= _SHORT else _from_pem(text)


def _from_pem(text: str) -> bytes:
    match = _PEM.fullmatch(text) if len(text) <= MAX_HEADER else None
    if match is None:
        raise CertificateHeaderMalformed(seen=repr(text[:40]), expected="one certificate in PEM")
    return _from_base64("".join(match[1].split()))


# The same text comes with each request of a connection, and stands for the same octets each time. What is kept takes at
# most 2 * 1024 * (8 + 6) kB = 28 MB, and a tenth of that with certificates of the usual size.
_SHORT = 8 * 1024  # characters
_from_pem_again = lru_cache(maxsize=1024)(_from_pem)
_from_escaped_again = lru_cache(maxsize=1024)(_from_escaped)


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CertificateHeaderMalformed("The certificate is not base64.", seen=repr(text[:40])) from None
