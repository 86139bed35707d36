"""An edge's keeper of receipts in a folder, with the tests' own authority, and what lies on its disk."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prometheus_client import CollectorRegistry

from attestd.credentials.receipts import Beginning, Crossed, Receipt, Where, read_unverified
from attestd.credentials.requests import SoftwareKey
from attestd.credentials.x509 import Authorities
from attestd.ids import Site, SpiffeId, Tier
from attestd_edge.clock import EdgeClock
from attestd_edge.identity import ProxyIdentity
from attestd_edge.receipts.folders import ChainFolder
from attestd_edge.receipts.keeper import Keeper
from attestd_edge.receipts.tallies import Tallies
from tests import authority as a

EDGE = "spiffe://example.org/proxy/munich/edge-1"
EDGE_KEY = a.p256(50)
WHERE = Where("field-to-munich", Tier.DEVICE, Site("munich"), Tier.EDGE, Site("munich"))
AUTHORITIES = Authorities.load([a.ROOT.der], [a.ISSUER.der], trust_domain=a.TRUST_DOMAIN)


def crossed(number: int = 1, **lies: Any) -> Crossed:
    """A crossing that was allowed."""
    honest: dict[str, Any] = {
        "where": WHERE,
        "allowed": True,
        "request_id": f"request-{number}",
        "who": SpiffeId.parse(a.BIKE),
        "credential": "17af",
        "method": "POST",
        "path": f"/orders/{number}",
        "labels": MappingProxyType({"class": "telemetry"}),
        "policies": ("cross-at-home",),
        "policy_version": 3,
        "bundle": (1, 5),
    }
    return Crossed(**{**honest, **lies})


def refused(number: int = 1, **lies: Any) -> Crossed:
    """A stranger who was refused."""
    return Crossed(
        **{"where": WHERE, "allowed": False, "request_id": f"no-{number}", "problem": "no-credential"} | lies
    )


def identity(*, key: Any = EDGE_KEY, uri: str = EDGE, **lies: Any) -> ProxyIdentity:
    leaf = a.leaf(key=key, uris=(uri,), facts=None, **lies)
    return ProxyIdentity.of(SoftwareKey(key), (leaf, a.ISSUER.der))


class Times:
    """A clock that is set, and a monotonic one."""

    def __init__(self) -> None:
        self.wall = a.NOW
        self.counted = 0.0

    def pass_(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.counted += seconds

    def clock(self, floor: datetime = a.NOW - a.DAY) -> EdgeClock:
        return EdgeClock(lambda: self.wall, lambda: self.counted, floor)


class EdgeDisk:
    """A state folder, and keepers on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.times = Times()
        self.who = identity()
        self.registry = CollectorRegistry()
        self.tallies = Tallies(self.registry)
        self.names = iter(f"{number:032x}" for number in range(1, 1000))
        self.files = (folder / "proxy.pem",)
        self.files[0].write_bytes(b"")

    def keeper(self, *, octets: int = 64 << 20, clock: EdgeClock | None = None) -> Keeper:
        return Keeper(
            self.folder,
            load_identity=lambda: self.who,
            identity_files=self.files,
            clock=clock or self.times.clock(),
            octets=octets,
            entropy=lambda size: bytes.fromhex(next(self.names)),
            tallies=self.tallies,
            monotonic=lambda: self.times.counted,
        )

    def chains(self) -> list[ChainFolder]:
        return ChainFolder.all_in(self.folder)

    def lines(self, chain: ChainFolder | None = None) -> list[str]:
        return list((chain or self.chains()[0]).lines(0))

    def receipts(self, chain: ChainFolder | None = None) -> list[Receipt]:
        return [read_unverified(line) for line in self.lines(chain)]

    def why(self, chain: ChainFolder) -> str:
        said = self.receipts(chain)[0].said
        assert isinstance(said, Beginning)
        return said.why

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"attestd_edge_receipts_{name}", labels) or 0.0
