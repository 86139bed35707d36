"""The database's doors: what they promise, and the name of every way in which they stay shut."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError

from attestd.registry import engine, sqlite
from attestd.registry.engine import (
    Connection,
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseNotWritable,
    DatabaseUnreachable,
    DatabaseUnsupported,
    OpenedBeforeFork,
    Registry,
    SchemaOutdated,
    SchemaTooNew,
    is_unique_violation,
)
from attestd.registry.tables import SCHEMA, counters


def pragma(c: Connection, name: str) -> object:
    return c.execute(text(f"PRAGMA {name}")).scalar_one()


def set_schema(path: Path, revision: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def names(c: Connection) -> list[str]:
    return sorted(c.execute(select(counters.c.name)).scalars())


NEW = insert(counters).values(name="new", value=1)


# ---- Opening ----------------------------------------------------------------------------------------------------


def test_create_makes_a_file_that_only_its_owner_may_read(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    previous = os.umask(0)  # no help from outside
    try:
        registry = Registry.open(f"sqlite:///{path}", create=True)
        with registry.acting() as c:
            c.execute(NEW)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    finally:
        os.umask(previous)
    assert modes == dict.fromkeys(("registry.db", "registry.db-turn", "registry.db-wal", "registry.db-shm"), 0o600)
    assert registry.schema_is_current()


def test_a_new_file_is_private_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    previous = os.umask(0)
    try:
        Registry.open(f"sqlite:///{tmp_path}/registry.db", create=True).close()
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "registry.db").stat().st_mode) == 0o600


def test_create_takes_a_file_with_its_rows_as_it_is_and_closes_it_to_others(database: Path) -> None:
    database.chmod(0o644)
    with Registry.open(f"sqlite:///{database}").acting() as c:
        c.execute(NEW)
    with Registry.open(f"sqlite:///{database}", create=True).reading() as c:
        assert "new" in names(c)
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


def test_a_path_is_taken_literally(tmp_path: Path) -> None:
    path = tmp_path / "100%20 ?mode=memory#x.db"
    Registry.open(f"sqlite:///{path}", create=True).close()
    assert path.exists()
    assert Registry.open(f"sqlite:///{path}").schema_is_current()


def test_opening_does_not_make_a_database(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnreachable):
        Registry.open(f"sqlite:///{tmp_path}/registry.db")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnreachable, match="No such file"):
        Registry.open(f"sqlite:///{tmp_path}/missing/registry.db", create=True)


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x", "mysql://h/d", "postgresql://h:x/d", ""],
)
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(DatabaseUnsupported):
        Registry.open(url, create=True)


@pytest.mark.parametrize("url", ["mysql://u:password@host/database", "postgresql://u:password@host:port/database"])
def test_a_refused_url_is_not_repeated(url: str) -> None:
    with pytest.raises(DatabaseUnsupported) as refused:
        Registry.open(url)
    assert "password" not in str(refused.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_bytes(b"This is a text, and a long one. " * 100)
    with pytest.raises(DatabaseDamaged):
        Registry.open(f"sqlite:///{path}")
    with pytest.raises(DatabaseDamaged):
        Registry.open(f"sqlite:///{path}", create=True)


# ---- The schema -------------------------------------------------------------------------------------------------


def test_an_empty_file_has_no_tables(tmp_path: Path) -> None:
    (tmp_path / "registry.db").touch()
    with pytest.raises(SchemaOutdated) as refused:
        Registry.open(f"sqlite:///{tmp_path}/registry.db")
    assert refused.value.seen == "no tables"
    assert refused.value.expected == SCHEMA


def test_older_tables_are_refused(database: Path) -> None:
    set_schema(database, "0000")
    with pytest.raises(SchemaOutdated) as refused:
        Registry.open(f"sqlite:///{database}")
    assert refused.value.seen == "0000"


@pytest.mark.parametrize("create", [False, True])
def test_newer_tables_are_refused_and_left_alone(database: Path, create: bool) -> None:
    set_schema(database, "9999")
    with pytest.raises(SchemaTooNew):
        Registry.open(f"sqlite:///{database}", create=create)
    assert Registry(f"sqlite:///{database}").schema() == "9999"


def test_a_live_registry_notices_that_its_tables_changed(registry: Registry, database: Path) -> None:
    assert registry.schema_is_current()
    set_schema(database, "9999")
    assert not registry.schema_is_current()


# ---- Reading and acting -----------------------------------------------------------------------------------------


@pytest.mark.once
def test_what_connections_are_set_to(registry: Registry) -> None:
    with registry.acting() as c:
        assert [pragma(c, name) for name in ("journal_mode", "synchronous", "foreign_keys")] == ["wal", 2, 1]
        assert pragma(c, "busy_timeout") == 0, "waited for where it is told, before it begins"
    with registry.reading() as c:
        assert [pragma(c, name) for name in ("query_only", "foreign_keys", "busy_timeout")] == [1, 1, 5000]


def test_acting_keeps_everything_or_nothing(registry: Registry) -> None:
    with registry.acting() as c:
        c.execute(NEW)
    with pytest.raises(RuntimeError, match="half way"), registry.acting() as c:
        c.execute(insert(counters).values(name="newer", value=1))
        raise RuntimeError("half way")
    with registry.reading() as c:
        assert "new" in names(c)
        assert "newer" not in names(c)


def test_reading_sees_one_moment(registry: Registry) -> None:
    with registry.reading() as c:
        before = names(c)
        with registry.acting() as other:
            other.execute(NEW)
        assert names(c) == before
    with registry.reading() as c:
        assert "new" in names(c)


def test_reading_cannot_write(registry: Registry) -> None:
    with pytest.raises(DatabaseNotWritable), registry.reading() as c:
        c.execute(NEW)


def test_acting_takes_the_lock_before_it_reads(registry: Registry, database: Path) -> None:
    """Or a transaction that reads first and writes then fails when another one wrote in between."""
    with (
        registry.acting(),
        closing(sqlite3.connect(database, timeout=0)) as other,
        pytest.raises(sqlite3.OperationalError),
    ):
        other.execute("BEGIN IMMEDIATE")


def test_a_lock_held_by_another_process(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT", 0.02)
    registry = Registry.open(f"sqlite:///{database}")
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy) as busy, registry.acting():
            pass
        other.execute("ROLLBACK")
    assert busy.value.retry_after > 0
    with registry.acting() as c:
        c.execute(NEW)


@pytest.mark.once
def test_a_lock_held_by_another_thread(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT", 0.02)
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with registry.acting():
            holding.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait(10)
    with pytest.raises(DatabaseBusy, match="Other requests"), registry.acting():
        pass
    done.set()
    thread.join()
    with registry.acting() as c:
        c.execute(NEW)


def test_no_connection_left(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_POOL", 1)
    monkeypatch.setattr(engine, "BUSY_TIMEOUT", 0.02)
    registry = Registry.open(f"sqlite:///{database}")
    doors = [registry.reading() for _ in range(6)]
    for door in doors[:5]:
        door.__enter__()
    with pytest.raises(DatabaseBusy, match="in use"):
        doors[5].__enter__()
    for door in doors[:5]:
        door.__exit__(None, None, None)


@pytest.mark.once
def test_a_full_disk(registry: Registry) -> None:
    with registry.reading() as c:
        before = names(c)
    with pytest.raises(DatabaseNotWritable, match="full"), registry.acting() as c:
        c.execute(text(f"PRAGMA max_page_count = {pragma(c, 'page_count')}"))
        c.execute(insert(counters).values(name="x" * 100_000, value=1))
    with registry.reading() as c:
        assert names(c) == before


def test_a_registry_does_not_survive_a_fork(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    for door in (registry.reading, registry.acting):
        with pytest.raises(OpenedBeforeFork), door():
            pass
    with pytest.raises(OpenedBeforeFork):
        registry.migrate()


def test_a_closed_registry_leaves_the_database_in_one_file(registry: Registry, database: Path) -> None:
    """Beside it only the turnstile's, which is empty."""
    with registry.acting() as c:
        c.execute(NEW)
    registry.close()
    assert {file.name: file.stat().st_size > 0 for file in database.parent.iterdir()} == {
        database.name: True,
        f"{database.name}-turn": False,
    }


# ---- Errors -----------------------------------------------------------------------------------------------------


def test_errors_do_not_tell_what_was_stored(registry: Registry) -> None:
    with registry.acting() as c, pytest.raises(IntegrityError) as error:
        c.execute(insert(counters).values(name="epoch", value=123456))
    assert "123456" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "unique"), [({"name": "epoch", "value": 1}, True), ({"name": "x", "value": None}, False)]
)
def test_unique_violations_are_told_apart(registry: Registry, values: dict[str, object], unique: bool) -> None:
    with registry.acting() as c, pytest.raises(IntegrityError) as error:
        c.execute(insert(counters).values(values))
    assert is_unique_violation(error.value) is unique
