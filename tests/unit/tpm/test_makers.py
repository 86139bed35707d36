"""What people are shown before they trust a maker, and how certificates come out of files."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestd.tpm.der import MalformedCertificate
from attestd.tpm.makers import MAX_FILE, CertificateFileTooLarge, certificates_in, describe_certificate
from attestd.tpm.vouching import BadCertificateSignature
from tests import ek_ca as ca

ROOT, MIDDLE = ca.maker().root, ca.maker().intermediate
LEAF = MIDDLE.ek_certificate(ca.ec_key("makers").public_key())


def test_a_root_is_described() -> None:
    found = describe_certificate(ROOT.certificate + b"\xff", now=ca.NOW)
    assert found.kind == "root"
    assert found.der == ROOT.certificate
    assert found.sha256 == hashlib.sha256(ROOT.certificate).digest()
    assert found.subject == found.issuer == "O=Test Maker, CN=Maker Root"
    assert (found.not_before, found.not_after, found.expired) == (ca.START, ca.END, False)
    assert found.quirks == ("padded",)


def test_intermediates_and_leaves_are_told_apart() -> None:
    assert describe_certificate(MIDDLE.certificate, now=ca.NOW).kind == "intermediate"
    assert describe_certificate(LEAF, now=ca.NOW).kind == "leaf"
    not_a_ca = ROOT.form(ROOT).with_extension(ca.basic_constraints(False)).sign(ROOT.key)
    assert describe_certificate(not_a_ca, now=ca.NOW).kind == "leaf"


def test_a_ca_that_certifies_its_own_next_key_is_no_root() -> None:
    next_key = replace(ROOT, key=ca.ec_key("next")).certified_by(ROOT).certificate
    assert describe_certificate(next_key, now=ca.NOW).kind == "intermediate"


def test_a_root_without_key_identifiers_is_a_root() -> None:
    plain = ROOT.form(ROOT).without("2.5.29.14").without("2.5.29.35").sign(ROOT.key)
    assert describe_certificate(plain, now=ca.NOW).kind == "root"


def test_an_old_root_signed_over_sha1_is_a_root() -> None:
    old = ca.MakerCa("Old", ca.rsa_key("old")).self_signed(digest="sha1")
    assert describe_certificate(old.certificate, now=ca.NOW).kind == "root"


def test_a_root_that_did_not_sign_itself_is_refused() -> None:
    with pytest.raises(BadCertificateSignature):
        describe_certificate(ROOT.form(ROOT).sign(ROOT.key, spoil=True), now=ca.NOW)


def test_expiry_is_shown() -> None:
    assert not describe_certificate(ROOT.certificate, now=ca.END).expired
    assert describe_certificate(ROOT.certificate, now=ca.END + timedelta(seconds=1)).expired


# ---- Files ------------------------------------------------------------------------------------------------------


def pem(der: bytes, newline: str = "\n") -> bytes:
    text = base64.encodebytes(der).decode().strip().replace("\n", newline)
    return f"-----BEGIN CERTIFICATE-----{newline}{text}{newline}-----END CERTIFICATE-----{newline}".encode()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_certificates_are_found_in_pem(newline: str) -> None:
    file = b"# the maker's\n" + pem(ROOT.certificate, newline) + b"subject=...\n" + pem(MIDDLE.certificate, newline)
    assert certificates_in(file) == (ROOT.certificate, MIDDLE.certificate)


def test_certificates_are_found_in_der() -> None:
    assert certificates_in(ROOT.certificate) == (ROOT.certificate,)
    both = (ROOT.certificate, MIDDLE.certificate)
    assert certificates_in(b"".join(both) + b"\xff\xff") == both


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello", id="text"),
        pytest.param(ROOT.certificate[:-1], id="cut DER"),
        pytest.param(pem(ROOT.certificate)[:-30], id="cut PEM"),
        pytest.param(pem(ROOT.certificate).split(b"-----END")[0], id="PEM without its end"),
        pytest.param(b"-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n", id="no base64"),
        pytest.param(pem(ROOT.certificate) + pem(MIDDLE.certificate)[:-30], id="a second block that is cut"),
    ],
)
def test_files_without_whole_certificates_are_refused(file: bytes) -> None:
    with pytest.raises(MalformedCertificate):
        certificates_in(file)


def test_the_size_of_a_file_is_bounded() -> None:
    assert certificates_in(ROOT.certificate + bytes(MAX_FILE - len(ROOT.certificate))) == (ROOT.certificate,)
    with pytest.raises(CertificateFileTooLarge):
        certificates_in(ROOT.certificate + bytes(MAX_FILE - len(ROOT.certificate) + 1))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_octets_never_raise_anything_else(octets: bytes) -> None:
    for file in (octets, pem(octets), b"\x30" + octets):
        try:
            for der in certificates_in(file):
                describe_certificate(der, now=ca.NOW)
        except MalformedCertificate:
            pass
