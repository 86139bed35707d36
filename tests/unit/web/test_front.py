"""The front: bounds of size, time, number and memory, before a worker thread is taken."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from attestd.protocol.messages import MAX_SMALL
from attestd.web.admission import Told, Work
from attestd.web.front import SMALL, Front, Limits
from attestd.web.sources import Proxies
from attestd.web.vetting import Rates, Vetting


class Echo:
    """Answers with what it was given; `gate` holds it up."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.environ: WSGIEnvironment = {}
        self.calls = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.calls += 1
        self.environ = environ
        self.gate.wait(10)
        start_response("200 OK", [("X-Seen", "yes")])
        return [environ["wsgi.input"].read()]


def scope(**changed: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/v1/enrollments",
        "query_string": b"",
        "headers": [(b"transfer-encoding", b"chunked")],
        "client": ("192.0.2.1", 5),
        "server": ("127.0.0.1", 8443),
        **changed,
    }


async def send(front: Front, *chunks: bytes, stall: bool = False, **changed: Any) -> tuple[int, dict[str, str], bytes]:
    """One request whose body arrives in `chunks`, and then not at all if it stalls."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if not stall:
        messages.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def collect(message: Any) -> None:
        sent.append(message)

    await front(scope(**changed), receive, collect)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, sent[1]["body"]


def declared(size: int) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", str(size).encode())]


def slug(body: bytes) -> str:
    return str(json.loads(body)["type"]).removeprefix("urn:attestd:problem:")


def test_a_request_arrives_whole() -> None:
    echo = Echo()
    status, headers, body = asyncio.run(send(Front(echo, threads=1), b"ab", b"c"))
    assert (status, headers["x-seen"], body) == (200, "yes", b"abc")
    assert echo.environ["CONTENT_LENGTH"] == "3"
    assert echo.environ["REMOTE_ADDR"] == "192.0.2.1"


def test_a_request_without_a_body_waits_for_none() -> None:
    front = Front(Echo(), threads=1, limits=Limits(small_time=0.2))
    for headers in ([], [(b"content-length", b"0")]):
        assert asyncio.run(send(front, stall=True, method="GET", path="/healthz", headers=headers))[0] == 200


def test_a_body_that_stalls_costs_no_thread() -> None:
    echo = Echo()
    front = Front(echo, threads=1, limits=Limits(small_time=0.2))

    async def story() -> tuple[Any, Any]:
        stalled = [asyncio.create_task(send(front, b"x", stall=True)) for _ in range(50)]
        await asyncio.sleep(0.05)
        served = await asyncio.wait_for(send(front, b"y"), 2)
        return served, await asyncio.gather(*stalled)

    served, stalled = asyncio.run(story())
    assert served[0] == 200
    assert {(status, slug(body)) for status, _, body in stalled} == {(408, "request-too-slow")}
    assert {headers["connection"] for _, headers, _ in stalled} == {"close"}
    assert echo.calls == 1


def test_a_small_body_has_less_time_than_a_large_one() -> None:
    front = Front(Echo(), threads=1, limits=Limits(small_time=0.1, body_time=0.5))

    async def story() -> list[bool]:
        complete = "/v1/enrollments/complete"
        small = asyncio.create_task(send(front, b"x", stall=True, path=complete, headers=declared(10)))
        large = asyncio.create_task(send(front, b"x", stall=True, path=complete, headers=declared(SMALL + 1)))
        await asyncio.sleep(0.3)
        done = [small.done(), large.done()]
        await asyncio.gather(small, large)
        return done

    assert asyncio.run(story()) == [True, False]


def test_in_a_crowd_nobody_may_dawdle_and_who_is_there_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attestd.web.front._CROWD_PATIENCE", 0.1)
    echo = Echo()
    front = Front(echo, threads=1, limits=Limits(small_time=5, crowd=3))

    async def story() -> tuple[int, int]:
        crowd = [asyncio.create_task(send(front, b"x", stall=True)) for _ in range(3)]
        await asyncio.sleep(0.05)
        slow, there = await asyncio.wait_for(asyncio.gather(send(front, b"x", stall=True), send(front, b"y")), 3)
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
        return slow[0], there[0]

    assert asyncio.run(story()) == (408, 200)


@pytest.mark.parametrize("size", [MAX_SMALL, MAX_SMALL + 1])
def test_a_body_beyond_the_paths_limit_is_refused_when_it_is_seen(size: int) -> None:
    echo = Echo()
    front = Front(echo, threads=1)
    status, _, _ = asyncio.run(send(front, b"x" * size, path="/v1/proxies/renewals"))
    assert status == (200 if size == MAX_SMALL else 413)
    assert echo.calls == (1 if size == MAX_SMALL else 0)


def test_a_declared_size_beyond_the_limit_is_refused_unread() -> None:
    front = Front(Echo(), threads=1, limits=Limits(small_time=0.2))
    status, headers, body = asyncio.run(send(front, stall=True, headers=declared(10**12)))
    assert (status, slug(body), headers["connection"]) == (413, "input-too-large", "close")


def test_an_inventory_may_be_larger() -> None:
    front = Front(Echo(), threads=1)
    assert asyncio.run(send(front, b"x" * 100_000, path="/v1/admin/devices/import"))[0] == 200
    assert asyncio.run(send(front, b"x" * 100_000, path="/v1/admin/devices/import/"))[0] == 413


IMPORT = "/v1/admin/devices/import"


def test_large_bodies_leave_room_for_small_ones_and_give_theirs_back() -> None:
    front = Front(Echo(), threads=1, limits=Limits(in_flight=400_000, for_one=1, body_time=0.3))

    async def story() -> tuple[Any, Any, Any]:
        holding = asyncio.create_task(send(front, b"x" * 290_000, stall=True, path=IMPORT))
        await asyncio.sleep(0.05)
        refused = await send(front, b"y" * 100_000, path=IMPORT, client=("192.0.2.2", 1))
        small = await send(front, b"y" * 1000)
        await holding
        return refused, small, await send(front, b"y" * 100_000, path=IMPORT)

    refused, small, later = asyncio.run(story())
    assert (refused[0], refused[1]["retry-after"], slug(refused[2])) == (503, "2", "overloaded")
    assert (small[0], later[0]) == (200, 200)


def test_one_source_does_not_fill_the_room_of_all() -> None:
    front = Front(Echo(), threads=1, limits=Limits(in_flight=800_000, body_time=0.3))

    async def story() -> tuple[Any, Any]:
        holding = asyncio.create_task(send(front, b"x" * 150_000, stall=True, path=IMPORT))
        await asyncio.sleep(0.05)
        same, other = [
            await send(front, b"y" * 100_000, path=IMPORT, client=(host, 1)) for host in ("192.0.2.1", "192.0.2.2")
        ]
        await holding
        return same, other

    same, other = asyncio.run(story())
    assert (same[0], slug(same[2]), other[0]) == (503, "overloaded", 200)


def test_even_small_bodies_are_bounded_together() -> None:
    front = Front(Echo(), threads=1, limits=Limits(in_flight=3000, small_time=0.3))

    async def story() -> tuple[Any, Any]:
        holding = asyncio.create_task(send(front, b"x" * 2500, stall=True))
        await asyncio.sleep(0.05)
        refused = await send(front, b"y" * 1000)
        await holding
        return refused, await send(front, b"y" * 1000)

    refused, later = asyncio.run(story())
    assert (refused[0], later[0]) == (503, 200)


def test_the_largest_bodies_are_few_at_once() -> None:
    front = Front(Echo(), threads=1, limits=Limits(body_time=0.3, larger=100_000, larger_at_once=1))

    async def story() -> tuple[Any, Any, Any]:
        holding = asyncio.create_task(send(front, b"x" * 200_000, stall=True, path=IMPORT))
        await asyncio.sleep(0.05)
        refused, lesser = await send(front, b"y" * 200_000, path=IMPORT), await send(front, b"y" * 90_000, path=IMPORT)
        await holding
        return refused, lesser, await send(front, b"y" * 200_000, path=IMPORT)

    refused, lesser, later = asyncio.run(story())
    assert (refused[0], slug(refused[2])) == (503, "overloaded")
    assert (lesser[0], later[0]) == (200, 200)


def test_a_line_for_threads_is_bounded() -> None:
    echo = Echo()
    echo.gate.clear()
    told: list[tuple[Work, str]] = []
    front = Front(
        echo, threads=1, limits=Limits(waiting=3), told=Told(refused=lambda work, reason: told.append((work, reason)))
    )

    async def story() -> tuple[Any, list[int]]:
        held = [asyncio.create_task(send(front)) for _ in range(4)]
        await asyncio.sleep(0.05)
        refused = await send(front)
        echo.gate.set()
        return refused, [answer[0] for answer in await asyncio.gather(*held)]

    refused, held = asyncio.run(story())
    assert (refused[0], slug(refused[2]), held) == (503, "overloaded", [200] * 4)
    assert int(refused[1]["retry-after"]) >= 1
    assert told == [(Work.ENROLLMENT, "line-full")]


def test_a_client_that_leaves_while_it_waits_is_not_served() -> None:
    echo = Echo()
    echo.gate.clear()
    front = Front(echo, threads=1)
    sent: list[Any] = []

    async def story() -> None:
        held = asyncio.create_task(send(front))
        await asyncio.sleep(0.05)
        messages = [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def collect(message: Any) -> None:
            sent.append(message)

        await asyncio.wait_for(front(scope(), receive, collect), 5)
        echo.gate.set()
        await held

    asyncio.run(story())
    assert (sent, echo.calls) == ([], 1)


def test_a_spent_rate_costs_no_body_and_no_thread() -> None:
    echo = Echo()
    front = Front(echo, threads=1, vetting=Vetting(Rates(enrollments=(0.1, 2))))

    async def story() -> list[Any]:
        return [await asyncio.wait_for(send(front, b"x", stall=n > 1), 2) for n in range(4)]

    answers = asyncio.run(story())
    assert [answer[0] for answer in answers] == [200, 200, 429, 429]
    assert slug(answers[3][2]) == "too-many-requests"
    assert 1 <= int(answers[3][1]["retry-after"]) <= 11
    assert echo.calls == 2


def test_rates_are_of_the_client_that_a_trusted_proxy_names() -> None:
    echo = Echo()
    front = Front(
        echo,
        threads=1,
        vetting=Vetting(Rates(enrollments=(0.1, 1))),
        proxies=Proxies((ip_network("192.0.2.1"),)),
    )

    async def asked(by: str) -> int:
        return (await send(front, headers=[(b"x-forwarded-for", by.encode())]))[0]

    async def story() -> list[int]:
        return [await asked(by) for by in ("203.0.113.1", "203.0.113.1", "203.0.113.2")]

    assert asyncio.run(story()) == [200, 429, 200]
    assert echo.environ["REMOTE_ADDR"] == "203.0.113.2"


def test_work_that_hangs_is_answered() -> None:
    echo = Echo()
    echo.gate.clear()
    front = Front(echo, threads=1, limits=Limits(answer_time=0.2))

    async def story() -> tuple[int, dict[str, str], bytes]:
        try:
            return await asyncio.wait_for(send(front), 5)
        finally:
            echo.gate.set()

    status, headers, body = asyncio.run(story())
    assert (status, slug(body)) == (503, "answer-too-late")
    assert "very same request" in json.loads(body)["remedy"]
    assert headers["retry-after"]


def test_headers_with_underscores_can_not_pose_as_others() -> None:
    echo = Echo()
    headers = [(b"x_client_cert", b"forged"), (b"x-client-cert", b"real"), (b"accept", b"a"), (b"accept", b"b")]
    asyncio.run(send(Front(echo, threads=1), headers=headers))
    assert echo.environ["HTTP_X_CLIENT_CERT"] == "real"
    assert echo.environ["HTTP_ACCEPT"] == "a,b"


def test_head_has_no_body() -> None:
    assert asyncio.run(send(Front(Echo(), threads=1), b"abc", method="HEAD"))[2] == b""


def test_a_client_that_goes_away_is_let_go() -> None:
    echo = Echo()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def collect(message: Any) -> None:
        sent.append(message)

    asyncio.run(Front(echo, threads=1)(scope(), receive, collect))
    assert (sent, echo.calls) == ([], 0)


def test_a_pages_application_says_whose_session_it_was() -> None:
    class Page(Echo):
        def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            environ["attestd.proven"] = True
            return super().__call__(environ, start_response)

    cookie = [(b"cookie", b"__Host-attestd=abc")]
    for application, work in ((Echo(), Work.READ), (Page(), Work.OPERATOR)):
        vetting = Vetting(pages=True)
        front = Front(application, threads=1, vetting=vetting)
        asyncio.run(send(front, path="/fleet", method="GET", headers=cookie))
        again = vetting.arrive("/fleet", "192.0.2.1")
        vetting.look(again, cookie[0][1], b"")
        assert again.work is work
