"""An edge that hears from a `World`, with the real parts of an edge around its real store.

edge = SiteEdge(world, folder)
edge.refresher.tick()
edge.ask(chain=edge.certificate_of(device))            # "allowed", or the problem's name
"""

from __future__ import annotations

from datetime import timedelta
from types import MappingProxyType

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.dpop import EdgeNonces, ReplayCache
from attestd.credentials.requests import SoftwareKey
from attestd.ids import Site, Tier
from attestd.policy import Boundary
from attestd_edge.clock import EdgeClock
from attestd_edge.decide import Presented, Request, TokenRules
from attestd_edge.edge import Admitted, Asked, Edge
from attestd_edge.identity import ProxyIdentity, read_certificates
from attestd_edge.refresh import Refresher
from attestd_edge.service import Service
from attestd_edge.settings import Guarded
from attestd_edge.store import BundleStore
from tests.service import SITE, START, TRUST_DOMAIN, URL, World

ORIGIN = "https://api.shop.example"


class SiteEdge:
    """An edge at SITE that hears from `world` whenever it ticks."""

    def __init__(self, world: World, folder) -> None:
        self.world = world
        root = world.hierarchy.root.public_bytes(serialization.Encoding.DER)
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        chain = world.service.certifying.add_proxy("edge-1", Site(SITE), public.decode(), world.act)
        self.certificate = folder / "proxy.pem"
        self.certificate.write_text(chain)
        self.key = SoftwareKey(key)
        self.down = False
        clock = EdgeClock(world.clock, lambda: (world.clock() - START) / timedelta(seconds=1), START)
        self.store = BundleStore(folder, roots=[root], trust_domain=TRUST_DOMAIN, clock=clock)
        self.refresher = Refresher(
            self.store,
            Service(URL, roots=[root], transport=self),
            load_identity=lambda: ProxyIdentity.of(
                self.key, read_certificates(self.certificate.read_bytes(), where="proxy.pem")
            ),
            certificate_file=self.certificate,
            trust_domain=TRUST_DOMAIN,
            chance=lambda: 0.5,
        )
        boundary = Boundary("field", Tier.DEVICE, Site(SITE), Tier.EDGE, Site(SITE))
        self.nonces = EdgeNonces(b"n" * 32)
        rules = TokenRules("edge", frozenset({ORIGIN}), self.nonces, ReplayCache())
        self.edge = Edge(self.store, tokens=rules, boundaries={"field": Guarded(boundary, MappingProxyType({}))})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("the uplink is down")
        return httpx.WSGITransport(self.world.app).handle_request(request)

    def close(self) -> None:
        """Nothing to close."""

    def ask(self, boundary: str = "field", **presented) -> str:
        """ "allowed", or the problem's name."""
        request = Request("GET", ORIGIN, "/orders")
        asked = Asked(Presented(**presented), request)
        answer = self.edge.admit(self.edge.boundary(boundary), lambda: asked)
        return "allowed" if isinstance(answer, Admitted) else answer.slug

    def certificate_of(self, device) -> tuple[bytes, ...]:
        return read_certificates(device.answer.chain.encode(), where="the device's chain")
