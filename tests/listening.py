"""Edges that listen to a running service: real ones, each with a key, a folder and a thread, in this process.

with listening(folder, 200) as fleet:              # an instance made in `folder`, `attestd serve`, a device, 200 edges
    fleet.quarantine()
    fleet.edges[0].asked()                         # "allowed", or the problem's name
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.cli.api import AdminApi
from attestd.cli.instance import open_instance
from attestd.credentials.requests import SoftwareKey
from attestd.ids import Site, Tier, TrustDomain
from attestd.operations import Act
from attestd.policy import Boundary
from attestd_edge.clock import EdgeClock
from attestd_edge.decide import Presented, Request
from attestd_edge.edge import Asked, Edge
from attestd_edge.identity import ProxyIdentity, read_certificates
from attestd_edge.problems import Refusal
from attestd_edge.refresh import Feed, Refresher
from attestd_edge.service import Service
from attestd_edge.store import BundleStore
from tests.load.running import Running, attestd, enroll, serving
from tests.soft_device import URL, SoftDevice

SITE = Site("berlin")
BOUNDARY = Boundary("field", Tier.DEVICE, SITE, Tier.EDGE, SITE)
DOMAIN = "example.org"


class Listening:
    """One edge. `taken` is when it took up its newest bundle (`time.perf_counter`)."""

    def __init__(
        self, folder: Path, service: Running, key: SoftwareKey, presented: Presented, feed: Feed | None = None
    ) -> None:
        root = x509.load_pem_x509_certificate((service.folder / "ca" / "root.pem").read_bytes())
        roots = [root.public_bytes(serialization.Encoding.DER)]
        clock = EdgeClock(lambda: datetime.now(UTC), time.monotonic, datetime.fromtimestamp(0, UTC))
        domain = TrustDomain(DOMAIN)
        self.store = BundleStore(folder, roots=roots, trust_domain=domain, clock=clock)
        self.taken = 0.0
        adopt = self.store._adopt

        def stamped(*said: object) -> bool:
            new = adopt(*said)  # type: ignore[arg-type]
            self.taken = time.perf_counter()
            return new

        self.store._adopt = stamped  # type: ignore[method-assign]
        certificate = folder / "proxy.pem"
        self.refresher = Refresher(
            self.store,
            Service(f"https://127.0.0.1:{service.port}", roots=roots),
            load_identity=lambda: ProxyIdentity.of(key, read_certificates(certificate.read_bytes(), where="proxy.pem")),
            certificate_file=certificate,
            trust_domain=domain,
            chance=random.random,
            feed=feed,
        )
        self.edge = Edge(self.store, tokens=None)
        self._presented = presented

    def asked(self) -> str:
        """Whether the device may cross here now: "allowed", or the problem's name."""
        answer = self.edge.admit(BOUNDARY, lambda: Asked(self._presented, Request("GET", "https://here", "/")))
        return answer.slug if isinstance(answer, Refusal) else "allowed"


@dataclass
class Fleet:
    """A service, a device that may cross, and the edges."""

    service: Running
    device: SoftDevice
    edges: Sequence[Listening]
    api: AdminApi

    def quarantine(self) -> None:
        self.api.post(f"/devices/{self.device.id}/quarantine", {"v": 1})

    def release(self) -> None:
        self.api.post(f"/devices/{self.device.id}/release", {"v": 1})

    def until(self, says: str, *, within: float = 30.0) -> None:
        """Waits until every edge says this of the device."""
        deadline = time.monotonic() + within
        for edge in self.edges:
            while (said := edge.asked()) != says:
                assert time.monotonic() < deadline, f"an edge says {said}, {edge.refresher.connection}"
                time.sleep(0.01)


@contextmanager
def listening(
    folder: Path,
    count: int,
    *,
    prepare: Callable[[Path], object] = lambda home: None,
    feed: Callable[[Path], Feed | None] = lambda place: None,
    **settings: str,
) -> Iterator[Fleet]:
    """Everything made and connected; it ends with the block. `prepare` sees the instance's folder before the service
    starts; `feed` gives the edge of a folder, which has its key and chain, another source of bundles."""
    home = folder / "instance"
    attestd(home, "init", "--trust-domain", DOMAIN)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(count)]
    folders = [folder / f"edge-{number}" for number in range(count)]
    instance = open_instance(home, {**os.environ, "ATTESTD_SERVER_PUBLIC_URL": URL})
    for number, (key, place) in enumerate(zip(keys, folders, strict=True)):
        act = Act(actor="operator:test", now=datetime.now(UTC), request_id=f"{number:08x}", reason="")
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        place.mkdir()
        chain = instance.service.operations.add_proxy(f"edge-{number}", SITE, public.decode(), act)
        (place / "proxy.pem").write_text(chain)
        (place / "proxy.key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    instance.service.registry.close()
    prepare(home)
    with serving(home, **settings) as service:
        device = enroll(service, ["127.0.0.1"])[0]
        assert device.answer is not None
        chain = x509.load_pem_x509_certificates(device.answer.chain.encode())
        presented = Presented(tuple(one.public_bytes(serialization.Encoding.DER) for one in chain))
        edges = [
            Listening(place, service, SoftwareKey(key), presented, feed(place))
            for key, place in zip(keys, folders, strict=True)
        ]
        for edge in edges:
            edge.refresher.start()
        fleet = Fleet(service, device, edges, AdminApi.connect(home))
        try:
            deadline = time.monotonic() + 120
            while not all(edge.refresher.connection == "listening" for edge in edges):
                assert time.monotonic() < deadline, {edge.refresher.connection for edge in edges}
                time.sleep(0.05)
            yield fleet
        finally:
            for edge in edges:
                edge.refresher._stop.set()
            for edge in edges:
                edge.refresher.stop()
