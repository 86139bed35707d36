"""Where the entries of a list begin: what a device may leave out that the service knows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from attestd.tpm.ima import ImaListMismatch, replay
from attestd.tpm.imalist import MAX_ENTRY, MAX_LINE, MalformedImaList, position_of
from attestd.tpm.imastate import ImaState
from tests import ima_lists as w
from tests.unit.tpm.test_ima import BEGIN, FORMS, SOME, both_forms


@both_forms
def test_each_entry_begins_where_those_before_it_end(write: Callable[..., bytes]) -> None:
    data = write(SOME)
    for number in range(len(SOME) + 1):
        assert position_of(data, number) == len(write(SOME[:number]))


def test_neighbours_of_another_template_are_not_taken_for_alike() -> None:
    """In so long a list, their sizes misread would be plausible ones."""
    items = [w.boot_aggregate(), *[w.ng("/usr/bin/a"), w.sig("/usr/bin/b", signature=b"\3\2sig")] * 300]
    data = w.binary(items)
    for number in (1, 2, 3, 100, len(items)):
        assert position_of(data, number) == len(w.binary(items[:number]))


@both_forms
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("algorithm", w.SIZES)
def test_whatever_a_kernel_writes(write: Callable[..., bytes], order: str, algorithm: str) -> None:
    data = write(SOME[:5], order, algorithm)
    assert position_of(data, 3) == len(write(SOME[:3], order, algorithm))


def test_one_that_is_cut_off_among_neighbours_is_refused() -> None:
    data = w.binary([w.boot_aggregate(), *[w.ng("/usr/bin/a")] * 9])
    assert position_of(data, 10) == len(data)
    with pytest.raises(MalformedImaList):
        position_of(data[:-1], 10)


@both_forms
def test_a_list_with_fewer_entries_says_so(write: Callable[..., bytes]) -> None:
    assert position_of(write(SOME), len(SOME) + 1) is None
    assert position_of(write(SOME[:1]), 2_000_000_000) is None
    assert position_of(b"", 1) is None
    assert position_of(b"", 0) == 0


def test_a_last_line_without_its_end_counts() -> None:
    data = w.text(SOME[:3]).removesuffix(b"\n")
    assert position_of(data, 3) == len(data)
    assert position_of(data, 4) is None


def test_an_empty_line_is_no_entry() -> None:
    first, second = w.text(SOME[:1]), w.text(SOME[1:2])
    assert position_of(first + b"\n" + second, 2) == len(first + second) + 1


@both_forms
def test_what_is_left_is_what_the_rest_of_the_replay_takes(write: Callable[..., bytes]) -> None:
    data = write(SOME)
    known = replay(BEGIN, write(SOME[:20]), quoted={"sha256": w.pcr10(SOME[:20])})
    at = position_of(data, known.entries)
    assert at is not None
    whole = replay(known, data[at:], quoted={"sha256": w.pcr10(SOME)})
    assert isinstance(whole, ImaState)
    assert whole.entries == len(SOME)


@both_forms
def test_one_entry_further_is_another_list(write: Callable[..., bytes]) -> None:
    data = write(SOME)
    known = replay(BEGIN, write(SOME[:20]), quoted={"sha256": w.pcr10(SOME[:20])})
    with pytest.raises(ImaListMismatch):
        replay(known, data[position_of(data, known.entries + 1) :], quoted={"sha256": w.pcr10(SOME)})


@pytest.mark.parametrize(
    "data",
    [
        w.binary(SOME)[:-1],
        w.binary(SOME[:2]) + b"\x63\0\0\0" + w.binary(SOME[2:])[4:],
        w.binary(SOME[:2]) + w.ng("/usr/bin/x" * (MAX_ENTRY // 10)).binary() + w.binary(SOME[2:]),
        w.text(SOME[:2]) + b"99 nonsense\n",
        w.text(SOME[:1]) + b"10 " + b"a" * (MAX_LINE + 10),
        b"nonsense",
    ],
    ids=["cut off", "a PCR that there is not", "a huge one", "no line", "a line without end", "no list"],
)
def test_a_malformed_list_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedImaList):
        position_of(data, len(SOME))


@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_what_follows_is_not_read(write: Callable[..., bytes]) -> None:
    data = write(SOME[:2])
    assert position_of(data + b"\xff" * 1000, 2) == len(data)
