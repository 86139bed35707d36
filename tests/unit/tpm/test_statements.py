"""TPMS_ATTEST: every field as written, and every structure that is none."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import MalformedInput
from attestd.tpm.statements import (
    AttestationTypeWrong,
    ClockInfo,
    NotMadeByTpm,
    parse_certification,
    parse_quote,
)
from attestd.tpm.wire import MalformedTpmStructure
from tests import forger as f
from tests.forger import Forger

NONCE = bytes(range(32))
PCRS = {"sha256": {0: b"a" * 32, 10: b"b" * 32, 23: b"c" * 32}, "sha1": {1: b"d" * 20}}


@pytest.fixture(scope="module")
def forger() -> Forger:
    return Forger()


def test_a_quote_is_read_in_every_field(forger: Forger) -> None:
    quote = parse_quote(forger.quote(NONCE, PCRS, qualified_signer=b"qualified", digest=b"digest").attest)
    assert (quote.qualified_signer, quote.extra_data, quote.digest) == (b"qualified", NONCE, b"digest")
    assert quote.clock == ClockInfo(clock=123_456, reset_count=7, restart_count=3, safe=True)
    assert quote.firmware_version == 0x2016_0511_0016_2800
    assert quote.selection == (("sha256", (0, 10, 23)), ("sha1", (1,)))


def test_a_certification_is_read_in_every_field(forger: Forger) -> None:
    certification = parse_certification(forger.certify(NONCE, safe=0).attest)
    assert (certification.extra_data, certification.certified_name) == (NONCE, forger.ck.name)
    assert certification.clock == ClockInfo(clock=123_456, reset_count=7, restart_count=3, safe=False)


@pytest.mark.parametrize(
    ("bitmap", "indices"),
    [
        (b"", ()),
        (b"\x00", ()),
        (b"\x81", (0, 7)),
        (b"\x01\x04", (0, 10)),
        (b"\x00\x00\x80", (23,)),
        (b"\xff\xff\xff", tuple(range(24))),
        (b"\x00\x00\x00\x80", (31,)),
    ],
)
def test_bitmaps_of_every_size(forger: Forger, bitmap: bytes, indices: tuple[int, ...]) -> None:
    quoted = forger.quote(NONCE, PCRS, selection=[(f.SHA256, bitmap)])
    assert parse_quote(quoted.attest).selection == (("sha256", indices),)


def test_a_bitmap_beyond_every_platform_is_refused(forger: Forger) -> None:
    with pytest.raises(MalformedTpmStructure, match="selection is too large"):
        parse_quote(forger.quote(NONCE, PCRS, selection=[(f.SHA256, bytes(5))]).attest)


def test_the_count_of_banks_is_bounded_before_any_is_read(forger: Forger) -> None:
    with pytest.raises(MalformedTpmStructure, match="too many banks"):
        parse_quote(forger.quote(NONCE, PCRS, selection=[(f.SHA256, b"\x01")] * 17).attest)


def test_one_bank_twice_is_refused(forger: Forger) -> None:
    with pytest.raises(MalformedTpmStructure, match="one bank twice"):
        parse_quote(forger.quote(NONCE, PCRS, selection=[(f.SHA256, b"\x01")] * 2).attest)


def test_magic_and_type_come_before_everything_else(forger: Forger) -> None:
    quote, certification = forger.quote(NONCE, PCRS).attest, forger.certify(NONCE).attest
    with pytest.raises(NotMadeByTpm):
        parse_quote(b"\xff" * len(quote))
    with pytest.raises(AttestationTypeWrong):
        parse_quote(certification)
    with pytest.raises(AttestationTypeWrong):
        parse_certification(quote)


def test_statements_cut_anywhere_are_malformed(forger: Forger) -> None:
    quote, certification = forger.quote(NONCE, PCRS).attest, forger.certify(NONCE).attest
    for size in range(len(quote)):
        with pytest.raises(MalformedInput):
            parse_quote(quote[:size])
    for size in range(len(certification)):
        with pytest.raises(MalformedInput):
            parse_certification(certification[:size])


def test_statements_with_more_are_malformed(forger: Forger) -> None:
    with pytest.raises(MalformedTpmStructure, match="end of the quote"):
        parse_quote(forger.quote(NONCE, PCRS, trailing=b"\0").attest)
    with pytest.raises(MalformedTpmStructure, match="end of the certification"):
        parse_certification(forger.certify(NONCE, trailing=b"\0").attest)


@given(st.binary(max_size=200), st.booleans())
def test_random_octets_are_read_or_refused(data: bytes, begun: bool) -> None:
    for parse, kind in ((parse_quote, f.QUOTE), (parse_certification, f.CERTIFY)):
        head = f.write_attest(type=kind, extra_data=b"", attested=b"") if begun else b""
        with contextlib.suppress(MalformedInput, NotMadeByTpm, AttestationTypeWrong):
            parse(head + data)
