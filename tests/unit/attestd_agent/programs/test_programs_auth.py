"""httpx and requests with a device's identity: who gets a token and a proof, and who never does."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import requests

from attestd_agent.programs import httpx_auth, requests_auth
from attestd_agent.programs.origins import OriginInvalid
from attestd_agent.programs.presenting import OriginNotNamed, Presenter

from .guarded import AUDIENCE, Guarded, SoftwareSpeaker, guarded_for


@pytest.fixture
def speaker() -> SoftwareSpeaker:
    return SoftwareSpeaker()


@pytest.fixture
def edge(speaker: SoftwareSpeaker) -> Iterator[Guarded]:
    with guarded_for(speaker).running() as found:
        yield found


@pytest.fixture
def stranger(speaker: SoftwareSpeaker) -> Iterator[Guarded]:
    """Another origin, not named."""
    with guarded_for(speaker).running() as found:
        yield found


@pytest.fixture
def presenter(speaker: SoftwareSpeaker, edge: Guarded) -> Presenter:
    return Presenter(speaker, audience=AUDIENCE, origins=[edge.origin])


Ask = Callable[..., int]


def by_httpx(presenter: Presenter) -> Ask:
    def ask(method: str, url: str, body: Any = None) -> int:
        with httpx.Client(auth=httpx_auth.DeviceAuth(presenter), follow_redirects=True, timeout=20) as client:
            return client.request(method, url, content=body).status_code

    return ask


def by_async_httpx(presenter: Presenter) -> Ask:
    async def go(method: str, url: str, body: Any) -> int:
        if body is not None and not isinstance(body, bytes):
            body = _each(body)
        async with httpx.AsyncClient(
            auth=httpx_auth.DeviceAuth(presenter), follow_redirects=True, timeout=20
        ) as client:
            return (await client.request(method, url, content=body)).status_code

    return lambda method, url, body=None: asyncio.run(go(method, url, body))


async def _each(body: Any) -> Any:
    for piece in body:
        yield piece


def by_requests(presenter: Presenter) -> Ask:
    def ask(method: str, url: str, body: Any = None) -> int:
        with requests.Session() as session:
            session.auth = requests_auth.DeviceAuth(presenter)
            return session.request(method, url, data=body, timeout=20).status_code

    return ask


@pytest.fixture(params=[by_httpx, by_async_httpx, by_requests], ids=["httpx", "async httpx", "requests"])
def ask(request: pytest.FixtureRequest, presenter: Presenter) -> Ask:
    found: Ask = request.param(presenter)
    return found


def test_the_first_request_learns_the_nonce_and_the_next_ones_have_it(ask: Ask, edge: Guarded) -> None:
    assert ask("GET", f"{edge.origin}/orders?a=b") == 200
    assert edge.statuses == ["401", "200"]
    assert ask("POST", f"{edge.origin}/orders", b"a body") == 200
    assert edge.statuses == ["401", "200", "200"]
    assert edge.seen[-1][3] == b"a body"


def test_a_nonce_that_ended_is_replaced(ask: Ask, edge: Guarded) -> None:
    assert ask("GET", f"{edge.origin}/orders") == 200
    edge.forget()
    assert ask("POST", f"{edge.origin}/orders", b"a body") == 200
    assert edge.statuses == ["401", "200", "401", "200"]
    assert edge.seen[-1][3] == b"a body"


def test_it_tries_once_more_and_no_more(ask: Ask, edge: Guarded) -> None:
    edge.never_content = True
    assert ask("GET", f"{edge.origin}/orders") == 401
    assert edge.statuses == ["401", "401"]


def test_a_refusal_for_another_reason_is_not_tried_again(ask: Ask, edge: Guarded) -> None:
    edge.jkt = "another key's"
    assert ask("GET", f"{edge.origin}/orders") == 401
    assert edge.statuses == ["401"]


def test_another_schemes_challenge_is_not_answered(ask: Ask, edge: Guarded) -> None:
    assert ask("GET", f"{edge.origin}/basic") == 401
    assert edge.statuses == ["401"]


@pytest.mark.parametrize(
    ("challenge", "again"),
    [
        ('DPoP algs="ES256"', True),
        ('Basic realm="DPoP"', False),
        ("Basic, DPoP", True),
        ("Bearer", False),
        (None, False),
    ],
)
def test_what_was_shown_nothing_asks_for_it_by_its_scheme(
    presenter: Presenter, edge: Guarded, challenge: str | None, again: bool
) -> None:
    assert presenter.may_try_again(edge.origin, 401, challenge, presented=False) is again


def test_no_origin_but_the_named_ones(ask: Ask, stranger: Guarded, speaker: SoftwareSpeaker) -> None:
    with pytest.raises(OriginNotNamed):
        ask("GET", f"{stranger.origin}/orders")
    assert stranger.seen == []
    assert speaker.asked == []


@pytest.mark.parametrize("path", ["/open", "/orders"])
@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_to_another_origin_takes_no_token_along(
    ask: Ask, edge: Guarded, stranger: Guarded, path: str, status: int
) -> None:
    answered = ask("GET", f"{edge.origin}/to?url={stranger.origin}{path}&status={status}")
    assert answered == (200 if path == "/open" else 401)
    ((_, _, headers, _),) = stranger.seen
    assert "authorization" not in headers


def test_requests_takes_no_proof_along_either(presenter: Presenter, edge: Guarded, stranger: Guarded) -> None:
    assert by_requests(presenter)("GET", f"{edge.origin}/to?url={stranger.origin}/open") == 200
    assert "dpop" not in stranger.seen[0][2]


@pytest.mark.parametrize(("status", "method"), [(302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")])
def test_a_redirect_on_the_same_origin_is_signed_for_where_it_leads(
    ask: Ask, edge: Guarded, speaker: SoftwareSpeaker, status: int, method: str
) -> None:
    assert ask("GET", f"{edge.origin}/orders") == 200  # the nonce is known
    assert ask("POST", f"{edge.origin}/to?url={edge.origin}/elsewhere&status={status}", b"a body") == 200
    assert edge.seen[-1][:2] == (method, "/elsewhere")
    assert edge.seen[-1][3] == (b"a body" if method == "POST" else b"")
    assert speaker.asked[-1] == (method, f"{edge.origin}/elsewhere", AUDIENCE)


def test_a_body_that_streams_is_not_sent_twice(ask: Ask, edge: Guarded) -> None:
    assert ask("POST", f"{edge.origin}/orders", iter([b"a ", b"body"])) == 401
    assert edge.statuses == ["401"]
    assert ask("POST", f"{edge.origin}/orders", iter([b"a ", b"body"])) == 200  # the nonce is known now
    assert edge.seen[-1][3] == b"a body"


def test_a_file_is_sent_from_where_it_began(presenter: Presenter, edge: Guarded) -> None:
    file = io.BytesIO(b"head and a body")
    file.seek(9)
    assert by_requests(presenter)("POST", f"{edge.origin}/orders", file) == 200
    assert edge.seen[-1][3] == b"a body"


def test_the_token_is_in_no_answers_request(presenter: Presenter, edge: Guarded) -> None:
    """Programs log these."""
    answer = requests.get(f"{edge.origin}/orders", auth=requests_auth.DeviceAuth(presenter), timeout=20)
    assert answer.status_code == 200
    for one in (answer, *answer.history):
        assert not {"authorization", "dpop"} & {name.lower() for name in one.request.headers}


class TestOrigins:
    @pytest.mark.parametrize(
        "origin",
        ["https://shop-17.example.org", "https://shop-17.example.org:8443/", "http://127.0.0.1:8000", "http://[::1]:1"],
    )
    def test_tls_or_this_machine(self, speaker: SoftwareSpeaker, origin: str) -> None:
        assert Presenter(speaker, audience=AUDIENCE, origins=[origin]).names(f"{origin.rstrip('/')}/orders?a=b")

    @pytest.mark.parametrize(
        "origin",
        [
            "http://shop-17.example.org", "http://10.0.0.1", "http://127.0.0.1.example.org",
            "http://localhost.example.org",
            "shop-17.example.org", "https://shop-17.example.org/orders", "https://me@shop-17.example.org",
            "ftp://a", "",
            "https://shop-17.example.org?a", "http://2130706433",
        ],
    )  # fmt: skip
    def test_nothing_else(self, speaker: SoftwareSpeaker, origin: str) -> None:
        with pytest.raises(OriginInvalid):
            Presenter(speaker, audience=AUDIENCE, origins=[origin])

    def test_at_least_one(self, speaker: SoftwareSpeaker) -> None:
        with pytest.raises(OriginInvalid):
            Presenter(speaker, audience=AUDIENCE, origins=[])

    @pytest.mark.parametrize(
        "url",
        [
            "https://shop-17.example.org.evil.example/", "https://shop-17.example.org:444/", "http://shop-17.example.org/",
            "https://shop-17.example.org@evil.example/", "https://evil.example/https://shop-17.example.org/",
            "https://evil.example#https://shop-17.example.org",
        ],
    )  # fmt: skip
    def test_what_looks_like_one_is_none(self, speaker: SoftwareSpeaker, url: str) -> None:
        presenter = Presenter(speaker, audience=AUDIENCE, origins=["https://shop-17.example.org"])
        assert not presenter.names(url)
        with pytest.raises(Exception, match=r"origin|URL|not for"):
            presenter.sign("GET", url)
        assert speaker.asked == []

    def test_two_spellings_of_one(self, speaker: SoftwareSpeaker) -> None:
        presenter = Presenter(speaker, audience=AUDIENCE, origins=["https://Shop-17.example.org:443"])
        assert presenter.names("https://shop-17.EXAMPLE.org/orders")


class TestNonces:
    URL = "https://shop-17.example.org/orders"

    def nonce_of(self, presenter: Presenter) -> str | None:
        return presenter._nonces.get("https://shop-17.example.org")

    @pytest.fixture
    def presenter(self, speaker: SoftwareSpeaker) -> Presenter:
        return Presenter(speaker, audience=AUDIENCE, origins=["https://shop-17.example.org", "https://b.example.org"])

    def test_each_origin_has_its_own(self, presenter: Presenter) -> None:
        presenter.learn(self.URL, "first")
        presenter.learn("https://b.example.org/", "second")
        presenter.learn("https://evil.example/", "third")
        assert self.nonce_of(presenter) == "first"
        assert len(presenter._nonces) == 2

    @pytest.mark.parametrize("nonce", ["", "two words", 'quo"te', "x" * 129, "a\nb", None])
    def test_what_is_none_is_not_kept(self, presenter: Presenter, nonce: str | None) -> None:
        presenter.learn(self.URL, "first")
        presenter.learn(self.URL, nonce)
        assert self.nonce_of(presenter) == "first"
