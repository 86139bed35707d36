"""Where Envoy connects: nobody else can, before or after."""

from __future__ import annotations

import os
import queue
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from attestd_edge.envoy import listen
from attestd_edge.envoy.listen import bind_tls, bind_unix, make_server
from attestd_edge.files import FileUnreadable
from attestd_edge.listen import ListenerFailed
from attestd_edge.settings import TlsListen, UnixListen
from tests import authority as a
from tests.edge_site import pem, private_pem


@pytest.fixture
def server():
    made = grpc.server(ThreadPoolExecutor(1))
    yield made
    made.stop(0).wait()


@pytest.fixture
def where(tmp_path):
    return UnixListen(tmp_path / "envoy.sock", 0o660, None)


class TestUnixSocket:
    def test_its_permissions(self, server, where):
        bind_unix(server, where)
        assert stat.S_IMODE(where.path.stat().st_mode) == 0o660

    def test_it_is_born_without_any(self, server, where, monkeypatch):
        seen = []
        real = Path.chmod

        def chmod(path, mode):
            seen.append(stat.S_IMODE(path.stat().st_mode))
            real(path, mode)

        before = os.umask(0o022)
        os.umask(before)
        monkeypatch.setattr(Path, "chmod", chmod)
        bind_unix(server, where)
        assert seen[-1] == 0
        assert os.umask(before) == before

    def test_a_dead_processs_socket_is_removed(self, server, where):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(where.path))
        bind_unix(server, where)

    def test_a_living_processs_socket_is_not(self, server, where):
        """gRPC alone would take it away without a word."""
        bind_unix(server, where)
        server.start()
        other = grpc.server(ThreadPoolExecutor(1))
        with pytest.raises(ListenerFailed, match="already"):
            bind_unix(other, where)
        other.stop(0).wait()

    def test_a_file_is_not_removed(self, server, where):
        where.path.write_text("precious")
        with pytest.raises(ListenerFailed, match="not a socket"):
            bind_unix(server, where)
        assert where.path.read_text() == "precious"

    def test_a_folder_that_is_not_there(self, server, tmp_path):
        with pytest.raises(ListenerFailed):
            bind_unix(server, UnixListen(tmp_path / "missing" / "envoy.sock", 0o660, None))

    def test_a_group_that_is_not_there(self, server, where):
        with pytest.raises(ListenerFailed, match="no-such-group"):
            bind_unix(server, UnixListen(where.path, 0o660, "no-such-group"))


class TestTls:
    @pytest.fixture
    def files(self, tmp_path):
        (tmp_path / "server.pem").write_bytes(pem(a.leaf()))
        (tmp_path / "server.key").write_bytes(private_pem(a.LEAF_KEY))
        (tmp_path / "hops.pem").write_bytes(pem(a.ROOT.der))
        return TlsListen("127.0.0.1", 0, *(tmp_path / name for name in ("server.pem", "server.key", "hops.pem")))

    def test_it_listens(self, server, files):
        bind_tls(server, files)

    @pytest.mark.parametrize("name", ["server.pem", "server.key", "hops.pem"])
    def test_a_file_that_is_not_there(self, server, files, tmp_path, name):
        (tmp_path / name).unlink()
        with pytest.raises(FileUnreadable):
            bind_tls(server, files)

    @pytest.mark.parametrize(
        "text", [b"", b"not a certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    )
    def test_without_an_authority_nobody_could_be_told_apart(self, server, files, tmp_path, text):
        (tmp_path / "hops.pem").write_bytes(text)
        with pytest.raises(ListenerFailed, match="holds no certificates"):
            bind_tls(server, files)

    @pytest.mark.parametrize("name", ["server.pem", "server.key"])
    def test_a_key_or_a_certificate_that_is_none(self, server, files, tmp_path, name):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(ListenerFailed):
            bind_tls(server, files)

    def test_a_port_that_is_taken(self, server, files):
        """Also by another process of ours: the kernel would give each half of the connections."""
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            there = TlsListen("127.0.0.1", taken.getsockname()[1], files.certificate, files.key, files.hop_ca)
            ours = make_server(())
            with pytest.raises(ListenerFailed):
                bind_tls(ours, there)
            ours.stop(0).wait()


def test_more_at_once_than_is_taken_are_turned_away(where, monkeypatch):
    """Not queued without end: Envoy has given up on them long before, and those that it still waits for come late."""
    monkeypatch.setattr(listen, "_WORKERS", 2)
    monkeypatch.setattr(listen, "_UNDER_WAY", 4)
    goes_on = threading.Event()

    def waits(octets, _):
        goes_on.wait(20)
        return octets

    handler = grpc.method_handlers_generic_handler("test", {"Wait": grpc.unary_unary_rpc_method_handler(waits)})
    server = make_server((handler,))
    bind_unix(server, where)
    server.start()
    with grpc.insecure_channel(f"unix:{where.path}") as channel:
        calls = [channel.unary_unary("/test/Wait").future(b"x", timeout=20) for _ in range(12)]
        ended: queue.Queue[grpc.Future] = queue.Queue()
        for call in calls:
            call.add_done_callback(ended.put)
        turned_away = [ended.get(timeout=20).code() for _ in range(8)]
        goes_on.set()
        found = sorted(call.code().name for call in calls)
    server.stop(0).wait()
    assert turned_away == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 8
    assert found == ["OK"] * 4 + ["RESOURCE_EXHAUSTED"] * 8
