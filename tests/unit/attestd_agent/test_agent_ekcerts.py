"""EK certificates out of NV areas and files: header, padding, several, odd ones, and octets that are none."""

from __future__ import annotations

import base64
import os
import random
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from attestd_agent.ekcerts import NotACertificate, names_key, read_certificate_file, split_certificates
from tests.unit.attestd_agent.fake_service import der, pem
from tests.unit.attestd_agent.keysmith import authority

ONE, TWO = der(authority().root), der(authority().issuer)
VECTORS = Path(os.environ.get("ATTESTD_VECTORS", Path(__file__).parents[4] / "shared" / "vectors"))


def test_a_certificate_alone() -> None:
    assert split_certificates(ONE) == (ONE,)


@pytest.mark.parametrize(
    "padding", [b"\0" * 300, b"\xff" * 300, b"\x30\x00" * 20, b"\x30\x82\xff\xff", b"\x30\x80\0\0"]
)
def test_padding_is_cut(padding: bytes) -> None:
    assert split_certificates(ONE + padding) == (ONE,)


def test_several_are_split() -> None:
    assert split_certificates(ONE + TWO + b"\0" * 9) == (ONE, TWO)


def test_the_header_of_older_dumps_is_cut() -> None:
    header = bytes.fromhex("100100") + (len(ONE) + 2).to_bytes(2, "big") + bytes.fromhex("1002")
    assert split_certificates(header + ONE + b"\0" * 5) == (ONE,)


@pytest.mark.parametrize(
    "data", [b"", b"\x30", b"\x30\x82", ONE[:-1], b"\0" * 64, b"\xff" * 64, b"\x30\x84\x7f\xff\xff\xff"]
)
def test_what_is_none_gives_none(data: bytes) -> None:
    assert split_certificates(data) == ()


def test_random_octets_end() -> None:
    chance = random.Random(7)
    for _ in range(2000):
        for found in split_certificates(b"\x30" + chance.randbytes(chance.randrange(80))):
            assert found.startswith(b"\x30")


def test_too_large_ones_are_left_out() -> None:
    large = b"\x30\x82\x40\x00" + b"\x30\x82" + bytes(0x4000 - 2)
    assert split_certificates(large + ONE) == (ONE,)


# ---- Files ----------------------------------------------------------------------------------------------------------


def test_a_der_file() -> None:
    assert read_certificate_file(ONE) == (ONE,)


def test_a_pem_file_with_issuers() -> None:
    text = "some words\n" + pem(authority().root, authority().issuer)
    assert read_certificate_file(text.encode()) == (ONE, TWO)
    assert read_certificate_file(text.replace("\n", "\r\n").encode()) == (ONE, TWO)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        ONE + b"\0" * 300_000,
    ],
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(NotACertificate):
        read_certificate_file(data)


# ---- Which key ------------------------------------------------------------------------------------------------------


def test_names_the_key_that_is_in_it() -> None:
    numbers = authority().root_key.public_key().public_numbers()
    assert names_key(ONE, numbers.x.to_bytes(32, "big"))
    assert not names_key(TWO, numbers.x.to_bytes(32, "big"))
    assert not names_key(ONE, b"")


@pytest.mark.skipif(not VECTORS.is_dir(), reason=f"the shared vectors are not at {VECTORS}")
def test_real_makers_certificates_are_found_whole() -> None:
    checked = 0
    for path in sorted((VECTORS / "ek-certs").glob("*")):
        data = path.read_bytes()
        found = read_certificate_file(data)
        assert len(found) == 1, path.name
        try:
            x509.load_der_x509_certificate(found[0]).public_key()
        except (ValueError, UnsupportedAlgorithm):
            continue  # odd; the service's affair
        if b"BEGIN" in data:
            assert base64.b64encode(found[0])[:40] in data.replace(b"\r", b"").replace(b"\n", b"")
        checked += 1
    assert checked > 5
