"""Edges that listen to a running service: real ones, each with a key, a folder and a thread, in this process.

with listening(folder, 200) as fleet:              # an instance made in `folder`, `attestd serve`, a device, 200 edges
    fleet.home.quarantine()
    fleet.edges[0].asked()                         # "allowed", or the problem's name
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.cli.api import AdminApi
from attestd.cli.instance import open_instance
from attestd.credentials.copies import Copy
from attestd.ids import Site, Tier, TrustDomain
from attestd.operations import Act
from attestd.policy import Boundary
from attestd_edge.clock import EdgeClock
from attestd_edge.decide import Presented, Request
from attestd_edge.edge import Asked, Edge
from attestd_edge.history import Prove
from attestd_edge.identity import ProxyIdentity, read_certificates
from attestd_edge.problems import Refusal
from attestd_edge.refresh import Feed, Refresher
from attestd_edge.service import Service
from attestd_edge.store import BundleStore
from tests.edge_site import private_pem
from tests.load.running import Running, attestd, enroll, serving
from tests.soft_device import URL, SoftDevice

SITE = Site("berlin")
BOUNDARY = Boundary("field", Tier.DEVICE, SITE, Tier.EDGE, SITE)
DOMAIN = "example.org"


class Listening:
    """One edge, from its folder. `taken` is when it took up its newest bundle (`time.perf_counter`)."""

    def __init__(self, folder: Path, feed: Feed | None = None) -> None:
        said = json.loads((folder.parent / "fleet.json").read_text())
        roots = read_certificates((folder.parent / "root.pem").read_bytes(), where="root.pem")
        device = read_certificates((folder.parent / "device.pem").read_bytes(), where="device.pem")
        domain = TrustDomain(DOMAIN)
        clock = EdgeClock(lambda: datetime.now(UTC), time.monotonic, datetime.fromtimestamp(0, UTC))
        self.store = BundleStore(folder, roots=roots, trust_domain=domain, clock=clock)
        self.taken = 0.0
        adopt = self.store._adopt

        def stamped(copy: Copy, prove: Prove | None) -> bool:
            new = adopt(copy, prove)
            self.taken = time.perf_counter()
            return new

        self.store._adopt = stamped  # type: ignore[method-assign]
        self.refresher = Refresher(
            self.store,
            Service(said["url"], roots=roots),
            load_identity=lambda: ProxyIdentity.load(folder / "proxy.key.pem", folder / "proxy.pem"),
            certificate_file=folder / "proxy.pem",
            trust_domain=domain,
            chance=random.random,
            feed=feed,
        )
        self.edge = Edge(self.store, tokens=None)
        self._presented = Presented(tuple(device))

    def asked(self) -> str:
        """Whether the device may cross here now: "allowed", or the problem's name."""
        answer = self.edge.admit(BOUNDARY, lambda: Asked(self._presented, Request("GET", "https://here", "/")))
        return answer.slug if isinstance(answer, Refusal) else "allowed"


@contextmanager
def connected(
    folders: Sequence[Path], feed: Callable[[Path], Feed | None] = lambda folder: None
) -> Iterator[list[Listening]]:
    """The edges of these folders, started, all of which hear from the service, or from what `feed` gives them; they end
    with the block."""
    edges = [Listening(folder, feed(folder)) for folder in folders]
    for edge in edges:
        edge.refresher.start()
    try:
        deadline = time.monotonic() + 120
        while not all(edge.refresher.connection == "listening" for edge in edges):
            assert time.monotonic() < deadline, {edge.refresher.connection for edge in edges}
            time.sleep(0.05)
        yield edges
    finally:
        for edge in edges:
            edge.refresher._stop.set()
        for edge in edges:
            edge.refresher.stop()


@dataclass
class Home:
    """A service, a device that may cross, and a folder for each edge."""

    service: Running
    device: SoftDevice
    folders: Sequence[Path]
    api: AdminApi

    def quarantine(self) -> None:
        self.api.post(f"/devices/{self.device.id}/quarantine", {"v": 1})

    def release(self) -> None:
        self.api.post(f"/devices/{self.device.id}/release", {"v": 1})


@contextmanager
def home(
    folder: Path, count: int, *, prepare: Callable[[Path], object] = lambda place: None, **settings: str
) -> Iterator[Home]:
    """An instance in `folder` that serves, with a device and so many edges' keys and certificates. `prepare` sees the
    instance's folder before it serves."""
    place = folder / "instance"
    attestd(place, "init", "--trust-domain", DOMAIN)
    instance = open_instance(place, {**os.environ, "ATTESTD_SERVER_PUBLIC_URL": URL})
    folders = [folder / f"edge-{number}" for number in range(count)]
    for number, edge in enumerate(folders):
        edge.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        (edge / "proxy.key.pem").write_bytes(private_pem(key))
        (edge / "proxy.key.pem").chmod(0o600)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        act = Act(actor="operator:test", now=datetime.now(UTC), request_id=f"{number:08x}", reason="")
        chain = instance.service.certifying.add_proxy(edge.name, SITE, public.decode(), act)
        (edge / "proxy.pem").write_text(chain)
    instance.service.registry.close()
    prepare(place)
    with serving(place, **settings) as service:
        device = enroll(service, ["127.0.0.1"])[0]
        assert device.answer is not None
        (folder / "device.pem").write_text(device.answer.chain)
        (folder / "root.pem").write_bytes((place / "ca" / "root.pem").read_bytes())
        (folder / "fleet.json").write_text(json.dumps({"url": f"https://127.0.0.1:{service.port}"}))
        yield Home(service, device, folders, AdminApi.connect(place))


@dataclass
class Fleet:
    """A home and its edges, in this process."""

    home: Home
    edges: Sequence[Listening]

    @property
    def service(self) -> Running:
        return self.home.service

    def until(self, says: str, *, within: float = 30.0) -> None:
        """Waits until every edge says this of the device."""
        deadline = time.monotonic() + within
        for edge in self.edges:
            while (said := edge.asked()) != says:
                assert time.monotonic() < deadline, f"an edge says {said}, {edge.refresher.connection}"
                time.sleep(0.01)


@contextmanager
def listening(folder: Path, count: int, **settings: str) -> Iterator[Fleet]:
    """Everything made and connected; it ends with the block."""
    with home(folder, count, **settings) as made, connected(made.folders) as edges:
        yield Fleet(made, edges)
