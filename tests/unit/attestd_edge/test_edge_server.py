"""Connections of a hop: what comes slowly, too early, too much, or not at all; and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import threading
import time
from types import SimpleNamespace

import pytest
import uvloop
from cryptography import x509

from attestd_edge import listen as listen_module
from attestd_edge import server as server_module
from attestd_edge.heads import MAX_HEAD, Answer, Head, HeadReader, closing, write
from attestd_edge.listen import listen, open_unix, tls_context
from attestd_edge.server import Connection, Later, Server
from attestd_edge.settings import TlsListen, UnixListen
from tests import authority as a
from tests.edge_site import EdgeSite, pem, private_pem

ONE = b"GET /one HTTP/1.1\r\nHost: edge\r\n\r\n"
TWO = b"GET /two HTTP/1.1\r\nHost: edge\r\n\r\n"


class Echo:
    """Answers with what was asked, and remembers it; fails when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.more = b""
        self.disk = threading.Event()  # what waits, waits for this
        self.waiting = threading.Semaphore(0)  # released by each that begins to

    def later(self, head: Head) -> Answer:
        self.waiting.release()
        assert self.disk.wait(20)
        if head.target == "/later-fails":
            raise OSError("on purpose")
        return Answer(write(200, [], head.target.encode()), head.keep_alive)

    def answer(self, octets: bytes, reader: HeadReader) -> Answer | Later:
        head = reader.read(octets)
        self.asked.append(head.target)
        if head.target == "/fails":
            raise RuntimeError("on purpose")
        if head.target.startswith("/later"):
            return lambda: self.later(head)
        return Answer(write(200, [], head.target.encode() + self.more), head.keep_alive)


class Running:
    """A server on a Unix socket, in a thread with a loop of its own."""

    def __init__(self, folder, tls: TlsListen | None = None) -> None:
        self.path = folder / "auth.sock"
        self.tls = tls
        self.address: object
        self.echo = Echo()
        self.server: Server
        self.loop: asyncio.AbstractEventLoop
        self.end = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()), daemon=True)

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.server = Server(self.echo, self.loop)
        with contextlib.ExitStack() as closing:
            if self.tls is not None:
                listening = await listen(self.server, self.tls, tls_context(self.tls))
            else:
                listener = closing.enter_context(open_unix(UnixListen(self.path, 0o660, None)))
                listening = await listen(self.server, listener, None)
            self.address = listening.sockets[0].getsockname()
            self.server.begin()
            self._ready.set()
            await self.end.wait()
            listening.close()
            await self.server.end()

    def __enter__(self) -> Running:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # it ended before
            self.loop.call_soon_threadsafe(self.end.set)

    @contextlib.contextmanager
    def connected(self):
        with socket.socket(socket.AF_INET if self.tls else socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(self.address)
            yield client


@pytest.fixture
def running(tmp_path):
    with Running(tmp_path) as running:
        yield running


def everything(client: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while octets := client.recv(65536):
            found += octets
    return found


def answered(client: socket.socket) -> bytes:
    """One answer of Echo's."""
    found = b""
    while b"\r\n\r\n/" not in found or not found.endswith((b"one", b"two")):
        octets = client.recv(65536)
        assert octets, found
        found += octets
    return found


class TestHeads:
    def test_one_after_the_other(self, running):
        with running.connected() as client:
            for head in (ONE, TWO, ONE):
                client.sendall(head)
                assert b"Connection: close" not in answered(client)
        assert running.echo.asked == ["/one", "/two", "/one"]

    def test_octet_by_octet(self, running):
        with running.connected() as client:
            for _ in range(2):
                for octet in ONE:
                    client.sendall(bytes([octet]))
                assert answered(client).endswith(b"/one")
        assert running.echo.asked == ["/one", "/one"]

    @pytest.mark.parametrize("second", [TWO, b"x", b"\r\n", b"GET /two"])
    def test_what_comes_without_having_waited_is_not_read(self, running, second):
        with running.connected() as client:
            client.sendall(ONE + second)
            found = everything(client)
        assert found.count(b"HTTP/1.1 200") == 1
        assert b"Connection: close" in found
        assert running.echo.asked == ["/one"]

    def test_nor_behind_a_head_in_two_parts(self, running):
        with running.connected() as client:
            client.sendall(ONE[:-3])
            time.sleep(0.05)
            client.sendall(ONE[-3:] + TWO)
            assert everything(client).count(b"HTTP/1.1 200") == 1
        assert running.echo.asked == ["/one"]

    @pytest.mark.parametrize("octets", [b"\x16\x03\x01\x02\x00\r\n\r\n", ONE.replace(b"Host", b"Ho st"), b"\r\n\r\n"])
    def test_what_is_no_head(self, running, octets):
        with running.connected() as client:
            client.sendall(octets)
            found = everything(client)
        assert found.startswith(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n")
        assert running.echo.asked == []

    @pytest.mark.parametrize("whole", [True, False])
    def test_a_head_of_a_megabyte(self, running, whole):
        with running.connected() as client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(ONE[:-2] + b"X-A: " + b"a" * (1 << 20) + (b"\r\n\r\n" if whole else b""))
            found = everything(client)
            assert found == b"" or found.startswith(b"HTTP/1.1 431 ")
        assert running.echo.asked == []

    @pytest.mark.parametrize("parts", [1, 2])
    @pytest.mark.parametrize(("more", "status"), [(0, b"200"), (1, b"431")])
    def test_a_head_of_just_the_limit(self, running, parts, more, status):
        head = ONE[:-2] + b"X-A: " + b"a" * (MAX_HEAD - len(ONE) - len(b"X-A: \r\n") + more) + b"\r\n\r\n"
        with running.connected() as client:
            for part in (head,) if parts == 1 else (head[:20], head[20:]):
                client.sendall(part)
                time.sleep(0.05)
            client.shutdown(socket.SHUT_WR)
            assert everything(client).startswith(b"HTTP/1.1 " + status)

    def test_a_head_without_end_is_not_collected_beyond_it(self, running):
        with running.connected() as client:
            client.sendall(ONE[:-2] + b"a" * (MAX_HEAD - len(ONE) + 3))
            begun = time.monotonic()
            assert everything(client).startswith(b"HTTP/1.1 431 ")
            assert time.monotonic() - begun < server_module.HEAD_SECONDS / 2  # nobody waited for its end

    def test_a_fault_is_no_permit(self, running):
        with running.connected() as client:
            client.sendall(ONE.replace(b"/one", b"/fails"))
            found = everything(client)
        assert found.startswith(b"HTTP/1.1 503 ")
        with running.connected() as client:
            client.sendall(ONE)
            answered(client)

    def test_the_last_request_of_a_connection(self, running):
        with running.connected() as client:
            client.sendall(ONE.replace(b"Host", b"Connection: close\r\nHost"))
            assert b"Connection: close" in everything(client)


class Wire:
    """A transport that remembers what happened to it."""

    def __init__(self) -> None:
        self.done: list[bytes | str] = []

    def is_closing(self) -> bool:
        return "close" in self.done

    def write(self, octets: bytes) -> None:
        self.done.append(octets)

    def close(self) -> None:
        self.done.append("close")


class TestTogether:
    """What comes in one turn of the loop, before any answer was sent."""

    @pytest.fixture
    def turn(self):
        """A connection, its wire, and what ends the turn."""
        loop = SimpleNamespace(call_soon=lambda _: None)
        server = Server(Echo(), loop)
        connection, wire = Connection(server), Wire()
        connection.connection_made(wire)
        return connection, wire, server.flush

    def test_nothing_is_sent_before_its_end(self, turn):
        connection, wire, end = turn
        connection.data_received(ONE)
        assert wire.done == []
        end()
        assert wire.done == [write(200, [], b"/one")]

    def test_nothing_is_heard_after_the_last_answer(self, turn):
        connection, wire, end = turn
        connection.data_received(ONE + b"x")
        connection.data_received(TWO)
        end()
        assert wire.done == [closing(write(200, [], b"/one")), "close"]

    def test_the_peer_says_no_more_in_the_same_turn(self, turn):
        connection, wire, _ = turn
        connection.data_received(ONE)
        assert connection.eof_received() is None
        assert wire.done == [write(200, [], b"/one")]


class TestHalfClosed:
    def test_what_was_asked_is_answered(self, running):
        with running.connected() as client:
            client.sendall(ONE)
            client.shutdown(socket.SHUT_WR)
            assert everything(client).endswith(b"/one")

    def test_a_head_without_its_end_is_not(self, running):
        with running.connected() as client:
            client.sendall(ONE[:-1])
            client.shutdown(socket.SHUT_WR)
            assert everything(client) == b""
        assert running.echo.asked == []


class TestTimes:
    @pytest.fixture(autouse=True)
    def short(self, monkeypatch):
        for name, seconds in {"HEAD_SECONDS": 0.3, "TAKING_SECONDS": 0.3, "SWEEP_SECONDS": 0.05}.items():
            monkeypatch.setattr(server_module, name, seconds)

    def test_a_slow_head_does_not_last_for_being_fed(self, running):
        begun = time.monotonic()
        with running.connected() as client, contextlib.suppress(BrokenPipeError):
            client.sendall(ONE[:-2])
            while time.monotonic() - begun < 5:
                client.sendall(b"X-A: b\r\n")
                time.sleep(0.02)
        assert time.monotonic() - begun < 4
        assert running.echo.asked == []

    def test_who_says_nothing_stays_for_longer(self, running, monkeypatch):
        with running.connected() as client:
            client.sendall(ONE)
            answered(client)
            time.sleep(0.7)
            client.sendall(TWO)
            assert answered(client).endswith(b"/two")
            monkeypatch.setattr(server_module, "IDLE_SECONDS", 0.1)
            client.sendall(ONE)
            assert everything(client).endswith(b"/one")

    def test_who_takes_no_answers_is_not_heard(self, running):
        running.echo.more = b"x" * (1 << 20)
        begun = time.monotonic()
        with running.connected() as client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.settimeout(0.05)
            while time.monotonic() - begun < 10:
                with contextlib.suppress(TimeoutError):
                    client.sendall(ONE)
                time.sleep(0.01)
        assert time.monotonic() - begun < 5
        assert len(running.echo.asked) < 10

    def test_the_last_answer_is_not_waited_for_longer(self, running):
        running.echo.more = b"x" * (1 << 20)
        with running.connected() as client:
            client.sendall(ONE.replace(b"Host", b"Connection: close\r\nHost"))
            deadline = time.monotonic() + 10
            while not running.echo.asked or running.server.connections:
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def test_no_more_connections_than_there_may_be(self, running, monkeypatch):
        monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
        with running.connected() as one, running.connected() as two:
            for client in (one, two):
                client.sendall(ONE)
                answered(client)
            with running.connected() as third:
                assert everything(third) == b""
            one.sendall(TWO)
            assert answered(one).endswith(b"/two")


LATER = b"GET /later-one HTTP/1.1\r\nHost: edge\r\n\r\n"


class TestWaiting:
    """Answers that wait for the disk: nobody else does."""

    def test_others_are_answered_meanwhile(self, running):
        with running.connected() as waiting, running.connected() as other:
            waiting.sendall(LATER)
            assert running.echo.waiting.acquire(timeout=20)
            for _ in range(3):
                other.sendall(ONE)
                assert answered(other).endswith(b"/one")
            running.echo.disk.set()
            assert answered(waiting).endswith(b"/later-one")
            waiting.sendall(ONE)
            assert answered(waiting).endswith(b"/one")

    def test_many_wait_together(self, running):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(running.connected()) for _ in range(8)]
            for client in clients:
                client.sendall(LATER)
            for _ in clients:
                assert running.echo.waiting.acquire(timeout=20)
            running.echo.disk.set()
            for client in clients:
                assert answered(client).endswith(b"/later-one")

    def test_nothing_more_is_heard_from_who_waits(self, running):
        with running.connected() as client:
            client.sendall(LATER)
            assert running.echo.waiting.acquire(timeout=20)
            client.sendall(TWO)
            time.sleep(0.1)
            assert running.echo.asked == ["/later-one"]
            running.echo.disk.set()
            found = answered(client)
            if not found.endswith(b"/two"):  # both may come at once
                found += answered(client)
            assert found.endswith(b"/two")
            assert found.index(b"/later-one") < found.index(b"/two")

    def test_what_came_too_early_is_not_answered_afterwards(self, running):
        running.echo.disk.set()
        with running.connected() as client:
            client.sendall(LATER + TWO)
            found = everything(client)
        assert found.count(b"HTTP/1.1 200") == 1
        assert b"Connection: close" in found

    def test_a_fault_while_waiting_is_no_permit(self, running):
        running.echo.disk.set()
        with running.connected() as client:
            client.sendall(LATER.replace(b"later-one", b"later-fails"))
            assert everything(client).startswith(b"HTTP/1.1 503 ")

    def test_who_went_is_not_waited_for(self, running):
        with running.connected() as client:
            client.sendall(LATER)
            assert running.echo.waiting.acquire(timeout=20)
        running.echo.disk.set()
        with running.connected() as other:
            other.sendall(ONE)
            assert answered(other).endswith(b"/one")

    def test_a_disk_that_does_not_answer(self, running, monkeypatch):
        monkeypatch.setattr(server_module, "WAITING_SECONDS", 0.2)
        with running.connected() as client:
            client.sendall(LATER)
            assert everything(client) == b""
        running.echo.disk.set()

    def test_the_end_waits_for_the_disk(self, running):
        with running.connected() as client:
            client.sendall(LATER)
            assert running.echo.waiting.acquire(timeout=20)
            running.stop()
            time.sleep(server_module.LATE_SECONDS + 0.1)
            running.echo.disk.set()
            found = everything(client)
        assert found.endswith(b"/later-one")
        assert b"Connection: close" in found


class TestEnd:
    def test_a_head_on_its_way_is_answered_and_is_the_last(self, running):
        with running.connected() as silent, running.connected() as asking:
            silent.sendall(TWO)
            answered(silent)
            asking.sendall(ONE[:-1])
            time.sleep(0.05)
            running.stop()
            assert everything(silent) == b""
            with pytest.raises(OSError), running.connected() as late:
                late.sendall(ONE)
                assert late.recv(1)
                raise AssertionError("it listens still")
            asking.sendall(ONE[-1:])
            found = everything(asking)
        assert b"Connection: close" in found
        assert found.endswith(b"/one")

    def test_it_does_not_wait_for_ever(self, running, monkeypatch):
        monkeypatch.setattr(server_module, "GRACE", 0.2)
        with running.connected() as client:
            client.sendall(ONE[:-1])
            time.sleep(0.05)
            running.stop()
            assert everything(client) == b""


class TestProcess:
    """A real `attestd-edge serve`."""

    def test_sigterm_while_a_hop_asks(self, tmp_path):
        site = EdgeSite(tmp_path)
        with site.serving() as process:
            assert site.ask(site.device())[0] == 200
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(20)
                client.connect(str(site.socket))
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: edge\r\n\r")
                time.sleep(0.1)
                process.send_signal(signal.SIGTERM)
                time.sleep(0.3)
                client.sendall(b"\n")
                assert everything(client).startswith(b"HTTP/1.1 200 OK\r\nConnection: close\r\n")
            assert process.wait(20) == 0
            assert not site.socket.exists()
        assert "Traceback" not in site.log()


class TestTls:
    @pytest.fixture
    def tls(self, tmp_path):
        site = EdgeSite(tmp_path)
        hops = a.ca("hops", key=a.STRANGER_KEY, path_length=0, **site.times)
        server = site.leaf(
            "service", key=a.LOWER_KEY, facts=None, names=[x509.DNSName("edge.example.org")],
            purposes=(x509.oid.ExtendedKeyUsageOID.SERVER_AUTH,),
        )  # fmt: skip
        (tmp_path / "server.pem").write_bytes(pem(server) + pem(site.issuer.der))
        (tmp_path / "server.key").write_bytes(private_pem(a.LOWER_KEY))
        (tmp_path / "hops.pem").write_bytes(pem(hops.der))
        hop = site.leaf("hop", issuer=hops, facts=None)
        (tmp_path / "hop.pem").write_bytes(pem(hop) + private_pem(a.LEAF_KEY))
        context = ssl.create_default_context(cadata=pem(site.root.der).decode())
        context.load_cert_chain(tmp_path / "hop.pem")
        where = TlsListen("127.0.0.1", 0, tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "hops.pem")
        return where, context

    @pytest.fixture
    def hop(self, tls):
        """Opens the hop's TLS over a connection."""
        return lambda client: tls[1].wrap_socket(client, server_hostname="edge.example.org")

    @pytest.fixture
    def behind(self, tls, tmp_path, monkeypatch):
        monkeypatch.setattr(listen_module, "HANDSHAKE_SECONDS", 0.3)
        with Running(tmp_path, tls[0]) as running:
            yield running

    def test_the_hop_asks(self, behind, hop):
        with behind.connected() as client, hop(client) as asking:
            for head in (ONE, TWO):
                asking.sendall(head)
                answered(asking)
        assert behind.echo.asked == ["/one", "/two"]

    @pytest.mark.parametrize("octets", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01", ONE])
    def test_a_handshake_that_does_not_come_is_not_waited_for(self, behind, hop, octets):
        with behind.connected() as slow:
            slow.sendall(octets)
            with behind.connected() as client, hop(client) as asking:
                asking.sendall(ONE)  # the others are served meanwhile
                answered(asking)
            everything(slow)  # it ends
        assert behind.echo.asked == ["/one"]

    def test_a_slow_head(self, behind, hop, monkeypatch):
        monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.1)
        monkeypatch.setattr(server_module, "SWEEP_SECONDS", 0.05)
        with behind.connected() as client, hop(client) as asking:
            asking.sendall(ONE[:-1])
            with contextlib.suppress(ssl.SSLError, OSError):
                assert asking.recv(1) == b""
        assert behind.echo.asked == []

    def test_pipelined(self, behind, hop):
        with behind.connected() as client, hop(client) as asking:
            asking.sendall(ONE + TWO)
            found = b""
            with contextlib.suppress(ssl.SSLError, OSError):
                while octets := asking.recv(65536):
                    found += octets
        assert found.count(b"HTTP/1.1 200") == 1
        assert behind.echo.asked == ["/one"]

    def test_a_megabyte(self, behind, hop):
        with behind.connected() as client, hop(client) as asking, contextlib.suppress(OSError):
            asking.sendall(ONE[:-2] + b"X-A: " + b"a" * (1 << 20) + b"\r\n\r\n")
            assert asking.recv(65536)[:13] in (b"", b"HTTP/1.1 431 ")
        assert behind.echo.asked == []
