"""A device's identity for httpx.

    from attestd_agent.programs.httpx_auth import DeviceAuth
    from attestd_agent.programs.presenting import Presenter

    presenter = Presenter.over(
        "/run/attestd-agent/programs.sock", audience="edge", origins=["https://shop-17.example.org"]
    )
    with httpx.Client(auth=DeviceAuth(presenter)) as client:
        client.get("https://shop-17.example.org/orders")

For httpx.AsyncClient as well (on asyncio). A request to an origin that is not named raises OriginNotNamed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Generator

import httpx

from attestd_agent.programs.presenting import Presenter

_MOST = 4  # attempts at one request, redirects included


class DeviceAuth(httpx.Auth):
    """Signs each request, and once more where the edge asks for its nonce.

    httpx follows redirects only if told to, and takes the token off on the way to another origin by itself.
    """

    def __init__(self, presenter: Presenter) -> None:
        self._presenter = presenter

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """httpx's: requests out, responses in."""
        signed = _Signed()
        while signed.may_be(request):
            request.headers.update(self._presenter.sign(request.method, str(request.url)))
            response = yield request
            if (again := self._next(request, response)) is None:
                return
            request = again

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """As the other; the TPM takes its time, and the event loop does not wait for it."""
        signed = _Signed()
        while signed.may_be(request):
            method, url = request.method, str(request.url)
            request.headers.update(await asyncio.to_thread(self._presenter.sign, method, url))
            response = yield request
            if (again := self._next(request, response)) is None:
                return
            request = again

    def _next(self, sent: httpx.Request, response: httpx.Response) -> httpx.Request | None:
        """The request to sign and send now, if a refusal can be mended. `response` is what redirects led to."""
        last = response.request
        self._presenter.learn(str(last.url), response.headers.get("DPoP-Nonce"))
        challenge, url = response.headers.get("WWW-Authenticate"), str(last.url)
        presented = (last.method, last.url) == (sent.method, sent.url)
        if not self._presenter.may_try_again(url, response.status_code, challenge, presented=presented):
            return None
        return last if _can_be_sent_again(last) else None


class _Signed:
    """How often what was signed for one request: each URL twice at most, and not without end."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, httpx.URL]] = Counter()

    def may_be(self, request: httpx.Request) -> bool:
        """Counts one attempt, if there may be one."""
        asked = (request.method, request.url)
        self._counts[asked] += 1
        return self._counts[asked] <= 2 and self._counts.total() <= _MOST


def _can_be_sent_again(request: httpx.Request) -> bool:
    """Not a body that streams: it is spent. The nonce is known now, so the program's own next attempt will pass."""
    return isinstance(request.stream, httpx.ByteStream)
