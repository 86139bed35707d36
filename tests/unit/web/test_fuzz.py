"""Whatever comes in: a typed answer, never a 5xx. Bodies are signed after they were spoiled, so that they get far."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from attestd.policy import default_policy
from attestd.protocol.derivations import completion_proof
from attestd.protocol.encoding import MalformedBase64, b64decode, b64encode, write_object
from attestd.protocol.messages import CompleteRequest, RenewalRequest, TokenRequest
from attestd.protocol.signed import sign_flattened
from attestd.web.access import DOORS, Who
from tests.authenticator import Authenticator
from tests.edge_reports import edge_report
from tests.service import URL, SoftDevice, World, problem

MANY = settings(
    max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Cast:
    """One service for all examples; what they change does not matter."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.device: SoftDevice = world.enrolled()
        for role in ("viewer", "operator", "admin", "proxy"):
            world.caller(role)


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cast]:
    world = World(tmp_path_factory.mktemp("fuzz") / "instance")
    yield Cast(world)
    world.close()


def check(answer: TestResponse) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        problem(answer)


# ---- Spoiling ---------------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([1 << 53, 1 << 63, -(1 << 63) - 1, 10**400]),
    st.floats(),
    st.text(max_size=40),
    st.binary(max_size=40).map(b64encode),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@dataclass(frozen=True)
class Spoil:
    """What to do to a body. The body itself differs in every run (keys and nonces do), so it decides nothing here."""

    seed: int
    octets: bytes
    text: str
    value: Any

    def __call__(self, body: bytes) -> bytes:
        """The body with something wrong in it, as octets or as JSON."""
        chance = random.Random(self.seed)
        if chance.random() < 0.4:
            return self._octets(chance, body)
        try:
            document = json.loads(body)
        except ValueError:
            return self._octets(chance, body)
        wrong = self._json(chance, document)
        return json.dumps(wrong, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")

    def _json(self, chance: random.Random, value: Any) -> Any:
        """One member somewhere is changed, missing, or added; binary values are cut, lengthened or flipped."""
        if isinstance(value, dict) and value and chance.random() < 0.85:
            name = chance.choice(sorted(value))
            what = chance.choice(["inside", "inside", "inside", "inside", "drop", "add", "rename"])
            if what == "inside":
                return value | {name: self._json(chance, value[name])}
            rest = {key: entry for key, entry in value.items() if key != name}
            if what == "drop":
                return rest
            return (value if what == "add" else rest) | {self.text[:8]: self.value}
        if isinstance(value, list) and value and chance.random() < 0.7:
            at = chance.randrange(len(value))
            return [*value[:at], self._json(chance, value[at]), *value[at + 1 :]]
        if isinstance(value, str) and chance.random() < 0.8:
            try:
                return b64encode(self._octets(chance, b64decode(value)))
            except MalformedBase64:
                return self.text
        return self.value

    def _octets(self, chance: random.Random, octets: bytes) -> bytes:
        at = chance.randint(0, len(octets))
        what = chance.choice(["cut", "flip", "flip", "insert", "append", "random"])
        if what == "cut":
            return octets[:at]
        if what == "flip" and at < len(octets):
            return octets[:at] + bytes([octets[at] ^ chance.randint(1, 255)]) + octets[at + 1 :]
        if what == "insert":
            return octets[:at] + self.octets + octets[at:]
        return octets + self.octets if what == "append" else self.octets


spoils = st.builds(
    Spoil, seed=st.integers(0, 2**32), octets=st.binary(max_size=200), text=st.text(max_size=40), value=anything
)


# ---- Devices ----------------------------------------------------------------------------------------------------


@MANY
@given(spoil=spoils)
def test_begin(cast: Cast, spoil: Spoil) -> None:
    check(cast.world.post("/v1/enrollments", spoil(cast.device.begin_request().to_bytes())))


@MANY
@given(spoil=spoils)
def test_complete(cast: Cast, spoil: Spoil) -> None:
    device = cast.world.device()
    challenge = device.begin()
    message = CompleteRequest(challenge.challenge, device.evidence(challenge).to_bytes(), bytes(32))
    answer = cast.world.post(
        "/v1/enrollments/complete",
        spoil(message.to_bytes()),
        environ_base={"REMOTE_ADDR": f"10.0.{spoil.seed % 250}.{spoil.seed % 249}"},  # else all would soon be limited
    )
    check(answer)


@MANY
@given(spoil=spoils)
def test_complete_with_a_right_proof_over_spoiled_evidence(cast: Cast, spoil: Spoil) -> None:
    device = cast.world.device()
    challenge = device.begin()
    secret = device.tpm.activate(challenge.credential_blob, challenge.secret)
    body = spoil(device.evidence(challenge).to_bytes())
    check(device.complete(challenge, body, proof=completion_proof(secret=secret, body=body)))


@MANY
@given(path=st.sampled_from(["/v1/attestations", "/v1/renewals", "/v1/tokens"]), spoil=spoils)
def test_signed_requests_with_spoiled_payloads(cast: Cast, path: str, spoil: Spoil) -> None:
    device, nonce = cast.device, cast.world.nonce()
    payload = {
        "/v1/attestations": device.attestation(nonce).to_bytes(),
        "/v1/renewals": RenewalRequest(device.evidence(device.begin()).key).to_bytes(),
        "/v1/tokens": TokenRequest("edge").to_bytes(),
    }[path]
    check(device.signed(path, spoil(payload), nonce=nonce))


@MANY
@given(path=st.sampled_from(["/v1/attestations", "/v1/renewals", "/v1/tokens"]), spoil=spoils)
def test_spoiled_envelopes(cast: Cast, path: str, spoil: Spoil) -> None:
    device = cast.device
    envelope = sign_flattened(
        b'{"v":1}', sign=device.sign, alg="ES256", kid=device.id, url=URL + path, nonce=cast.world.nonce()
    )
    check(cast.world.post(path, spoil(envelope)))


@MANY
@given(header=st.dictionaries(st.sampled_from(["alg", "kid", "url", "nonce", "typ", "crit", "jwk", "x5c"]), anything))
def test_headers_of_anything(cast: Cast, header: dict[str, Any]) -> None:
    device = cast.device
    true = {"alg": "ES256", "kid": device.id, "url": f"{URL}/v1/renewals", "typ": "attestd-request+jws"}
    true["nonce"] = b64encode(cast.world.nonce())
    protected = b64encode(json.dumps(true | header).encode())
    payload = b64encode(b'{"v":1}')
    signature = b64encode(device.sign(f"{protected}.{payload}".encode()))
    members = {"protected": protected, "payload": payload, "signature": signature}
    check(cast.world.post("/v1/renewals", write_object(members)))


# ---- Operators and proxies --------------------------------------------------------------------------------------


SIGNED = {Who.PROXY, Who.VIEWER, Who.OPERATOR, Who.ADMIN}


def bodies(cast: Cast) -> dict[str, bytes]:
    """A body that each route with one takes."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    act = write_object({"v": 1, "reason": "why", "expected_version": 1})
    inventory = f"ek_hash,tier,site,labels\n{'ab' * 32},device,shop-1,a=b;c=d\n".encode()
    options = {"user": {"id": "aGFuZGxl"}, "rp": {"id": "attestd.example"}, "challenge": "YWJj"}
    credential = Authenticator().create(options, URL)
    approval = {"v": 1, "tier": "device", "site": "shop-1", "labels": {"a": "b"}, "reason": "why"}
    return {
        "POST /v1/proxies/renewals": b'{"v":1}',
        "POST /v1/proxies/reports": write_object(edge_report()),
        "POST /v1/receipts": write_object({"v": 1, "chain": "a" * 32, "receipts": []}),
        "POST /v1/admin/devices/import": inventory,
        "POST /v1/admin/devices/<id>/approve": write_object(approval),
        "POST /v1/admin/devices/<id>/label": write_object({"v": 1, "labels": {"a": "b"}, "remove": ["c"]}),
        "POST /v1/admin/devices/<id>/reject": act,
        "POST /v1/admin/devices/<id>/quarantine": act,
        "POST /v1/admin/devices/<id>/release": act,
        "POST /v1/admin/devices/<id>/retire": act,
        "POST /v1/admin/devices/<id>/replace": write_object({"v": 1, "ek_hash": "cd" * 32, "reason": "why"}),
        "POST /v1/admin/credentials/<serial>/revoke": write_object({"v": 1, "reason": "why"}),
        "POST /v1/admin/trust": cast.world.maker.root.certificate,
        "PUT /v1/admin/policy": write_object({"v": 1, "text": default_policy()}),
        "POST /v1/admin/policy/check": write_object({"v": 1, "text": default_policy()}),
        "POST /v1/admin/policy/dry-run": write_object({"v": 1, "text": default_policy()}),
        "POST /v1/admin/devices/find": write_object({"v": 1, "ek_hash": "cd" * 32}),
        "POST /v1/admin/policy/rollback": write_object({"v": 1, "to": 1, "reason": "why"}),
        "POST /v1/admin/devices/demand": write_object({"v": 1, "site": "shop-1", "reason": "why"}),
        "POST /v1/admin/devices/<id>/demand": write_object({"v": 1, "reason": "why"}),
        "POST /v1/admin/brake/engage": write_object({"v": 1, "reason": "why"}),
        "POST /v1/admin/brake/release": write_object({"v": 1, "held": "dismiss", "reason": "why"}),
        "POST /v1/admin/devices/release-cohort": write_object(
            {"v": 1, "site": "shop-1", "expected": 0, "reason": "why"}
        ),
        "POST /v1/admin/devices/selection": write_object(
            {"v": 1, "act": "quarantine", "devices": [{"id": cast.device.id, "version": 1}], "reason": "why"}
        ),
        "POST /v1/admin/references": write_object(
            {"name": "bike-4", "stage": "monitor", "pcrs": {"sha256": {"0": ["11" * 32]}}, "boot": {"uki": True}}
        ),
        "POST /v1/admin/references/learn": write_object(
            {
                "v": 1,
                "devices": [cast.device.id],
                "name": "x",
                "pcrs": [0],
                "match": {"tier": "device"},
                "runtime": True,
            }
        ),
        "POST /v1/admin/references/<number>/promote": write_object(
            {"v": 1, "stage": "monitor", "overlap": 60, "accept_refusals": 1, "unwatched": False, "reason": "why"}
        ),
        "POST /v1/admin/references/<number>/withdraw": write_object({"v": 1, "reason": "why"}),
        "POST /v1/admin/proxies": write_object({"v": 1, "name": "till-7", "site": "shop-1", "public_key": pem}),
        "POST /v1/admin/proxies/<name>/disable": b'{"v":1}',
        "POST /v1/admin/operators": write_object({"v": 1, "name": "ada", "role": "viewer", "public_key": pem}),
        "POST /v1/admin/operators/<name>/disable": write_object({"v": 1, "reason": "why"}),
        "POST /v1/admin/sessions/<id>/revoke": write_object({"v": 1, "reason": "why"}),
        "POST /v1/admin/passkeys/begin": b'{"v":1}',
        "POST /v1/admin/passkeys": write_object(
            {"v": 1, "challenge": b64encode(bytes(93)), "credential": credential, "label": "laptop"}
        ),
        "POST /v1/admin/passkeys/<id>/remove": write_object({"v": 1, "reason": "why"}),
        "POST /v1/admin/touch/begin": write_object(
            {"v": 1, "method": "POST", "path": "/v1/admin/brake/engage", "body_sha256": b64encode(bytes(32))}
        ),
        "POST /v1/admin/invitations": write_object({"v": 1, "name": "bob", "role": "viewer"}),
        "POST /v1/admin/invitations/<id>/withdraw": write_object({"v": 1, "reason": "why"}),
    }


def test_a_body_is_at_hand_for_every_signed_call(cast: Cast) -> None:
    assert set(bodies(cast)) == {name for name, door in DOORS.items() if door.who in SIGNED and door.accepts}


SIGNED_WITH_BODY = sorted(name for name, door in DOORS.items() if door.who in SIGNED and door.accepts)
READABLE = sorted(name for name in DOORS if name.startswith("GET "))
made_up = st.text(min_size=1, max_size=70).filter(lambda text: "/" not in text)
ids = st.one_of(st.none(), st.sampled_from(["00" * 20, "00" * 32, "no-such"]), made_up)


def fill(cast: Cast, path: str, id: str | None) -> str:
    """The path with an id in it; None is the device's own."""
    for name in ("<id>", "<serial>", "<name>", "<sha256>", "<number>"):
        path = path.replace(name, cast.device.id if id is None else id)
    return quote(path)


@MANY
@given(route=st.sampled_from(SIGNED_WITH_BODY), id=ids, spoil=st.none() | spoils, media=st.integers(0, 2))
def test_signed_calls_with_spoiled_bodies(
    cast: Cast, route: str, id: str | None, spoil: Spoil | None, media: int
) -> None:
    method, _, template = route.partition(" ")
    caller = cast.world.proxy if DOORS[route].who is Who.PROXY else cast.world.admin
    body = bodies(cast)[route] if spoil is None else spoil(bodies(cast)[route])
    accepted = sorted(DOORS[route].accepts)
    check(caller.open(method, fill(cast, template, id), body, content_type=accepted[media % len(accepted)]))


NAMES = ["state", "tier", "site", "q", "after", "before", "limit", "device", "subject", "nonce", "all"]


@MANY
@given(
    route=st.sampled_from(READABLE),
    id=ids,
    query=st.dictionaries(st.sampled_from(NAMES), st.text(max_size=30) | st.integers().map(str), max_size=3),
)
def test_queries_of_anything(cast: Cast, route: str, id: str | None, query: dict[str, str]) -> None:
    path = fill(cast, route.partition(" ")[2], id)
    full = f"{path}?{urlencode(query)}" if query else path
    who = DOORS[route].who
    if who is Who.PUBLIC:
        check(cast.world.get(full))
    else:
        check((cast.world.proxy if who is Who.PROXY else cast.world.admin).get(full))


# ---- Everything else that HTTP lets one send --------------------------------------------------------------------

latin = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\x00"), max_size=60)


HEADERS = ["Authorization", "X-Request-Id", "If-None-Match", "Accept", "X-Forwarded-For", "Cookie", "Range", "Expect"]
MEDIA_TYPES = ["application/json", "application/jose+json", "text/csv", "multipart/form-data; boundary=x", ""]


@MANY
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "FOO"]),
    path=st.sampled_from(sorted(name.partition(" ")[2] for name in DOORS))
    | st.binary(max_size=40).map(lambda octets: "/" + quote(octets)),
    headers=st.dictionaries(st.sampled_from(HEADERS), latin, max_size=3),
    content_type=st.sampled_from(MEDIA_TYPES) | latin,
    body=st.binary(max_size=300),
)
def test_unsigned_requests_of_anything(  # noqa: PLR0917
    cast: Cast, method: str, path: str, headers: dict[str, str], content_type: str, body: bytes
) -> None:
    check(cast.world.request(method, path, body, headers=headers, content_type=content_type or None))


@MANY
@given(authorization=st.one_of(latin, latin.map(lambda text: f"Attestd {text}"), st.binary(max_size=60).map(b64encode)))
def test_authorizations_of_anything(cast: Cast, authorization: str) -> None:
    for value in (authorization, f"Attestd {authorization}..{authorization}"):
        answer = cast.world.get("/v1/admin/overview", headers={"Authorization": value})
        check(answer)
        assert answer.status_code in (400, 401)


@pytest.mark.parametrize("route", sorted(name for name, door in DOORS.items() if door.accepts))
def test_a_body_just_over_the_limit(cast: Cast, route: str) -> None:
    method, _, path = route.partition(" ")
    door = DOORS[route]
    path = quote(path.replace("<id>", "x").replace("<serial>", "1").replace("<name>", "x"))
    answer = cast.world.request(
        method,
        path,
        b"{}",
        content_type=sorted(door.accepts)[0],
        headers={"Authorization": cast.world.admin.authorize(method, path)},
        environ_overrides={"CONTENT_LENGTH": str(door.limit + 1)},
    )
    assert (answer.status_code, problem(answer)) == (413, "input-too-large")
