"""What the chaos runs by: a seed for all that is random, a number of kills, and the databases.

CHAOS_SEED repeats a run; a test that fails shows its own. CHAOS_KILLS is the number of kills of the long form
(`make chaos`), for all databases together.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.disks import INSIDE, Disk, run_inside
from tests.postgres import Postgres, require_postgres

_SHORT = 25  # kills

# What takes a while and is not run by `make test`.
long_form = pytest.mark.skipif("CHAOS_KILLS" not in os.environ, reason="`make chaos` runs it")


@dataclass(frozen=True)
class Database:
    """Where an instance keeps its registry: `url` empty for its own file, else in this server."""

    url: str = ""
    postgres: Postgres | None = None


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Both kinds. PostgreSQL as in production: what it acknowledged survives its crash."""
    if request.param == "sqlite":
        yield Database()
        return
    require_postgres()
    with Postgres.start(fast=False) as postgres:
        yield Database(postgres.fresh_database(), postgres)


@pytest.fixture
def seed() -> int:
    """This test's seed, shown when it fails."""
    found = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().getrandbits(32))
    show(f"CHAOS_SEED={found}")
    return found


@pytest.fixture
def kills(database: Database) -> int:
    """How often to kill; three fifths of them are SQLite's."""
    wanted = int(os.environ.get("CHAOS_KILLS") or _SHORT)
    return wanted * 3 // 5 if database.postgres is None else wanted - wanted * 3 // 5


def show(text: str) -> None:
    """For whoever reads the output of a failed or a long run."""
    sys.stdout.write(text + "\n")


# ---- Tests on a disk of their own -------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "small_disk(kind, megabytes): runs on a file system of its own")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Outside, such a test is run inside; everything else is run as ever."""
    marker = pyfuncitem.get_closest_marker("small_disk")
    if marker is None or INSIDE in os.environ:
        return None
    folder = pyfuncitem.funcargs["tmp_path"]
    run_inside(pyfuncitem, folder / "disk", **{"kind": "tmpfs", "megabytes": 24, **marker.kwargs})
    return True


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """This test's own; outside, a promise."""
    return Disk(Path(os.environ.get(INSIDE, tmp_path)))
