"""Whatever somebody changes in the database or its archives, behind the service's back, is found and named."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from attestd.auditing import examination
from attestd.auditing.archives import archive_audit
from attestd.registry import audit_tree, revision

from .conftest import Trail

COLUMNS = "number, at, actor, act, subject, detail"


@pytest.fixture
def sealed(trail: Trail) -> Trail:
    """Rows 1 to 600 as leaves 0 to 599, under three heads."""
    for count in (200 - len(trail.rows()), 200, 200):
        trail.act(count)
        trail.seal()
        trail.world.clock.advance(hours=1)
    return trail


@pytest.fixture
def archived(sealed: Trail) -> Trail:
    """The first 400 of them in two files."""
    sealed.world.clock.advance(days=100)
    for _ in range(2):
        archive_audit(sealed.registry, sealed.folder, sealed.world.clock(), timedelta(days=90), 200)
    return sealed


def lines(trail: Trail) -> tuple[Path, list[bytes]]:
    """The second file: rows 201 to 400."""
    path = sorted(trail.folder.glob("*"))[1]
    return path, path.read_bytes().splitlines(keepends=True)


def test_nothing_is_found_where_nothing_was_done(sealed: Trail) -> None:
    seen = sealed.examine()
    assert (seen.findings, seen.size, seen.heads, seen.log, seen.unsealed) == ([], 600, 3, 1, 0)


def test_nor_in_archives(archived: Trail) -> None:
    seen = archived.examine()
    assert (seen.findings, seen.size, seen.archived) == ([], 600, 400)


def test_rows_that_wait_are_no_finding(sealed: Trail) -> None:
    sealed.act(7)
    assert (sealed.found(), sealed.examine().unsealed) == ([], 7)


def test_an_empty_trail(trail: Trail) -> None:
    trail.tamper("DELETE FROM audit")
    assert trail.found() == []
    trail.seal()
    assert (trail.found(), trail.examine().heads) == ([], 1)


# ---- Rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", ["at = at + 1", "actor = 'eve'", "act = 'x'", "subject = 'x'", "request_id = 'x'", "detail = '{}'"]
)
def test_a_changed_row(sealed: Trail, change: str) -> None:
    sealed.tamper(f"UPDATE audit SET {change} WHERE number = 17")
    assert sealed.found() == [("changed", 17)]


def test_removed_rows(sealed: Trail) -> None:
    sealed.tamper("DELETE FROM audit WHERE number IN (17, 18, 40)")
    assert sealed.found() == [("removed", 17), ("removed", 18), ("removed", 40)]


def test_the_first_and_the_last_row_removed(sealed: Trail) -> None:
    sealed.tamper("DELETE FROM audit WHERE number IN (1, 600)")
    seen = sealed.examine()
    assert [(f.kind, f.number) for f in seen.findings] == [("removed", 1), ("removed", None)]
    assert "after row 599" in seen.findings[1].text


def test_removed_rows_where_numbers_have_gaps(trail: Trail) -> None:
    trail.tamper("DELETE FROM audit")
    trail.act(10)
    trail.tamper("DELETE FROM audit WHERE number = 5")
    trail.seal()
    trail.tamper("DELETE FROM audit WHERE number = 6")
    seen = trail.examine()
    assert [(f.kind, f.number) for f in seen.findings] == [("removed", None)]
    assert "between rows 4 and 7" in seen.findings[0].text


def test_swapped_rows(sealed: Trail) -> None:
    sealed.tamper(
        "UPDATE audit SET leaf = -1 WHERE number = 17",
        "UPDATE audit SET leaf = 16 WHERE number = 30",
        "UPDATE audit SET leaf = 29 WHERE number = 17",
    )
    assert sealed.found() == [("moved", 17), ("moved", 30)]


def test_rows_whose_contents_were_swapped(sealed: Trail) -> None:
    one, other = (row.subject for row in sealed.rows() if row.number in (17, 30))
    sealed.tamper("UPDATE audit SET subject = :other WHERE number = 17", other=other)
    sealed.tamper("UPDATE audit SET subject = :one WHERE number = 30", one=one)
    assert sealed.found() == [("changed", 17), ("changed", 30)]


def test_a_row_with_a_leaf_beyond_the_tree(sealed: Trail) -> None:
    sealed.tamper(f"INSERT INTO audit ({COLUMNS}, leaf) VALUES (9000, 1, 'eve', 'x', 'y', '{{}}', 777)")
    assert sealed.found() == [("added", 9000)]


def test_a_row_in_the_place_of_another(sealed: Trail) -> None:
    sealed.tamper(
        "DELETE FROM audit WHERE number = 17",
        f"INSERT INTO audit ({COLUMNS}, leaf) VALUES (9000, 1, 'eve', 'x', 'y', '{{}}', 16)",
    )
    assert sealed.found() == [("changed", 9000)]


def test_two_rows_in_one_place(sealed: Trail) -> None:
    sealed.tamper(
        "DROP INDEX ix_audit_leaf",
        f"INSERT INTO audit ({COLUMNS}, leaf) VALUES (9000, 1, 'eve', 'x', 'y', '{{}}', 16)",
    )
    assert sealed.found() == [("added", 9000)]


def test_a_row_that_claims_to_be_older_than_a_head_before_it(sealed: Trail) -> None:
    """Whoever adds a row to the database has it sealed like any other, but not in the past."""
    at = int((sealed.world.clock() - timedelta(hours=2)).timestamp())
    sealed.tamper(f"INSERT INTO audit ({COLUMNS}) VALUES (9000, :at, 'ada', 'retire', 'till-1', '{{}}')", at=at)
    sealed.seal()
    assert sealed.found() == [("backdated", 9000)]


def test_many_changes_are_counted_and_not_all_kept(sealed: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "MAX_FINDINGS", 20)
    sealed.tamper("UPDATE audit SET actor = 'eve'")
    seen = sealed.examine()
    assert (len(seen.findings), seen.more) == (20, 580)


def test_all_rows_removed(sealed: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "MAX_FINDINGS", 20)
    sealed.tamper("DELETE FROM audit")
    seen = sealed.examine()
    assert seen.findings
    assert {finding.kind for finding in seen.findings} == {"removed"}


# ---- Archives ----------------------------------------------------------------------------------------------------


def test_a_changed_line(archived: Trail) -> None:
    path, held = lines(archived)
    row = json.loads(held[10])
    held[10] = json.dumps(row | {"actor": "eve"}, separators=(",", ":"), sort_keys=True).encode() + b"\n"
    path.write_bytes(b"".join(held))
    assert archived.found() == [("changed", 211)]


def test_a_removed_line(archived: Trail) -> None:
    path, held = lines(archived)
    path.write_bytes(b"".join(held[:10] + held[11:]))
    assert archived.found() == [("removed", 211)]


def test_the_last_lines_removed(archived: Trail) -> None:
    path, held = lines(archived)
    path.write_bytes(b"".join(held[:-2]))
    assert archived.found() == [("removed", 399), ("removed", 400)]


def test_an_added_line(archived: Trail) -> None:
    path, held = lines(archived)
    row = json.loads(held[10])
    more = json.dumps(row | {"number": 9000}, separators=(",", ":"), sort_keys=True).encode() + b"\n"
    path.write_bytes(b"".join([*held[:10], more, *held[10:]]))
    assert archived.found() == [("added", 9000)]


def test_swapped_lines(archived: Trail) -> None:
    path, held = lines(archived)
    held[10], held[11] = held[11], held[10]
    path.write_bytes(b"".join(held))
    assert ("moved", 211) in archived.found()


def test_lines_after_the_end(archived: Trail) -> None:
    path, held = lines(archived)
    path.write_bytes(b"".join([*held, held[0]]))
    assert archived.found() == [("archive", None)]


def test_a_lost_file(archived: Trail) -> None:
    lines(archived)[0].unlink()
    found = archived.found()
    assert ("archive", None) in found
    assert ("removed", 201) in found
    assert ("removed", 400) in found


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM audit_archives WHERE first = 200",
        "UPDATE audit_archives SET first = 201 WHERE first = 200",
        "UPDATE audit_archives SET size = 100 WHERE first = 200",
        "UPDATE audit_archives SET size = 300 WHERE first = 200",
        "UPDATE counters SET value = 500 WHERE name = 'audit_archived'",
    ],
)
def test_the_record_of_archives(archived: Trail, change: str) -> None:
    archived.tamper(change)
    assert "archive" in {kind for kind, _ in archived.found()}


# ---- Tiles, heads, sizes -----------------------------------------------------------------------------------------


def flip(trail: Trail, level: int, number: int, hash: int) -> None:
    with trail.registry.acting() as c:
        tile = bytearray(audit_tree.tile(c, level, number))
        tile[hash * 32] ^= 1
        audit_tree.put_tiles(c, {(level, number): bytes(tile)})


def test_a_changed_full_tile(sealed: Trail) -> None:
    flip(sealed, 0, 1, 5)
    seen = sealed.examine()
    assert [(f.kind, f.number) for f in seen.findings] == [("head", None), ("tile", None), ("changed", 262)]
    assert "1.400" in seen.findings[0].text
    assert "0/1 (leaves 256 to 511)" in seen.findings[1].text


def test_a_changed_last_tile(sealed: Trail) -> None:
    flip(sealed, 0, 2, 5)
    seen = sealed.examine()
    assert [(f.kind, f.number) for f in seen.findings] == [("head", None), ("changed", 518)]
    assert "1.600" in seen.findings[0].text


def test_a_changed_tile_above(sealed: Trail) -> None:
    flip(sealed, 1, 0, 1)
    assert {kind for kind, _ in sealed.found()} == {"tile", "head"}


def test_a_row_and_its_tile_changed_to_fit(sealed: Trail) -> None:
    """The row can't be named then, but where it is: in that tile, and after the last head that still fits."""
    sealed.tamper("UPDATE audit SET actor = 'eve' WHERE number = 550")
    with sealed.registry.reading() as c:
        row = examination.audit.sealed(c, 549, 550)[0]
        tile = bytearray(audit_tree.tile(c, 0, 2))
    digest = examination.leaf_hash(examination.entry_octets(row.entry))
    tile[37 * 32 : 38 * 32] = digest
    with sealed.registry.acting() as c:
        audit_tree.put_tiles(c, {(0, 2): bytes(tile)})
    seen = sealed.examine()
    assert [f.kind for f in seen.findings] == ["head"]
    assert "from leaf 400 on" in seen.findings[0].text


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ("DELETE FROM audit_tiles WHERE level = 0 AND number = 0", {"tile", "changed", "head"}),
        ("DELETE FROM audit_tiles WHERE level = 1", {"tile", "head"}),
        ("INSERT INTO audit_tiles (level, number, hashes) VALUES (0, 9, :octets)", {"tile"}),
        ("UPDATE audit_tiles SET hashes = :octets WHERE level = 0 AND number = 2", {"tile", "changed", "head"}),
        ("UPDATE audit_heads SET jws = 'a.b.c' WHERE size = 400", {"head"}),
        ("UPDATE audit_heads SET jws = (SELECT max(jws) FROM audit_heads WHERE size = 200) WHERE size = 400", {"head"}),
        ("UPDATE audit_heads SET at = at + 1 WHERE size = 400", {"head"}),
        ("UPDATE audit_heads SET log = 2 WHERE size = 400", {"head", "size"}),
        ("DELETE FROM audit_heads WHERE size = 600", {"size"}),
        ("DELETE FROM audit_heads", {"size"}),
        ("UPDATE counters SET value = 500 WHERE name = 'audit_size'", {"size", "head", "added", "tile"}),
        ("UPDATE counters SET value = 700 WHERE name = 'audit_size'", {"size", "removed", "tile"}),
        ("UPDATE counters SET value = 0 WHERE name = 'epoch'", {"size"}),
    ],
)
def test_the_tree_s_own_tables(sealed: Trail, change: str, kinds: set[str]) -> None:
    sealed.tamper(change, **({"octets": b"\x00" * 32} if ":octets" in change else {}))
    assert {kind for kind, _ in sealed.found()} == kinds


def test_after_a_restore(sealed: Trail) -> None:
    """A new log goes on with the tree; both logs' heads are in order."""
    with sealed.registry.acting() as c:
        revision.raise_epoch(c)
    sealed.act(5)
    sealed.seal()
    seen = sealed.examine()
    assert (seen.findings, seen.log, seen.heads) == ([], 2, 4)


def test_a_head_by_a_key_that_no_pinned_root_knows(sealed: Trail) -> None:
    sealed.roots = []
    assert {kind for kind, _ in sealed.found()} == {"head"}
