"""The tables by their history are the tables that the code describes; migrating is one transaction, and done once."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from attestd.registry import issued, migrations, revision, transitions
from attestd.registry.engine import DatabaseDamaged, Registry, SchemaOutdated
from attestd.registry.pgdrivers import LIBPQ
from attestd.registry.states import Event
from attestd.registry.tables import METADATA, SCHEMA, counters


def test_history_and_tables_agree(registry: Registry) -> None:
    with registry.reading() as c:
        context = MigrationContext.configure(c, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, METADATA) == []


@pytest.mark.once
def test_history_and_tables_agree_on_what_alembic_does_not_compare(registry: Registry) -> None:
    """Names of constraints, references and the columns of keys, from SQLite's own words."""
    with registry.reading() as c:
        stored = {row.name: row.sql for row in c.execute(text("SELECT name, sql FROM sqlite_schema"))}
        for name, table in METADATA.tables.items():
            described = str(CreateTable(table).compile(dialect=c.dialect))
            # A table that was built anew has its name in quotes.
            seen = stored[name].replace(",", " ").replace('"', "")
            assert sorted(seen.split()) == sorted(described.replace(",", " ").split())


def test_the_newest_migration_is_the_one_that_the_code_names(registry: Registry) -> None:
    with registry.reading() as c:
        assert ScriptDirectory.from_config(migrations.alembic_config(c)).get_heads() == [SCHEMA]
    assert registry.schema() == SCHEMA


def test_the_counters_have_their_first_values(registry: Registry) -> None:
    with registry.reading() as c:
        found = {row.name: row.value for row in c.execute(select(counters))}
        assert found == {
            revision.REVISION: 0,
            revision.EPOCH: 1,
            revision.NEXT_STATUS_INDEX: 0,
            revision.TRUST: 0,
            revision.REFERENCES: 0,
            revision.EXPIRING_TOLD: 0,
            revision.WATCHED_AT: 0,
            revision.AUDIT_SIZE: 0,
            revision.AUDIT_ARCHIVED: 0,
        }


def test_migrating_again_changes_nothing(registry: Registry, database: Path) -> None:
    registry.close()
    before = database.read_bytes()
    registry.migrate()
    registry.close()
    assert database.read_bytes() == before


def test_several_that_create_at_the_same_time(tmp_path: Path) -> None:
    start = threading.Barrier(4)
    opened: list[bool] = []

    def create() -> None:
        start.wait(10)
        opened.append(Registry.open(f"sqlite:///{tmp_path}/registry.db", create=True).schema_is_current())

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == [True] * 4


@pytest.mark.once
def test_who_opens_a_file_that_is_being_made_waits(tmp_path: Path) -> None:
    """Another process is in the middle of its first transaction: SQLite itself would not wait for the change to the
    write-ahead log."""
    database = tmp_path / "registry.db"
    with closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as other:
        other.execute("CREATE TABLE t (a)")
        other.execute("BEGIN IMMEDIATE")
        leaves = threading.Timer(0.5, other.commit)
        leaves.start()
        try:
            registry = Registry.open(f"sqlite:///{database}", create=True)
        finally:
            leaves.join()
        assert registry.schema_is_current()
        registry.close()


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade = migrations.upgrade

    def fail(c: Connection) -> None:
        upgrade(c)
        raise RuntimeError("half way")

    monkeypatch.setattr(migrations, "upgrade", fail)
    with pytest.raises(RuntimeError, match="half way"):
        Registry.open(f"sqlite:///{tmp_path}/registry.db", create=True)
    with closing(sqlite3.connect(tmp_path / "registry.db")) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
    with pytest.raises(SchemaOutdated):
        Registry.open(f"sqlite:///{tmp_path}/registry.db")


def test_a_migration_that_breaks_references_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade = migrations.upgrade

    def break_references(c: Connection) -> None:
        upgrade(c)
        c.execute(
            text(
                "INSERT INTO issued (serial, device_id, subject, profile, not_before, not_after, der, thumbprint)"
                " VALUES ('1', 'nobody', '', '', 0, 0, x'', x'')"
            )
        )

    monkeypatch.setattr(migrations, "upgrade", break_references)
    with pytest.raises(DatabaseDamaged, match="1 rows"):
        Registry.open(f"sqlite:///{tmp_path}/registry.db", create=True)
    with pytest.raises(SchemaOutdated):
        Registry.open(f"sqlite:///{tmp_path}/registry.db")


# ---- The next database ------------------------------------------------------------------------------------------


def test_tables_can_be_written_for_postgresql() -> None:
    for table in METADATA.sorted_tables:
        CreateTable(table).compile(dialect=postgresql.dialect())


def test_issuing_holds_the_device_where_transactions_run_side_by_side() -> None:
    """Else a retirement that commits meanwhile would not see, and so not revoke, the new certificate."""
    written = issued._INSERT_FOR_DEVICE.plan(LIBPQ).text
    assert written.endswith("FOR SHARE OF devices")


def test_events_are_plain_conditional_updates() -> None:
    written = transitions._change_statement(Event.RETIRE, (), True, False, False).plan(LIBPQ).text
    assert "state_version=(devices.state_version + " in written
    assert "devices.state = " in written
