"""Facts are canonical, bounded and strict, wherever they travel."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials.facts import FACTS_OID, MAX_FACTS, MAX_INDEX, Facts, FactsTooLarge, MalformedFacts
from attestd.errors import InputTooLarge, MalformedInput
from attestd.protocol.encoding import MalformedJson, Members, UnsupportedVersion, write_object
from tests.authority import FACTS

MEMBERS = FACTS.to_members()


def encoded(**lies: Any) -> bytes:
    members = {name: value for name, value in {**MEMBERS, **lies}.items() if value is not ...}
    return json.dumps(members, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "lie",
    [
        {"status_index": True},
        {"status_index": 1.0},
        {"status_index": -1},
        {"attested_at": True},
        {"attested_at": 1.5},
        {"attested_at": 0},
        {"vector": {"hardware": 2.0}},
        {"boot": {"a": 1.0}},
    ],
)
def test_the_service_can_t_make_facts_that_no_edge_reads(lie: dict[str, Any]) -> None:
    with pytest.raises(MalformedFacts):
        dataclasses.replace(FACTS, **lie)


def test_the_encoding_is_the_protocol_s() -> None:
    assert FACTS.encode() == (
        b'{"att":1772366340,"boot":{"secure_boot":true},"idx":7,"lbl":{"fleet":"bikes"},"v":1,'
        b'"vec":{"executables":2,"instance-identity":2}}'
    )
    assert Facts.decode(FACTS.encode()) == FACTS


def test_the_extension_is_a_utf8_string() -> None:
    extension = FACTS.to_extension()
    assert extension.oid == FACTS_OID
    data = FACTS.encode()
    assert extension.value == b"\x0c\x81" + bytes((len(data),)) + data
    assert Facts.from_extension(extension.value) == FACTS


@pytest.mark.parametrize("size", [100, 127, 128, 255, 256, 1024])
def test_the_extension_s_length_is_der_at_every_size(size: int) -> None:
    facts = sized(size)
    value = facts.to_extension().value
    assert Facts.from_extension(value) == facts
    assert len(value) == size + (2 if size < 128 else 3 if size < 256 else 4)


def sized(size: int) -> Facts:
    """Facts whose JSON has exactly `size` octets."""
    bare = Facts(vector={}, labels={}, boot={}, status_index=0, attested_at=1)
    labels: dict[str, str] = {}
    if rest := size - len(bare.encode()):
        # Each label costs 6 octets around its text, and a comma from the second on.
        while rest > 0:
            name, cost = f"{len(labels):01x}", 6 + bool(labels)
            text = min(rest - cost, 200)
            if 0 < rest - cost - text < 12:
                text -= 12
            labels[name] = "x" * text
            rest -= cost + text
    facts = dataclasses.replace(bare, labels=labels)
    assert len(facts.encode()) == size
    return facts


def test_1024_octets_fit_and_1025_do_not() -> None:
    assert len(sized(MAX_FACTS).encode()) == MAX_FACTS
    larger = dataclasses.replace(sized(MAX_FACTS), attested_at=12)
    with pytest.raises(FactsTooLarge):
        larger.encode()
    with pytest.raises(FactsTooLarge):
        Facts.read(Members(larger.to_members(), "facts"))
    with pytest.raises(FactsTooLarge):
        larger.to_extension()
    with pytest.raises(InputTooLarge):
        Facts.decode(json.dumps(larger.to_members(), separators=(",", ":"), sort_keys=True).encode())


@pytest.mark.parametrize(
    "good",
    [
        {},
        {"vec": {}},
        {"vec": {"hardware": -128, "configuration": 127}},
        {"lbl": {"a/b.c-d_e": "ü " + "x" * 200, "0" * 63: ""}},
        {"boot": {"kernel": "6.1", "secure_boot": False, "count": -3, "large": 1 << 53}},
        {"idx": 0},
        {"idx": (1 << 26) - 1},
        {"att": 1},
        {"att": (1 << 40) - 1},
    ],
)
def test_what_facts_may_say(good: dict[str, Any]) -> None:
    assert Facts.decode(encoded(**good)).to_members() == {**MEMBERS, **good}


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"v": 2}, UnsupportedVersion),
        ({"v": True}, MalformedJson),
        ({"v": ...}, MalformedJson),
        ({"more": 1}, MalformedJson),
        ({"vec": []}, MalformedJson),
        ({"vec": ...}, MalformedJson),
        ({"vec": {"luck": 2}}, MalformedFacts),
        ({"vec": {"hardware": 128}}, MalformedFacts),
        ({"vec": {"hardware": -129}}, MalformedFacts),
        ({"vec": {"hardware": True}}, MalformedFacts),
        ({"vec": {"hardware": "2"}}, MalformedFacts),
        ({"vec": {"hardware": 2.0}}, MalformedFacts),
        ({"lbl": ...}, MalformedJson),
        ({"lbl": {"": "x"}}, MalformedFacts),
        ({"lbl": {"-a": "x"}}, MalformedFacts),
        ({"lbl": {"a b": "x"}}, MalformedFacts),
        ({"lbl": {"ä": "x"}}, MalformedFacts),
        ({"lbl": {"a": "x\n"}}, MalformedFacts),
        ({"lbl": {"a" * 64: "x"}}, MalformedFacts),
        ({"lbl": {"a": "x" * 257}}, MalformedFacts),
        ({"lbl": {"a": "two\nlines"}}, MalformedFacts),
        ({"lbl": {"a": "\u202eright to left"}}, MalformedFacts),
        ({"lbl": {"a": 1}}, MalformedFacts),
        ({"lbl": {"a": True}}, MalformedFacts),
        ({"lbl": {"a": None}}, MalformedFacts),
        ({"boot": ...}, MalformedJson),
        ({"boot": {"a b": True}}, MalformedFacts),
        ({"boot": {"a": 1.5}}, MalformedFacts),
        ({"boot": {"a": None}}, MalformedFacts),
        ({"boot": {"a": ["x"]}}, MalformedFacts),
        ({"boot": {"a": "\x00"}}, MalformedFacts),
        ({"boot": {"a": (1 << 53) + 1}}, MalformedFacts),
        ({"boot": {"a": -(1 << 53) - 1}}, MalformedFacts),
        ({"idx": -1}, MalformedFacts),
        ({"idx": 1 << 26}, MalformedFacts),
        ({"idx": True}, MalformedJson),
        ({"idx": "7"}, MalformedJson),
        ({"idx": ...}, MalformedJson),
        ({"att": 0}, MalformedFacts),
        ({"att": 1 << 40}, MalformedFacts),
        ({"att": 1.5}, MalformedJson),
        ({"att": ...}, MalformedJson),
    ],
)
def test_what_facts_may_not_say(lie: dict[str, Any], refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        Facts.decode(encoded(**lie))


@pytest.mark.parametrize(
    "spelling",
    [
        lambda data: data.replace(b'"idx":7', b'"idx": 7'),
        lambda data: b" " + data,
        lambda data: data + b"\n",
        lambda data: data.replace(b"bikes", b"b\\u0069kes"),
        lambda data: json.dumps({"vec": MEMBERS["vec"], **MEMBERS}, separators=(",", ":")).encode(),
    ],
)
def test_no_second_spelling(spelling: Any) -> None:
    with pytest.raises(MalformedFacts):
        Facts.decode(spelling(FACTS.encode()))


def test_duplicate_members_are_refused() -> None:
    with pytest.raises(MalformedJson):
        Facts.decode(FACTS.encode().replace(b'"idx":7', b'"idx":7,"idx":8'))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x0c",
        b"\x0c\x00",
        FACTS.encode(),
        b"\x04\x81" + bytes((len(FACTS.encode()),)) + FACTS.encode(),  # OCTET STRING
        b"\x0c\x82\x00" + bytes((len(FACTS.encode()),)) + FACTS.encode(),  # not the shortest length
        b"\x0c\x80" + FACTS.encode() + b"\x00\x00",  # indefinite length
        FACTS.to_extension().value + b"\x00",
        FACTS.to_extension().value[:-1],
    ],
)
def test_any_other_der_is_refused(value: bytes) -> None:
    with pytest.raises(MalformedInput):
        Facts.from_extension(value)


def test_an_oversized_extension_is_refused_unread() -> None:
    with pytest.raises(FactsTooLarge):
        Facts.from_extension(b"\x0c\x83\x10\x00\x00" + b" " * (1 << 20))


@given(st.binary(max_size=1100))
def test_random_octets_give_typed_errors(data: bytes) -> None:
    with pytest.raises((MalformedInput, InputTooLarge)):
        Facts.decode(data)
    with pytest.raises((MalformedInput, InputTooLarge)):
        Facts.from_extension(data)


@given(st.integers(min_value=0, max_value=200), st.binary(min_size=1, max_size=3))
def test_damaged_facts_give_typed_errors_or_other_facts(at: int, instead: bytes) -> None:
    data = FACTS.encode()
    damaged = data[:at] + instead + data[at + len(instead) :]
    with contextlib.suppress(MalformedInput, InputTooLarge):
        assert Facts.decode(damaged).encode() == damaged


def test_facts_can_t_be_changed_afterwards() -> None:
    mine = {"fleet": "bikes"}
    facts = dataclasses.replace(FACTS, labels=mine)
    mine["fleet"] = "cars"
    assert facts.labels == {"fleet": "bikes"}
    with pytest.raises(TypeError):
        facts.labels["fleet"] = "cars"  # type: ignore[index]
    assert len({facts, Facts.decode(facts.encode())}) == 1


# ---- The short way for a fleet's facts --------------------------------------------------------------------------

_TEXTS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), max_size=20)


@given(
    st.dictionaries(st.sampled_from(["idx", "att", "a", "v", "boot"]), _TEXTS | st.sampled_from(['","idx":5,"lbl":{'])),
    st.dictionaries(st.sampled_from(["idx", "sb", "vec"]), st.booleans() | st.integers(-5, 5) | _TEXTS),
    st.integers(0, MAX_INDEX - 1),
    st.integers(1, (1 << 40) - 1),
)
def test_the_short_way_reads_what_the_long_one_reads(
    labels: dict[str, str], boot: dict[str, Any], index: int, attested_at: int
) -> None:
    facts = Facts({"instance-identity": 2}, labels, boot, index, attested_at)
    read = Facts.decode(facts.encode())
    assert read == facts == Facts._decode(facts.encode())
    assert [(type(value), value) for value in read.boot.values()] == [
        (type(facts.boot[name]), facts.boot[name]) for name in read.boot
    ]


@given(
    st.integers(0, 200), st.sampled_from([b'"idx":7,', b"{", b"}", b" ", b"0", b'"', b"\\", b",", b"-", b"9" * 14, b""])
)
def test_the_short_way_refuses_what_the_long_one_refuses(at: int, put: bytes) -> None:
    honest = FACTS.encode()
    for changed in (honest[:at] + put + honest[at:], honest[:at] + put + honest[at + 1 :]):
        outcomes = []
        for way in (Facts.decode, Facts._decode):
            try:
                outcomes.append(way(changed))
            except (MalformedInput, InputTooLarge) as error:
                outcomes.append(type(error))
        assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(("index", "attested_at"), [(MAX_INDEX, 1), (7, 0), (7, 1 << 40)])
def test_the_short_way_has_the_same_bounds(index: int, attested_at: int) -> None:
    said = FACTS.encode().replace(b'"idx":7', b'"idx":%d' % index)
    said = said.replace(b'"att":%d' % FACTS.attested_at, b'"att":%d' % attested_at)
    with pytest.raises(MalformedFacts):
        Facts.decode(said)


def test_facts_of_a_fleet_share_what_they_share() -> None:
    one, other = (Facts.decode(dataclasses.replace(FACTS, status_index=index).encode()) for index in (1, 2))
    assert (one.status_index, other.status_index) == (1, 2)
    assert one.labels is other.labels


# ---- Made for a fleet -------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.sampled_from(["idx", "att", "a", "v", "boot"]), _TEXTS),
    st.dictionaries(st.sampled_from(["idx", "sb", "vec"]), st.booleans() | st.integers(-5, 5) | _TEXTS),
    st.integers(0, MAX_INDEX - 1),
    st.integers(1, (1 << 40) - 1),
)
def test_facts_are_spelled_as_any_json_is(
    labels: dict[str, str], boot: dict[str, Any], index: int, attested_at: int
) -> None:
    facts = Facts({"instance-identity": 2, "hardware": -3}, labels, boot, index, attested_at)
    for _ in range(2):  # the second time with what was kept
        assert facts.encode() == write_object(facts.to_members())
    shared = Facts.of_fleet(facts.vector, labels, boot, status_index=index, attested_at=attested_at)
    assert shared == facts
    assert shared.encode() == write_object(facts.to_members())


def test_a_fleets_facts_share_what_they_share_and_nothing_else() -> None:
    def made(vector: dict[str, Any], labels: dict[str, str], index: int = 7, attested_at: int = 9) -> Facts:
        return Facts.of_fleet(vector, labels, {"sb": True}, status_index=index, attested_at=attested_at)

    one, other = made({"hardware": 2}, {"a": "b"}, 1), made({"hardware": 2}, {"a": "b"}, 2, 3)
    assert one.labels is other.labels
    assert (one.status_index, one.attested_at, other.status_index, other.attested_at) == (1, 9, 2, 3)
    for vector, labels in (({"hardware": 3}, {"a": "b"}), ({"hardware": 2}, {"a": "c"}), ({}, {"a": "b"})):
        found = made(vector, labels)
        assert (found.vector, found.labels, found.boot) == (vector, labels, {"sb": True})
        assert Facts.decode(found.encode()) == found


@pytest.mark.parametrize(
    "lie",
    [
        {"vector": {"hardware": True}},
        {"vector": {"hardware": 1.0}},
        {"vector": {"hardware": 128}},
        {"vector": {"software": 1}},
        {"labels": {"a b": "c"}},
        {"labels": {"a": "\n"}},
        {"boot": {"sb": 1.5}},
        {"boot": {"sb": None}},
        {"status_index": True},
        {"status_index": -1},
        {"status_index": MAX_INDEX},
        {"attested_at": True},
        {"attested_at": 0},
        {"attested_at": 1 << 40},
    ],
)
def test_a_fleets_facts_are_checked_like_any(lie: dict[str, Any]) -> None:
    honest: dict[str, Any] = {"vector": {"hardware": 1}, "labels": {"a": "c"}, "boot": {"sb": 1}}
    honest |= {"status_index": 1, "attested_at": 1}
    Facts.of_fleet(**honest)
    with pytest.raises(MalformedFacts):
        Facts.of_fleet(**honest | lie)


def test_a_fleets_facts_are_bounded_like_any() -> None:
    facts = sized(MAX_FACTS)
    for index, fits in ((0, True), (10, False)):
        found = Facts.of_fleet(facts.vector, facts.labels, facts.boot, status_index=index, attested_at=1)
        with contextlib.nullcontext() if fits else pytest.raises(FactsTooLarge):
            assert len(found.encode()) == MAX_FACTS


@pytest.mark.parametrize(("size", "odd"), [(128, b"\x80"), (255, b"\x81\x00"), (255, b"\x82"), (256, b"\x80")])
def test_a_length_that_fits_no_size(size: int, odd: bytes) -> None:
    """Where DER has no length for so many octets in all, nothing stands for one."""
    facts = sized(size)
    assert Facts.from_extension(facts.to_extension().value) == facts
    with pytest.raises(MalformedFacts):
        Facts.from_extension(b"\x0c" + odd + facts.encode())
