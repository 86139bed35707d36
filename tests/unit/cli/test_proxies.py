"""`attestd proxies list` and `show`: how edges stand, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from attestd.cli import proxies
from attestd.cli.api import AdminApi
from tests.edge_reports import AT, edge_report
from tests.service import URL, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def api(_dir: Path) -> AdminApi:
        transport = httpx.WSGITransport(world.app)
        return AdminApi(httpx.Client(base_url=URL, transport=transport), URL, world.viewer.key)

    monkeypatch.setattr(proxies, "service", api)
    return lambda *words: CliRunner().invoke(proxies.app, list(words))


def words(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.stdout.splitlines()]


def test_edges_are_listed_with_how_they_stand(world: World, run: Callable[..., Result]) -> None:
    assert words(run("list"))[0][:2] == ["No", "proxies."]
    world.new_caller("proxy", "proxy-2")
    name = world.service.publication.bundle(world.clock()).name
    report = edge_report(stale_for={"field": 7}, receipts_waiting=3)
    assert world.proxy.post("/v1/proxies/reports", report).status_code == 200
    world.clock.advance(minutes=2)
    world.service.publication.bundle(world.clock())
    world.clock.advance(seconds=40)
    _, first, second = run("list").stdout.splitlines()
    assert first.split() == (
        f"proxy-1 shop-1 behind 160 s ago {name}, 160 s old 1 versions, 40 s 1 boundaries 3".split()
    )
    assert second.split() == ["proxy-2", "shop-1", "never", "-", "-", "-", "-", "-"]
    found = json.loads(run("list", "--json").stdout)
    assert [each["state"] for each in found] == ["behind", "never"]


def test_one_edge_is_shown_with_what_it_decided(world: World, run: Callable[..., Result]) -> None:
    counts = {"field": {"allowed": 5, "refused": {"no-credential": 2, "bundle-stale": 1}}}
    world.proxy.post("/v1/proxies/reports", edge_report(3, counts=counts, since=AT, until=AT))
    shown = words(run("show", "proxy-1", "--hours", "100000"))
    assert ["in", "all:", "5", "allowed,", "3", "refused"] in shown
    assert ["missing:", "2", "reports", "never", "came"] in shown
    assert shown[-1] == ["field", "5", "3", "bundle-stale", "1,", "no-credential", "2", "-"]
    found = json.loads(run("show", "proxy-1", "--json").stdout)
    assert found["totals"] == {"allowed": 5, "refused": 3, "reports": 1, "missed": 2}


def test_an_edge_that_nobody_knows(run: Callable[..., Result]) -> None:
    result = run("show", "nobody", "--json")
    assert result.exit_code == 1
    assert "no such edge proxy" in json.loads(result.stderr)["detail"]
