"""Strict base64url and strict JSON: one meaning for each text, a typed error for every other, in linear time."""

from __future__ import annotations

import base64
import contextlib
import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from attestd.errors import InputTooLarge, MalformedInput
from attestd.protocol.encoding import (
    MAX_DEPTH,
    MAX_SECONDS,
    MalformedBase64,
    MalformedJson,
    Members,
    UnsupportedVersion,
    b64decode,
    b64encode,
    read_object,
    write_object,
)

# ---- base64url ----------------------------------------------------------------------------------------------------


@given(st.binary(max_size=100))
def test_every_value_has_one_spelling(data: bytes) -> None:
    text = b64encode(data)
    assert "=" not in text
    assert b64decode(text) == data
    assert text == base64.urlsafe_b64encode(data).decode().rstrip("=")


@given(st.text("AQgwBCaz09-_+/= \n", max_size=12))
def test_no_second_spelling_is_read(text: str) -> None:
    try:
        data = b64decode(text)
    except MalformedBase64:
        return
    assert b64encode(data) == text


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AAAAA",
        "AA==",
        "AAA=",
        "AB",
        "AAB",
        "A+A",
        "A/A",
        "AA AA",
        "AAAA\n",
        "\nAAAA",
        "AA.AA",
        "ÄAAA",
        "\ud800AAA",
        "=",
    ],
)
def test_what_is_not_base64url(text: str) -> None:
    with pytest.raises(MalformedBase64):
        b64decode(text)


@pytest.mark.parametrize("text", ["AA==", "A+A", "A/A", "AA AA", "AAAA\n", "\u00c4AAA"])
def test_a_stray_character_is_called_one(text: str) -> None:
    with pytest.raises(MalformedBase64, match="outside base64url"):
        b64decode(text)


@pytest.mark.parametrize("text", ["A", "AAAAA"])
def test_a_length_that_stands_for_nothing_is_called_one(text: str) -> None:
    with pytest.raises(MalformedBase64, match="impossible length"):
        b64decode(text)


@given(st.text(max_size=50))
def test_random_text_gives_octets_or_a_typed_error(text: str) -> None:
    with contextlib.suppress(MalformedBase64):
        assert b64encode(b64decode(text)) == text


# ---- JSON objects -------------------------------------------------------------------------------------------------


def read(data: bytes, limit: int = 10_000) -> dict[str, Any]:
    return read_object(data, limit=limit)


def test_an_object() -> None:
    assert read(b' {"a": [1, -2.5e3, true, null, "\\u00fc\xc3\xbc"], "b": {}} ') == {
        "a": [1, -2500.0, True, None, "üü"],
        "b": {},
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"[]",
        b'"a"',
        b"1",
        b"null",
        b"{",
        b"}",
        b'{"a"}',
        b'{"a":1,}',
        b'{"a":1}{}',
        b'{"a":1} x',
        b"{'a':1}",
        b'{"a":01}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":[NaN]}',
        b'{"a":1e999}',
        b'{"a":-1e999}',
        b'{"a":"\n"}',
        b'{"a":"\\x"}',
        b'{"a":"\\u12"}',
        b"\xef\xbb\xbf{}",
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',  # a surrogate in UTF-8
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00\\ud800"}',
        b'{"\\uDFFF":1}',
        b'{"a":[{"b":"x\\ud83d"}]}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_object(data: bytes) -> None:
    with pytest.raises(MalformedJson):
        read(data)


def test_surrogate_pairs_are_characters() -> None:
    assert read(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"b":2,"a":3}',
        b'{"x":{"a":1,"a":2}}',
        b'{"x":[{"a":1,"a":2}]}',
        b'{"a":1,"\\u0061":2}',
    ],
)
def test_duplicate_members_are_refused_at_every_depth(data: bytes) -> None:
    with pytest.raises(MalformedJson, match="twice"):
        read(data)


def test_the_size_is_bounded() -> None:
    data = b'{"a":1}'
    assert read(data, limit=7) == {"a": 1}
    with pytest.raises(InputTooLarge):
        read(data, limit=6)


def test_the_depth_is_bounded() -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        inner = b'{"a":' + opening * (MAX_DEPTH - 1) + b"1" + closing * (MAX_DEPTH - 1) + b"}"
        read(inner)
        outer = b'{"a":' + opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH + b"}"
        with pytest.raises(MalformedJson, match="deep"):
            read(outer)


@pytest.mark.parametrize("filler", [b"[" * 200_000, b'{"a":' * 100_000, b'["\\"",' * 50_000])
def test_deep_nesting_never_reaches_the_parser(filler: bytes) -> None:
    with pytest.raises(MalformedJson, match="deep"):
        read(b'{"a":' + filler, limit=1 << 20)


def test_brackets_in_strings_are_text() -> None:
    assert read(b'{"a":"' + b"[{" * 100 + b'\\"[[[[[[[[[[[[[[[[[[[[["}')["a"].count("[") == 121


def test_siblings_are_not_nested() -> None:
    assert len(read(b'{"a":[' + b"[[]]," * 500 + b"0]}")["a"]) == 501


@pytest.mark.parametrize(
    "data",
    [
        b'"\\' * 1_000_000,
        b'"' * 2_000_000,
        b'{"a":"' + b"A" * 2_000_000,
        b'{"a":"' + b"\\" * 2_000_001 + b'"}',
        b'"\\\n' * 500_000,
        b'{"a":' + b"9" * 2_000_000 + b"}",
        b'{"a":"' + b"\\ud800" * 300_000 + b'"}',
    ],
    ids=["escaped quotes", "quotes", "unended", "backslashes", "newlines", "digits", "surrogates"],
)
def test_rubbish_is_refused_in_linear_time(data: bytes) -> None:
    begin = time.process_time()
    with pytest.raises(MalformedInput):
        read(data, limit=1 << 22)
    assert time.process_time() - begin < 5


def test_a_long_string_costs_little_memory() -> None:
    """It once cost 120 octets for each of the string's, in the count of brackets."""
    data = b'{"a":"' + b"A" * 1_000_000 + b'"}'
    tracemalloc.start()
    try:
        read(data, limit=1 << 21)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
@example(b'{"a":1e-999}')
@example(b'{"\\ud800":1}')
def test_random_octets_give_an_object_or_a_typed_error(data: bytes) -> None:
    with contextlib.suppress(MalformedInput):
        found = read(data)
        assert read(write_object(found)) == found


@given(st.text('{}[]",:\\ud8a0\n 1ntfe.-', max_size=40))
def test_nearly_json_gives_an_object_or_a_typed_error(text: str) -> None:
    try:
        found = read(b'{"a":' + text.encode() + b"}")
    except MalformedInput:
        return
    assert read(write_object(found)) == found


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 60), 1 << 60) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_what_is_written_is_read_and_written_the_same(members: dict[str, Any]) -> None:
    data = write_object(members)
    assert read(data) == members
    assert write_object(dict(reversed(members.items()))) == data
    assert json.loads(data) == members


# ---- Members ------------------------------------------------------------------------------------------------------


def members(**found: Any) -> Members:
    return Members(found, "thing")


READERS: dict[str, tuple[Any, Any]] = {
    "text": (lambda m: m.text("a", limit=3), "abc"),
    "integer": (lambda m: m.integer("a"), 5),
    "seconds": (lambda m: m.seconds("a"), 5),
    "octets": (lambda m: m.octets("a", limit=2, least=1), "AAA"),
    "many_octets": (lambda m: m.many_octets("a", limit=2, most=2), ["AAA", ""]),
    "texts": (lambda m: m.texts("a", most=2, limit=3), ["abc", ""]),
    "object": (lambda m: m.object("a"), {}),
    "objects": (lambda m: m.objects("a", most=2), [{}, {}]),
}


@pytest.mark.parametrize("name", READERS)
def test_each_reader_takes_its_type_alone(name: str) -> None:
    read_member, good = READERS[name]
    read_member(members(a=good))
    with pytest.raises(MalformedJson, match="missing"):
        read_member(members(b=good))
    for bad in ("abc", 5, 5.0, True, False, None, [], ["abc"], {}, [[]], [5], [None], [True]):
        if type(bad) is type(good) and not isinstance(good, list):
            continue
        if isinstance(good, list) and bad in ([], ["abc"]) and name in ("texts", "many_octets", "objects"):
            continue
        with pytest.raises(MalformedJson):
            read_member(members(a=bad))


@pytest.mark.parametrize(
    ("read_member", "good", "bad"),
    [
        (READERS["text"][0], "abc", "abcd"),
        (READERS["texts"][0], ["abc"] * 2, ["abc"] * 3),
        (READERS["texts"][0], ["abc"], ["abcd"]),
        (READERS["octets"][0], "AAA", "AAAA"),
        (READERS["octets"][0], "AA", ""),
        (READERS["octets"][0], "AA", "A" * 1000),
        (READERS["many_octets"][0], ["AAA"] * 2, ["AAA"] * 3),
        (READERS["many_octets"][0], ["AAA"], ["AAAA"]),
        (READERS["objects"][0], [{}] * 2, [{}] * 3),
        (READERS["seconds"][0], 0, -1),
        (READERS["seconds"][0], MAX_SECONDS, MAX_SECONDS + 1),
        (READERS["seconds"][0], 1, 10**4000),
    ],
)
def test_each_reader_has_bounds(read_member: Any, good: Any, bad: Any) -> None:
    read_member(members(a=good))
    with pytest.raises((MalformedJson, InputTooLarge)):
        read_member(members(a=bad))


def test_text_without_a_nul() -> None:
    """PostgreSQL has no room for one, and C strings end there."""
    with pytest.raises(MalformedJson, match="NUL"):
        Members({"a": "b\0c"}, "message").text("a")


def test_members_that_nobody_asked_for_are_refused() -> None:
    asked = members(a="x", b=1)
    asked.text("a")
    with pytest.raises(MalformedJson, match="does not know"):
        asked.done()
    asked.integer("b")
    asked.done()


def test_asking_whether_is_not_asking_for() -> None:
    asked = members(a="x")
    assert "a" in asked
    assert "b" not in asked
    with pytest.raises(MalformedJson):
        asked.done()


def test_taking_all_members_is_asking_for_all() -> None:
    asked = members(a="x", b=1)
    assert dict(asked.items()) == {"a": "x", "b": 1}
    asked.done()


@pytest.mark.parametrize("version", [0, 2, -1, 10**400])
def test_other_versions(version: int) -> None:
    members(v=1).version()
    with pytest.raises(UnsupportedVersion):
        members(v=version).version()
    with pytest.raises(MalformedJson):
        members(v="1").version()
    with pytest.raises(MalformedJson):
        members(v=True).version()


def test_errors_name_the_member_and_stay_short() -> None:
    with pytest.raises(MalformedJson, match=r"thing\.a\.b is missing"):
        members(a={}).object("a").text("b")
    with pytest.raises(MalformedJson) as caught:
        Members({"x" * 100_000: 1, "y": 2}, "thing").done()
    assert len(str(caught.value)) < 400
    with pytest.raises(MalformedBase64) as also:
        b64decode("!" * 100_000)
    assert len(str(also.value)) < 400
