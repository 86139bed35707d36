"""Signing in with a passkey and with an invitation; each lie is refused, and changes nothing."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestd.config import ConsoleSettings, ServerSettings
from attestd.credentials.requests import SoftwareKey
from attestd.protocol.encoding import b64decode, b64encode, write_object
from attestd.registry import audit, invitations, passkeys, sessions
from tests.authenticator import (
    SIGN_IN,
    USER_PRESENT,
    USER_VERIFIED,
    Authenticator,
    Browser,
    Person,
    cose,
    invite,
)
from tests.service import URL, World, problem

SESSION = "/v1/admin/session"


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, problem(answer)


@pytest.fixture
def ada(world: World) -> Person:
    return Person(world, "ada", "operator")


# ---- As it should be --------------------------------------------------------------------------------------------


def test_what_a_sign_in_page_needs_to_know(world: World) -> None:
    shown = world.get(SIGN_IN).get_json()
    assert shown == {
        "v": 1,
        "trust_domain": "fleet.example",
        "passkeys": True,
        "rp_id": "attestd.example",
        "origins": [URL],
        "providers": [],
        "first_run": True,
    }
    Person(world, "ada", "viewer")
    assert world.get(SIGN_IN).get_json()["first_run"] is False


def test_an_invited_person_has_a_session_and_a_passkey(world: World) -> None:
    link = invite(world, "ada", "operator")
    assert link["link"] == f"{URL}/first/{link['token']}"
    browser, passkey = Browser(world), Authenticator()
    begun = browser.begin("invitation", token=link["token"])
    assert (begun["name"], begun["role"]) == ("ada", "operator")
    options = begun["options"]
    assert options["authenticatorSelection"]["residentKey"] == "required"
    assert options["authenticatorSelection"]["userVerification"] == "required"
    assert options["attestation"] == "none"
    assert {each["alg"] for each in options["pubKeyCredParams"]} == {-7, -8, -257}
    assert options["challenge"] == begun["challenge"]

    answer = browser.accept(link["token"], passkey)
    assert answer.status_code == 201
    session = answer.get_json()["session"]
    assert (session["operator"], session["role"], session["method"]) == ("ada", "operator", "invitation")
    shown = browser.get(SESSION).get_json()
    assert shown["operator"] == {"name": "ada", "role": "operator"}
    assert (shown["session"]["id"], shown["session"]["current"], shown["passkeys"]) == (session["id"], True, 1)
    with world.registry.reading() as c:
        (held,) = passkeys.of_operator(c, "ada")
        acts = {row.act: row for row in audit.page(c, subject="ada")}
    assert (held.label, held.transports, held.used_at) == ("laptop", ("hybrid", "internal"), None)
    assert acts["sign-in"].actor == "operator:ada"
    assert acts["sign-in"].detail["session"] == session["id"]
    assert {"invite", "accept-invitation", "add-passkey", "sign-in"} == set(acts)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["ES256", "EdDSA", "RS256"],
)
def test_signing_in_again_with_each_kind_of_key(world: World, key: Any) -> None:
    ada = Person(world, "ada", "viewer", Authenticator(key=key))
    begun = Browser(world).begin("passkey")
    assert begun["options"]["userVerification"] == "required"
    assert begun["options"]["rpId"] == "attestd.example"
    assert begun["options"]["allowCredentials"] == []  # nobody is named
    browser = ada.another_browser()
    shown = browser.get(SESSION).get_json()["session"]
    assert (shown["method"], shown["browser"]["address"]) == ("passkey", "192.0.2.7")
    with world.registry.reading() as c:
        (held,) = passkeys.of_operator(c, "ada")
    assert held.sign_count == 1
    assert held.used_at == int(world.clock().timestamp())


def test_a_passkey_that_does_not_count_is_taken(world: World, ada: Person) -> None:
    for _ in range(2):
        assert Browser(world).sign_in(ada.passkey, count=0).status_code == 201


def test_the_console_has_its_own_name(world: World) -> None:
    """A passkey belongs to a host name, so an address is never the relying party."""
    world.configure(server=ServerSettings(listen="127.0.0.1:9443"))
    shown = world.get(SIGN_IN).get_json()
    assert (shown["rp_id"], shown["origins"]) == ("localhost", ["https://localhost:9443"])
    world.configure(server=ServerSettings(listen="127.0.0.1:9443", names=("127.0.0.1",)))
    shown = world.get(SIGN_IN).get_json()
    assert (shown["passkeys"], shown["rp_id"]) == (False, "")
    key = {"v": 1, "key": Browser(world).public}
    assert refused(world.post(f"{SIGN_IN}/passkey/begin", write_object(key))) == (409, "passkeys-unavailable")
    world.configure(console=ConsoleSettings(origin="https://Console.example:443/"))
    shown = world.get(SIGN_IN).get_json()
    assert (shown["rp_id"], shown["origins"]) == ("console.example", ["https://console.example"])


# ---- Forged assertions ------------------------------------------------------------------------------------------

LIES: dict[str, dict[str, Any]] = {
    "another origin": {"origin": "https://attestd.example.evil.test:8443"},
    "another port": {"origin": "https://attestd.example"},
    "a subdomain": {"origin": "https://x.attestd.example:8443"},
    "another scheme": {"origin": "http://attestd.example:8443"},
    "another relying party": {"rp_id": "evil.test"},
    "another challenge": {"challenge": b64encode(b"c" * 93)},
    "a registration": {"type": "webauthn.create"},
    "a frame": {"cross_origin": True},
    "user not verified": {"flags": USER_PRESENT},
    "user not there": {"flags": USER_VERIFIED},
    "another handle": {"handle": b"h" * 32},
    "no handle": {"handle": None},
    "another signature": {"sign": lambda message: Authenticator()._sign(message)},
    "no signature": {"sign": lambda message: b"\0"},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_forged_assertion_opens_nothing(world: World, ada: Person, lie: str) -> None:
    browser = Browser(world)
    assert refused(browser.sign_in(ada.passkey, **LIES[lie])) == (401, "passkey-refused")
    assert refused(browser.get(SESSION)) == (401, "caller-unknown")
    assert browser.sign_in(ada.passkey).status_code == 201  # the same without the lie


def test_a_passkey_that_nobody_registered(world: World, ada: Person) -> None:
    stranger = Authenticator(handle=ada.passkey.handle)
    assert refused(Browser(world).sign_in(stranger)) == (401, "passkey-unknown")
    stranger.credential = ada.passkey.credential  # another key under the name of one that is registered
    assert refused(Browser(world).sign_in(stranger)) == (401, "passkey-refused")


def test_another_person_s_passkey_is_that_person(world: World, ada: Person) -> None:
    eve = Person(world, "eve", "viewer")
    assert refused(Browser(world).sign_in(eve.passkey, handle=ada.passkey.handle)) == (401, "passkey-refused")
    assert eve.another_browser().get(SESSION).get_json()["operator"]["name"] == "eve"


def test_a_counter_that_goes_back_is_refused_and_told(world: World, ada: Person) -> None:
    assert Browser(world).sign_in(ada.passkey, count=9).status_code == 201
    for count in (9, 8, 0):
        assert refused(Browser(world).sign_in(ada.passkey, count=count)) == (401, "passkey-copied")
    with world.registry.reading() as c:
        rows = [row for row in audit.page(c, subject="ada") if row.act == "passkey-copied"]
    assert [row.detail["seen"] for row in rows] == ["0", "8", "9"]
    assert {row.actor for row in rows} == {"attestd"}
    assert Browser(world).sign_in(ada.passkey, count=10).status_code == 201


def test_a_forged_counter_is_not_told(world: World, ada: Person) -> None:
    """Strangers can't write into the audit trail: the signature comes first."""
    assert Browser(world).sign_in(ada.passkey, count=9).status_code == 201
    assert problem(Browser(world).sign_in(ada.passkey, count=1, sign=lambda message: b"\0")) == "passkey-refused"
    with world.registry.reading() as c:
        assert not [row for row in audit.page(c) if row.act == "passkey-copied"]


def test_one_assertion_opens_one_session(world: World, ada: Person) -> None:
    browser = Browser(world)
    begun = browser.begin("passkey")
    proof = ada.passkey.get(begun["options"], browser.origin)
    message = {"challenge": begun["challenge"], "credential": proof}
    assert browser.finish("passkey", message).status_code == 201
    again = browser.finish("passkey", message)
    assert again.status_code in (401, 409)
    assert problem(again) in ("ceremony-spent", "passkey-copied")
    ada.passkey.count = 0
    with world.registry.reading() as c:
        assert len(sessions.live(c, operator="ada", now=0, idle=1 << 40)) == 2


def test_a_challenge_serves_once_whatever_the_counter_says(world: World, ada: Person) -> None:
    browser = Browser(world)
    begun = browser.begin("passkey")
    for expected in (201, 401):
        proof = ada.passkey.get(begun["options"], browser.origin)
        answer = browser.finish("passkey", {"challenge": begun["challenge"], "credential": proof})
        assert answer.status_code == expected
    assert problem(answer) == "ceremony-spent"


def test_a_challenge_is_one_session_key_s(world: World, ada: Person) -> None:
    """What a person confirmed in their browser opens no session for who holds another key."""
    victim, thief = Browser(world), Browser(world)
    begun = victim.begin("passkey")
    proof = ada.passkey.get(begun["options"], victim.origin)
    message = {"challenge": begun["challenge"], "credential": proof}
    assert refused(thief.finish("passkey", message)) == (401, "challenge-foreign")
    assert refused(thief.finish("passkey", {**message, "key": victim.public})) == (401, "key-mismatch")
    lie = {**message, "key": victim.public}
    assert refused(thief.finish("passkey", lie, kid=victim.key.thumbprint)) == (401, "signature-wrong")
    assert victim.finish("passkey", message).status_code == 201


def test_a_challenge_lasts_two_minutes(world: World, ada: Person) -> None:
    for seconds, expected in ((119, 201), (120, 401)):
        browser = Browser(world)
        begun = browser.begin("passkey")
        world.clock.advance(seconds=seconds)
        proof = ada.passkey.get(begun["options"], browser.origin)
        answer = browser.finish("passkey", {"challenge": begun["challenge"], "credential": proof})
        assert answer.status_code == expected
    assert problem(answer) == "challenge-late"


def test_a_challenge_of_one_ceremony_is_none_of_another(world: World, ada: Person) -> None:
    browser = Browser(world)
    token = invite(world, "bob", "viewer")["token"]
    begun = browser.begin("invitation", token=token)
    proof = ada.passkey.get({"rpId": "attestd.example", "challenge": begun["challenge"]}, browser.origin)
    message = {"challenge": begun["challenge"], "credential": proof}
    assert refused(browser.finish("passkey", message)) == (401, "challenge-foreign")
    made_up = {**message, "challenge": b64encode(b"x" * 93)}
    assert refused(browser.finish("passkey", made_up)) == (401, "challenge-foreign")


def test_the_last_step_is_signed_by_the_session_key(world: World, ada: Person) -> None:
    browser = Browser(world)
    begun = browser.begin("passkey")
    proof = ada.passkey.get(begun["options"], browser.origin)
    message = {"v": 1, "key": browser.public, "challenge": begun["challenge"], "credential": proof}
    body = write_object({**message, "browser": {"agent": "", "address": ""}})
    assert refused(world.post(f"{SIGN_IN}/passkey", body)) == (401, "signature-missing")
    nonce = world.nonce()
    headers = {"Authorization": browser.authorize("POST", f"{SIGN_IN}/passkey", body, nonce=nonce)}
    assert world.post(f"{SIGN_IN}/passkey", body, headers=headers).status_code == 201
    assert refused(world.post(f"{SIGN_IN}/passkey", body, headers=headers)) == (401, "call-nonce-spent")


# ---- Session keys -----------------------------------------------------------------------------------------------


def test_a_session_key_serves_once(world: World, ada: Person) -> None:
    """A key that was in use is in somebody's hands: it is not signed in again, not even for the same person."""
    browser = ada.another_browser()
    assert refused(browser.sign_in(ada.passkey)) == (409, "session-key-taken")
    assert browser.delete(SESSION).status_code == 200
    assert refused(browser.sign_in(ada.passkey)) == (409, "session-key-taken")


@pytest.mark.parametrize("whose", ["operator", "proxy", "admin"])
def test_nobody_signs_in_with_somebody_s_own_key(world: World, ada: Person, whose: str) -> None:
    browser = Browser(world)
    browser.key = world.caller(whose).key
    assert refused(browser.sign_in(ada.passkey)) == (409, "session-key-taken")


def test_a_session_s_key_does_not_become_an_operator_s(world: World, ada: Person) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = ada.key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    message = {"v": 1, "name": "mallory", "role": "admin", "public_key": pem}
    assert refused(world.admin.post("/v1/admin/operators", message)) == (409, "operator-taken")


@pytest.mark.parametrize("key", [b"", b"key", None])
def test_what_is_no_session_key(world: World, key: bytes | None) -> None:
    if key is None:
        other = ec.generate_private_key(ec.SECP384R1()).public_key()
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        key = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    answer = world.post(f"{SIGN_IN}/passkey/begin", write_object({"v": 1, "key": b64encode(key)}))
    assert refused(answer) == (400, "session-key-unusable" if key else "malformed-json")


# ---- Invitations ------------------------------------------------------------------------------------------------


def test_an_invitation_serves_once(world: World) -> None:
    token = invite(world, "ada", "viewer")["token"]
    late, browser = Browser(world), Browser(world)
    begun = late.begin("invitation", token=token)
    assert browser.accept(token, Authenticator()).status_code == 201
    made = Authenticator().create(begun["options"], late.origin)
    message = {"token": token, "challenge": begun["challenge"], "credential": made, "label": ""}
    assert refused(late.finish("invitation", message)) == (403, "invitation-over")
    body = write_object({"v": 1, "key": late.public, "token": token})
    assert refused(world.post(f"{SIGN_IN}/invitation/begin", body)) == (403, "invitation-over")
    assert refused(late.get(SESSION)) == (401, "caller-unknown")


@pytest.mark.parametrize("how", ["withdrawn", "stale", "superseded", "disabled"])
def test_an_invitation_that_is_over(world: World, how: str) -> None:
    admin = world.admin
    if how == "disabled":
        world.new_caller("viewer", "ada")
    link = invite(world, "ada", "viewer")
    if how == "stale":
        world.clock.advance(hours=24, seconds=-1)
    browser = Browser(world)
    begun = browser.begin("invitation", token=link["token"])
    if how == "withdrawn":
        assert admin.post(f"/v1/admin/invitations/{link['id']}/withdraw", {"v": 1}).status_code == 200
    elif how == "stale":
        world.clock.advance(seconds=1)
    elif how == "superseded":
        invite(world, "ada", "operator")
    else:
        assert admin.post("/v1/admin/operators/ada/disable", {"v": 1}).status_code == 200
    made = Authenticator().create(begun["options"], browser.origin)
    message = {"token": link["token"], "challenge": begun["challenge"], "credential": made}
    assert refused(browser.finish("invitation", message)) == (403, "invitation-over")
    body = write_object({"v": 1, "key": browser.public, "token": link["token"]})
    assert refused(world.post(f"{SIGN_IN}/invitation/begin", body)) == (403, "invitation-over")


def test_an_invitation_is_for_a_day(world: World) -> None:
    token = invite(world, "ada", "viewer")["token"]
    world.clock.advance(hours=23, minutes=59)
    assert Browser(world).accept(token, Authenticator()).status_code == 201


def test_an_invitation_is_withdrawn_once(world: World) -> None:
    withdraw = f"/v1/admin/invitations/{invite(world, 'ada', 'viewer')['id']}/withdraw"
    shown = world.admin.get("/v1/admin/invitations").get_json()["invitations"]
    assert [(each["name"], each["role"], each["created_by"]) for each in shown] == [
        ("ada", "viewer", "operator:admin-1")
    ]
    assert world.admin.post(withdraw, {"v": 1}).status_code == 200
    assert refused(world.admin.post(withdraw, {"v": 1})) == (404, "unknown-invitation")
    assert world.admin.get("/v1/admin/invitations").get_json()["invitations"] == []


@pytest.mark.parametrize(("name", "role"), [("admin-1", "viewer"), ("ada", "admin"), ("ada", "operator")])
def test_nobody_is_invited_under_somebody_s_name(world: World, ada: Person, name: str, role: str) -> None:
    answer = world.admin.post("/v1/admin/invitations", {"v": 1, "name": name, "role": role})
    assert refused(answer) == (409, "operator-taken")


def test_an_admin_invites_themselves_for_another_passkey(world: World) -> None:
    """Who holds the machine's key always has a way in."""
    first = Person(world, "admin-1", "admin")
    second = Person(world, "admin-1", "admin")
    assert first.get(SESSION).get_json()["passkeys"] == 2
    assert second.get(SESSION).get_json()["operator"] == {"name": "admin-1", "role": "admin"}


def test_an_invitation_s_challenge_is_for_that_invitation(world: World) -> None:
    """Who holds a link for a viewer makes no admin's passkey with it."""
    viewer, admin = invite(world, "eve", "viewer"), invite(world, "root", "admin")
    browser, passkey = Browser(world), Authenticator()
    begun = browser.begin("invitation", token=viewer["token"])
    made = passkey.create(begun["options"], browser.origin)
    message = {"token": admin["token"], "challenge": begun["challenge"], "credential": made}
    assert refused(browser.finish("invitation", message)) == (401, "challenge-foreign")


REGISTRATION_LIES: dict[str, dict[str, Any]] = {
    "another origin": {"origin": "https://evil.test"},
    "another relying party": {"rp_id": "evil.test"},
    "another challenge": {"challenge": b64encode(b"c" * 93)},
    "an assertion": {"type": "webauthn.get"},
    "a frame": {"cross_origin": True},
    "user not verified": {"flags": 0x41},
    "no key": {"flags": 0x05},
    "another id inside": {"inner_id": b"i" * 32},
    "a certificate that was not asked for": {"fmt": "tpm"},
    "an unknown algorithm": {"cose": cose(ec.generate_private_key(ec.SECP256R1()).public_key()) | {3: -47}},
    "HMAC": {"cose": {1: 4, 3: 5, -1: b"k" * 32}},
    "P-384 as ES256": {"cose": cose(ec.generate_private_key(ec.SECP384R1()).public_key())},
    "EC as RS256": {"cose": cose(ec.generate_private_key(ec.SECP256R1()).public_key()) | {3: -257}},
    "EC as EdDSA": {"cose": cose(ec.generate_private_key(ec.SECP256R1()).public_key()) | {3: -8}},
    "a short RSA key": {"cose": cose(rsa.generate_private_key(65537, 1024).public_key())},
    "a point that is none": {"cose": cose(ec.generate_private_key(ec.SECP256R1()).public_key()) | {-3: b"\1" * 32}},
    "no point": {"cose": {1: 2, 3: -7}},
    "no key's form": {"cose": [1, 2]},
}


@pytest.mark.parametrize("lie", REGISTRATION_LIES)
def test_a_forged_registration_registers_nothing(world: World, lie: str) -> None:
    token = invite(world, "ada", "viewer")["token"]
    browser, passkey = Browser(world), Authenticator()
    assert refused(browser.accept(token, passkey, **REGISTRATION_LIES[lie])) == (401, "passkey-refused")
    with world.registry.reading() as c:
        assert not passkeys.any_at_all(c)
    assert browser.accept(token, passkey).status_code == 201  # nothing was used up


def test_a_passkey_is_registered_once(world: World, ada: Person) -> None:
    token = invite(world, "eve", "admin")["token"]
    assert refused(Browser(world).accept(token, ada.passkey)) == (409, "passkey-taken")
    assert Browser(world).accept(token, Authenticator()).status_code == 201


def test_a_disabled_operator_comes_back_without_the_old_passkey(world: World, ada: Person) -> None:
    assert world.admin.post("/v1/admin/operators/ada/disable", {"v": 1}).status_code == 200
    assert refused(ada.get(SESSION)) == (401, "session-over")
    assert refused(Browser(world).sign_in(ada.passkey)) == (401, "operator-disabled")
    anew = Person(world, "ada", "viewer")
    assert anew.get(SESSION).get_json()["operator"] == {"name": "ada", "role": "viewer"}
    assert refused(Browser(world).sign_in(ada.passkey)) == (401, "passkey-unknown")
    assert refused(ada.get(SESSION)) == (401, "session-over")


# ---- What is kept, and what is not ------------------------------------------------------------------------------


def test_no_secret_is_kept_or_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    link = invite(world, "ada", "viewer")
    browser = Browser(world)
    browser.accept(link["token"], Authenticator())
    token = b64decode(link["token"])
    with world.registry.reading() as c:
        assert invitations.every_open(c, now=0) == []
        rows = [row.detail for row in audit.page(c)]
    told = json.dumps(rows) + caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert link["token"] not in told
    assert token.hex() not in told
    assert b64encode(hashlib.sha256(token).digest()) not in told


def test_a_registered_person_s_key_is_no_session_key(world: World, ada: Person) -> None:
    """A call that a stranger's key signs, in the name of a session."""
    stranger = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
    assert refused(ada.get(SESSION, sign=stranger.sign)) == (401, "signature-wrong")
    assert refused(ada.get(SESSION, kid=ada.session["id"])) == (401, "caller-unknown")


# ---- Anything at all --------------------------------------------------------------------------------------------

_CBOR = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(-5, 5) | st.text(max_size=8), inner),
    max_leaves=12,
)
_AUTH_DATA = st.builds(
    lambda flags, count, rest: hashlib.sha256(b"attestd.example").digest() + bytes([flags]) + count + rest,
    st.sampled_from([0x05, 0x45, 0xC5, 0x85, 0x00, 0xFF]),
    st.binary(min_size=4, max_size=4),
    st.binary(max_size=120),
)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Any:
    world = World(tmp_path_factory.mktemp("fuzzed") / "instance")
    yield Person(world, "ada", "viewer"), invite(world, "bob", "viewer")["token"]
    world.close()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.binary(max_size=200) | _AUTH_DATA,
    said=st.binary(max_size=60) | _CBOR.map(lambda value: json.dumps(value, default=str).encode()),
    honest=st.booleans(),
)
def test_made_up_assertions_are_refused_and_no_fault(registered: Any, data: bytes, said: bytes, honest: bool) -> None:
    ada, _ = registered
    browser = Browser(ada.world)
    begun = browser.begin("passkey")
    proof = ada.passkey.get(begun["options"], browser.origin)
    proof["response"]["authenticatorData"] = b64encode(data or b"x")
    if not honest:
        proof["response"]["clientDataJSON"] = b64encode(said or b"x")
    answer = browser.finish("passkey", {"challenge": begun["challenge"], "credential": proof})
    assert refused(answer)[0] in (400, 401)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    attestation=st.binary(max_size=200)
    | _CBOR.map(cbor2.dumps)
    | st.builds(
        lambda data, form, statement: cbor2.dumps({"fmt": form, "attStmt": statement, "authData": data}),
        st.binary(max_size=200) | _AUTH_DATA,
        st.sampled_from(["none", "packed", "tpm", "apple"]),
        _CBOR,
    )
)
def test_made_up_registrations_are_refused_and_no_fault(registered: Any, attestation: bytes) -> None:
    ada, token = registered
    browser = Browser(ada.world)
    begun = browser.begin("invitation", token=token)
    made = Authenticator().create(begun["options"], browser.origin)
    made["response"]["attestationObject"] = b64encode(attestation or b"x")
    answer = browser.finish("invitation", {"token": token, "challenge": begun["challenge"], "credential": made})
    assert refused(answer)[0] in (400, 401)


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x81" * 8000,
        b"\x5b" + b"\x7f" * 8,
        b"\x9b" + b"\x00" * 3 + b"\xff" * 5,
        b"\xbb" + b"\x00" * 4 + b"\xff" * 4,
        b"\xc2" * 4000,
    ],
    ids=["nested", "a long string", "a long list", "a large map", "tags"],
)
def test_a_small_message_that_means_a_large_one(registered: Any, bomb: bytes) -> None:
    ada, token = registered
    browser = Browser(ada.world)
    begun = browser.begin("invitation", token=token)
    made = Authenticator().create(begun["options"], browser.origin)
    made["response"]["attestationObject"] = b64encode(bomb)
    answer = browser.finish("invitation", {"token": token, "challenge": begun["challenge"], "credential": made})
    assert refused(answer) == (401, "passkey-refused")


@pytest.mark.parametrize("field", ["agent", "address"])
def test_what_a_browser_says_of_itself_is_bounded(world: World, ada: Person, field: str) -> None:
    browser = Browser(world)
    begun = browser.begin("passkey")
    proof = ada.passkey.get(begun["options"], browser.origin)
    said = {"agent": "a", "address": "b", field: "<script>\n\x1b[2J" + "x" * 900}
    message = {"challenge": begun["challenge"], "credential": proof, "browser": said}
    shown = browser.finish("passkey", message).get_json()["session"]["browser"][field]
    assert shown.isprintable()
    assert len(shown) <= 200
    too_long = {**message, "browser": {**said, field: "x" * 1025}}
    assert refused(browser.finish("passkey", too_long)) == (413, "input-too-large")
