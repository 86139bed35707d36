"""What the agent's tests share: one maker and one manufactured software TPM a run, blank ones where state matters."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attestd.tpm.chain import TrustAnchors
from attestd_agent.agent import Agent
from attestd_agent.bootlogs import BootLogs
from attestd_agent.clock import DeviceClock
from attestd_agent.server import Server
from attestd_agent.state import StateDir
from attestd_agent.transport import Transport
from tests.software_tpm import LocalCa, SoftwareTpm, missing_programs
from tests.unit.attestd_agent.fake_service import Authority, FakeService, utc_now

os.environ.setdefault("TSS2_LOG", "all+none")


def ready(tpm: SoftwareTpm, *, patience: float = 10.0) -> SoftwareTpm:
    """Waits until the TPM takes commands: its sockets exist a moment before somebody listens at both."""
    from attestd_agent.device import Device
    from attestd_agent.failures import TpmUnavailable

    give_up = time.monotonic() + patience
    while True:
        try:
            Device(tpm.tcti).banks()
        except TpmUnavailable:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return tpm


@pytest.fixture(scope="session")
def maker() -> Iterator[LocalCa]:
    if missing := missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)}")
    with LocalCa() as ca:
        yield ca


@pytest.fixture(scope="session")
def tpm(maker: LocalCa) -> Iterator[SoftwareTpm]:
    """Manufactured, and shared: a test leaves it as it found it."""
    pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is not installed")
    with SoftwareTpm(maker) as found:
        yield ready(found)


@pytest.fixture
def blank_tpm() -> Iterator[SoftwareTpm]:
    """Without certificates, and this test's own."""
    pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is not installed")
    if missing := missing_programs(manufacture=False):
        pytest.skip(f"not installed: {', '.join(missing)}")
    with SoftwareTpm() as found:
        yield ready(found)


@pytest.fixture(scope="session")
def anchors(maker: LocalCa, tpm: SoftwareTpm) -> TrustAnchors:
    return TrustAnchors.load(maker.roots, maker.intermediates)


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority(utc_now())


@pytest.fixture
def service(authority: Authority) -> Iterator[FakeService]:
    with FakeService(authority).running() as found:
        yield found


@pytest.fixture
def clock() -> DeviceClock:
    return DeviceClock(system=utc_now, boot=lambda: 0.0, floor=utc_now().replace(year=2020))


MakeAgent = Callable[..., Agent]


@pytest.fixture
def make_agent(service: FakeService, tmp_path: Path, clock: DeviceClock) -> MakeAgent:
    """An agent over this test's state folder, with the given TPM; a few options for the tests that need them."""
    from attestd_agent.device import Device

    def make(tpm: SoftwareTpm, *, ek: str | None = None, limit: float = 10.0, **options: object) -> Agent:
        state = StateDir(tmp_path / "state")
        with state.exclusive():
            state.save_roots(service.root_pem)
        transport = Transport(service.url, service.root_pem, clock, limit=limit)
        return Agent(
            state=state,
            device=Device(tpm.tcti),
            server=Server(transport, service.root_pem, entropy=os.urandom),
            clock=clock,
            random=lambda: 0.5,
            ek=ek,
            logs=BootLogs(tmp_path / "eventlog", tmp_path / "ima"),
            **options,  # type: ignore[arg-type]
        )

    return make
