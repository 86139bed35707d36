"""An edge that hears from a `World` and whose boundary demands receipts.

site = ReceiptSite(world, folder)
site.device = world.enrolled()
site.refresher.tick()
site.cross(3)                   # three crossings, each with its receipt on the disk
site.deliver()                  # to the world's service
"""

from __future__ import annotations

import os
from datetime import timedelta
from types import MappingProxyType

from cryptography.hazmat.primitives.serialization import Encoding

from attestd_edge.edge import Edge
from attestd_edge.identity import ProxyIdentity, read_certificates
from attestd_edge.receipts import delivery as delivery_module
from attestd_edge.receipts.delivery import INTERVAL, Delivery
from attestd_edge.receipts.folders import ChainFolder
from attestd_edge.receipts.keeper import Keeper
from attestd_edge.service import Service
from attestd_edge.settings import Guarded, Receipted
from tests.service import START, URL, World
from tests.world_edge import SiteEdge


class ReceiptSite(SiteEdge):
    """An edge whose boundary demands receipts. Its delivery does a round when it is told to."""

    def __init__(self, world: World, folder) -> None:
        super().__init__(world, folder)
        self.folder = folder
        self.octets = 64 << 20
        guarded = self.edge.boundaries["field"]
        self.boundaries = {"field": Guarded(guarded.boundary, MappingProxyType({}), receipts=Receipted.ALL)}
        self.open()

    def open(self) -> None:
        """As a process that starts."""
        self.edge = Edge(
            self.store, tokens=self.edge._tokens, boundaries=self.boundaries, make_delivery=self.make_delivery
        )

    def identity(self) -> ProxyIdentity:
        return ProxyIdentity.of(self.key, read_certificates(self.certificate.read_bytes(), where="proxy.pem"))

    def make_delivery(self, tallies) -> Delivery:
        def counted() -> float:
            return (self.world.clock() - START) / timedelta(seconds=1)

        keeper = Keeper(
            self.folder, load_identity=self.identity, identity_files=(self.certificate,), clock=self.store.clock,
            octets=self.octets, entropy=os.urandom, tallies=tallies, monotonic=counted,
        )  # fmt: skip
        root = self.world.hierarchy.root.public_bytes(Encoding.DER)
        made = Delivery(
            keeper, self.store, Service(URL, roots=[root], transport=self), load_identity=self.identity,
            tallies=tallies, monotonic=counted,
        )  # fmt: skip
        made.start = lambda: None  # type: ignore[method-assign]
        return made

    def cross(self, count: int = 1) -> None:
        device = self.device
        for _ in range(count):
            assert self.ask(chain=self.certificate_of(device)) == "allowed"

    def deliver(self) -> None:
        """The next round that is due, whatever happened in the last one."""
        self.world.clock.advance(seconds=delivery_module.MAX_BACKOFF + INTERVAL)
        self.refresher.tick()
        assert self.edge._delivery is not None
        self.edge._delivery.tick()

    @property
    def waiting(self) -> int:
        return self.edge.status()["receipts_waiting"]

    def chains(self) -> list[ChainFolder]:
        return ChainFolder.all_in(self.folder)
