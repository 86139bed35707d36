"""Other people's software reads what is issued: OpenSSL's command line, curl, Python's ssl."""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestd.ca.certificates import CertificateSpec, IssuedCertificate, issue, nested_validity
from attestd.ca.hierarchy import Hierarchy, create_hierarchy
from attestd.ca.profiles import Profile
from attestd.ca.revocation import build_crl
from attestd.ids import Serial, SpiffeId

from .conftest import DOMAIN, FACTS, LEAF_KEY, Entropy, counted

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

needs_certtool = pytest.mark.skipif(shutil.which("certtool") is None, reason="certtool (gnutls-bin) is not installed")

IDENTITIES = {
    "device": "spiffe://example.org/device/berlin/d1",
    "edge": "spiffe://example.org/edge/berlin/e1",
    "server": "spiffe://example.org/service/attestd",
    "admin": "spiffe://example.org/admin/ada",
    "proxy": "spiffe://example.org/proxy/berlin/p1",
}


@dataclass(frozen=True)
class World:
    """A hierarchy that is valid at this moment, since programs ask the clock, and certificates on disk."""

    folder: Path
    hierarchy: Hierarchy
    profiles: Mapping[str, Profile]
    now: datetime
    entropy: Entropy

    def issue(self, name: str) -> IssuedCertificate:
        """A certificate in `<name>.pem`, its chain in `<name>-chain.pem`, the key of all in `key.pem`."""
        profile = self.profiles[name]
        not_before, not_after = nested_validity(profile, issuer=self.hierarchy.issuer.certificate, now=self.now)
        spec = CertificateSpec(
            public_key=LEAF_KEY.public_key(),
            spiffe_id=SpiffeId.parse(IDENTITIES[name]),
            profile=profile,
            serial=Serial.random(self.entropy(20)),
            not_before=not_before,
            not_after=not_after,
            facts=FACTS if profile.facts else None,
            dns_names=("localhost",) if profile.names else (),
            ip_addresses=(ipaddress.ip_address("127.0.0.1"),) if profile.names else (),
        )
        issued = issue(spec, self.hierarchy.issuer)
        (self.folder / f"{name}.pem").write_text(issued.pem)
        (self.folder / f"{name}-chain.pem").write_text(issued.pem + (self.ca / "issuer.pem").read_text())
        return issued

    @property
    def ca(self) -> Path:
        return self.hierarchy.folder / "ca"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, profiles: Mapping[str, Profile]) -> World:
    folder, now, entropy = tmp_path_factory.mktemp("interop"), datetime.now(UTC), counted("interop")
    hierarchy = create_hierarchy(folder / "instance", DOMAIN, now=now, entropy=entropy)
    pkcs8 = LEAF_KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(pkcs8)
    made = World(folder, hierarchy, profiles, now, entropy)
    for name in IDENTITIES:
        made.issue(name)
    return made


def run(*command: object) -> tuple[int, str]:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout + done.stderr


# ---- OpenSSL ----------------------------------------------------------------------------------------------------


@needs_openssl
@pytest.mark.parametrize(
    ("name", "purpose"),
    [
        ("device", "sslclient"),
        ("edge", "sslclient"),
        ("edge", "sslserver"),
        ("server", "sslserver"),
        ("admin", "sslclient"),
        ("proxy", "sslclient"),
    ],
)
def test_openssl_verifies_the_chain_strictly(world: World, name: str, purpose: str) -> None:
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", world.ca / "root.pem"]
    untrusted = ["-untrusted", world.ca / "issuer.pem"]
    leaf = world.folder / f"{name}.pem"
    assert run(*command, *untrusted, leaf) == (0, f"{leaf}: OK\n")

    code, said = run(*command, leaf)
    assert code != 0, "without the issuing intermediate there is no chain"
    assert "unable to get local issuer" in said


@needs_openssl
def test_openssl_refuses_what_it_should(world: World) -> None:
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-CAfile",
        world.ca / "root.pem",
        "-untrusted",
        world.ca / "issuer.pem",
    ]
    device = world.folder / "device.pem"
    assert run(*command, device)[0] == 0
    assert "unsuitable certificate purpose" in run(*command, "-purpose", "sslserver", device)[1]
    late = int((world.now + timedelta(hours=1, seconds=2)).timestamp())
    assert "certificate has expired" in run(*command, "-attime", late, device)[1]
    early = int((world.now - timedelta(seconds=62)).timestamp())
    assert "not yet valid" in run(*command, "-attime", early, device)[1]


@needs_openssl
def test_openssl_verifies_the_bundle_signers(world: World) -> None:
    for name in ("bundle-1", "bundle-2"):
        assert (
            run("openssl", "verify", "-x509_strict", "-CAfile", world.ca / "root.pem", world.ca / f"{name}.pem")[0] == 0
        )
        code, _ = run(
            "openssl", "verify", "-purpose", "sslclient", "-CAfile", world.ca / "root.pem", world.ca / f"{name}.pem"
        )
        assert code != 0, "a bundle signer is no TLS client"


@needs_openssl
def test_openssl_verifies_the_crl_and_obeys_it(world: World) -> None:
    revoked, standing = world.issue("device"), world.folder / "standing.pem"
    gone = world.folder / "revoked.pem"
    gone.write_text(revoked.pem)
    standing.write_text(world.issue("device").pem)
    der = build_crl(
        [(revoked.serial, int(world.now.timestamp()), "keyCompromise")],
        world.hierarchy.issuer,
        number=1,
        now=world.now - timedelta(seconds=1),
        next_update=world.now + timedelta(hours=1),
    )
    crl = world.folder / "crl"
    crl.with_suffix(".der").write_bytes(der)
    code, said = run(
        "openssl",
        "crl",
        "-inform",
        "DER",
        "-in",
        crl.with_suffix(".der"),
        "-CAfile",
        world.ca / "issuer.pem",
        "-out",
        crl,
    )
    assert code == 0
    assert "verify OK" in said
    _, said = run("openssl", "crl", "-inform", "DER", "-in", crl.with_suffix(".der"), "-CAfile", world.ca / "root.pem")
    assert "verify OK" not in said

    command = ["openssl", "verify", "-x509_strict", "-crl_check", "-CRLfile", crl, "-CAfile", world.ca / "root.pem"]
    command += ["-untrusted", world.ca / "issuer.pem"]
    assert run(*command, standing)[0] == 0
    assert "certificate revoked" in run(*command, gone)[1]


# ---- GnuTLS, and what Go reads ----------------------------------------------------------------------------------

# An arc that does not fit into 31 bits makes the whole certificate unreadable to Go (encoding/asn1's ObjectIdentifier)
# and to GnuTLS (docs/adr/0009-object-ids.md).


def test_no_object_identifier_is_too_large_for_other_readers(world: World) -> None:
    for name in ("device.pem", "server.pem", "instance/ca/issuer.pem", "instance/ca/bundle-1.pem"):
        certificate = x509.load_pem_x509_certificate((world.folder / name).read_bytes())
        oids = [extension.oid for extension in certificate.extensions]
        with contextlib.suppress(x509.ExtensionNotFound):
            oids += certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert all(int(arc) < 1 << 31 for oid in oids for arc in oid.dotted_string.split("."))


@needs_certtool
@pytest.mark.parametrize("name", ["device", "server", "admin", "proxy"])
def test_gnutls_verifies_the_chain(world: World, name: str) -> None:
    chain = world.folder / f"{name}-chain.pem"
    code, said = run("certtool", "--verify", "--load-ca-certificate", world.ca / "root.pem", "--infile", chain)
    assert code == 0, said


# ---- Mutual TLS -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def https_server(world: World, name: str) -> Iterator[tuple[int, list[str]]]:
    """Answers one request a connection; notes each client's URI names, or why there is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(world.folder / f"{name}-chain.pem", world.key)
    context.load_verify_locations(world.ca / "root.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    seen: list[str] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(10)
            try:
                with context.wrap_socket(connection, server_side=True) as tls:
                    tls.recv(4096)
                    certificate = tls.getpeercert() or {}
                    seen.extend(str(value) for kind, value in certificate["subjectAltName"] if kind == "URI")  # type: ignore[misc]
                    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nyes")
            except OSError as error:
                seen.append(type(error).__name__)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1], seen
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def client_context(world: World, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(world.ca / "root.pem"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(world.folder / f"{name}-chain.pem", world.key)
    return context


def ask(world: World, client: str, port: int, host: str) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        client_context(world, client).wrap_socket(plain, server_hostname=host) as tls,
    ):
        tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return tls.recv(4096)


@pytest.mark.parametrize("client", ["device", "edge", "admin", "proxy"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_python_talks_mutual_tls(world: World, client: str, host: str) -> None:
    with https_server(world, "server") as (port, seen):
        assert ask(world, client, port, host).endswith(b"yes")
    assert seen == [IDENTITIES[client]]


def test_python_refuses_another_host_and_a_device_as_server(world: World) -> None:
    with https_server(world, "server") as (port, _), pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        ask(world, "device", port, "example.net")
    with https_server(world, "device") as (port, _), pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        ask(world, "device", port, "localhost")


def test_python_refuses_the_services_certificate_as_client(world: World) -> None:
    with https_server(world, "server") as (port, seen), contextlib.suppress(ssl.SSLError, ConnectionError):
        ask(world, "server", port, "localhost")
    assert IDENTITIES["server"] not in seen


@needs_curl
def test_curl_talks_mutual_tls(world: World) -> None:
    command = ["curl", "-sS", "--noproxy", "*", "--max-time", "10", "--cacert", world.ca / "root.pem"]
    client = ["--cert", world.folder / "device-chain.pem", "--key", world.key]
    with https_server(world, "server") as (port, seen):
        for host in ("localhost", "127.0.0.1"):
            to = ["--resolve", f"localhost:{port}:127.0.0.1", f"https://{host}:{port}/"]
            assert run(*command, *client, *to) == (0, "yes")
        assert seen == [IDENTITIES["device"]] * 2
        code, _ = run(*command, "--resolve", f"localhost:{port}:127.0.0.1", f"https://localhost:{port}/")
        assert code != 0, "without a client certificate there is no answer"
