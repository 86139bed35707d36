"""Public keys in JSON: the RFC's thumbprint method, P-256 only, nothing private."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials.jwk import MalformedJwk, jwk_thumbprint, public_jwk, read_jwk
from attestd.errors import InputTooLarge, MalformedInput
from tests.authority import LEAF_KEY, b64

KEY = LEAF_KEY.public_key()
JWK: dict[str, Any] = public_jwk(KEY)


def test_a_key_survives_the_journey() -> None:
    assert read_jwk(JWK) == KEY
    assert list(JWK) == ["kty", "crv", "x", "y"]


def test_pyjwt_agrees() -> None:
    theirs = jwt.algorithms.ECAlgorithm.to_jwk(KEY, as_dict=True)
    assert {name: theirs[name] for name in JWK} == JWK
    assert jwt.PyJWK({**JWK, "alg": "ES256"}).key == KEY


def test_the_thumbprint_is_over_the_required_members_in_order() -> None:
    text = f'{{"crv":"P-256","kty":"EC","x":"{JWK["x"]}","y":"{JWK["y"]}"}}'
    assert jwk_thumbprint(KEY) == b64(hashlib.sha256(text.encode()).digest())
    assert jwk_thumbprint(KEY) == jwk_thumbprint(read_jwk(json.loads(text)))


def test_coordinates_with_leading_zeros_keep_their_size() -> None:
    key = next(
        key
        for number in range(1, 5000)
        if (key := ec.derive_private_key(number, ec.SECP256R1()).public_key()).public_numbers().x < 1 << 248
    )
    assert len(public_jwk(key)["x"]) == 43
    assert read_jwk(public_jwk(key)) == key


@pytest.mark.parametrize(
    "lie",
    [
        {"kty": "RSA"},
        {"kty": "oct"},
        {"kty": ...},
        {"crv": "P-384"},
        {"crv": "secp256k1"},
        {"crv": ...},
        {"x": ...},
        {"y": ...},
        {"x": 5},
        {"x": JWK["x"] + "="},
        {"x": JWK["x"][:-2]},
        {"x": JWK["x"] + "AA"},
        {"x": JWK["y"]},  # not on the curve
        {"x": b64(bytes(32)), "y": b64(bytes(32))},
        {"y": b64(b"\xff" * 32)},
        {"d": b64(b"\x01" * 32)},  # a private key
        {"k": "AAAA"},
        {"x5c": []},
        {"kid": "mine"},
    ],
)
def test_one_lie_in_a_key(lie: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        read_jwk({name: value for name, value in {**JWK, **lie}.items() if value is not ...})


def test_other_curves_have_no_place() -> None:
    with pytest.raises(MalformedJwk):
        public_jwk(ec.derive_private_key(1, ec.SECP384R1()).public_key())


@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y"]),
        st.none() | st.text(max_size=50) | st.integers() | st.sampled_from(["EC", "P-256", b64(bytes(32))]),
    )
)
def test_random_members_give_typed_errors(members: dict[str, Any]) -> None:
    with pytest.raises((MalformedInput, InputTooLarge)):
        read_jwk(members)
