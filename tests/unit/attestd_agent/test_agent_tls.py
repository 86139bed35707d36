"""The state folder's key and chain in a real mutual-TLS handshake: OpenSSL's tpm2 provider, and no code of ours.

The options of `s_client` are those for a TPM without a resource manager, which holds three objects: digests by the
default provider (first), signatures by the TPM's (`?tpm2.signature=yes`). tpm2-openssl 1.1 then verifies the peer's
ECDSA and RSA signatures in the TPM too, for which three are too few; so the listener's own certificate is Ed25519.
With /dev/tpmrm0 the kernel swaps objects, and any peer will do.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from attestd.protocol.messages import WaitAnswer
from attestd_agent.templates import OWNER, SRK_HANDLE, STORAGE_ROOT
from tests.software_tpm import SoftwareTpm
from tests.unit.attestd_agent.conftest import MakeAgent
from tests.unit.attestd_agent.fake_service import Authority, pem, utc_now


def _why_not() -> str:
    if shutil.which("openssl") is None:
        return "openssl is not installed"
    modules = subprocess.run(["openssl", "version", "-m"], capture_output=True, text=True, check=True).stdout
    found = Path(modules.partition('"')[2].partition('"')[0]) / "tpm2.so"
    return "" if found.exists() else f"tpm2-openssl is not installed: no {found}"


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "-")


class Listener:
    """Takes one connection, wants a client certificate, and remembers it."""

    def __init__(self, authority: Authority, folder: Path, version: ssl.TLSVersion) -> None:
        key = ed25519.Ed25519PrivateKey.generate()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "listener")])
        own = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(utc_now() - timedelta(days=1))
            .not_valid_after(utc_now() + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, None)
        )
        self.certificate, pair = folder / "listener.pem", folder / "pair.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.certificate.write_text(pem(own))
        pair.write_bytes(private + pem(own).encode())
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair)
        self._context.load_verify_locations(cadata=pem(authority.root))
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.minimum_version = self._context.maximum_version = version
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.peer: x509.Certificate | None = None
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        self._socket.settimeout(30)
        try:
            with self._socket, self._socket.accept()[0] as raw:
                raw.settimeout(30)
                with self._context.wrap_socket(raw, server_side=True) as channel:
                    shown = channel.getpeercert(binary_form=True)
                    self.peer = None if shown is None else x509.load_der_x509_certificate(shown)
                    channel.sendall(b"welcome\n")
        except OSError as failure:
            self.failure = failure

    def join(self) -> None:
        self._thread.join(40)


def keep_storage_root(tpm: SoftwareTpm) -> None:
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import ESYS_TR
    from tpm2_pytss.types import TPM2B_PUBLIC, TPM2B_SENSITIVE_CREATE, TPMT_PUBLIC

    with ESAPI(tpm.tcti) as esapi:
        public = TPM2B_PUBLIC(publicArea=TPMT_PUBLIC.unmarshal(STORAGE_ROOT)[0])
        made = esapi.create_primary(TPM2B_SENSITIVE_CREATE(), public, primary_handle=ESYS_TR.OWNER)[0]
        esapi.evict_control(ESYS_TR.OWNER, made, SRK_HANDLE)
        esapi.flush_context(made)


_VERSIONS = [(ssl.TLSVersion.TLSv1_2, OWNER), (ssl.TLSVersion.TLSv1_3, OWNER), (ssl.TLSVersion.TLSv1_3, SRK_HANDLE)]


@pytest.mark.parametrize("case", _VERSIONS, ids=["tls1.2", "tls1.3", "tls1.3-kept-root"])
def test_a_handshake_with_the_tpm_s_key(
    make_agent: MakeAgent,
    blank_tpm: SoftwareTpm,
    authority: Authority,
    tmp_path: Path,
    case: tuple[ssl.TLSVersion, int],
) -> None:
    version, parent = case
    if parent == SRK_HANDLE:
        keep_storage_root(blank_tpm)
    agent = make_agent(blank_tpm, ek="ecc-p256")
    enrolled = agent.enroll()
    assert not isinstance(enrolled, WaitAnswer)
    assert enrolled.ck.parent == parent
    listener = Listener(authority, tmp_path, version)
    command = ["openssl", "s_client", "-provider", "default", "-provider", "tpm2", "-propquery", "?tpm2.signature=yes"]
    command += ["-verify_return_error", "-quiet", "-ign_eof"]
    command += ["-cert", str(agent.state.chain_path), "-cert_chain", str(agent.state.chain_path)]
    command += ["-key", str(agent.state.key_path)]
    command += ["-CAfile", str(listener.certificate), "-connect", f"127.0.0.1:{listener.port}"]
    done = subprocess.run(
        command,
        env={**os.environ, "TPM2OPENSSL_TCTI": blank_tpm.tcti},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    listener.join()
    assert listener.failure is None, done.stderr
    assert done.stdout == "welcome\n", done.stderr
    assert listener.peer == enrolled.leaf
    agent.attest()  # the TPM is ours again, with room in it
