"""Keys that sign: they are their certificate's, of the right kind, and never shown."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from attestd.ca.hierarchy import Hierarchy
from attestd.ca.keyfiles import KeyFileExposed, KeyFileMissing, KeyFileUnreadable
from attestd.ca.signer import (
    CertificateFileMalformed,
    FileSigner,
    KeyFileMalformed,
    KeyMismatch,
    NotAnAuthority,
    authority_domain,
    load_certificate,
    load_key,
)
from attestd.credentials.jws import SignatureWrong, verify_es256

from .conftest import DOMAIN, LEAF_KEY, NOW, OTHER_KEY


def pem(key: PrivateKeyTypes, password: bytes | None = None) -> bytes:
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def test_a_key_with_its_certificate(instance: Path) -> None:
    signer = FileSigner.load(instance / "keys/issuer.pem", instance / "ca/issuer.pem")
    assert signer.certificate == load_certificate(instance / "ca/issuer.pem")
    assert signer.subject == signer.certificate.subject.public_bytes()
    assert signer.trust_domain == DOMAIN
    verify_es256(signer.public_key, signature=signer.sign(b"data"), message=b"data")
    with pytest.raises(SignatureWrong):
        verify_es256(signer.public_key, signature=signer.sign(b"data"), message=b"other data")


def test_a_key_of_another_certificate_is_refused(instance: Path) -> None:
    with pytest.raises(KeyMismatch, match=r"keys/root\.pem.*ca/issuer\.pem"):
        FileSigner.load(instance / "keys/root.pem", instance / "ca/issuer.pem")


def test_an_exposed_key_is_refused(instance: Path) -> None:
    (instance / "keys/issuer.pem").chmod(0o644)
    with pytest.raises(KeyFileExposed):
        FileSigner.load(instance / "keys/issuer.pem", instance / "ca/issuer.pem")


def test_a_p256_key_is_read(tmp_path: Path) -> None:
    assert load_key(put(tmp_path / "key", pem(LEAF_KEY))).private_numbers() == LEAF_KEY.private_numbers()


@pytest.mark.parametrize(
    "data",
    [
        pem(ec.derive_private_key(5, ec.SECP384R1())),
        pem(ed25519.Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)),
        pem(rsa.generate_private_key(65537, 2048)),
        pem(LEAF_KEY)[:60],
        b"",
        b"\xff" * 100,
    ],
    ids=["P-384", "Ed25519", "RSA", "cut off", "empty", "no text"],
)
def test_what_is_no_p256_key_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(KeyFileMalformed):
        load_key(put(tmp_path / "key", data))


def test_a_certificate_file_holds_one_certificate(instance: Path) -> None:
    path = instance / "ca/issuer.pem"
    good = path.read_bytes()
    for data, said in ((good + good, "several"), (good[:100], "can't be read"), (b"", "can't be read")):
        path.write_bytes(data)
        with pytest.raises(CertificateFileMalformed, match=said):
            load_certificate(path)
    path.write_bytes(b"x" * (16 * 1024 + 1))
    with pytest.raises(KeyFileUnreadable, match="too large"):
        load_certificate(path)
    path.unlink()
    with pytest.raises(KeyFileMissing):
        load_certificate(path)


def authority(*names: x509.GeneralName) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(OTHER_KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(OTHER_KEY, hashes.SHA256())


def test_the_trust_domain_is_the_one_name() -> None:
    uri = x509.UniformResourceIdentifier
    assert authority_domain(authority(uri("spiffe://example.org"))) == "example.org"
    for names in (
        (),
        (x509.DNSName("example.org"),),
        (uri("https://example.org"),),
        (uri("spiffe://example.org/path"),),
        (uri("spiffe://Example.org"),),
        (uri("spiffe://example.org"), uri("spiffe://example.net")),
    ):
        with pytest.raises(NotAnAuthority):
            authority_domain(authority(*names))


def test_no_key_is_shown(hierarchy: Hierarchy) -> None:
    signer, token_key = hierarchy.issuer, hierarchy.token_key
    key = load_key(hierarchy.folder / "keys/issuer.pem")
    shown = f"{signer!r} {signer} {token_key!r} {token_key} {hierarchy!r} {hierarchy} {vars(signer)} {key!r}"
    assert "attestd issuer" in shown
    assert token_key.kid in shown
    for name in ("issuer", "root", "bundle-1", "token-1", "token-2"):
        secret = load_key(hierarchy.folder / f"keys/{name}.pem").private_numbers().private_value
        octets = secret.to_bytes(32, "big")
        for form in (str(secret), octets.hex(), repr(octets)[2:-1], base64.b64encode(octets).decode()[:42]):
            assert form not in shown
    assert "PRIVATE KEY" not in shown
