"""PostgreSQL: an act in one trip, and what becomes of it when the server says no, says nothing, or is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from sqlalchemy import bindparam, insert, select, text, update

from attestd.errors import Conflict
from attestd.registry import engine, postgresql
from attestd.registry.acts import Refused, Step
from attestd.registry.engine import DatabaseBusy, DatabaseFailed, DatabaseUnreachable, Registry
from attestd.registry.pgdrivers import LIBPQ
from attestd.registry.pipeline import Line
from attestd.registry.statements import Statement
from attestd.registry.tables import blocked_eks, counters
from tests.postgres import Postgres, require_postgres, shared

pytestmark = pytest.mark.once  # it names the kind of database by itself

_PUT = Statement(insert(counters).inline(), columns=("name", "value"))
_FIND = Statement(select(counters.c.value).where(counters.c.name == bindparam("wanted")))
_RAISE = Statement(update(counters).where(counters.c.name == bindparam("wanted")).values(value=counters.c.value + 1))
_BLOCK = Statement(insert(blocked_eks).inline(), columns=blocked_eks.c.keys())


class Taken(Conflict):
    """There is one already"""


def put(name: str) -> Step:
    return Step(_PUT, {"name": name, "value": 1}, taken=Taken)


def raised(name: str) -> Step:
    return Step(_RAISE, {"wanted": name}, otherwise=lambda _: Taken())


@pytest.fixture(autouse=True)
def _installed() -> None:
    require_postgres()


@pytest.fixture
def url() -> Iterator[str]:
    found = shared().fresh_database()
    Registry.open(found, create=True).close()
    yield found
    shared().drop(found)


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    registry = Registry.open(url)
    yield registry
    registry.close()


@contextmanager
def line_of(registry: Registry, kind: str = "_alone") -> Iterator[Line]:
    with getattr(registry._database, kind).line() as line:
        yield line


def names(registry: Registry) -> set[str]:
    with registry.reading() as c:
        return set(c.execute(select(counters.c.name).where(counters.c.name.like("new-%"))).scalars())


# ---- One line ---------------------------------------------------------------------------------------------------


def test_statements_are_prepared_once(registry: Registry) -> None:
    with line_of(registry) as line:
        prepared: list[bytes] = []
        real = line._pg

        class Noting:
            def __getattr__(self, name: str) -> object:
                return getattr(real, name)

            def send_prepare(self, name: bytes, *what: object) -> None:
                prepared.append(name)
                real.send_prepare(name, *what)  # type: ignore[arg-type]

        line._pg = Noting()  # type: ignore[assignment]
        for number in range(3):
            steps = [put(f"new-{number}"), raised(f"new-{number}"), raised("epoch")]
            assert line.perform([step.bind(LIBPQ) for step in steps], ExitStack()) is None
        line._pg = real
    assert len(prepared) == 2
    assert len(names(registry)) == 3


def test_a_line_goes_on_after_a_refusal(registry: Registry) -> None:
    with line_of(registry) as line:
        for steps, refused in (
            ([put("new-1"), raised("nobody"), raised("epoch")], Refused(1, taken=False)),
            ([put("new-1"), put("epoch"), raised("epoch")], Refused(1, taken=True)),
            ([put("new-1"), raised("new-1"), raised("epoch")], None),
        ):
            assert line.perform([step.bind(LIBPQ) for step in steps], ExitStack()) == refused
            assert line.alive
    assert names(registry) == {"new-1"}


def test_a_statement_that_the_server_does_not_understand(registry: Registry) -> None:
    """It can't even be prepared: an error of the act, not of one of its conditions."""
    broken = Step(Statement(select(counters.c.name).where(text("nothing_of_the_kind = 1"))), {})
    for _ in range(2):
        with pytest.raises(DatabaseFailed, match="42703"):
            registry.act(put("new-1"), broken)
    assert names(registry) == set()


def test_what_ends_a_c_string_is_refused_and_cuts_nothing_off(registry: Registry) -> None:
    with pytest.raises(DatabaseFailed, match="22021"):
        registry.act(put("new-1\0and more"))
    assert names(registry) == set()


def test_more_than_a_socket_takes_at_once(registry: Registry) -> None:
    blocked = [{"ek_hash": bytes([number]) * 100_000, "device_id": "d", "reason": "", "at": 1} for number in range(20)]
    registry.act(*(Step(_BLOCK, values) for values in blocked))
    with registry.reading() as c:
        assert len(c.execute(select(blocked_eks)).all()) == 20


def test_what_its_connections_are_set_to(registry: Registry) -> None:
    said = {}
    for kind in ("_asking", "_alone", "_together"):
        with line_of(registry, kind) as line:
            line._pg.exit_pipeline_mode()
            said[kind] = {
                name: line._connection.execute(f"SHOW {name}").fetchone()[0]  # type: ignore[index]
                for name in ("synchronous_commit", "lock_timeout", "statement_timeout", "transaction_read_only")
            }
            line._pg.enter_pipeline_mode()
    common = {"synchronous_commit": "on", "statement_timeout": "10s"}
    assert said == {
        "_asking": common | {"lock_timeout": "5s", "transaction_read_only": "on"},
        "_alone": common | {"lock_timeout": "5s", "transaction_read_only": "off"},
        "_together": common | {"lock_timeout": "250ms", "transaction_read_only": "off"},
    }


def test_errors_do_not_tell_what_was_stored(registry: Registry) -> None:
    secret = {"ek_hash": b"a hash that is a lifelong tracker", "device_id": "d", "reason": "r", "at": 1}
    registry.act(Step(_BLOCK, secret))
    with pytest.raises(DatabaseFailed) as failed:
        registry.act(Step(_BLOCK, secret))
    assert secret["ek_hash"].hex() not in repr(failed.value)  # type: ignore[union-attr]


# ---- Together ---------------------------------------------------------------------------------------------------


def at_once(registry: Registry, *acts: tuple[Step, ...]) -> list[BaseException | None]:
    """Acts that stand in line before the first one is carried out."""
    database = registry._database
    assert isinstance(database, postgresql.PostgresqlDatabase)
    ended: list[BaseException | None] = [None] * len(acts)

    def run(number: int) -> None:
        try:
            registry.act(*acts[number])
        except Exception as error:  # noqa: BLE001 - the test looks at it
            ended[number] = error

    threads = []
    with database._together.line():  # there is one
        for number in range(len(acts)):
            before = len(database._batches._line)
            threads.append(threading.Thread(target=run, args=(number,)))
            threads[-1].start()
            ends = time.monotonic() + 10
            while len(database._batches._line) == before:
                assert time.monotonic() < ends
                time.sleep(0.001)
    for thread in threads:
        thread.join(60)
    return ended


def test_acts_share_a_transaction(registry: Registry) -> None:
    assert at_once(registry, *((put(f"new-{number}"),) for number in range(4))) == [None] * 4
    with registry.reading() as c:
        made_by = c.execute(text("SELECT DISTINCT xmin::text FROM counters WHERE name LIKE 'new-%'")).scalars().all()
    assert len(made_by) == 1


def test_of_acts_together_each_is_refused_by_itself(registry: Registry) -> None:
    ended = at_once(
        registry,
        (put("new-1"),),
        (put("new-refused"), raised("nobody")),
        (put("new-2"), put("shared")),
        (put("new-taken"), put("shared")),
    )
    assert [type(error) for error in ended[:2]] == [type(None), Taken]
    assert sorted(repr(error) for error in ended[2:]) == sorted(["None", repr(Taken())])
    assert names(registry) == {"new-1", "new-taken" if ended[3] is None else "new-2"}


def test_what_another_process_holds_keeps_nobody_else_waiting(registry: Registry, url: str) -> None:
    """Who needs it waits for it; the others of the same moment do not."""
    with psycopg.connect(url) as other:
        other.execute("SELECT value FROM counters WHERE name = 'epoch' FOR UPDATE")
        done: list[float] = []

        def release() -> None:
            while not names(registry):
                time.sleep(0.01)
            done.append(time.monotonic())
            other.rollback()

        releasing = threading.Thread(target=release)
        releasing.start()
        assert at_once(registry, (put("new-1"),), (put("new-held"), raised("epoch"))) == [None, None]
        releasing.join(10)
    assert done
    assert names(registry) == {"new-1", "new-held"}


def test_a_lock_that_is_held_for_too_long(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT", 0.3)
    registry = Registry.open(url)
    with psycopg.connect(url) as other:
        other.execute("SELECT value FROM counters WHERE name = 'epoch' FOR UPDATE")
        with pytest.raises(DatabaseBusy, match="55P03"):
            registry.act(put("new-1"), raised("epoch"))
        with pytest.raises(DatabaseBusy), registry._database._together.line():  # type: ignore[attr-defined]
            registry.act(put("new-2"))
    assert names(registry) == set()
    registry.act(put("new-3"), raised("epoch"))
    registry.close()


# ---- A server that goes -----------------------------------------------------------------------------------------


def test_a_server_that_goes_and_comes_back() -> None:
    with Postgres.start(fast=True) as postgres:
        registry = Registry.open(postgres.fresh_database(), create=True)
        registry.act(put("new-1"))
        registry.ask(_FIND, {"wanted": "epoch"})
        postgres.kill()
        for _ in range(2):
            with pytest.raises(DatabaseUnreachable):
                registry.ask(_FIND, {"wanted": "epoch"})
            with pytest.raises(DatabaseUnreachable):
                registry.act(put("new-2"))
        postgres.run()
        assert registry.ask(_FIND, {"wanted": "epoch"}).value == 1
        registry.act(put("new-2"))
        assert names(registry) == {"new-1", "new-2"}
        registry.close()


def test_a_server_that_came_back_unnoticed() -> None:
    """Connections that broke while nobody used them are told from those that stand, and cost nobody an answer."""
    with Postgres.start(fast=True) as postgres:
        registry = Registry.open(postgres.fresh_database(), create=True)
        registry.act(put("new-1"))
        registry.ask(_FIND, {"wanted": "epoch"})
        postgres.kill()
        postgres.run()
        assert registry.ask(_FIND, {"wanted": "epoch"}).value == 1
        registry.act(put("new-2"))
        registry.close()


def test_a_server_that_dies_in_the_middle() -> None:
    with Postgres.start(fast=True) as postgres:
        url = postgres.fresh_database()
        registry = Registry.open(url, create=True)
        other = psycopg.connect(url)
        other.execute("SELECT value FROM counters WHERE name = 'epoch' FOR UPDATE")
        threading.Timer(0.1, postgres.kill).start()
        with pytest.raises(DatabaseUnreachable):
            registry.act(put("new-1"), raised("epoch"))
        other.close()
        postgres.run()
        assert names(registry) == set()
        registry.close()


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT", 0.1)
    with Postgres.start(fast=True) as postgres:
        registry = Registry.open(postgres.fresh_database(), create=True)
        registry.ask(_FIND, {"wanted": "epoch"})
        postgres.pause()
        try:
            with pytest.raises(DatabaseUnreachable, match=r"no answer for 0\.6 s"):
                registry.ask(_FIND, {"wanted": "epoch"})
        finally:
            postgres.resume()
        assert registry.ask(_FIND, {"wanted": "epoch"}).value == 1
        registry.close()


def test_connections_are_renewed(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with line_of(registry) as first:
        pass
    with line_of(registry) as again:
        assert again is first
    again._made_at -= postgresql._RECYCLE
    with line_of(registry) as new:
        assert new is not first
    assert not first.alive


def test_closing(registry: Registry) -> None:
    with line_of(registry) as line:
        pass
    registry.close()
    assert not line.alive
