"""One JWS, one algorithm, one type; what a header may try, and what a signature must be."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials.jws import (
    AlgorithmNotAllowed,
    SignatureWrong,
    TypeConfused,
    UnverifiedJws,
    raw_signature,
    sign_jws,
    verify_es256,
)
from attestd.errors import AttestdError, InputTooLarge, MalformedInput
from attestd.protocol.encoding import MalformedJson
from tests.authority import LEAF_KEY, STRANGER_KEY, b64, compact, es256

KEY = LEAF_KEY.public_key()
TYP = "test+jws"


def read(text: str, *, key: ec.EllipticCurvePublicKey = KEY, limit: int = 2000) -> bytes:
    jws = UnverifiedJws.read(text, typ=TYP, limit=limit, name="test")
    jws.unverified_header.text("kid")
    return jws.verified_by(key)


def header(**lies: Any) -> dict[str, Any]:
    return {name: value for name, value in {"alg": "ES256", "typ": TYP, "kid": "k", **lies}.items() if value is not ...}


def signed(payload: bytes = b"{}", sign: Any = es256(LEAF_KEY), **lies: Any) -> str:  # noqa: B008
    return compact(header(**lies), payload, sign)


def test_what_is_signed_is_read() -> None:
    assert read(signed(b"anything\x00")) == b"anything\x00"
    assert read(sign_jws({"kid": "k"}, b"anything", typ=TYP, sign=es256(LEAF_KEY))) == b"anything"


def test_pyjwt_agrees() -> None:
    ours = sign_jws({"kid": "k"}, b'{"sub":"x"}', typ=TYP, sign=es256(LEAF_KEY))
    assert jwt.decode(ours, KEY, algorithms=["ES256"]) == {"sub": "x"}
    theirs = jwt.encode({"sub": "x"}, LEAF_KEY, algorithm="ES256", headers={"typ": TYP, "kid": "k"})
    assert json.loads(read(theirs)) == {"sub": "x"}


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"alg": "none"}, AlgorithmNotAllowed),
        ({"alg": "None"}, AlgorithmNotAllowed),
        ({"alg": ""}, AlgorithmNotAllowed),
        ({"alg": "HS256"}, AlgorithmNotAllowed),
        ({"alg": "ES384"}, AlgorithmNotAllowed),
        ({"alg": "es256"}, AlgorithmNotAllowed),
        ({"alg": ["ES256"]}, MalformedJson),
        ({"alg": None}, MalformedJson),
        ({"alg": ...}, MalformedJson),
        ({"typ": "JWT"}, TypeConfused),
        ({"typ": "TEST+JWS"}, TypeConfused),
        ({"typ": ...}, MalformedJson),
        ({"kid": 1}, MalformedJson),
        ({"kid": ...}, MalformedJson),
        ({"crit": ["exp"]}, MalformedJson),
        ({"b64": False}, MalformedJson),
        ({"jku": "https://elsewhere.example"}, MalformedJson),
        ({"jwk": {}}, MalformedJson),
        ({"x5u": "https://elsewhere.example"}, MalformedJson),
        ({"zip": "DEF"}, MalformedJson),
    ],
)
def test_one_lie_in_the_header(lie: dict[str, Any], refusal: type[Exception]) -> None:
    assert read(signed()) == b"{}"
    with pytest.raises(refusal):
        read(signed(**lie))


def test_no_signature_is_no_signature() -> None:
    with pytest.raises(SignatureWrong):
        read(signed(sign=lambda _: b""))


def test_duplicate_header_members() -> None:
    with pytest.raises(MalformedJson):
        read(compact(b'{"alg":"ES256","typ":"test+jws","kid":"k","kid":"l"}', b"{}", es256(LEAF_KEY)))
    with pytest.raises(MalformedJson):
        read(compact(b'{"alg":"none","typ":"test+jws","kid":"k","alg":"ES256"}', b"{}", es256(LEAF_KEY)))


def test_another_key_s_signature() -> None:
    with pytest.raises(SignatureWrong):
        read(signed(sign=es256(STRANGER_KEY)))


def test_another_payload_or_header() -> None:
    protected, payload, signature = signed(b'{"a":1}').split(".")
    assert read(f"{protected}.{payload}.{signature}") == b'{"a":1}'
    with pytest.raises(SignatureWrong):
        read(f"{protected}.{b64(b'{}')}.{signature}")
    with pytest.raises(SignatureWrong):
        read(f"{b64(json.dumps(header(kid='l')).encode())}.{payload}.{signature}")


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s[:-1],
        lambda s: s + b"\x00",
        lambda s: b"",
        lambda s: bytes(64),
        lambda s: s[:32] + bytes(32),
        lambda s: bytes(32) + s[32:],
        lambda s: b"\xff" * 64,
        lambda s: s[32:] + s[:32],
        lambda s: LEAF_KEY.sign(b"message", ec.ECDSA(hashes.SHA256())),  # DER
    ],
)
def test_damaged_signatures(damage: Any) -> None:
    signature = es256(LEAF_KEY)(b"message")
    verify_es256(KEY, signature=signature, message=b"message")
    with pytest.raises(SignatureWrong):
        verify_es256(KEY, signature=damage(signature), message=b"message")


def test_a_signature_s_zeros_can_t_be_left_out() -> None:
    """Read as numbers, 63 octets may say the same as 64: a second spelling of one signature."""
    signature = next(s for _ in range(10_000) if (s := es256(LEAF_KEY)(b"message"))[32] == 0)
    verify_es256(KEY, signature=signature, message=b"message")
    with pytest.raises(SignatureWrong):
        verify_es256(KEY, signature=signature[:32] + signature[33:], message=b"message")


def test_a_key_on_another_curve_verifies_nothing() -> None:
    other = ec.derive_private_key(5, ec.SECP384R1()).public_key()
    with pytest.raises(SignatureWrong, match="ES256"):
        verify_es256(other, signature=bytes(64), message=b"message")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c.d",
        "....",
        b64(b"{}"),
        signed() + ".",
        "." + signed(),
        signed().replace(".", " "),
        signed() + "=",
        signed()[:-1] + "ü",
        signed() + "\n",
        signed().replace(".", ".\ud800", 1),
        signed().replace(".", "=.", 1),
        b64(b"[]") + ".e30.AA",
        b64(b'"ES256"') + ".e30.AA",
        b64(b"\xff\xfe") + ".e30.AA",
    ],
)
def test_texts_that_are_no_jws(text: str) -> None:
    with pytest.raises(MalformedInput):
        read(text)


def test_the_payload_has_one_spelling() -> None:
    """A payload's stray bits are under the signature, and still no second spelling is read."""
    protected = b64(json.dumps(header()).encode())
    for payload, good in ((b64(b"a"), True), ("YR", False), ("YQ==", False), ("Y", False)):
        text = f"{protected}.{payload}.{b64(es256(LEAF_KEY)(f'{protected}.{payload}'.encode()))}"
        if good:
            assert read(text) == b"a"
        else:
            with pytest.raises(MalformedInput):
                read(text)


def test_the_size_is_bounded_before_anything_is_parsed() -> None:
    text = signed(b"x" * 100)
    read(text, limit=len(text))
    with pytest.raises(InputTooLarge):
        read(text, limit=len(text) - 1)
    with pytest.raises(InputTooLarge):
        read("a" * 10_000_000)
    with pytest.raises(InputTooLarge):
        read(compact(header(more="x" * 5000), b"", es256(LEAF_KEY)), limit=100_000)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(MalformedJson):
        read(f"{b64(b'[' * 1000)}.e30.AA")


@given(st.text(max_size=300))
def test_random_texts_give_typed_errors(text: str) -> None:
    with pytest.raises(AttestdError):
        read(text)


HONEST = signed(b"payload")


@given(st.integers(0, len(HONEST) - 1), st.characters())
def test_any_changed_character_is_noticed(at: int, instead: str) -> None:
    if HONEST[at] != instead:
        with pytest.raises(AttestdError):
            read(HONEST[:at] + instead + HONEST[at + 1 :])


def test_raw_signatures_have_fixed_size() -> None:
    for number in range(50):
        assert len(raw_signature(LEAF_KEY.sign(bytes((number,)), ec.ECDSA(hashes.SHA256())))) == 64
