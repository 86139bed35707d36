"""Receipts on the disk: nothing is kept that is not whole, and the chain goes on whatever happened."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from attestd.credentials.receipt_chains import begin_chain, follow_chain
from attestd.credentials.receipts import Beginning, Crossed, Receipt
from attestd_edge.receipts import spool as spool_module
from attestd_edge.receipts.spool import ReceiptNotKept, ReceiptsFull
from tests import authority as a
from tests.edge_receipts import AUTHORITIES, EDGE, EdgeDisk, crossed, identity, refused


@pytest.fixture
def disk(tmp_path: Path) -> EdgeDisk:
    return EdgeDisk(tmp_path)


def verified(disk: EdgeDisk, chain=None) -> list[Receipt]:
    """The chain on the disk, followed from its beginning."""
    first, *others = disk.lines(chain)
    known, receipt, at = begin_chain(first, authorities=AUTHORITIES)
    assert str(known.edge) == EDGE
    found = [receipt]
    for jws in others:
        receipt, at = follow_chain(known, at, jws)
        found.append(receipt)
    return found


def test_what_is_kept_is_a_chain(disk):
    keeper = disk.keeper()
    for number in range(3):
        keeper.keep(crossed(number))
    beginning, *receipts = verified(disk)
    assert beginning.said == Beginning("start")
    assert [receipt.said for receipt in receipts] == [crossed(number) for number in range(3)]
    assert [receipt.time for receipt in receipts] == [int(a.NOW.timestamp())] * 3
    assert disk.counted("written_total", boundary="field-to-munich", decision="allow") == 3


def test_the_next_process_goes_on_with_the_chain(disk):
    for number in range(2):
        keeper = disk.keeper()
        keeper.keep(crossed(number))
        keeper.close()
    assert [receipt.seq for receipt in verified(disk)] == [0, 1, 2]
    assert len(disk.chains()) == 1


def test_two_processes_have_a_chain_each(disk):
    one, two = disk.keeper(), disk.keeper()
    one.keep(crossed(1))
    two.keep(crossed(2))
    assert [len(verified(disk, chain)) for chain in disk.chains()] == [2, 2]


def test_many_threads_share_syncs(disk, monkeypatch):
    syncs = []
    entered, go_on = threading.Event(), threading.Event()

    def slow(handle):
        syncs.append(handle)
        entered.set()
        assert go_on.wait(20)

    keeper = disk.keeper()
    monkeypatch.setattr(os, "fdatasync", slow)
    threads = [threading.Thread(target=keeper.keep, args=(crossed(number),)) for number in range(20)]
    threads[0].start()
    assert entered.wait(20)
    for thread in threads[1:]:
        thread.start()
    while len(keeper._queue) < 19:
        pass
    go_on.set()
    for thread in threads:
        thread.join(20)
    monkeypatch.undo()
    assert len(syncs) == 2
    assert sorted(receipt.seq for receipt in verified(disk)) == list(range(21))


def test_nothing_is_kept_before_the_sync(disk, monkeypatch):
    monkeypatch.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    keeper = disk.keeper()
    with pytest.raises(ReceiptNotKept, match="Input/output error"):
        keeper.keep(crossed())
    assert disk.counted("not_kept_total", reason="receipt-not-kept") == 1
    monkeypatch.undo()
    assert disk.chains() == []
    keeper.keep(crossed(2))
    assert [receipt.said for receipt in verified(disk)[1:]] == [crossed(2)]


@pytest.mark.parametrize("written", [0, 1, 700])
def test_a_disk_that_fills_up_refuses_and_recovers(disk, monkeypatch, written):
    """What was written in part is cut off, and is never part of the chain."""
    keeper = disk.keeper()
    keeper.keep(crossed(1))
    before = disk.lines()
    real, full = os.write, [True]

    def write(handle, data):
        if not full[0]:
            return real(handle, data)
        if written and len(data) > written:
            return real(handle, data[:written])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool_module.os, "write", write)
    for _ in range(2):
        with pytest.raises(ReceiptNotKept, match="No space left"):
            keeper.keep(crossed(2))
    assert disk.lines() == before
    full[0] = False
    keeper.keep(crossed(3))
    assert [receipt.said for receipt in verified(disk)[1:]] == [crossed(1), crossed(3)]


def test_a_file_that_can_not_be_mended_takes_nothing_more(disk, monkeypatch):
    keeper = disk.keeper()
    keeper.keep(crossed(1))
    (stretch,) = disk.chains()[0].stretches()
    real = os.write
    monkeypatch.setattr(spool_module.os, "write", lambda handle, data: real(handle, data[:9]) and 1 // 0)
    monkeypatch.setattr(spool_module.os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only")))
    with pytest.raises(ZeroDivisionError):
        keeper.keep(crossed(2))
    monkeypatch.setattr(spool_module.os, "write", real)
    with pytest.raises(ReceiptNotKept, match="Read-only"):
        keeper.keep(crossed(3))
    monkeypatch.undo()
    keeper.keep(crossed(4))
    assert [receipt.said for receipt in verified(disk)[1:]] == [crossed(1), crossed(4)]
    assert stretch.path.exists()


@pytest.mark.parametrize("torn", [b"eyJ", b"\0" * 4096, b"eyJhbGciOiJFUzI1NiJ9.e30.AAAA\n"])
def test_what_a_crash_tore_is_cut_off(disk, torn):
    keeper = disk.keeper()
    keeper.keep(crossed(1))
    keeper.close()
    (stretch,) = disk.chains()[0].stretches()
    with stretch.path.open("ab") as file:
        file.write(torn)
    disk.keeper().keep(crossed(2))
    assert [receipt.said for receipt in verified(disk)[1:]] == [crossed(1), crossed(2)]


def test_damage_is_no_crash(disk):
    """A receipt that can't be read, with others behind it, is not cut off: another chain begins, and names it."""
    keeper = disk.keeper()
    for number in range(3):
        keeper.keep(crossed(number))
    keeper.close()
    (damaged,) = disk.chains()
    end = damaged.end_of()
    (stretch,) = damaged.stretches()
    lines = stretch.path.read_bytes().split(b"\n")
    lines[2] = lines[2][:-4] + (b"AAAA" if lines[2][-4:] != b"AAAA" else b"BBBB")
    stretch.path.write_bytes(b"\n".join(lines))
    disk.keeper().keep(crossed(7))
    damaged, new = disk.chains()
    assert (damaged.ended(), verified(disk, new)[0].said) == ("damaged", Beginning("damaged", end))
    assert stretch.path.read_bytes() == b"\n".join(lines)


def test_a_new_key_begins_a_new_chain(disk):
    keeper = disk.keeper()
    keeper.keep(crossed(1))
    disk.who = identity(key=a.p256(51))
    keeper.keep(crossed(2))  # the files are as they were
    os.utime(disk.files[0], ns=(1, 1))
    keeper.keep(crossed(3))
    one, two = disk.chains()
    assert verified(disk, two)[0].said == Beginning("new-key", one.end_of())
    assert [receipt.said for receipt in verified(disk, one)[1:]] == [crossed(1), crossed(2)]
    keeper.close()
    disk.who = identity(key=a.p256(52))
    disk.keeper().keep(crossed(4))
    assert verified(disk, disk.chains()[-1])[0].said == Beginning("new-key", two.end_of())


def test_a_renewed_certificate_does_not(disk):
    keeper = disk.keeper()
    keeper.keep(crossed(1))
    disk.who = identity(not_after=a.NOW + timedelta(hours=9))
    os.utime(disk.files[0], ns=(1, 1))
    keeper.keep(crossed(2))
    assert len(verified(disk)) == 3


def test_a_clock_that_went_back_begins_a_new_chain(disk):
    keeper = disk.keeper()
    disk.times.pass_(3600)
    keeper.keep(crossed(1))
    keeper.close()
    disk.times.pass_(-3600)
    disk.keeper().keep(crossed(2))
    one, two = disk.chains()
    assert verified(disk, two)[0].said == Beginning("clock", one.end_of())
    # Within a process an edge's clock never goes back.
    disk.times.pass_(-60)
    assert verified(disk, two)[-1].time == int(a.NOW.timestamp())


def test_a_chain_that_was_ended_from_outside_is_not_gone_on_with(disk):
    keeper = disk.keeper()
    keeper.keep(crossed(1))
    disk.chains()[0].end("refused")
    keeper.keep(crossed(2))
    one, two = disk.chains()
    assert verified(disk, two)[0].said == Beginning("restored", one.end_of())
    keeper.close()
    two.remove()
    disk.keeper().keep(crossed(3))
    assert verified(disk, disk.chains()[-1])[0].said == Beginning("restored", one.end_of())


def test_receipts_have_room_and_no_more(disk):
    keeper = disk.keeper(octets=8 * 1024)
    with pytest.raises(ReceiptsFull):
        for number in range(100):
            keeper.keep(crossed(number))
    assert sum(chain.octets() for chain in disk.chains()) <= 8 * 1024
    kept = len(verified(disk))
    assert kept > 3
    # The room that others took is looked at, too; and once there is room, all goes on.
    disk.chains()[0].remove()
    disk.times.pass_(1)
    keeper.close()
    keeper.keep(crossed(200))


def test_refusals_take_half_of_the_room_and_are_counted_then(disk):
    keeper = disk.keeper(octets=16 * 1024)
    for number in range(100):
        keeper.note(refused(number))
    keeper.flush()
    assert 7 * 1024 < disk.chains()[0].octets() <= 8 * 1024
    written = len(verified(disk)) - 1
    assert disk.counted("omitted_total") == 100 - written
    keeper.keep(crossed(1))
    last = verified(disk)[-1]
    assert (last.said, last.omitted) == (crossed(1), 100 - written)
    keeper.keep(crossed(2))
    assert verified(disk)[-1].omitted == 0


def test_refusals_wait_for_nobody(disk):
    keeper = disk.keeper()
    keeper.note(refused(1))
    assert disk.chains() == []
    keeper.keep(crossed(2))
    assert [receipt.said for receipt in verified(disk)[1:]] == [refused(1), crossed(2)]
    keeper.note(refused(3))
    keeper.close()
    assert [receipt.said for receipt in verified(disk)[1:]] == [refused(1), crossed(2), refused(3)]


def test_a_chain_is_cut_into_files(disk, monkeypatch):
    monkeypatch.setattr(spool_module, "STRETCH", 3000)
    keeper = disk.keeper()
    for number in range(20):
        keeper.keep(crossed(number))
    (chain,) = disk.chains()
    assert len(chain.stretches()) > 4
    assert len(verified(disk)) == 21
    keeper.close()
    monkeypatch.undo()
    disk.keeper().keep(crossed(20))
    assert len(verified(disk)) == 22


def test_what_was_delivered_goes_and_the_end_stays(disk, monkeypatch):
    monkeypatch.setattr(spool_module, "STRETCH", 3000)
    keeper = disk.keeper()
    for number in range(20):
        keeper.keep(crossed(number))
    (chain,) = disk.chains()
    before = chain.waiting()
    assert (before.count, before.octets) == (21, chain.octets())
    assert before.oldest == int(a.NOW.timestamp())
    last = chain.stretches()[-1]
    chain.delivered(last.first)  # all but the last file: the one before it stays, as nothing of the last is there
    assert len(chain.stretches()) == 2
    assert chain.waiting().count == 21 - last.first
    chain.delivered(21)
    assert chain.stretches() == [last]
    assert chain.waiting().count == 0
    keeper.keep(crossed(21))
    assert list(chain.lines(21)) == disk.lines(chain)[-1:]
    keeper.close()
    disk.keeper().keep(crossed(22))
    assert chain.waiting().count == 2


def test_without_its_identity_nothing_is_kept(disk):
    keeper = disk.keeper()
    disk.files[0].unlink()
    with pytest.raises(ReceiptNotKept):
        keeper.keep(crossed())


def test_a_receipt_says_nothing_that_it_should_not(disk):
    keeper = disk.keeper()
    keeper.keep(crossed())
    said = verified(disk)[-1].said
    assert isinstance(said, Crossed)
    assert set(said.to_members()) == {
        "boundary", "decision", "request_id", "who", "credential", "method", "path", "labels", "policies",
        "policy_version", "bundle",
    }  # fmt: skip
