"""A registry's database for each test: of the kind that ATTESTD_TEST_DATABASE names (sqlite, postgresql).

url = fresh("world", make, tmp_path)    # like the template `world`, which `make(url)` fills once a process
drop(url)                               # when it is not needed any more
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import psycopg

from tests import postgres

__all__ = ["KIND", "database_of_an_instance", "drop", "fresh", "is_postgres"]

SQLITE = "sqlite:///"
KIND = os.environ.get("ATTESTD_TEST_DATABASE", "sqlite")


def is_postgres(url: str) -> bool:
    """Whether a database at this URL is PostgreSQL's."""
    return not url.startswith(SQLITE)


def fresh(name: str, make: Callable[[str], None], path: Path, *, kind: str = KIND) -> str:
    """The URL of a new database with what `make` put into the template of this name; `path` is SQLite's file."""
    if kind == "postgresql":
        return postgres.shared().fresh_database(name, make)
    if kind != "sqlite":
        raise ValueError(f"ATTESTD_TEST_DATABASE is {kind!r}, neither sqlite nor postgresql")
    shutil.copy(_template(name, make), path)
    return f"{SQLITE}{path}"


def database_of_an_instance() -> dict[str, str]:
    """The environment of an `attestd init` whose instance has a database of the chosen kind, for good."""
    return {"ATTESTD_DATABASE_URL": postgres.shared().fresh_database()} if KIND == "postgresql" else {}


def drop(url: str) -> None:
    """Gives a database's room back; SQLite's file goes with its folder."""
    if is_postgres(url):
        with suppress(psycopg.OperationalError):  # the server has gone: its databases with it
            postgres.shared().drop(url)


@cache
def _template(name: str, make: Callable[[str], None]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="attestd-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / f"{name}.db"
    make(f"{SQLITE}{path}")
    return path
