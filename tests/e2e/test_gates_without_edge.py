"""Every reverse proxy with its shipped configuration, and at the edge's socket nobody, somebody slow, or somebody else.

Nothing reaches the application, and the client hears so soon. (A 200 with an identity is the authority's word: whoever
owns the socket's folder owns the boundary.)
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.gates import GATES, Gate, Strange

IDENTITY = b"Attestd-Identity: spiffe://example.org/device/munich/bike-1\r\n"
SOON = 8.0  # seconds, on a busy machine; the proxies wait for a half
_BLOCK = b"x" * 65536
# The shipped waits, shorter: the test below counts on them being written so.
HURRIED = {
    "nginx": {"proxy_read_timeout    3s": "proxy_read_timeout    500ms"},
    "caddy": {
        "response_header_timeout 3s": "response_header_timeout 500ms",
        "read_timeout 3s": "read_timeout 500ms",
    },
}

Behave = Callable[[socket.socket], None]


def asked(connection: socket.socket) -> None:
    """Reads the question to its end."""
    head = b""
    while b"\r\n\r\n" not in head and (more := connection.recv(65536)):
        head += more


def wait(connection: socket.socket) -> None:
    """Until the proxy gives up."""
    while connection.recv(65536):
        pass


def says(answer: bytes, *, then: Behave | None = None) -> Behave:
    def behave(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(answer)
        if then is not None:
            then(connection)

    return behave


def endless(piece: bytes) -> Behave:
    def behave(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # until the proxy has had enough
            for _ in itertools.count():
                connection.sendall(piece)

    return behave


def late(connection: socket.socket) -> None:
    """The right answer, after the proxy's patience ended."""
    asked(connection)
    time.sleep(2)
    connection.sendall(b"HTTP/1.1 200 OK\r\n" + IDENTITY + b"Content-Length: 0\r\n\r\n")


def plain(status: bytes, more: bytes = b"", body: bytes = b"") -> Behave:
    return says(b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, more, len(body), body))


STRANGERS: dict[str, Behave] = {
    "closes at once": lambda connection: None,
    "never answers": wait,
    "answers late": late,
    "garbage": says(b"\x00\xff\x16\x03garbage\r\n\r\n" + IDENTITY),
    "a page without a head": says(b"<html>welcome</html>"),
    "another protocol": says(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "half a head, then nothing": says(b"HTTP/1.1 200 OK\r\n" + IDENTITY, then=wait),
    "half a head, then the end": says(b"HTTP/1.1 200 OK\r\n" + IDENTITY),
    "half a status line": says(b"HTTP/1.1 20"),
    "headers without end": says(b"HTTP/1.1 200 OK\r\n" + IDENTITY, then=endless(b"X-More: and more\r\n")),
    "one header without end": says(b"HTTP/1.1 200 OK\r\n" + IDENTITY + b"X-More: ", then=endless(_BLOCK)),
    "goes on for ever": says(b"HTTP/1.1 100 Continue\r\n\r\n", then=wait),
    "hints for ever": says(b"HTTP/1.1 103 Early Hints\r\n" + IDENTITY + b"\r\n", then=wait),
    "switches protocols": says(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n" + IDENTITY + b"\r\n", then=wait),
    "200 and a page": plain(b"200 OK", body=b"welcome"),
    "200 and nothing": plain(b"200 OK"),
    "200 with an identity that is empty": plain(b"200 OK", b"Attestd-Identity: \r\n"),
    "200 with an identity that is none": plain(b"200 OK", b"Attestd-Identity: root\r\n"),
    "200 with other headers of the edge": plain(b"200 OK", b"Attestd-Device: bike-1\r\nAttestd-Tier: device\r\n"),
    "200 and a body without end": says(b"HTTP/1.1 200 OK\r\n\r\n", then=endless(_BLOCK)),
    "200 and an enormous body": plain(b"200 OK", body=b"x" * 20_000_000),
    "200 and an end within the body": says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nwelco"),
    "200 of HTTP/0.9's days": says(b"HTTP/1.0 200 OK\r\n\r\nwelcome"),
    "201": plain(b"201 Created", b"Location: /\r\n"),
    "204": says(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "206": plain(b"206 Partial Content", b"Content-Range: bytes 0-0/2\r\n", b"x"),
    "302": plain(b"302 Found", b"Location: https://evil.example.org/\r\n" + IDENTITY),
    "304": says(b"HTTP/1.1 304 Not Modified\r\n" + IDENTITY + b"\r\n"),
    "400": plain(b"400 Bad Request", IDENTITY),
    "401 and a body without end": says(b"HTTP/1.1 401 Unauthorized\r\n\r\n", then=endless(_BLOCK)),
    "403 and an identity": plain(b"403 Forbidden", IDENTITY),
    "404": plain(b"404 Not Found", IDENTITY),
    "500": plain(b"500 Internal Server Error", IDENTITY),
    "999": plain(b"999 Whatever", IDENTITY),
    "no such status": plain(b"2000 OK", IDENTITY),
}  # fmt: skip


@pytest.fixture(scope="module", params=GATES, ids=lambda kind: kind.name)
def open_gate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate whose edge does not serve."""
    kind = request.param
    gate = kind(tmp_path_factory.mktemp(kind.name), HURRIED[kind.name])
    with gate.running():
        yield gate


@pytest.fixture
def gate(open_gate: Gate) -> Iterator[Gate]:
    open_gate.seen.clear()
    yield open_gate
    open_gate.site.socket.unlink(missing_ok=True)


def refused(gate: Gate) -> int:
    """The status by which a device that may was refused, soon."""
    began = time.monotonic()
    status, headers, _ = gate.send(leaf=gate.site.device())
    assert time.monotonic() - began < SOON
    assert gate.seen == []
    assert "location" not in headers
    return status


def test_the_authoritys_word_counts(gate: Gate) -> None:
    """The twin of all below: what opens the boundary is 200 with an identity."""
    with Strange(plain(b"200 OK", IDENTITY)).listening(gate.site.socket):
        assert gate.send(leaf=gate.site.device())[0] == 200
    assert gate.headers_seen()["attestd-identity"] == "spiffe://example.org/device/munich/bike-1"


def test_the_question_is_one_request_and_nothing_more(gate: Gate) -> None:
    """No body, no upgrade, and nothing that the client could have said in the proxy's name."""
    questions: list[bytes] = []

    def listen(connection: socket.socket) -> None:
        while not b"".join(questions).endswith(b"\r\n\r\n") and (more := connection.recv(65536)):
            questions.append(more)
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n")

    mine = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Content-Length", "6"), ("Client-Cert", ":AA==:")]
    mine += [(name, "mine") for name in ("X-Forwarded-Uri", "X-Forwarded-Method", "X-Forwarded-Host", "Attestd-Labels")]
    mine += [("X-Client_Cert", "mine"), ("X_Forwarded_Uri", "mine"), ("X-Request-Id", "mine")]
    with Strange(listen).listening(gate.site.socket):
        gate.send(*mine, method="POST", target="/orders?a=b", body=b"a body")
    first, *lines = b"".join(questions).decode().removesuffix("\r\n\r\n").split("\r\n")
    found = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    names = [name for name, _ in found]
    assert first == "GET /auth/field-to-munich HTTP/1.1"
    assert ("x-forwarded-uri", "/orders?a=b") in found
    assert ("x-forwarded-method", "POST") in found
    assert ("x-forwarded-proto", "https") in found
    assert ("x-forwarded-host", f"api.example.org:{gate.port}") in found
    assert len(names) == len(set(names))
    assert not {"upgrade", "connection", "transfer-encoding", "attestd-labels"} & set(names)
    assert not [name for name in names if "_" in name]
    assert "mine" not in [value for _, value in found]
    assert ":AA==:" not in [value for _, value in found]
    assert not b"".join(questions).endswith(b"a body")


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_at_the_edges_socket_opens_nothing(gate: Gate, name: str) -> None:
    with Strange(STRANGERS[name]).listening(gate.site.socket):
        assert refused(gate) in (401, 403, 500, 502, 503, 504)
        assert refused(gate) in (401, 403, 500, 502, 503, 504)  # and again, over a connection that may be kept


def test_nobody_there(gate: Gate) -> None:
    assert refused(gate) in (502, 503)


def test_a_socket_that_nobody_serves(gate: Gate) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(gate.site.socket))
        assert refused(gate) in (502, 503)


def test_a_queue_that_nobody_empties(gate: Gate) -> None:
    """An edge that is stopped (SIGSTOP): connections are made, and nobody takes them."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(gate.site.socket))
        listener.listen(1)
        assert refused(gate) in (502, 503, 504)


def test_an_edge_that_comes_back_is_asked_again(gate: Gate) -> None:
    assert refused(gate) in (502, 503)
    with gate.site.serving():
        assert gate.send(leaf=gate.site.device())[0] == 200
    assert gate.headers_seen()["attestd-device"] == "bike-1"
    gate.seen.clear()
    assert refused(gate) in (502, 503)
