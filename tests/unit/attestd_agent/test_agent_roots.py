"""An agent follows its service's root: by the pinned root's word, on the disk first, over TLS all the while."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.authorities import Lifetimes
from attestd.ca.certificates import CertificateSpec, issue
from attestd.ca.hierarchy import Hierarchy, create_hierarchy
from attestd.ca.profiles import load_profiles
from attestd.ca.rollover import Rollover
from attestd.ca.rotation import Pace, Rotation
from attestd.ca.unlocking import NOTHING
from attestd.ids import Serial, SpiffeId, TrustDomain
from attestd.issuance.grants import pem_chain
from attestd_agent.agent import Agent
from attestd_agent.assemble import _roots
from attestd_agent.clock import DeviceClock
from attestd_agent.server import Server
from attestd_agent.state import StateBroken, StateDir
from attestd_agent.transport import ServerNotTrusted, Transport, read_roots

DOMAIN = TrustDomain("example.org")
START = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)


class House:
    """A service's authority, its TLS certificate and its /v1/root, on a real socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = START
        self.keys = create_hierarchy(folder, DOMAIN, now=START, entropy=os.urandom)
        self.first = self.pem(self.keys.root)

    @staticmethod
    def pem(*certificates: x509.Certificate) -> bytes:
        return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)

    @property
    def published(self) -> bytes:
        return self.pem(*self.keys.roots, *self.keys.crosses)

    def roll(self, *, rotate: bool = False) -> None:
        self.now += timedelta(hours=1)
        rollover = Rollover(self.folder, NOTHING, Lifetimes(), Pace(60, 60), self.now, os.urandom)
        rollover.do(*rollover.plan(None, at_once=False))
        for kind in ("issuers", "bundle_signers", "audit_signers") if rotate else ():
            for _ in range(3 if kind == "issuers" else 5):
                self.now += timedelta(minutes=10)
                said = (lambda kind: Pace(60, 60), lambda entry: None, self.now, os.urandom)
                rotation = Rotation(self.folder, NOTHING, Lifetimes(), *said)
                rotation.do(kind, *rotation.plan(kind, None, at_once=False))  # type: ignore[arg-type]
        assert self.keys.refresh()

    def replace_the_root(self) -> None:
        self.roll()
        self.roll(rotate=True)
        self.roll()

    def certificate(self) -> tuple[bytes, str]:
        """A TLS key, and its chain as the service serves it."""
        key = ec.generate_private_key(ec.SECP256R1())
        start = datetime.now(UTC).replace(microsecond=0)
        spec = CertificateSpec(
            public_key=key.public_key(),
            spiffe_id=SpiffeId.of_service(DOMAIN),
            profile=load_profiles()["server"],
            serial=Serial.random(os.urandom(20)),
            not_before=start - timedelta(seconds=60),
            not_after=start + timedelta(hours=1),
            dns_names=("localhost",),
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return pem, pem_chain(issue(spec, self.keys.issuer), self.keys)

    @contextmanager
    def serving(self) -> Iterator[str]:
        house = self

        class Door(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = house.published
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        key, chain = self.certificate()
        (self.folder / "tls.pem").write_bytes(key + chain.encode())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "tls.pem")
        server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"https://localhost:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "service")


@pytest.fixture
def state(tmp_path: Path, house: House) -> StateDir:
    found = StateDir(tmp_path / "state")
    with found.exclusive():
        found.save_roots(house.first)
    return found


def agent(state: StateDir, url: str) -> Agent:
    clock = DeviceClock(system=lambda: datetime.now(UTC), boot=lambda: 0.0, floor=START)
    pinned = state.roots()
    assert pinned is not None
    server = Server(Transport(url, pinned, clock, limit=10.0), pinned, entropy=os.urandom)
    return Agent(state=state, device=cast("Any", None), server=server, clock=clock, random=lambda: 0.5)


def renewed(state: StateDir, house: House) -> None:
    """What an act does with its answer, as far as roots go; with a chain of today."""
    with house.serving() as url:
        agent(state, url)._follow_roots(cast("Any", SimpleNamespace(chain=house.certificate()[1])))


def pinned(state: StateDir) -> set[bytes]:
    return set(read_roots(state.roots() or b""))


def roots_of(keys: Hierarchy) -> set[bytes]:
    return {root.public_bytes(serialization.Encoding.DER) for root in keys.roots}


def test_without_a_rollover_nothing_is_asked(state: StateDir, house: House) -> None:
    agent(state, "https://localhost:1")._follow_roots(cast("Any", SimpleNamespace(chain=house.certificate()[1])))
    assert pinned(state) == roots_of(house.keys)


def test_it_follows_once_its_chain_leads_elsewhere(state: StateDir, house: House) -> None:
    house.roll()
    renewed(state, house)
    assert read_roots(house.first) == tuple(pinned(state))  # nothing hangs under the new root yet
    house.roll(rotate=True)
    renewed(state, house)
    assert pinned(state) == roots_of(house.keys)
    assert len(pinned(state)) == 2
    house.roll()
    renewed(state, house)
    assert pinned(state) == roots_of(house.keys)
    assert len(pinned(state)) == 1


def test_an_agent_that_slept_through_all_of_it_follows_over_tls(state: StateDir, house: House) -> None:
    house.replace_the_root()
    renewed(state, house)
    assert pinned(state) == roots_of(house.keys)


def test_who_knows_the_new_root_alone_is_served_before_anything_hangs_under_it(state: StateDir, house: House) -> None:
    house.roll()
    with state.exclusive():
        state.save_roots(house.pem(house.keys.roots[1]))
    with house.serving() as url:
        assert agent(state, url).server.published_roots()


def test_a_retired_root_is_never_followed_again(state: StateDir, house: House, tmp_path: Path) -> None:
    """Not by its thief, with all that was ever published; nor by the option of the first day."""
    house.replace_the_root()
    renewed(state, house)
    after = pinned(state)
    withdrawn = house.pem(*house.keys.keys.withdrawn, *house.keys.keys.retired)
    thief = SimpleNamespace(
        roots=tuple(after), published_roots=lambda: read_roots(withdrawn + house.published), trust=lambda roots: None
    )
    mine = agent(state, "https://localhost:1")
    mine.server = cast("Any", thief)
    mine._follow_roots(cast("Any", SimpleNamespace(chain=house.certificate()[1] + house.published.decode())))
    assert pinned(state) == after
    first = tmp_path / "first.pem"
    first.write_bytes(house.first)
    fingerprint = sha256(read_roots(house.first)[0]).hexdigest()
    for said in (str(first), f"sha256:{fingerprint}", None):
        assert set(read_roots(_roots(said, state, "https://localhost:1"))) == after


def test_another_root_by_option_begins_anew(state: StateDir, house: House, tmp_path: Path) -> None:
    house.replace_the_root()
    renewed(state, house)
    other = House(tmp_path / "other")
    named = tmp_path / "other.pem"
    named.write_bytes(other.first)
    chosen = _roots(str(named), state, "https://localhost:1")
    assert read_roots(chosen) == read_roots(other.first)
    with state.exclusive():
        state.save_roots(chosen)
    assert state.roots_origin() == frozenset()


def test_a_stranger_is_not_followed(state: StateDir, house: House, tmp_path: Path) -> None:
    stranger = House(tmp_path / "stranger")
    stranger.roll()
    before = pinned(state)
    with stranger.serving() as url, pytest.raises(ServerNotTrusted):
        agent(state, url)._follow_roots(cast("Any", SimpleNamespace(chain=stranger.certificate()[1])))
    assert pinned(state) == before


def test_a_damaged_record_is_named(state: StateDir, house: House) -> None:
    house.replace_the_root()
    renewed(state, house)
    (state.path / "root-origin.json").write_text("{")
    with pytest.raises(StateBroken):
        state.roots_origin()
