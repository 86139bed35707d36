"""A device with a real TPM in software beside a service in this process (tests/real_machine.py); and one service with
its console, and a browser, for whoever only needs people."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from attestd_agent.clock import BUILD_TIME
from tests.browser import Browser, chromium, require_browser
from tests.database import database_of_an_instance
from tests.e2e.test_serving import Served, attestd, serve
from tests.real_machine import Machine
from tests.service import SITE, World
from tests.software_tpm import SoftwareTpm, missing_programs
from tests.unit.attestd_agent.conftest import ready

FIRMWARE = b"firmware 1.0"


@pytest.fixture(scope="module")
def loggers_as_before() -> Iterator[None]:
    """A demonstration in this process turns logs off, which other tests look at."""
    names = ("attestd_agent", "httpx", "attestd_edge.decisions")
    before = {name: (logger.level, logger.propagate, logger.handlers[:]) for name, logger in _loggers(names)}
    yield
    for name, logger in _loggers(names):
        logger.level, logger.propagate, logger.handlers[:] = before[name]
        logger.setLevel(logger.level)  # what loggers below remember of it goes, too


def _loggers(names: tuple[str, ...]) -> list[tuple[str, logging.Logger]]:
    return [(name, logging.getLogger(name)) for name in names]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path / "instance")
    found.clock.now = BUILD_TIME + timedelta(days=10)
    yield found
    found.close()


@pytest.fixture
def new_tpm() -> Iterator[Callable[[], SoftwareTpm]]:
    pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is not installed")
    if missing := missing_programs(manufacture=False):
        pytest.skip(f"not installed: {', '.join(missing)}")
    made: list[SoftwareTpm] = []

    def make() -> SoftwareTpm:
        made.append(SoftwareTpm())
        made[-1].start()
        return ready(made[-1])

    yield make
    for tpm in made:
        tpm.close()


@pytest.fixture
def machine(world: World, new_tpm: Callable[[], SoftwareTpm], tmp_path: Path) -> Machine:
    """In the inventory, booted, enrolled and well."""
    found = Machine(world, new_tpm(), tmp_path / "state")
    found.insert(found.tpm, certified=True)
    line = f"ek_hash,tier,site\n{found.ek_hash},device,{SITE}\n".encode()
    assert world.admin.post("/v1/admin/devices/import", line, content_type="text/csv").status_code == 200
    found.boot(FIRMWARE)
    assert found.steps() == 1
    return found


# ---- A service with its console -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A new instance, as `attestd serve` runs it, for all modules of this process: people in it have different names,
    and who stops it starts it again."""
    require_browser()
    folder = tmp_path_factory.mktemp("console") / "instance"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in database_of_an_instance().items():
            patch.setenv(name, value)
        attestd(folder, "init", "--trust-domain", "harbour.example")
        running = serve(folder)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def chrome(served: Served) -> Iterator[Browser]:
    """It ends with the module: while it runs, no other loop of events can be in this thread."""
    with chromium((served.folder / "ca" / "root.pem").read_bytes()) as browser:
        yield browser


@pytest.fixture
def browser(chrome: Browser) -> Iterator[Browser]:
    """Whose pages are closed after each test."""
    yield chrome
    chrome.close_pages()
