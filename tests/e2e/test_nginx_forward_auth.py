"""The shipped nginx configuration, a real nginx and a real `attestd-edge serve`: who gets to the application behind it.

Clients speak TLS with real client certificates, and smuggle what they can.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509

from attestd.credentials.jwk import jwk_thumbprint
from tests import authority as a
from tests.edge_site import EdgeSite, pem, private_pem

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy" / "nginx" / "attestd-edge.conf"
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"

pytestmark = pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed (apt-get install nginx-light)")


class Application(BaseHTTPRequestHandler):
    """Remembers what came to it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.seen.append((self.command, self.path, self.headers.items()))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Gate:
    """nginx before an application, and the edge that it asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.site = EdgeSite(folder)
        self.origin = f"https://api.example.org:{self.port}"
        self.site.configure(more=f'[tokens]\naudience = "{a.AUDIENCE}"\norigins = ["{self.origin}"]\n')
        server = self.site.leaf(
            "service", key=a.LOWER_KEY, facts=None, names=[x509.DNSName("api.example.org")],
            purposes=(x509.oid.ExtendedKeyUsageOID.SERVER_AUTH,),
        )  # fmt: skip
        (folder / "server.pem").write_bytes(pem(server) + pem(self.site.issuer.der))
        (folder / "server.key").write_bytes(private_pem(a.LOWER_KEY))
        self.application = ThreadingHTTPServer(("127.0.0.1", 0), Application)
        self.application.seen = []  # type: ignore[attr-defined]

    @property
    def seen(self) -> list[tuple[str, str, list[tuple[str, str]]]]:
        """What came to the application: method, path, headers."""
        return self.application.seen  # type: ignore[attr-defined, no-any-return]

    def configuration(self) -> Path:
        """The shipped file with this gate's names in it."""
        text = CONFIGURATION.read_text()
        for shipped, here in {
            "unix:/run/attestd-edge/auth.sock": f"unix:{self.site.socket}",
            "server 127.0.0.1:8080;": f"server 127.0.0.1:{self.application.server_port};",
            "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
            "/etc/nginx/tls/api.example.org.pem": str(self.folder / "server.pem"),
            "/etc/nginx/tls/api.example.org.key": str(self.folder / "server.key"),
        }.items():
            assert text.count(shipped) == 1, shipped
            text = text.replace(shipped, here)
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        path = self.folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        path.write_text(
            f"{user} daemon off; master_process off; pid {self.folder}/nginx.pid;\n"
            f"error_log {self.folder}/error.log info;\nevents {{ worker_connections 128; }}\n"
            f"http {{ access_log off; {temporary} {text} }}\n"
        )
        return path

    def send(
        self,
        *headers: tuple[str, str],
        leaf: bytes | None = None,
        method: str = "GET",
        target: str = "/orders",
        body: bytes | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """One request, with this client certificate; header by header, duplicates and all."""
        context = ssl.create_default_context(cadata=pem(self.site.root.der).decode())
        if leaf is not None:
            (self.folder / "client.pem").write_bytes(pem(leaf) + pem(self.site.issuer.der) + private_pem(a.LEAF_KEY))
            context.load_cert_chain(self.folder / "client.pem")
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection = http.client.HTTPConnection("api.example.org", self.port, timeout=20)
        connection.sock = context.wrap_socket(raw, server_hostname="api.example.org")
        try:
            connection.putrequest(method, target)
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    gate = Gate(tmp_path_factory.mktemp("gate"))
    threading.Thread(target=gate.application.serve_forever, daemon=True).start()
    with gate.site.serving():
        nginx = subprocess.Popen(
            [NGINX, "-c", str(gate.configuration()), "-p", str(gate.folder), "-e", str(gate.folder / "error.log")]
        )
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", gate.port), timeout=1).close()
                    break
                except OSError:
                    assert nginx.poll() is None, (gate.folder / "error.log").read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield gate
        finally:
            nginx.send_signal(signal.SIGQUIT)
            nginx.wait(20)
            gate.application.shutdown()
            gate.application.server_close()


@pytest.fixture(autouse=True)
def forget(gate: Gate) -> None:
    gate.seen.clear()


def escaped(der: bytes) -> str:
    return quote(pem(der).decode(), safe="")


def test_a_device_at_home_gets_through(gate):
    status, _, body = gate.send(leaf=gate.site.device())
    assert (status, body) == (200, b"ok")
    method, path, headers = gate.seen[0]
    found = {name.lower(): value for name, value in headers}
    assert (method, path) == ("GET", "/orders")
    assert found["attestd-identity"] == "spiffe://example.org/device/munich/bike-1"
    assert (found["attestd-tier"], found["attestd-site"], found["attestd-device"]) == ("device", "munich", "bike-1")


@pytest.mark.parametrize("header", [("Content-Length", "100000"), ("Transfer-Encoding", "chunked")])
def test_a_body_is_the_applications_and_does_not_come_to_the_edge(gate, header):
    body = b"x" * 100000 if header[0] == "Content-Length" else b"4\r\nbody\r\n0\r\n\r\n"
    for _ in range(3):
        assert gate.send(header, leaf=gate.site.device(), method="POST", body=body)[0] == 200
    assert [method for method, _, _ in gate.seen] == ["POST"] * 3


def test_nobody_does_not(gate):
    status, headers, _ = gate.send()
    assert status == 401
    assert headers["www-authenticate"] == 'DPoP algs="ES256"'
    assert headers["dpop-nonce"]
    assert gate.seen == []


@pytest.mark.parametrize(
    "lie",
    [
        {"site": "berlin"},
        {"facts": a.Facts(a.FACTS.vector, {}, {}, 8, 1)},
        {"issuer": a.ca("issuer", issuer=a.ca("root", key=a.STRANGER_KEY, path_length=2), key=a.STRANGER_KEY)},
    ],
    ids=["another site's", "a quarantined one", "a stranger's"],
)
def test_a_device_that_may_not_does_not(gate, lie):
    status, _, _ = gate.send(leaf=gate.site.device(**lie))
    assert status in (401, 403)
    assert gate.seen == []


class TestSmuggling:
    """The client's own headers, where nginx has no certificate of its own to put there: the classic hole."""

    @pytest.mark.parametrize("name", ["X-Client-Cert", "x-client-cert", "X_Client_Cert", "Client-Cert", "Client_Cert"])
    def test_a_certificate_header_of_ones_own(self, gate, name):
        status, _, _ = gate.send((name, escaped(gate.site.device())))
        assert status == 401
        assert gate.seen == []

    def test_the_same_header_twice(self, gate):
        header = ("X-Client-Cert", escaped(gate.site.device()))
        assert gate.send(header, header)[0] == 401
        assert gate.seen == []

    def test_another_machines_certificate_beside_ones_own(self, gate):
        victim = escaped(gate.site.device(name="victim"))
        mine = gate.site.device()
        status, _, _ = gate.send(("X-Client-Cert", victim), ("Client-Cert", "x"), ("Client-Cert-Chain", "x"), leaf=mine)
        assert status == 200  # as oneself: nginx wrote over every one of them
        found = {name.lower(): value for name, value in gate.seen[0][2]}
        assert found["attestd-device"] == "bike-1"
        assert not {"x-client-cert", "client-cert", "client-cert-chain"} & set(found)

    def test_a_certificate_that_may_not_beside_a_header_that_may(self, gate):
        header = ("X-Client-Cert", escaped(gate.site.device()))
        assert gate.send(header, leaf=gate.site.device(site="berlin"))[0] == 403
        assert gate.seen == []

    @pytest.mark.parametrize("name", ["Identity", "Tier", "Site", "Device", "Credential", "Boundary", "Request-Id"])
    def test_an_identity_of_ones_own(self, gate, name):
        header = (f"Attestd-{name}", "smuggled")
        assert gate.send(header)[0] == 401
        assert gate.send(header, leaf=gate.site.device())[0] == 200
        values = [value for found, value in gate.seen[0][2] if found.lower() == header[0].lower()]
        assert len(values) == 1
        assert values != ["smuggled"]

    def test_a_request_id_of_ones_own(self, gate):
        assert gate.send(("X-Request-Id", "chosen-by-the-client"))[0] == 401
        assert "chosen-by-the-client" not in gate.site.log()

    def test_an_upgrade(self, gate):
        upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
        assert gate.send(*upgrade, leaf=gate.site.device())[0] == 200
        found = {name.lower(): value for name, value in gate.seen[0][2]}
        assert "upgrade" not in found
        assert "connection" not in found

    def test_another_host(self, gate):
        assert gate.send(("X-Forwarded-Host", "evil.example.org"), leaf=gate.site.device())[0] == 200
        assert {name.lower(): value for name, value in gate.seen[0][2]}["host"] == "api.example.org"

    @pytest.mark.parametrize(
        "header",
        [("X-Forwarded-Uri", "/harmless"), ("X-Forwarded-Method", "HEAD"), ("X-Forwarded-Host", "evil.example.org")],
    )
    def test_another_request_than_the_one_that_is_made(self, gate, header):
        """A policy about paths must see the real one: the edge's log has what it judged."""
        assert gate.send(header, leaf=gate.site.device(site="berlin"), target="/secret", method="POST")[0] == 403
        judged = gate.site.log().splitlines()[-1]
        assert '"path": "/secret"' in judged
        assert '"method": "POST"' in judged

    @pytest.mark.parametrize("target", ["/public/../secret", "//secret", "/public/..%2fsecret", "/a;/../secret"])
    def test_a_path_that_can_be_read_in_two_ways(self, gate, target):
        assert gate.send(leaf=gate.site.device(), target=target)[0] == 403
        assert gate.seen == []

    def test_the_edges_own_address_is_nobodys_business(self, gate):
        assert gate.send(leaf=gate.site.device(), target="/_attestd")[0] == 404


class TestTokens:
    def token(self, gate, **lies):
        now = int(time.time())
        honest = {"iat": now, "nbf": now, "exp": now + 300, "cnf": {"jkt": jwk_thumbprint(a.LEAF_KEY.public_key())}}
        return a.token(**{**honest, **lies})

    def proof(self, gate, token, **lies):
        nonce = gate.send()[1]["dpop-nonce"]
        digest = a.b64(hashlib.sha256(os.urandom(16)).digest())[:22]
        return a.proof(token, **{"jti": digest, "htu": f"{gate.origin}/orders", "nonce": nonce, **lies})

    def test_a_token_with_its_proof(self, gate):
        token = self.token(gate)
        proof = ("DPoP", self.proof(gate, token))
        status, headers, _ = gate.send(("Authorization", f"DPoP {token}"), proof)
        assert status == 200
        assert headers["dpop-nonce"]
        assert gate.send(("Authorization", f"DPoP {token}"), proof)[0] == 401  # once

    def test_without_a_nonce_one_is_told(self, gate):
        token = self.token(gate)
        status, headers, _ = gate.send(("Authorization", f"DPoP {token}"), ("DPoP", self.proof(gate, token, nonce=...)))
        assert status == 401
        assert 'error="use_dpop_nonce"' in headers["www-authenticate"]
        assert headers["dpop-nonce"]

    def test_for_another_host(self, gate):
        token = self.token(gate)
        proof = self.proof(gate, token, htu=f"https://evil.example.org:{gate.port}/orders")
        assert gate.send(("Authorization", f"DPoP {token}"), ("DPoP", proof))[0] == 401

    def test_two_proofs(self, gate):
        token = self.token(gate)
        proofs = [("DPoP", self.proof(gate, token)) for _ in range(2)]
        assert gate.send(("Authorization", f"DPoP {token}"), *proofs)[0] == 401

    def test_as_a_bearer(self, gate):
        assert gate.send(("Authorization", f"Bearer {self.token(gate)}"))[0] == 401


def test_while_the_edge_is_stale_clients_are_told_to_come_back(tmp_path):
    gate = Gate(tmp_path)
    gate.site.publish(issued_at=int(time.time()) - 7200)
    threading.Thread(target=gate.application.serve_forever, daemon=True).start()
    with gate.site.serving():
        nginx = subprocess.Popen([NGINX, "-c", str(gate.configuration()), "-p", str(tmp_path), "-e", "stderr"])
        try:
            for _ in range(100):
                try:
                    status, headers, _ = gate.send(leaf=gate.site.device())
                    break
                except OSError:
                    time.sleep(0.05)
            assert (status, headers["retry-after"]) == (503, "5")
            assert gate.seen == []
        finally:
            nginx.send_signal(signal.SIGQUIT)
            nginx.wait(20)
            gate.application.shutdown()
            gate.application.server_close()
