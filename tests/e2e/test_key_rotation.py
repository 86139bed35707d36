"""Keys are replaced while the real service renews: nobody notices, and every certificate holds at an edge."""

from __future__ import annotations

import json
import random
import re
import shutil
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.rotation import StillNeeded
from attestd.cli.keydesk import KeyDesk
from attestd.credentials.requests import SoftwareKey
from attestd.credentials.x509 import verify_chain
from attestd.ids import Serial, TrustDomain
from attestd.protocol.encoding import b64decode
from attestd_edge.clock import EdgeClock
from attestd_edge.identity import ProxyIdentity, read_certificates
from attestd_edge.service import Service
from attestd_edge.store import BundleStore
from tests import ek_ca
from tests.e2e.test_serving import Served, attestd, serve
from tests.forger import Forger
from tests.soft_device import SoftDevice

pytestmark = pytest.mark.timeout(300)
DEVICES = 3
LIFE = 8  # seconds of a device's certificate
PROFILES = Path(__file__).parents[2] / "certs" / "profiles"
DOMAIN = TrustDomain("example.org")


class Wire:
    """One device's connection, in the place of a `World`. Like the agent, it sends what was not answered once more."""

    def __init__(self, url: str, root: Path) -> None:
        self.url = url
        self._trust = ssl.create_default_context(cafile=str(root))

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        for last in (False, True):
            try:
                answer = httpx.request(method, self.url + path, verify=self._trust, timeout=20, **more)
            except httpx.TransportError:
                if last:
                    raise
                continue
            answer.data = answer.content  # type: ignore[attr-defined]
            return answer
        raise AssertionError("unreachable")

    def post(self, path: str, body: bytes, *, content_type: str = "application/json") -> httpx.Response:
        return self._send("POST", path, content=body, headers={"Content-Type": content_type})

    def nonce(self) -> bytes:
        return b64decode(self._send("GET", "/v1/nonce").headers["Replay-Nonce"])


class Edge:
    """The real edge's store and client, looked at twice a second."""

    def __init__(self, served: Served, folder: Path) -> None:
        folder.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        public = folder / "proxy.pub"
        public.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        chain = folder / "proxy.pem"
        attestd(
            served.folder, "proxies", "add", "edge-1", "--site", "berlin", "--key", str(public), "--out", str(chain)
        )
        self.who = ProxyIdentity.of(SoftwareKey(key), read_certificates(chain.read_bytes(), where="chain"))
        roots = read_certificates((served.folder / "ca/root.pem").read_bytes(), where="root")
        clock = EdgeClock(lambda: datetime.now(UTC), time.monotonic, datetime.fromtimestamp(0, UTC))
        self.store = BundleStore(folder, roots=roots, trust_domain=DOMAIN, clock=clock)
        self.service = Service(served.url, roots=roots)
        self._turn = threading.Lock()
        self.look()

    def look(self) -> None:
        with self._turn:
            fetched = self.service.bundle(self.who, known=None)
            assert fetched is not None
            self.store.adopt(fetched.content, prove=lambda *said: self.service.consistency(self.who, *said))
            self.service.trust(self.store.roots)

    def renew(self) -> None:
        with self._turn:
            pem = self.service.renew(self.who)
            self.who = ProxyIdentity.of(self.who.key, read_certificates(pem, where="answer"))

    def verify(self, chain: str) -> None:
        """Like a presented certificate: the leaf alone, so that the bundle has to know its issuer."""
        leaf = read_certificates(chain.encode(), where="chain")[:1]
        verify_chain(leaf, authorities=self.store.view().authorities, now=datetime.now(UTC))


class Fleet:
    """Devices that renew all the time, each in a thread of its own, and an edge that looks at what they get."""

    def __init__(self, served: Served, edge: Edge) -> None:
        self.devices: list[SoftDevice] = []
        self.failures: list[str] = []
        self.renewals = 0
        self.issuers: set[bytes] = set()
        self._edge = edge
        self._over = threading.Event()
        for _ in range(DEVICES):
            forger = Forger()
            maker = ek_ca.maker()
            leaf = maker.intermediate.ek_certificate(forger.ek.private.public_key())
            wire = Wire(served.url, served.folder / "ca/root.pem")
            device = SoftDevice(wire, forger, maker.chain(leaf))  # type: ignore[arg-type]
            assert device.enroll().status_code == 202
            self.devices.append(device)
        listed = json.loads(attestd(served.folder, "devices", "list", "--json"))
        for device in listed:
            attestd(served.folder, "devices", "approve", device["id"], "--tier", "device", "--site", "berlin")
        for device in self.devices:
            assert device.enroll().status_code == 200
        self._threads = [threading.Thread(target=self._renew, args=(device,)) for device in self.devices]
        self._threads.append(threading.Thread(target=self._look))

    def __enter__(self) -> Fleet:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _renew(self, device: SoftDevice) -> None:
        rng = random.Random(id(device))
        while not self._over.wait(0.1 + 0.2 * rng.random()):
            try:
                answer = device.renew(url=device.world.url + "/v1/renewals")  # type: ignore[attr-defined]
                assert answer.status_code == 200, answer.text
                assert device.answer is not None
                self._edge.verify(device.answer.chain)
                issuer = x509.load_pem_x509_certificates(device.answer.chain.encode())[1]
                self.issuers.add(issuer.public_bytes(serialization.Encoding.DER))
                self.renewals += 1
            except Exception as error:  # noqa: BLE001 - every kind of failure counts
                self.failures.append(f"{type(error).__name__}: {error}")

    def _look(self) -> None:
        while not self._over.wait(0.5):
            try:
                self._edge.look()
            except Exception as error:  # noqa: BLE001
                self.failures.append(f"edge: {type(error).__name__}: {error}")

    def until(self, met: Callable[[], bool], patience: float = 40.0) -> None:
        deadline = time.monotonic() + patience
        while not met():
            assert not self.failures, self.failures[:3]
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(0.1)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    folder = tmp_path / "instance"
    attestd(folder, "init", "--trust-domain", str(DOMAIN))
    (folder / "profiles").mkdir()
    for profile in PROFILES.glob("*.toml"):
        text = profile.read_text()
        if profile.stem == "device":
            text = re.sub(r'lifetime = "[^"]*"', f'lifetime = "{LIFE}s"', text)
        if profile.stem in ("admin", "proxy"):
            text = re.sub(r'lifetime = "[^"]*"', 'lifetime = "1h"', text)
        (folder / "profiles" / profile.name).write_text(text)
    with (folder / "attestd.toml").open("a") as settings:
        settings.write('\n[credentials]\ntoken_lifetime = "5s"\n')
    maker = tmp_path / "maker.der"
    maker.write_bytes(ek_ca.maker().root.certificate)
    attestd(folder, "trust", "add", str(maker))
    running = serve(folder)
    yield running
    if running.process.poll() is None:
        running.stop()
    shutil.rmtree(folder, ignore_errors=True)


def rotate(served: Served, kind: str, *words: str) -> dict[str, Any]:
    return dict(json.loads(attestd(served.folder, "ca", "rotate", kind, "--json", *words)))


def let_go_of_long_lived(served: Served, edge: Edge) -> None:
    """Certificates of operators and proxies outlive this test: the admin gets a new one, the first are revoked."""
    admin = x509.load_pem_x509_certificate((served.folder / "admin/admin.pem").read_bytes())
    proxy = edge.who.certificate
    attestd(served.folder, "admin", "renew")
    edge.renew()
    for certificate in (admin, proxy):
        attestd(served.folder, "credentials", "revoke", str(Serial(certificate.serial_number)))


def test_an_issuer_is_replaced_without_a_failed_renewal(served: Served, tmp_path: Path) -> None:
    edge = Edge(served, tmp_path / "edge")
    with Fleet(served, edge) as fleet:
        fleet.until(lambda: fleet.renewals >= 20)
        assert len(fleet.issuers) == 1
        # 1. The next issuer is known everywhere before it issues anything.
        assert rotate(served, "issuer")["stage"] == "prepare"
        fleet.until(lambda: len(edge.store.view().bundle.issuers) == 2)
        attestd(served.folder, "ca", "rotate", "issuer", code=1)  # too early
        # 2. It issues, in every worker; the old one's certificates are good all the same.
        assert rotate(served, "issuer", "--now")["stage"] == "activate"
        fleet.until(lambda: len(fleet.issuers) == 2)
        attestd(served.folder, "ca", "rotate", "issuer", "--now", code=1)  # an admin's is valid, for one
        # 3. The old one is forgotten once nothing of it is left.
        let_go_of_long_lived(served, edge)
        fleet.until(lambda: retired(served), patience=90)
        fleet.until(lambda: len(edge.store.view().bundle.issuers) == 1)
        before = fleet.renewals
        fleet.until(lambda: fleet.renewals >= before + 20)
    assert fleet.failures == []
    assert not (served.folder / "keys/issuer.pem").exists()


def retired(served: Served) -> bool:
    """One attempt to retire, `--now`: refused while a certificate of the old issuer is valid."""
    try:
        KeyDesk(served.folder).rotate("issuer", "retire", at_once=True)
    except StillNeeded:
        time.sleep(1)
        return False
    return True


def test_every_other_key_is_replaced_while_devices_renew(served: Served, tmp_path: Path) -> None:
    edge = Edge(served, tmp_path / "edge")
    with Fleet(served, edge) as fleet:
        fleet.until(lambda: fleet.renewals >= 5)
        # A sealing key is not retired at once: nonces that it sealed a moment ago would be lost, as `--now` says.
        for kind, stages in (("bundle", 3), ("audit", 3), ("token", 3), ("sealing", 1)):
            done = [rotate(served, kind, "--now")["stage"] for _ in range(stages)]
            assert done == ["activate", "retire", "prepare"][:stages]
            before = fleet.renewals
            fleet.until(lambda before=before: fleet.renewals >= before + 5)  # type: ignore[misc]
    assert fleet.failures == []


def test_what_was_done_is_in_the_audit_trail(served: Served) -> None:
    rotate(served, "token", "--now")
    rows = json.loads(attestd(served.folder, "audit", "list", "--json"))
    (row,) = [row for row in rows if row["act"] == "activate-key"]
    assert row["subject"] == "token"
    assert "attestd ca" in row["actor"]
