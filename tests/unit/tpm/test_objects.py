"""Public areas and signatures: every field that is read, and every lie that a field can tell."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import MalformedInput
from attestd.tpm.objects import (
    HASHES,
    Alg,
    Attributes,
    ReservedBitsSet,
    Symmetric,
    UnknownTpmAlgorithm,
    UnusableTpmKey,
    parse_public,
    parse_signature,
)
from attestd.tpm.wire import MalformedTpmStructure
from tests import forger as f
from tests.forger import forge_ck, forge_ek, forge_key, new_private_key, tpm2b, write_public

EC_KEY = ec.derive_private_key(0x1234567, ec.SECP256R1())
P384_KEY = ec.derive_private_key(0x1234567, ec.SECP384R1())
P521_KEY = ec.derive_private_key(0x1234567, ec.SECP521R1())


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    key = new_private_key("rsa2048")
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _modulus(key: rsa.RSAPrivateKey) -> int:
    return key.public_key().public_numbers().n


# ---- TPMT_PUBLIC: the truth -------------------------------------------------------------------------------------


def test_an_attestation_key_is_read_in_every_field() -> None:
    key = forge_key(private=EC_KEY, auth_policy=b"p" * 32)
    public = parse_public(key.public)
    assert (public.type, public.name_alg.name, public.auth_policy) == (Alg.ECC, "sha256", b"p" * 32)
    assert public.attributes == f.AK_ATTRIBUTES
    assert public.attributes & Attributes.RESTRICTED
    assert not public.attributes & Attributes.DECRYPT
    assert (public.scheme, public.scheme_hash, public.symmetric) == (Alg.ECDSA, HASHES[Alg.SHA256], None)
    assert (public.bits, public.curve, public.exponent) == (256, 0x0003, 0)
    assert (public.area, public.name) == (key.public, key.name)
    assert public.key == EC_KEY.public_key()


def test_an_endorsement_key_is_read_in_every_field(rsa_key: rsa.RSAPrivateKey) -> None:
    key = forge_ek("L-1", private=rsa_key)
    public = parse_public(key.public)
    assert (public.type, public.bits, public.curve, public.exponent) == (Alg.RSA, 2048, 0, 65537)
    assert (public.scheme, public.scheme_hash) == (Alg.NULL, None)
    assert public.symmetric == Symmetric(Alg.AES, 128, Alg.CFB)
    assert public.unique == _modulus(rsa_key).to_bytes(256, "big")
    assert public.name == key.name
    assert public.key == rsa_key.public_key()


@pytest.mark.parametrize("private", [EC_KEY, P384_KEY, P521_KEY])
@pytest.mark.parametrize("name_alg", [f.SHA1, f.SHA256, f.SHA384, f.SHA512])
def test_names_follow_name_alg(private: ec.EllipticCurvePrivateKey, name_alg: int) -> None:
    key = forge_key(private=private, name_alg=name_alg)
    public = parse_public(key.public)
    assert public.name == key.name
    assert public.key == private.public_key()


@pytest.mark.parametrize(
    ("scheme", "alg", "hash"),
    [
        ((f.RSASSA, f.SHA384), Alg.RSASSA, Alg.SHA384),
        ((f.RSAPSS, f.SHA512), Alg.RSAPSS, Alg.SHA512),
        ((f.OAEP, f.SHA1), Alg.OAEP, Alg.SHA1),
        ((f.RSAES,), Alg.RSAES, None),
    ],
)
def test_rsa_schemes(rsa_key: rsa.RSAPrivateKey, scheme: tuple[int, ...], alg: Alg, hash: Alg | None) -> None:
    public = parse_public(write_public(rsa_key, scheme=scheme))
    assert public.scheme is alg
    assert public.scheme_hash == (None if hash is None else HASHES[hash])


def test_an_ecdaa_scheme_has_a_count_and_a_key_may_have_a_derivation_function() -> None:
    public = parse_public(write_public(EC_KEY, scheme=(f.ECDAA, f.SHA256, 5), kdf=(0x0020, f.SHA256)))
    assert (public.scheme, public.scheme_hash) == (Alg.ECDAA, HASHES[Alg.SHA256])


def test_an_explicit_default_exponent_is_the_same_key_by_another_name(rsa_key: rsa.RSAPrivateKey) -> None:
    implicit, explicit = (parse_public(write_public(rsa_key, exponent=e)) for e in (0, 65537))
    assert implicit.key == explicit.key
    assert implicit.exponent == explicit.exponent == 65537
    assert implicit.name != explicit.name


def test_coordinates_without_their_leading_zeros_are_padded() -> None:
    short = next(
        key
        for key in (ec.derive_private_key(i, ec.SECP256R1()) for i in range(1, 5000))
        if key.public_key().public_numbers().x < 1 << 248
    )
    numbers = short.public_key().public_numbers()
    x, y = numbers.x.to_bytes(31, "big"), numbers.y.to_bytes(32, "big")
    public = parse_public(write_public(short, unique=(x, y)))
    assert public.unique == b"\0" + x + y
    assert public.key == short.public_key()


# ---- TPMT_PUBLIC: one lie each ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"type": 0x0008}, UnknownTpmAlgorithm),  # KEYEDHASH
        ({"type": 0x0025}, UnknownTpmAlgorithm),  # SYMCIPHER
        ({"name_alg": f.NULL}, UnknownTpmAlgorithm),
        ({"name_alg": 0x0012}, UnknownTpmAlgorithm),  # SM3
        ({"attributes": f.AK_ATTRIBUTES | 1}, ReservedBitsSet),
        ({"attributes": f.AK_ATTRIBUTES | 1 << 12}, ReservedBitsSet),
        ({"attributes": f.AK_ATTRIBUTES | 1 << 31}, ReservedBitsSet),
        ({"auth_policy": b"p" * 31}, MalformedTpmStructure),
        ({"auth_policy": b"p" * 48}, MalformedTpmStructure),
        ({"auth_policy": b"p" * 65}, MalformedTpmStructure),
        ({"symmetric": (0x0003, 128, f.CFB_MODE)}, UnknownTpmAlgorithm),  # TDES
        ({"scheme": (f.RSASSA, f.SHA256)}, UnknownTpmAlgorithm),
        ({"scheme": (0x0099, f.SHA256)}, UnknownTpmAlgorithm),
        ({"scheme": (f.ECDSA, 0x0012)}, UnknownTpmAlgorithm),
        ({"scheme": (f.ECDSA, f.NULL)}, UnknownTpmAlgorithm),
        ({"curve": 0x0020}, UnknownTpmAlgorithm),  # SM2
        ({"curve": 0x0000}, UnknownTpmAlgorithm),
        ({"curve": f.P384}, UnusableTpmKey),  # a point of another curve
        ({"kdf": (0x0099, f.SHA256)}, UnknownTpmAlgorithm),
        ({"kdf": (0x0020, f.NULL)}, UnknownTpmAlgorithm),
        ({"unique": (bytes(32), bytes(32))}, UnusableTpmKey),
        ({"unique": (b"\1" * 32, b"\2" * 32)}, UnusableTpmKey),
        ({"unique": (b"\xff" * 32, b"\xff" * 32)}, UnusableTpmKey),
        ({"unique": (b"", b"")}, UnusableTpmKey),
        ({"unique": (b"\1" * 33, b"\2" * 32)}, MalformedTpmStructure),
        ({"unique": (b"\1" * 32, b"\2" * 33)}, MalformedTpmStructure),
        ({"trailing": b"\0"}, MalformedTpmStructure),
    ],
)
def test_one_lie_in_an_ecc_key(lie: dict[str, Any], refusal: type[MalformedInput]) -> None:
    truth: dict[str, Any] = {"scheme": (f.ECDSA, f.SHA256), "auth_policy": b"p" * 32}
    parse_public(write_public(EC_KEY, **truth))
    with pytest.raises(refusal):
        parse_public(write_public(EC_KEY, **{**truth, **lie}))


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"scheme": (f.ECDSA, f.SHA256)}, UnknownTpmAlgorithm),
        ({"scheme": (f.RSASSA, f.NULL)}, UnknownTpmAlgorithm),
        ({"bits": 0}, UnusableTpmKey),
        ({"bits": 2047}, UnusableTpmKey),
        ({"bits": 1024}, UnusableTpmKey),
        ({"bits": 3072}, UnusableTpmKey),
        ({"exponent": 1}, UnusableTpmKey),
        ({"exponent": 3}, UnusableTpmKey),
        ({"exponent": 65536}, UnusableTpmKey),
        ({"unique": b""}, UnusableTpmKey),
        ({"unique": b"\xff" * 255}, UnusableTpmKey),
        ({"unique": b"\0" + b"\xff" * 256}, UnusableTpmKey),
        ({"unique": b"\0" + b"\xff" * 255}, UnusableTpmKey),
        ({"unique": b"\xff" * 255 + b"\xfe"}, UnusableTpmKey),  # even
        ({"unique": b"\xff" * 513}, MalformedTpmStructure),
        ({"trailing": b"\0"}, MalformedTpmStructure),
    ],
)
def test_one_lie_in_an_rsa_key(rsa_key: rsa.RSAPrivateKey, lie: dict[str, Any], refusal: type[MalformedInput]) -> None:
    parse_public(write_public(rsa_key))
    with pytest.raises(refusal):
        parse_public(write_public(rsa_key, **lie))


def test_an_rsa_key_of_an_unknown_size_is_refused() -> None:
    with pytest.raises(UnusableTpmKey, match="size is unknown"):
        parse_public(write_public(new_private_key("rsa1536")))


def test_the_bits_of_newer_revisions_are_no_lie() -> None:
    limited = Attributes.FIRMWARE_LIMITED | Attributes.SVN_LIMITED
    assert parse_public(write_public(EC_KEY, attributes=f.AK_ATTRIBUTES | limited)).attributes & limited == limited


# ---- TPMT_SIGNATURE ---------------------------------------------------------------------------------------------


def test_signatures_are_read_by_their_scheme() -> None:
    ecdsa = parse_signature(f.u16s(f.ECDSA, f.SHA384) + tpm2b(b"\0\x05") + tpm2b(b"\x06"))
    assert (ecdsa.scheme, ecdsa.hash.name, ecdsa.r, ecdsa.s) == (Alg.ECDSA, "sha384", 5, 6)
    for scheme in (f.RSASSA, f.RSAPSS):
        read = parse_signature(f.u16s(scheme, f.SHA256) + tpm2b(b"s" * 256))
        assert (read.scheme, read.hash.name, read.value) == (scheme, "sha256", b"s" * 256)


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (f.u16s(f.NULL), UnknownTpmAlgorithm),
        (f.u16s(0x0005, f.SHA256) + bytes(32), UnknownTpmAlgorithm),  # HMAC
        (f.u16s(f.ECDAA, f.SHA256) + tpm2b(b"r") + tpm2b(b"s"), UnknownTpmAlgorithm),
        (f.u16s(f.ECDSA, f.NULL) + tpm2b(b"r") + tpm2b(b"s"), UnknownTpmAlgorithm),
        (f.u16s(f.RSASSA, 0x0012) + tpm2b(b"s" * 256), UnknownTpmAlgorithm),
        (f.u16s(f.RSASSA, f.SHA256) + tpm2b(b"s" * 513), MalformedTpmStructure),
        (f.u16s(f.ECDSA, f.SHA256) + tpm2b(b"r" * 67) + tpm2b(b"s"), MalformedTpmStructure),
        (f.u16s(f.ECDSA, f.SHA256) + tpm2b(b"r") + tpm2b(b"s" * 67), MalformedTpmStructure),
        (f.u16s(f.ECDSA, f.SHA256) + tpm2b(b"r") + tpm2b(b"s") + b"\0", MalformedTpmStructure),
    ],
)
def test_one_lie_in_a_signature(data: bytes, refusal: type[MalformedInput]) -> None:
    with pytest.raises(refusal):
        parse_signature(data)


# ---- Any octets -------------------------------------------------------------------------------------------------


WHOLE = {
    "ak": forge_key(private=EC_KEY, auth_policy=b"p" * 32).public,
    "ck": forge_ck(private=P384_KEY).public,
    "ek": forge_ek("L-2", private=EC_KEY).public,
    "odd": write_public(EC_KEY, scheme=(f.ECDAA, f.SHA256, 1), kdf=(0x0020, f.SHA256)),
}


@pytest.mark.parametrize("which", [*WHOLE, "rsa"])
def test_a_public_area_cut_anywhere_is_malformed(which: str, rsa_key: rsa.RSAPrivateKey) -> None:
    whole = WHOLE.get(which) or forge_ek("L-1", private=rsa_key).public
    parse_public(whole)
    for size in range(len(whole)):
        with pytest.raises(MalformedInput):
            parse_public(whole[:size])


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa1024"])
def test_a_signature_cut_anywhere_is_malformed(kind: str) -> None:
    whole = forge_key(kind).sign(b"message")
    parse_signature(whole)
    for size in range(len(whole)):
        with pytest.raises(MalformedInput):
            parse_signature(whole[:size])


@given(st.binary(max_size=1200))
def test_random_octets_are_read_or_malformed(data: bytes) -> None:
    for parse in (parse_public, parse_signature):
        with contextlib.suppress(MalformedInput):
            parse(data)


AREA = WHOLE["ek"]


@given(st.integers(0, len(AREA) - 1), st.integers(1, 255), st.binary(max_size=4))
def test_damaged_public_areas_are_read_or_malformed(at: int, flip: int, more: bytes) -> None:
    damaged = AREA[:at] + bytes([AREA[at] ^ flip]) + AREA[at + 1 :] + more
    with contextlib.suppress(MalformedInput):
        assert parse_public(damaged).area == damaged
