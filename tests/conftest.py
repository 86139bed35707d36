"""For all tests: property tests are the same on every run, and take the time that a busy machine takes.

Thousands of tests make an application of their own, with the same routes: what werkzeug compiles of a route, to build
addresses from it, is kept (nine tenths of what an application takes to make).

Tests that use a registry are marked `database`: they run once on each kind of database (tests/database.py).
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from werkzeug.routing import Rule

settings.register_profile(
    "steady",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")

_compile_builder = Rule._compile_builder
_builders: dict[tuple[object, ...], Callable[..., Any]] = {}


def _kept_builder(rule: Rule, append_unknown: bool = True) -> Callable[..., Any]:
    """The function knows its rule's parts and default values, and is bound to the rule by who asks."""
    defaults = repr(sorted((rule.defaults or {}).items()))
    key = (rule.rule, rule.host, rule.subdomain, rule.merge_slashes, defaults, append_unknown)
    if key not in _builders:
        _builders[key] = _compile_builder(rule, append_unknown)
    return _builders[key]


Rule._compile_builder = _kept_builder  # type: ignore[method-assign]


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
