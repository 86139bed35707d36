"""Clients that are slow at everything, on purpose: each is let go in its time, and nobody else notices."""

from __future__ import annotations

import ssl
import time
from contextlib import suppress

import pytest

from tests.load.conftest import Site, scale
from tests.load.running import attackers, eventually, told

SETTINGS = {"limits_header_timeout": "2s", "limits_body_timeout": "2s", "limits_send_timeout": "2s"}
SECONDS = scale(4, 30)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("attack", "connections", "grown"),
    [
        ("sockets", scale(2000, 10_000), 200),  # connect, and never begin TLS
        ("handshakes", scale(1000, 10_000), 200),  # and stop in its first message
        ("idle", scale(300, 6000), 150),
        ("headers", scale(300, 3000), 150),
        ("bodies", scale(300, 3000), 150),
        ("unread", scale(20, 200), 150),
    ],
)
def test_a_slow_client_costs_its_time_and_nothing_more(site: Site, attack: str, connections: int, grown: int) -> None:
    before = max(site.service.descriptors())
    with attackers(site.service, attack, connections=connections, sources=4) as (path,):
        with site.renewing() as outcome:
            time.sleep(SECONDS)
        site.must_hold(outcome, grown=grown)
        # As many as they are were let go. A handshake has ten seconds, whatever is set.
        assert eventually(lambda: sum(told(path).values()) >= connections, within=60)
    assert eventually(lambda: max(site.service.descriptors()) < before + 20, within=20)


def test_a_connection_that_speaks_another_protocol_ends(site: Site) -> None:
    """HTTP/2's own preface among them: it has streams without end, and no limit on silence."""
    for words in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 100, b"SSH-2.0-x\r\n"):
        with site.service.connect() as connection:
            connection.settimeout(8)
            connection.sendall(words)
            with suppress(ConnectionError, ssl.SSLError):
                while connection.recv(1000):
                    pass


def test_headers_that_fill_memory_are_refused(site: Site) -> None:
    with site.service.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n")
        connection.settimeout(8)
        with suppress(ConnectionError, ssl.SSLError):
            for n in range(1000):
                connection.sendall(f"X-{n}: {'x' * 1000}\r\n".encode())
            raise AssertionError("a megabyte of headers was taken")
