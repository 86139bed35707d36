"""Where requests come from, and how much each source may ask for.

A source is what one party can be expected to hold of the address space: an IPv4 address or an IPv6 /64. Behind a
configured proxy it is the address that the proxy names in the one configured header; anybody else's word for it
counts for nothing. Each source has a token bucket in a table of fixed size, so that whoever holds a whole IPv6 /32
fills the table and nothing else: sources that find no place in it share one bucket.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Headers = Iterable[tuple[bytes, bytes]]

MAX_SOURCES: Final = 16_384  # a bucket takes about 250 octets
_LOOKED_AT: Final = 2  # old buckets looked at for each new source that finds the table full
_OVERFLOW: Final = 10  # the shared bucket is so many times as large as one source's
_MAX_FORWARDED: Final = 2048  # octets


@lru_cache(maxsize=4096)
def source_of(address: str) -> str:
    """What one party can be expected to hold of the address space; a text that is no address stands for itself."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    if parsed.is_loopback:
        return address
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


def within(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address lies in one of these networks; a text that is no address does not."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)


@dataclass(frozen=True)
class Proxies:
    """Whose word about a request's address counts: `trusted` networks, in one `header` and no other.

    One header, because a proxy that sets X-Forwarded-For hands a client's own Forwarded header through.
    """

    trusted: tuple[Network, ...] = ()
    header: bytes = b"x-forwarded-for"  # or b"forwarded" (RFC 7239)

    def client(self, peer: str, headers: Headers) -> str:
        """The client's address: the peer's own, unless the peer is a trusted proxy.

        Proxies append, so the list is read from its end: the first address that is no trusted proxy's is the client's.
        What can't be read is the proxy's own: its clients then share a bucket.
        """
        if not self.trusted or not within(peer, self.trusted):
            return peer
        found = peer
        for named in reversed(self._named(headers)):
            try:
                found = str(ipaddress.ip_address(named))
            except ValueError:
                return found
            if not within(found, self.trusted):
                return found
        return found

    def _named(self, headers: Headers) -> list[str]:
        text = b",".join(value for name, value in headers if name == self.header)[-_MAX_FORWARDED:].decode("latin-1")
        if self.header == b"x-forwarded-for":
            return [_bare(entry) for entry in text.split(",") if entry.strip()]
        pairs = (part.partition("=") for entry in text.split(",") for part in entry.split(";"))
        return [_bare(value) for name, _, value in pairs if name.strip().lower() == "for"]


def _bare(node: str) -> str:
    """`192.0.2.1`, `192.0.2.1:80`, `"[2001:db8::1]:80"` or `2001:db8::1` without the quotes and the port."""
    node = node.strip().strip('"')
    if node.startswith("["):
        return node[1:].partition("]")[0]
    return node.partition(":")[0] if node.count(":") == 1 else node


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass
class Buckets:
    """A token bucket a source: `rate` tokens a second, `burst` at most. `now` is seconds of any steady clock."""

    rate: float
    burst: float
    most: int = MAX_SOURCES
    _held: dict[str, _Bucket] = field(default_factory=dict)
    _shared: _Bucket = field(init=False)

    def __post_init__(self) -> None:
        self._shared = _Bucket(self.burst * _OVERFLOW, 0.0)

    def __len__(self) -> int:
        return len(self._held)

    def take(self, source: str, now: float) -> float:
        """Takes a token. 0.0 if there was one, else the seconds until there will be; then nothing is taken."""
        bucket, rate, burst = self._find(source, now)
        tokens = min(burst, bucket.tokens + (now - bucket.at) * rate)
        bucket.at = now
        if tokens < 1:
            bucket.tokens = tokens
            return (1 - tokens) / rate
        bucket.tokens = tokens - 1
        return 0.0

    def has(self, source: str, now: float) -> bool:
        """Whether there is a token to take."""
        bucket = self._held.get(source)
        return bucket is None or bucket.tokens + (now - bucket.at) * self.rate >= 1

    def _find(self, source: str, now: float) -> tuple[_Bucket, float, float]:
        bucket = self._held.get(source)
        if bucket is None:
            if len(self._held) >= self.most and not self._make_room(now):
                return self._shared, self.rate * _OVERFLOW, self.burst * _OVERFLOW
            bucket = self._held[source] = _Bucket(self.burst, now)
        return bucket, self.rate, self.burst

    def _make_room(self, now: float) -> bool:
        """Forgets old buckets that are full again, which is as good as none; looks at a few and no more."""
        for source in [source for source, _ in zip(self._held, range(_LOOKED_AT), strict=False)]:
            bucket = self._held.pop(source)
            if bucket.tokens + (now - bucket.at) * self.rate < self.burst:
                self._held[source] = bucket  # at the end now, so that the next look is at others
        return len(self._held) < self.most
