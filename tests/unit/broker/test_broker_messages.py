"""A bundle's message: what is written is read, and whatever is off is refused."""

from __future__ import annotations

from typing import Any

import pytest

from attestd.broker.messages import (
    MAX_MESSAGE,
    MOST_PROOFS,
    BundleMessage,
    MessageMalformed,
    Whole,
    alive_subject,
    delta_subject,
    order,
    whole_subject,
)
from attestd.errors import InputTooLarge, MalformedInput
from attestd.ids import TrustDomain

PROOFS = {(2, 80, 90): (b"\x01" * 32, b"\x02" * 32), (2, 85, 90): ()}
DELTA = BundleMessage("2.6", "2.5", Whole("2.1", 17), b"{}", PROOFS)
COPY = BundleMessage("2.6", None, Whole("2.6", 18), b"{}")


@pytest.mark.parametrize("message", [DELTA, COPY, BundleMessage("2.6"), BundleMessage("2.6", whole=Whole("2.5", 1))])
def test_what_is_written_is_read(message):
    assert BundleMessage.read(message.headers(), message.content) == message
    assert message.is_delta == (message.base is not None)


def test_every_header_is_one_line():
    many = {(2, first, 90): (b"\xff" * 32,) * 64 for first in range(1, MOST_PROOFS + 1)}
    message = BundleMessage("2.6", None, None, b"{}", many)
    assert all("\n" not in value and value.isascii() for value in message.headers().values())
    assert sum(map(len, message.headers().values())) < 256 * 1024


def changed(**lies: Any) -> dict[str, str]:
    headers = {**DELTA.headers(), **{name.replace("_", "-"): value for name, value in lies.items()}}
    return {name: value for name, value in headers.items() if value is not ...}


@pytest.mark.parametrize(
    ("lies", "error"),
    [
        ({"Attestd_Bundle": ...}, MessageMalformed),
        ({"Attestd_Bundle": "2"}, MessageMalformed),
        ({"Attestd_Bundle": "02.6"}, MessageMalformed),
        ({"Attestd_Bundle": "2.6\u0661"}, MessageMalformed),
        ({"Attestd_Base": "2.-5"}, MessageMalformed),
        ({"Attestd_Base": ""}, MessageMalformed),
        ({"Attestd_Whole": ...}, MessageMalformed),
        ({"Attestd_Whole": "x"}, MessageMalformed),
        ({"Attestd_Next": ...}, MessageMalformed),
        ({"Attestd_Next": "0"}, MessageMalformed),
        ({"Attestd_Next": "17 "}, MessageMalformed),
        ({"Attestd_Proofs": "["}, MalformedInput),
        ({"Attestd_Proofs": '{"v": 1}'}, MalformedInput),
        ({"Attestd_Proofs": '{"v":1,"log":2,"second":90,"from":[{"first":80,"path":["AA*"]}]}'}, MalformedInput),
        ({"Attestd_Proofs": '{"v":1,"log":2,"second":90,"from":[],"more":1}'}, MalformedInput),
        ({"Attestd_Proofs": '{"v":1,"log":2,"second":90,"from":[' + "{}," * 32 + "{}]}"}, InputTooLarge),
        ({"Attestd_Proofs": " " * 200_000}, InputTooLarge),
    ],
)
def test_one_lie_in_the_headers(lies, error):
    BundleMessage.read(changed(), b"{}")  # the twin
    with pytest.raises(error):
        BundleMessage.read(changed(**lies), b"{}")


def test_no_headers_at_all():
    with pytest.raises(MessageMalformed):
        BundleMessage.read(None, None)


def test_what_is_too_large_is_not_looked_at():
    with pytest.raises(InputTooLarge):
        BundleMessage.read(DELTA.headers(), bytes(MAX_MESSAGE + 1))


def test_order_is_by_number_and_none_is_first():
    assert sorted(["2.1", "1.10", None, "1.2"], key=order) == [None, "1.2", "1.10", "2.1"]


def test_a_name_with_dots_is_one_token():
    """Or `example` could hear of `example.org`, and the stream would hold neither."""
    domain = TrustDomain("a.example.org")
    assert delta_subject(domain) == "attestd.bundle.a~example~org.delta"
    assert {len(of(domain).split(".")) for of in (delta_subject, whole_subject, alive_subject)} == {4}
