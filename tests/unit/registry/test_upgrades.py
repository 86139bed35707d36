"""From every released revision up to the newest one, on both kinds of database, with rows in every table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Inspector, MetaData, inspect, select, text

from attestd.registry import audit, counts, devices, issued, migrations, policies, revision
from attestd.registry.engine import Registry, SchemaOutdated
from attestd.registry.states import State
from attestd.registry.tables import METADATA, SCHEMA
from tests.database import drop, is_postgres
from tests.postgres import require_postgres, shared

pytestmark = pytest.mark.once  # it names the kinds of database by itself

RELEASED = ["0001", "0002", "0003", "0004", "0005", "0006", "0007"]
SERIAL = f"{1 << 150:x}"
DEVICE = "x2qjrk5aw3vm4e7zbzxg6ydlfu"

# One row a table, as the first release wrote them.
ROWS: dict[str, dict[str, Any]] = {
    "devices": {
        "id": DEVICE,
        "state": "active",
        "state_version": 3,
        "tier": "device",
        "site": "shop-1",
        "serial_number": "SN 1",
        "labels": {"rack": "1"},
        "ek_hash": b"e" * 32,
        "ek_public": b"ek",
        "ak_public": b"ak",
        "ck_public": b"ck",
        "ck_name": b"name",
        "status_index": 7,
        "manufacturer": "IFX",
        "model": "SLB9670",
        "firmware_version": "7.85",
        "endorsement": "certificate",
        "created_at": 1_800_000_000,
        "updated_at": 1_800_000_001,
        "attested_at": 1_800_000_001,
        "attestation_good_until": 1_800_003_600,
        "result": {"vector": {"instance-identity": 2}, "reasons": ["ä"], "attested_at": 1_800_000_001},
        "clock": {"clock": 5, "safe": True},
        "state_reason": None,
        "source": "request",
    },
    "blocked_eks": {"ek_hash": b"b" * 32, "device_id": DEVICE, "reason": "broken", "at": 1_800_000_000},
    "spends": {
        "id": b"s" * 16,
        "purpose": "challenge",
        "request_digest": b"r" * 32,
        "proof_digest": b"p" * 32,
        "answer": b"{}",
        "device_id": DEVICE,
        "serial": SERIAL,
        "at": 1_800_000_001,
        "expires_at": 1_800_000_300,
    },
    "issued": {
        "number": 1,
        "serial": SERIAL,
        "device_id": DEVICE,
        "subject": f"spiffe://fleet.example/device/shop-1/{DEVICE}",
        "profile": "device",
        "not_before": 1_800_000_000,
        "not_after": 1_800_003_600,
        "der": b"certificate",
        "thumbprint": b"t" * 32,
    },
    "revocations": {"serial": SERIAL, "at": 1_800_000_002, "reason": "lost", "not_after": 1_800_003_600},
    "tpm_makers": {
        "sha256": b"m" * 32,
        "der": b"maker",
        "subject": "CN=Maker",
        "not_after": 1_900_000_000,
        "is_root": True,
        "added_at": 1_800_000_000,
        "added_by": "admin",
    },
    "operators": {
        "name": "admin",
        "role": "admin",
        "thumbprint": b"o" * 32,
        "public_key": b"key",
        "certificate": b"certificate",
        "created_at": 1_800_000_000,
        "disabled_at": None,
    },
    "proxies": {
        "name": "proxy-1",
        "site": "shop-1",
        "thumbprint": b"x" * 32,
        "public_key": b"key",
        "serial": SERIAL,
        "created_at": 1_800_000_000,
        "disabled_at": 1_800_000_001,
    },
    "policies": {"version": 1, "text": "permit", "created_at": 1_800_000_000, "created_by": "admin"},
    "bundles": {"epoch": 1, "version": 1, "revision": 4, "issued_at": 1_800_000_000, "jws": "a.b.c"},
    "audit": {
        "number": 1,
        "at": 1_800_000_000,
        "actor": "admin",
        "act": "approve",
        "subject": DEVICE,
        "request_id": "r1",
        "detail": {"tier": "device"},
    },
    "counters": {"name": "test", "value": 1 << 40},
}

SECOND = ROWS | {
    "audit_tiles": {"level": 0, "number": 0, "hashes": b"h" * 32},
    "audit_heads": {"log": 1 << 40, "size": 1, "at": 1_800_000_001, "jws": "a.b.c"},
    "audit_archives": {"first": 0, "size": 1, "lowest": 1, "highest": 1, "file": "audit-1.jsonl.gz"},
}
THIRD = SECOND | {
    "devices": ROWS["devices"] | {"quarantined_by": "result", "quarantined_at": 1_800_000_003},
    "reference_manifests": {
        "number": 1,
        "name": "boot",
        "stage": "monitor",
        "digest": "d" * 64,
        "document": b"{}",
        "added_at": 1_800_000_000,
        "added_by": "admin",
        "until": None,
    },
    "watched": {"digest": "d" * 64, "device_id": DEVICE, "at": 1_800_000_001, "reasons": ["other"]},
    "contents": {"sha256": b"c" * 32, "kind": "eventlog", "content": b"log", "at": 1_800_000_001},
    "evidence": {
        "device_id": DEVICE,
        "verdict": "good",
        "at": 1_800_000_001,
        "inputs": b"{}",
        "boot": "1.2",
        "boot_log": b"c" * 32,
        "boot_pcrs": b"p",
        "boot_facts": {"secure_boot": True},
        "ima_entries": 5,
        "runtime_state": b"s",
        "result": b"{}",
    },
    "ima_parts": {"device_id": DEVICE, "boot": "1.2", "first": 0, "content": b"i"},
    "endorsements": {"device_id": DEVICE, "at": 1_800_000_001, "certificate": b"ek", "issuers": b""},
    "demands": {"device_id": DEVICE, "at": 1_800_000_001, "asked_by": "admin", "reason": "look"},
    "told": {"name": "test", "until": 5, "device_id": DEVICE},
    "brake": {"name": "test", "turns": 1, "engaged_at": 1_800_000_001, "engaged_by": "admin", "reason": "many"},
    "quarantines": {"number": 1, "device_id": DEVICE, "at": 1_800_000_001},
    "held": {"device_id": DEVICE, "at": 1_800_000_001, "result": {"v": 1}},
}
FOURTH = {
    **THIRD,
    "bundles": {{"jws": "content"}.get(name, name): value for name, value in THIRD["bundles"].items()},
}
FIFTH = FOURTH | {
    "receipt_chains": {
        "chain": "c" * 32,
        "edge": "edge-1",
        "site": "shop-1",
        "public_key": b"spki",
        "beginning": "a.b.c",
        "why": "start",
        "began_at": 1_800_000_000,
        "next": 2,
        "digest": b"d" * 32,
        "last_at": 1_800_000_001,
        "heard_at": 1_800_000_002,
        "lost": [[1, 1]],
    },
    "receipts": {
        "number": 1,
        "chain": "c" * 32,
        "seq": 0,
        "edge": "edge-1",
        "at": 1_800_000_000,
        "boundary": None,
        "device_id": None,
        "decision": None,
        "received_at": 1_800_000_002,
        "jws": "a.b.c",
    },
}
SIXTH = FIFTH | {
    "edge_reports": {
        "edge": "edge-1",
        "heard_at": 1_800_000_002,
        "epoch": 1,
        "version": 4,
        "issued_at": 1_800_000_000,
        "receipts_waiting": 0,
        "stale_for": {"a": 1},
        "ledgers": [["c" * 32, 1]],
        "reports": 1,
        "missed": 0,
        "allowed": 5,
        "refused": 1,
        "silent_since": None,
    },
    "edge_counts": {"edge": "edge-1", "hour": 500_000, "boundary": "a", "reason": "", "count": 5},
}
SEVENTH = SIXTH | {
    "passkeys": {
        "id": "p" * 22,
        "credential": b"c" * 32,
        "operator": "admin",
        "public_key": b"cose",
        "sign_count": 0,
        "label": "blue key",
        "transports": ["usb"],
        "backed_up": False,
        "created_at": 1_800_000_000,
        "used_at": None,
    },
    "identities": {
        "issuer": "https://idp.example",
        "subject": "7",
        "operator": "admin",
        "by_claims": False,
        "created_at": 1_800_000_000,
        "used_at": None,
    },
    "invitations": {
        "id": "i" * 22,
        "token": b"t" * 32,
        "name": "ada",
        "role": "viewer",
        "created_at": 1_800_000_000,
        "created_by": "operator:admin",
        "expires_at": 1_800_000_600,
        "spent_at": None,
        "withdrawn_at": None,
    },
    "console_sessions": {
        "id": "s" * 22,
        "thumbprint": b"t" * 32,
        "public_key": b"spki",
        "operator": "admin",
        "method": "passkey",
        "began_at": 1_800_000_000,
        "seen_at": 1_800_000_000,
        "ends_at": 1_800_003_600,
        "agent": "a browser",
        "address": "192.0.2.1",
        "ended_at": None,
        "ended_because": None,
    },
}
# The same of every release: each one's own tables, too.
ROWS_OF = {"0001": ROWS, "0002": SECOND, "0003": THIRD, "0004": FOURTH, "0005": FIFTH, "0006": SIXTH, "0007": SEVENTH}
# What a later release calls it.
RENAMED = {("bundles", "jws"): "content"}

# Ends itself where a power cut might: before the n-th statement of the migration, or before its commit.
DYING = """
import os, signal, sys
from sqlalchemy import Engine, event
from attestd.registry import migrations
from attestd.registry.engine import Registry

left = int(sys.argv[2])
upgrade = migrations.upgrade

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def count(*_):
    global left
    left -= 1
    if left == 0:
        die()

def counted(c):
    event.listen(c, "before_cursor_execute", count)
    upgrade(c)
    die()

migrations.upgrade = counted
Registry.open(sys.argv[1], create=True)
"""
OPENING = """
import sys
from attestd.registry.engine import Registry
print("ready", flush=True)
sys.stdin.readline()
print(Registry.open(sys.argv[1], create=True).schema())
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    if request.param == "sqlite":
        (tmp_path / "registry.db").touch(0o600)
        yield f"sqlite:///{tmp_path}/registry.db"
        return
    require_postgres()
    url = shared().fresh_database()
    yield url
    drop(url)


def populate(url: str, released: str) -> None:
    """The tables of a release, one row in each."""
    registry = Registry(url)
    with registry._database.migrating() as c:
        migrations.upgrade(c, released)
    with registry.acting() as c:
        found = MetaData()
        found.reflect(c)
        tables = {table.name: table for table in found.sorted_tables if table.name != "alembic_version"}
        rows = ROWS_OF[released]
        assert tables.keys() == rows.keys(), "every table of this release has its row here"
        for name, table in tables.items():
            c.execute(table.insert(), rows[name])
    registry.close()


def kept(c: Connection, released: str) -> dict[str, dict[str, Any]]:
    """What is left of the rows, by their old columns."""
    found: dict[str, dict[str, Any]] = {}
    for name, row in ROWS_OF[released].items():
        table = METADATA.tables[name]
        key = next(iter(table.primary_key.columns))
        columns = [table.c[RENAMED.get((name, column), column)].label(column) for column in row]
        found[name] = dict(c.execute(select(*columns).where(key == row[key.name])).one()._mapping)
    return found


def shape(inspector: Inspector) -> dict[str, Any]:
    """Everything that a database says of its tables, in an order of its own."""

    def said(value: Any) -> str:
        return str({name: str(each) for name, each in value.items()} if isinstance(value, dict) else value)

    def listed(things: Any) -> list[str]:
        return sorted(repr(sorted((name, said(value)) for name, value in thing.items())) for thing in things)

    return {
        table: [
            listed(inspector.get_columns(table)),
            repr(sorted((name, str(value)) for name, value in inspector.get_pk_constraint(table).items())),
            *map(listed, (inspector.get_indexes(table), inspector.get_unique_constraints(table))),
            *map(listed, (inspector.get_foreign_keys(table), inspector.get_check_constraints(table))),
            [str(getattr(column["type"], "collation", None)) for column in inspector.get_columns(table)],
        ]
        for table in sorted(inspector.get_table_names())
        if table != "alembic_version"
    }


def schema(url: str) -> str | None:
    registry = Registry(url)
    try:
        return registry.schema()
    finally:
        registry.close()


def test_every_release_is_tested(url: str) -> None:
    registry = Registry(url)
    with registry.reading() as c:
        known = list(migrations.revisions(c))
        assert known[: len(RELEASED)] == RELEASED
        assert known[-1] == SCHEMA  # the next release's may come in several steps
    registry.close()


@pytest.mark.parametrize("released", RELEASED)
def test_an_old_database_is_brought_up_with_all_its_rows(url: str, released: str) -> None:
    populate(url, released)
    with pytest.raises(SchemaOutdated):
        Registry.open(url)
    registry = Registry.open(url, create=True)
    with registry.reading() as c:
        context = MigrationContext.configure(c, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, METADATA) == []
        assert kept(c, released) == ROWS_OF[released]
        device = devices.by_id(c, DEVICE)  # type: ignore[arg-type]
        assert (device.state, device.labels) == (State.ACTIVE, {"rack": "1"})
        assert issued.page(c)[0].revoked_because == "lost"
        assert policies.latest(c).version == 1
        assert audit.page(c)[0].act == "approve"
        assert revision.epoch(c) == 1
        assert counts.differences(c) == {}
        assert set(c.execute(select(METADATA.tables["device_terms"].c.term)).scalars()) == {
            *("sn 1", "ifx", "slb9670", "rack=1", "1")
        }
    with registry.acting() as c:
        # Where the kept bundle is of a former form, another one is due.
        assert revision.bump(c) == (2 if released < "0004" else 1)
        policies.add(c, text="forbid", created_by="admin", now=1_800_000_002)
    registry.close()


@pytest.mark.parametrize("released", RELEASED)
def test_an_old_database_becomes_what_a_new_one_is(url: str, released: str, tmp_path: Path) -> None:
    populate(url, released)
    Registry.open(url, create=True).close()
    new = shared().fresh_database() if is_postgres(url) else f"sqlite:///{tmp_path}/new.db"
    described = shared().fresh_database() if is_postgres(url) else f"sqlite:///{tmp_path}/described.db"
    Registry.open(new, create=True).close()
    registry = Registry(described)
    registry._database.create()
    with registry._database.migrating() as c:
        METADATA.create_all(c)
    registry.close()
    seen = []
    for one in (url, new, described):
        registry = Registry(one)
        with registry.reading() as c:
            seen.append(shape(inspect(c)))
        registry.close()
    assert seen[0] == seen[1]
    assert seen[1] == seen[2]
    for one in (new, described):
        drop(one)


def test_text_sorts_by_its_octets(url: str) -> None:
    registry = Registry.open(url, create=True)
    ids = ["ab", "a-b", "a.b", "a_b", "a1", "1a", "a", "b", "aa"]
    with registry.acting() as c:
        for number, name in enumerate(ids):
            values = {**ROWS["devices"], "id": name, "ek_hash": bytes([number]) * 32, "status_index": number}
            c.execute(METADATA.tables["devices"].insert(), values)
    with registry.reading() as c:
        table = METADATA.tables["devices"]
        assert list(c.execute(select(table.c.id).order_by(table.c.id)).scalars()) == sorted(ids)
        assert [device.id for device in devices.page(c, after="a1")] == sorted(i for i in ids if i > "a1")  # type: ignore[arg-type]
    registry.close()


@pytest.mark.parametrize("statements", [2, 9, 1000])
def test_a_killed_migration_leaves_the_old_or_the_new(url: str, statements: int) -> None:
    populate(url, "0001")
    died = subprocess.run([sys.executable, "-c", DYING, url, str(statements)], capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert schema(url) == "0001"
    registry = Registry(url)
    with registry.reading() as c:
        assert "audit_tiles" not in inspect(c).get_table_names()
    registry.close()
    registry = Registry.open(url, create=True)  # and the next one brings it up
    with registry.reading() as c:
        assert kept(c, RELEASED[0]) == ROWS
    registry.close()


@pytest.mark.parametrize("old", [True, False])
def test_processes_that_migrate_at_once(url: str, old: bool) -> None:
    if old:
        populate(url, "0001")
    opening = [
        subprocess.Popen(
            [sys.executable, "-c", OPENING, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for _ in range(2)
    ]
    for process in opening:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in opening:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60) for process in opening] == [(f"{SCHEMA}\n", "")] * 2
    registry = Registry.open(url)
    with registry.reading() as c:
        assert len(c.execute(text("SELECT version_num FROM alembic_version")).all()) == 1
        assert c.execute(text("SELECT count(*) FROM counters WHERE name = 'epoch'")).scalar_one() == 1
        assert not old or kept(c, RELEASED[0]) == ROWS
    registry.close()
