"""Real parts all the way: swtpm, the agent, `attestd serve` with TLS, OpenSSL's tpm2 provider, an edge."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from attestd.tpm.objects import parse_public
from attestd_agent.assemble import Options, assemble
from attestd_demo.play import Play, Refused
from attestd_demo.software_tpm import Maker, SoftwareTpm
from attestd_demo.story import Story
from attestd_demo.world import World
from attestd_edge.edge import Edge
from tests import ek_ca
from tests.database import database_of_an_instance
from tests.software_tpm import missing_programs

pytestmark = [
    pytest.mark.database,
    pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"),
    pytest.mark.timeout(240),
]
STALE_AFTER = 6.0  # seconds


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory, loggers_as_before: None) -> Iterator[Play]:
    """An instance, its service, an edge and two enrolled devices; bundles go stale within seconds."""
    world = World(tmp_path_factory.mktemp("walk") / "instance")
    play = Play(Story(), world)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in database_of_an_instance().items():
                patch.setenv(name, value)
            play.make_instance()
        with (world.dir / "attestd.toml").open("a") as file:
            file.write(f'\n[bundle]\nstale_after = "{int(STALE_AFTER)}s"\n')
        world.start_service()
        world.permit_tokens()
        world.open_edge()
        play.berlin, play.munich, play.outsider = play.power_on()
        play.trust_maker()
        play.ask_and_join(play.berlin, "berlin")
        play.wait_for_bundle()
        yield play
    finally:
        world.close()


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


# ---- The credential, in other programs' hands -------------------------------------------------------------------


class TlsServer:
    """Asks for a client certificate under the instance's root, and remembers what it was shown."""

    def __init__(self, folder: Path, world: World) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(world.dir / "tls" / "server.pem", world.dir / "tls" / "server.key")
        context.load_verify_locations(world.dir / "ca" / "root.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        self._listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.port = self._listener.getsockname()[1]
        self.shown: list[x509.Certificate] = []
        self.refused: list[str] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except ssl.SSLError as error:
                self.refused.append(str(error))
                continue
            except OSError:
                return
            with connection:
                der = connection.getpeercert(binary_form=True)
                assert der is not None
                self.shown.append(x509.load_der_x509_certificate(der))
                connection.sendall(b"hello\n")

    def close(self) -> None:
        self._listener.close()


# The tpm2 provider verifies the server's signature in the TPM too. A TPM holds three objects at once, so something must
# swap them. On a device the kernel does (/dev/tpmrm0), here the user-space resource manager, on a bus of its own.
_MANAGED = """
tpm2-abrmd --session --allow-root "--tcti=$TCTI" >/dev/null 2>&1 &
manager=$!
for _ in $(seq 100); do
    dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner \\
        string:com.intel.tss2.Tabrmd 2>/dev/null | grep -q true && break
    sleep 0.1
done
"$@" </dev/null
kill $manager
wait $manager
"""


def s_client(play: Play, port: int, *credential: str) -> subprocess.CompletedProcess[str]:
    """`openssl s_client` with these options and the device's TPM behind the tpm2 provider."""
    command = ["openssl", "s_client", "-provider", "default", "-provider", "tpm2", "-propquery", "?tpm2.signature=yes"]
    command += ["-verify_return_error", "-quiet"]
    command += ["-connect", f"127.0.0.1:{port}", "-CAfile", str(play.world.dir / "ca" / "root.pem"), *credential]
    return beside_the_tpm(play, *command)


def beside_the_tpm(play: Play, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program whose OpenSSL reaches the device's TPM by the tpm2 provider."""
    reached = {"TCTI": play.berlin.tpm.tcti, "TPM2OPENSSL_TCTI": "tabrmd:bus_type=session"}
    return subprocess.run(
        ["dbus-run-session", "--", "sh", "-c", _MANAGED, "sh", *command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | reached | environment,
        timeout=60,
    )


@pytest.fixture
def tls_server(tmp_path: Path, play: Play) -> Iterator[TlsServer]:
    server = TlsServer(tmp_path, play.world)
    yield server
    server.close()


def missing_for_openssl() -> list[str]:
    """What OpenSSL lacks to use the TPM's key, by Debian's names."""
    told = subprocess.run(["openssl", "version", "-m"], capture_output=True, text=True, check=False).stdout
    provider = "MODULESDIR" in told and (Path(told.split('"')[1]) / "tpm2.so").exists()
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    programs = {"tpm2-abrmd": "tpm2-abrmd", "dbus-run-session": "dbus"}
    absent = [package for program, package in programs.items() if shutil.which(program, path=path) is None]
    return absent if provider else ["tpm2-openssl", *absent]


needs_openssl = pytest.mark.skipif(
    bool(missing_for_openssl()), reason=f"not installed: {', '.join(missing_for_openssl())}"
)


@needs_openssl
def test_openssl_makes_a_mutual_tls_handshake_with_the_tpms_key(play: Play, tls_server: TlsServer) -> None:
    session = play.berlin.session
    chain, key = str(session.chain_path), str(session.key_path)
    done = s_client(play, tls_server.port, "-cert", chain, "-cert_chain", chain, "-key", key)
    assert done.stdout == "hello\n", done.stderr
    (shown,) = tls_server.shown
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [session.enrolled.record.spiffe_id]


_IN_PYTHON = """
import socket, ssl, sys
chain, key, root, port = sys.argv[1:]
context = ssl.create_default_context(cafile=root)
context.load_cert_chain(chain, keyfile=key)
with context.wrap_socket(socket.create_connection(("127.0.0.1", int(port))), server_hostname="127.0.0.1") as connection:
    print(connection.recv(100).decode(), end="")
"""


@needs_openssl
def test_a_python_program_does_so_too_by_the_shipped_settings(play: Play, tls_server: TlsServer) -> None:
    session, root = play.berlin.session, play.world.dir / "ca" / "root.pem"
    command = [sys.executable, "-c", _IN_PYTHON, str(session.chain_path), str(session.key_path), str(root)]
    settings = Path(__file__).resolve().parents[2] / "deploy" / "openssl" / "tpm2.cnf"
    done = beside_the_tpm(play, *command, str(tls_server.port), OPENSSL_CONF=str(settings))
    assert done.stdout == "hello\n", done.stderr
    assert len(tls_server.shown) == 1


@needs_openssl
def test_the_certificate_is_worthless_with_another_key(play: Play, tls_server: TlsServer, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(pem_of(ec.generate_private_key(ec.SECP256R1())))
    chain = str(play.berlin.session.chain_path)
    done = s_client(play, tls_server.port, "-cert", chain, "-cert_chain", chain, "-key", str(key))
    assert done.stdout == ""
    assert tls_server.shown == []


def test_openssl_verifies_chain_and_crl(play: Play, tmp_path: Path) -> None:
    assert play.openssl() == "openssl verify: OK"
    world = play.world
    context = ssl.create_default_context(cafile=str(world.dir / "ca" / "root.pem"))
    crl = tmp_path / "crl.der"
    crl.write_bytes(httpx.get(f"{world.url}/v1/crl", verify=context).content)
    command = [
        "openssl",
        "crl",
        "-inform",
        "DER",
        "-in",
        str(crl),
        "-noout",
        "-CAfile",
        str(world.dir / "ca/issuer.pem"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "verify OK" in done.stderr


# ---- Ways in ----------------------------------------------------------------------------------------------------


def test_the_root_may_be_pinned_by_its_fingerprint(play: Play, tmp_path: Path) -> None:
    root = x509.load_pem_x509_certificate((play.world.dir / "ca" / "root.pem").read_bytes())
    pin = f"sha256:{root.fingerprint(hashes.SHA256()).hex()}"
    agent = assemble(Options(tmp_path / "a", play.munich.tpm.tcti, play.world.url, pin))
    assert agent.enroll() is not None
    wrong = "sha256:" + "00" * 32
    with pytest.raises(Exception, match=r"fingerprint|pinned|root"):
        assemble(Options(tmp_path / "b", play.munich.tpm.tcti, play.world.url, wrong))


def test_a_p256_ek_that_is_created_with_a_certificate_from_a_file(play: Play, tmp_path: Path) -> None:
    """No TPM maker here issues P-256 EK certificates (swtpm_setup makes RSA and P-384), so this test is the maker."""
    maker = ek_ca.maker("P-256 Maker")
    roots = tmp_path / "maker.pem"
    roots.write_text(ssl.DER_cert_to_PEM_cert(maker.root.certificate))
    play.world.attestd("trust", "add", str(roots))
    state = tmp_path / "tpm"
    Maker(tmp_path / "swtpm-maker").make(state)
    tpm = SoftwareTpm(state)
    try:
        options = Options(tmp_path / "agent", tpm.tcti, play.world.url, str(play.world.dir / "ca" / "root.pem"))
        area = assemble(options).device.endorsement(kind="ecc-p256").public  # created: nothing persistent
        certificates = tmp_path / "ek.pem"
        chain = maker.chain(maker.intermediate.ek_certificate(parse_public(area).key))
        certificates.write_text("".join(map(ssl.DER_cert_to_PEM_cert, chain)))
        words = ("--tcti", tpm.tcti, "--state-dir", str(tmp_path / "agent"), "--server", play.world.url)
        words += ("--ca", str(play.world.dir / "ca" / "root.pem"), "--ek", "ecc-p256", "--ek-cert", str(certificates))
        done = _agent("enroll", *words, "--json")
        assert (done.returncode, json.loads(done.stdout)["state"]) == (4, "pending"), done.stderr
        (waiting,) = [
            d for d in play.world.asked("devices", "list") if d["state"] == "pending" and d["model"] != "swtpm"
        ]
        play.world.attestd("devices", "approve", waiting["id"], "--tier", "edge", "--site", "berlin")
        done = _agent("enroll", *words, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["spiffe_id"].startswith("spiffe://demo.example/edge/berlin/")
    finally:
        tpm.close()


def test_the_inventory_lets_a_tpm_without_certificate_in(play: Play, tmp_path: Path) -> None:
    state = tmp_path / "tpm"
    state.mkdir()
    tpm = SoftwareTpm(state)  # nobody manufactured it: no EK certificate
    try:
        shown = json.loads(_agent("evidence", "--tcti", tpm.tcti, "--json").stdout)
        assert shown["certificates"] == []
        inventory = tmp_path / "inventory.jsonl"
        entry = {
            "ek_hash": shown["ek_hash"],
            "tier": "cloud",
            "site": "fra",
            "id": "vm-7",
            "labels": {"ring": "canary"},
        }
        inventory.write_text(json.dumps(entry) + "\n")
        play.world.attestd("devices", "import", str(inventory))
        root = str(play.world.dir / "ca" / "root.pem")
        words = ("--tcti", tpm.tcti, "--state-dir", str(tmp_path / "agent"), "--server", play.world.url, "--ca", root)
        done = _agent("enroll", *words, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        said = json.loads(done.stdout)
        assert said["spiffe_id"] == "spiffe://demo.example/cloud/fra/vm-7"
        assert said["result"]["vector"]["hardware"] == 0
    finally:
        tpm.close()


def test_a_device_may_call_the_service_by_another_of_its_names(play: Play, tmp_path: Path) -> None:
    url = play.world.url.replace("127.0.0.1", "localhost")
    agent = assemble(Options(tmp_path / "a", play.berlin.tpm.tcti, url, str(play.world.dir / "ca" / "root.pem")))
    enrolled = agent.enroll()
    assert agent.renew() != enrolled
    play.berlin.agent.enroll()  # the other tests go on with the first agent's keys


# ---- The edge without its service -------------------------------------------------------------------------------


def test_the_edge_goes_on_without_the_service_until_its_bundle_is_stale_and_then_says_so(play: Play) -> None:
    world = play.world
    assert play.request(play.berlin).startswith("200")
    assert world.service is not None
    world.service.terminate()
    world.service.wait(30)
    cut_off = time.monotonic()
    assert play.request(play.berlin).startswith("200"), "cut off, and its bundle is fresh"
    # It survives its own restart while cut off: the bundle is on disk.
    restarted = Edge.from_file(world.props / "edge" / "edge.toml")
    assert restarted.readiness() == (True, "ready")
    while time.monotonic() - cut_off < STALE_AFTER + 2:
        time.sleep(0.2)
    with pytest.raises(Refused) as refused:
        play.request(play.berlin)
    assert refused.value.problem == "urn:attestd:problem:bundle-stale"
    assert "stale since" in refused.value.detail
    assert not restarted.readiness()[0]
    # The service comes back, and so does the edge.
    world.start_service()
    deadline = time.monotonic() + 20
    while True:
        try:
            assert play.request(play.berlin).startswith("200")
            break
        except Refused:
            assert time.monotonic() < deadline, world.upstream and world.upstream.edge.status()
            time.sleep(0.2)


# ---- What runs where --------------------------------------------------------------------------------------------


def test_the_service_runs_without_the_tpm_library() -> None:
    code = (
        "import sys; sys.modules['tpm2_pytss'] = None\nimport attestd.cli.worker, attestd.cli.serve, attestd.cli.main"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _agent(*words: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / "attestd-agent")
    return subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=60)
