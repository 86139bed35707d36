"""MakeCredential: what it makes opens for the right EK and Name, and for nothing else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from attestd.tpm.ektemplates import EkProtectionWrong
from attestd.tpm.makecred import encrypt_oaep, protect, share_seed
from attestd.tpm.objects import HASHES, Alg, parse_public
from tests import forger as f
from tests.forger import ForgedKey, Forger, ForgerRefused, forge_ek

NAME = b"\x00\x0b" + bytes(range(32))
SECRET = bytes(range(32, 64))
TEMPLATES = ("L-1", "L-2", "H-1", "H-2", "H-3", "H-6")


@pytest.fixture(scope="module")
def eks() -> dict[str, ForgedKey]:
    return {template: forge_ek(template) for template in TEMPLATES}


@pytest.fixture(scope="module")
def forger(eks: dict[str, ForgedKey]) -> Forger:
    return Forger(ek=eks["L-2"])


def _make(ek: ForgedKey, *, name: bytes = NAME, secret: bytes = SECRET) -> tuple[bytes, bytes]:
    public = parse_public(ek.public)
    seed, encrypted_secret = share_seed(public, entropy=os.urandom)
    return protect(public, seed=seed, name=name, secret=secret), encrypted_secret


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("size", [1, 16, 31, 32])
def test_the_right_tpm_recovers_the_secret(forger: Forger, eks: dict[str, ForgedKey], template: str, size: int) -> None:
    blob, secret = _make(eks[template], secret=SECRET[:size])
    assert forger.activate(blob, secret, ek=eks[template], ak_name=NAME) == SECRET[:size]


@pytest.mark.parametrize("template", TEMPLATES)
def test_another_name_recovers_nothing(forger: Forger, eks: dict[str, ForgedKey], template: str) -> None:
    blob, secret = _make(eks[template])
    with pytest.raises(ForgerRefused, match="INTEGRITY"):
        forger.activate(blob, secret, ek=eks[template], ak_name=NAME[:-1] + b"\0")


@pytest.mark.parametrize(("mine", "theirs"), [("L-1", "H-1"), ("L-2", "H-2")])
def test_another_tpm_recovers_nothing(forger: Forger, eks: dict[str, ForgedKey], mine: str, theirs: str) -> None:
    blob, secret = _make(eks[mine])
    with pytest.raises(ForgerRefused):
        forger.activate(blob, secret, ek=eks[theirs], ak_name=NAME)


@pytest.mark.parametrize("template", ["L-1", "L-2"])
def test_each_credential_is_fresh(eks: dict[str, ForgedKey], template: str) -> None:
    (blob, secret), (other_blob, other_secret) = _make(eks[template]), _make(eks[template])
    assert blob != other_blob
    assert secret != other_secret


def _sequence() -> Callable[[int], bytes]:
    """Entropy without chance: the same sequence at each call."""
    state = b"seed"

    def draw(count: int) -> bytes:
        nonlocal state
        drawn = b""
        while len(drawn) < count:
            state = hashlib.sha256(state).digest()
            drawn += state
        return drawn[:count]

    return draw


@pytest.mark.parametrize("template", ["L-1", "L-2", "H-3"])
def test_all_randomness_comes_from_the_argument(eks: dict[str, ForgedKey], template: str) -> None:
    public = parse_public(eks[template].public)
    made = [share_seed(public, entropy=_sequence()) for _ in range(2)]
    assert made[0] == made[1]


@pytest.mark.parametrize("template", ["L-1", "L-2"])
def test_a_source_that_gives_too_little_is_not_used(eks: dict[str, ForgedKey], template: str) -> None:
    with pytest.raises(ValueError, match="entropy"):
        share_seed(parse_public(eks[template].public), entropy=lambda count: os.urandom(count - 1))


def test_the_seed_is_as_long_as_the_name_digest(eks: dict[str, ForgedKey]) -> None:
    for template, size in zip(TEMPLATES, (32, 32, 32, 32, 48, 48), strict=True):
        seed, _ = share_seed(parse_public(eks[template].public), entropy=os.urandom)
        assert len(seed) == size


@pytest.mark.parametrize("short", ["ek", "ephemeral"])
def test_coordinates_with_leading_zeros_keep_their_size(short: str) -> None:
    scalar = next(
        n for n in range(1, 5000) if ec.derive_private_key(n, ec.SECP256R1()).public_key().public_numbers().x < 1 << 248
    )
    ek = forge_ek("L-2", private=ec.derive_private_key(scalar if short == "ek" else 77, ec.SECP256R1()))
    forger = Forger(ek=ek)
    public = parse_public(ek.public)
    ephemeral = scalar - 1 if short == "ephemeral" else 99
    seed, encrypted_secret = share_seed(public, entropy=lambda count: ephemeral.to_bytes(count, "big"))
    assert len(encrypted_secret) == 2 + 2 * (2 + 32)
    blob = protect(public, seed=seed, name=NAME, secret=SECRET)
    assert forger.activate(blob, encrypted_secret, ak_name=NAME) == SECRET


@pytest.mark.parametrize("size", [0, 33])
def test_secrets_that_no_tpm_would_take(eks: dict[str, ForgedKey], size: int) -> None:
    public = parse_public(eks["L-2"].public)
    assert protect(public, seed=bytes(32), name=NAME, secret=bytes(32))
    with pytest.raises(ValueError, match="credential"):
        protect(public, seed=bytes(32), name=NAME, secret=bytes(size))


@pytest.mark.parametrize("symmetric", [None, (0x0026, 128, f.CFB_MODE), (f.AES, 128, 0x0042)])
def test_a_key_without_aes_cfb_protects_nothing(symmetric: tuple[int, int, int] | None) -> None:
    public = parse_public(forge_ek("L-2", symmetric=symmetric).public)
    with pytest.raises(EkProtectionWrong):
        protect(public, seed=bytes(32), name=NAME, secret=SECRET)


@pytest.mark.parametrize("alg", [Alg.SHA256, Alg.SHA384])
def test_oaep_is_the_librarys(eks: dict[str, ForgedKey], alg: Alg) -> None:
    private = eks["L-1"].private
    assert isinstance(private, rsa.RSAPrivateKey)
    algorithm = hashes.SHA256() if alg is Alg.SHA256 else hashes.SHA384()
    oaep = padding.OAEP(padding.MGF1(algorithm), algorithm, b"IDENTITY\0")
    most = 256 - 2 * algorithm.digest_size - 2
    for size in (0, 1, 32, most):
        encrypted = encrypt_oaep(private.public_key(), HASHES[alg], b"m" * size, entropy=os.urandom)
        assert private.decrypt(encrypted, oaep) == b"m" * size
    with pytest.raises(ValueError, match="too long"):
        encrypt_oaep(private.public_key(), HASHES[alg], b"m" * (most + 1), entropy=os.urandom)
