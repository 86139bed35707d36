"""Sealing: every committed row gets one leaf, once, whoever seals; and a tree that was tampered with is not signed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from attestd.auditing import log as log_module
from attestd.auditing.log import BATCH, LogElsewhere, NotSealed
from attestd.credentials.hashtree import EMPTY, HistoryRewritten, leaf_hash, node_hash, verify_consistency
from attestd.credentials.transparency import Head, entry_octets, verify_head
from attestd.registry import audit, audit_tree, revision
from attestd.registry.audit import AuditRowUnknown
from attestd.registry.audit_tree import StoredHead
from attestd.registry.tables import audit_heads
from attestd.registry.tiles import TreeDamaged
from tests import postgres
from tests.service import TRUST_DOMAIN, meanwhile

from .conftest import Trail


def head(trail: Trail) -> Head:
    return trail.log.head(trail.world.clock()).head


def mth(hashes: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, as it is written."""
    if not hashes:
        return EMPTY
    if len(hashes) == 1:
        return hashes[0]
    k = 1 << (len(hashes) - 1).bit_length() - 1
    return node_hash(mth(hashes[:k]), mth(hashes[k:]))


def root_of_rows(trail: Trail) -> bytes:
    """Of every row, each of which has one leaf."""
    with trail.registry.reading() as c:
        rows = audit.sealed(c, 0, 1 << 40)
        assert audit.lag(c).count == 0
    assert [row.leaf for row in rows] == list(range(len(rows)))
    return mth([leaf_hash(entry_octets(row.entry)) for row in rows])


def test_rows_get_leaves_in_their_order_and_a_signed_root(trail: Trail) -> None:
    first = len(trail.rows())
    trail.act(3)
    assert trail.seal() == first + 3
    assert [row.leaf for row in trail.rows()] == list(range(first + 3))
    found = head(trail)
    assert (found.log, found.size, found.root) == (1, first + 3, root_of_rows(trail))
    assert found.trust_domain == TRUST_DOMAIN


@pytest.mark.parametrize("steps", [[1] * 5, [255, 1, 1], [256, 256], [300, 1, 700], [1000]])
def test_a_tree_that_grows_in_steps_is_the_tree_of_all_its_rows(trail: Trail, steps: list[int]) -> None:
    for count in steps:
        trail.act(count)
        trail.seal()
    assert head(trail).root == root_of_rows(trail)


def test_more_rows_than_one_batch(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "BATCH", 7)
    before = len(trail.rows())
    trail.act(30)
    assert trail.seal() == before + 30
    assert head(trail).root == root_of_rows(trail)
    assert BATCH > 1000


def test_nothing_new_is_nothing_signed(trail: Trail) -> None:
    trail.seal()
    with trail.registry.reading() as c:
        before = list(audit_tree.heads(c))
    trail.world.clock.advance(hours=1)
    assert trail.seal() == 0
    with trail.registry.reading() as c:
        assert list(audit_tree.heads(c)) == before


def test_gaps_in_the_numbers(trail: Trail) -> None:
    """A transaction that is rolled back may leave one; so may rows that another sealer took."""
    trail.act(10)
    trail.tamper("DELETE FROM audit WHERE number IN (3, 4, 8)")
    trail.seal()
    assert head(trail).root == root_of_rows(trail)
    assert trail.found() == []


def test_a_row_that_is_committed_later_with_a_lower_number(make: Callable[..., Trail]) -> None:
    """With PostgreSQL, sequence order is not commit order: a row is sealed when it is there, never skipped."""
    postgres.require_postgres()
    trail = make(database="postgresql")
    before = len(trail.rows())
    with trail.registry.acting() as late:
        record(late, "late")
        trail.act()  # a higher number, committed first
        assert trail.seal() == before + 1
    assert trail.seal() == 1
    rows = {row.subject: row for row in trail.rows()}
    assert rows["late"].number < rows["till-0"].number
    assert (rows["late"].leaf or 0) > (rows["till-0"].leaf or 0)
    assert trail.found() == []


def record(c: Any, subject: str) -> None:
    audit.append(c, at=1_800_000_000, actor="a", act="b", subject=subject, request_id=None, detail={})


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_several_sealers_and_writers_at_once(make: Callable[..., Trail], kind: str) -> None:
    if kind == "postgresql":
        postgres.require_postgres()
    trail = make(database=kind)
    ended = threading.Event()
    errors: list[Exception] = []

    def work(step: Callable[[], object], times: int | None) -> None:
        try:
            while times is None or times > 0:
                step()
                times = None if times is None else times - 1
                if times is None and ended.wait(0.001):
                    return
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)

    sealers = [trail.opened() for _ in range(3)]
    threads = [threading.Thread(target=work, args=(lambda s=s: s.seal(trail.world.clock()), None)) for s in sealers]
    writers = [threading.Thread(target=work, args=(trail.act, 40)) for _ in range(4)]
    for thread in threads + writers:
        thread.start()
    for thread in writers:
        thread.join(60)
    ended.set()
    for thread in threads:
        thread.join(60)
    assert errors == []
    trail.seal()
    assert head(trail).root == root_of_rows(trail)
    assert trail.found() == []


def test_losing_the_race_writes_nothing(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    trail.act(2)
    other = trail.opened()
    meanwhile(monkeypatch, lambda: other.seal(trail.world.clock()))
    assert trail.seal() == 0
    assert head(trail).root == root_of_rows(trail)
    assert trail.found() == []


def test_losing_the_race_to_sign_the_first_head(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would sign the same size, so the size alone does not tell them apart."""
    trail.tamper("DELETE FROM audit")
    other = trail.opened()
    meanwhile(monkeypatch, lambda: other.seal(trail.world.clock()))
    assert trail.seal() == 0
    assert head(trail).size == 0
    assert head(trail).root == EMPTY


def test_a_sealer_that_dies_half_way_leaves_nothing(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    trail.act(2)
    with monkeypatch.context() as patch:
        patch.setattr(audit_tree, "store_head", dies)
        with pytest.raises(KeyboardInterrupt):
            trail.seal()
    assert {row.leaf for row in trail.rows()} == {None}
    assert trail.seal() == len(trail.rows())
    assert trail.found() == []


def dies(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_raised_epoch_begins_a_new_log_that_goes_on_with_the_tree(trail: Trail) -> None:
    trail.seal()
    before = head(trail)
    with trail.registry.acting() as c:
        revision.raise_epoch(c)
    after = head(trail)
    assert (after.log, after.size, after.root) == (2, before.size, before.root)
    assert trail.found() == []


def test_a_restore_meanwhile(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    trail.seal()
    trail.act()

    def restore() -> None:
        with trail.registry.acting() as c:
            revision.raise_epoch(c)

    meanwhile(monkeypatch, restore)
    assert trail.seal() == 0
    assert head(trail).log == 2


# ---- What is not sealed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit_tiles SET hashes = :forged WHERE level = 0",
        "DELETE FROM audit_tiles WHERE level = 0",
        "DELETE FROM audit_heads",
        "UPDATE audit_heads SET size = size + 1",
        "UPDATE audit_heads SET jws = :text",
        "UPDATE counters SET value = 1 WHERE name = 'audit_size'",
        "UPDATE audit SET leaf = 3 WHERE leaf IS NULL",
    ],
)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_tree_that_was_tampered_with_is_not_signed_again(trail: Trail, change: str, restarted: bool) -> None:
    trail.act(4)
    trail.tamper("DELETE FROM audit WHERE number > 3")
    trail.seal()
    trail.act(2)
    if "SET leaf" in change:
        trail.tamper("DELETE FROM audit WHERE leaf IS NULL AND number <> (SELECT max(number) FROM audit)")
    trail.tamper(change, forged=b"\x00" * 96, text="a.b.c")
    sealer = trail.opened() if restarted else trail.log
    trail.act()
    with pytest.raises(TreeDamaged):
        sealer.seal(trail.world.clock())


def test_what_this_process_has_seen_stays(trail: Trail) -> None:
    """The whole tree made anew with the right key, by another process: the database alone would not show it."""
    trail.act(5)
    trail.seal()
    old = head(trail)
    trail.tamper(
        "UPDATE audit SET actor = 'eve', leaf = NULL",
        "DELETE FROM audit_tiles",
        "DELETE FROM audit_heads",
        "UPDATE counters SET value = 0 WHERE name = 'audit_size'",
    )
    trail.act(3)
    other = trail.opened()
    other.seal(trail.world.clock())
    assert trail.found() == []
    with pytest.raises(TreeDamaged, match="changed"):
        trail.seal()
    # An auditor with the old head sees it, too.
    new = other.head(trail.world.clock()).head
    path = other.consistency(1, old.size, new.size)
    with pytest.raises(HistoryRewritten):
        verify_consistency(first=old.size, first_root=old.root, second=new.size, second_root=new.root, path=path)


def test_a_truncated_log_is_noticed(trail: Trail) -> None:
    trail.act(5)
    trail.seal()
    trail.tamper(
        "DELETE FROM audit", "DELETE FROM audit_tiles", "DELETE FROM audit_heads",
        "UPDATE counters SET value = 0 WHERE name = 'audit_size'",
    )  # fmt: skip
    trail.act(2)
    trail.opened().seal(trail.world.clock())
    with pytest.raises(TreeDamaged):
        trail.seal()


def test_a_damaged_tree_keeps_no_bundle_back(trail: Trail, caplog: pytest.LogCaptureFixture) -> None:
    """A quarantine must reach the edges; the last genuine head goes on, and the trouble is said once."""
    trail.seal()
    before = trail.log.head(trail.world.clock())
    trail.tamper("DELETE FROM audit_tiles")
    trail.act()
    for _ in range(3):
        assert trail.opened().head(trail.world.clock()) == before
        assert trail.log.head(trail.world.clock()) == before
    assert sum("not sealed" in message for message in caplog.messages) == 4
    trail.world.clock.advance(minutes=2)
    trail.world.service.publication.bundle(trail.world.clock())


def test_without_any_genuine_head_there_is_none(trail: Trail) -> None:
    trail.seal()
    trail.tamper("UPDATE audit_heads SET jws = 'a.b.c'")
    with pytest.raises(TreeDamaged):
        trail.opened().head(trail.world.clock())
    trail.tamper("DELETE FROM audit_heads")
    with pytest.raises(NotSealed):
        trail.opened().head(trail.world.clock())


# ---- Proofs ------------------------------------------------------------------------------------------------------


def test_inclusion_of_every_row(trail: Trail) -> None:
    trail.act(20)
    for row in trail.rows():
        proof = trail.log.inclusion(row.number, trail.world.clock())
        assert proof.entry == row.entry
        assert proof.verify(trail.roots[0], now=trail.world.clock()).size == len(trail.rows())
    with pytest.raises(AuditRowUnknown):
        trail.log.inclusion(999, trail.world.clock())


def test_consistency_between_all_sizes(trail: Trail) -> None:
    heads = []
    for _ in range(6):
        trail.act(3)
        heads.append(head(trail))
    for n, first in enumerate(heads):
        for second in heads[n:]:
            path = trail.log.consistency(1, first.size, second.size)
            assert path == trail.log.consistency(None, first.size, second.size)
            verify_consistency(
                first=first.size, first_root=first.root, second=second.size, second_root=second.root, path=path
            )


@pytest.mark.parametrize(("log", "first", "second"), [(2, 1, 2), (1, 2, 1), (1, 1, 99), (None, 1, 99)])
def test_sizes_and_logs_that_are_not(trail: Trail, log: int | None, first: int, second: int) -> None:
    trail.act(3)
    trail.seal()
    trail.log.consistency(1, 1, 2)
    with pytest.raises(LogElsewhere):
        trail.log.consistency(log, first, second)


def test_heads_are_thinned_out(trail: Trail) -> None:
    for _ in range(6):
        trail.act()
        trail.seal()
        trail.world.clock.advance(hours=9)
    now = int((trail.world.clock() - timedelta(hours=20)).timestamp())
    with trail.registry.reading() as c:
        everything = list(audit_tree.heads(c))
    with trail.registry.acting() as c:
        audit_tree.thin_heads(c, before=now)
    days = {head.at // 86400: head for head in everything}  # the last of each day
    with trail.registry.reading() as c:
        kept = list(audit_tree.heads(c))
        assert kept == [head for head in everything if head.at >= now or days[head.at // 86400] == head]
        assert len(kept) < len(everything)
        assert c.execute(select(audit_heads)).all()
    assert trail.found() == []
    verify_head(kept[-1].jws, roots=trail.roots, trust_domain=TRUST_DOMAIN, now=None)
    assert isinstance(kept[-1], StoredHead)


def test_lag(trail: Trail) -> None:
    trail.seal()
    with trail.registry.reading() as c:
        assert audit.lag(c) == audit.Unsealed(0, None)
    trail.act(2, at=1_700_000_000)
    trail.act(1, at=1_700_000_005)
    with trail.registry.reading() as c:
        assert audit.lag(c) == audit.Unsealed(3, 1_700_000_000)
