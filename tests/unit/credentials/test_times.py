"""A signed time answers one question, and lies within its signer's own."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials.certificates import CertificateExpired, CertificateNotYetValid
from attestd.credentials.jws import TypeConfused
from attestd.credentials.times import TimeBehindFloor, TimeNonceWrong, verify_time
from attestd.errors import InputTooLarge, MalformedInput, Unauthenticated
from tests import authority as a
from tests.authority import NOW, ROOT, signed_time

SECOND = timedelta(seconds=1)
T = int(NOW.timestamp())


def time_of(text: str, **lies: Any) -> Any:
    honest: dict[str, Any] = {"roots": (ROOT.der,), "nonce": b"n" * 32, "floor": NOW - 3600 * SECOND}
    return verify_time(text, **{**honest, **lies})


def test_a_time_answer() -> None:
    assert time_of(signed_time()) == NOW
    assert time_of(signed_time(), floor=NOW) == NOW


def test_a_time_before_the_floor() -> None:
    with pytest.raises(TimeBehindFloor):
        time_of(signed_time(), floor=NOW + SECOND)


def test_a_time_for_another_question() -> None:
    for nonce in (b"m" * 32, b"n" * 31, b""):
        with pytest.raises(TimeNonceWrong):
            time_of(signed_time(), nonce=nonce)
    with pytest.raises(TimeNonceWrong):
        time_of(signed_time(nonce=b"m" * 32))


def test_a_signer_can_t_speak_of_times_outside_its_own() -> None:
    for moment, refusal in (
        (NOW - timedelta(days=5), None),
        (NOW - timedelta(days=5) - SECOND, CertificateNotYetValid),
        (NOW + timedelta(days=5), None),
        (NOW + timedelta(days=5) + SECOND, CertificateExpired),
    ):
        answer = signed_time(time=int(moment.timestamp()))
        if refusal is None:
            assert time_of(answer, floor=NOW - timedelta(days=9)) == moment
        else:
            with pytest.raises(refusal):
                time_of(answer, floor=NOW - timedelta(days=9))


@pytest.mark.parametrize(
    "payload",
    [
        {"nonce": a.b64(b"n" * 32)},
        {"time": T},
        {"nonce": a.b64(b"n" * 32), "time": T, "more": 1},
        {"nonce": a.b64(b"n" * 32), "time": str(T)},
        {"nonce": a.b64(b"n" * 32), "time": T + 0.5},
        {"nonce": a.b64(b"n" * 32), "time": True},
        {"nonce": a.b64(b"n" * 32), "time": -1},
        {"nonce": a.b64(b"n" * 32), "time": 1 << 60},
        {"nonce": "n" * 1000, "time": T},
        {"nonce": 5, "time": T},
        [],
        b"",
        b"\xff",
    ],
)
def test_what_is_no_time(payload: Any) -> None:
    with pytest.raises((MalformedInput, InputTooLarge)):
        time_of(signed_time(payload=payload))


@given(st.text(max_size=300))
def test_random_texts_are_refused(text: str) -> None:
    with pytest.raises((MalformedInput, InputTooLarge, Unauthenticated)):
        time_of(text)


def test_a_huge_text_is_not_parsed() -> None:
    with pytest.raises(InputTooLarge):
        time_of("a" * (1 << 20))


def test_another_kind_of_object() -> None:
    with pytest.raises(TypeConfused):
        time_of(signed_time(typ="attestd-bundle+jws"))
