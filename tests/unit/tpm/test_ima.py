"""IMA lists walked and replayed: every template and both forms, up to what a quote proves and no further."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from attestd.tpm.ima import AnotherListForm, BankNotReplayed, ImaListMismatch, ImaWalk, TemplateDigestMismatch, replay
from attestd.tpm.imalist import MAX_ENTRY, MalformedImaList, form_of
from attestd.tpm.imastate import HASHED, PADDED, Chain, ImaState, ListForm
from attestd.tpm.imatemplates import FileDigest, MalformedImaEntry, read_event
from tests import ima_lists as w

SOME = [
    w.boot_aggregate(),
    *(w.ng(f"/usr/lib/lib{number}.so", str(number).encode()) for number in range(40)),
    w.sig("/usr/bin/signed", b"signed", b"\3\2signature"),
    w.violation("/var/log/journal"),
    w.buf(".ima", b"a certificate"),
    w.ngv2("/usr/bin/v2", kind="verity"),
    w.modsig("/lib/modules/a.ko", b"whole", b"part", b"cms"),
    w.evm_sig("/usr/bin/evm"),
    w.old("/usr/bin/old"),
    w.ng("/usr/bin/last", algorithm="sha1"),
]
FORMS: dict[str, Callable[[list[w.Item]], bytes]] = {"binary": w.binary, "text": w.text}
both_forms = pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
BEGIN = ImaState.begin(["sha256"])


def walk(
    source: Any, *, quoted: bytes | None = None, state: ImaState = BEGIN, survey: bool = False
) -> tuple[ImaWalk, list[bytes]]:
    """The whole walk, and the names of the entries that it gave."""
    found = ImaWalk(state, source, quoted={"sha256": quoted} if quoted is not None else None, survey=survey)
    names = [read_event(run.template, data, run.order).name for run in found for data in run.items]
    return found, names


def names_of(items: list[w.Item]) -> list[bytes]:
    return [item.fields[1][0].rstrip(b"\0") for item in items if not item.violation]


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


# ---- Replay -------------------------------------------------------------------------------------------------------


@both_forms
@pytest.mark.parametrize("bank", w.SIZES)
def test_a_list_replays_to_what_the_kernel_extended(write: Callable[..., bytes], bank: str) -> None:
    state = replay(ImaState.begin([bank]), write(SOME), quoted={bank: w.pcr10(SOME, bank)})
    assert (state.entries, state.violations, state.elsewhere) == (len(SOME), 1, 0)
    assert state.chains == (Chain(bank, HASHED, w.pcr10(SOME, bank)),)


@both_forms
def test_a_kernel_that_fills_up_sha1_digests_is_told_apart(write: Callable[..., bytes]) -> None:
    """Before Linux 5.8."""
    value = w.pcr10(SOME, padded=True)
    state = replay(BEGIN, write(SOME), quoted={"sha256": value})
    assert state.chains == (Chain("sha256", PADDED, value),)
    more = [w.ng("/usr/bin/more")]
    assert replay(state, write(more), quoted={"sha256": w.pcr10([*SOME, *more], padded=True)}).entries == len(SOME) + 1
    with pytest.raises(ImaListMismatch):
        replay(state, write(more), quoted={"sha256": w.pcr10([*SOME, *more])})


@both_forms
def test_several_banks_are_reached_at_once(write: Callable[..., bytes]) -> None:
    quoted = {bank: w.pcr10(SOME, bank) for bank in w.SIZES}
    state = replay(ImaState.begin(w.SIZES), write(SOME), quoted=quoted)
    assert state.pcr10 == quoted
    for bank in w.SIZES:
        behind = {**quoted, bank: w.pcr10(SOME[:-1], bank)}
        with pytest.raises(ImaListMismatch):
            replay(ImaState.begin(w.SIZES), write(SOME), quoted=behind)


@both_forms
@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_lists_of_other_banks(write: Callable[..., bytes], algorithm: str) -> None:
    """Linux 6.10 has a list for each bank, with that bank's template digests."""
    listed = write(SOME, algorithm=algorithm)
    for bank in ("sha1", "sha256", algorithm):
        assert replay(ImaState.begin([bank]), listed, quoted={bank: w.pcr10(SOME, bank)}).entries == len(SOME)
    padded = w.pcr10(SOME, "sha256", padded=True)
    assert replay(BEGIN, listed, quoted={"sha256": padded}).chains[0].form == PADDED


@both_forms
def test_lists_of_big_endian_machines(write: Callable[..., bytes]) -> None:
    """Without `ima_canonical_fmt` the numbers, which the digests are over, are as the machine has them."""
    items = [item for item in SOME if item.template != "evm-sig"]
    state = replay(BEGIN, write(items, order=">"), quoted={"sha256": w.pcr10(items, order=">")})
    assert (state.entries, state.boot_aggregate) == (len(items), replay(BEGIN, w.binary(items[:1])).boot_aggregate)


@both_forms
@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_pieces_of_any_size(write: Callable[..., bytes], size: int) -> None:
    found, names = walk(in_pieces(write(SOME), size), quoted=w.pcr10(SOME))
    assert found.proven().entries == len(SOME)
    assert names == names_of(SOME)


@both_forms
def test_an_entry_at_every_end_of_a_block(write: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that end anywhere: in a head, in a name, in a length, between entries."""
    monkeypatch.setattr("attestd.tpm.imalist._BLOCK", 1)
    items = [*SOME[:3], w.old("/usr/bin/old"), *SOME[3:6]]
    data = write(items)
    for size in range(1, 160):
        assert walk(in_pieces(data, size), quoted=w.pcr10(items))[1] == names_of(items)


@both_forms
def test_long_runs(write: Callable[..., bytes]) -> None:
    """More entries of a kind than one run has, with one of another kind within."""
    items = [w.ng(f"/f{number}") for number in range(4500)]
    items[4200] = w.buf("kexec-cmdline", b"quiet")
    found, names = walk(write(items), quoted=w.pcr10(items))
    assert found.proven().entries == len(items)
    assert names == names_of(items)


def test_the_last_line_may_lack_its_end_and_lines_may_be_empty() -> None:
    assert replay(BEGIN, w.text(SOME)[:-1]) == replay(BEGIN, w.text(SOME).replace(b"\n", b"\n\n"))


def test_a_pcr_of_one_digit_in_text() -> None:
    items = [w.boot_aggregate(), w.ng("/a", pcr=8)]
    assert w.text(items).splitlines()[1].startswith(b" 8 ")
    assert replay(BEGIN, w.text(items)).elsewhere == 1


# ---- What is proven, and what is not ------------------------------------------------------------------------------


@both_forms
def test_entries_after_the_quoted_one_are_ignored_and_never_read(write: Callable[..., bytes]) -> None:
    """The kernel appends before it extends, and anybody may append: neither decides anything."""
    for tail in (
        write([w.ng("/evil")]),
        b"\n10 nonsense\n",
        b"\xff" * 100,
        write([w.ng("/a", lies={"digest": bytes(19) + b"1"})]),
    ):
        found, names = walk(write(SOME) + tail, quoted=w.pcr10(SOME))
        assert found.proven().entries == len(SOME)
        assert names == names_of(SOME)


@both_forms
def test_the_quote_may_be_of_any_entry(write: Callable[..., bytes]) -> None:
    for count in range(1, len(SOME) + 1):
        found, names = walk(write(SOME), quoted=w.pcr10(SOME[:count]))
        assert (found.proven().entries, names) == (count, names_of(SOME[:count]))


@both_forms
@pytest.mark.parametrize(
    "forge",
    [
        lambda items: items[1:],
        lambda items: [*items[:5], *items[6:]],
        lambda items: [items[1], items[0], *items[2:]],
        lambda items: [*items[:5], w.ng("/usr/lib/lib4.so", b"evil"), *items[6:]],
        lambda items: [*items[:5], w.ng("/evil", b"4"), *items[6:]],
        lambda items: [*items[:5], w.violation("/usr/lib/lib4.so"), *items[6:]],
        lambda items: [item for item in items if not item.violation],
        lambda items: items[:-1],
        lambda items: [],
    ],
    ids=[
        "the first left out", "one left out", "two swapped", "another digest", "another path", "made a violation",
        "a violation left out", "the last left out", "empty",
    ],
)  # fmt: skip
def test_a_list_with_one_lie_proves_nothing(write: Callable[..., bytes], forge: Callable[..., list[w.Item]]) -> None:
    assert replay(BEGIN, write(SOME), quoted={"sha256": w.pcr10(SOME)})
    forged = forge(SOME)
    with pytest.raises(ImaListMismatch) as refused:
        replay(BEGIN, write(forged), quoted={"sha256": w.pcr10(SOME)})
    assert refused.value.seen is not None
    assert f"{len(forged)} entries" in refused.value.seen
    assert refused.value.expected == f"{w.pcr10(SOME).hex()} (sha256)"


@both_forms
def test_a_template_digest_that_is_wrong(write: Callable[..., bytes]) -> None:
    """In SHA-256 banks nothing extends the list's SHA-1 digest: a wrong one still is a list that somebody edited."""
    lying = [*SOME[:5], w.ng("/usr/lib/lib4.so", b"4", lies={"digest": bytes(19) + b"\1"}), *SOME[6:]]
    assert w.pcr10(lying) == w.pcr10(SOME)
    with pytest.raises(TemplateDigestMismatch, match="entry 6"):
        replay(BEGIN, write(lying), quoted={"sha256": w.pcr10(SOME)})
    with pytest.raises(TemplateDigestMismatch, match="entry 6"):
        replay(BEGIN, write(lying))
    found, _ = walk(write(lying), quoted=w.pcr10(SOME), survey=True)
    assert (found.wrong, found.first_wrong) == (1, 6)
    with pytest.raises(TemplateDigestMismatch, match="entry 6"):
        found.proven()


def test_a_violation_extends_all_ones() -> None:
    """What it says of its file is proven by nothing: another name replays alike."""
    items = [w.boot_aggregate(), w.violation("/var/log/a")]
    zeros = [w.boot_aggregate(), w.ng("/var/log/a", lies={"digest": bytes(20)})]
    quoted = {"sha256": w.pcr10(items)}
    for written in (items, [items[0], w.violation("/usr/bin/evil")], zeros):
        for listed in (w.binary(written), w.text(written)):
            state = replay(BEGIN, listed, quoted=quoted)
            assert state.violations == 1
            assert walk(listed)[1] == [b"boot_aggregate"]
    assert w.pcr10(items) == hashlib.sha256(w.pcr10(items[:1]) + b"\xff" * 32).digest()


def test_a_pcr_of_zeros_proves_nothing() -> None:
    """Nothing was measured, and every list has that beginning."""
    for listed in (b"", w.binary(SOME), w.text(SOME)):
        with pytest.raises(ImaListMismatch):
            replay(BEGIN, listed, quoted={"sha256": bytes(32)})


@both_forms
def test_entries_for_other_pcrs_extend_those(write: Callable[..., bytes]) -> None:
    """A measure rule with `pcr=11`: nothing in PCR 10 proves it, so it is counted and not given out."""
    items = [
        *SOME[:5],
        w.ng("/home/key", pcr=11),
        replace(w.violation("/x"), pcr=11),
        *SOME[5:],
    ]
    found, names = walk(write(items), quoted=w.pcr10(SOME))
    state = found.proven()
    assert (state.entries, state.elsewhere, state.violations) == (len(items), 2, 1)
    assert b"/home/key" not in names
    with pytest.raises(ImaListMismatch):
        replay(
            BEGIN,
            write([*SOME[:5], w.ng("/usr/lib/lib4.so", b"4", pcr=11), *SOME[6:]]),
            quoted={"sha256": w.pcr10(SOME)},
        )


def test_a_kernel_built_for_another_pcr() -> None:
    items = [w.Item(item.template, item.fields, 12, item.violation) for item in SOME]
    found = ImaWalk(BEGIN, w.binary(items), quoted={"sha256": w.pcr10(SOME)}, pcr=12)
    assert len([data for run in found for data in run.items]) == len(SOME) - 1
    assert found.proven().entries == len(SOME)


def test_without_a_quote_nothing_is_proven() -> None:
    found, _ = walk(w.binary(SOME))
    assert found.state.entries == len(SOME)
    with pytest.raises(ImaListMismatch):
        found.proven()


# ---- Going on from a state ----------------------------------------------------------------------------------------


@both_forms
def test_only_new_entries_travel(write: Callable[..., bytes]) -> None:
    for count in (1, 20, len(SOME) - 1):
        known = replay(BEGIN, write(SOME[:count]), quoted={"sha256": w.pcr10(SOME[:count])})
        state = replay(known, write(SOME[count:]), quoted={"sha256": w.pcr10(SOME)})
        assert state == replay(BEGIN, write(SOME), quoted={"sha256": w.pcr10(SOME)})


def test_nothing_new() -> None:
    known = replay(BEGIN, w.binary(SOME), quoted={"sha256": w.pcr10(SOME)})
    for listed in (b"", w.binary([w.ng("/evil")]), b"nonsense"):
        assert replay(known, listed, quoted={"sha256": w.pcr10(SOME)}) == known


def test_a_whole_list_is_no_continuation() -> None:
    """rust-keylime#1077."""
    known = replay(BEGIN, w.binary(SOME), quoted={"sha256": w.pcr10(SOME)})
    more = [*SOME, w.ng("/new")]
    with pytest.raises(ImaListMismatch):
        replay(known, w.binary(more), quoted={"sha256": w.pcr10(more)})
    assert replay(BEGIN, w.binary(more), quoted={"sha256": w.pcr10(more)}).entries == len(more)


def test_a_bank_that_was_not_replayed_from_the_beginning() -> None:
    known = replay(BEGIN, w.binary(SOME), quoted={"sha256": w.pcr10(SOME)})
    with pytest.raises(BankNotReplayed, match="sha384"):
        replay(known, b"", quoted={"sha384": w.pcr10(SOME, "sha384")})


@pytest.mark.parametrize("begun", ["little sha1", "big sha1", "little sha256", "text"])
@pytest.mark.parametrize("goes_on", ["little sha1", "big sha1", "little sha256", "text"])
def test_a_part_is_written_as_the_one_before(begun: str, goes_on: str) -> None:
    """Only then they are one list, which anybody can read again."""
    forms: dict[str, Callable[[list[w.Item]], bytes]] = {
        "little sha1": w.binary,
        "big sha1": lambda items: w.binary(items, ">"),
        "little sha256": lambda items: w.binary(items, algorithm="sha256"),
        "text": w.text,
    }
    some = [w.boot_aggregate(), w.violation("/x"), w.ng("/bin/a"), w.ng("/bin/b")]
    known = replay(BEGIN, forms[begun](some[:2]))
    if begun == goes_on:
        assert replay(known, forms[goes_on](some[2:])) == replay(BEGIN, forms[begun](some))
        return
    with pytest.raises(AnotherListForm):
        replay(known, forms[goes_on](some[2:]))


def test_a_text_goes_on_in_the_order_that_it_began_in() -> None:
    known = replay(BEGIN, w.text([w.boot_aggregate()], ">"))
    assert replay(known, w.text([w.ng("/bin/a")], ">")).entries == 2
    with pytest.raises(TemplateDigestMismatch):
        replay(known, w.text([w.ng("/bin/a")], "<"))
    with pytest.raises(AnotherListForm):
        replay(known, w.text([w.ng("/bin/a")], ">", "sha256"))


def test_a_text_that_tells_no_order_yet() -> None:
    known = replay(BEGIN, w.text([w.violation("/x")]))
    assert known.form == ListForm(True, "sha1", "")
    assert replay(known, w.text([w.ng("/bin/a")], ">")).form == ListForm(True, "sha1", "big")


# ---- Surveys ------------------------------------------------------------------------------------------------------


@both_forms
def test_a_survey_tells_of_the_whole_list(write: Callable[..., bytes]) -> None:
    items = [*SOME, w.ng("/a"), w.violation("/b"), w.ng("/c", lies={"digest": bytes(19) + b"\1"})]
    found, _ = walk(write(items), quoted=w.pcr10(SOME), survey=True)
    assert (found.state.entries, found.state.violations, found.wrong) == (len(items), 2, 1)
    assert found.proven().entries == len(SOME)
    assert found.text is (write is w.text)
    assert found.templates == {
        "ima-ng": 46, "ima-sig": 1, "ima-buf": 1, "ima-ngv2": 1, "ima-modsig": 1, "evm-sig": 1, "ima": 1,
    }  # fmt: skip


def test_a_survey_of_text_that_can_not_be_hashed() -> None:
    """The list's own digest still extends SHA-1; what other banks hold can't be known."""
    line = w.ng("/bin/sh", algorithm="sha1").text().replace("sha1:", "sha1:I")
    found = ImaWalk(ImaState.begin(["sha1", "sha256"]), line.encode(), survey=True)
    assert list(found) == []
    assert found.state.pcr10 == {"sha1": w.pcr10([w.ng("/bin/sh", algorithm="sha1")], "sha1"), "sha256": None}
    assert found.wrong == 1
    with pytest.raises(MalformedImaEntry):
        replay(BEGIN, line.encode())


def test_a_survey_bounds_what_it_counts_by_name() -> None:
    items = [w.Item(f"t{number}", w.ng("/a").fields) for number in range(100)]
    found = ImaWalk(BEGIN, w.binary([w.ng("/a"), *items]), survey=True)
    assert len(list(found)) == 101
    assert len(found.templates) == 33
    assert sum(found.templates.values()) == 101


# ---- Lists that can't be read -------------------------------------------------------------------------------------

ONE = w.ng("/bin/sh").binary()
NAME = 4 + 20  # where the size of the template's name is
MALFORMED = {
    "no list": b"this-is-an-invalid-ima-log-file",
    "a PCR that there is not": struct.pack("<I", 24) + ONE[4:],
    "cut in the head": ONE[:10],
    "cut in the template's name": ONE[: NAME + 6],
    "cut in the data": ONE[:-1],
    "an octet more": ONE + b"\n",
    "a huge template name": ONE + ONE[:NAME] + struct.pack("<I", 0xFFFFFFFF) + ONE[NAME + 4 :],
    "no template name": ONE + ONE[:NAME] + struct.pack("<I", 0) + ONE[NAME + 10 :],
    "a template name that is no name": ONE + ONE.replace(b"ima-ng", b"ima\0ng"),
    "an unknown first template": ONE.replace(b"ima-ng", b"ima-zz"),
    "huge data": ONE + ONE[: NAME + 10] + struct.pack("<I", 0xFFFFFFFF) + ONE[NAME + 14 :],
    "data above the limit": ONE + ONE[: NAME + 10] + struct.pack("<I", MAX_ENTRY + 1) + bytes(MAX_ENTRY + 1),
    "a later PCR that there is not": ONE + struct.pack("<I", 24) + ONE[4:],
    "a name too long for `ima`": ONE + w.Item("ima", ((bytes(20), ""), (b"x" * 256, ""))).binary(),
    "`ima` cut in its name": w.old("/bin/sh").binary()[:-1],
    "`ima` cut before its name": w.old("/bin/sh").binary()[:-12],
    "text: no digest": b"10 zz ima-ng sha256:00 /a",
    "text: a digest of no hash": b"10 0011 ima-ng sha256:00 /a",
    "text: a digest of another hash": w.text([w.ng("/a")]) + w.text([w.ng("/a")], algorithm="sha256"),
    "text: too few words": b"10 " + b"11" * 20,
    "text: a PCR that there is not": w.text([w.ng("/a", pcr=24)]),
    "text: no PCR": w.text([w.ng("/a")]) + b"x" + w.text([w.ng("/a")]),
    "text: a line without end": w.text([w.ng("/a")]) + b"1" * (4 * MAX_ENTRY),
    "text: a line too long": w.text([w.ng("/a"), w.buf("x", bytes(MAX_ENTRY + 600))]),
    "text: a digest in spaces": b"10 " + b"1 " * 20 + b" ima-ng sha256:00 /a",
}  # fmt: skip


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_lists(data: bytes) -> None:
    for source in (data, in_pieces(data, 1000)):
        with pytest.raises(MalformedImaList) as refused:
            replay(BEGIN, source)
        assert len(str(refused.value)) < 400


def test_an_unknown_template_later_on_is_replayed_and_left_to_the_judge() -> None:
    """Its octets are what was extended; what they say nobody knows. In text they can't even be hashed."""
    items = [w.boot_aggregate(), w.Item("ima-next", w.ng("/a").fields), w.ng("/b")]
    found = ImaWalk(BEGIN, w.binary(items), quoted={"sha256": w.pcr10(items)})
    assert [(run.first, run.template) for run in found] == [(1, b"ima-ng"), (2, b"ima-next"), (3, b"ima-ng")]
    assert found.proven().entries == 3
    with pytest.raises(MalformedImaEntry):
        replay(BEGIN, w.text(items))


def test_forms_are_told_apart_by_where_the_first_name_is() -> None:
    for order, spelled in (("<", "little"), (">", "big")):
        for algorithm, size in w.SIZES.items():
            for item in (w.boot_aggregate(), w.old("/a"), w.Item("d-ng|n-ng", w.ng("/a").fields)):
                form = form_of(item.binary(order, algorithm))
                assert (form.order, form.digest_size) == (spelled, size)


# ---- Bounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_lists_cost_no_more_memory_than_they_have(data: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(MalformedImaList):
        replay(BEGIN, data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * len(data) + 200_000


@pytest.mark.parametrize(
    "data",
    [
        MALFORMED["a huge template name"],
        MALFORMED["huge data"],
        w.text([w.ng("/a")]) + b"1",
        ONE + w.old("/a").binary()[:51] + b"\xff" * 4,
    ],
    ids=["a huge template name", "huge data", "a line without end", "a huge name of `ima`"],
)
def test_no_more_is_read_for_an_impossible_size(data: bytes) -> None:
    """However long the stream is that follows."""
    given = 0

    def endless() -> Iterator[bytes]:
        nonlocal given
        yield data
        for _ in range(200):
            given += 100_000
            yield b"1" * 100_000

    with pytest.raises(MalformedImaList):
        replay(BEGIN, endless())
    assert given < 8 * MAX_ENTRY


def test_memory_does_not_grow_with_the_list() -> None:
    block = w.binary([w.ng(f"/usr/lib/{number:03000}.so") for number in range(100)])

    def peak(blocks: int) -> int:
        tracemalloc.start()
        found = ImaWalk(BEGIN, (block for _ in range(blocks)), quoted={"sha256": bytes(32)})
        for _ in found:
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found.state.entries == 100 * blocks
        return most

    assert peak(30) < 1.05 * peak(10)


# ---- The boot's aggregate -----------------------------------------------------------------------------------------


def test_the_first_entry_is_kept() -> None:
    state = replay(BEGIN, w.binary(SOME))
    assert state.boot_aggregate == FileDigest("sha256", w.digest_of(b"".join(w.PCRS_0_TO_9)))
    later = [w.ng("/a"), w.boot_aggregate()]
    assert replay(BEGIN, w.binary(later)).boot_aggregate is None
    assert replay(BEGIN, w.binary([w.violation("boot_aggregate")])).boot_aggregate is None
