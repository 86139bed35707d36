"""Signing in with an OpenID provider, over real HTTP; each lie of the provider or of a browser is refused."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from attestd.config import OidcSettings
from attestd.operations.oidc import role_by_claims
from attestd.protocol.encoding import b64encode, write_object
from attestd.registry import audit, identities, operators
from tests.authenticator import BROWSER, SIGN_IN, Authenticator, Browser, Person, invite
from tests.openid_provider import ADA, CLIENT, ROLES, SECRET, OpenIdProvider, configure, rsa_key, unsigned
from tests.service import URL, World, problem

RETURN = f"{URL}/sign-in/return"


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, problem(answer)


@pytest.fixture
def provider(world: World) -> Iterator[OpenIdProvider]:
    provider = OpenIdProvider(lambda: world.clock().timestamp())
    configure(world, provider)
    yield provider
    provider.close()


def begin(browser: Browser, provider: str = "sso", **more: Any) -> dict[str, Any]:
    message = {"v": 1, "key": browser.public, "provider": provider, "redirect_uri": RETURN, **more}
    answer = browser.world.post(f"{SIGN_IN}/oidc/begin", write_object(message))
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def finish(browser: Browser, state: str, code: str, **more: Any) -> Any:
    return browser.finish("oidc", {"state": state, "code": code, **more})


def sign_in(world: World, provider: OpenIdProvider, claims: dict[str, Any] = ADA, /, **more: Any) -> Any:
    """The whole way, as an honest browser goes it."""
    browser = Browser(world)
    begun = begin(browser, **more)
    return finish(browser, begun["state"], provider.authorize(begun["url"], claims))


# ---- As it should be --------------------------------------------------------------------------------------------


def test_who_has_a_role_by_claims_comes_in(world: World, provider: OpenIdProvider) -> None:
    assert world.get(SIGN_IN).get_json()["providers"] == [{"name": "sso", "label": "Harbour SSO"}]
    browser = Browser(world)
    begun = begin(browser)
    asked = parse_qs(urlsplit(begun["url"]).query)
    assert begun["url"].startswith(f"{provider.issuer}/authorize?")
    assert (asked["client_id"], asked["redirect_uri"], asked["response_type"]) == ([CLIENT], [RETURN], ["code"])
    assert asked["state"] == [begun["state"]]
    assert asked["scope"] == ["openid profile email"]
    assert asked["nonce"][0] not in begun["state"]

    answer = finish(browser, begun["state"], provider.authorize(begun["url"], ADA))
    assert answer.status_code == 201, answer.text
    session = answer.get_json()["session"]
    assert (session["operator"], session["role"], session["method"]) == ("ada", "operator", "oidc")
    assert browser.get("/v1/admin/session").get_json()["operator"] == {"name": "ada", "role": "operator"}
    with world.registry.reading() as c:
        rows = {row.act: row for row in audit.page(c, subject="ada")}
        known = identities.find(c, provider.issuer, "00u1")
    assert rows["sign-in"].detail["provider"] == "sso"
    assert rows["bind-identity"].detail["known_as"] == "00u1"
    assert known is not None
    assert (known.operator, known.by_claims) == ("ada", True)
    assert world.get(SIGN_IN).get_json()["first_run"] is False


def test_the_client_proves_itself_as_rfc_6749_says(world: World, provider: OpenIdProvider) -> None:
    import base64

    assert sign_in(world, provider).status_code == 201
    (header,) = provider.authorizations
    assert header is not None
    name, _, secret = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
    assert (name, secret) == (CLIENT, "a%20secret%3A%20100%25%20ours")


def test_a_role_follows_what_the_provider_says(world: World, provider: OpenIdProvider) -> None:
    sign_in(world, provider)
    first = Browser(world)
    begun = begin(first)
    assert finish(first, begun["state"], provider.authorize(begun["url"], ADA)).status_code == 201
    promoted = sign_in(world, provider, {**ADA, "groups": ["fleet-admins"]})
    assert promoted.get_json()["session"]["role"] == "admin"
    assert first.get("/v1/admin/session").get_json()["operator"]["role"] == "admin"  # in every session
    assert sign_in(world, provider, {**ADA, "groups": "all"}).get_json()["session"]["role"] == "viewer"
    with world.registry.reading() as c:
        changes = [row.detail["role"] for row in audit.page(c, subject="ada") if row.act == "change-role"]
    assert changes == ["viewer", "admin"]


def test_who_lost_the_role_loses_the_sessions(world: World, provider: OpenIdProvider) -> None:
    browser = Browser(world)
    begun = begin(browser)
    assert finish(browser, begun["state"], provider.authorize(begun["url"], ADA)).status_code == 201
    assert refused(sign_in(world, provider, {**ADA, "groups": []})) == (403, "not-invited")
    assert refused(browser.get("/v1/admin/session")) == (401, "session-over")


def test_an_invitation_binds_an_identity(world: World, provider: OpenIdProvider) -> None:
    configure(world, provider, roles={}, roles_claim="")
    answer = sign_in(world, provider)
    assert refused(answer) == (403, "not-invited")
    assert answer.get_json()["seen"] == f"00u1 of {provider.issuer}"
    assert "attestd operators invite" in answer.get_json()["remedy"]

    token = invite(world, "bob", "admin")["token"]
    invited = sign_in(world, provider, token=token)
    assert invited.get_json()["session"]["role"] == "admin"
    assert sign_in(world, provider).get_json()["session"]["operator"] == "bob"
    again = Browser(world)
    body = {"v": 1, "key": again.public, "provider": "sso", "redirect_uri": RETURN, "token": token}
    assert refused(world.post(f"{SIGN_IN}/oidc/begin", write_object(body))) == (403, "invitation-over")
    # Somebody with an identity is invited as nobody else.
    other = invite(world, "eve", "viewer")["token"]
    assert refused(sign_in(world, provider, token=other)) == (409, "identity-taken")


def test_a_provider_s_name_for_somebody_is_no_right_to_it(world: World, provider: OpenIdProvider) -> None:
    """`admin-1` of a provider is not the operator of that name, whether that one is disabled or not."""
    Person(world, "ada", "operator")
    admin = world.admin
    claims = {**ADA, "preferred_username": "admin-1"}
    named = sign_in(world, provider, claims).get_json()["session"]["operator"]
    assert named.startswith("admin-1-")
    assert sign_in(world, provider, claims).get_json()["session"]["operator"] == named
    admin.post("/v1/admin/operators/ada/disable", {"v": 1})
    assert sign_in(world, provider, {**ADA, "sub": "00u2"}).get_json()["session"]["operator"].startswith("ada-")


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"preferred_username": "../<b>Zoë O'Hara</b>"}, "b-zo-o-hara-b"),
        ({"email": "x.y@example.org"}, "x.y"),
        ({"name": "…"}, "person"),
        ({"preferred_username": ["admin"], "name": 5}, "person"),
        ({"preferred_username": "a" * 900}, "a" * 40),
    ],
)
def test_names_are_made_of_what_providers_say(
    world: World, provider: OpenIdProvider, claims: dict[str, Any], name: str
) -> None:
    answer = sign_in(world, provider, {"sub": "1", "groups": ["all"], **claims})
    assert answer.get_json()["session"]["operator"] == name


def test_a_disabled_person_stays_out(world: World, provider: OpenIdProvider) -> None:
    sign_in(world, provider)
    assert world.admin.post("/v1/admin/operators/ada/disable", {"v": 1}).status_code == 200
    assert refused(sign_in(world, provider)) == (401, "operator-disabled")
    assert refused(sign_in(world, provider, {**ADA, "groups": ["fleet-admins"]})) == (401, "operator-disabled")
    with world.registry.reading() as c:
        assert {each.name for each in operators.every(c)} == {"admin-1", "ada"}


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"groups": ["fleet-ops", "fleet-admins"]}, "admin"),
        ({"groups": "all"}, "viewer"),
        ({"groups": ["x"]}, None),
        ({"groups": None}, None),
        ({"groups": {"fleet-admins": True}}, None),
        ({"groups": [["fleet-admins"]]}, None),
        ({}, None),
    ],
)
def test_roles_by_claims(claims: dict[str, Any], role: str | None) -> None:
    settings = OidcSettings("sso", "https://i", "c", roles_claim="groups", roles=ROLES)
    assert role_by_claims(settings, claims) == role


def test_a_claim_within_another() -> None:
    settings = OidcSettings("sso", "https://i", "c", roles_claim="realm_access.roles", roles=ROLES)
    assert role_by_claims(settings, {"realm_access": {"roles": ["all"]}}) == "viewer"
    assert role_by_claims(settings, {"realm_access.roles": ["fleet-admins"]}) == "admin"
    assert role_by_claims(settings, {"realm_access": "all"}) is None


# ---- The token --------------------------------------------------------------------------------------------------

CLAIM_LIES: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://evil.test"},
    "no issuer": {"iss": None},
    "another audience": {"aud": "another-client"},
    "no audience": {"aud": None},
    "many audiences and no authorized party": {"aud": [CLIENT, "another-client"]},
    "another authorized party": {"aud": [CLIENT, "another-client"], "azp": "another-client"},
    "one audience and another authorized party": {"azp": "another-client"},
    "expired": {"exp": 1},
    "no end": {"exp": None},
    "made in a while": {"iat": 1 << 40},
    "no beginning": {"iat": None},
    "not yet": {"nbf": 1 << 40},
    "another nonce": {"nonce": "n"},
    "no nonce": {"nonce": None},
    "another access token": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
    "nobody": {"sub": ""},
    "no subject": {"sub": None},
    "a subject that is no text": {"sub": ["00u1"]},
    "a subject with a NUL": {"sub": "00u1\0"},
}


@pytest.mark.parametrize("lie", CLAIM_LIES)
def test_a_token_that_says_something_else(world: World, provider: OpenIdProvider, lie: str) -> None:
    provider.lies = CLAIM_LIES[lie]
    assert refused(sign_in(world, provider)) == (401, "id-token-refused")
    provider.lies = {}
    assert sign_in(world, provider).status_code == 201


def hmac_with_the_public_key(provider: OpenIdProvider, header: dict[str, Any], claims: dict[str, Any]) -> str:
    pem = provider.keys[0].as_pem(private=False)
    head = {**header, "alg": "HS256"}
    signed = ".".join(b64encode(json.dumps(part).encode()) for part in (head, claims))
    return f"{signed}.{b64encode(hmac.digest(pem, signed.encode(), hashlib.sha256))}"


def by_another_key(provider: OpenIdProvider, header: dict[str, Any], claims: dict[str, Any]) -> str:
    return jwt.encode(header, claims, ECKey.generate_key("P-256"), algorithms=["ES256"])


def with_its_own_key(provider: OpenIdProvider, header: dict[str, Any], claims: dict[str, Any]) -> str:
    key = ECKey.generate_key("P-256")
    return jwt.encode({**header, "jwk": key.as_dict(private=False)}, claims, key, algorithms=["ES256"])


def by_a_shared_secret(provider: OpenIdProvider, header: dict[str, Any], claims: dict[str, Any]) -> str:
    """The client's secret is what HS256 would be keyed with; it is not asked for."""
    return jwt.encode({**header, "alg": "HS256"}, claims, OctKey.import_key(SECRET), algorithms=["HS256"])


FORGERS = {
    "alg none": lambda provider, header, claims: unsigned(header, claims),
    "HS256 with the public key": hmac_with_the_public_key,
    "HS256 with the client's secret": by_a_shared_secret,
    "another key": by_another_key,
    "a key of its own": with_its_own_key,
    "no token at all": lambda provider, header, claims: "",
    "no token's form": lambda provider, header, claims: "a.b.c",
    "a large token": lambda provider, header, claims: "a" * 40_000,
}


@pytest.mark.parametrize("forger", FORGERS)
def test_a_token_that_the_provider_did_not_sign(world: World, provider: OpenIdProvider, forger: str) -> None:
    provider.sign = lambda header, claims: FORGERS[forger](provider, header, claims)
    assert refused(sign_in(world, provider)) == (401, "id-token-refused")


def test_a_provider_that_rolls_its_keys(world: World, provider: OpenIdProvider) -> None:
    assert sign_in(world, provider).status_code == 201
    monotonic = [0.0]
    held = world.service.oidc.providers["sso"]
    held._clock = lambda: monotonic[0]
    held._keys = (0.0, held._keys[1]) if held._keys else None
    provider.keys = [rsa_key("two")]
    provider.header = {"alg": "RS256"}
    assert refused(sign_in(world, provider)) == (401, "id-token-refused")  # not looked for again at every token
    monotonic[0] = 31.0
    assert sign_in(world, provider).status_code == 201
    looked = provider.asked.count("/keys")
    assert sign_in(world, provider).status_code == 201
    assert provider.asked.count("/keys") == looked


# ---- The way ----------------------------------------------------------------------------------------------------


def test_a_state_is_one_browser_s(world: World, provider: OpenIdProvider) -> None:
    """Login CSRF, and a code that somebody else's browser brings."""
    victim, thief = Browser(world), Browser(world)
    begun = begin(victim)
    code = provider.authorize(begun["url"], ADA)
    assert refused(finish(thief, begun["state"], code)) == (401, "challenge-foreign")
    own = begin(thief)
    assert refused(finish(thief, own["state"], code)) == (401, "code-refused")  # PKCE: another verifier
    code = provider.authorize(begun["url"], ADA)
    assert finish(victim, begun["state"], code).status_code == 201


@pytest.mark.parametrize("state", ["", b64encode(b"x" * 200)])
def test_a_state_that_nobody_sealed(world: World, provider: OpenIdProvider, state: str) -> None:
    begun = begin(browser := Browser(world))
    answer = finish(browser, state, provider.authorize(begun["url"], ADA))
    assert refused(answer) == ((401, "challenge-foreign") if state else (400, "malformed-json"))


def test_a_passkey_s_challenge_is_no_state(world: World, provider: OpenIdProvider) -> None:
    browser = Browser(world)
    challenge = browser.begin("passkey")["challenge"]
    assert refused(finish(browser, challenge, "code")) == (401, "challenge-foreign")


def test_a_state_serves_once_and_ten_minutes(world: World, provider: OpenIdProvider) -> None:
    browser = Browser(world)
    begun = begin(browser)
    assert finish(browser, begun["state"], provider.authorize(begun["url"], ADA)).status_code == 201
    assert refused(finish(browser, begun["state"], provider.authorize(begun["url"], ADA))) == (401, "ceremony-spent")
    late = Browser(world)
    begun = begin(late)
    world.clock.advance(minutes=10)
    assert refused(finish(late, begun["state"], provider.authorize(begun["url"], ADA))) == (401, "challenge-late")


def test_a_code_is_the_provider_s(world: World, provider: OpenIdProvider) -> None:
    browser = Browser(world)
    begun = begin(browser)
    assert refused(finish(browser, begun["state"], "made-up")) == (401, "code-refused")


def test_a_mix_up_of_providers(world: World, provider: OpenIdProvider) -> None:
    """The answer of one provider is not taken to another (RFC 9207): neither the code nor what it stands for."""
    other = OpenIdProvider(lambda: world.clock().timestamp())
    try:
        configure(world, provider, other)
        browser = Browser(world)
        begun = begin(browser)
        code = provider.authorize(begun["url"], ADA)
        assert refused(finish(browser, begun["state"], code, iss=other.issuer)) == (401, "code-refused")
        assert "/token" not in provider.asked + other.asked
        assert finish(browser, begun["state"], code, iss=provider.issuer).status_code == 201
        # A provider that says that it names itself has to.
        other.described = {"authorization_response_iss_parameter_supported": True}
        browser = Browser(world)
        begun = begin(browser, "sso-1")
        code = other.authorize(begun["url"], ADA)
        assert refused(finish(browser, begun["state"], code)) == (401, "code-refused")
        assert finish(browser, begun["state"], code, iss=other.issuer).status_code == 201
    finally:
        other.close()


def test_the_same_subject_of_another_provider_is_somebody_else(world: World, provider: OpenIdProvider) -> None:
    other = OpenIdProvider(lambda: world.clock().timestamp())
    try:
        configure(world, provider, other)
        assert sign_in(world, provider).get_json()["session"]["operator"] == "ada"
        named = sign_in(world, other, provider="sso-1").get_json()["session"]["operator"]
        assert named != "ada"
    finally:
        other.close()


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.test/sign-in/return",
        f"{URL}.evil.test/sign-in/return",
        f"{URL}/sign-in/return/../x",
        f"{URL}/sign-in/return?next=//evil.test",
        f"{URL}@evil.test/sign-in/return",
        "/sign-in/return",
        "",
    ],
)
def test_the_way_back_leads_here(world: World, provider: OpenIdProvider, elsewhere: str) -> None:
    message = {"v": 1, "key": Browser(world).public, "provider": "sso", "redirect_uri": elsewhere}
    answer = world.post(f"{SIGN_IN}/oidc/begin", write_object(message))
    assert refused(answer) == (400, "return-elsewhere")


def test_a_provider_that_nobody_named(world: World, provider: OpenIdProvider) -> None:
    message = {"v": 1, "key": Browser(world).public, "provider": "other", "redirect_uri": RETURN}
    assert refused(world.post(f"{SIGN_IN}/oidc/begin", write_object(message))) == (404, "unknown-provider")


def test_a_provider_of_another_name(world: World, provider: OpenIdProvider) -> None:
    provider.described = {"issuer": "https://evil.test"}
    message = {"v": 1, "key": Browser(world).public, "provider": "sso", "redirect_uri": RETURN}
    answer = world.app.test_client().post(f"{SIGN_IN}/oidc/begin", json=message)
    assert refused(answer) == (500, "provider-odd")
    assert b"evil.test" not in answer.data


@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
@pytest.mark.parametrize("url", ["javascript:alert(1)", "file:///etc/passwd", None])
def test_an_endpoint_that_is_none(world: World, provider: OpenIdProvider, name: str, url: str | None) -> None:
    provider.described = {name: url}
    message = {"v": 1, "key": Browser(world).public, "provider": "sso", "redirect_uri": RETURN}
    assert refused(world.app.test_client().post(f"{SIGN_IN}/oidc/begin", json=message)) == (500, "provider-odd")


def test_a_provider_that_is_away(world: World, provider: OpenIdProvider) -> None:
    provider.close()
    message = {"v": 1, "key": Browser(world).public, "provider": "sso", "redirect_uri": RETURN}
    answer = world.post(f"{SIGN_IN}/oidc/begin", write_object(message))
    assert refused(answer) == (503, "provider-unreachable")
    person = Person(world, "ada", "viewer")  # nobody else is kept out by it
    assert person.another_browser().get("/v1/admin/session").status_code == 200


def test_a_provider_that_sends_too_much(world: World, provider: OpenIdProvider) -> None:
    provider.described = {"more": "x" * 300_000}
    message = {"v": 1, "key": Browser(world).public, "provider": "sso", "redirect_uri": RETURN}
    assert refused(world.post(f"{SIGN_IN}/oidc/begin", write_object(message))) == (503, "provider-unreachable")


def test_a_secret_that_others_read_is_not_used(world: World, provider: OpenIdProvider) -> None:
    (world.settings.dir / "sso.secret").chmod(0o644)
    browser = Browser(world)
    begun = begin(browser)
    code = provider.authorize(begun["url"], ADA)
    body = {"v": 1, "key": browser.public, "browser": BROWSER, "state": begun["state"], "code": code}
    data = write_object(body)
    headers = {"Authorization": browser.authorize("POST", f"{SIGN_IN}/oidc", data)}
    answer = world.app.test_client().post(
        f"{SIGN_IN}/oidc", data=data, headers=headers, content_type="application/json"
    )
    assert answer.status_code == 500
    assert SECRET not in answer.text


def test_a_person_of_a_provider_adds_a_first_passkey_soon_after(world: World, provider: OpenIdProvider) -> None:
    browser = Browser(world)
    begun = begin(browser)
    assert finish(browser, begun["state"], provider.authorize(begun["url"], ADA)).status_code == 201
    made = browser.post("/v1/admin/passkeys/begin", {"v": 1}).get_json()
    passkey = Authenticator()
    message = {"v": 1, "challenge": made["challenge"], "credential": passkey.create(made["options"], browser.origin)}
    world.clock.advance(minutes=10, seconds=1)
    assert refused(browser.post("/v1/admin/passkeys/begin", {"v": 1})) == (403, "sign-in-too-old")
    assert refused(browser.post("/v1/admin/passkeys", message)) == (403, "passkey-not-added")
    world.clock.advance(minutes=-10, seconds=-1)
    assert browser.post("/v1/admin/passkeys", message).status_code == 201
    assert Browser(world).sign_in(passkey).status_code == 201


def test_tls_of_a_provider_is_checked_by_its_own_root(world: World, tmp_path: Path) -> None:
    from attestd.operations.provider import Provider

    pem = world.service.publication.root_pem
    (tmp_path / "root.pem").write_text(pem)
    trust = Provider(OidcSettings("sso", "https://i", "c", ca="root.pem"), tmp_path)._trust()
    assert trust.verify_mode is ssl.CERT_REQUIRED
    assert trust.check_hostname
    assert len(trust.get_ca_certs()) == 1
