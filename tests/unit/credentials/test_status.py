"""The status list: the draft's encoding, and no more memory than allowed."""

from __future__ import annotations

import base64
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials.status import MalformedStatusList, Status, StatusList
from attestd.errors import InputTooLarge, MalformedInput
from attestd.protocol.encoding import MalformedBase64
from tests.authority import b64


def test_the_draft_s_example() -> None:
    """draft-ietf-oauth-status-list, section 4.1: twelve statuses of two bits."""
    listed = StatusList.decode("eNo76fITAAPfAgc")
    assert listed.octets == bytes((0xC9, 0x44, 0xF9))
    raw = [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3]
    assert [listed[index] for index in range(12)] == [Status(v) if v < 3 else Status.INVALID for v in raw]
    assert StatusList.decode(listed.encode()) == listed


def test_least_significant_bits_come_first() -> None:
    assert StatusList.of({0: Status.INVALID}, 4).octets == b"\x01"
    assert StatusList.of({1: Status.SUSPENDED}, 4).octets == b"\x08"
    assert StatusList.of({3: Status.INVALID, 4: Status.SUSPENDED}, 8).octets == b"\x40\x02"


@given(st.dictionaries(st.integers(0, 199), st.sampled_from(Status), max_size=50))
def test_what_is_written_is_read(statuses: dict[int, Status]) -> None:
    listed = StatusList.decode(StatusList.of(statuses, 200).encode())
    assert [listed[index] for index in range(200)] == [statuses.get(index, Status.VALID) for index in range(200)]


@pytest.mark.parametrize("index", [-1, 8, 9, 1 << 40])
def test_what_the_list_does_not_say_is_invalid(index: int) -> None:
    listed = StatusList.of({}, 8)
    assert len(listed) == 8
    assert 7 in listed
    assert listed[7] is Status.VALID
    assert index not in listed
    assert listed[index] is Status.INVALID


def test_the_value_without_a_meaning_is_invalid() -> None:
    assert StatusList(b"\x03")[0] is Status.INVALID


def test_only_what_fits_can_be_listed() -> None:
    StatusList.of({7: Status.INVALID}, 8)
    for index in (-1, 8):
        with pytest.raises(ValueError, match="outside"):
            StatusList.of({index: Status.INVALID}, 8)
    with pytest.raises(ValueError, match="3"):
        StatusList.of({0: 3}, 8)  # type: ignore[dict-item]


def test_a_decompression_bomb_costs_no_more_than_the_limit() -> None:
    limit = 64 * 1024
    honest = StatusList(bytes(limit)).encode()
    bomb = b64(zlib.compress(bytes(64 * 1024 * 1024), 9))
    assert len(bomb) < 100_000
    assert len(StatusList.decode(honest, max_octets=limit).octets) == limit
    tracemalloc.start()
    try:
        with pytest.raises(InputTooLarge):
            StatusList.decode(bomb, max_octets=limit)
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


def test_one_octet_too_many_is_refused() -> None:
    assert len(StatusList.decode(StatusList(bytes(100)).encode(), max_octets=100)) == 400
    with pytest.raises(InputTooLarge):
        StatusList.decode(StatusList(bytes(101)).encode(), max_octets=100)


def test_a_text_longer_than_any_such_list_is_not_even_decoded() -> None:
    padded = b"".join(b"\x00\x00\x00\xff\xff" for _ in range(10_000))  # empty stored blocks: nothing comes out
    stream = b"\x78\x01" + padded + b"\x01\x00\x00\xff\xff" + zlib.adler32(b"").to_bytes(4, "big")
    assert StatusList.decode(b64(stream), max_octets=100_000) == StatusList(b"")
    with pytest.raises(InputTooLarge, match="too long"):
        StatusList.decode(b64(stream), max_octets=100)


def test_incompressible_lists_fit() -> None:
    noise = b"".join(zlib.crc32(n.to_bytes(4, "big")).to_bytes(4, "big") for n in range(25_000))
    assert StatusList.decode(StatusList(noise).encode(), max_octets=len(noise)).octets == noise


GOOD = zlib.compress(b"\xc9\x44\xf9")


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("", MalformedStatusList),
        (b64(GOOD[:-1]), MalformedStatusList),
        (b64(GOOD[:5]), MalformedStatusList),
        (b64(GOOD + b"x"), MalformedStatusList),
        (b64(GOOD[:-1] + b"\x00"), MalformedStatusList),  # the checksum
        (b64(zlib.compress(b"\xc9\x44\xf9")[2:-4]), MalformedStatusList),  # raw DEFLATE
        (base64.b64encode(GOOD).decode() + "=", MalformedBase64),
        ("eNo76fITAAPfAgd", MalformedBase64),  # stray bits
    ],
)
def test_damaged_lists_are_refused(text: str, refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        StatusList.decode(text)


@given(st.binary(max_size=200))
def test_random_streams_give_typed_errors(data: bytes) -> None:
    with pytest.raises((MalformedInput, InputTooLarge)):
        StatusList.decode(b64(b"\x78\xda" + data), max_octets=1024)


@given(st.text(max_size=200))
def test_random_text_gives_typed_errors(text: str) -> None:
    with pytest.raises((MalformedInput, InputTooLarge)):
        StatusList.decode(text, max_octets=1024)
