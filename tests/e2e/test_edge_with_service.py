"""The edge and the real service, over its real doors: what the one publishes, the other decides by."""

from __future__ import annotations

import json
from datetime import timedelta
from types import MappingProxyType

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.dpop import EdgeNonces, ReplayCache, make_dpop
from attestd.credentials.jwk import public_jwk
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
        chain = world.service.operations.add_proxy("edge-1", Site(SITE), public.decode(), world.act)
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
            roots=(root,),
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


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "service")
    yield world
    world.close()


@pytest.fixture
def site(world, tmp_path):
    (tmp_path / "edge").mkdir()
    site = SiteEdge(world, tmp_path / "edge")
    site.refresher.tick()
    assert site.refresher.connection == "connected"
    return site


def test_an_enrolled_device_crosses_and_a_quarantined_one_does_not(world, site):
    device = world.enrolled()
    assert site.ask(chain=site.certificate_of(device)) in ("allowed", "status-unknown")  # this bundle is older
    site.refresher.tick()
    assert site.ask(chain=site.certificate_of(device)) == "allowed"
    assert world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1, "reason": "t"}).status_code == 200
    site.refresher.tick()
    assert site.ask(chain=site.certificate_of(device)) == "device-suspended"


def test_a_retired_device_does_not(world, site):
    device = world.enrolled()
    assert world.admin.post(f"/v1/admin/devices/{device.id}/retire", {"v": 1, "reason": "sold"}).status_code == 200
    site.refresher.tick()
    assert site.ask(chain=site.certificate_of(device)) in ("device-revoked", "credential-revoked")


def test_a_device_of_another_site_does_not(world, site):
    device = world.enrolled(site="shop-2")
    site.refresher.tick()
    assert site.ask(chain=site.certificate_of(device)) == "crossing-denied"


def test_a_token_of_the_service_with_a_proof(world, site):
    device = world.enrolled()
    site.refresher.tick()
    token = json.loads(device.token().data)["token"]
    key = device.tpm.ck.private.public_key()

    def proof() -> str:
        return make_dpop(
            sign=device.sign, jwk=public_jwk(key), method="GET", uri=f"{ORIGIN}/orders", token=token,
            nonce=site.nonces.issue(world.clock()), now=world.clock(), entropy=lambda size: b"j" * size,
        )  # fmt: skip

    assert site.ask(token=token) == "proof-missing"
    assert site.ask(token=token, proof=proof()) == "allowed"
    assert site.ask(token=token, proof=proof()) == "proof-replayed"


def test_cut_off_it_decides_until_the_bundle_is_stale(world, site):
    device = world.enrolled()
    site.refresher.tick()
    chain = site.certificate_of(device)
    site.down = True
    limit = site.store.view().bundle.stale_after
    world.clock.advance(seconds=min(limit, 600) - 1)
    site.refresher.tick()
    assert site.ask(chain=chain) == "allowed"
    world.clock.advance(seconds=limit)
    site.refresher.tick()
    assert site.ask(chain=chain) == "bundle-stale"
    site.down = False
    site.refresher.tick()
    assert site.ask(chain=chain) != "bundle-stale"


def test_an_unchanged_bundle_is_not_sent_twice(world, site):
    first = site.store.view()
    site.refresher.tick()
    assert site.store.view() is first


def test_the_proxy_renews_its_own_certificate(world, site):
    before = x509.load_pem_x509_certificate(site.certificate.read_bytes())
    life = before.not_valid_after_utc - before.not_valid_before_utc
    world.clock.advance(seconds=(life / 2 + timedelta(seconds=1)).total_seconds())
    site.refresher.tick()
    after = x509.load_pem_x509_certificate(site.certificate.read_bytes())
    assert after.serial_number != before.serial_number
    assert after.public_key() == before.public_key()
    site.refresher.tick()
    assert site.refresher.connection == "connected"


def test_a_disabled_proxy_fetches_nothing(world, site):
    assert world.admin.post("/v1/admin/proxies/edge-1/disable", {"v": 1}).status_code == 200
    site.refresher.tick()
    assert site.refresher.connection == "cut off"


def test_a_policy_set_by_an_admin_is_decided_by(world, site):
    device = world.enrolled()
    site.refresher.tick()
    chain = site.certificate_of(device)
    assert site.ask(chain=chain) == "allowed"
    text = world.admin.get("/v1/admin/policy").get_json()["text"]
    text += '@id("closed") forbid (principal, action == Action::"cross", resource);'
    assert world.admin.put("/v1/admin/policy", {"v": 1, "text": text}).status_code == 200
    site.refresher.tick()
    assert site.ask(chain=chain) == "crossing-denied"
