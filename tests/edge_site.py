"""A site with an edge on this machine, now: files, certificates and a bundle that hold for the next hour.

    site = EdgeSite(tmp_path)
    with site.serving():                     # a real `attestd-edge serve`, cut off from its service, on a Unix socket
        site.ask(site.device())              # one forward-auth question over that socket
        site.publish(revoked=…)              # another bundle put on its disk, for the next start

The process runs with an import blocker: nothing of libtss2, of the service's web framework or of its database loads.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestd.credentials.bundle import Bundle
from attestd.policy import default_policy
from tests import authority as a

ROOT = Path(__file__).resolve().parent.parent
BLOCKED = ("tpm2_pytss", "flask", "werkzeug", "sqlmodel", "sqlalchemy", "alembic", "granian")
BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ImportError(f"{{name}} must not be needed here")
sys.meta_path.insert(0, Blocker())
"""
BOUNDARY = "field-to-munich"


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def private_pem(key: a.PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class EdgeSite:
    """A trust domain valid around now, and an edge's folder in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.times = {"not_before": self.now - timedelta(hours=1), "not_after": self.now + timedelta(hours=1)}
        self.root = a.ca("root", key=a.ROOT_KEY, path_length=2, **self.times)
        self.issuer = a.ca("issuer", issuer=self.root, path_length=0, **self.times)
        self.config = folder / "edge.toml"
        self.socket = folder / "auth.sock"
        (folder / "state").mkdir()
        (folder / "root.pem").write_bytes(pem(self.root.der))
        (folder / "proxy.key.pem").write_bytes(private_pem(a.p256(50)))
        (folder / "proxy.key.pem").chmod(0o600)
        proxy = self.leaf("proxy", key=a.p256(50), facts=None)
        (folder / "proxy.pem").write_bytes(pem(proxy) + pem(self.issuer.der))
        self.configure()
        self.publish()

    def configure(
        self, *, server: str = "https://127.0.0.1:1", listen: str = 'unix = "auth.sock"', more: str = ""
    ) -> None:
        """Writes the configuration; nothing listens on port 1, so the edge is cut off."""
        self.config.write_text(
            f"""
[edge]
server = "{server}"
root = "root.pem"
trust_domain = "example.org"
state_dir = "state"
key = "proxy.key.pem"
certificate = "proxy.pem"

[listen]
{listen}

[[boundary]]
name = "{BOUNDARY}"
from = {{ tier = "device", site = "munich" }}
to = {{ tier = "edge", site = "munich" }}
{more}"""
        )

    def leaf(self, tier: str, *, site: str = "munich", name: str = "bike-1", **lies: Any) -> bytes:
        honest = {"uris": [f"spiffe://example.org/{tier}/{site}/{name}"], "issuer": self.issuer, **self.times}
        return a.leaf(**{**honest, **lies})

    def device(self, **lies: Any) -> bytes:
        """A device's certificate (DER), for a.LEAF_KEY."""
        return self.leaf("device", **lies)

    def bundle(self, **lies: Any) -> Bundle:
        honest = {
            "issued_at": int(self.now.timestamp()), "policy": default_policy(),
            "roots": (self.root.der,), "issuers": (self.issuer.der,),
        }  # fmt: skip
        return a.bundle(**{**honest, **lies})

    def publish(self, **lies: Any) -> None:
        """Puts a bundle on the edge's disk, as if it had fetched it."""
        signer = a.signer(issuer=self.root, **self.times)
        (self.folder / "state" / "bundle.json").write_bytes(a.signed_bundle(self.bundle(**lies), certificates=[signer]))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", BLOCKER + "from attestd_edge.cli import main\nmain()", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One `attestd-edge` command."""
        return subprocess.run(
            self.command(*arguments), env=environment(), capture_output=True, text=True, timeout=60, check=False
        )

    @contextlib.contextmanager
    def serving(self, *options: str, command: tuple[str, ...] = ("serve",)) -> Iterator[subprocess.Popen[str]]:
        """A running edge, with more options if there are; its stderr is in serve.log."""
        with (self.folder / "serve.log").open("w") as log:
            process = subprocess.Popen(
                self.command(*command, "--config", str(self.config), "--json", *options),
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            try:
                assert process.stdout is not None
                first = process.stdout.readline()
                assert "listening" in json.loads(first or "{}"), self.log()
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                finally:
                    process.kill()
                    process.stdout.close()

    def log(self) -> str:
        return (self.folder / "serve.log").read_text()

    def ask(self, leaf: bytes | None, *, path: str = "/auth", **changes: str) -> tuple[int, Mapping[str, str], bytes]:
        """One question over the Unix socket: status, headers by lower-case name, body."""
        headers = {
            "X-Forwarded-Method": "GET",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "shop.example.org",
            "X-Forwarded-Uri": "/orders",
        }
        if leaf is not None:
            headers["X-Client-Cert"] = quote(pem(leaf).decode(), safe="")
        return get(self.socket, path, {**headers, **changes})


def get(path: Path, target: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
    """GET over a Unix socket."""
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(str(path))
    try:
        connection.request("GET", target, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def environment() -> dict[str, str]:
    """This process's, with the project's packages to be found."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}", "PYTHONDONTWRITEBYTECODE": "1"}
