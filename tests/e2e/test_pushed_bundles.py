"""Edges that listen to a running service: what is decided there holds here at once, also after the line broke."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestd.errors import AttestdError
from tests.listening import Fleet, listening
from tests.load.running import attestd


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with listening(tmp_path_factory.mktemp("fleet"), 2, server_workers="1") as made:
        yield made


def test_a_quarantine_reaches_edges_that_listen(fleet: Fleet) -> None:
    fleet.until("allowed")
    fleet.home.quarantine()
    fleet.until("device-suspended")
    fleet.home.release()
    fleet.until("allowed")
    assert {edge.refresher.connection for edge in fleet.edges} == {"listening"}


def test_a_policy_takes_effect_and_goes_back_in_one_command_each(fleet: Fleet, tmp_path: Path) -> None:
    closed = tmp_path / "closed.cedar"
    closed.write_text("forbid (principal, action, resource);")
    attestd(fleet.service.folder, "policy", "set", str(closed))
    fleet.until("crossing-denied", within=5)
    attestd(fleet.service.folder, "policy", "rollback")
    fleet.until("allowed", within=5)
    assert {edge.refresher.connection for edge in fleet.edges} == {"listening"}


def answers(fleet: Fleet) -> bool:
    try:
        fleet.home.api.get("/overview")
    except AttestdError:
        return False
    return True


def test_they_come_back_after_the_service_was_away(fleet: Fleet) -> None:
    """A worker that is killed takes its streams along; another takes its place."""
    [worker] = fleet.service.workers()
    os.kill(worker, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while fleet.service.workers() in ([], [worker]) or not answers(fleet):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    fleet.home.quarantine()
    fleet.until("device-suspended")
    fleet.home.release()
    fleet.until("allowed")


def test_a_proxy_that_was_disabled_hears_nothing_more(fleet: Fleet) -> None:
    one, other = fleet.edges
    attestd(fleet.service.folder, "proxies", "disable", "edge-0")
    deadline = time.monotonic() + 60
    while one.refresher.connection != "cut off":
        assert time.monotonic() < deadline, one.refresher.connection
        time.sleep(0.05)
    fleet.home.quarantine()
    deadline = time.monotonic() + 60
    while other.asked() != "device-suspended":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert one.asked() == "allowed"
    assert other.refresher.connection == "listening"
