"""Signing in through an identity provider, on the console's own pages: who comes in, and what each refusal says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from attestd.registry import operators
from attestd_console.sessions import PENDING, SESSION, Seed
from tests.console import ConsoleClient, Markup, stranger
from tests.openid_provider import ADA, OpenIdProvider, configure, unsigned
from tests.service import World

EVIL = "<script>alert(1)</script>\u202e{{7*7}}"


@pytest.fixture
def provider(world: World) -> Iterator[OpenIdProvider]:
    provider = OpenIdProvider(lambda: world.clock().timestamp())
    configure(world, provider)
    yield provider
    provider.close()


def leave(client: ConsoleClient, wanted: str = "/", name: str = "sso") -> str:
    """Presses the provider's button; where the next page leads."""
    answer = client.post("/sign-in/provider", {"provider": name, "next": wanted})
    assert answer.status_code == 200, answer.text
    links = [str(tag["href"]) for tag in Markup(answer.text).all("a") if str(tag.get("href")).startswith("http")]
    assert len(links) == 1
    refreshed = [tag["content"] for tag in Markup(answer.text).all("meta") if tag.get("http-equiv") == "refresh"]
    assert refreshed == [f"0; url={links[0]}"]
    return links[0]


def state_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["state"][0]


def come_back(client: ConsoleClient, **said: str) -> TestResponse:
    """As the provider sends the browser back: from another site, so without an Origin of ours."""
    return client.get(f"/sign-in/return?{urlencode(said)}", headers={"Sec-Fetch-Site": "cross-site"})


def sign_in(
    client: ConsoleClient, provider: OpenIdProvider, claims: dict[str, Any] = ADA, wanted: str = "/"
) -> TestResponse:
    url = leave(client, wanted)
    answer = come_back(client, state=state_of(url), code=provider.authorize(url, claims))
    client.seed = Seed.read(client.cookie(SESSION) or "")
    return answer


def refused(answer: TestResponse, client: ConsoleClient, status: int, *said: str) -> None:
    """The sign-in page again, with what failed and what to try; nobody is signed in."""
    assert answer.status_code == status, answer.text
    page = Markup(answer.text)
    for sentence in said:
        assert sentence in page.words
    assert "Continue with Harbour SSO" in page.words
    assert client.cookie(SESSION) is None
    assert client.get("/fleet").status_code == 303


# ---- As it should be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "role"), [(["fleet-admins"], "admin"), (["fleet-ops", "all"], "operator"), (["all"], "viewer")]
)
def test_the_role_is_what_the_provider_s_groups_say(
    world: World, provider: OpenIdProvider, nobody: ConsoleClient, groups: list[str], role: str
) -> None:
    answer = sign_in(nobody, provider, ADA | {"groups": groups}, "/fleet?q=bike")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/fleet?q=bike")
    assert nobody.cookie(PENDING) is None
    assert nobody.get("/approvals").status_code == 200
    assert nobody.get("/authority").status_code == 200
    with world.registry.reading() as c:
        assert operators.by_name(c, "ada").role.value == role


def test_the_name_that_a_provider_gives_is_no_markup(
    world: World, provider: OpenIdProvider, nobody: ConsoleClient
) -> None:
    claims = ADA | {"preferred_username": EVIL, "name": EVIL, "email": EVIL, "groups": ["fleet-admins"]}
    assert sign_in(nobody, provider, claims).status_code == 303
    for path in ("/", "/people", "/sessions", "/audit"):
        text = nobody.get(path).text
        assert all(str(tag.get("src", "")).startswith("/static/") for tag in Markup(text).all("script"))
        assert "\u202e" not in text
        assert "{{7*7}}" not in text or "49" not in text


@pytest.mark.parametrize(
    "wanted", ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)"]
)
def test_nobody_is_led_away_after_signing_in(
    world: World, provider: OpenIdProvider, nobody: ConsoleClient, wanted: str
) -> None:
    assert sign_in(nobody, provider, ADA, wanted).headers["Location"] == "/"


def test_what_the_provider_sends_beside_does_not_lead_away(
    world: World, provider: OpenIdProvider, nobody: ConsoleClient
) -> None:
    url = leave(nobody)
    answer = come_back(
        nobody, state=state_of(url), code=provider.authorize(url, ADA), next="//evil.example", session_state="x"
    )
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")


# ---- What is refused, and what is said of it -----------------------------------------------------------------------


def test_a_state_of_another_browser_signs_nobody_in(
    world: World, provider: OpenIdProvider, nobody: ConsoleClient, app: Flask
) -> None:
    """Somebody sends a link that would sign its reader in as the sender."""
    thief = stranger(world, app=app)
    url = leave(thief)
    theirs = {"state": state_of(url), "code": provider.authorize(url, ADA)}
    refused(come_back(nobody, **theirs), nobody, 400, "begun in another browser", "Try again.")
    leave(nobody)  # also where one of their own has begun
    refused(come_back(nobody, **theirs), nobody, 401, "This sign-in was begun elsewhere.", "Begin again, here.")


@pytest.mark.parametrize("state", ["AAAA", "x" * 3000, EVIL])
def test_a_state_that_nobody_made(world: World, provider: OpenIdProvider, nobody: ConsoleClient, state: str) -> None:
    url = leave(nobody)
    answer = come_back(nobody, state=state, code=provider.authorize(url, ADA))
    assert answer.status_code in (400, 401, 413)
    assert "<script>alert" not in answer.text
    assert nobody.cookie(SESSION) is None


TOKENS: dict[str, dict[str, Any]] = {
    "another nonce": {"nonce": "n"},
    "no nonce": {"nonce": None},
    "for another client": {"aud": "another-client"},
    "for two clients": {"aud": ["attestd-console", "another-client"]},
    "by another issuer": {"iss": "https://evil.example"},
    "over": {"exp": 1},
    "of nobody": {"sub": None},
}


@pytest.mark.parametrize("lie", TOKENS)
def test_a_token_that_does_not_prove_it(
    world: World, provider: OpenIdProvider, nobody: ConsoleClient, lie: str
) -> None:
    provider.lies = TOKENS[lie]
    refused(sign_in(nobody, provider), nobody, 401, "does not prove who you are", "an admin finds the reason")
    provider.lies = {}
    assert sign_in(nobody, provider).status_code == 303


def test_a_token_that_nobody_signed(world: World, provider: OpenIdProvider, nobody: ConsoleClient) -> None:
    provider.sign = unsigned
    refused(sign_in(nobody, provider), nobody, 401, "does not prove who you are")


def test_a_code_that_was_for_somebody_else(
    world: World, provider: OpenIdProvider, nobody: ConsoleClient, app: Flask
) -> None:
    """The verifier stays in the browser's own sign-in, so a code that was caught is of no use (RFC 7636)."""
    victim = stranger(world, app=app)
    code = provider.authorize(leave(victim), ADA)
    answer = come_back(nobody, state=state_of(leave(nobody)), code=code)
    refused(answer, nobody, 401, "does not know this sign-in", "Begin again.")


def test_an_answer_that_names_another_issuer(world: World, provider: OpenIdProvider, nobody: ConsoleClient) -> None:
    url = leave(nobody)
    code = provider.authorize(url, ADA)
    answer = come_back(nobody, state=state_of(url), code=code, iss="https://evil.example")
    refused(answer, nobody, 401, "does not know this sign-in")


def test_an_answer_serves_once(world: World, provider: OpenIdProvider, nobody: ConsoleClient) -> None:
    url = leave(nobody)
    pending = nobody.cookie(PENDING)
    said = {"state": state_of(url), "code": provider.authorize(url, ADA)}
    assert come_back(nobody, **said).status_code == 303
    assert come_back(nobody, **said).status_code == 400  # the cookie is gone; somebody who kept it:
    nobody.set_cookie(PENDING, pending or "")
    answer = come_back(nobody, **said | {"code": provider.authorize(url, ADA)})
    assert answer.status_code == 401
    assert "finished already" in Markup(answer.text).words


def test_an_answer_that_comes_late(world: World, provider: OpenIdProvider, nobody: ConsoleClient) -> None:
    url = leave(nobody)
    code = provider.authorize(url, ADA)
    world.clock.advance(minutes=10)
    refused(come_back(nobody, state=state_of(url), code=code), nobody, 401, "That took too long.")


def test_the_provider_s_own_refusal_is_told_without_its_words(
    world: World, provider: OpenIdProvider, nobody: ConsoleClient
) -> None:
    url = leave(nobody)
    answer = come_back(
        nobody, error="access_denied", error_description=EVIL, error_uri="https://evil.example", state=state_of(url)
    )
    refused(answer, nobody, 403, "The identity provider did not sign you in.", "Try again, or use a passkey.")
    assert "evil" not in answer.text
    assert "alert(1)" not in answer.text


def test_who_has_no_role_is_told_whom_to_ask(world: World, provider: OpenIdProvider, nobody: ConsoleClient) -> None:
    answer = sign_in(nobody, provider, ADA | {"groups": ["cooks"]})
    refused(answer, nobody, 403, "Nobody here is known by that identity.", "Ask an admin for an invitation")


def test_who_was_disabled_stays_out(world: World, provider: OpenIdProvider, nobody: ConsoleClient, app: Flask) -> None:
    assert sign_in(stranger(world, app=app), provider).status_code == 303
    world.admin.post("/v1/admin/operators/ada/disable", {"v": 1, "reason": "left"})
    refused(sign_in(nobody, provider), nobody, 401, "Your access was ended.")


def test_a_provider_that_is_not_there(world: World, provider: OpenIdProvider, nobody: ConsoleClient) -> None:
    answer = nobody.post("/sign-in/provider", {"provider": "another", "next": "/"})
    refused(answer, nobody, 404, "That identity provider is not known here.")
    provider.described = {"token_endpoint": "http://127.0.0.1:1/"}
    url = leave(nobody)
    answer = come_back(nobody, state=state_of(url), code=provider.authorize(url, ADA))
    refused(answer, nobody, 503, "does not answer", "use a passkey")


@pytest.mark.parametrize("endpoint", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd"])
def test_no_browser_is_sent_to_what_is_no_address(
    world: World, provider: OpenIdProvider, nobody: ConsoleClient, endpoint: str
) -> None:
    provider.described = {"authorization_endpoint": endpoint}
    answer = nobody.post("/sign-in/provider", {"provider": "sso", "next": "/"})
    assert answer.status_code >= 400
    assert quote(endpoint) not in answer.text
    assert endpoint not in answer.text
