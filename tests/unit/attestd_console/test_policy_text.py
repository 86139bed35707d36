"""A policy's text in lines and words: whatever it holds, nothing is lost, hidden or made up; differences are whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd_console.policy_text import MAX_COMPARED, Line, difference, lines_of, plain

TEXTS = st.text(alphabet=st.sampled_from('ab"@/\n\\{}= \t\u202e\0é'), max_size=60)


def shown(lines: list[Line]) -> list[str]:
    return ["".join(part.text for part in line.parts) for line in lines]


def test_words_are_told_apart() -> None:
    [line] = lines_of('permit (principal) when { x == "a b" }; // is')
    assert [(part.text, part.kind) for part in line.parts if part.kind] == [
        ("permit", "kw"),
        ("when", "kw"),
        ('"a b"', "str"),
        ("// is", "cm"),
    ]


@given(TEXTS)
def test_no_character_is_lost(text: str) -> None:
    lines = text.removesuffix("\n").split("\n")
    named = [line.replace("\u202e", "U+202E").replace("\0", "U+0000") for line in lines]
    assert shown(lines_of(text)) == named


@pytest.mark.parametrize("character", ["\u202e", "\u2066", "\u200b", "\x1b", "\0", "\x85"])
def test_what_nobody_sees_is_shown_by_its_name(character: str) -> None:
    for text in (f"// a{character}b", f'"a{character}b"', f"a{character}b"):
        [line] = lines_of(text)
        assert [part.text for part in line.parts if part.kind == "hid"] == [f"U+{ord(character):04X}"]


def test_faults_stand_at_their_line() -> None:
    lines = lines_of(
        "a\nb\nc\n", [{"line": 2, "column": 5, "message": "no"}], [{"line": 3, "column": 1, "message": "hm"}]
    )
    assert [(line.kind, line.said) for line in lines] == [
        ("", []),
        ("flaw", [("bad", "Column 5: no")]),
        ("look", [("warn", "Column 1: hm")]),
    ]


def test_a_fault_beyond_the_text_stands_at_its_end() -> None:
    assert lines_of("a\n", [{"line": 99, "column": 1, "message": "no"}])[0].said


@given(TEXTS, TEXTS)
def test_a_difference_leads_from_one_to_the_other(old: str, new: str) -> None:
    """Lines that are not shown are the same in both; all others, without what was removed, are the new text's."""
    found = difference(old, new)
    before, after = old.rstrip("\n").split("\n"), new.rstrip("\n").split("\n")
    assert found.same is (before == after)
    assert found.lines is not None
    for line in found.lines:
        if line.kind != "gap":
            text = (before if line.kind == "del" else after)[int(line.number) - 1]
            assert shown([line]) == shown(lines_of(text) or [Line("1", [])])[:1] or not text
    assert sum(line.kind == "add" for line in found.lines) == found.added
    assert sum(line.kind == "del" for line in found.lines) == found.removed
    numbers = [int(line.number) for line in found.lines if line.kind in ("", "add")]
    assert numbers == sorted(set(numbers))


def test_what_stays_is_left_out() -> None:
    old = "\n".join(map(str, range(100)))
    found = difference(old, old.replace("\n50\n", "\nfifty\n"))
    assert found.lines is not None
    assert [(line.number, line.kind) for line in found.lines] == [
        ("", "gap"), ("48", ""), ("49", ""), ("50", ""), ("51", "del"), ("51", "add"), ("52", ""), ("53", ""),
        ("54", ""), ("", "gap"),
    ]  # fmt: skip
    assert shown(found.lines)[0] == "47 lines as they were"


def test_texts_that_differ_in_too_much_are_not_compared() -> None:
    found = difference("a\n" * (MAX_COMPARED + 1), "b\n" * (MAX_COMPARED + 1))
    assert (found.lines, found.same) == (None, False)


def test_lines_end_in_one_way() -> None:
    assert plain("a\r\nb\rc\n") == "a\nb\nc\n"
