"""Names, parsed once: tiers, sites, devices, SPIFFE IDs, serial numbers, EK hashes.

A value of one of these types is well formed by construction; nothing downstream checks its spelling again.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from attestd.errors import MalformedInput


class MalformedName(MalformedInput):
    """A name is not well formed"""

    remedy = "Use lower-case letters, digits, '.', '_' and '-', starting with a letter or a digit."


class Tier(StrEnum):
    """Where a machine stands: in the field, at a site, or in the cloud."""

    DEVICE = "device"
    EDGE = "edge"
    CLOUD = "cloud"

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            return cls(text)
        except ValueError:
            raise MalformedName(
                "This is not a tier.",
                seen=_shown(text),
                expected="device, edge or cloud",
                remedy="Name one of the three tiers.",
            ) from None


_TIERS = {tier.value: tier for tier in Tier}

# One path segment of a SPIFFE ID (SPIFFE-ID specification, section 2.2: letters, digits, '.', '-', '_'; never '.' or
# '..'). Lower case only, so that two names never differ by case alone.
_SEGMENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
# A trust domain (SPIFFE-ID specification, section 2.1): lower-case letters, digits, '.', '-', '_', at most 255.
_TRUST_DOMAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,254}", re.ASCII)
_SPIFFE_ID = re.compile(rf"spiffe://({_TRUST_DOMAIN.pattern})/({_SEGMENT.pattern}(?:/{_SEGMENT.pattern})*)", re.ASCII)


def _shown(text: str) -> str:
    return repr(text[:80])


class _Segment(str):
    """One well-formed path segment; `kind` names it in errors."""

    __slots__ = ()
    kind = "name"

    def __new__(cls, text: str) -> Self:
        if not _SEGMENT.fullmatch(text):
            raise MalformedName(f"This is not a {cls.kind}.", seen=_shown(text), expected="1 to 64 of a-z 0-9 . _ -")
        return super().__new__(cls, text)


class Site(_Segment):
    """A physical place."""

    __slots__ = ()
    kind = "site"


class DeviceId(_Segment):
    """A device's lasting name: random, or given by the inventory. It survives re-keying and reinstallation."""

    __slots__ = ()
    kind = "device id"

    @classmethod
    def random(cls, entropy: bytes) -> Self:
        """From 16 random octets, as 26 base32 characters."""
        if len(entropy) != 16:
            raise ValueError("a random device id takes exactly 16 octets")
        return cls(base64.b32encode(entropy).decode().rstrip("=").lower())


class TrustDomain(str):
    """The name of one authority's world."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not _TRUST_DOMAIN.fullmatch(text):
            raise MalformedName("This is not a trust domain.", seen=_shown(text), expected="1 to 255 of a-z 0-9 . _ -")
        return super().__new__(cls, text)


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """`spiffe://<trust domain>/<segment>/…` (SPIFFE-ID specification, section 2). Made by its class methods only."""

    trust_domain: TrustDomain
    path: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        if len(text) > 2048 or not text.startswith("spiffe://"):
            raise MalformedName(
                "This is not a SPIFFE ID.", seen=_shown(text), expected="spiffe://<trust domain>/<path>"
            )
        if (match := _SPIFFE_ID.fullmatch(text)) is not None:  # most: the two patterns below, in one
            return cls(str.__new__(TrustDomain, match[1]), tuple(match[2].split("/")))
        domain, *segments = text.removeprefix("spiffe://").split("/")
        if not segments:
            raise MalformedName(
                "This SPIFFE ID has no path.", seen=_shown(text), expected="spiffe://<trust domain>/<path>"
            )
        return cls(TrustDomain(domain), tuple(str(_Segment(segment)) for segment in segments))

    @classmethod
    def of_device(cls, trust_domain: TrustDomain, tier: Tier, site: Site, device: DeviceId) -> Self:
        return cls(trust_domain, (tier.value, str(site), str(device)))

    @classmethod
    def of_proxy(cls, trust_domain: TrustDomain, site: Site, name: str) -> Self:
        """An edge proxy's own identity: it fetches bundles and, not being of a tier, crosses no boundary."""
        return cls(trust_domain, ("proxy", str(site), str(_Segment(name))))

    @classmethod
    def of_operator(cls, trust_domain: TrustDomain, name: str) -> Self:
        return cls(trust_domain, ("admin", str(_Segment(name))))

    @classmethod
    def of_service(cls, trust_domain: TrustDomain) -> Self:
        return cls(trust_domain, ("service", "attestd"))

    def __str__(self) -> str:
        return "/".join((f"spiffe://{self.trust_domain}", *self.path))

    @property
    def device(self) -> tuple[Tier, Site, DeviceId]:
        """The tier, home site and id of a device's identity.

        Raises MalformedName for identities of another shape (operators, proxies, the service itself).
        """
        if len(self.path) != 3 or self.path[0] not in _TIERS:
            raise MalformedName(
                "This identity is not a device's.", seen=_shown(str(self)), expected="/<tier>/<site>/<device id>"
            )
        tier, site, device = self.path  # whose segments are well formed
        return _TIERS[tier], str.__new__(Site, site), str.__new__(DeviceId, device)


@dataclass(frozen=True, slots=True, order=True)
class Serial:
    """A certificate's serial number: 159 random bits, so positive and at most 20 octets (RFC 5280, 4.1.2.2)."""

    number: int

    def __post_init__(self) -> None:
        if not 0 < self.number < 1 << 159:
            raise MalformedName(
                "This is not a serial number.",
                seen=hex(self.number)[:60],
                expected="1 to 2^159 - 1",
                remedy="Copy it from `attestd credentials list`.",
            )

    @classmethod
    def random(cls, entropy: bytes) -> Self:
        """From 20 random octets; the top bit is dropped."""
        if len(entropy) != 20:
            raise ValueError("a serial number takes exactly 20 octets")
        return cls((int.from_bytes(entropy, "big") >> 1) or 1)

    @classmethod
    def parse(cls, text: str) -> Self:
        if not re.fullmatch(r"[0-9a-f]{1,40}", text, re.ASCII):
            raise MalformedName(
                "This is not a serial number.", seen=_shown(text), expected="up to 40 hexadecimal digits"
            )
        return cls(int(text, 16))

    def __str__(self) -> str:
        return f"{self.number:040x}"


class EkHash(bytes):
    """SHA-256 of an EK public area (TPMT_PUBLIC): a lifelong tracker, so it stays out of tokens, bundles and logs."""

    __slots__ = ()

    def __new__(cls, digest: bytes) -> Self:
        if len(digest) != 32:
            raise MalformedName("This is not an EK hash.", seen=f"{len(digest)} octets", expected="32 octets")
        return super().__new__(cls, digest)

    @classmethod
    def of(cls, public_area: bytes) -> Self:
        return cls(hashlib.sha256(public_area).digest())

    @classmethod
    def parse(cls, text: str) -> Self:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", text, re.ASCII):
            raise MalformedName(
                "This is not an EK hash.",
                seen=_shown(text),
                expected="64 hexadecimal digits: SHA-256 of the EK public area",
                remedy="`attestd-agent evidence` prints it on the device.",
            )
        return cls(bytes.fromhex(text))
