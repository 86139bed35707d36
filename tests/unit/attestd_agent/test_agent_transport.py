"""HTTPS within bounds: what a dead, slow, endless or false server can do to the agent."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from attestd.errors import AttestdError
from attestd_agent.clock import DeviceClock
from attestd_agent.transport import (
    MAX_ANSWER,
    AnswerTooLarge,
    ProxyUnusable,
    RootDiffers,
    RootMalformed,
    ServerCertificateOutdated,
    ServerNotTrusted,
    ServerTooSlow,
    ServerUnreachable,
    ServerUrlInvalid,
    Transport,
    fetch_root,
    read_roots,
    read_url,
)
from tests.unit.attestd_agent.fake_service import Answer, Authority, FakeService, on, utc_now


def transport(service: FakeService, clock: DeviceClock, **options: Any) -> Transport:
    return Transport(service.url, options.pop("roots", service.root_pem), clock, **{"limit": 5.0, **options})


def test_an_answer_comes_whole(service: FakeService, clock: DeviceClock) -> None:
    service.hooks.append(on("/v1/x", Answer(202, b"hello", {"Retry-After": "7"})))
    reply = transport(service, clock).exchange("POST", "/v1/x", body=b"{}")
    assert (reply.status, reply.body, reply.headers["retry-after"]) == (202, b"hello", "7")
    assert service.requests == [("POST", "/v1/x", b"{}")]


def test_an_error_status_is_an_answer_too(service: FakeService, clock: DeviceClock) -> None:
    assert transport(service, clock).exchange("GET", "/v1/nothing").status == 404


class Proxy:
    """Takes one connection, and answers CONNECT; a 200 leads to the service."""

    def __init__(self, service: FakeService, answer: bytes = b"HTTP/1.1 200 Connected\r\nVia: me\r\n\r\n") -> None:
        self._service, self._answer = service, answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        while not self.asked.endswith(b"\r\n\r\n"):
            self.asked += client.recv(4096)
        client.sendall(self._answer)
        _pump(client, self._service.url)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def elsewhere(service: FakeService, clock: DeviceClock, monkeypatch: pytest.MonkeyPatch) -> Transport:
    """To a service that only a proxy leads to."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    port = service.url.rpartition(":")[2]
    return Transport(f"https://attestd.test:{port}", service.root_pem, clock, limit=1.0)


def test_a_proxy_from_the_environment_leads_to_other_machines(
    service: FakeService, clock: DeviceClock, elsewhere: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Proxy(service)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:se%3Acret@{proxy.address}")
        assert transport(service, clock).exchange("GET", "/v1/nonce").status == 204, "this machine needs none"
        assert proxy.asked == b""
        with pytest.raises(ServerNotTrusted):  # there is a server behind it, which has another name
            elsewhere.exchange("GET", "/v1/nonce")
        told = proxy.asked.decode("ascii").split("\r\n")
        port = service.url.rpartition(":")[2]
        assert told[:2] == [f"CONNECT attestd.test:{port} HTTP/1.1", f"Host: attestd.test:{port}"]
        assert b64decode(told[2].removeprefix("Proxy-Authorization: Basic ")) == b"me:se:cret"


def test_an_exchange_goes_through_a_proxy(
    service: FakeService, elsewhere: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attestd_agent.transport._is_here", lambda host: False)
    near = Transport(service.url, service.root_pem, elsewhere._clock, limit=5.0)
    service.hooks.append(on("/v1/x", Answer(200, b"hello")))
    with closing(Proxy(service)) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.address)
        assert near.exchange("POST", "/v1/x", body=b"{}").body == b"hello"
        assert proxy.asked.startswith(b"CONNECT 127.0.0.1:")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert near.exchange("GET", "/v1/nonce").status == 204, "the proxy takes one connection"


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (b"HTTP/1.1 407 Who are you\r\n\r\n", ProxyUnusable),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ServerUnreachable),
        (b"HTTP/1.1 200 Connected\r\n" + b"X: y\r\n" * 1000, ServerUnreachable),
        (b"HTTP/1.1 200 Connected\r\n", ServerTooSlow),
        (b"", ServerTooSlow),
    ],
    ids=["refuses", "is-none", "never-ends", "falls-silent", "says-nothing"],
)
def test_what_is_wrong_with_a_proxy_is_named(
    service: FakeService,
    elsewhere: Transport,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes,
    refusal: type[AttestdError],
) -> None:
    with closing(Proxy(service, answer)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy.address}")
        began = time.monotonic()
        with pytest.raises(refusal):
            elsewhere.exchange("GET", "/v1/nonce")
        assert _in_time(1.0, began)


@pytest.mark.parametrize("address", ["socks5://a:1080", "https://a:3128", "http://", "http://a:x", "http://[::1"])
def test_a_proxy_of_another_kind_is_refused(
    elsewhere: Transport, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)
    with pytest.raises(ProxyUnusable):
        elsewhere.exchange("GET", "/v1/nonce")


def test_redirects_are_not_followed(service: FakeService, clock: DeviceClock) -> None:
    service.hooks.append(on("/v1/x", Answer(307, b"", {"Location": service.url + "/v1/nonce"})))
    assert transport(service, clock).exchange("GET", "/v1/x").status == 307
    assert service.asked("/v1/nonce") == 0


# ---- Trust ----------------------------------------------------------------------------------------------------------


def test_another_root_is_not_trusted(service: FakeService, clock: DeviceClock) -> None:
    other = Authority(utc_now()).root.public_bytes(Encoding.PEM)
    with pytest.raises(ServerNotTrusted):
        transport(service, clock, roots=other).exchange("POST", "/v1/x", body=b"secret")
    assert service.requests == []


def test_another_name_is_not_trusted(service: FakeService, clock: DeviceClock) -> None:
    with socket.create_server(("127.0.0.2", 0)) as listener:
        threading.Thread(target=_forward, args=(listener, service.url), daemon=True).start()
        elsewhere = f"https://127.0.0.2:{listener.getsockname()[1]}"
        with pytest.raises(ServerNotTrusted):
            Transport(elsewhere, service.root_pem, clock, limit=5.0).exchange("GET", "/v1/x")


def _forward(listener: socket.socket, url: str) -> None:
    client, _ = listener.accept()
    _pump(client, url)


def _pump(client: socket.socket, url: str) -> None:
    """Between a client and the service, octets as they come."""
    server = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(4096):
                target.sendall(data)
        except OSError:
            pass

    threading.Thread(target=pump, args=(server, client), daemon=True).start()
    pump(client, server)


# ---- Dates while the device's clock is wrong ------------------------------------------------------------------------


def _clock(system: datetime, floor: datetime) -> DeviceClock:
    return DeviceClock(system=lambda: system, boot=lambda: 0.0, floor=floor)


@contextmanager
def _serving(authority: Authority, begin: datetime, end: datetime) -> Iterator[FakeService]:
    found = FakeService(authority)
    found.server_begin, found.server_end = begin, end
    with found.running():
        yield found


LONG_AGO = timedelta(days=3000)
DAY = timedelta(days=1)


@pytest.mark.parametrize("begin", [-10 * DAY, DAY], ids=["begun", "begins-after-the-floor"])
def test_behind_the_floor_a_server_that_may_be_valid_is_talked_to(authority: Authority, begin: timedelta) -> None:
    now = utc_now()
    with _serving(authority, now + begin, now + 10 * DAY) as service:
        assert transport(service, _clock(now - LONG_AGO, now)).exchange("GET", "/v1/nonce").status == 204


def test_behind_the_floor_a_server_that_ended_before_it_is_refused(authority: Authority) -> None:
    now = utc_now()
    with _serving(authority, now - 10 * DAY, now - DAY) as service:
        with pytest.raises(ServerCertificateOutdated):
            transport(service, _clock(now - LONG_AGO, now)).exchange("POST", "/v1/x", body=b"secret")
        assert service.requests == []


@pytest.mark.parametrize(("begin", "end"), [(-10 * DAY, -DAY), (DAY, 10 * DAY)], ids=["ended", "not-begun"])
def test_once_a_time_is_known_both_dates_count(authority: Authority, begin: timedelta, end: timedelta) -> None:
    now = utc_now()
    known = _clock(now - LONG_AGO, now - 20 * DAY)
    known.learn(now)
    with _serving(authority, now + begin, now + end) as service:
        with pytest.raises(ServerCertificateOutdated):
            transport(service, known).exchange("POST", "/v1/x", body=b"secret")
        assert service.requests == []
    with _serving(authority, now - DAY, now + DAY) as service:
        assert transport(service, known).exchange("GET", "/v1/nonce").status == 204


@pytest.mark.parametrize(("begin", "end"), [(-10 * DAY, -DAY), (DAY, 10 * DAY)], ids=["ended", "not-begun"])
def test_with_a_good_clock_openssl_judges_the_dates(authority: Authority, begin: timedelta, end: timedelta) -> None:
    now = utc_now()
    with _serving(authority, now + begin, now + end) as service, pytest.raises(ServerNotTrusted):
        transport(service, _clock(now, now - LONG_AGO)).exchange("GET", "/v1/nonce")


def test_behind_the_floor_the_chain_still_counts(service: FakeService) -> None:
    other = Authority(utc_now()).root.public_bytes(Encoding.PEM)
    with pytest.raises(ServerNotTrusted):
        transport(service, _clock(utc_now() - LONG_AGO, utc_now()), roots=other).exchange("GET", "/v1/nonce")


# ---- Bounds ---------------------------------------------------------------------------------------------------------


def test_a_dead_server_is_named(service: FakeService, clock: DeviceClock) -> None:
    service.stop()
    with pytest.raises(ServerUnreachable):
        transport(service, clock).exchange("GET", "/v1/nonce")


def test_a_name_that_leads_nowhere_is_named(service: FakeService, clock: DeviceClock) -> None:
    with pytest.raises(ServerUnreachable):
        Transport("https://nowhere.invalid", service.root_pem, clock, limit=5.0).exchange("GET", "/v1/nonce")


def _in_time(limit: float, began: float) -> bool:
    return time.monotonic() - began < limit + 3.0


@pytest.mark.parametrize("where", ["headers", "body", "nothing"])
def test_slow_drips_do_not_stretch_the_time_limit(service: FakeService, clock: DeviceClock, where: str) -> None:
    def drip(handler: Any) -> None:
        handler.wrote = True
        text = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nX: " + b"x" * 2000
        if where == "nothing":
            time.sleep(4)
            return
        if where == "body":
            text = b"y" * 2000
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for octet in text:
            try:
                handler.wfile.write(bytes([octet]))
                handler.wfile.flush()
            except OSError:
                return
            time.sleep(0.05)

    service.hooks.append(on("/v1/x", drip))
    began = time.monotonic()
    with pytest.raises(ServerTooSlow):
        transport(service, clock, limit=1.0).exchange("GET", "/v1/x")
    assert _in_time(1.0, began)


def test_no_time_is_no_exchange(service: FakeService, clock: DeviceClock) -> None:
    with pytest.raises(ServerTooSlow):
        transport(service, clock, limit=0.0).exchange("GET", "/v1/x")
    assert service.requests == []


def test_a_server_that_never_finishes_the_handshake_is_left(clock: DeviceClock, service: FakeService) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServerTooSlow):
            Transport(url, service.root_pem, clock, limit=0.5).exchange("GET", "/v1/x")
        assert _in_time(0.5, began)


@pytest.mark.parametrize("stated", [True, False], ids=["length-stated", "chunked"])
def test_an_endless_answer_is_cut(service: FakeService, clock: DeviceClock, stated: bool) -> None:
    sent = [0]

    def endless(handler: Any) -> None:
        handler.wrote = True
        length = b"Content-Length: 1000000000\r\n\r\n" if stated else b"Transfer-Encoding: chunked\r\n\r\n"
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + length)
        piece = b"z" * 65536 if stated else b"10000\r\n" + b"z" * 65536 + b"\r\n"
        try:
            for _ in range(2000):
                handler.wfile.write(piece)
                sent[0] += 65536
        except OSError:
            pass

    service.hooks.append(on("/v1/x", endless))
    with pytest.raises(AnswerTooLarge):
        transport(service, clock).exchange("GET", "/v1/x")
    assert sent[0] < MAX_ANSWER + 64 * 1024 * 1024


@pytest.mark.parametrize("head", [b"Content-Length: 100\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n64\r\n"])
def test_an_answer_that_breaks_off_is_no_answer(service: FakeService, clock: DeviceClock, head: bytes) -> None:
    def break_off(handler: Any) -> None:
        handler.wrote = True
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + head + b"the first half")

    service.hooks.append(on("/v1/x", break_off))
    with pytest.raises(ServerUnreachable):
        transport(service, clock).exchange("GET", "/v1/x")


def test_values_of_one_header_are_joined(service: FakeService, clock: DeviceClock) -> None:
    def twice(handler: Any) -> None:
        handler.wrote = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nA: 1\r\na: 2\r\nContent-Length: 0\r\n\r\n")

    service.hooks.append(on("/v1/x", twice))
    assert transport(service, clock).exchange("GET", "/v1/x").headers["a"] == "1, 2"


def test_a_compressed_answer_is_not_unpacked(service: FakeService, clock: DeviceClock) -> None:
    import gzip

    packed = gzip.compress(b"0" * 10_000_000)
    service.hooks.append(on("/v1/x", Answer(200, packed, {"Content-Encoding": "gzip"})))
    assert transport(service, clock).exchange("GET", "/v1/x").body == packed


def test_garbage_is_no_answer(service: FakeService, clock: DeviceClock) -> None:
    def garbage(handler: Any) -> None:
        handler.wrote = True
        handler.wfile.write(b"\x00\x01 this is not HTTP \r\n\r\n")

    service.hooks.append(on("/v1/x", garbage))
    with pytest.raises(ServerUnreachable):
        transport(service, clock).exchange("GET", "/v1/x")


def test_the_interruptible_part_is_the_exchange(service: FakeService, clock: DeviceClock) -> None:
    seen: list[str] = []

    @contextmanager
    def watched() -> Iterator[None]:
        seen.append("in")
        yield
        seen.append("out")

    transport(service, clock, interruptible=watched).exchange("GET", "/v1/nonce")
    assert seen == ["in", "out"]


# ---- The root by its fingerprint ------------------------------------------------------------------------------------


def test_the_root_is_fetched_by_its_fingerprint(service: FakeService) -> None:
    wanted = hashlib.sha256(service.authority.root.public_bytes(Encoding.DER)).digest()
    assert fetch_root(service.url, wanted) == service.root_pem
    with pytest.raises(RootDiffers):
        fetch_root(service.url, hashlib.sha256(b"").digest())


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [(Answer(404), ServerUnreachable), (Answer(200, b"no PEM"), RootMalformed), (Answer(200, b""), RootMalformed)],
)
def test_a_server_without_a_root_is_named(service: FakeService, answer: Answer, refusal: type[AttestdError]) -> None:
    service.hooks.append(on("/v1/root", answer))
    with pytest.raises(refusal):
        fetch_root(service.url, bytes(32))


def test_of_several_roots_the_pinned_one_is_taken(service: FakeService) -> None:
    other = Authority(utc_now()).root.public_bytes(Encoding.PEM)
    wanted = hashlib.sha256(service.authority.root.public_bytes(Encoding.DER)).digest()
    service.hooks.append(on("/v1/root", Answer(200, other + service.root_pem)))
    assert fetch_root(service.url, wanted) == service.root_pem


def test_roots_are_read_strictly() -> None:
    for bad in (b"", b"hello"):
        with pytest.raises(RootMalformed):
            read_roots(bad)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "attestd.test",
        "http://attestd.test",
        "https://",
        "https://a:b@c",
        "https://a/?q",
        "https://a/#f",
        "https://a:x",
        "https://a:0",
        "https://a b",
        "https://a\n",
        "https://[::1",
        "https://a\\b",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    assert read_url("https://attestd.test:8443/") == "https://attestd.test:8443"
    with pytest.raises(ServerUrlInvalid):
        read_url(url)
