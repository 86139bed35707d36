"""Each derivation depends on every one of its parts, and on which derivation it is. The values: tests/vectors/."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from attestd.protocol.derivations import (
    completion_proof,
    device_certify_data,
    device_quote_data,
    enrollment_certify_data,
    enrollment_quote_data,
    request_digest,
)

ENROLLMENT: dict[str, Any] = {
    "nonce": b"n" * 32,
    "id": b"i" * 16,
    "ek_hash": b"e" * 32,
    "ak_name": b"\x00\x0ba" + b"a" * 31,
    "ck_name": b"\x00\x0bc" + b"c" * 31,
}
DEVICE: dict[str, Any] = {
    "nonce": b"n" * 100,
    "device_id": "bike-1",
    "ak_name": ENROLLMENT["ak_name"],
    "ck_name": ENROLLMENT["ck_name"],
}


@pytest.mark.parametrize(
    ("derive", "parts"),
    [
        (enrollment_certify_data, ENROLLMENT),
        (enrollment_quote_data, ENROLLMENT),
        (device_certify_data, DEVICE),
        (device_quote_data, DEVICE),
        (completion_proof, {"secret": b"s" * 32, "body": b"{}"}),
        (request_digest, {"body": b"{}"}),
    ],
)
def test_every_part_counts(derive: Any, parts: dict[str, Any]) -> None:
    values = {derive(**parts)}
    for name, part in parts.items():
        other = "x" + part[1:] if isinstance(part, str) else b"x" + part[1:]
        values.add(derive(**{**parts, name: other}))
    assert len(values) == 1 + len(parts)
    assert all(len(value) == 32 for value in values)


def test_certifications_and_quotes_are_told_apart() -> None:
    assert enrollment_certify_data(**ENROLLMENT) != enrollment_quote_data(**ENROLLMENT)
    assert device_certify_data(**DEVICE) != device_quote_data(**DEVICE)


def test_the_keys_have_their_places() -> None:
    swapped = {"ak_name": ENROLLMENT["ck_name"], "ck_name": ENROLLMENT["ak_name"]}
    for derive, parts in itertools.product((enrollment_certify_data, enrollment_quote_data), (ENROLLMENT,)):
        assert derive(**parts) != derive(**{**parts, **swapped})
