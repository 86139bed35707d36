"""What is Caddy's own, of what tests/e2e/test_gates.py asks of every reverse proxy."""

from __future__ import annotations

import shutil
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge_site import pem
from tests.gates import HOST, Caddy, Gate, opened

_UPGRADE = (
    b"GET /orders HTTP/1.1\r\nHost: %b:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.fixture(scope="module")
def open_gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with opened(Caddy, tmp_path_factory.mktemp("caddy")) as gate:
        yield gate


@pytest.fixture
def gate(open_gate: Gate) -> Gate:
    open_gate.seen.clear()
    return open_gate


def upgraded(gate: Gate, leaf: bytes | None) -> ssl.SSLSocket:
    connection = gate.open_connection(leaf)
    connection.sendall(_UPGRADE % (HOST.encode(), gate.port))
    return connection


def read_until(connection: ssl.SSLSocket, word: bytes) -> bytes:
    found = b""
    while word not in found and (more := connection.recv(4096)):
        found += more
    return found


def test_caddy_has_nothing_to_say_about_the_shipped_file(gate: Gate) -> None:
    told = (gate.folder / "proxy.log").read_text()
    assert "not formatted" not in told
    assert "Unnecessary" not in told
    formatted = subprocess.run(
        [str(Caddy.program), "fmt", str(Caddy.shipped)], capture_output=True, check=True, timeout=60
    )
    assert formatted.stdout == Caddy.shipped.read_bytes()


def test_a_websocket_of_a_device_that_may(gate: Gate) -> None:
    with upgraded(gate, gate.site.device()) as connection:
        found = read_until(connection, b"a word")
    assert found.startswith(b"HTTP/1.1 101 ")
    assert gate.headers_seen()["attestd-device"] == "bike-1"


@pytest.mark.parametrize("may", [{"site": "berlin"}, None], ids=["another site's", "nobody's"])
def test_a_websocket_of_one_that_may_not(gate: Gate, may: dict[str, str] | None) -> None:
    with upgraded(gate, None if may is None else gate.site.device(**may)) as connection:
        found = read_until(connection, b"\r\n\r\n")
    assert found.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 403 "))
    assert gate.seen == []


def test_a_websocket_ends(tmp_path: Path) -> None:
    with opened(Caddy, tmp_path, {"stream_timeout 15m": "stream_timeout 1s"}) as gate:
        began = time.monotonic()
        with upgraded(gate, gate.site.device()) as connection:
            assert b"a word" in read_until(connection, b"a word")
            assert connection.recv(1) == b""
        assert time.monotonic() - began < 10


def test_who_is_believed_about_addresses_is_not_believed_about_the_request(tmp_path: Path) -> None:
    """A user who has Caddy believe X-Forwarded-* of others has not opened the boundary by it."""
    believing = {"protocols h1 h2": "protocols h1 h2\n\t\ttrusted_proxies static private_ranges 127.0.0.0/8"}
    with opened(Caddy, tmp_path, believing) as gate:
        told = [("X-Forwarded-Host", "evil.example.org"), ("X-Forwarded-Proto", "http"), ("X-Forwarded-Uri", "/a")]
        assert gate.send(*told, leaf=gate.site.device())[0] == 200
        found = gate.headers_seen()
        assert (found["x-forwarded-host"], found["x-forwarded-proto"]) == (f"{HOST}:{gate.port}", "https")
        assert "x-forwarded-uri" not in found


def test_nobody_else_configures_it(gate: Gate) -> None:
    assert stat.S_IMODE((gate.folder / "admin.sock").stat().st_mode) == 0o600


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_http_2(gate: Gate) -> None:
    def ask(*more: str) -> list[str]:
        (gate.folder / "root.pem").write_bytes(pem(gate.site.root.der))
        command = ["curl", "--silent", "--http2", "--cacert", str(gate.folder / "root.pem"), "--output", "-"]
        command += ["--write-out", " %{http_version} %{http_code}", "--resolve", f"{HOST}:{gate.port}:127.0.0.1", *more]
        done = subprocess.run(
            [*command, f"{gate.origin}/orders"], capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.split()[-2:]

    gate.open_connection(gate.site.device()).close()  # writes client.pem
    smuggled = ["--header", "attestd-identity: smuggled", "--header", "attestd_identity: smuggled"]
    assert ask("--cert", str(gate.folder / "client.pem"), *smuggled) == ["2", "200"]
    assert gate.headers_seen()["attestd-identity"] == "spiffe://example.org/device/munich/bike-1"
    assert ask(*smuggled) == ["2", "401"]
