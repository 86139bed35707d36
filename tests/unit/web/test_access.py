"""Who may call what: the table is whole, and everybody else is turned away at every route."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from werkzeug.test import EnvironBuilder, TestResponse, run_wsgi_app

from attestd.credentials.requests import SoftwareKey
from attestd.ids import Serial
from attestd.protocol.encoding import b64encode, write_object
from attestd.protocol.signed import sign_flattened
from attestd.registry import issued, operators, proxies
from attestd.web import access
from attestd.web.access import DOORS, Who
from attestd.web.bodies import LARGE
from tests import authority
from tests.service import START, URL, Caller, SoftDevice, World, problem, signer

# Whose right has ended, and the problem that says so.
ENDED = {
    "disabled admin": "caller-disabled",
    "expired admin": "caller-expired",
    "revoked admin": "caller-expired",
    "disabled proxy": "caller-disabled",
    "expired proxy": "caller-expired",
}
KINDS = ("nobody", "stranger", "device", "proxy", "viewer", "operator", "admin", *ENDED)
MAY: dict[Who, tuple[str, ...]] = {
    Who.PUBLIC: KINDS,
    Who.DEVICE: ("device",),
    Who.PROXY: ("proxy",),
    Who.VIEWER: ("viewer", "operator", "admin"),
    Who.OPERATOR: ("operator", "admin"),
    Who.ADMIN: ("admin",),
}


# Where people sign in; the last step of each is signed by the session key that the message holds.
SIGN_IN = {
    "GET /v1/admin/sign-in",
    "POST /v1/admin/sign-in/passkey/begin",
    "POST /v1/admin/sign-in/passkey",
    "POST /v1/admin/sign-in/invitation/begin",
    "POST /v1/admin/sign-in/invitation",
    "POST /v1/admin/sign-in/oidc/begin",
    "POST /v1/admin/sign-in/oidc",
}
# What a viewer may change: their own sessions and passkeys.
ONES_OWN = {
    "DELETE /v1/admin/session",
    "POST /v1/admin/sessions/<id>/revoke",
    "POST /v1/admin/passkeys/begin",
    "POST /v1/admin/passkeys",
    "POST /v1/admin/passkeys/<id>/remove",
    "POST /v1/admin/touch/begin",
}
# What viewers send a text to, and what changes nothing.
LOOKS = {"POST /v1/admin/policy/check", "POST /v1/admin/policy/dry-run"}


def routes(world: World) -> set[str]:
    """Every route that the application has, as the table writes them."""
    return {
        f"{method} {rule.rule}"
        for rule in world.app.url_map.iter_rules()
        for method in rule.methods or ()
        if method != "HEAD"
    }


# ---- The table --------------------------------------------------------------------------------------------------


def test_the_table_names_every_route_and_no_other(world: World) -> None:
    assert routes(world) == set(DOORS)


def test_the_table_is_the_protocol_s() -> None:
    """docs/protocol.md, section 9, written down a second time."""
    public = {name for name, door in DOORS.items() if door.who is Who.PUBLIC}
    assert public == {
        "POST /v1/enrollments",
        "POST /v1/enrollments/complete",
        "GET /v1/nonce",
        "GET /v1/time",
        "GET /v1/demands/<id>",
        "GET /v1/root",
        "GET /v1/jwks",
        "GET /.well-known/jwks.json",
        "GET /v1/crl",
        "GET /v1/openapi.json",
        "GET /v1/policy/schema",
        "GET /v1/status-list",
        *SIGN_IN,
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
    }
    assert {name for name, door in DOORS.items() if door.who is Who.DEVICE} == {
        "POST /v1/attestations",
        "POST /v1/renewals",
        "POST /v1/tokens",
    }
    assert {name for name, door in DOORS.items() if door.who is Who.PROXY} == {
        "GET /v1/bundle",
        "GET /v1/bundle/stream",
        "GET /v1/audit/consistency",
        "POST /v1/proxies/renewals",
        "POST /v1/proxies/reports",
        "POST /v1/receipts",
    }
    for name, door in DOORS.items():
        if name.partition(" ")[2].startswith("/v1/admin/") and name not in SIGN_IN:
            assert door.who in (Who.VIEWER, Who.OPERATOR, Who.ADMIN), name
            assert door.who is not Who.VIEWER or name.startswith("GET ") or name in ONES_OWN | LOOKS, name


def test_dangerous_acts_ask_for_a_fresh_touch() -> None:
    """docs/sign-in.md, written down a second time; and what a view asks for, since it depends on more."""
    assert {name for name, door in DOORS.items() if door.touch} == {
        "POST /v1/admin/devices/<id>/label",
        "POST /v1/admin/devices/<id>/release",
        "POST /v1/admin/devices/<id>/retire",
        "POST /v1/admin/devices/<id>/replace",
        "POST /v1/admin/brake/engage",
        "POST /v1/admin/brake/release",
        "POST /v1/admin/credentials/<serial>/revoke",
        "POST /v1/admin/operators",
        "POST /v1/admin/operators/<name>/disable",
        "POST /v1/admin/trust",
        "DELETE /v1/admin/trust/<sha256>",
        "PUT /v1/admin/policy",
        "POST /v1/admin/policy/rollback",
        "POST /v1/admin/references",
        "POST /v1/admin/references/<number>/promote",
        "POST /v1/admin/references/<number>/withdraw",
        "POST /v1/admin/proxies",
        "POST /v1/admin/proxies/<name>/disable",
        "POST /v1/admin/passkeys/<id>/remove",
        "POST /v1/admin/invitations",
    }
    assert all(door.who in (Who.VIEWER, Who.OPERATOR, Who.ADMIN) for door in DOORS.values() if door.touch)


def test_a_route_that_takes_a_body_says_of_which_type_and_size() -> None:
    for name, door in DOORS.items():
        assert bool(door.accepts) == bool(door.limit), name
        assert bool(door.accepts) == name.startswith(("POST ", "PUT ")), name


@pytest.mark.parametrize("kind", ["nobody", "admin"])
def test_a_route_that_is_not_in_the_table_is_denied_to_everybody(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    listed = {name: door for name, door in DOORS.items() if name != "GET /v1/admin/overview"}
    assert world.admin.get("/v1/admin/overview").status_code == 200
    monkeypatch.setattr(access, "DOORS", listed)
    answer = world.get("/v1/admin/overview") if kind == "nobody" else world.admin.get("/v1/admin/overview")
    assert (answer.status_code, problem(answer)) == (403, "route-not-listed")


# ---- Every route, called by everybody ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One service and one of each kind of caller, for all of the calls below; a refused call changes nothing."""
    world = World(tmp_path_factory.mktemp("crowd") / "instance")
    device = world.enrolled()
    for role in ("viewer", "operator", "admin", "proxy"):
        world.caller(role)
    for kind in ENDED:
        how, role = kind.split()
        world.add_caller(kind, world.new_caller(role, f"{how}-{role}"))
        end(world, how, role)
    yield world, device
    world.close()


def end(world: World, how: str, role: str) -> None:
    """Takes a caller's right away, by an admin's act where there is one."""
    name = f"{how}-{role}"
    with world.registry.reading() as c:
        if role == "proxy":
            serial = proxies.by_name(c, name).serial
        else:
            held = operators.by_name(c, name)
            serial = Serial(x509.load_der_x509_certificate(held.key.certificate).serial_number)
    if how == "disabled":
        where = f"/v1/admin/{'proxies' if role == 'proxy' else 'operators'}/{name}/disable"
        assert world.admin.post(where, {"v": 1}).status_code == 200
    elif how == "revoked" or role == "proxy":  # a proxy's certificate that nobody knows any more ended long ago
        with world.registry.acting() as c:
            if how == "revoked":
                issued.revoke(c, serial, reason="", now=int(world.clock().timestamp()))
            else:
                proxies.renew(c, name, serial=Serial(1))
    else:
        past = authority.leaf(not_before=START - authority.DAY, not_after=START - authority.HOUR)
        with world.registry.acting() as c:
            operators.renew(c, name, thumbprint=held.key.thumbprint, public_key=held.key.public_key, certificate=past)


def call(world: World, device: SoftDevice, kind: str, route: str) -> TestResponse:
    """The route as this kind of caller would call it, with its own key and in the form that the route takes."""
    door = DOORS[route]
    method, _, path = route.partition(" ")
    for name, value in (
        ("<id>", "no-such-device"),
        ("<serial>", "1234"),
        ("<name>", "no-such"),
        ("<sha256>", "00" * 32),
        ("<number>", "1"),
    ):
        path = path.replace(name, value)
    content_type = next(iter(sorted(door.accepts)), None)
    body = b"{}" if door.accepts else b""
    if door.who is Who.DEVICE:
        key, kid = identity(world, device, kind)
        if key is None:
            return world.request(method, path, body, content_type=content_type)
        signed = sign_flattened(b"{}", sign=key, alg="ES256", kid=kid, url=URL + path, nonce=world.nonce())
        return world.request(method, path, signed, content_type=content_type)
    key, kid = identity(world, device, kind)
    if key is None:
        return world.request(method, path, body, content_type=content_type)
    caller = Caller(world, SoftwareKey(ec.generate_private_key(ec.SECP256R1())))
    return caller.open(method, path, body, content_type=content_type, sign=key, kid=kid)


def identity(world: World, device: SoftDevice, kind: str) -> tuple[Any, str]:
    if kind == "nobody":
        return None, ""
    if kind == "stranger":
        key = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
        return key.sign, key.thumbprint
    if kind == "device":
        return device.sign, device.id
    caller = world.caller(kind)
    return caller.key.sign, caller.key.thumbprint


@pytest.mark.parametrize("route", sorted(DOORS))
@pytest.mark.parametrize("kind", KINDS)
def test_every_route_called_by_everybody(crowd: tuple[World, SoftDevice], kind: str, route: str) -> None:
    world, device = crowd
    answer = call(world, device, kind, route)
    if kind in MAY[DOORS[route].who]:
        assert answer.status_code not in (401, 403), (answer.status_code, answer.text)
        assert answer.status_code < 500
    elif kind == "nobody" and DOORS[route].who is Who.DEVICE:
        assert (answer.status_code, problem(answer)) == (400, "malformed-json")  # not even the form of a signature
    else:
        # Where large bodies are taken, a proxy's is not even read: it is no operator.
        callers = (
            ("viewer", "operator", "admin") if DOORS[route].limit > LARGE else ("proxy", "viewer", "operator", "admin")
        )
        if kind in callers and DOORS[route].who is not Who.DEVICE:
            assert (answer.status_code, problem(answer)) == (403, "role-too-low")
        elif kind in ENDED and DOORS[route].who is not Who.DEVICE:
            unread = DOORS[route].limit > LARGE and kind.endswith("proxy")
            assert (answer.status_code, problem(answer)) == (401, "caller-unknown" if unread else ENDED[kind])
        else:
            assert answer.status_code == 401
            assert problem(answer) in ("caller-unknown", "signature-missing", "device-unknown")


# ---- The signature: one lie at a time ---------------------------------------------------------------------------

PATH = "/v1/admin/devices/none/retire"
ACCEPTED = (404, "unknown-device")  # the call came through; there is no such device


def refused(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, problem(answer)


def test_an_accepted_call(world: World) -> None:
    assert refused(world.operator.post(PATH, {"v": 1})) == ACCEPTED


def test_a_call_signed_for_another_path(world: World) -> None:
    answer = world.operator.post(PATH, {"v": 1}, url=f"{URL}/v1/admin/devices/some/retire")
    assert refused(answer) == (401, "request-misdirected")


def test_a_call_signed_for_another_host(world: World) -> None:
    answer = world.operator.post(PATH, {"v": 1}, url=f"https://evil.example{PATH}", headers={"Host": "evil.example"})
    assert refused(answer) == (401, "request-misdirected")


def test_a_call_signed_without_its_query(world: World) -> None:
    assert world.viewer.get("/v1/admin/devices?limit=1").status_code == 200
    answer = world.viewer.get("/v1/admin/devices?limit=1", url=f"{URL}/v1/admin/devices")
    assert refused(answer) == (401, "request-misdirected")


def test_a_call_signed_for_another_method(world: World) -> None:
    assert refused(world.operator.post(PATH, {"v": 1}, signed_method="GET")) == (401, "request-misdirected")


def test_a_call_with_another_body(world: World) -> None:
    assert refused(world.operator.post(PATH, {"v": 1}, signed_body=b'{"v":1,"reason":"x"}')) == (401, "signature-wrong")


def test_a_call_signed_by_another_key(world: World) -> None:
    sign = signer(ec.generate_private_key(ec.SECP256R1()))
    assert refused(world.operator.post(PATH, {"v": 1}, sign=sign)) == (401, "signature-wrong")


def test_a_call_by_an_unknown_key(world: World) -> None:
    stranger = Caller(world, SoftwareKey(ec.generate_private_key(ec.SECP256R1())))
    assert refused(stranger.post(PATH, {"v": 1})) == (401, "caller-unknown")


def test_a_call_with_another_algorithm(world: World) -> None:
    assert refused(world.operator.post(PATH, {"v": 1}, alg="none")) == (401, "request-algorithm-wrong")


def test_a_change_s_nonce_serves_once(world: World) -> None:
    nonce = world.nonce()
    assert refused(world.operator.post(PATH, {"v": 1}, nonce=nonce)) == ACCEPTED
    assert refused(world.operator.post(PATH, {"v": 1}, nonce=nonce)) == (401, "call-nonce-spent")


def test_a_read_s_nonce_serves_until_it_expires(world: World) -> None:
    nonce = world.nonce()
    for _ in range(2):
        assert world.viewer.get("/v1/admin/overview", nonce=nonce).status_code == 200
    world.clock.advance(minutes=5)
    assert refused(world.viewer.get("/v1/admin/overview", nonce=nonce)) == (401, "nonce-expired")


def test_a_made_up_nonce(world: World) -> None:
    answer = world.operator.post(PATH, {"v": 1}, nonce=bytes(len(world.nonce())))
    assert refused(answer) == (401, "nonce-invalid")


@pytest.mark.parametrize(
    "header",
    [
        "Bearer abc",
        "Attestd",
        "Attestd a.b.c",
        "Attestd ..",
        "Attestd a..b..c",
        "attestd " + "x" * 10,
        "Attestd " + "x" * 5000,
    ],
)
def test_an_authorization_of_another_form(world: World, header: str) -> None:
    answer = world.get("/v1/admin/overview", headers={"Authorization": header})
    assert answer.status_code in (400, 401)
    assert problem(answer) in ("malformed-signature", "malformed-json", "malformed-base64")


def test_a_disabled_operator(world: World) -> None:
    assert world.viewer.get("/v1/admin/overview").status_code == 200
    with world.registry.acting() as c:
        operators.disable(c, "viewer-1", now=0)
    assert refused(world.viewer.get("/v1/admin/overview")) == (401, "caller-disabled")


def test_a_disabled_proxy(world: World) -> None:
    assert world.proxy.get("/v1/bundle").status_code == 200
    with world.registry.acting() as c:
        proxies.disable(c, "proxy-1", now=0)
    assert refused(world.proxy.get("/v1/bundle")) == (401, "caller-disabled")


def test_an_operator_whose_credential_expired(world: World) -> None:
    assert world.viewer.get("/v1/admin/overview").status_code == 200
    world.clock.advance(days=366)
    assert refused(world.viewer.get("/v1/admin/overview")) == (401, "caller-expired")


def test_a_role_that_nobody_knows_may_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    require = type(world.service.callers).require
    monkeypatch.setattr(type(world.service.callers), "require", lambda *a, **k: replace(require(*a, **k), role="owner"))
    assert refused(world.viewer.get("/v1/admin/overview")) == (403, "role-too-low")


# ---- Devices' signatures ----------------------------------------------------------------------------------------


def test_a_device_can_t_call_as_an_operator(world: World) -> None:
    device = world.enrolled()
    answer = world.operator.open("GET", "/v1/admin/overview", sign=device.sign, kid=device.id)
    assert refused(answer) == (401, "caller-unknown")


def test_an_operator_s_envelope_is_no_device_s(world: World) -> None:
    """A detached signature over the same octets is of another `typ`."""
    device = world.enrolled()
    detached = world.operator.authorize("POST", "/v1/renewals", b'{"v":1}', sign=device.sign, kid=device.id)
    protected, _, signature = detached.removeprefix("Attestd ").split(".")
    body = write_object({"protected": protected, "payload": b64encode(b'{"v":1}'), "signature": signature})
    assert refused(world.post("/v1/renewals", body)) in ((401, "malformed-signature"), (400, "malformed-json"))


# ---- Large bodies -----------------------------------------------------------------------------------------------

IMPORT = "/v1/admin/devices/import"


class Endless(io.RawIOBase):
    """A body that notes that somebody read it."""

    read_from = False

    def read(self, size: int = -1, /) -> bytes:
        self.read_from = True
        return b"x" * size


def send_endless(world: World, authorization: str | None) -> tuple[str, bytes, bool]:
    """The status, the answer, and whether any of the body was read."""
    stream = Endless()
    headers = {"Transfer-Encoding": "chunked"} | ({} if authorization is None else {"Authorization": authorization})
    environ = EnvironBuilder(IMPORT, method="POST", content_type="text/csv", headers=headers).get_environ()
    environ["wsgi.input"] = stream
    answer, status, _ = run_wsgi_app(world.app, environ)
    return status, b"".join(answer), stream.read_from


def test_a_stranger_s_large_body_is_not_read(world: World) -> None:
    key = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
    for authorization in (None, Caller(world, key).authorize("POST", IMPORT), "Attstd e30..", "Attestd e30..e30"):
        status, _, was_read = send_endless(world, authorization)
        assert status.startswith(("401", "400"))
        assert not was_read


def test_an_operator_s_large_body_is_read_to_its_limit(world: World) -> None:
    status, answer, was_read = send_endless(world, world.operator.authorize("POST", IMPORT))
    assert (status[:3], was_read) == ("413", True)
    assert b"input-too-large" in answer


# ---- What every answer carries ----------------------------------------------------------------------------------


def test_signed_routes_give_a_fresh_nonce_with_every_answer(world: World) -> None:
    device = world.enrolled()
    answers = [
        world.get("/v1/nonce"),
        world.request("HEAD", "/v1/nonce"),
        world.post("/v1/enrollments", b"{"),  # refused
        device.renew(),
        device.renew(kid="nobody"),  # refused
        world.post("/v1/tokens", b"", content_type="text/plain"),  # refused before anything is read
        world.viewer.get("/v1/admin/overview"),
        world.get("/v1/admin/overview"),  # refused
        world.viewer.put("/v1/admin/policy", {}),  # refused
        world.proxy.get("/v1/bundle"),
    ]
    nonces = [answer.headers["Replay-Nonce"] for answer in answers]
    assert len(set(nonces)) == len(answers)
    assert all(answer.headers["Cache-Control"] == "no-store" for answer in answers)


def test_public_documents_give_none(world: World) -> None:
    for path in ("/v1/root", "/v1/jwks", "/v1/crl", "/healthz", "/readyz", "/metrics", "/nothing"):
        assert "Replay-Nonce" not in world.get(path).headers
