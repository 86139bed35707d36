"""The authorities' certificates: what they say, and each way in which one can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from attestd.ca.authorities import (
    AuthorityExpired,
    AuthorityExpiring,
    Ceremony,
    ChainBroken,
    Lifetimes,
    require_bundle_signer,
    require_in_time,
    require_issuer,
    require_root,
)
from attestd.ca.hierarchy import Hierarchy
from attestd.ca.signer import FileKey, FileSigner, NotAnAuthority, Signer
from attestd.credentials.delegation import BUNDLE_EKU
from attestd.ids import TrustDomain

from .conftest import DOMAIN, LEAF_KEY, NOW, OTHER_KEY, counted

ROOT_KEY = FileKey(ec.derive_private_key(0x2007, ec.SECP256R1()))
CEREMONY = Ceremony(DOMAIN, NOW, Lifetimes(), counted("authorities"))
ROOT = CEREMONY.root(ROOT_KEY)
ISSUER = CEREMONY.issuer(FileKey(LEAF_KEY), ROOT)
BUNDLES = CEREMONY.bundle_signer(FileKey(LEAF_KEY), ROOT)


def extensions(certificate: x509.Certificate) -> dict[x509.ObjectIdentifier, tuple[bool, Any]]:
    return {extension.oid: (extension.critical, extension.value) for extension in certificate.extensions}


def usage(*names: str) -> x509.KeyUsage:
    every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    every += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in names for name in every})


@pytest.mark.parametrize(("signer", "path_length", "days"), [(ROOT, 2, 3650), (ISSUER, 0, 365)], ids=["root", "issuer"])
def test_authorities(signer: Signer, path_length: int, days: int) -> None:
    certificate = signer.certificate
    identifier = x509.SubjectKeyIdentifier.from_public_key(signer.public_key)
    assert extensions(certificate) == {
        ExtensionOID.BASIC_CONSTRAINTS: (True, x509.BasicConstraints(ca=True, path_length=path_length)),
        ExtensionOID.KEY_USAGE: (True, usage("key_cert_sign", "crl_sign")),
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME: (
            False,
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://example.org")]),
        ),
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: (False, identifier),
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: (
            False,
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ROOT.public_key),
        ),
    }
    assert certificate.issuer == ROOT.certificate.subject
    assert certificate.not_valid_before_utc == NOW - timedelta(seconds=60)
    assert certificate.not_valid_after_utc == NOW + timedelta(days=days)
    assert identifier.digest[:4].hex() in certificate.subject.rfc4514_string()


def test_bundle_signers_are_for_bundles_alone() -> None:
    found = extensions(BUNDLES.certificate)
    assert found == {
        ExtensionOID.BASIC_CONSTRAINTS: (True, x509.BasicConstraints(ca=False, path_length=None)),
        ExtensionOID.KEY_USAGE: (True, usage("digital_signature")),
        ExtensionOID.EXTENDED_KEY_USAGE: (True, x509.ExtendedKeyUsage([BUNDLE_EKU])),
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: (False, x509.SubjectKeyIdentifier.from_public_key(LEAF_KEY.public_key())),
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: (
            False,
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ROOT.public_key),
        ),
    }
    assert BUNDLES.certificate.not_valid_after_utc == NOW + timedelta(days=365)


def test_lifetimes_are_configurable() -> None:
    lifetimes = Lifetimes(timedelta(days=9), timedelta(days=3), timedelta(days=2))
    ceremony = Ceremony(DOMAIN, NOW, lifetimes, counted())
    root = ceremony.root(ROOT_KEY)
    made = [root, ceremony.issuer(FileKey(LEAF_KEY), root), ceremony.bundle_signer(FileKey(LEAF_KEY), root)]
    assert [(signer.certificate.not_valid_after_utc - NOW).days for signer in made] == [9, 3, 2]
    assert lifetimes.check() == "issuer 3 d ≤ root 9 d: holds; bundle signer 2 d ≤ root 9 d: holds"


def test_a_long_trust_domain_fits() -> None:
    domain = TrustDomain("x" * 255)
    root = Ceremony(domain, NOW, Lifetimes(), counted()).root(ROOT_KEY)
    assert root.trust_domain == domain


def test_what_was_made_is_accepted() -> None:
    require_root(ROOT.certificate, DOMAIN)
    require_issuer(ISSUER.certificate, ROOT.certificate, DOMAIN)
    require_bundle_signer(BUNDLES.certificate, ROOT.certificate)


# ---- One lie at a time ------------------------------------------------------------------------------------------


def remade(
    signer: FileSigner,
    change: Callable[[dict[type[Any], x509.ExtensionType]], object] = lambda found: None,
    *,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    signed_by: ec.EllipticCurvePrivateKey = ROOT_KEY.key,
) -> x509.Certificate:
    """The same certificate with changed extensions, signed again."""
    model = signer.certificate
    found: dict[type[Any], x509.ExtensionType] = {type(one.value): one.value for one in model.extensions}
    change(found)
    builder = (
        x509.CertificateBuilder()
        .subject_name(model.subject)
        .issuer_name(model.issuer)
        .public_key(signer.public_key if key is None else key.public_key())
        .serial_number(model.serial_number)
        .not_valid_before(model.not_valid_before_utc)
        .not_valid_after(model.not_valid_after_utc)
    )
    for value in found.values():
        builder = builder.add_extension(value, critical=False)
    return builder.sign(signed_by, hashes.SHA256())


def with_(value: Any) -> Callable[[dict[type[Any], Any]], object]:
    return lambda found: found.update({type(value): value})


def without(kind: type[Any]) -> Callable[[dict[type[Any], Any]], object]:
    return lambda found: found.pop(kind)


AUTHORITY_LIES = {
    "no CA": with_(x509.BasicConstraints(ca=False, path_length=None)),
    "no constraints": without(x509.BasicConstraints),
    "may not sign certificates": with_(usage("crl_sign")),
    "no key usage": without(x509.KeyUsage),
    "another trust domain": with_(
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://example.net")])
    ),
}


@pytest.mark.parametrize("lie", [*AUTHORITY_LIES, "too short a path"])
def test_a_root_that_is_wrong_in_one_point(lie: str) -> None:
    change = AUTHORITY_LIES.get(lie, with_(x509.BasicConstraints(ca=True, path_length=0)))
    require_root(remade(ROOT), DOMAIN)
    with pytest.raises(ChainBroken):
        require_root(remade(ROOT, change), DOMAIN)


@pytest.mark.parametrize("lie", [*AUTHORITY_LIES, "too long a path", "any path"])
def test_an_issuer_that_is_wrong_in_one_point(lie: str) -> None:
    length = 1 if lie == "too long a path" else None
    change = AUTHORITY_LIES.get(lie, with_(x509.BasicConstraints(ca=True, path_length=length)))
    require_issuer(remade(ISSUER), ROOT.certificate, DOMAIN)
    with pytest.raises(ChainBroken):
        require_issuer(remade(ISSUER, change), ROOT.certificate, DOMAIN)


def test_an_authority_names_its_trust_domain() -> None:
    with pytest.raises(NotAnAuthority):
        require_issuer(remade(ISSUER, without(x509.SubjectAlternativeName)), ROOT.certificate, DOMAIN)


def test_a_root_may_have_any_path() -> None:
    for length in (None, 1, 2):
        require_root(remade(ROOT, with_(x509.BasicConstraints(ca=True, path_length=length))), DOMAIN)


@pytest.mark.parametrize(
    "key",
    [
        ec.derive_private_key(5, ec.SECP384R1()),
        ec.derive_private_key(5, ec.SECP256K1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "secp256k1", "RSA"],
)
def test_an_authority_with_a_key_of_another_kind_is_refused(key: Any) -> None:
    require_issuer(remade(ISSUER, key=OTHER_KEY), ROOT.certificate, DOMAIN)
    with pytest.raises(ChainBroken, match="another kind"):
        require_issuer(remade(ISSUER, key=key), ROOT.certificate, DOMAIN)


def test_forged_signatures_are_refused() -> None:
    with pytest.raises(ChainBroken, match="was not issued"):
        require_root(remade(ROOT, signed_by=OTHER_KEY), DOMAIN)
    with pytest.raises(ChainBroken, match="was not issued"):
        require_issuer(remade(ISSUER, signed_by=OTHER_KEY), ROOT.certificate, DOMAIN)
    with pytest.raises(ChainBroken, match="was not issued"):
        require_bundle_signer(remade(BUNDLES, signed_by=OTHER_KEY), ROOT.certificate)


@pytest.mark.parametrize(
    "change",
    [
        with_(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])),
        with_(x509.ExtendedKeyUsage([BUNDLE_EKU, ExtendedKeyUsageOID.CLIENT_AUTH])),
        without(x509.ExtendedKeyUsage),
        with_(x509.BasicConstraints(ca=True, path_length=None)),
        without(x509.BasicConstraints),
    ],
    ids=["another purpose", "a purpose more", "no purpose", "a CA", "no constraints"],
)
def test_a_bundle_signer_that_is_wrong_in_one_point(change: Callable[[dict[type[Any], Any]], object]) -> None:
    require_bundle_signer(remade(BUNDLES), ROOT.certificate)
    with pytest.raises(ChainBroken):
        require_bundle_signer(remade(BUNDLES, change), ROOT.certificate)


def test_times(hierarchy: Hierarchy) -> None:
    certificate = hierarchy.issuer.certificate
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    second, last = timedelta(seconds=1), (ends - begins) / 12

    def raised(now: datetime) -> type[Exception] | None:
        try:
            require_in_time(certificate, now)
        except (AuthorityExpired, AuthorityExpiring) as error:
            return type(error)
        return None

    assert raised(begins - second) is AuthorityExpired
    assert raised(begins) is None
    assert raised(ends - last) is None
    assert raised(ends - last + second) is AuthorityExpiring
    assert raised(ends) is AuthorityExpiring
    assert raised(ends + second) is AuthorityExpired
