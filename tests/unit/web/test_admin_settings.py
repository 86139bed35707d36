"""TPM makers, policy, proxies: looked at by viewers, changed by admins, each change in the trail."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.policy import default_policy, published_schema
from attestd.registry import audit, issued, policies
from tests import ek_ca
from tests.service import World, problem


def acts(world: World) -> list[tuple[str, str]]:
    with world.registry.reading() as c:
        return [(row.act, row.actor) for row in audit.page(c)]


def public_key(curve: ec.EllipticCurve | None = None) -> str:
    key = ec.generate_private_key(curve or ec.SECP256R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


# ---- TPM makers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["application/pem-certificate-chain", "application/octet-stream"])
def test_trusting_a_file_of_makers(world: World, content_type: str) -> None:
    maker = ek_ca.maker("Second")
    pem = "".join(map(ssl.DER_cert_to_PEM_cert, [maker.root.certificate, maker.intermediate.certificate]))
    answer = world.admin.post("/v1/admin/trust", pem.encode(), content_type=content_type)
    assert answer.status_code == 200
    assert [entry["is_root"] for entry in answer.json["makers"]] == [True, False]
    assert acts(world)[0] == ("trust-makers", "operator:admin-1")
    listed = world.viewer.get("/v1/admin/trust").json["makers"]
    assert len(listed) == 3
    assert set(listed[0]) == {"sha256", "subject", "not_after", "is_root", "added_at", "added_by"}


def test_trusting_der(world: World) -> None:
    der = ek_ca.maker("Second").root.certificate
    answer = world.admin.post("/v1/admin/trust", der, content_type="application/pkix-cert")
    assert (answer.status_code, len(answer.json["makers"])) == (200, 1)


@pytest.mark.parametrize(
    "body", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", b"0\x82"]
)
def test_a_file_without_certificates(world: World, body: bytes) -> None:
    answer = world.admin.post("/v1/admin/trust", body, content_type="application/octet-stream")
    assert (answer.status_code, problem(answer)) == (400, "malformed-certificate")
    assert len(world.viewer.get("/v1/admin/trust").json["makers"]) == 1


def test_a_certificate_that_is_no_ca_s(world: World) -> None:
    leaf = world.maker.intermediate.ek_certificate(ec.generate_private_key(ec.SECP256R1()).public_key())
    answer = world.admin.post("/v1/admin/trust", leaf, content_type="application/pkix-cert")
    assert answer.status_code == 400
    assert problem(answer) == "not-a-maker"


def test_trusting_no_longer(world: World) -> None:
    (maker,) = world.viewer.get("/v1/admin/trust").json["makers"]
    answer = world.admin.delete(f"/v1/admin/trust/{maker['sha256'].upper()}")
    assert (answer.status_code, answer.json) == (200, {"v": 1, "sha256": maker["sha256"]})
    refused = world.post("/v1/enrollments", world.device().begin_request().to_bytes())
    assert (refused.status_code, problem(refused)) == (403, "no-trust-anchors")
    again = world.admin.delete(f"/v1/admin/trust/{maker['sha256']}")
    assert (again.status_code, problem(again)) == (404, "unknown-maker")


@pytest.mark.parametrize("sha256", ["00", "zz" * 32, "0" * 65])
def test_a_fingerprint_that_is_none(world: World, sha256: str) -> None:
    answer = world.admin.delete(f"/v1/admin/trust/{sha256}")
    assert (answer.status_code, problem(answer)) == (400, "not-a-fingerprint")


# ---- Policy -----------------------------------------------------------------------------------------------------


def test_a_new_policy_is_in_force_at_once(world: World) -> None:
    device = world.enrolled()
    assert device.token("edge").status_code == 200
    answer = world.admin.put("/v1/admin/policy", {"v": 1, "text": default_policy()})
    assert (answer.status_code, answer.json) == (200, {"v": 1, "version": 2})
    shown = world.viewer.get("/v1/admin/policy").json
    assert (shown["version"], shown["text"], shown["created_by"]) == (2, default_policy(), "operator:admin-1")
    refused = device.token("edge")
    assert (refused.status_code, problem(refused)) == (403, "audience-denied")


@pytest.mark.parametrize(
    "text", ["permit(", "permit(principal, action, resource) when { principal.nothing };", ";" * 9]
)
def test_a_policy_that_is_none_changes_nothing(world: World, text: str) -> None:
    answer = world.admin.put("/v1/admin/policy", {"v": 1, "text": text})
    assert (answer.status_code, problem(answer)) == (400, "policy-invalid")
    assert world.viewer.get("/v1/admin/policy").json["version"] == 1


def test_a_policy_that_is_too_large(world: World) -> None:
    answer = world.admin.put("/v1/admin/policy", {"v": 1, "text": "//" + "x" * 262_144})
    assert (answer.status_code, problem(answer)) == (413, "input-too-large")


@pytest.mark.parametrize("message", [{}, {"text": 1}, {"text": "", "name": "x"}])
def test_a_policy_message_of_another_form(world: World, message: dict[str, Any]) -> None:
    answer = world.admin.put("/v1/admin/policy", message)
    assert (answer.status_code, problem(answer)) == (400, "malformed-json")


def rollback(world: World, **members: Any) -> Any:
    return world.admin.post("/v1/admin/policy/rollback", {"v": 1, **members})


def changed_twice(world: World) -> str:
    """Version 1 is the first one, 3 is in force. Returns the first one's text."""
    first = str(world.viewer.get("/v1/admin/policy").json["text"])
    for text in (default_policy(), ""):
        assert world.admin.put("/v1/admin/policy", {"v": 1, "text": text}).status_code == 200
    return first


def test_a_rollback_is_a_higher_version_with_old_content(world: World) -> None:
    device = world.enrolled()
    first = changed_twice(world)
    assert device.token("edge").status_code == 403
    assert rollback(world, reason="it denies all").json == {"v": 1, "version": 4, "of": 2}
    assert world.viewer.get("/v1/admin/policy").json["text"] == default_policy()
    assert rollback(world).json == {"v": 1, "version": 5, "of": 1}
    shown = world.viewer.get("/v1/admin/policy").json
    assert (shown["version"], shown["text"], shown["created_by"]) == (5, first, "operator:admin-1")
    assert device.token("edge").status_code == 200
    with world.registry.reading() as c:
        rows = [row for row in audit.page(c) if row.act == "rollback-policy"]
    assert [(row.subject, row.detail) for row in rows] == [
        ("policy 5", {"to": 1}),
        ("policy 4", {"to": 2, "reason": "it denies all"}),
    ]


def test_a_rollback_to_a_version(world: World) -> None:
    first = changed_twice(world)
    assert rollback(world, to=1).json == {"v": 1, "version": 4, "of": 1}
    assert world.viewer.get("/v1/admin/policy/versions/4").json["text"] == first


@pytest.mark.parametrize("to", [0, -1, 9, 1 << 31, 1 << 70])
def test_a_rollback_to_a_version_that_is_none(world: World, to: int) -> None:
    changed_twice(world)
    answer = rollback(world, to=to)
    assert (answer.status_code, problem(answer)) == (404, "unknown-policy")
    assert world.viewer.get("/v1/admin/policy").json["version"] == 3


def test_a_rollback_to_what_is_in_force(world: World) -> None:
    changed_twice(world)
    answer = rollback(world, to=3)
    assert (answer.status_code, problem(answer)) == (409, "already-in-force")
    assert world.viewer.get("/v1/admin/policy").json["version"] == 3


def test_a_rollback_where_nothing_was_before(world: World) -> None:
    answer = rollback(world)
    assert (answer.status_code, problem(answer)) == (404, "unknown-policy")


def test_a_rollback_to_what_the_schema_no_longer_allows(world: World) -> None:
    """As after an upgrade: edges would not understand it, and refuse everything."""
    with world.registry.acting() as c:
        policies.add(c, text="permit (principal, action, resource) when { context.gone };", created_by="ada", now=1)
        policies.add(c, text=default_policy(), created_by="ada", now=1)
    answer = rollback(world)
    assert (answer.status_code, problem(answer)) == (400, "policy-invalid")
    assert world.viewer.get("/v1/admin/policy").json["version"] == 3


@pytest.mark.parametrize("message", [{"to": "1"}, {"to": True}, {"to": None}, {"version": 1}])
def test_a_rollback_message_of_another_form(world: World, message: dict[str, Any]) -> None:
    changed_twice(world)
    answer = rollback(world, **message)
    assert (answer.status_code, problem(answer)) == (400, "malformed-json")


def test_versions_are_looked_at_a_page_at_a_time(world: World) -> None:
    changed_twice(world)
    first = world.viewer.get("/v1/admin/policy/versions?limit=2").json
    assert ([entry["version"] for entry in first["versions"]], first["before"]) == ([3, 2], 2)
    assert set(first["versions"][0]) == {"version", "created_at", "created_by"}
    rest = world.viewer.get(f"/v1/admin/policy/versions?limit=2&before={first['before']}").json
    assert ([entry["version"] for entry in rest["versions"]], rest["before"]) == ([1], None)


@pytest.mark.parametrize("number", ["0", "9", "x", "-1", "9" * 19, "4294967297"])
def test_a_version_that_is_none(world: World, number: str) -> None:
    answer = world.viewer.get(f"/v1/admin/policy/versions/{number}")
    assert (answer.status_code, problem(answer)) == (404, "unknown-policy")


def test_the_schema_is_published(world: World) -> None:
    answer = world.get("/v1/policy/schema")
    assert (answer.status_code, answer.text) == (200, published_schema())
    assert answer.content_type == "text/plain; charset=utf-8"


# ---- Edge proxies -----------------------------------------------------------------------------------------------


def test_a_proxy_gets_an_identity_and_loses_it(world: World) -> None:
    answer = world.admin.post(
        "/v1/admin/proxies", {"v": 1, "name": "till-2", "site": "shop-2", "public_key": public_key()}
    )
    assert answer.status_code == 201
    assert answer.json["chain"].startswith("-----BEGIN CERTIFICATE-----")
    (proxy,) = world.admin.get("/v1/admin/proxies").json["proxies"]
    assert (proxy["name"], proxy["site"], proxy["disabled_at"]) == ("till-2", "shop-2", None)
    assert world.admin.post("/v1/admin/proxies/till-2/disable", {"v": 1}).status_code == 200
    (proxy,) = world.viewer.get("/v1/admin/proxies").json["proxies"]
    assert proxy["disabled_at"] == int(world.clock().timestamp())
    with world.registry.reading() as c:
        (revoked,) = issued.revoked_unexpired(c, now=int(world.clock().timestamp()))
    assert revoked.serial.number == x509.load_pem_x509_certificate(answer.json["chain"].encode()).serial_number
    assert {("disable-proxy", "operator:admin-1"), ("add-proxy", "operator:admin-1")} <= set(acts(world))


def test_a_proxy_s_name_is_taken_once(world: World) -> None:
    for expected in (201, 409):
        message = {"v": 1, "name": "till-2", "site": "shop-2", "public_key": public_key()}
        answer = world.admin.post("/v1/admin/proxies", message)
        assert answer.status_code == expected
    assert problem(answer) == "proxy-taken"


@pytest.mark.parametrize(
    ("lie", "status", "name"),
    [
        ({"name": "Till 2"}, 400, "malformed-name"),
        ({"site": "../x"}, 400, "malformed-name"),
        ({"public_key": "-----BEGIN PUBLIC KEY-----"}, 400, "unusable-public-key"),
        ({"public_key": public_key(ec.SECP384R1())}, 400, "unusable-public-key"),
        ({"public_key": "ü"}, 400, "unusable-public-key"),
        ({"public_key": "x" * 4097}, 413, "input-too-large"),
        ({"role": "admin"}, 400, "malformed-json"),
    ],
)
def test_a_malformed_proxy(world: World, lie: dict[str, Any], status: int, name: str) -> None:
    message = {"v": 1, "name": "till-2", "site": "shop-2", "public_key": public_key()} | lie
    answer = world.admin.post("/v1/admin/proxies", message)
    assert (answer.status_code, problem(answer)) == (status, name)
    assert world.viewer.get("/v1/admin/proxies").json["proxies"] == []


@pytest.mark.parametrize("name", ["none", "a%00b", "%ff"])
def test_disabling_what_is_none(world: World, name: str) -> None:
    answer = world.admin.post(f"/v1/admin/proxies/{name}/disable", {"v": 1})
    assert answer.status_code in (401, 404)
    assert problem(answer) in ("unknown-proxy", "request-misdirected")


def test_an_unknown_member_disables_nothing(world: World) -> None:
    message = {"v": 1, "name": "till-2", "site": "shop-2", "public_key": public_key()}
    assert world.admin.post("/v1/admin/proxies", message).status_code == 201
    answer = world.admin.post("/v1/admin/proxies/till-2/disable", {"v": 1, "until": 5})
    assert (answer.status_code, problem(answer)) == (400, "malformed-json")
    assert world.viewer.get("/v1/admin/proxies").json["proxies"][0]["disabled_at"] is None
