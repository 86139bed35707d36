"""A console over a whole service, for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from tests.console import ConsoleClient, console_app, console_client, stranger
from tests.service import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "instance")
    yield world
    world.close()


@pytest.fixture
def app(world: World) -> Flask:
    return console_app(world)


@pytest.fixture
def admin(world: World, app: Flask) -> ConsoleClient:
    return console_client(world, "admin", app=app)


@pytest.fixture
def viewer(world: World, app: Flask) -> ConsoleClient:
    return console_client(world, "viewer", app=app)


@pytest.fixture
def nobody(world: World, app: Flask) -> ConsoleClient:
    return stranger(world, app=app)
