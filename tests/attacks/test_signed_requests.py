"""Attacks on signed requests: headers that choose how they are checked, replays across verbs, and doors that are not
the caller's. Who may call which route at all, tests/unit/web/test_access.py tries route by route."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from werkzeug.test import TestResponse

from attestd.credentials.jwk import public_jwk
from attestd.protocol.encoding import b64decode, b64encode, write_object
from attestd.protocol.messages import RenewalRequest, TokenRequest
from attestd.protocol.signed import sign_flattened
from attestd.registry import issued
from tests.attacks.ledger import Ledger, refused
from tests.service import URL, SoftDevice, World, problem, signer

RENEW, ATTEST, TOKEN = "/v1/renewals", "/v1/attestations", "/v1/tokens"
JOSE = "application/jose+json"
Count = Callable[[], Ledger]

# Order of P-256's group (SEC 2, section 2.4.2).
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def header(device: SoftDevice, path: str = RENEW, **changed: Any) -> dict[str, Any]:
    return {
        "alg": "ES256",
        "kid": device.id,
        "url": URL + path,
        "nonce": b64encode(device.world.nonce()),
        "typ": "attestd-request+jws",
        **changed,
    }


def envelope(protected: bytes, payload: bytes, sign: Callable[[bytes], bytes], **more: Any) -> bytes:
    """A flattened JWS over any header octets."""
    head, body = b64encode(protected), b64encode(payload)
    signature = b64encode(sign(f"{head}.{body}".encode()))
    return json.dumps({"protected": head, "payload": body, "signature": signature, **more}).encode()


def send(device: SoftDevice, body: bytes, path: str = RENEW) -> TestResponse:
    return device.world.post(path, body, content_type=JOSE)


def renewal(device: SoftDevice, sign: Callable[[bytes], bytes] | None = None, **changed: Any) -> bytes:
    protected = json.dumps(header(device, **changed)).encode()
    return envelope(protected, RenewalRequest().to_bytes(), sign or device.sign)


# ---- Headers that want to choose the check ----------------------------------------------------------------------


def test_the_honest_twin_of_what_follows(world: World) -> None:
    device = world.enrolled()
    assert send(device, renewal(device)).status_code == 200


@pytest.mark.parametrize("alg", ["none", "None", "nOnE", "", "ES384", "ES512", "RS256", "PS256", "EdDSA", "es256"])
def test_an_algorithm_of_the_sender_s_choice(world: World, ledger: Count, alg: str) -> None:
    """The key's registered algorithm counts, never the header's word, also over a right ES256 signature."""
    device = world.enrolled()
    before = ledger()
    assert refused(send(device, renewal(device, alg=alg)), 401, "request-algorithm-wrong")
    assert ledger() == before


@pytest.mark.parametrize("secret", ["der", "pem", "jwk", "ck public"])
def test_a_mac_under_the_public_key(world: World, ledger: Count, secret: str) -> None:
    """HS256 with the public key as the secret: what a library does that lets the header choose."""
    device = world.enrolled()
    public = device.tpm.ck.private.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    keys = {
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(public_jwk(public)).encode(),
        "ck public": device.tpm.ck.public,
    }

    def mac(data: bytes) -> bytes:
        return hmac.digest(keys[secret], data, "sha256")

    before = ledger()
    assert refused(send(device, renewal(device, mac, alg="HS256")), 401, "request-algorithm-wrong")
    assert refused(send(device, renewal(device, mac)), 401, "signature-wrong")
    assert ledger() == before


def test_no_signature(world: World, ledger: Count) -> None:
    device = world.enrolled()
    before = ledger()
    assert refused(send(device, renewal(device, lambda data: b"", alg="none")), 400, "malformed-json")
    assert refused(send(device, renewal(device, lambda data: bytes(64))), 401, "signature-wrong")
    assert ledger() == before


@pytest.mark.parametrize(
    "extra",
    [
        {"crit": ["exp"], "exp": 0},
        {"crit": []},
        {"b64": False, "crit": ["b64"]},
        {"jku": "https://attacker.example/keys"},
        {"x5u": "https://attacker.example/cert"},
        {"x5t#S256": "AAAA"},
        {"cty": "JWT"},
        {"zip": "DEF"},
        {"htm": "POST"},
        {"future": True},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_a_header_member_that_is_not_understood(world: World, ledger: Count, extra: dict[str, Any]) -> None:
    device = world.enrolled()
    before = ledger()
    assert refused(send(device, renewal(device, **extra)), 400, "malformed-json")
    assert ledger() == before


@pytest.mark.parametrize("member", ["jwk", "x5c"])
def test_a_key_that_comes_with_the_request(world: World, ledger: Count, member: str) -> None:
    """The attacker's own key, embedded and used rightly, in the victim's name."""
    victim = world.enrolled()
    key = ec.generate_private_key(ec.SECP256R1())
    jwk = public_jwk(key.public_key())
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    value = jwk if member == "jwk" else [base64.b64encode(der).decode()]
    before = ledger()
    assert refused(send(victim, renewal(victim, signer(key), **{member: value})), 400, "malformed-json")
    assert ledger() == before


@pytest.mark.parametrize("first", ["attacker", "victim"])
def test_a_header_member_that_comes_twice(world: World, ledger: Count, first: str) -> None:
    """Parsers differ in which of two they believe; so neither is."""
    victim, attacker = world.enrolled(), world.enrolled()
    names = {"victim": victim.id, "attacker": attacker.id}
    second = "victim" if first == "attacker" else "attacker"
    honest = json.dumps(header(victim))
    twice = honest.replace(f'"kid": "{victim.id}"', f'"kid": "{names[first]}", "kid": "{names[second]}"')
    assert twice != honest
    before = ledger()
    body = envelope(twice.encode(), RenewalRequest().to_bytes(), attacker.sign)
    assert refused(send(victim, body), 400, "malformed-json")
    assert ledger() == before


@pytest.mark.parametrize(
    "more",
    [{"header": {"kid": "somebody"}}, {"header": {}}, {"signatures": []}, {"v": 1}],
    ids=["unprotected", "empty unprotected", "general", "unknown"],
)
def test_another_serialization(world: World, ledger: Count, more: dict[str, Any]) -> None:
    """RFC 7515, section 7.2: an unprotected header or several signatures could contradict what is signed."""
    device = world.enrolled()
    before = ledger()
    body = envelope(json.dumps(header(device)).encode(), RenewalRequest().to_bytes(), device.sign, **more)
    assert refused(send(device, body), 400, "malformed-json")
    assert ledger() == before


def test_a_payload_swapped_under_a_signature(world: World, ledger: Count) -> None:
    device = world.enrolled()
    signed = json.loads(renewal(device))
    signed["payload"] = b64encode(TokenRequest("edge").to_bytes())
    before = ledger()
    assert refused(send(device, json.dumps(signed).encode()), 401, "signature-wrong")
    assert ledger() == before


def test_a_signature_in_another_form(world: World, ledger: Count) -> None:
    """DER in the place of r ‖ s, and a short one."""
    device = world.enrolled()
    private = device.tpm.ck.private
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    before = ledger()
    der = renewal(device, lambda data: private.sign(data, ec.ECDSA(hashes.SHA256())))
    assert refused(send(device, der), 401, "signature-wrong")
    assert refused(send(device, renewal(device, lambda data: device.sign(data)[:63])), 401, "signature-wrong")
    assert refused(send(device, renewal(device, lambda data: device.sign(data) + b"\0")), 401, "signature-wrong")
    assert ledger() == before


def test_the_other_valid_signature_is_the_same_request(world: World, ledger: Count) -> None:
    """ECDSA: (r, n - s) is valid, too. Whoever turns one into the other gets no second certificate."""
    device = world.enrolled()
    honest = renewal(device)
    assert send(device, honest).status_code == 200
    before = ledger()
    other = json.loads(honest)
    raw = b64decode(other["signature"])
    s = ORDER - int.from_bytes(raw[32:], "big")
    other["signature"] = b64encode(raw[:32] + s.to_bytes(32, "big"))
    again = send(device, json.dumps(other).encode())
    assert again.status_code == 200
    assert ledger() == before


# ---- Replays across verbs, devices and doors ---------------------------------------------------------------------


@pytest.mark.parametrize("signed_for", [ATTEST, RENEW, TOKEN])
@pytest.mark.parametrize("sent_to", [ATTEST, RENEW, TOKEN])
def test_a_request_is_for_one_verb(world: World, ledger: Count, signed_for: str, sent_to: str) -> None:
    device = world.enrolled()
    nonce = world.nonce()
    payload = {
        ATTEST: device.attestation(nonce).to_bytes(),
        RENEW: RenewalRequest().to_bytes(),
        TOKEN: TokenRequest("edge").to_bytes(),
    }[signed_for]
    body = sign_flattened(payload, sign=device.sign, alg="ES256", kid=device.id, url=URL + signed_for, nonce=nonce)
    before = ledger()
    if signed_for == sent_to:
        assert send(device, body, sent_to).status_code == 200
    else:
        assert refused(send(device, body, sent_to), 401, "request-misdirected")
        assert ledger() == before


@pytest.mark.parametrize("path", [ATTEST, RENEW])
def test_a_payload_of_another_verb(world: World, ledger: Count, path: str) -> None:
    """Rightly signed for this door, with another door's message in it."""
    device = world.enrolled()
    before = ledger()
    assert refused(device.signed(path, TokenRequest("edge").to_bytes()), 400, "malformed-json")
    assert ledger() == before


def test_a_nonce_serves_one_device(world: World, ledger: Count) -> None:
    first, second = world.enrolled(), world.enrolled()
    nonce = world.nonce()
    assert first.renew(nonce=nonce).status_code == 200
    before = ledger()
    assert refused(second.renew(nonce=nonce), 401, "nonce-spent")
    assert ledger() == before


def test_a_nonce_serves_one_door(world: World, ledger: Count) -> None:
    """Operators' and devices' nonces are spent in one place."""
    device = world.enrolled()
    nonce = world.nonce()
    path = f"/v1/admin/devices/{device.id}/quarantine"
    assert world.operator.post(path, {"v": 1}, nonce=nonce).status_code == 200
    world.operator.post(f"/v1/admin/devices/{device.id}/release", {"v": 1})
    before = ledger()
    assert refused(device.renew(nonce=nonce), 401, "nonce-spent")
    used = world.nonce()
    assert device.renew(nonce=used).status_code == 200
    before = ledger()
    assert refused(world.operator.post(path, {"v": 1}, nonce=used), 401, "call-nonce-spent")
    assert ledger() == before


@pytest.mark.parametrize("size", [1, 16, 64, 65, 255])
def test_a_nonce_that_nobody_gave(world: World, ledger: Count, size: int) -> None:
    device = world.enrolled()
    before = ledger()
    assert refused(device.renew(nonce=b"\1" * size), 401, "nonce-invalid")
    assert ledger() == before


def test_nonces_are_never_the_same(world: World) -> None:
    """Keylime CVE-2026-6420: a nonce was a constant."""
    device = world.enrolled()
    begun = [device.begin() for _ in range(20)]
    assert len({answer.nonce for answer in begun}) == len({answer.id for answer in begun}) == 20
    assert len({world.nonce() for _ in range(20)}) == 20


@pytest.mark.parametrize(
    "host", ["attacker.example", "attestd.example", "attestd.example:443", "attestd.example:8443.attacker.example"]
)
def test_the_host_header_moves_nothing(world: World, ledger: Count, host: str) -> None:
    """Signed for an attacker's name and sent on with that name in Host: still for another service."""
    device = world.enrolled()
    nonce = world.nonce()
    body = sign_flattened(
        RenewalRequest().to_bytes(),
        sign=device.sign,
        alg="ES256",
        kid=device.id,
        url=f"https://{host}{RENEW}",
        nonce=nonce,
    )
    before = ledger()
    answer = world.post(RENEW, body, content_type=JOSE, headers={"Host": host})
    assert refused(answer, 401, "request-misdirected")
    assert ledger() == before


@pytest.mark.parametrize(
    "url",
    [
        "http://attestd.example:8443/v1/renewals",
        "https://ATTESTD.example:8443/v1/renewals",
        "https://attestd.example:8443/v1/renewals/",
        "https://attestd.example:8443//v1/renewals",
        "https://attestd.example:8443/v1/%72enewals",
        "https://attestd.example:8443/v1/renewals?",
        "https://attestd.example:8443/v1/renewals#",
        "https://user@attestd.example:8443/v1/renewals",
        "",
    ],
)
def test_a_url_in_another_spelling(world: World, ledger: Count, url: str) -> None:
    device = world.enrolled()
    before = ledger()
    assert refused(device.renew(url=url), 401, "request-misdirected")
    assert ledger() == before


# ---- Doors that are somebody else's ------------------------------------------------------------------------------

SMUGGLED = {
    "X-Forwarded-For": "127.0.0.1",
    "X-Forwarded-Host": "localhost",
    "X-Forwarded-Prefix": "/v1/admin",
    "X-Forwarded-User": "admin-1",
    "X-Remote-User": "admin-1",
    "Remote-User": "admin-1",
    "X-Original-URL": "/healthz",
    "X-Rewrite-URL": "/healthz",
    "X-HTTP-Method-Override": "GET",
    "Forwarded": "for=127.0.0.1;host=localhost;proto=https",
    "Client-Cert": ":AAAA:",
    "X-Client-Cert": "AAAA",
    "SSL-Client-Verify": "SUCCESS",
    "Attestd-Caller": "operator:admin-1",
    "Cookie": "session=admin",
}


@pytest.mark.parametrize("name", sorted(SMUGGLED))
def test_a_header_lets_nobody_in(world: World, name: str) -> None:
    """There is no hop in front of the service whose word counts: a call is signed, or it is nobody's."""
    told = {name: SMUGGLED[name]}
    for method, path in (("GET", "/v1/admin/devices"), ("GET", "/v1/bundle"), ("POST", "/v1/admin/proxies")):
        body = b"{}" if method == "POST" else b""
        answer = world.request(method, path, body, headers=told, content_type="application/json")
        assert refused(answer, 401, "signature-missing")
    assert world.viewer.get("/v1/admin/devices", headers=told).status_code == 200


def test_a_header_does_not_change_the_method(world: World) -> None:
    """A viewer's signed GET is a GET, whatever is beside it."""
    device = world.enrolled()
    told = {"X-HTTP-Method-Override": "DELETE", "X-Method-Override": "POST", "X-HTTP-Method": "POST"}
    assert world.viewer.get(f"/v1/admin/devices/{device.id}", headers=told).status_code == 200
    with world.registry.reading() as c:
        assert len(issued.page(c, device_id=world.row(device).id)) == 1
    assert device.renew().status_code == 200


def test_two_authorizations(world: World) -> None:
    """What a server joins with a comma is no signature of anybody."""
    honest = world.admin.authorize("GET", "/v1/admin/devices")
    for value in (f"{honest},{honest}", f"{honest}, Basic YTpi", f"Basic YTpi, {honest}", f"Bearer {honest}"):
        answer = world.get("/v1/admin/devices", headers={"Authorization": value})
        assert answer.status_code in (400, 401), answer.text
    assert world.get("/v1/admin/devices", headers={"Authorization": honest}).status_code == 200


def test_a_proxy_s_key_signs_nothing_for_devices(world: World, ledger: Count) -> None:
    device = world.enrolled()
    proxy = world.proxy
    before = ledger()
    for kid in (device.id, "proxy-1", proxy.key.thumbprint):
        answer = device.renew(kid=kid, sign=proxy.key.sign)
        assert answer.status_code == 401, answer.text
    assert ledger() == before


def test_a_device_s_key_fetches_no_bundle(world: World) -> None:
    device = world.enrolled()
    public = device.tpm.ck.private.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    members = json.dumps(public_jwk(public), separators=(",", ":"), sort_keys=True).encode()
    thumbprint = b64encode(sha256(members).digest())
    for kid in (thumbprint, device.id):
        answer = world.proxy.get("/v1/bundle", kid=kid, sign=device.sign)
        assert refused(answer, 401, "caller-unknown")
    assert world.proxy.get("/v1/bundle").status_code == 200


def test_a_proxy_renews_itself_only(world: World) -> None:
    """The caller's key says which proxy is renewed; the message can't name another."""
    other = world.new_caller("proxy", "proxy-2")
    assert other.post("/v1/proxies/renewals", {"v": 1}).status_code == 200
    for lie in ({"v": 1, "name": "proxy-1"}, {"v": 1, "site": "elsewhere"}, {"v": 1, "public_key": "x"}):
        assert refused(other.post("/v1/proxies/renewals", lie), 400, "malformed-json")


def test_an_operator_revokes_no_admin(world: World) -> None:
    """A role is not left by revoking those above it: other callers' certificates are an admin's business."""
    world.proxy  # noqa: B018 - so that there is one
    with world.registry.reading() as c:
        serial = next(str(entry.serial) for entry in issued.page(c) if entry.device_id is None)
    answer = world.operator.post(f"/v1/admin/credentials/{serial}/revoke", {"v": 1})
    assert refused(answer, 403, "role-too-low")
    assert world.admin.post(f"/v1/admin/credentials/{serial}/revoke", {"v": 1}).status_code == 200


def test_a_call_s_body_is_what_was_signed(world: World, ledger: Count) -> None:
    """An approval for one site, changed under way by whoever ended TLS."""
    device = world.device()
    device.enroll()
    path = f"/v1/admin/devices/{world.row(device).id}/approve"
    signed = write_object({"v": 1, "tier": "device", "site": "shop-1"})
    sent = write_object({"v": 1, "tier": "cloud", "site": "shop-1"})
    before = ledger()
    assert refused(world.operator.post(path, sent, signed_body=signed), 401, "signature-wrong")
    assert ledger() == before
    assert world.operator.post(path, signed).status_code == 200


def test_a_change_can_not_be_replayed(world: World, ledger: Count) -> None:
    device = world.enrolled()
    nonce = world.nonce()
    path = f"/v1/admin/devices/{device.id}/quarantine"
    body = write_object({"v": 1})
    authorization = world.operator.authorize("POST", path, body, nonce=nonce)
    told = {"Authorization": authorization}
    assert world.post(path, body, headers=told).status_code == 200
    world.operator.post(f"/v1/admin/devices/{device.id}/release", {"v": 1})
    before = ledger()
    assert refused(world.post(path, body, headers=told), 401, "call-nonce-spent")
    assert ledger() == before


def test_everything_expired(world: World, ledger: Count) -> None:
    """A month later every caller's credential has ended, and every nonce: nothing passes but a fresh attestation."""
    device = world.enrolled()
    callers = [world.admin, world.operator, world.viewer, world.proxy]
    old = world.nonce()
    world.clock.advance(days=400)
    before = ledger()
    for caller in callers:
        path = "/v1/bundle" if caller is world.proxy else "/v1/admin/devices"
        assert refused(caller.get(path), 401, "caller-expired")
    assert refused(device.renew(nonce=old), 401, "nonce-expired")
    assert refused(device.renew(), 403, "attestation-overdue")
    assert refused(device.token(), 403, "attestation-overdue")
    assert ledger() == before
    assert problem(device.attest()) == "lifetime-exhausted"  # the issuing certificate has ended, too


def test_a_device_s_name_is_not_told_apart_from_a_stranger_s(world: World) -> None:
    """A wrong signature for a known id and any signature for an unknown one: both 401, neither with a credential."""
    device = world.enrolled()
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert device.renew(sign=signer(stranger)).status_code == 401
    assert device.renew(kid="nobody", sign=signer(stranger)).status_code == 401
