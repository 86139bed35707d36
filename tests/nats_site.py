"""A site with a real nats-server and the NATS side of an edge, from the shipped configuration.

    site = NatsSiteOnDisk(tmp_path)
    async with site.running():                       # nats-server, and attestd-edge's NATS side in this event loop
        device = await site.connect(site.device())   # a device, with its certificate
    site.publish(status=…)                           # another bundle, in use at once

Devices' keys are the authority's LEAF_KEY: which device it is, the certificate says.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nats
from cryptography import x509
from nats.aio.client import Client

from attestd.broker.links import KeyClient
from attestd.credentials.facts import Facts
from attestd_edge.edge import Edge
from attestd_edge.nats.keys import Keys, make, make_distribution
from attestd_edge.nats.site import NatsSite
from attestd_edge.settings import Settings
from tests import authority as a
from tests.edge_site import EdgeSite, pem, private_pem

SHIPPED = Path(__file__).resolve().parents[1] / "deploy" / "nats"
ORIGIN = "https://nats.munich.example.org"
HOST = "localhost"
FIELD = """
[tokens]
audience = "{audience}"
origins = ["https://api.example.org"]

[[boundary]]
name = "munich-to-cloud"
from = {{ tier = "device", site = "munich" }}
to = {{ tier = "cloud", site = "cloud" }}

[nats]
server = "tls://{host}:{port}"
ca = "server-ca.pem"
keys = "keys"
account = "FIELD"
origin = "{origin}"
lifetime = {lifetime}

[[nats.grant]]
boundary = "field-to-munich"
publish = ["field.{{site}}.{{device}}.>"]
subscribe = ["orders.{{site}}.{{device}}.>", "_INBOX.{{device}}.>"]
{more}"""
CLOUD = """
[[boundary]]
name = "uplinks"
from = {{ tier = "edge" }}
to = {{ tier = "cloud", site = "cloud" }}

[nats]
server = "tls://{host}:{port}"
ca = "server-ca.pem"
keys = "keys"
account = "FLEET"
lifetime = {lifetime}

[[nats.grant]]
boundary = "uplinks"
publish = ["cleared.{{site}}.>"]
subscribe = ["orders.{{site}}.>", "_INBOX.carry.{{site}}.>"]
"""
CARRY = """
[nats.carry]
boundary = "munich-to-cloud"
stream = "FIELD"
from = "field.{site}.{device}.>"
to = "cleared.{site}.{device}.>"
withheld = "withheld.{site}.{device}.>"
"""


def nats_server() -> str | None:
    """The program, where the tests' packages put it."""
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NatsServer:
    """One nats-server process on a shipped configuration with other names in it."""

    def __init__(self, folder: Path, shipped: str, changes: dict[str, str], port: int) -> None:
        self.folder, self.port = folder, port
        text = (SHIPPED / shipped).read_text()
        for before, after in changes.items():
            assert text.count(before) >= 1, before
            text = text.replace(before, after)
        self.config = folder / "nats.conf"
        self.config.write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, debug: bool = True) -> None:
        program = nats_server()
        assert program is not None
        with (self.folder / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, "-c", str(self.config), *(["-D"] if debug else [])], cwd=self.folder, stdout=log, stderr=log
            )
        until = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert self.process.poll() is None and time.monotonic() < until, self.log()
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            finally:
                self.process.kill()
                self.process.wait(10)
            self.process = None

    def log(self) -> str:
        return (self.folder / "nats.log").read_text()


class NatsSiteOnDisk:
    """An edge's folder with keys, a configuration, and a nats-server's beside it."""

    def __init__(
        self,
        folder: Path,
        *,
        lifetime: int = 60,
        carry: bool = False,
        verify: bool = True,
        like: EdgeSite | None = None,
        template: str = FIELD,
        more: str = "",
    ) -> None:
        self.folder, self.template = folder, template
        folder.mkdir(exist_ok=True)
        self.edge_site = site = EdgeSite(folder)
        if like is not None:  # one trust domain, with one root
            site.now, site.times, site.root, site.issuer = like.now, like.times, like.root, like.issuer
            (folder / "root.pem").write_bytes(pem(site.root.der))
            proxy = site.leaf("proxy", key=a.p256(50), facts=None)
            (folder / "proxy.pem").write_bytes(pem(proxy) + pem(site.issuer.der))
            site.publish()
        self.port, self.leaf_port = free_port(), free_port()
        self.lifetime = lifetime
        self.configure(CARRY + more if carry else more)
        make(folder / "keys", entropy=os.urandom)
        make_distribution(folder / "distribution", entropy=os.urandom)
        self._certify_server()
        self.changes = {
            'include "keys.conf"': f'include "{folder.name}-keys.conf"',
            '"0.0.0.0:4222"': f'"127.0.0.1:{self.port}"',
            '"0.0.0.0:7422"': f'"127.0.0.1:{self.leaf_port}"',
        }
        shutil.copy(folder / "keys" / "keys.conf", folder / f"{folder.name}-keys.conf")
        if not verify:
            self.changes["verify: true"] = "verify: false"
        self.edge: Edge | None = None
        self.site: NatsSite | None = None
        self._version = 5

    def configure(self, more: str = "") -> None:
        text = self.template.format(
            audience=a.AUDIENCE, host=HOST, port=self.port, origin=ORIGIN, lifetime=self.lifetime, more=more
        )
        self.edge_site.configure(more=text)

    def _certify_server(self) -> None:
        """An authority of the servers' own: what devices know servers by is none of attestd's business."""
        times = self.edge_site.times
        self.server_ca = a.ca("servers", key=a.p256(70), **times)
        leaf = a.leaf(
            issuer=self.server_ca, key=a.p256(71), uris=(), facts=None, names=[x509.DNSName(HOST)],
            purposes=(x509.oid.ExtendedKeyUsageOID.SERVER_AUTH,), **times,
        )  # fmt: skip
        (self.folder / "server-ca.pem").write_bytes(pem(self.server_ca.der))
        (self.folder / "server.pem").write_bytes(pem(leaf))
        (self.folder / "server.key").write_bytes(private_pem(a.p256(71)))

    def server(self, shipped: str = "edge.conf", remote: NatsSiteOnDisk | None = None, **changes: str) -> NatsServer:
        """Its nats-server; `remote`: the cloud that its uplink leads to."""
        all_changes = {**self.changes, **changes}
        if shipped == "cloud.conf":
            all_changes['include "distribution.conf"'] = 'include "distribution/distribution.conf"'
        if shipped == "edge.conf":
            port = remote.leaf_port if remote is not None else 1
            all_changes["tls://nats.cloud.example.org:7422"] = f"tls://{HOST}:{port}"
            uplink = self.edge_site.leaf("edge", name="gateway-1", facts=facts(3))
            (self.folder / "uplink.pem").write_bytes(pem(uplink) + pem(self.edge_site.issuer.der))
            (self.folder / "uplink.key").write_bytes(private_pem(a.LEAF_KEY))
            shutil.copy((remote or self).folder / "server-ca.pem", self.folder / "cloud-ca.pem")
        return NatsServer(self.folder, shipped, all_changes, self.port)

    def publish(self, **lies: Any) -> None:
        """A newer bundle on the edge's disk, and in use."""
        self._version += 1
        self.edge_site.publish(**{"version": self._version, **lies})
        if self.edge is not None:
            self.edge.store.load()

    @contextlib.asynccontextmanager
    async def answering(self) -> AsyncIterator[NatsSite]:
        """attestd-edge's NATS side, here, beside a process that fetches (which is nobody: the site is cut off)."""
        settings = Settings.load(self.edge_site.config)
        with self.reading_along():
            self.edge = Edge.open(settings)
            self.site = NatsSite(self.edge, settings)
            running = asyncio.ensure_future(self.site.run())
            try:
                await asyncio.wait_for(self.site.asked.wait(), 20)
                yield self.site
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                self.edge = self.site = None

    @contextlib.contextmanager
    def reading_along(self) -> Iterator[None]:
        """Whoever starts now takes its bundle from the disk."""
        with (self.folder / "state" / "refresh.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    @contextlib.asynccontextmanager
    async def running(self, remote: NatsSiteOnDisk | None = None, **changes: str) -> AsyncIterator[NatsServer]:
        """A server and its callout."""
        server = self.server(remote=remote, **changes)
        server.start()
        try:
            async with self.answering():
                yield server
        finally:
            server.stop()

    def device(self, **lies: Any) -> bytes:
        return self.edge_site.device(**lies)

    def client_tls(self, leaf: bytes | None, *, key: a.PrivateKey = a.LEAF_KEY) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=pem(self.server_ca.der).decode())
        if leaf is not None:
            path = self.folder / f"client-{os.urandom(4).hex()}.pem"
            path.write_bytes(pem(leaf) + pem(self.edge_site.issuer.der) + private_pem(key))
            context.load_cert_chain(path)
        return context

    async def connect(self, leaf: bytes | None, *, key: a.PrivateKey = a.LEAF_KEY, **options: Any) -> Visitor:
        """Logs in; raises nats.errors.Error if it is not let in."""
        visitor = Visitor()
        await visitor.connect(f"tls://{HOST}:{self.port}", tls=self.client_tls(leaf, key=key), **options)
        return visitor

    async def insider(self, name: str) -> Visitor:
        """One of the service's own users: callout, watch or carry."""
        proxy = self.edge_site.leaf("proxy", key=a.p256(50), facts=None)
        visitor = self.with_key(name)
        await visitor.connect(f"tls://{HOST}:{self.port}", tls=self.client_tls(proxy, key=a.p256(50)))
        return visitor

    def with_key(self, name: str) -> Visitor:
        """A client that holds this user's key."""
        visitor = Visitor()
        visitor.client = KeyClient(getattr(Keys.load(self.folder / "keys"), name))
        return visitor


class Visitor:
    """A NATS client that does not come back, and remembers what went wrong."""

    def __init__(self) -> None:
        self.client = Client()
        self.closed = asyncio.Event()
        self.errors: list[str] = []

    async def connect(self, address: str, **options: Any) -> None:
        async def ended() -> None:
            self.closed.set()

        async def failed(error: Exception) -> None:
            self.errors.append(str(error))

        await asyncio.wait_for(
            self.client.connect(
                address, allow_reconnect=False, connect_timeout=10, closed_cb=ended, disconnected_cb=ended,
                error_cb=failed, **getattr(self.client, "login", {}), **options,
            ),
            15,
        )  # fmt: skip
        if not self.client.is_connected:  # nats-py takes a connection that ends at once for one that was let in
            raise nats.errors.ConnectionClosedError

    async def may_publish(self, subject: str, data: bytes = b"x") -> bool:
        """Whether the server takes a message for this subject."""
        before = len(self.errors)
        await self.client.publish(subject, data)
        await self.client.flush(timeout=10)
        await asyncio.sleep(0.05)
        return not self._violated("publish", before)

    async def may_subscribe(self, subject: str) -> bool:
        """Whether the server lets it listen there."""
        before = len(self.errors)
        await self.client.subscribe(subject)
        await self.client.flush(timeout=10)
        await asyncio.sleep(0.05)
        return not self._violated("subscription", before)

    def _violated(self, what: str, before: int) -> bool:
        said = f"permissions violation for {what}"
        return any(said in error.lower() for error in self.errors[before:])

    async def close(self) -> None:
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.client.close()


def facts(index: int, **changes: Any) -> Facts:
    """The authority's facts for another device."""
    honest = {
        "vector": a.FACTS.vector, "labels": a.FACTS.labels, "boot": a.FACTS.boot,
        "status_index": index, "attested_at": a.FACTS.attested_at,
    }  # fmt: skip
    return Facts(**{**honest, **changes})
