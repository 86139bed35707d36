"""PostgreSQL behind the registry's doors: what its connections promise, and the names of its failures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import insert, select, text

from attestd.registry import engine
from attestd.registry.engine import (
    Connection,
    DatabaseBusy,
    DatabaseFailed,
    DatabaseNotWritable,
    DatabaseUnreachable,
    Registry,
)
from attestd.registry.tables import blocked_eks, counters
from tests.postgres import Postgres, require_postgres, shared

SECRET = b"a hash that is a lifelong tracker"
BLOCKED = {"ek_hash": SECRET, "device_id": "d", "reason": "r", "at": 1}


@pytest.fixture(autouse=True)
def _installed() -> None:
    require_postgres()


@pytest.fixture
def url() -> Iterator[str]:
    found = shared().fresh_database()
    yield found
    shared().drop(found)


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    registry = Registry.open(url, create=True)
    yield registry
    registry.close()


def setting(c: Connection, name: str) -> str:
    return str(c.execute(text(f"SHOW {name}")).scalar_one())


def test_what_connections_are_set_to(registry: Registry) -> None:
    with registry.acting() as c:
        names = ("synchronous_commit", "transaction_isolation", "transaction_read_only", "lock_timeout")
        assert [setting(c, name) for name in names] == ["on", "read committed", "off", "5s"]
    with registry.reading() as c:
        names = ("transaction_isolation", "transaction_read_only", "statement_timeout")
        assert [setting(c, name) for name in names] == ["repeatable read", "on", "10s"]


def test_reading_sees_one_moment_and_cannot_write(registry: Registry) -> None:
    with registry.reading() as c:
        before = c.execute(select(counters.c.name)).all()
        with registry.acting() as other:
            other.execute(insert(counters).values(name="new", value=1))
        assert c.execute(select(counters.c.name)).all() == before
    with pytest.raises(DatabaseNotWritable), registry.reading() as c:
        c.execute(insert(counters).values(name="newer", value=1))


def test_a_lock_that_somebody_holds(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Registry.open(url, create=True).close()
    monkeypatch.setattr(engine, "BUSY_TIMEOUT", 0.1)
    registry = Registry.open(url)
    with registry.acting() as c:
        c.execute(text("SELECT value FROM counters WHERE name = 'epoch' FOR UPDATE"))
        with pytest.raises(DatabaseBusy, match="55P03"), registry.acting() as other:
            other.execute(text("SELECT value FROM counters WHERE name = 'epoch' FOR UPDATE"))
    registry.close()


def test_errors_do_not_tell_what_was_stored(registry: Registry) -> None:
    """PostgreSQL's own words name the row: Key (ek_hash)=(\\x…) already exists."""
    with registry.acting() as c:
        c.execute(insert(blocked_eks).values(BLOCKED))
    with pytest.raises(DatabaseFailed, match="23505") as failed, registry.acting() as c:
        c.execute(insert(blocked_eks).values(BLOCKED))
    assert SECRET.hex() not in str(failed.value)
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__


def test_what_the_driver_refuses_is_no_broken_connection(registry: Registry) -> None:
    with pytest.raises(DatabaseFailed), registry.acting() as c:
        c.execute(insert(counters).values(name="a\0b", value=1))
    with registry.acting() as c:
        c.execute(insert(counters).values(name="ab", value=1))


def test_a_server_that_goes_and_comes_back() -> None:
    with Postgres.start(fast=True) as postgres:
        registry = Registry.open(postgres.fresh_database(), create=True)
        postgres.kill()
        for _ in range(2):
            with pytest.raises(DatabaseUnreachable), registry.reading() as c:
                c.execute(select(counters))
        postgres.run()
        with registry.reading() as c:
            assert c.execute(select(counters)).all()
        registry.close()


def test_a_database_that_is_not_there(url: str) -> None:
    with pytest.raises(DatabaseUnreachable, match="does not exist"):
        Registry.open(url.replace("attestd@/", "attestd@/nowhere-"))
