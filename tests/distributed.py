"""Edges that hear of bundles from a real nats-server, to which a real service publishes: the shipped cloud.conf.

with distributed(folder, 3) as (fleet, broker):
    broker.process.send_signal(signal.SIGSTOP)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from attestd.broker.links import Broker
from attestd.ids import TrustDomain
from attestd_edge.nats.feed import Feed
from attestd_edge.nats.keys import make, make_distribution
from tests import authority as a
from tests.edge_site import pem, private_pem
from tests.listening import DOMAIN, Fleet, connected, home
from tests.nats_site import NatsServer, free_port


class BundleServer(NatsServer):
    """nats-server with the shipped cloud.conf, beside an instance."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        make(folder, entropy=os.urandom)
        make_distribution(folder, entropy=os.urandom)
        now = datetime.now(UTC)
        times: dict[str, Any] = {"not_before": now - timedelta(hours=1), "not_after": now + timedelta(days=1)}
        ca = a.ca("servers", key=a.p256(70), **times)
        leaf = a.leaf(
            issuer=ca, key=a.p256(71), uris=(), facts=None, names=[x509.DNSName("localhost")],
            purposes=(x509.oid.ExtendedKeyUsageOID.SERVER_AUTH,), **times,
        )  # fmt: skip
        (folder / "ca.pem").write_bytes(pem(ca.der))
        (folder / "server.pem").write_bytes(pem(leaf))
        (folder / "server.key").write_bytes(private_pem(a.p256(71)))
        port, leaves = free_port(), free_port()
        changes = {'"0.0.0.0:4222"': f'"127.0.0.1:{port}"', '"0.0.0.0:7422"': f'"127.0.0.1:{leaves}"'}
        super().__init__(folder, "cloud.conf", changes, port)

    @property
    def address(self) -> str:
        return f"tls://localhost:{self.port}"

    def broker(self, user: str, place: Path) -> Broker:
        """As `user`, who shows the certificate of the proxy whose folder this is."""
        shown = place / "proxy.pem", place / "proxy.key.pem"
        return Broker(self.address, self.folder / "ca.pem", self.folder / f"{user}.seed", *shown)

    def feed(self, place: Path) -> Feed:
        return Feed(self.broker("listen", place), TrustDomain(DOMAIN))


@contextmanager
def distributed(folder: Path, count: int, **settings: str) -> Iterator[tuple[Fleet, BundleServer]]:
    """Everything made, and edges that hear; it ends with the block. The service shows the first proxy's certificate."""
    server = BundleServer(folder / "nats")

    def prepare(place: Path) -> None:
        shutil.copy(place / "ca" / "root.pem", server.folder / "root.pem")
        server.start()

    settings |= {
        "distribution_nats": server.address,
        "distribution_ca": str(server.folder / "ca.pem"),
        "distribution_credentials": str(server.folder / "publish.seed"),
        "distribution_certificate": str(folder / "edge-0" / "proxy.pem"),
        "distribution_key": str(folder / "edge-0" / "proxy.key.pem"),
    }
    try:
        with home(folder, count, prepare=prepare, **settings) as made, connected(made.folders, server.feed) as edges:
            yield Fleet(made, edges), server
    finally:
        server.stop()
