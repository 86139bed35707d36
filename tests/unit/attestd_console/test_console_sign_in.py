"""Signing in through the console's pages: the seed that waits, the service's yes, and everything that is a no."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask

from attestd.registry import audit
from attestd_console.sessions import PENDING, SESSION, Seed
from tests.authenticator import Authenticator, invite
from tests.console import ORIGIN, ConsoleClient, accept, sign_in, signed_in, stranger
from tests.service import World


@pytest.fixture
def passkey(world: World, app: Flask) -> Authenticator:
    """Ada's, who has been here once."""
    passkey = Authenticator()
    signed_in(world, "operator", passkey=passkey, app=app)
    return passkey


def test_the_link_says_who_one_will_be_and_signs_in_once(world: World, nobody: ConsoleClient, app: Flask) -> None:
    token = invite(world, "ada", "operator")["token"]
    page = nobody.get(f"/first/{token}")
    assert "You will be ada" in page.text
    assert "An operator of fleet.example" in page.text
    assert nobody.cookie(PENDING) is None  # looking begins nothing
    answer = accept(nobody, token, Authenticator())
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    assert nobody.cookie(PENDING) is None
    assert "ada" in nobody.get("/help").text
    other = stranger(world, app=app)
    assert other.get(f"/first/{token}").status_code == 403
    assert "used already" in other.get(f"/first/{token}").text


@pytest.mark.parametrize("token", ["x", "A" * 43, "A" * 300, "ü"])
def test_a_link_that_is_none_says_so(token: str, nobody: ConsoleClient) -> None:
    page = nobody.get(f"/first/{token}")
    assert page.status_code in (400, 403, 404, 413)
    assert "This link does not work" in page.text
    assert nobody.post(f"/first/{token}/begin").status_code in (400, 403, 404, 413)
    assert nobody.cookie(PENDING) is None


def test_a_passkey_signs_in_and_leads_to_the_page_that_was_wanted(
    nobody: ConsoleClient, passkey: Authenticator
) -> None:
    answer = sign_in(nobody, passkey, "/help?x=1")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/help?x=1")
    assert "operator" in nobody.get("/help").text


def test_signing_out_ends_the_session_at_the_service_too(nobody: ConsoleClient, passkey: Authenticator) -> None:
    sign_in(nobody, passkey)
    kept = nobody.cookie(SESSION)
    assert kept is not None
    assert nobody.post("/sign-out").headers["Location"] == "/sign-in"
    assert nobody.cookie(SESSION) is None
    nobody.set_cookie(SESSION, kept)  # somebody copied it before
    assert nobody.get("/help").headers["Location"].startswith("/sign-in?")


def test_a_session_of_another_browser_goes_on(
    world: World, nobody: ConsoleClient, passkey: Authenticator, app: Flask
) -> None:
    other = stranger(world, app=app)
    sign_in(nobody, passkey)
    sign_in(other, passkey)
    nobody.post("/sign-out")
    assert other.get("/help").status_code == 200


def test_a_planted_pending_seed_becomes_no_session(world: World, nobody: ConsoleClient, passkey: Authenticator) -> None:
    planted = Seed.fresh()
    nobody.set_cookie(PENDING, f"{planted.text}.")
    nobody.set_cookie(SESSION, planted.text)
    sign_in(nobody, passkey)
    assert nobody.cookie(SESSION) not in (None, planted.text)


def test_what_was_begun_in_one_browser_is_not_finished_in_another(
    world: World, nobody: ConsoleClient, passkey: Authenticator, app: Flask
) -> None:
    begun = nobody.post("/sign-in/passkey/begin").get_json()
    proof = json.dumps(passkey.get(begun["options"], ORIGIN))
    other = stranger(world, app=app)
    form = {"challenge": begun["challenge"], "credential": proof}
    assert other.post("/sign-in/passkey", form).status_code == 400  # it began nothing
    other.post("/sign-in/passkey/begin")
    answer = other.post("/sign-in/passkey", form)
    assert answer.status_code == 401
    assert "begun elsewhere" in answer.text
    assert other.cookie(SESSION) is None
    assert nobody.post("/sign-in/passkey", form).status_code == 303


LIES: dict[str, dict[str, Any]] = {
    "another site": {"origin": "https://evil.example"},
    "another rp": {"rp_id": "evil.example"},
    "unverified": {"flags": 0x01},
    "another challenge": {"challenge": "AAAA"},
    "another kind": {"type": "webauthn.create"},
    "a bad signature": {"sign": lambda message: bytes(70)},
    "framed": {"cross_origin": True},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_forged_assertion_signs_nobody_in(lie: str, nobody: ConsoleClient, passkey: Authenticator) -> None:
    answer = sign_in(nobody, passkey, **LIES[lie])
    assert answer.status_code == 401
    assert nobody.cookie(SESSION) is None
    assert nobody.cookie(PENDING) is None
    assert "note warn" in answer.text
    assert sign_in(nobody, passkey).status_code == 303


def test_an_unknown_passkey_is_told_what_to_try(nobody: ConsoleClient, passkey: Authenticator) -> None:
    answer = sign_in(nobody, Authenticator(handle=passkey.handle))
    assert answer.status_code == 401
    assert "That passkey is not known here" in answer.text


@pytest.mark.parametrize("credential", ["", "x", "[]", "{}", '{"id": 1}', "{" * 100, "a" * 40_000])
def test_a_credential_that_is_none_signs_nobody_in(
    credential: str, nobody: ConsoleClient, passkey: Authenticator
) -> None:
    begun = nobody.post("/sign-in/passkey/begin").get_json()
    answer = nobody.post("/sign-in/passkey", {"challenge": begun["challenge"], "credential": credential})
    assert answer.status_code in (400, 401, 413)
    assert nobody.cookie(SESSION) is None


def test_a_sign_in_that_takes_too_long_is_over(world: World, nobody: ConsoleClient, passkey: Authenticator) -> None:
    begun = nobody.post("/sign-in/passkey/begin").get_json()
    proof = json.dumps(passkey.get(begun["options"], ORIGIN))
    world.clock.advance(minutes=3)
    answer = nobody.post("/sign-in/passkey", {"challenge": begun["challenge"], "credential": proof})
    assert answer.status_code == 401
    assert "took too long" in answer.text


def test_a_session_that_ended_sends_to_the_sign_in_and_back(
    world: World, nobody: ConsoleClient, passkey: Authenticator
) -> None:
    sign_in(nobody, passkey)
    world.clock.advance(hours=24)
    answer = nobody.get("/help?a=b")
    assert answer.headers["Location"] == "/sign-in?next=%2Fhelp%3Fa%3Db&why=session-over"
    page = nobody.get(answer.headers["Location"]).text
    assert "You were signed out" in page
    assert 'name="next" value="/help?a=b"' in page
    answer = nobody.post("/theme", {"theme": "dark"})
    assert answer.headers["Location"] == "/sign-in"


def test_the_service_is_told_of_the_browser(world: World, nobody: ConsoleClient, passkey: Authenticator) -> None:
    nobody.headers["User-Agent"] = "Firefox\x1b[2J 140" + "x" * 900
    sign_in(nobody, passkey)
    sessions = world.admin.get("/v1/admin/sessions").get_json()["sessions"]
    agents = [session["browser"]["agent"] for session in sessions]
    assert [agent[:14] for agent in agents if agent.startswith("Firefox")] == ["Firefox[2J 140"]
    assert {session["browser"]["address"] for session in sessions} == {"127.0.0.1"}
    with world.registry.reading() as c:
        assert audit.page(c)[0].actor == "operator:ada"


def test_at_another_address_the_page_leads_to_the_one_that_passkeys_belong_to(nobody: ConsoleClient) -> None:
    page = nobody.http.get("/sign-in", base_url="https://10.0.0.1:8443").text
    assert f'href="{ORIGIN}/sign-in"' in page
    assert "Continue with a passkey" not in page
