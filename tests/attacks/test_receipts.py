"""Who would rather not have crossed: receipts forged, dropped, moved, replayed, cut off, and disks without room."""

from __future__ import annotations

import shutil

import pytest
from sqlalchemy import delete, update

from attestd.auditing.receipts import Given, Pinned, examine
from attestd.credentials.hashtree import NotInTree
from attestd.credentials.receipts import Crossed, read_unverified
from attestd.protocol.encoding import b64decode
from attestd.registry import audit, receipts
from attestd.registry.tables import audit as audit_table
from attestd.registry.tables import receipt_chains
from attestd.registry.tables import receipts as table
from attestd_edge.receipts import spool as spool_module
from tests.receipt_site import ReceiptSite
from tests.service import TRUST_DOMAIN, World, problem


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "service")
    yield world
    world.close()


@pytest.fixture
def site(world, tmp_path):
    (tmp_path / "edge").mkdir()
    site = ReceiptSite(world, tmp_path / "edge")
    site.device = world.enrolled()
    site.refresher.tick()
    yield site
    site.edge.stop()


def stored(world) -> list[str]:
    with world.registry.reading() as c:
        return [one.jws for one in receipts.page(c, limit=1000)]


def refusals(world) -> list[str]:
    with world.registry.reading() as c:
        return [row.detail["problem"] for row in audit.page(c, limit=1000) if row.act == "refuse-receipts"]


def rewrite(site: ReceiptSite, change) -> None:
    """Somebody with access to the edge's disk, while the edge is down."""
    site.edge.stop()
    (stretch,) = site.chains()[0].stretches()
    lines = stretch.path.read_text().splitlines()
    stretch.path.write_text("".join(f"{line}\n" for line in change(lines)))
    site.open()


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines[:2], *lines[3:]],  # one dropped
        lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],  # two exchanged
        lambda lines: [*lines[:3], lines[2], *lines[3:]],  # one twice
        lambda lines: [*lines[:2], lines[2].replace(lines[2].split(".")[1], lines[3].split(".")[1]), *lines[3:]],
    ],
    ids=["dropped", "reordered", "replayed", "forged"],
)
def test_an_edges_disk_is_no_place_to_change_history(world, site, change):
    """What was changed is never taken for whole: the edge sees damage, and begins a chain that says so."""
    site.cross(4)
    rewrite(site, change)
    site.cross(1)
    site.deliver()
    whys = {read_unverified(line).said.why for line in stored(world) if read_unverified(line).seq == 0}
    assert "damaged" in whys
    assert all(
        read_unverified(line).said.who is not None
        for line in stored(world)
        if isinstance(read_unverified(line).said, Crossed)
    )


@pytest.mark.parametrize("note", [True, False], ids=["with its note", "note removed"])
def test_a_tail_that_is_cut_off_after_delivery_is_a_fork(world, site, note):
    """The edge's note says that the service has more; without it, the service says so."""
    site.cross(4)
    site.deliver()
    before = stored(world)
    rewrite(site, lambda lines: lines[:-2])
    if not note:
        (site.chains()[0].path / "delivered.json").unlink()
    site.cross(1)
    site.deliver()
    site.cross(1)
    site.deliver()
    assert refusals(world) == ([] if note else ["chain-forked"])
    after = [read_unverified(line) for line in stored(world)[len(before) :]]
    assert (stored(world)[: len(before)], after[0].said.why) == (before, "restored")


def test_a_copied_disk_speaks_for_nobody_else(world, site, tmp_path):
    """The receipts of one edge, brought by another: its key signed the call, and not the chain."""
    site.cross(2)
    lines = list(site.chains()[0].lines(0))
    message = {"v": 1, "chain": site.chains()[0].chain, "receipts": lines}
    other = world.new_caller("proxy", "proxy-2")
    assert problem(other.post("/v1/receipts", message)) == "chain-of-another-edge"
    assert refusals(world) == ["chain-of-another-edge"]
    assert stored(world) == []


def test_receipts_of_one_chain_are_no_others(world, site, tmp_path):
    site.cross(1)
    site.edge.stop()
    shutil.move(site.folder / "receipts", tmp_path / "first")
    site.open()
    site.cross(1)
    (first,) = (tmp_path / "first").glob("*/0*.jws")
    rewrite(site, lambda lines: [lines[0], first.read_text().splitlines()[1]])
    site.cross(1)
    site.deliver()
    assert site.chains()[0].ended() is None or refusals(world) == []
    chains = {read_unverified(line).chain for line in stored(world)}
    for line in stored(world):
        receipt = read_unverified(line)
        assert receipt.chain in chains
    assert first.read_text().splitlines()[1] not in stored(world)


def test_the_databases_owner_can_not_rewrite_what_is_sealed(world, site):
    """Receipts dropped from the end, and the chain's row made to fit: the sealed audit trail knows better."""
    site.cross(4)
    site.deliver()
    (chain,) = site.chains()
    with world.registry.reading() as c:
        (row,) = [row for row in audit.page(c, subject=chain.chain) if row.act == "receive-receipts"]
        before = receipts.chain(c, chain.chain)
    proof = world.service.publication.audit.inclusion(row.number, world.clock())
    assert before is not None
    with world.registry.acting() as c:
        c.execute(delete(table).where(table.c.seq > 2))
        kept = stored_in(c)
        c.execute(update(receipt_chains).values(next=3))
    pinned = Pinned([root_of(world)], TRUST_DOMAIN)
    honest = Given(chain.chain, before.beginning, None, (), proof)
    assert [finding.kind for finding in examine(honest, kept, pinned).findings] == ["cut"]
    # Changing the audit row as well is seen by whoever examines the trail.
    with world.registry.acting() as c:
        c.execute(
            update(audit_table).where(audit_table.c.number == row.number).values(detail={**row.detail, "last": 2})
        )
    with world.registry.reading() as c:
        changed = audit.by_number(c, row.number)
    assert b64decode(changed.detail["digest"]) != b""
    with pytest.raises(NotInTree):
        world.service.publication.audit.inclusion(row.number, world.clock()).verify(root_of(world), now=world.clock())


def stored_in(c) -> list[str]:
    return [one.jws for one in receipts.page(c, limit=1000)]


def root_of(world) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return world.hierarchy.root.public_bytes(Encoding.DER)


def test_a_full_disk_lets_nothing_pass(world, site, monkeypatch):
    site.cross(1)
    chain = site.certificate_of(site.device)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(spool_module.os, "write", full)
        assert [site.ask(chain=chain) for _ in range(3)] == ["receipt-not-kept"] * 3
        assert site.ask() == "no-credential"
    assert site.ask(chain=chain) == "allowed"
    site.deliver()
    kept = [read_unverified(line) for line in stored(world)[1:]]
    assert sum(receipt.omitted for receipt in kept) + sum(not receipt.said.allowed for receipt in kept) == 4


def test_strangers_can_not_fill_the_room_of_those_who_may_cross(world, site):
    """Refusals get half of the room at most, and are counted then."""
    site.edge.stop()
    site.octets = 64 * 1024
    site.open()
    for _ in range(300):
        assert site.ask() == "no-credential"
    site.cross(10)
