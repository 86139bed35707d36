"""`attestd boundaries list` and `attestd policy dry-run`: for people and for programs, with exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from attestd.cli import boundaries, main
from attestd.cli.api import AdminApi
from attestd.cli.policy import keeping, trying
from attestd.policy import default_policy
from tests.edge_reports import edge_report
from tests.receipt_site import ReceiptSite
from tests.service import SITE, URL, World

Run = Callable[..., Result]
GUARDED = {"from": {"tier": "device"}, "to": {"tier": "edge", "site": SITE}, "receipts": "allowed"}
NOTHING = '@id("none") forbid (principal, action, resource);'


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "instance")
    yield world
    world.close()


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch) -> Run:
    def api(_dir: Path) -> AdminApi:
        transport = httpx.WSGITransport(world.app)
        return AdminApi(httpx.Client(base_url=URL, transport=transport), URL, world.admin.key)

    for module in (boundaries, keeping, trying):
        monkeypatch.setattr(module, "service", api)
    return lambda *words: CliRunner().invoke(main.app, list(words))


def test_boundaries_are_listed_for_people_and_programs(world: World, run: Run) -> None:
    assert run("boundaries", "list").stdout.startswith("No boundaries")
    report = edge_report(boundaries={"field": GUARDED}, stale_for={"field": 7})
    assert world.proxy.post("/v1/proxies/reports", report).status_code == 200
    _, row, total = run("boundaries", "list").stdout.splitlines()
    assert " ".join(row.split()) == ("field device/any site edge/shop-1 2 1 no-credential 1 allowed for 7 s proxy-1")
    assert "2 allowed, 1 refused." in total
    found = json.loads(run("boundaries", "list", "--json", "--hours", "3", "--site", SITE).stdout)
    assert (found["window"], found["site"], len(found["boundaries"])) == (3, SITE, 1)


def test_the_rest_is_summed_up(world: World, run: Run) -> None:
    counts = {name: {"allowed": 5, "refused": {}} for name in ("a", "b", "c")}
    assert world.proxy.post("/v1/proxies/reports", edge_report(counts=counts, stale_for={})).status_code == 200
    assert "and 2 more: 10 allowed, 0 refused" in run("boundaries", "list", "--limit", "1").stdout


def test_a_dry_run_says_what_would_change_by_its_exit_code(world: World, run: Run, tmp_path: Path) -> None:
    (tmp_path / "edge").mkdir()
    site = ReceiptSite(world, tmp_path / "edge")
    site.device = world.enrolled()
    site.refresher.tick()
    site.cross(2)
    site.deliver()
    new = tmp_path / "new.cedar"
    new.write_text(NOTHING)
    done = run("policy", "dry-run", str(new))
    site.edge.stop()
    assert done.exit_code == 1
    assert "0 newly allowed and 2 newly denied, of 2 decisions" in done.stdout
    assert site.device.id in done.stdout
    new.write_text(default_policy())
    assert run("policy", "dry-run", str(new)).exit_code == 0
    assert run("policy", "dry-run", "--version", "1").exit_code == 0
    assert run("policy", "dry-run").exit_code == 1
    assert run("policy", "dry-run", str(new), "--version", "1").exit_code == 1


def test_a_policy_is_set_over_the_version_that_was_seen(run: Run, tmp_path: Path) -> None:
    new = tmp_path / "new.cedar"
    new.write_text(NOTHING)
    assert run("policy", "set", str(new), "--over", "1", "--reason", "a test").exit_code == 0
    done = run("policy", "set", str(new), "--over", "1")
    assert done.exit_code == 1
    assert "Version 2 is in force" in done.output
