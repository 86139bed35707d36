"""The reader of event logs: both formats to the last octet, and a named error for everything else."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from dataclasses import replace

import pytest

from attestd.errors import AttestdError
from attestd.tpm.eventlog import (
    MAX_EVENTS,
    MAX_OCTETS,
    EventLogTooLarge,
    MalformedEventLog,
    UnverifiedEventLog,
    parse_event_log,
)
from attestd.tpm.eventtypes import name_of
from tests import logwriter as w
from tests.logwriter import EV, Boot, Logged


def small(*banks: str) -> Boot:
    boot = Boot(banks or ("sha1", "sha256"))
    return boot.measure(0, EV.CRTM_VERSION, b"1.0").measure(4, EV.BS_APP, b"path", b"image").separate((0, 4))


def assert_is(log: UnverifiedEventLog, boot: Boot) -> None:
    assert len(log.events) == len(boot.log)
    for event, written in zip(log.events, boot.log, strict=True):
        assert (event.pcr, event.type, event.data) == (written.pcr, written.type, written.data)
        assert dict(zip(log.banks, event.digests, strict=True)) == {
            bank: digest for bank, digest in written.digests if bank in log.banks
        }


# ---- Accepted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("banks", [("sha256",), ("sha1", "sha256"), ("sha1", "sha256", "sha384", "sha512")])
def test_the_crypto_agile_format(banks: tuple[str, ...]) -> None:
    boot = small(*banks)
    log = parse_event_log(boot.agile())
    assert (log.format, log.banks, log.of_pcrs, log.padding, log.apart) == ("crypto-agile", banks, True, 0, ())
    assert_is(log, boot)
    assert [event.number for event in log.events] == [1, 2, 3, 4]  # the spec-id event is number 0


def test_the_sha1_format() -> None:
    boot = small("sha1")
    log = parse_event_log(boot.sha1())
    assert (log.format, log.banks, log.of_pcrs) == ("sha1", ("sha1",), True)
    assert_is(log, boot)
    assert [event.number for event in log.events] == [0, 1, 2, 3]


def test_a_sha1_log_may_begin_with_an_event_that_extends_nothing() -> None:
    """As go-attestation's short_no_action log does, whose first event is shorter than a spec-id event."""
    boot = Boot(("sha1",), locality=3).note(b"StartupLocality\0\x03")
    log = parse_event_log(boot.sha1())
    assert (log.format, log.startup_locality, len(log.events)) == ("sha1", 3, 1)
    older = parse_event_log(Boot(("sha1",)).note(b"Spec ID Event02\0" + bytes(13)).sha1())
    assert (older.format, len(older.events)) == ("sha1", 1)


@pytest.mark.parametrize("octet", [b"\xff", b"\0"])
@pytest.mark.parametrize("count", [1, 11, 12, 40, 70_000])
def test_padding_of_one_octet(octet: bytes, count: int) -> None:
    boot = small().measure(5, EV.EFI_ACTION, b"data whose end is" + octet * 9)
    log = parse_event_log(boot.agile(padding=octet * count))
    assert_is(log, boot)
    assert log.padding == count
    assert len(parse_event_log(boot.sha1(padding=octet * count)).events) == len(boot.log)


@pytest.mark.parametrize("padding", [b"\xff" * 40 + b"\xfe", b"\0" * 40 + b"\x01" + bytes(40), b"\xff\0" * 20])
def test_other_octets_are_no_padding(padding: bytes) -> None:
    with pytest.raises(MalformedEventLog):
        parse_event_log(small().agile(padding=padding))


def test_digests_in_another_order_or_fewer() -> None:
    """A record's own order of banks counts; a bank that it leaves out has no digest there."""
    boot = small()
    turned = replace(boot.log[0], digests=boot.log[0].digests[::-1])
    fewer = replace(boot.log[1], digests=boot.log[1].digests[1:])
    none = replace(boot.log[2], digests=())
    boot.log[:3] = [turned, fewer, none]
    log = parse_event_log(boot.agile())
    assert log.events[0].digests == tuple(digest for _, digest in turned.digests[::-1])
    assert log.events[1].digests == (None, fewer.digests[0][1])
    assert log.events[2].digests == (None, None)


def test_a_bank_without_a_name_here_is_stepped_over() -> None:
    boot = small("sha256", "sm3_256")
    log = parse_event_log(boot.agile())
    assert log.banks == ("sha256",)
    assert_is(log, boot)


def test_vendor_information_is_read_past() -> None:
    boot = small()
    assert_is(parse_event_log(boot.agile(spec_id=boot.spec_id(vendor=b"the maker's own"))), boot)


def test_records_of_no_register_stand_apart() -> None:
    """Windows appends its own quote in one whose PCR is 0xffffffff."""
    boot = w.windows_boot()
    log = parse_event_log(boot.agile())
    assert [event.data for event in log.apart] == [b"a quote of its own"]
    assert len(log.events) == len(boot.log) - 1
    assert all(event.pcr < 24 for event in log.events)


def test_a_confidential_guest_s_log_is_of_no_pcrs() -> None:
    """Its spec-id event is in register 1 (UEFI 2.10, section 38)."""
    head = struct.pack("<II20sI", 1, EV.NO_ACTION, bytes(20), len(small("sha384").spec_id()))
    boot = small("sha384")
    log = parse_event_log(head + boot.agile()[32:])
    assert not log.of_pcrs
    assert_is(log, boot)


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_where_startup_came_from(locality: int) -> None:
    boot = Boot().note(b"some maker's own").note(b"StartupLocality\0" + bytes([locality])).separate((0,))
    assert parse_event_log(boot.agile()).startup_locality == locality
    assert parse_event_log(small().agile()).startup_locality is None


def test_startup_locality_counts_before_pcr_0_alone() -> None:
    """Afterwards PCR 0 has begun already."""
    late = Boot().separate((0,)).note(b"StartupLocality\0\x03")
    assert parse_event_log(late.agile()).startup_locality is None
    between = Boot().separate((7,)).note(b"StartupLocality\0\x03").separate((0,))
    assert parse_event_log(between.agile()).startup_locality == 3


def test_names_of_types() -> None:
    assert name_of(EV.SEPARATOR) == "EV_SEPARATOR"
    assert name_of(0x7F) == "0x0000007f"
    assert str(parse_event_log(small().agile()).events[1]) == "event 2 (EV_EFI_BOOT_SERVICES_APPLICATION)"


# ---- Refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\0", b"not an event log, and too short", bytes(31), bytes(400), b"\xff" * 400])
def test_what_is_no_log(data: bytes) -> None:
    with pytest.raises(MalformedEventLog):
        parse_event_log(data)


def test_text_is_no_log() -> None:
    with pytest.raises(MalformedEventLog):
        parse_event_log(b"This is no binary event log, but some text that goes on and on.")


TOO_MANY, SIZES, UNKNOWN = "impossible number", "wrong sizes", "no bank that is known"
PARTS, EARLY = "another size than its parts", "ends too early"


def spec_id_lies() -> dict[str, tuple[bytes, str]]:
    """Spec-id events, and what is said of each."""
    boot = small()
    honest = boot.spec_id()
    return {
        "no algorithms": (boot.spec_id([]), TOO_MANY),
        "too many algorithms": (boot.spec_id([(0x000B, 32), *((0x1000 + n, 32) for n in range(16))]), TOO_MANY),
        "a count that is a lie": (honest[:24] + struct.pack("<I", 0xFFFFFFFF) + honest[28:], TOO_MANY),
        "one algorithm too many": (honest[:24] + struct.pack("<I", 3) + honest[28:], PARTS),
        "one algorithm too few": (honest[:24] + struct.pack("<I", 1) + honest[28:], PARTS),
        "an algorithm twice": (boot.spec_id([(0x0004, 20), (0x0004, 20)]), SIZES),
        "a wrong size": (boot.spec_id([(0x0004, 20), (0x000B, 31)]), SIZES),
        "no size": (boot.spec_id([(0x000B, 32), (0x1000, 0)]), SIZES),
        "a size without bound": (boot.spec_id([(0x000B, 32), (0x1000, 65)]), SIZES),
        "no known algorithm": (boot.spec_id([(0x1000, 32)]), UNKNOWN),
        "vendor information too long": (honest[:-1] + b"\x09", PARTS),
        "octets after it": (honest + b"\0", PARTS),
        "cut": (honest[:-1], PARTS),
        "cut short": (honest[:27], EARLY),
    }


@pytest.mark.parametrize("lie", spec_id_lies())
def test_one_lie_in_the_spec_id_event(lie: str) -> None:
    """With no event behind it, so that nothing else is wrong."""
    boot = Boot()
    assert parse_event_log(boot.agile()).events == ()
    spec_id, why = spec_id_lies()[lie]
    with pytest.raises(MalformedEventLog, match=why):
        parse_event_log(boot.agile(spec_id=spec_id))


def test_a_spec_id_event_that_is_cut() -> None:
    written = Boot().agile()
    with pytest.raises(MalformedEventLog, match="ends within an event"):
        parse_event_log(written[:-1])


@pytest.mark.parametrize(
    ("digests", "why"),
    [
        ((("sha1", bytes(20)), ("sha256", bytes(32)), ("sha256", bytes(32))), "more digests"),
        ((("sha256", bytes(32)), ("sha256", bytes(32))), "comes twice"),
        ((("sha384", bytes(48)),), "does not name"),
    ],
)
def test_one_lie_in_an_event_s_digests(digests: tuple[tuple[str, bytes], ...], why: str) -> None:
    with pytest.raises(MalformedEventLog, match=why):
        parse_event_log(small().lie(2, digests=digests).agile())


@pytest.mark.parametrize("pcr", [24, 0x7FFFFFFF, 0xFFFFFFFF])
def test_an_event_extends_a_pcr_that_there_is(pcr: int) -> None:
    boot = small()
    assert parse_event_log(boot.lie(2, pcr=23).agile())
    for written in (boot.lie(2, pcr=pcr).agile(), boot.lie(2, pcr=pcr).sha1()):
        with pytest.raises(MalformedEventLog, match="PCR that there is not"):
            parse_event_log(written)


def test_an_event_that_extends_nothing_names_a_pcr_or_none() -> None:
    assert parse_event_log(Boot().note(b"", pcr=0xFFFFFFFF).agile()).apart
    with pytest.raises(MalformedEventLog, match="PCR that there is not"):
        parse_event_log(Boot().note(b"", pcr=0xFFFFFFFE).agile())


@pytest.mark.parametrize("data", [b"StartupLocality\0", b"StartupLocality\0\x01", b"StartupLocality\0\x03\0"])
def test_a_startup_locality_that_is_none(data: bytes) -> None:
    with pytest.raises(MalformedEventLog, match="StartupLocality"):
        parse_event_log(Boot().note(data).separate((0,)).agile())


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_sizes_and_counts_beyond_all_bounds(size: int) -> None:
    boot = small()
    written = boot.agile()
    first = 32 + len(boot.spec_id())
    size_at = first + 12 + 2 + 20 + 2 + 32
    for at in (28, first + 8, size_at):
        lying = written[:at] + struct.pack("<I", size) + written[at + 4 :]
        with pytest.raises(MalformedEventLog):
            parse_event_log(lying)
    older = boot.sha1()
    with pytest.raises(MalformedEventLog, match="ends within an event"):
        parse_event_log(older[:28] + struct.pack("<I", size) + older[32:])


def test_a_log_cut_anywhere() -> None:
    """Between two events it is a shorter log, which no longer replays; anywhere else it is malformed."""
    boot = small()
    for written in (boot.agile(), boot.sha1()):
        whole = len(parse_event_log(written).events)
        lengths = set()
        for end in range(len(written)):
            try:
                lengths.add(len(parse_event_log(written[:end]).events))
            except MalformedEventLog:
                continue
        assert lengths <= set(range(whole))
        assert len(lengths) >= whole - 1


def test_every_flipped_bit_is_a_log_or_a_named_error() -> None:
    chance = random.Random(4)
    for written in (w.grub_boot().agile(), w.windows_boot().agile(), small().sha1()):
        for _ in range(400):
            at = chance.randrange(len(written))
            flipped = written[:at] + bytes([written[at] ^ 1 << chance.randrange(8)]) + written[at + 1 :]
            try:
                parse_event_log(flipped)
            except AttestdError:
                continue


# ---- Bounds ------------------------------------------------------------------------------------------------------


def test_no_more_octets_than_bounded() -> None:
    assert parse_event_log(small().agile(padding=b"\xff" * (MAX_OCTETS - len(small().agile()))))
    with pytest.raises(EventLogTooLarge):
        parse_event_log(small().agile(padding=b"\xff" * (MAX_OCTETS + 1 - len(small().agile()))))


def test_no_more_events_than_bounded() -> None:
    boot = Boot(("sha1",))
    event = w.write_agile(Logged(7, EV.POST_CODE, b"", ()))
    head = boot.agile()
    assert len(parse_event_log(head + event * MAX_EVENTS).events) == MAX_EVENTS
    with pytest.raises(EventLogTooLarge, match="too many events"):
        parse_event_log(head + event * (MAX_EVENTS + 1))


def hostile() -> dict[str, bytes]:
    head = Boot(("sha1", "sha256")).agile()
    none = w.write_agile(Logged(7, EV.POST_CODE, b"", ()))
    zeros = struct.pack("<IIII", 0, 0, 0, 0)
    return {
        "events without digests": head + none * 200_000,
        "zeros that are no padding": head + zeros * 100_000 + b"\x01",
        "ones that are no padding": head + b"\xff" * 1_000_000 + b"\xfe",
        "one event of the largest size": head + w.write_agile(Logged(8, EV.IPL, bytes(MAX_OCTETS - 200), ())),
        "padding alone": head + bytes(MAX_OCTETS - len(head)),
    }


def attempt(data: bytes) -> None:
    try:
        parse_event_log(data)
    except (MalformedEventLog, EventLogTooLarge):
        return


@pytest.mark.parametrize("name", hostile())
def test_hostile_logs_take_little_time_and_memory(name: str) -> None:
    data = hostile()[name]
    begin = time.process_time()
    attempt(data)
    assert time.process_time() - begin < 1
    tracemalloc.start()
    try:
        attempt(data)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_OCTETS
    finally:
        tracemalloc.stop()
