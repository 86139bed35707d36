"""One instance, one service and some devices for each file of tests. ATTESTD_SOAK=1: attacks are long and large."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest

from tests.load.running import Renewals, Running, attestd, enroll, renewing, serving
from tests.soft_device import SoftDevice

SOAK = bool(os.environ.get("ATTESTD_SOAK"))
PROMISE = 30.0  # seconds from wanting a certificate to having it, whatever knocks


def scale(short: int, long: int) -> int:
    """A number of `make test`, or of `make soak`."""
    return long if SOAK else short


@dataclass
class Site:
    """A service with devices that are known to it."""

    service: Running
    devices: list[SoftDevice]
    memory: int  # MiB of the larger worker before anything happened

    def must_hold(self, outcome: Renewals, *, grown: int, promise: float = PROMISE) -> None:
        """Every device renewed, none waited longer than promised, no request was left without an answer; and no worker
        has grown by more MiB."""
        assert outcome.failures == []
        assert outcome.silent == 0
        assert len(outcome.by_device) == len(self.devices)
        assert outcome.slowest < promise
        assert max(self.service.memory()) - self.memory < grown

    def renewing(self, every: float = 0.3) -> AbstractContextManager[Renewals]:
        return renewing(self.devices, every=every, promise=PROMISE)


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """SETTINGS of the file say how the service is set up."""
    folder = tmp_path_factory.mktemp("load") / "instance"
    attestd(folder, "init", "--trust-domain", "example.org")
    with serving(folder, **getattr(request.module, "SETTINGS", {})) as service:
        devices = enroll(service, [f"127.0.1.{n}" for n in range(1, 5)])
        yield Site(service, devices, max(service.memory()))
