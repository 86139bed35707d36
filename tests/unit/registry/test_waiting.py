"""What a thread gives up while it waits for others or for the disk: a baton, where one thread computes at a time."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import bindparam, insert, select, update

from attestd.registry import sqlite
from attestd.registry.acts import Step
from attestd.registry.engine import Registry
from attestd.registry.statements import Statement
from attestd.registry.tables import counters
from attestd.registry.turns import Turns, Turnstile
from tests.database import is_postgres

_PUT = Statement(insert(counters).inline(), columns=("name", "value"))
_FIND = Statement(select(counters.c.value).where(counters.c.name == bindparam("wanted")))


class Baton:
    """Held by the one thread that computes. `given_up` counts how often."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.holder: int | None = None
        self.given_up = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            self.holder = threading.get_ident()
            yield
            self.holder = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        assert self.holder == threading.get_ident(), "given up by who does not have it"
        self.given_up += 1
        self.holder = None
        self._lock.release()
        try:
            yield
        finally:
            assert self._lock.acquire(timeout=30), "somebody waits with the baton in hand"
            self.holder = threading.get_ident()


@pytest.fixture
def baton() -> Baton:
    return Baton()


@pytest.fixture
def registry(url: str, baton: Baton) -> Iterator[Registry]:
    with baton.held():
        registry = Registry.open(url, waiting=baton.waiting)
    yield registry
    with baton.held():
        registry.close()


def put(name: str) -> Step:
    return Step(_PUT, {"name": name, "value": 1})


def test_an_act_gives_it_up_for_the_disk(registry: Registry, baton: Baton) -> None:
    with baton.held():
        registry.act(put("new-1"))  # which also connects
        before = baton.given_up
        registry.act(put("new-2"))
    assert baton.given_up == before + 1


def test_who_reads_a_file_waits_for_nobody(registry: Registry, baton: Baton) -> None:
    with baton.held():
        registry.ask(_FIND, {"wanted": "epoch"})
        before = baton.given_up
        registry.ask(_FIND, {"wanted": "epoch"})
        trip = registry._database.driver.name == "libpq"  # to a server, which answers
        assert baton.given_up == before + trip


def test_an_act_that_asks_in_between_gives_it_up_too(registry: Registry, baton: Baton) -> None:
    with baton.held():
        before = baton.given_up
        with registry.acting() as c:
            c.execute(insert(counters).values(name="new-1", value=1))
        assert baton.given_up > before


@pytest.mark.once
def test_a_database_that_somebody_else_holds_is_waited_for_without_it(url: str, tmp_path: Path, baton: Baton) -> None:
    if is_postgres(url):
        pytest.skip("SQLite's own way of waiting")
    with baton.held():
        registry = Registry.open(url, waiting=baton.waiting)
        registry.act(put("new-1"))
    held = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    held.execute("BEGIN EXCLUSIVE")
    failed: list[BaseException] = []

    def act() -> None:
        try:
            with baton.held():
                registry.act(put("new-2"))
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            failed.append(error)

    waits = threading.Thread(target=act)
    waits.start()
    time.sleep(0.2)
    with baton.held():  # another computes meanwhile
        assert waits.is_alive()
    held.execute("ROLLBACK")
    waits.join(10)
    held.close()
    assert not failed
    with baton.held():
        registry.close()


def test_nobody_waits_with_it_in_hand(registry: Registry, baton: Baton) -> None:
    """Acts of every kind on many threads: whoever kept it while waiting would stop all of them."""
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            for turn in range(12):
                with baton.held():
                    registry.ask(_FIND, {"wanted": "epoch"}, to_act=True)
                    if (number + turn) % 4:
                        registry.act(put(f"new-{number}-{turn}"))
                    else:
                        with registry.acting() as c:
                            c.execute(update(counters).where(counters.c.name == "epoch").values(value=turn))
                            c.execute(insert(counters).values(name=f"new-{number}-{turn}", value=1))
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive()
    assert not failed
    with baton.held(), registry.reading() as c:
        assert len(c.execute(select(counters).where(counters.c.name.like("new-%"))).all()) == 96


# ---- Each wait by itself ----------------------------------------------------------------------------------------


class Count:
    """How many wait now, and how often somebody did."""

    def __init__(self) -> None:
        self.now = 0
        self.ever = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.now += 1
        self.ever += 1
        yield
        self.now -= 1


def until(seen: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not seen():
        assert time.monotonic() < ends
        time.sleep(0.001)


@pytest.mark.once
def test_a_turn() -> None:
    count = Count()
    turns = Turns(count)
    assert turns.take(0)
    assert count.ever == 0, "nobody was there"
    thread = threading.Thread(target=turns.take, args=(10,))
    thread.start()
    until(lambda: count.now == 1)
    turns.end()
    thread.join(10)
    assert (count.now, count.ever) == (0, 1)
    assert not turns.take(0)
    assert count.ever == 2


@pytest.mark.once
def test_a_turnstile(tmp_path: Path) -> None:
    count = Count()
    mine, other = Turnstile(tmp_path / "turn", count), Turnstile(tmp_path / "turn")
    assert mine.enter(0)
    mine.leave()
    assert count.ever == 0, "nobody was inside"
    other.enter(0)
    thread = threading.Thread(target=mine.enter, args=(10,))
    thread.start()
    until(lambda: count.now == 1)
    other.leave()
    thread.join(10)
    assert (count.now, count.ever) == (0, 1)


@pytest.mark.once
def test_the_disk(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = Count()
    registry = Registry.open(f"sqlite:///{database}", waiting=count)
    seen: list[int] = []
    commit, run = sqlite._Session.commit, sqlite._Session.perform

    def committing(session: sqlite._Session) -> None:
        seen.append(count.now)
        commit(session)

    def performing(session: sqlite._Session, *steps: object) -> object:
        seen.append(count.now)
        return run(session, *steps)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite._Session, "commit", committing)
    monkeypatch.setattr(sqlite._Session, "perform", performing)
    registry.act(put("new-1"))
    assert seen == [0, 1]
    assert count.now == 0
    registry.close()
