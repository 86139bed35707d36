"""What is nginx's own, of what tests/e2e/test_gates.py asks of every reverse proxy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gates import Gate, Nginx, opened


@pytest.fixture(scope="module")
def open_gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with opened(Nginx, tmp_path_factory.mktemp("nginx")) as gate:
        yield gate


@pytest.fixture
def gate(open_gate: Gate) -> Gate:
    open_gate.seen.clear()
    return open_gate


def test_an_upgrade_is_not_passed_on(gate: Gate) -> None:
    """nginx has no longest time for a connection, and a verdict is about the start of one."""
    upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
    assert gate.send(*upgrade, leaf=gate.site.device())[0] == 200
    assert not {"upgrade", "connection"} & set(gate.headers_seen())


def test_the_edges_own_address_is_nobodys_business(gate: Gate) -> None:
    assert gate.send(leaf=gate.site.device(), target="/_attestd")[0] == 404
    assert gate.seen == []


def test_an_application_that_is_down_is_not_an_edge_that_is_down(tmp_path) -> None:
    with opened(Nginx, tmp_path) as gate:
        gate.application.shutdown()
        gate.application.server_close()
        assert gate.send(leaf=gate.site.device())[0] == 502
        assert gate.send()[0] == 401
