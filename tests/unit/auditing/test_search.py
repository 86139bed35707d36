"""Rows are found by everything that is asked for, in the database and in files, page by page and none twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from attestd.auditing import search
from attestd.auditing.archives import archive_audit
from attestd.auditing.search import Found, Wanted
from attestd.registry import audit
from attestd.registry.tables import audit as rows
from tests.service import World

DAY = 86400


class Trail:
    """Rows of four days, of three actors: 40 rows, an hour and a half apart."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.log = world.service.publication.audit
        with world.registry.reading() as c:
            self.first = audit.last_number(c) + 1
        start = int(world.clock().timestamp())
        with world.registry.acting() as c:
            for n in range(40):
                c.execute(
                    insert(rows).values(
                        at=start + n * 5400,
                        actor=f"operator:{('ada', 'bob', 'cyd')[n % 3]}",
                        act=("approve", "quarantine", "release", "renew")[n % 4],
                        subject=f"till-{n % 5}",
                        request_id=f"request-{n}",
                        detail={"reason": "Zähler 7 defekt"} if n == 11 else {"version": n},
                    )
                )
        self.start = start
        world.clock.advance(days=3)

    def numbers(self, *, limit: int = 1000, before: int | None = None, **wanted: Any) -> list[int]:
        """Of this trail's own rows, counted from 0: as many pages as there are."""
        found: list[int] = []
        for _ in range(100):
            page = self.page(limit=limit, before=before, **wanted)
            assert len(page.rows) <= limit
            found += [row.number - self.first for row in page.rows if row.number >= self.first]
            if page.next is None:
                return found
            before = page.next
        raise AssertionError("it has no end")

    def page(self, *, limit: int = 1000, before: int | None = None, **wanted: Any) -> Found:
        return search.newest(self.world.registry, self.log.folder, Wanted(**wanted), before=before, limit=limit)

    def expected(self, fits: Any) -> list[int]:
        return [n for n in reversed(range(40)) if fits(n)]

    def archive(self, batch: int = 7) -> None:
        self.log.seal(self.world.clock())
        self.world.clock.advance(days=100)
        while archive_audit(self.world.registry, self.log.folder, self.world.clock(), timedelta(days=90), batch):
            pass


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[Trail]:
    world = World(tmp_path / "instance")
    yield Trail(world)
    world.close()


QUESTIONS: list[tuple[dict[str, Any], Any]] = [
    ({}, lambda n: True),
    ({"actor": "operator:ada"}, lambda n: n % 3 == 0),
    ({"actor": "operator:nobody"}, lambda n: False),
    ({"subject": "till-2"}, lambda n: n % 5 == 2),
    ({"acts": ("quarantine",)}, lambda n: n % 4 == 1),
    ({"acts": ("quarantine", "release", "quarantine")}, lambda n: n % 4 in (1, 2)),
    ({"but": ("renew",)}, lambda n: n % 4 != 3),
    ({"actor": "operator:bob", "acts": ("release",)}, lambda n: n % 3 == 1 and n % 4 == 2),
    ({"subject": "till-2", "acts": ("release",), "but": ("renew",)}, lambda n: n % 5 == 2 and n % 4 == 2),
    ({"text": "zÄHLER 7"}, lambda n: n == 11),
    ({"text": "OPERATOR:CYD"}, lambda n: n % 3 == 2),
    ({"text": "request-3"}, lambda n: n == 3 or (n >= 30 and n < 40)),
]


@pytest.mark.parametrize(("wanted", "fits"), QUESTIONS)
@pytest.mark.parametrize("limit", [1000, 3])
def test_in_the_database(trail: Trail, wanted: dict[str, Any], fits: Any, limit: int) -> None:
    assert trail.numbers(limit=limit, **wanted) == trail.expected(fits)


@pytest.mark.parametrize(("wanted", "fits"), QUESTIONS)
@pytest.mark.parametrize("limit", [1000, 3])
def test_in_files_too(trail: Trail, wanted: dict[str, Any], fits: Any, limit: int) -> None:
    trail.archive()
    with trail.world.registry.reading() as c:
        assert audit.span(c)[0] > trail.first + 30
    assert trail.numbers(limit=limit, **wanted) == trail.expected(fits)


@pytest.mark.parametrize("archived", [False, True])
def test_times(trail: Trail, archived: bool) -> None:
    if archived:
        trail.archive()
    since, until = trail.start + 10 * 5400, trail.start + 20 * 5400
    assert trail.numbers(since=since) == trail.expected(lambda n: n >= 10)
    assert trail.numbers(since=since + 1) == trail.expected(lambda n: n >= 11)
    assert trail.numbers(until=until) == trail.expected(lambda n: n < 20)
    assert trail.numbers(since=since, until=until, limit=4) == trail.expected(lambda n: 10 <= n < 20)
    assert trail.numbers(since=until, until=since) == []
    assert trail.numbers(since=trail.start + 40 * 5400) == []


def test_a_row_that_stands_out_of_order_is_found_by_its_time(trail: Trail) -> None:
    """Its request came ten minutes before it was written down."""
    with trail.world.registry.acting() as c:
        c.execute(insert(rows).values(at=trail.start + 39 * 5400 - 600, actor="a", act="late", subject="s", detail={}))
    at = trail.start + 39 * 5400
    assert trail.numbers(since=at - 600, until=at) == [40]
    assert trail.numbers(since=at) == [39]


def test_archived_rows_whose_numbers_lie_among_those_of_others(trail: Trail) -> None:
    """Where transactions run side by side, leaves have another order than numbers."""
    log, world = trail.log, trail.world
    with world.registry.acting() as c:  # they will be sealed last
        c.execute(rows.delete().where(rows.c.number.in_([trail.first + 6, trail.first + 13, trail.first + 27])))
    log.seal(world.clock())
    with world.registry.acting() as c:
        for n in (6, 13, 27):
            values = {"at": trail.start + n * 5400, "actor": "a", "act": "late", "subject": "s", "detail": {}}
            c.execute(insert(rows).values(number=trail.first + n, **values))
    trail.archive()
    assert trail.numbers(limit=3) == trail.expected(lambda n: True)
    assert trail.numbers() == trail.expected(lambda n: True)
    assert trail.numbers(acts=("late",)) == [27, 13, 6]


def test_one_answer_looks_at_so_many_rows(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_LOOKED_AT", 10)
    page = trail.page(text="zähler")
    assert (page.rows, page.next) == ([], trail.first + 30)
    assert trail.numbers(text="zähler") == [11]
    trail.archive()
    assert trail.numbers(text="zähler") == [11]


def test_one_answer_opens_so_many_files(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    trail.archive(batch=2)
    monkeypatch.setattr(search, "_FILES", 3)
    page = trail.page(text="zähler")
    assert page.rows == []
    assert page.next is not None
    assert trail.numbers(text="zähler") == [11]


def test_files_that_are_not_here_are_said(trail: Trail) -> None:
    trail.archive()
    for file in trail.log.folder.iterdir():
        file.unlink()
    found = trail.page()
    assert found.next is None
    assert found.unread is not None
    with trail.world.registry.reading() as c:
        assert found.unread == audit.span(c)[0] - 1
    assert trail.page(since=trail.start + 1000 * DAY).unread is None


def test_following(trail: Trail) -> None:
    registry = trail.world.registry
    found = search.following(registry, Wanted(acts=("release",)), after=trail.first + 20, limit=3)
    assert [row.number - trail.first for row in found.rows] == [22, 26, 30]
    assert found.next == trail.first + 30
    found = search.following(registry, Wanted(acts=("release",)), after=trail.first + 30, limit=3)
    assert ([row.number - trail.first for row in found.rows], found.next) == ([34, 38], None)
