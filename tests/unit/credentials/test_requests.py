"""Signed requests: the registered key, for this URL and method, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials.jwk import jwk_thumbprint, public_jwk
from attestd.credentials.jws import SignatureWrong, verify_es256
from attestd.credentials.requests import (
    RequestAlgorithmWrong,
    RequestMisdirected,
    SoftwareKey,
    UnusableKey,
    verify_request,
)
from attestd.errors import Misconfigured, Unauthenticated
from attestd.protocol.signed import SignedEnvelope, sign_detached, sign_flattened
from tests.authority import LEAF_KEY, STRANGER_KEY, rsa_key

KEY = SoftwareKey(LEAF_KEY)
URL = "https://attestd.example.org/v1/renewals"
PAYLOAD = b'{"v":1}'


def device_envelope(**lies: Any) -> SignedEnvelope:
    honest: dict[str, Any] = {"sign": KEY.sign, "alg": "ES256", "kid": "bike-1", "url": URL, "nonce": b"n" * 40}
    return SignedEnvelope.parse_flattened(sign_flattened(PAYLOAD, **{**honest, **lies}), limit=10_000)


def caller_envelope(body: bytes = PAYLOAD, **lies: Any) -> SignedEnvelope:
    honest: dict[str, Any] = {
        "sign": KEY.sign,
        "alg": "ES256",
        "kid": KEY.thumbprint,
        "method": "PUT",
        "url": URL,
        "nonce": b"n" * 40,
    }
    return SignedEnvelope.parse_detached(sign_detached(PAYLOAD, **{**honest, **lies}), body)


def verify(envelope: SignedEnvelope, **lies: Any) -> bytes:
    return verify_request(envelope, **{"key": KEY.public_key, "url": URL, "method": "POST", **lies})


def test_a_device_s_request() -> None:
    assert verify(device_envelope()) == PAYLOAD


def test_a_caller_s_request() -> None:
    assert verify(caller_envelope(), method="PUT") == PAYLOAD


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"sign": SoftwareKey(STRANGER_KEY).sign}, SignatureWrong),
        ({"sign": lambda _: bytes(64)}, SignatureWrong),
        ({"sign": lambda _: b"x"}, SignatureWrong),
        ({"url": URL + "/"}, RequestMisdirected),
        ({"url": "http" + URL[5:]}, RequestMisdirected),
        ({"alg": "none"}, RequestAlgorithmWrong),
        ({"alg": "HS256"}, RequestAlgorithmWrong),
        ({"alg": "RS256"}, RequestAlgorithmWrong),
    ],
)
def test_one_lie_in_a_request(lie: dict[str, Any], refusal: type[Exception]) -> None:
    for envelope, method in ((device_envelope(**lie), "POST"), (caller_envelope(**lie), "PUT")):
        with pytest.raises(refusal) as caught:
            verify(envelope, method=method)
        assert isinstance(caught.value, Unauthenticated)


def test_another_method() -> None:
    with pytest.raises(RequestMisdirected):
        verify(caller_envelope(), method="DELETE")
    with pytest.raises(RequestMisdirected):
        verify(caller_envelope(method="DELETE"), method="PUT")
    with pytest.raises(RequestMisdirected):
        verify(device_envelope(), method="PUT")


def test_another_body() -> None:
    with pytest.raises(SignatureWrong):
        verify(caller_envelope(body=PAYLOAD + b" "), method="PUT")


def test_another_key() -> None:
    with pytest.raises(SignatureWrong):
        verify(device_envelope(), key=STRANGER_KEY.public_key())


def test_an_algorithm_that_nobody_can_check() -> None:
    """The registry's word for the key's algorithm is not the request's, and ES256 is the only one so far."""
    with pytest.raises(RequestAlgorithmWrong):
        verify(device_envelope(alg="RS256"), alg="RS256")
    with pytest.raises(RequestAlgorithmWrong):
        verify(device_envelope(), alg="RS256")


@pytest.mark.parametrize("field", ["unverified_payload", "url", "nonce", "unverified_kid"])
def test_what_the_envelope_says_is_what_was_signed(field: str) -> None:
    """The parsed fields come from the signed octets: one that was changed on the way changes the signing input."""
    message = json.loads(sign_flattened(PAYLOAD, sign=KEY.sign, alg="ES256", kid="bike-1", url=URL, nonce=b"n" * 40))
    other = device_envelope(url=URL + "x", nonce=b"m" * 40, kid="bike-2", sign=lambda _: bytes(64))
    assert getattr(other, field) != getattr(device_envelope(), field) or field == "unverified_payload"
    forged = other._replace(signature=device_envelope().signature)
    with pytest.raises(SignatureWrong):
        verify(forged, url=URL + "x")
    assert set(message) == {"protected", "payload", "signature"}


@given(st.binary(min_size=64, max_size=64))
def test_random_signatures_are_refused(signature: bytes) -> None:
    with pytest.raises(SignatureWrong):
        verify(device_envelope()._replace(signature=signature))


# ---- Software keys ----------------------------------------------------------------------------------------------


def pem(key: Any = LEAF_KEY, password: bytes | None = None, form: str = "PKCS8") -> bytes:
    encryption: Any = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    made: bytes = key.private_bytes(serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), encryption)
    return made


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_a_key_from_pem(form: str) -> None:
    key = SoftwareKey.from_pem(pem(form=form))
    assert key.thumbprint == jwk_thumbprint(LEAF_KEY.public_key())
    assert key.jwk == public_jwk(LEAF_KEY.public_key())
    verify_es256(LEAF_KEY.public_key(), signature=key.sign(b"message"), message=b"message")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        pem()[:-40],
        pem(password=b"secret"),
        pem(rsa_key()),
        pem(ec.derive_private_key(5, ec.SECP384R1())),
        LEAF_KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    ],
)
def test_keys_that_can_t_be_used(data: bytes) -> None:
    with pytest.raises(UnusableKey) as caught:
        SoftwareKey.from_pem(data)
    assert isinstance(caught.value, Misconfigured)


@given(st.binary(max_size=200))
def test_random_octets_are_no_key(data: bytes) -> None:
    with pytest.raises(UnusableKey):
        SoftwareKey.from_pem(data)


def test_a_key_says_nothing_of_itself() -> None:
    assert KEY.thumbprint in repr(KEY)
    assert str(LEAF_KEY.private_numbers().private_value) not in repr(vars(KEY))
