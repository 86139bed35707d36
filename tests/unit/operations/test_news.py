"""What just happened, by topics and devices: nothing is left out, whatever order rows are committed in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from attestd.operations import news as news_module
from attestd.operations.news import MAX_DEVICES, News, Newsroom
from attestd.operations.topics import APPROVALS, DEVICES, EDGES, EVERY, POLICY
from attestd.registry import audit
from attestd.registry.tables import audit as rows
from tests.edge_reports import edge_report
from tests.service import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "instance")
    yield world
    world.close()


def note(world: World, act: str, subject: str = "till-1", *, number: int | None = None, at: int | None = None) -> None:
    at = int(world.clock().timestamp()) if at is None else at
    with world.registry.acting() as c:
        if number is None:
            audit.append(c, at=at, actor="ada", act=act, subject=subject, request_id=None, detail={})
        else:
            c.execute(insert(rows).values(number=number, at=at, actor="ada", act=act, subject=subject, detail={}))


def looked(world: World) -> tuple[Newsroom, int]:
    newsroom = Newsroom(world.registry)
    return newsroom, newsroom.look()


def test_what_happened_before_is_no_news(world: World) -> None:
    note(world, "approve")
    newsroom, place = looked(world)
    assert newsroom.look() == place


def test_topics_and_devices(world: World) -> None:
    newsroom, place = looked(world)
    note(world, "approve", "till-1")
    note(world, "quarantine", "till-2")
    newsroom.look()
    note(world, "set-policy", "policy 7")
    now = newsroom.look()
    found_place, found = newsroom.since(place)
    assert found_place == now
    assert found.topics == {DEVICES, APPROVALS, "attestations", POLICY}
    assert found.devices == {"till-1", "till-2"}
    assert newsroom.since(now)[1].topics == frozenset()


@pytest.mark.parametrize(
    ("act", "subject"), [("import-inventory", "inventory"), ("quarantine", "Not A Device"), ("never-heard-of", "x")]
)
def test_devices_that_are_not_known_may_be_any(world: World, act: str, subject: str) -> None:
    newsroom, place = looked(world)
    note(world, act, subject)
    newsroom.look()
    assert newsroom.since(place)[1].devices is None


def test_an_act_that_is_not_known_is_about_everything(world: World) -> None:
    newsroom, place = looked(world)
    note(world, "never-heard-of")
    newsroom.look()
    assert newsroom.since(place)[1].topics == EVERY


def test_of_many_devices_none_is_named(world: World) -> None:
    newsroom, place = looked(world)
    for number in range(MAX_DEVICES):
        note(world, "attest", f"till-{number}")
    newsroom.look()
    devices = newsroom.since(place)[1].devices
    assert devices is not None
    assert len(devices) == MAX_DEVICES
    note(world, "attest", "one-more")
    newsroom.look()
    assert newsroom.since(place)[1].devices is None


def test_a_row_that_is_committed_late_is_told(world: World) -> None:
    """Its number is lower than one that was told already."""
    newsroom, _ = looked(world)
    with world.registry.reading() as c:
        last = audit.last_number(c)
    note(world, "set-policy", number=last + 2)
    place = newsroom.look()
    note(world, "quarantine", "till-9", number=last + 1)
    assert newsroom.look() > place
    found = newsroom.since(place)[1]
    assert (found.devices, POLICY in found.topics) == ({"till-9"}, False)
    place = newsroom.look()
    assert newsroom.look() == place  # once


def test_a_number_that_never_comes_is_not_looked_for_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    newsroom, _ = looked(world)
    monkeypatch.setattr(news_module, "_LATE", -1.0)
    with world.registry.reading() as c:
        last = audit.last_number(c)
    note(world, "set-policy", number=last + 2)
    place = newsroom.look()
    newsroom.look()
    note(world, "quarantine", "till-9", number=last + 1)
    assert newsroom.look() == place


def test_more_than_one_look_takes_in(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    newsroom, place = looked(world)
    monkeypatch.setattr(news_module, "_MAX_ROWS", 3)
    for _ in range(5):
        note(world, "set-policy")
    newsroom.look()
    with world.registry.reading() as c:
        assert newsroom.since(place)[1] == News(audit.last_number(c), EVERY, None)
    assert newsroom.look() == newsroom.look()


@pytest.mark.parametrize("place", [-1, 0, 99])
def test_who_stands_where_nobody_remembers_hears_of_everything(
    world: World, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr(news_module, "_KEPT", 2)
    newsroom, _ = looked(world)
    for _ in range(3):
        note(world, "set-policy")
        newsroom.look()
    assert newsroom.since(1)[1].topics == {POLICY}
    assert newsroom.since(place)[1].topics == EVERY


def test_what_happened_since_a_page_was_made(world: World) -> None:
    at = int(world.clock().timestamp())
    newsroom = Newsroom(world.registry)
    note(world, "approve", "till-1", at=at - 60)
    note(world, "set-policy", at=at)
    found = newsroom.recent(at)
    assert found is not None
    assert POLICY in found.topics
    assert APPROVALS not in found.topics
    assert newsroom.recent(at + 60) is None


def test_where_very_much_happened_since_everything_may_be_different(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news_module, "_MAX_ROWS", 2)
    at = int(world.clock().timestamp())
    for _ in range(3):
        note(world, "set-policy", at=at)
    found = Newsroom(world.registry).recent(at)
    assert found is not None
    assert (found.topics, found.devices) == (EVERY, None)


# ---- Edges ------------------------------------------------------------------------------------------------------


def report(world: World, sequence: int) -> None:
    answer = world.proxy.post("/v1/proxies/reports", edge_report(sequence))
    assert answer.status_code == 200, answer.text


def test_that_edges_reported_is_told_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report is no act, so no row tells it; and it concerns no device more than another."""
    monkeypatch.setattr(news_module, "_REPORTS", 0.0)
    report(world, 1)
    newsroom, place = looked(world)
    assert newsroom.look() == place  # what came before is no news
    for sequence in (2, 3):
        report(world, sequence)
        place, found = newsroom.since(newsroom.look() - 1)
        assert (found.topics, found.devices) == ({EDGES}, frozenset())
        assert newsroom.look() == place


def test_edges_are_not_asked_about_at_every_look(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news_module, "_REPORTS", 3600.0)
    report(world, 1)
    newsroom, place = looked(world)
    report(world, 2)
    assert newsroom.look() == place


def test_an_act_and_a_report_are_told_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news_module, "_REPORTS", 0.0)
    newsroom, place = looked(world)
    note(world, "quarantine", "till-2")
    report(world, 1)
    newsroom.look()
    found = newsroom.since(place)[1]
    assert (EDGES in found.topics, DEVICES in found.topics, found.devices) == (True, True, {"till-2"})
