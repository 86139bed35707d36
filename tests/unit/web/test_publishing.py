"""What everybody may fetch, and what only edge proxies may."""

from __future__ import annotations

import base64
import json
import ssl
import zlib

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestd.credentials.bundle import Bundle, verify_copy
from attestd.credentials.copies import Copy, Delta
from attestd.credentials.status import Status
from attestd.ids import Serial
from attestd.protocol.encoding import read_object
from attestd.registry import issued
from tests.service import TRUST_DOMAIN, World, problem


def bundle(world: World) -> Bundle:
    answer = world.proxy.get("/v1/bundle")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    root = world.hierarchy.root.public_bytes(Encoding.DER)
    return verify_copy(Copy.read(answer.data), roots=[root], trust_domain=TRUST_DOMAIN, floor=(0, 0), now=world.clock())


def test_the_root(world: World) -> None:
    answer = world.get("/v1/root")
    assert (answer.status_code, answer.content_type) == (200, "application/pem-certificate-chain")
    assert ssl.PEM_cert_to_DER_cert(answer.text) == world.hierarchy.root.public_bytes(Encoding.DER)
    assert answer.headers["Cache-Control"] == "public, max-age=300"


@pytest.mark.parametrize("path", ["/v1/jwks", "/.well-known/jwks.json"])
def test_token_keys_without_their_private_halves(world: World, path: str) -> None:
    answer = world.get(path)
    assert (answer.status_code, answer.content_type) == (200, "application/jwk-set+json")
    keys = read_object(answer.data, limit=65536)["keys"]
    assert len(keys) == 2
    assert all(set(key) == {"kty", "crv", "x", "y", "kid", "use", "alg"} for key in keys)


def test_the_crl_names_what_is_revoked(world: World) -> None:
    device = world.enrolled()
    with world.registry.reading() as c:
        serial = issued.page(c, device_id=world.row(device).id)[0].serial
    world.operator.post(f"/v1/admin/credentials/{serial}/revoke", {"v": 1})
    answer = world.get("/v1/crl")
    assert (answer.status_code, answer.content_type) == (200, "application/pkix-crl")
    crl = x509.load_der_x509_crl(answer.data)
    assert crl.is_signature_valid(world.hierarchy.issuer.certificate.public_key())  # type: ignore[arg-type]
    assert [entry.serial_number for entry in crl] == [serial.number]


def test_other_relying_parties_find_a_token_s_state(world: World) -> None:
    """By draft-ietf-oauth-status-list-21, section 8.3, with a JWT library and nothing of ours."""
    device = world.enrolled()
    answer = device.token(binding="dpop")
    assert answer.status_code == 200, answer.text
    token = answer.get_json()["token"]
    named = jwt.decode(token, options={"verify_signature": False})["status"]["status_list"]
    assert named["uri"] == f"{world.settings.server.url}/v1/status-list"

    def state() -> int:
        answer = world.get("/v1/status-list")
        assert (answer.status_code, answer.content_type) == (200, "application/statuslist+jwt")
        assert answer.headers["Cache-Control"] == "public, max-age=15"
        keys = jwt.PyJWKSet.from_dict(json.loads(world.get("/v1/jwks").data))
        header = jwt.get_unverified_header(answer.text)
        unchecked = {"verify_exp": False, "verify_iat": False}
        claims = jwt.decode(answer.text, keys[header["kid"]].key, algorithms=["ES256"], options=unchecked)
        assert (header["typ"], claims["sub"], claims["ttl"]) == ("statuslist+jwt", named["uri"], 15)
        now = int(world.clock().timestamp())
        assert claims["iat"] == now < claims["exp"]
        assert claims["status_list"]["bits"] == 2
        text = claims["status_list"]["lst"]
        octets = zlib.decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return octets[named["idx"] // 4] >> 2 * (named["idx"] % 4) & 3

    assert state() == 0
    world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1})
    assert state() == 2
    world.operator.post(f"/v1/admin/devices/{device.id}/retire", {"v": 1})
    assert state() == 1


def test_a_status_list_is_signed_once_for_each_bundle(world: World) -> None:
    world.enrolled()
    first = world.get("/v1/status-list").data
    assert world.get("/v1/status-list").data == first
    world.clock.advance(seconds=60)
    assert world.get("/v1/status-list").data != first


def test_a_bundle_says_what_is_so_now(world: World) -> None:
    device = world.enrolled()
    index = world.row(device).status_index
    assert index is not None
    assert bundle(world).status[index] is Status.VALID
    world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1})
    assert bundle(world).status[index] is Status.SUSPENDED
    world.operator.post(f"/v1/admin/devices/{device.id}/retire", {"v": 1})
    latest = bundle(world)
    assert latest.status[index] is Status.INVALID
    assert Serial(x509.load_pem_x509_certificates(device.answer.chain.encode())[0].serial_number) in latest.revoked


def test_a_bundle_that_the_proxy_has_is_not_sent_again(world: World) -> None:
    first = world.proxy.get("/v1/bundle")
    etag = first.headers["ETag"]
    again = world.proxy.get("/v1/bundle", headers={"If-None-Match": etag})
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", etag)
    assert "Replay-Nonce" in again.headers
    world.enrolled()
    changed = world.proxy.get("/v1/bundle", headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != etag


def test_what_is_different_is_sent_to_the_proxy_that_takes_it(world: World) -> None:
    device = world.enrolled()
    base = world.proxy.get("/v1/bundle")
    etag = base.headers["ETag"]
    world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1})
    answer = world.proxy.get("/v1/bundle", headers={"If-None-Match": etag, "A-IM": "attestd-delta"})
    assert (answer.status_code, answer.headers["IM"], answer.headers["Delta-Base"]) == (226, "attestd-delta", etag)
    whole = world.proxy.get("/v1/bundle")
    assert answer.headers["ETag"] == whole.headers["ETag"]
    assert Copy.read(base.data).after(Delta.read(answer.data)) == Copy.read(whole.data)
    assert len(answer.data) < 1000
    for other in ("gzip", ""):
        assert world.proxy.get("/v1/bundle", headers={"If-None-Match": etag, "A-IM": other}).status_code == 200
    again = world.proxy.get("/v1/bundle", headers={"If-None-Match": answer.headers["ETag"], "A-IM": "attestd-delta"})
    assert again.status_code == 304


def test_another_etag_gets_the_bundle(world: World) -> None:
    world.proxy.get("/v1/bundle")
    for etag in ('"0.0"', '"x"', "*" * 300):
        told = {"If-None-Match": etag, "A-IM": "attestd-delta"}
        assert world.proxy.get("/v1/bundle", headers=told).status_code == 200


def test_a_bundle_holds_no_ek_hash_and_no_device_id(world: World) -> None:
    device = world.enrolled()
    content = b"".join(bundle(world).parts().values())
    assert device.ek_hash.hex().encode() not in content
    assert device.id.encode() not in content


def test_a_proxy_renews_its_own_certificate(world: World) -> None:
    answer = world.proxy.post("/v1/proxies/renewals", {"v": 1})
    assert answer.status_code == 200
    members = read_object(answer.data, limit=65536)
    assert set(members) == {"v", "chain", "renew_after", "expires_in"}
    assert (members["renew_after"], members["expires_in"]) == (43200, 86400)
    leaf = x509.load_pem_x509_certificates(members["chain"].encode())[0]
    assert leaf.public_key() == world.proxy.key.public_key
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"spiffe://{TRUST_DOMAIN}/proxy/shop-1/proxy-1"
    ]


@pytest.mark.parametrize("message", [{"v": 2}, {"v": 1, "name": "proxy-2"}, {"v": "1"}])
def test_another_message_renews_nothing(world: World, message: dict[str, object]) -> None:
    answer = world.proxy.post("/v1/proxies/renewals", message)
    assert (answer.status_code, problem(answer)) in ((400, "unsupported-version"), (400, "malformed-json"))


def test_head_is_get_without_a_body(world: World) -> None:
    for path in ("/v1/root", "/v1/jwks", "/v1/crl", "/healthz"):
        answer = world.request("HEAD", path)
        assert (answer.status_code, answer.data) == (200, b"")
        assert int(answer.headers["Content-Length"]) > 0
    answer = world.proxy.open("HEAD", "/v1/bundle")
    assert (answer.status_code, answer.data) == (200, b"")
