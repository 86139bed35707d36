"""Envelopes: read within bounds, nothing believed, and the octets that were signed kept exactly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import InputTooLarge, MalformedInput, Unauthenticated
from attestd.protocol.encoding import MalformedJson, b64encode
from attestd.protocol.signed import (
    CALLER_TYP,
    DEVICE_TYP,
    MAX_HEADER,
    MalformedSignature,
    SignedEnvelope,
    sign_detached,
    sign_flattened,
)

REFUSALS = (MalformedInput, InputTooLarge, Unauthenticated)
HEADER: dict[str, Any] = {"alg": "ES256", "kid": "bike-1", "url": "https://x/v1/y", "nonce": "bm5u", "typ": DEVICE_TYP}


def sign(data: bytes) -> bytes:
    return b"s" * 64


def flattened(header: Any = None, *, limit: int = 10_000, **lies: Any) -> SignedEnvelope:
    octets = header if isinstance(header, bytes) else json.dumps(HEADER if header is None else header).encode()
    members = {"protected": b64encode(octets), "payload": "e30", "signature": b64encode(b"s" * 64), **lies}
    data = json.dumps({name: value for name, value in members.items() if value is not ...}).encode()
    return SignedEnvelope.parse_flattened(data, limit=limit)


def lying(base: dict[str, Any], **lies: Any) -> dict[str, Any]:
    return {name: value for name, value in {**base, **lies}.items() if value is not ...}


def test_a_device_s_request_is_read_as_it_was_signed() -> None:
    signed: list[bytes] = []
    data = sign_flattened(
        b"payload\x00",
        sign=lambda octets: signed.append(octets) or b"s" * 64,  # type: ignore[func-returns-value]
        alg="ES256",
        kid="bike-1",
        url="https://x/v1/y",
        nonce=b"nnn",
    )
    envelope = SignedEnvelope.parse_flattened(data, limit=len(data))
    assert [envelope.signing_input] == signed
    assert (envelope.unverified_kid, envelope.alg, envelope.url) == ("bike-1", "ES256", "https://x/v1/y")
    assert (envelope.nonce, envelope.typ, envelope.method) == (b"nnn", DEVICE_TYP, "POST")
    assert (envelope.unverified_payload, envelope.signature) == (b"payload\x00", b"s" * 64)
    with pytest.raises(InputTooLarge):
        SignedEnvelope.parse_flattened(data, limit=len(data) - 1)


def test_a_caller_s_request_is_read_as_it_was_signed() -> None:
    signed: list[bytes] = []
    authorization = sign_detached(
        b"body",
        sign=lambda octets: signed.append(octets) or b"s" * 64,  # type: ignore[func-returns-value]
        alg="ES256",
        kid="k",
        method="DELETE",
        url="https://x/v1/y",
        nonce=b"nnn",
    )
    envelope = SignedEnvelope.parse_detached(authorization, b"body")
    assert [envelope.signing_input] == signed
    assert (envelope.method, envelope.typ, envelope.unverified_payload) == ("DELETE", CALLER_TYP, b"body")
    assert SignedEnvelope.parse_detached(authorization, b"other").signing_input != signed[0]


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        *(({name: ...}, MalformedJson) for name in HEADER),
        *(({name: 5}, MalformedJson) for name in HEADER),
        ({"typ": CALLER_TYP}, MalformedSignature),
        ({"typ": "at+jwt"}, MalformedSignature),
        ({"typ": "JWT"}, MalformedSignature),
        ({"htm": "POST"}, MalformedJson),
        ({"crit": ["url"]}, MalformedJson),
        ({"jwk": {}}, MalformedJson),
        ({"jku": "https://elsewhere"}, MalformedJson),
        ({"x5c": []}, MalformedJson),
        ({"b64": False}, MalformedJson),
        ({"nonce": ""}, MalformedJson),
        ({"nonce": "bm5u="}, MalformedInput),
        ({"nonce": b64encode(b"n" * 257)}, MalformedJson),
        ({"nonce": "A" * 1000}, InputTooLarge),
        ({"alg": "A" * 17}, InputTooLarge),
        ({"kid": "k" * 2049}, InputTooLarge),
        ({"url": "u" * 2049}, InputTooLarge),
        ({"typ": "t" * 65}, InputTooLarge),
    ],
)
def test_one_lie_in_the_header(lie: dict[str, Any], refusal: type[Exception]) -> None:
    flattened()
    with pytest.raises(refusal):
        flattened(lying(HEADER, **lie))


@pytest.mark.parametrize(
    "lie",
    [
        {"protected": ...},
        {"payload": ...},
        {"signature": ...},
        {"header": {"alg": "none"}},  # an unprotected header
        {"signatures": []},
        {"protected": 5},
        {"payload": None},
        {"payload": "e30="},
        {"payload": "\ud800"},
        {"signature": ""},
        {"signature": "A"},
        {"signature": "A" * 1000},
        {"protected": ""},
        {"protected": "!"},
        {"protected": "A" * (MAX_HEADER + 1)},
        {"protected": b64encode(b"[]")},
        {"protected": b64encode(b"\xff")},
        {"protected": b64encode(b"[" * 100)},
        {"protected": b64encode(b'{"alg":"ES256","alg":"none"}')},
    ],
)
def test_one_lie_in_the_envelope(lie: dict[str, Any]) -> None:
    flattened()
    with pytest.raises(REFUSALS):
        flattened(**lie)


def test_duplicate_members() -> None:
    data = json.dumps({"protected": "e30", "payload": "e30", "signature": "AAAA"})
    with pytest.raises(MalformedJson, match="twice"):
        SignedEnvelope.parse_flattened(data.replace('"payload"', '"payload":"AA","payload"').encode(), limit=1000)
    with pytest.raises(MalformedJson, match="twice"):
        flattened(json.dumps(HEADER).replace('"kid"', '"kid":"x","kid"').encode())


AUTHORIZATION = sign_detached(b"body", sign=sign, alg="ES256", kid="k", method="PUT", url="https://x/", nonce=b"n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Attestd",
        "Attestd ",
        "Attestd a..",
        "Attestd ..",
        AUTHORIZATION.replace("Attestd", "Bearer"),
        AUTHORIZATION.replace("Attestd", "attestd"),
        AUTHORIZATION.replace(" ", "  "),
        AUTHORIZATION.replace("..", "."),
        AUTHORIZATION.replace("..", "..."),
        AUTHORIZATION.replace("..", f".{b64encode(b'body')}."),
        AUTHORIZATION + ".",
        AUTHORIZATION + " ",
        AUTHORIZATION + "\u00fc",
        AUTHORIZATION + "A" * MAX_HEADER,
    ],
)
def test_what_is_no_authorization(text: str) -> None:
    SignedEnvelope.parse_detached(AUTHORIZATION, b"body")
    with pytest.raises(REFUSALS):
        SignedEnvelope.parse_detached(text, b"body")


def test_a_caller_s_header_names_the_method_and_is_no_device_s() -> None:
    signature = b64encode(b"s" * 64)
    honest = {**HEADER, "typ": CALLER_TYP, "htm": "PUT"}
    for header, good in (
        (honest, True),
        (lying(honest, htm=...), False),
        (lying(honest, htm="M" * 9), False),
        (lying(honest, typ=DEVICE_TYP), False),
    ):
        text = f"Attestd {b64encode(json.dumps(header).encode())}..{signature}"
        if good:
            assert SignedEnvelope.parse_detached(text, b"").method == "PUT"
        else:
            with pytest.raises(REFUSALS):
                SignedEnvelope.parse_detached(text, b"")


@given(st.binary(max_size=300))
def test_random_octets_are_refused(data: bytes) -> None:
    with pytest.raises(REFUSALS):
        SignedEnvelope.parse_flattened(data, limit=1000)
    with pytest.raises(REFUSALS):
        flattened(data)


@given(st.text(max_size=300))
def test_random_texts_are_refused(text: str) -> None:
    for authorization in (text, f"Attestd {text}", f"Attestd {text}..AAAA"):
        with pytest.raises(REFUSALS):
            SignedEnvelope.parse_detached(authorization, b"body")


def test_truncated_requests_are_refused() -> None:
    data = sign_flattened(b"{}", sign=sign, alg="ES256", kid="k", url="https://x/", nonce=b"n")
    for length in range(len(data)):
        with pytest.raises(REFUSALS):
            SignedEnvelope.parse_flattened(data[:length], limit=1000)


@given(st.sampled_from(sorted(HEADER)), st.none() | st.booleans() | st.integers() | st.floats() | st.lists(st.text()))
def test_random_header_members_are_refused(name: str, value: Any) -> None:
    with pytest.raises(REFUSALS):
        flattened(json.dumps({**HEADER, name: value}).encode())
