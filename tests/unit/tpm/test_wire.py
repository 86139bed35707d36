"""The reader stays within its data, whatever the data claims."""

from __future__ import annotations

from struct import Struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import MalformedInput
from attestd.tpm.wire import MalformedTpmStructure, Reader, sized, u16, u32, u64


def test_reads_what_the_writers_write() -> None:
    reader = Reader(b"\x07" + u16(0xFFEE) + u32(0xDDCCBBAA) + u64(5) + sized(b"name") + b"xy", "thing")
    assert (reader.u8(), reader.u16(), reader.u32(), reader.u64()) == (7, 0xFFEE, 0xDDCCBBAA, 5)
    assert (reader.sized(4), reader.take(2)) == (b"name", b"xy")
    reader.done()


def test_reads_several_integers_at_once() -> None:
    reader = Reader(b"\x00\x01\x02\x03", "thing")
    assert reader.unpack(Struct(">HBB")) == (1, 2, 3)
    reader.done()


@pytest.mark.parametrize("read", [Reader.u8, Reader.u16, Reader.u32, Reader.u64, lambda r: r.unpack(Struct(">HQ"))])
def test_nothing_is_read_past_the_end(read: object) -> None:
    assert callable(read)
    width = next(n for n in range(1, 11) if _reads(read, bytes(n)))
    with pytest.raises(MalformedTpmStructure, match="The thing ends too early"):
        read(Reader(bytes(width - 1), "thing"))


def _reads(read: object, data: bytes) -> bool:
    assert callable(read)
    try:
        read(Reader(data, "thing"))
    except MalformedTpmStructure:
        return False
    return True


def test_a_sized_buffer_may_not_claim_more_than_there_is() -> None:
    assert Reader(u16(3) + b"abc", "thing").sized(3) == b"abc"
    with pytest.raises(MalformedTpmStructure, match="ends too early"):
        Reader(u16(4) + b"abc", "thing").sized(4)
    for size in (0, 1):  # octets: not even a size
        with pytest.raises(MalformedTpmStructure, match="ends too early"):
            Reader(bytes(size), "thing").sized(4)


def test_a_sized_buffer_may_not_exceed_its_limit() -> None:
    assert Reader(sized(b"abc"), "thing").sized(3) == b"abc"
    with pytest.raises(MalformedTpmStructure, match="too large"):
        Reader(sized(b"abcd"), "thing").sized(3)


def test_trailing_octets_are_refused() -> None:
    reader = Reader(b"ab", "thing")
    reader.u8()
    with pytest.raises(MalformedTpmStructure, match="Octets follow the end of the thing"):
        reader.done()
    reader.u8()
    reader.done()


def test_the_error_is_malformed_input_with_a_remedy() -> None:
    assert issubclass(MalformedTpmStructure, MalformedInput)
    assert MalformedTpmStructure.slug() == "malformed-tpm-structure"
    assert "TPM structure" in MalformedTpmStructure.remedy


@given(st.binary(max_size=40), st.lists(st.sampled_from(["u8", "u16", "u32", "u64", "sized", "take"]), max_size=8))
def test_any_walk_over_any_octets_ends_in_values_or_the_one_error(data: bytes, steps: list[str]) -> None:
    reader = Reader(data, "thing")
    try:
        for step in steps:
            if step in ("sized", "take"):
                assert len(getattr(reader, step)(5)) <= 5
            else:
                assert getattr(reader, step)() >= 0
        reader.done()
    except MalformedTpmStructure:
        pass
