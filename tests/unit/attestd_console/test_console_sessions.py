"""The browser's half of a session: seed, key, cookies, and where forms come from."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flask import Flask, Response

from attestd.protocol.encoding import b64encode
from attestd_console import sessions
from attestd_console.sessions import PENDING, SAID, SESSION, FormNotOurs, Seed
from tests.console import ORIGIN, ConsoleClient, console_client

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture
def flask() -> Flask:
    return Flask("test")


def test_a_seed_makes_one_key_and_another_seed_another() -> None:
    seed = Seed.fresh()
    assert seed.key.thumbprint == Seed(seed.octets).key.thumbprint
    assert seed.key.thumbprint != Seed.fresh().key.thumbprint
    assert isinstance(seed.key.public_key.curve, ec.SECP256R1)


def test_the_key_is_what_it_was_in_every_version() -> None:
    # A console that derives it otherwise signs everybody out.
    assert Seed(bytes(range(32))).key.thumbprint == "hTo9PmIWS5Dyhae6aln_KOgHME8Dd9OOnVMo5DfZQss"


def test_the_order_is_the_curves() -> None:
    largest = ec.derive_private_key(_ORDER - 1, ec.SECP256R1())
    assert largest.private_numbers().private_value == _ORDER - 1
    with pytest.raises(ValueError, match="Invalid"):
        ec.derive_private_key(_ORDER + 1, ec.SECP256R1())
    assert sessions._ORDER == _ORDER


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_a_seed_has_one_length(length: int) -> None:
    assert Seed.read(b64encode(bytes(length))) is None
    assert Seed.read(b64encode(bytes(32))) is not None


@pytest.mark.parametrize(
    "text", ["", "=", "a" * 42 + "+", "A" * 42 + "B", "ü" * 43, "A" * 5000, " " + "A" * 42, "A" * 43 + "="]
)
def test_a_seed_has_one_spelling(text: str) -> None:
    assert Seed.read(text) is None


def test_nothing_that_is_derived_from_a_seed_serves_for_another_purpose() -> None:
    seed = Seed.fresh()
    made = {seed.text, seed.form_token, seed.mac(b"said"), seed.mac(b"said", b"x"), seed.mac(b"said x"), seed.public}
    assert len(made) == 6


@pytest.mark.parametrize("name", [SESSION, PENDING, SAID])
def test_cookies_are_this_origins_alone_and_no_scripts(name: str, flask: Flask) -> None:
    seed = Seed.fresh()
    with flask.test_request_context():
        response = Response()
        sessions.begin(response, seed)
        sessions.promote(response, seed)
        sessions.say(response, seed, "Done.")
    cookies = [c for c in response.headers.getlist("Set-Cookie") if c.startswith(f"{name}=")]
    assert cookies
    for cookie in cookies:
        attributes = {part.strip().split("=")[0].lower(): part.strip() for part in cookie.split(";")[1:]}
        assert {"secure", "httponly", "path", "samesite"} <= attributes.keys()
        assert attributes["path"] == "Path=/"
        assert attributes["samesite"] == "SameSite=Lax"
        assert "domain" not in attributes


def test_the_session_ends_with_the_browser(flask: Flask) -> None:
    response = Response()
    with flask.test_request_context():
        sessions.promote(response, Seed.fresh())
    cookie = next(c for c in response.headers.getlist("Set-Cookie") if c.startswith(f"{SESSION}="))
    assert "max-age" not in cookie.lower()
    assert "expires" not in cookie.lower()


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-origin", "Origin": ORIGIN},
        {"Sec-Fetch-Site": "same-origin"},
        {"Origin": ORIGIN},
        {"Origin": ORIGIN.upper()},
    ],
)
def test_a_form_of_this_origin_is_taken(headers: dict[str, str], flask: Flask) -> None:
    with flask.test_request_context(base_url=ORIGIN, method="POST", headers=headers) as context:
        sessions.require_same_origin(context.request)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site", "Origin": ORIGIN},
        {"Sec-Fetch-Site": "same-site", "Origin": ORIGIN},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
        {"Origin": "null"},
        {"Origin": ORIGIN.replace("https", "http")},
        {"Origin": ORIGIN + ".evil.example"},
        {"Origin": ORIGIN.replace("8443", "444")},
        {"Origin": ""},
    ],
)
def test_a_form_from_elsewhere_is_not(headers: dict[str, str], flask: Flask) -> None:
    context = flask.test_request_context(base_url=ORIGIN, method="POST", headers=headers)
    with context, pytest.raises(FormNotOurs):
        sessions.require_same_origin(context.request)


def test_a_form_without_this_sessions_token_changes_nothing(admin: ConsoleClient, world: Any, app: Flask) -> None:
    other = console_client(world, "admin", "other", app=app)
    assert admin.seed is not None and other.seed is not None
    assert admin.post("/theme", {"theme": "dark"}).status_code == 303
    for csrf in (None, "", "x", other.seed.form_token, admin.seed.form_token[:-1], admin.seed.form_token + "A", "ü"):
        answer = admin.post("/theme", {"theme": "dark"}, csrf=csrf)
        assert answer.status_code == 403, csrf
        assert "Nothing was done" in answer.text
        assert "Set-Cookie" not in answer.headers
    assert admin.get("/sign-out").status_code == 405  # a link signs nobody out


def test_a_sentence_is_shown_once_and_only_if_the_console_said_it(admin: ConsoleClient, flask: Flask) -> None:
    assert admin.seed is not None
    for seed, shown in ((admin.seed, True), (Seed.fresh(), False)):
        response = Response()
        with flask.test_request_context():
            sessions.say(response, seed, "Released <b>it</b>.")
        value = response.headers["Set-Cookie"].split("=", 1)[1].split(";")[0]
        admin.set_cookie(SAID, value)
        page = admin.get("/help")
        assert ("Released &lt;b&gt;it&lt;/b&gt;." in page.text) is shown
        assert admin.cookie(SAID) is None
        assert "Released" not in admin.get("/help").text


@pytest.mark.parametrize("value", ["", ".", "x", "eA.", "eA.eA", "A" * 3000, "eA.ü"])
def test_a_sentence_that_is_none_is_not_shown(value: str, admin: ConsoleClient) -> None:
    admin.set_cookie(SAID, value)
    assert admin.get("/help").status_code == 200
