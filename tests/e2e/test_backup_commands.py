"""`attestd backup`, `restore` and `upgrade` as an operator runs them, beside a real service and on old instances."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from attestd.cli.main import app
from attestd.registry import migrations, snapshot
from attestd.registry.engine import Registry

BIN = Path(sys.executable).parent


def attestd(*words: str | Path, code: int = 0) -> str:
    """One command, in this process; `code` is the exit code that it must have."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, f"{done.output}{done.exception!r}"
    return done.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backups") / "instance"
    attestd("init", "--trust-domain", "example.org", "--dir", path)
    inventory = path.parent / "inventory.csv"
    inventory.write_text(f"ek_hash,tier,site,id\n{'ab' * 32},device,berlin,bike-1\n")
    attestd("devices", "import", inventory, "--dir", path)
    return path


@pytest.fixture
def instance(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "instance")
    return tmp_path / "instance"


@pytest.fixture
def served(instance: Path) -> Iterator[str]:
    with (instance / "log").open("ab") as log:
        process = subprocess.Popen(
            [str(BIN / "attestd"), "serve", "--dir", str(instance), "--listen", "127.0.0.1:0", "--json"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith("}"):
            break
    try:
        yield json.loads(text)["url"]
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def states(folder: Path) -> list[tuple[str, str]]:
    listed: list[dict[str, Any]] = json.loads(attestd("devices", "list", "--json", "--dir", folder))
    return [(device["id"], device["state"]) for device in listed]


def test_a_backup_beside_the_running_service_comes_back(instance: Path, served: str, tmp_path: Path) -> None:
    file, secret, new = tmp_path / "fleet.backup", tmp_path / "passphrase", tmp_path / "new"
    secret.write_text("a passphrase of some length\n")
    secret.chmod(0o600)
    said = json.loads(attestd("backup", file, "--dir", instance, "--passphrase-file", secret, "--json"))
    assert said["rows"]["devices"] == 1
    assert httpx.get(f"{served}/readyz", verify=_trust(instance)).status_code == 200

    assert "bundle.json" in attestd("restore", file, "--dir", new, "--passphrase-file", secret, code=3)
    attestd("restore", file, "--dir", new, "--without-bundle", code=3)  # no passphrase
    assert not new.exists()
    done = json.loads(attestd("restore", file, "--dir", new, "--without-bundle", "--passphrase-file", secret, "--json"))
    assert (done["devices"], done["quarantined"], done["database"]) == (1, 1, "SQLite")
    assert "0 problems" in attestd("doctor", "--dir", new)
    assert states(new) == [("bike-1", "quarantined")]
    attestd("devices", "release", "--never-enrolled", "--dir", new)
    assert states(new) == [("bike-1", "active")]
    assert states(instance) == [("bike-1", "approved")]
    assert "not empty" in attestd(
        "restore", file, "--dir", new, "--without-bundle", "--passphrase-file", secret, code=1
    )


def _trust(folder: Path) -> Any:
    import ssl

    return ssl.create_default_context(cafile=str(folder / "ca" / "root.pem"))


def test_a_passphrase_that_others_can_read(instance: Path, tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("a passphrase of some length\n")
    secret.chmod(0o644)
    attestd("backup", tmp_path / "1", "--dir", instance, "--passphrase-file", secret, code=3)
    assert not (tmp_path / "1").exists()


# ---- Older instances --------------------------------------------------------------------------------------------


@pytest.fixture
def old(instance: Path) -> Path:
    """The same instance as the first version would have made it: its tables, its keys."""
    path = instance / "registry.db"
    current, older = Registry(f"sqlite:///{path}"), Registry(f"sqlite:///{path}.old")
    older._database.create()
    snapshot.create_empty(older, "0001")
    with current.reading() as source, older.acting() as c:
        for name, table in snapshot.tables_of(c).items():
            columns = table.columns.keys()
            rows = (
                {column: row[column] for column in columns}
                for row in snapshot.rows(source, snapshot.tables_of(source)[name])
                if name != "counters" or row["name"] in ("revision", "epoch", "next_status_index", "trust")
            )
            snapshot.load(c, table, rows)
    current.close()
    older.close()
    for side in instance.glob("registry.db*"):
        if ".old" not in side.name:
            side.unlink()
    (instance / "registry.db.old").rename(path)
    manifest = instance / "ca" / "hierarchy.json"
    document = json.loads(manifest.read_text())
    for entry in document.pop("audit_signers"):
        (instance / "ca" / f"{entry['name']}.pem").unlink()
        (instance / "keys" / f"{entry['name']}.pem").unlink()
    manifest.write_text(json.dumps(document))
    return instance


def revision_of(folder: Path) -> str:
    with closing(sqlite3.connect(folder / "registry.db")) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_an_old_instance_is_backed_up_and_upgraded(old: Path, tmp_path: Path) -> None:
    assert "attestd upgrade" in attestd("devices", "list", "--dir", old, code=3)
    attestd("backup", tmp_path / "before.tar", "--dir", old)
    assert revision_of(old) == "0001"

    planned = attestd("upgrade", "--dry-run", "--dir", old)
    assert "tables: 0001" in planned
    assert "audit_signers" in planned
    assert revision_of(old) == "0001"
    attestd("upgrade", "--dir", old)
    assert "Nothing to do" in attestd("upgrade", "--dir", old)
    assert "0 problems" in attestd("doctor", "--dir", old)
    assert states(old) == [("bike-1", "approved")]


def test_the_backup_of_an_old_instance_comes_back_as_a_new_one(old: Path, tmp_path: Path) -> None:
    attestd("backup", tmp_path / "old.tar", "--dir", old)
    attestd("restore", tmp_path / "old.tar", "--dir", tmp_path / "new", "--without-bundle")
    assert "0 problems" in attestd("doctor", "--dir", tmp_path / "new")
    assert states(tmp_path / "new") == [("bike-1", "quarantined")]


def test_no_upgrade_under_a_running_service(instance: Path, served: str) -> None:
    """It would go on with tables that it does not know."""
    manifest = instance / "ca" / "hierarchy.json"
    document = json.loads(manifest.read_text())
    lacking = {name: value for name, value in document.items() if name != "audit_signers"}
    manifest.write_text(json.dumps(lacking))
    assert "is running" in attestd("upgrade", "--dir", instance, code=1)
    assert "audit_signers" in attestd("upgrade", "--dry-run", "--dir", instance)
    manifest.write_text(json.dumps(document))
    assert "Nothing to do" in attestd("upgrade", "--dir", instance)


def test_a_database_of_a_newer_program(instance: Path) -> None:
    with closing(sqlite3.connect(instance / "registry.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    assert "newer" in attestd("upgrade", "--dir", instance, code=3)
    assert revision_of(instance) == "9999"


def test_every_revision_is_known(instance: Path) -> None:
    """A backup of any of them can be restored."""
    registry = Registry(f"sqlite:///{instance}/registry.db")
    with registry.reading() as c:
        known = migrations.revisions(c)
    registry.close()
    for revision in known:
        empty = Registry(f"sqlite:///{instance}/{revision}.db")
        empty._database.create()
        snapshot.create_empty(empty, revision)
        empty.migrate()
        assert empty.schema_is_current()
        empty.close()
