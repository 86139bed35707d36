"""The warden, on real sockets of this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from attestd.web.connections import Warden, fair_share

HERE = "127.0.0.1"


class Door:
    """A listening socket, and connections to it from several addresses, both of their ends held."""

    def __init__(self) -> None:
        self.listening = socket.create_server((HERE, 0), backlog=200)
        self.port: int = self.listening.getsockname()[1]
        self.clients: dict[str, list[socket.socket]] = {}
        self.served: list[socket.socket] = []

    def enter(self, source: str, count: int) -> None:
        for _ in range(count):
            client = socket.create_connection((HERE, self.port), source_address=(source, 0))
            self.clients.setdefault(source, []).append(client)
            self.served.append(self.listening.accept()[0])

    def left(self, source: str) -> int:
        """How many of a source's connections are still open at the other end."""
        alive = 0
        for client in self.clients[source]:
            client.settimeout(0.02)
            with suppress(TimeoutError):
                assert client.recv(1) == b""
                continue
            alive += 1
        return alive

    def close(self) -> None:
        for one in [self.listening, *self.served, *(client for held in self.clients.values() for client in held)]:
            one.close()


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.close()


def test_the_largest_holder_is_cut_and_the_others_are_not(door: Door) -> None:
    closed: list[int] = []
    door.enter("127.0.0.2", 40)
    door.enter("127.0.0.3", 3)
    door.enter("127.0.0.4", 1)
    ended = Warden(door.port, most=40, send_time=1, closed=closed.append).thin_out()
    assert [door.left(f"127.0.0.{n}") for n in (2, 3, 4)] == [16, 3, 1]
    assert closed == [ended] == [24]


def test_below_three_quarters_nobody_is_cut(door: Door) -> None:
    door.enter("127.0.0.2", 30)
    assert Warden(door.port, most=40, send_time=1).thin_out() == 0
    door.enter("127.0.0.2", 1)
    assert Warden(door.port, most=40, send_time=1).thin_out() == 11


def test_trusted_proxies_are_spared(door: Door) -> None:
    door.enter("127.0.0.2", 30)
    door.enter("127.0.0.3", 20)
    Warden(door.port, most=40, send_time=1, spared=lambda source: source == "127.0.0.2").thin_out()
    assert door.left("127.0.0.2") == 30


def test_other_ports_are_other_peoples(door: Door) -> None:
    other = Door()
    try:
        other.enter("127.0.0.2", 50)
        assert Warden(door.port, most=10, send_time=1).thin_out() == 0
        assert other.left("127.0.0.2") == 50
    finally:
        other.close()


def test_it_leaves_no_descriptor_behind(door: Door) -> None:
    door.enter("127.0.0.2", 30)
    warden = Warden(door.port, most=20, send_time=1)
    warden.thin_out()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        warden.thin_out()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before  # what other tests left may be closed meanwhile


def test_connections_inherit_the_limit_on_sending(door: Door) -> None:
    async def story() -> None:
        watching = asyncio.create_task(Warden(door.port, most=1000, send_time=7).watch())
        for _ in range(100):
            await asyncio.sleep(0.02)
            if door.listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT):
                break
        watching.cancel()

    asyncio.run(story())
    door.enter("127.0.0.2", 1)
    assert door.served[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000


@pytest.mark.parametrize(
    ("counts", "room", "share"),
    [
        ([], 10, 10),
        ([3], 10, 10),
        ([30], 10, 10),  # cut down to all there is
        ([30, 1, 1], 10, 8),
        ([30, 30], 10, 5),
        ([1] * 50, 10, 10),  # everybody has one: nobody is cut
        ([2, 4, 100, 100], 20, 7),
    ],
)
def test_a_fair_share_cuts_the_largest_alone(counts: list[int], room: int, share: int) -> None:
    assert fair_share(counts, room) == share
