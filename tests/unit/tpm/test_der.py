"""The DER walker: it cuts exactly, within bounds, and says so when it can't."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestd.tpm.der import (
    BITS,
    INTEGER,
    SEQUENCE,
    MalformedCertificate,
    children,
    element,
    expect,
    octets_of,
    read_name,
    read_oid,
    shown_name,
    whole,
)
from tests import ek_ca as ca


def test_an_element_is_cut_out_with_its_very_octets() -> None:
    raw = ca.seq(ca.integer(5), ca.utf8("x" * 200))
    found = element(b"\xff" + raw + b"tail", 1)
    assert (found.tag, found.raw, found.content) == (SEQUENCE, raw, raw[3:])
    assert [child.raw for child in children(found)] == [ca.integer(5), ca.utf8("x" * 200)]


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x30", id="no length"),
        pytest.param(b"\x30\x01", id="content missing"),
        pytest.param(b"\x30\x81", id="length missing"),
        pytest.param(b"\x30\x82\x01", id="length cut"),
        pytest.param(b"\x30\x80\x00\x00", id="indefinite length"),
        pytest.param(b"\x30\x84\x00\x00\x00\x01\x00", id="length of four octets"),
        pytest.param(b"\x1f\x01\x00", id="high tag"),
        pytest.param(b"\x30\x83\xff\xff\xff" + b"\x00" * 100, id="longer than the data"),
    ],
)
def test_what_is_no_element_is_refused(octets: bytes) -> None:
    with pytest.raises(MalformedCertificate):
        element(octets)


def test_a_child_may_not_reach_beyond_its_parent() -> None:
    honest = ca.seq(ca.integer(5))
    assert len(children(whole(honest))) == 1
    with pytest.raises(MalformedCertificate):
        children(whole(honest[:-2] + b"\x02\x05"))


def test_whole_refuses_what_follows() -> None:
    assert whole(ca.integer(5)).content == b"\x05"
    with pytest.raises(MalformedCertificate):
        whole(ca.integer(5) + b"\0")


def test_expect_wants_these_tags_and_no_others() -> None:
    items = children(whole(ca.seq(ca.integer(1), ca.bits(b"x"))))
    assert expect(items, INTEGER, BITS) == items
    for tags in ((INTEGER,), (BITS, INTEGER), (INTEGER, BITS, BITS)):
        with pytest.raises(MalformedCertificate):
            expect(items, *tags)


def test_a_bit_string_holds_whole_octets() -> None:
    assert octets_of(whole(ca.bits(b"key"))) == b"key"
    for wrong in (ca.bits(b"key", 1), ca.der(0x03)):
        with pytest.raises(MalformedCertificate):
            octets_of(whole(wrong))


@pytest.mark.parametrize("dotted", ["2.23.133.8.1", "1.2.840.113549.1.1.11", "2.999.1", "0.9.2342", "2.5.29.37.0"])
def test_object_identifiers(dotted: str) -> None:
    assert read_oid(whole(ca.oid(dotted)).content) == dotted


@pytest.mark.parametrize("content", [b"", b"\x81", b"\x2a" * 65])
def test_broken_object_identifiers_are_refused(content: bytes) -> None:
    with pytest.raises(MalformedCertificate):
        read_oid(content)


def test_names_are_read_in_each_string_type() -> None:
    assert read_name(whole(ca.name("Maker CA", "Ä"))) == (("2.5.4.10", "Ä"), ("2.5.4.3", "Maker CA"))
    for write, text in (
        (ca.printable, "plain"),
        (lambda t: ca.der(0x1E, t.encode("utf-16-be")), "bmp Ä"),
        (lambda t: ca.der(0x14, t.encode("latin-1")), "t61 Ä"),
    ):
        assert read_name(whole(ca.seq(ca.der(0x31, ca.attribute("2.5.4.3", text, write))))) == (("2.5.4.3", text),)


@pytest.mark.parametrize(
    "attribute",
    [
        pytest.param(ca.seq(ca.oid("2.5.4.3")), id="no value"),
        pytest.param(ca.seq(ca.oid("2.5.4.3"), ca.integer(1)), id="no string"),
        pytest.param(ca.seq(ca.integer(1), ca.utf8("x")), id="no type"),
        pytest.param(ca.seq(ca.oid("2.5.4.3"), ca.der(0x0C, b"\xff")), id="not UTF-8"),
        pytest.param(ca.seq(ca.oid("2.5.4.3"), ca.der(0x13, "Ä".encode())), id="not ASCII"),
    ],
)
def test_names_that_are_none_are_refused(attribute: bytes) -> None:
    with pytest.raises(MalformedCertificate):
        read_name(whole(ca.seq(ca.der(0x31, attribute))))


def test_names_are_shown_printable_and_bounded() -> None:
    assert shown_name(ca.name("CA 5", "Maker")) == "O=Maker, CN=CA 5"
    assert shown_name(ca.EMPTY_NAME) == "an empty name"
    assert shown_name(ca.name("a\x1b[2J\nb")) == "O=Test Maker, CN=a?[2J?b"
    assert len(shown_name(ca.name("x" * 1000))) == 240
    assert shown_name(b"\x30\x03\x31\x01\x00") == "an unreadable name of 5 octets"


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_octets_never_raise_anything_else(octets: bytes) -> None:
    try:
        found = element(octets)
        assert octets.startswith(found.raw)
        for child in children(found):
            assert child.raw in found.content
        read_name(found)
    except MalformedCertificate:
        pass
    shown_name(octets)
