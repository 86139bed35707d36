"""Operators and proxies: proven by their registered key, for this URL, method and body, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.requests import SoftwareKey
from attestd.ids import Serial
from attestd.registry import issued, operators, proxies
from tests.service import URL, World, problem

DEVICES = "/v1/admin/devices"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "instance")


def test_a_registered_operator_is_let_in(world: World) -> None:
    assert world.admin.get(DEVICES).status_code == 200


def test_an_unknown_key(world: World) -> None:
    stranger = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
    answer = world.admin.get(DEVICES, kid=stranger.thumbprint, sign=stranger.sign)
    assert (answer.status_code, problem(answer)) == (401, "caller-unknown")


def test_a_key_that_poses_as_another(world: World) -> None:
    stranger = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
    assert problem(world.admin.get(DEVICES, sign=stranger.sign)) == "signature-wrong"


@pytest.mark.parametrize("kid", ["", "*", "A" * 43, "é"])
def test_a_kid_that_is_none(world: World, kid: str) -> None:
    assert world.admin.get(DEVICES, kid=kid).status_code == 401


def test_another_url_method_or_body(world: World) -> None:
    path = f"{DEVICES}/x/quarantine"
    for lie in ({"url": URL + "/v1/admin/devices/y/quarantine"}, {"signed_method": "PUT"}, {"signed_body": b"{}"}):
        assert world.admin.post(path, {"reason": "x"}, **lie).status_code == 401


def test_a_query_is_part_of_what_is_signed(world: World) -> None:
    assert world.admin.get(f"{DEVICES}?state=active", url=URL + DEVICES).status_code == 401


def test_a_nonce_serves_many_reads_and_one_change(world: World) -> None:
    device = world.enrolled()
    nonce = world.nonce()
    assert [world.admin.get(DEVICES, nonce=nonce).status_code for _ in range(3)] == [200] * 3
    path = f"{DEVICES}/{device.id}/quarantine"
    assert world.admin.post(path, {}, nonce=nonce).status_code == 200
    assert problem(world.admin.post(path, {}, nonce=nonce)) == "call-nonce-spent"


def test_an_old_nonce(world: World) -> None:
    nonce = world.nonce()
    world.clock.advance(minutes=5)
    assert problem(world.admin.get(DEVICES, nonce=nonce)) == "nonce-expired"


def test_a_disabled_operator(world: World) -> None:
    caller = world.new_caller("admin", "leaving")
    assert caller.get(DEVICES).status_code == 200
    with world.registry.acting() as c:
        operators.disable(c, "leaving", now=1)
    assert problem(caller.get(DEVICES)) == "caller-disabled"


def test_an_operator_whose_credential_has_ended(world: World) -> None:
    caller = world.admin
    world.clock.advance(hours=2160)
    assert problem(caller.get(DEVICES)) == "caller-expired"


def test_an_operator_whose_credential_was_revoked(world: World) -> None:
    caller = world.new_caller("admin", "lost-laptop")
    with world.registry.acting() as c:
        held = x509.load_der_x509_certificate(operators.by_name(c, "lost-laptop").key.certificate)
        issued.revoke(c, Serial(held.serial_number), reason="lost", now=1)
    assert problem(caller.get(DEVICES)) == "caller-expired"


def test_a_proxy_whose_certificate_has_ended_was_revoked_or_disabled(world: World) -> None:
    proxy = world.new_caller("proxy", "front")
    assert proxy.get("/v1/bundle").status_code == 200
    with world.registry.acting() as c:
        issued.revoke(c, proxies.by_name(c, "front").serial, reason="test", now=1)
    assert problem(proxy.get("/v1/bundle")) == "caller-expired"
    other = world.new_caller("proxy", "side")
    world.clock.advance(hours=24)
    assert problem(other.get("/v1/bundle")) == "caller-expired"
    with world.registry.acting() as c:
        proxies.disable(c, "side", now=1)
    assert problem(other.get("/v1/bundle")) == "caller-disabled"


def test_a_device_key_is_no_caller(world: World) -> None:
    device = world.enrolled()
    key = SoftwareKey(device.tpm.ck.private)
    assert problem(world.admin.get(DEVICES, kid=key.thumbprint, sign=key.sign)) == "caller-unknown"
