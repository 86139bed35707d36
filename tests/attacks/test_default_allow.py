"""Branches that let something through because nobody thought of it: what is missing, unknown, of another kind, empty.

step-ca CVE-2026-30836 (an unhandled message type skipped authorisation), CVE-2026-40097 (an empty EKU), Keylime
CVE-2023-3674 (a failure that was only logged) and CVE-2022-3500 (an exception left an agent trusted) are of this kind.
Every valid message is taken apart here: each member missing, null, empty and of each other type; then octets at random.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from attestd.errors import AttestdError
from attestd.policy import default_policy, edge_tokens_policy
from attestd.protocol.derivations import completion_proof
from attestd.protocol.encoding import write_object
from attestd.protocol.messages import CompleteRequest, RenewalRequest, TokenRequest
from attestd.protocol.signed import SignedEnvelope, sign_flattened
from attestd.registry import issued
from attestd.registry.engine import DatabaseBusy, Registry
from tests.attacks.ledger import Ledger, refused
from tests.service import URL, SoftDevice, World, problem

Count = Callable[[], Ledger]
Send = Callable[[bytes], TestResponse]
RANDOM = settings(
    max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# ---- Every message, taken apart ---------------------------------------------------------------------------------


def begin(device: SoftDevice) -> tuple[bytes, Send]:
    return device.begin_request().to_bytes(), lambda body: device.world.post("/v1/enrollments", body)


def complete(device: SoftDevice) -> tuple[bytes, Send]:
    """The message around the evidence. Whatever is changed in it, the proof no longer fits, or the seal."""
    challenge = device.begin()
    body = device.evidence(challenge).to_bytes()
    secret = device.tpm.activate(challenge.credential_blob, challenge.secret)
    message = CompleteRequest(challenge.challenge, body, completion_proof(secret=secret, body=body)).to_bytes()
    return message, lambda data: device.world.post("/v1/enrollments/complete", data)


def evidence(device: SoftDevice) -> tuple[bytes, Send]:
    """The evidence itself, under a right proof: the device lies."""
    honest = device.evidence(device.begin()).to_bytes()
    return honest, lambda body: device.complete(device.begin(), body)


def attestation(device: SoftDevice) -> tuple[bytes, Send]:
    nonce = device.world.nonce()
    return device.attestation(nonce).to_bytes(), lambda body: device.signed("/v1/attestations", body, nonce=nonce)


def rekeying(device: SoftDevice) -> tuple[bytes, Send]:
    key = device.evidence(device.begin()).key
    return RenewalRequest(key).to_bytes(), lambda body: device.signed("/v1/renewals", body)


def token(device: SoftDevice) -> tuple[bytes, Send]:
    return TokenRequest("edge").to_bytes(), lambda body: device.signed("/v1/tokens", body)


def enveloped(device: SoftDevice) -> tuple[bytes, Send]:
    honest = sign_flattened(
        RenewalRequest().to_bytes(),
        sign=device.sign,
        alg="ES256",
        kid=device.id,
        url=URL + "/v1/renewals",
        nonce=device.world.nonce(),
    )
    return honest, lambda body: device.world.post("/v1/renewals", body, content_type="application/jose+json")


def approval(device: SoftDevice) -> tuple[bytes, Send]:
    path = f"/v1/admin/devices/{device.world.row(device).id}/approve"
    return write_object({"v": 1, "tier": "device", "site": "shop-1"}), lambda body: device.world.operator.post(
        path, body
    )


MESSAGES = {
    door.__name__: door for door in (begin, complete, evidence, attestation, rekeying, token, enveloped, approval)
}
# Members that may be left out, and what their absence means is tested elsewhere. Nothing else may.
OPTIONAL = {("token", "binding"), ("approval", "v"), ("rekeying", "ck")}
OTHERS: tuple[Any, ...] = (None, True, 0, -1, 1.5, "", "AAAA", [], {}, [[]], {"": None})


def spoiled(document: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The path of each member, and the document without it, and with another value in its place."""
    for name, value in document.items():
        yield (name,), {key: kept for key, kept in document.items() if key != name}
        for other in OTHERS:
            if other != value or type(other) is not type(value):
                yield (name, "="), document | {name: other}
        if isinstance(value, dict):
            for path, changed in spoiled(value):
                yield (name, *path), document | {name: changed}
    yield ("+",), document | {"unheard_of": 1}


@pytest.mark.parametrize("kind", sorted(MESSAGES))
def test_no_member_may_be_missing_unknown_or_something_else(world: World, ledger: Count, kind: str) -> None:
    if kind == "approval":
        device = world.device()
        assert device.enroll().status_code == 202
    else:
        device = world.enrolled()
    message, send = MESSAGES[kind](device)
    before = ledger()
    for path, changed in spoiled(json.loads(message)):
        if (kind, path[0]) in OPTIONAL and len(path) == 1:
            continue
        answer = send(json.dumps(changed).encode())
        assert 400 <= answer.status_code < 500, f"{path}: {answer.status_code} {answer.text}"
        problem(answer)
    assert ledger() == before


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftDevice]:
    world = World(tmp_path_factory.mktemp("attacks") / "instance")
    yield world.enrolled()
    world.close()


def parsed(kind: str, body: bytes) -> Any:
    """What the message says, however it is written; None if nothing."""
    reader: Callable[[bytes], Any] = (
        CompleteRequest.parse
        if kind == "complete"
        else lambda data: SignedEnvelope.parse_flattened(data, limit=1 << 20)
    )
    try:
        return reader(body)
    except AttestdError:
        return None


@pytest.mark.parametrize("kind", ["complete", "enveloped"])
@RANDOM
@given(data=st.data())
def test_octets_changed_at_random_give_no_credential(cast: SoftDevice, kind: str, data: st.DataObject) -> None:
    """A credential comes for a message that says the same in other octets (white space), and for no other."""
    honest, send = MESSAGES[kind](cast)
    changed = bytearray(honest)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 1 << 20)) % len(changed)
        how = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"]))
        if how == "flip":
            changed[at] ^= data.draw(st.integers(1, 255))
        elif how == "cut":
            del changed[at : at + data.draw(st.integers(1, 40))]
        elif how == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            changed[at:at] = changed[: data.draw(st.integers(1, 60))]
        if not changed:
            break
    before = Ledger.of(cast.world)
    answer = send(bytes(changed))
    assert answer.status_code < 500, answer.text
    if parsed(kind, bytes(changed)) != parsed(kind, honest):
        assert answer.status_code >= 400, answer.text
        assert Ledger.of(cast.world) == before


@pytest.mark.parametrize("kind", ["evidence", "attestation", "rekeying"])
@RANDOM
@given(data=st.data())
def test_tpm_structures_changed_at_random_give_no_credential(cast: SoftDevice, kind: str, data: st.DataObject) -> None:
    """One octet of a public area, a statement, a signature or a PCR value, in a request that is signed rightly."""
    honest, send = MESSAGES[kind](cast)
    text = honest.decode()
    at = data.draw(st.integers(0, 1 << 20)) % len(text)
    letter = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
    changed = text[:at] + letter + text[at + 1 :]
    before = Ledger.of(cast.world)
    answer = send(changed.encode())
    assert answer.status_code < 500, answer.text
    if changed != text and kind != "attestation":  # an attestation's own nonce is right, so only a change may fail it
        assert answer.status_code >= 400, answer.text
    if changed != text:
        assert answer.status_code >= 400, answer.text
        assert Ledger.of(cast.world) == before


@pytest.mark.parametrize("kind", sorted(set(MESSAGES) - {"evidence", "attestation", "rekeying", "token"}))
@pytest.mark.parametrize(
    "media", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_a_form_is_no_message(world: World, ledger: Count, kind: str, media: str) -> None:
    """What a web page can make a browser send without asking (Fetch, CORS-safelisted types) is taken nowhere."""
    device = world.enrolled()
    message, _ = MESSAGES[kind](device)
    paths = {
        "begin": "/v1/enrollments",
        "complete": "/v1/enrollments/complete",
        "enveloped": "/v1/renewals",
        "approval": f"/v1/admin/devices/{device.id}/approve",
    }
    before = ledger()
    told = {"Authorization": world.operator.authorize("POST", paths[kind], message)} if kind == "approval" else {}
    answer = world.post(paths[kind], message, content_type=media, headers=told)
    assert refused(answer, 415, "content-type-wrong")
    assert ledger() == before


# ---- Faults on the way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["attest", "renew", "token", "rekey", "enroll"])
@pytest.mark.parametrize("error", [DatabaseBusy(), RuntimeError("nobody foresaw this")], ids=["busy", "unforeseen"])
def test_a_fault_gives_nothing(
    world: World, ledger: Count, monkeypatch: pytest.MonkeyPatch, verb: str, error: Exception
) -> None:
    """Keylime CVE-2022-3500: an exception on the way left an agent trusted. Signed is not issued: nothing leaves."""
    device = world.enrolled()
    before = ledger()

    def fails(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "act", fails)
        answer = getattr(device, verb)()
    assert answer.status_code in (500, 503), answer.text
    assert b"CERTIFICATE" not in answer.data
    assert b"foresaw" not in answer.data
    assert ledger() == before
    assert getattr(device, verb)().status_code == 200


# ---- Policies ---------------------------------------------------------------------------------------------------

FAILS = "9223372036854775807 + 1 > 0"  # overflows when it is evaluated, and passes every check before
PERMIT = edge_tokens_policy()


def set_policy(world: World, text: str) -> TestResponse:
    return world.admin.put("/v1/admin/policy", {"v": 1, "text": text})


@pytest.mark.parametrize(
    "text",
    [
        "",
        default_policy(),
        f'permit (principal is Device, action == Action::"token", resource) when {{ {FAILS} }};',
        # In Cedar, a forbid that fails is left out. Here, what can't be decided is denied.
        PERMIT + f'forbid (principal is Device, action == Action::"token", resource) when {{ {FAILS} }};',
        PERMIT + 'forbid (principal, action == Action::"token", resource);',
    ],
    ids=["nothing", "no token policy", "a permit that fails", "a forbid that fails", "a forbid"],
)
def test_what_no_policy_permits_is_denied(world: World, text: str) -> None:
    device = world.enrolled()
    assert device.token().status_code == 200
    stored = set_policy(world, text)
    if stored.status_code != 200:  # it may be refused before it is stored; then the one before stands
        assert 400 <= stored.status_code < 500, stored.text
        pytest.skip("this policy is refused when it is set")
    assert refused(device.token(), 403, "audience-denied")


@pytest.mark.parametrize("text", ["permit (", "permit (principal, action, resource) when { context.made_up };", "\0"])
def test_a_policy_that_is_none_changes_nothing(world: World, text: str) -> None:
    device = world.enrolled()
    assert set_policy(world, text).status_code == 400
    assert device.token().status_code == 200


@pytest.mark.parametrize(
    "audience", ["", "Edge", "EDGE", "edge ", " edge", "edge/", "edge,cloud", "*", "edge\0", "edg", "edges", "еdge"]
)
def test_an_audience_in_another_spelling(world: World, audience: str) -> None:
    device = world.enrolled()
    answer = device.token(audience)
    assert answer.status_code in (400, 403), answer.text
    assert device.token("edge").status_code == 200


@pytest.mark.parametrize("tier", ["edge", "cloud"])
def test_a_policy_for_one_tier_is_for_no_other(world: World, tier: str) -> None:
    device = world.enrolled(tier=tier)
    assert refused(device.token(), 403, "audience-denied")


@pytest.mark.parametrize("binding", ["", "none", "bearer", "TLS", "dpop,tls"])
def test_no_token_is_a_bearer_s(world: World, binding: str) -> None:
    device = world.enrolled()
    assert refused(device.token(binding=binding), 400, "malformed-json")


@pytest.mark.parametrize("act", ["quarantine", "retire", "replace", "revoke"])
def test_who_lost_trust_gets_no_token(world: World, act: str) -> None:
    device = world.enrolled()
    assert device.token().status_code == 200
    if act == "revoke":
        with world.registry.reading() as c:
            serial = issued.page(c, device_id=world.row(device).id)[0].serial
        assert world.operator.post(f"/v1/admin/credentials/{serial}/revoke", {"v": 1}).status_code == 200
    else:
        more = {"ek_hash": world.device().ek_hash.hex()} if act == "replace" else {}
        assert world.operator.post(f"/v1/admin/devices/{device.id}/{act}", {"v": 1, **more}).status_code == 200
    answer = device.token()
    assert answer.status_code in (401, 403), answer.text
    assert b'"token"' not in answer.data
