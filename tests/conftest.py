"""For all tests: property tests are the same on every run, and take the time that a busy machine takes.

Tests that use a registry are marked `database`: they run once on each kind of database (tests/database.py).
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "steady",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")


@pytest.fixture(autouse=True, scope="module")
def process_as_before() -> Iterator[None]:
    """What a module's tests change in their process, others inherit: a program that they start with SIGTERM ignored
    can't be stopped by it while it starts."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers], gc.isenabled()
    yield
    assert ([signal.getsignal(number) for number in numbers], gc.isenabled()) == before


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever is given a registry or a world, and whoever makes one. What asks for SQLite's file is SQLite's alone."""
    worlds = ("tests.service", None)  # where its World comes from; None: from a fixture alone
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        made = getattr(getattr(getattr(item, "module", None), "World", None), "__module__", None)
        if "database" in fixtures or item.get_closest_marker("once"):
            continue
        if "registry" in fixtures or ("world" in fixtures and made in worlds) or made == worlds[0]:
            item.add_marker("database")
