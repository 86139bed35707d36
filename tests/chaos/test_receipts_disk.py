"""An edge's disk without room for receipts, for real: nothing passes, the chain stays whole, and goes on by itself."""

from __future__ import annotations

import pytest

from attestd.credentials.receipt_chains import begin_chain, follow_chain
from attestd_edge.receipts.spool import ReceiptNotKept
from tests.chaos.disks import Disk
from tests.edge_receipts import AUTHORITIES, EdgeDisk, crossed


def whole(disk: EdgeDisk) -> list[object]:
    """What the chains on the disk say, each followed to its end."""
    said: list[object] = []
    for chain in disk.chains():
        first, *others = disk.lines(chain)
        known, _, at = begin_chain(first, authorities=AUTHORITIES)
        for jws in others:
            receipt, at = follow_chain(known, at, jws)
            said.append(receipt.said)
    return said


@pytest.mark.small_disk()
def test_a_full_disk_refuses_by_name_and_recovers(disk: Disk) -> None:
    edge = EdgeDisk(disk.path)
    keeper = edge.keeper()
    keeper.keep(crossed(1))
    disk.fill()
    for number in range(2, 20):
        try:
            keeper.keep(crossed(number))
        except ReceiptNotKept as refusal:
            assert "No space left" in str(refusal)
            break
    else:
        pytest.fail("the disk had room")
    kept = whole(edge)
    with pytest.raises(ReceiptNotKept):
        keeper.keep(crossed(30))
    with pytest.raises(ReceiptNotKept):  # one that starts now has no room for a chain of its own, either
        edge.keeper().keep(crossed(31))
    assert whole(edge) == kept
    disk.free()
    keeper.keep(crossed(40))
    assert whole(edge) == [*kept, crossed(40)]


@pytest.mark.small_disk(kind="ext4")
def test_a_disk_that_fails_refuses_by_name(disk: Disk) -> None:
    edge = EdgeDisk(disk.path)
    keeper = edge.keeper()
    keeper.keep(crossed(1))
    disk.fail()
    for number in (2, 3):
        with pytest.raises(ReceiptNotKept):
            keeper.keep(crossed(number))
