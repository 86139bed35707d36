"""The edge and the real service, over its real doors: what the one publishes, the other decides by."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from cryptography import x509

from attestd.credentials.dpop import make_dpop
from attestd.credentials.jwk import public_jwk
from tests.service import World
from tests.world_edge import ORIGIN, SiteEdge


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
