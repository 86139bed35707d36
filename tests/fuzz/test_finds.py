"""What the fuzzers found, each with the smallest input: it is refused by a named error now."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from attestd.ca.signer import CertificateFileMalformed, load_certificate
from attestd.cli.api import CredentialUnusable, pinned_root
from attestd.credentials.requests import SoftwareKey, UnusableKey
from attestd.operations.certifying import UnusablePublicKey, read_public_key
from attestd_agent.transport import RootMalformed, read_roots
from attestd_edge.identity import ProxyIdentity, ProxyIdentityWrong, read_certificates
from tests import authority as a
from tests.service import World, problem

KEY = SoftwareKey(a.LEAF_KEY)
P256, P521_V1 = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d031107")


def pem(label: str, der: bytes) -> bytes:
    return f"-----BEGIN {label}-----\n{b64encode(der).decode()}\n-----END {label}-----\n".encode()


def of_unknown_curve() -> tuple[bytes, bytes]:
    """A private and a public key on a curve that nobody knows."""
    key = ec.derive_private_key(7, ec.SECP256R1())
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()).replace(P256, P521_V1)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).replace(P256, P521_V1)
    return pem("PRIVATE KEY", private), pem("PUBLIC KEY", public)


def of_version_9() -> bytes:
    """A certificate of an X.509 version that there is not."""
    der = a.leaf()
    changed = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x08", 1)
    assert changed != der
    return pem("CERTIFICATE", changed)


def of_unknown_key() -> bytes:
    """A certificate for a key on a curve that nobody knows."""
    return pem("CERTIFICATE", a.leaf().replace(P256, P521_V1, 1))


def test_a_private_key_of_an_unknown_kind() -> None:
    with pytest.raises(UnusableKey):
        SoftwareKey.from_pem(of_unknown_curve()[0])


def test_a_public_key_of_an_unknown_kind(world: World) -> None:
    """It was an internal error of POST /v1/admin/proxies."""
    public = of_unknown_curve()[1].decode()
    with pytest.raises(UnusablePublicKey):
        read_public_key(public)
    message = {"v": 1, "name": "till-7", "site": "shop-1", "public_key": public}
    answer = world.admin.post("/v1/admin/proxies", message)
    assert (answer.status_code, problem(answer)) == (400, "unusable-public-key")


@pytest.mark.parametrize(
    ("read", "refusal"),
    [
        (lambda data: read_certificates(data, where="proxy.pem"), ProxyIdentityWrong),
        (read_roots, RootMalformed),
        (lambda data: pinned_root(data, key=KEY, now=a.NOW), CredentialUnusable),
    ],
    ids=["an edge's own", "an agent's roots", "an operator's"],
)
def test_a_certificate_of_an_unknown_version(read: Callable[[bytes], object], refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        read(of_version_9())


def test_an_authority_s_certificate_of_an_unknown_version(tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_bytes(of_version_9())
    with pytest.raises(CertificateFileMalformed):
        load_certificate(tmp_path / "root.pem")


def test_a_proxy_s_certificate_for_a_key_of_an_unknown_kind() -> None:
    with pytest.raises(ProxyIdentityWrong, match="not for its key"):
        ProxyIdentity.of(KEY, read_certificates(of_unknown_key(), where="proxy.pem"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "instance")
