"""HTTPS within bounds: what a dead, slow, endless or false server can do to the agent."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from attestd.errors import AttestdError
from attestd_agent.clock import DeviceClock
from attestd_agent.transport import (
    MAX_ANSWER,
    AnswerTooLarge,
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


def test_a_proxy_from_the_environment_is_for_other_machines(
    service: FakeService, clock: DeviceClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert transport(service, clock).exchange("GET", "/v1/nonce").status == 204
        elsewhere = Transport("https://attestd.test", service.root_pem, clock, limit=0.5)
        with pytest.raises(ServerTooSlow):
            elsewhere.exchange("GET", "/v1/nonce")
        asked, _ = proxy.accept()
        assert asked.recv(100).startswith(b"CONNECT attestd.test:443")
        asked.close()


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
    """Between a client and the service, octets as they come."""
    client, _ = listener.accept()
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
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    assert read_url("https://attestd.test:8443/") == "https://attestd.test:8443"
    with pytest.raises(ServerUrlInvalid):
        read_url(url)
