"""Old rows go into files and keep their leaves; whatever dies on the way, no row is lost and none is there twice."""

from __future__ import annotations

import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from attestd.auditing import archives as archives_module
from attestd.auditing.archives import ArchiveUnreadable, archive_audit, archived_lines, read_entry
from attestd.ca.keyfiles import KeyFileExposed
from attestd.credentials.transparency import entry_octets
from attestd.registry import audit, audit_tree
from attestd.registry.audit import AuditRowUnknown
from attestd.registry.tiles import TreeDamaged

from .conftest import Trail

DAYS_90 = timedelta(days=90)


def archive(trail: Trail, *, batch: int = 1000) -> int:
    return archive_audit(trail.registry, trail.folder, trail.world.clock(), DAYS_90, batch)


def files(trail: Trail) -> list[str]:
    return sorted(path.name for path in trail.folder.glob("*")) if trail.folder.exists() else []


@pytest.fixture
def old(trail: Trail) -> Trail:
    """Ten rows of a hundred days ago, five of today."""
    trail.tamper("DELETE FROM audit")
    trail.act(10)
    trail.seal()
    trail.world.clock.advance(days=100)
    trail.act(5)
    trail.seal()
    return trail


def test_old_rows_go_into_a_file_that_only_its_owner_reads(old: Trail) -> None:
    rows = old.rows()
    assert archive(old) == 10
    assert files(old) == ["1-000000000000-000000000009.jsonl"]
    path = old.folder / files(old)[0]
    assert path.read_bytes().splitlines() == [entry_octets(row.entry) for row in rows[:10]]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(old.folder.stat().st_mode) == 0o700
    assert old.rows() == rows[10:]
    assert archive(old) == 0
    assert old.found() == []


def test_what_is_young_or_unsealed_stays(trail: Trail) -> None:
    trail.act(10)
    trail.world.clock.advance(days=100)
    assert archive(trail) == 0
    trail.seal()
    trail.world.clock.advance(days=-11)
    assert archive(trail) == 0
    assert files(trail) == []


def test_a_day_goes_as_a_whole(trail: Trail) -> None:
    """Or every sweep of every minute would leave a file."""
    trail.tamper("DELETE FROM audit")
    trail.act(5)
    trail.world.clock.advance(hours=1)
    trail.act(5)
    trail.seal()
    midnight = trail.world.clock().replace(hour=0, minute=0) + timedelta(days=1)
    trail.world.clock.now = midnight + DAYS_90 - timedelta(seconds=1)
    assert archive(trail) == 0
    trail.world.clock.advance(seconds=1)
    assert archive(trail) == 9  # and not the last one


def test_in_batches(old: Trail) -> None:
    assert [archive(old, batch=4) for _ in range(4)] == [4, 4, 2, 0]
    assert len(files(old)) == 3
    assert old.found() == []


def test_a_young_row_among_old_ones_ends_the_range(trail: Trail) -> None:
    trail.tamper("DELETE FROM audit")
    day = trail.world.clock()
    trail.act(2)
    trail.act(1, at=int((day + timedelta(days=99)).timestamp()))
    trail.act(2)
    trail.seal()
    trail.world.clock.advance(days=100)
    assert archive(trail) == 2


def test_the_last_row_stays_so_that_its_number_never_comes_again(trail: Trail) -> None:
    trail.act(3)
    trail.seal()
    last = trail.rows()[-1].number
    trail.world.clock.advance(days=100)
    archive(trail)
    trail.act()
    assert [row.number for row in trail.rows()] == [last, last + 1]


def test_archived_rows_are_still_proven(old: Trail) -> None:
    rows = old.rows()
    archive(old, batch=4)
    archive(old, batch=4)
    for row in rows:
        proof = old.opened().inclusion(row.number, old.world.clock())
        assert (proof.entry, proof.leaf) == (row.entry, row.leaf)
        proof.verify(old.roots[0], now=old.world.clock())
    with pytest.raises(AuditRowUnknown):
        old.log.inclusion(99, old.world.clock())


def test_a_row_is_read_back_as_it_was(old: Trail) -> None:
    row = old.rows()[0]
    assert read_entry(entry_octets(row.entry), 0) == row


def test_a_changed_row_is_not_archived(old: Trail) -> None:
    """It is evidence; and in a file it would look like damage to the file."""
    old.tamper("UPDATE audit SET actor = 'eve' WHERE leaf = 7")
    with pytest.raises(TreeDamaged, match="leaf 7"):
        archive(old)
    assert files(old) == []
    assert len(old.rows()) == 15


def test_a_missing_row_is_not_skipped(old: Trail) -> None:
    old.tamper("DELETE FROM audit WHERE leaf = 7")
    with pytest.raises(TreeDamaged):
        archive(old)
    assert files(old) == []


@pytest.mark.parametrize("step", ["add_archive", "remove_archived"])
@pytest.mark.parametrize("more", [False, True])
def test_dying_half_way(old: Trail, monkeypatch: pytest.MonkeyPatch, step: str, more: bool) -> None:
    """The file is there and not noted, or noted and the rows are still here: the next round goes on."""
    rows = old.rows()
    with monkeypatch.context() as patch:
        patch.setattr(audit_tree if step == "add_archive" else audit, step, dies)
        with pytest.raises(KeyboardInterrupt):
            archive(old)
    assert old.rows() == rows
    assert old.found() == []
    if more:
        old.world.clock.advance(days=100)  # meanwhile the others are old enough as well
    archive(old)
    assert len(old.rows()) == (1 if more else 5)
    assert old.found() == []
    assert old.log.inclusion(rows[3].number, old.world.clock()).entry == rows[3].entry


def dies(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_rows_put_where_archived_ones_were_are_not_swept_away(old: Trail) -> None:
    archive(old)
    old.tamper(
        "INSERT INTO audit (number, at, actor, act, subject, detail, leaf) VALUES (3, 1, 'a', 'b', 'c', '{}', 2)"
    )
    with pytest.raises(TreeDamaged, match="Row 3"):
        archive(old)
    assert ("added", 3) in old.found()


def test_two_at_once(old: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both write the same file; one notes it."""
    replace_secret = archives_module.replace_secret
    done: list[int] = []

    def late(*arguments: object, **options: object) -> None:
        if not done:
            done.append(0)
            done[0] = archive(old)
        replace_secret(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(archives_module, "replace_secret", late)
    assert archive(old) == 0
    assert done == [10]
    assert old.found() == []


def test_a_folder_that_others_enter(old: Trail) -> None:
    old.folder.mkdir(mode=0o755)
    with pytest.raises(KeyFileExposed):
        archive(old)
    assert len(old.rows()) == 15


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_file_that_can_not_be_read(old: Trail, damage: Callable[[Path], None]) -> None:
    archive(old)
    damage(old.folder / files(old)[0])
    with old.registry.reading() as c, pytest.raises(ArchiveUnreadable):
        list(archived_lines(old.folder, audit_tree.archives(c)[0]))


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b'{"v":1}', b'{"v":1,"request_id":5}'])
def test_a_line_that_is_no_row(line: bytes) -> None:
    with pytest.raises(ArchiveUnreadable):
        read_entry(line, 0)
