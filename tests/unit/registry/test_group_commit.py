"""Acts that share a transaction: each is kept or undone by itself, and nobody hears "done" before the disk does."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from sqlalchemy import insert, text

from attestd.registry import sqlite
from attestd.registry.engine import Connection, DatabaseNotWritable, Registry
from attestd.registry.tables import counters

pytestmark = pytest.mark.once


def put(c: Connection, name: str) -> None:
    c.execute(insert(counters).values(name=name, value=1))


class Crowd:
    """Several threads that act while the first one holds the turn, so that all of them share its transaction."""

    def __init__(self, registry: Registry) -> None:
        assert isinstance(registry._database, sqlite.SqliteDatabase)
        self.registry, self.database = registry, registry._database
        self.ended: dict[str, BaseException | None] = {}
        self._threads: list[threading.Thread] = []

    def come(self, name: str, act: Callable[[Connection], None] | None = None) -> None:
        """One more stands in line, to put a counter of this name, or to do something else."""

        def run() -> None:
            try:
                with self.registry.acting() as c:
                    (act or (lambda c: put(c, name)))(c)
            except Exception as error:  # noqa: BLE001 - the test looks at it
                self.ended[name] = error
            else:
                self.ended[name] = None

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()
        self._until(lambda: len(self.database._turns._queue) == len(self._threads))

    def leave(self) -> None:
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _until(self, seen: Callable[[], bool]) -> None:
        until = time.monotonic() + 10
        while not seen():
            assert time.monotonic() < until
            time.sleep(0.001)

    def names(self) -> set[str]:
        """The counters of this test that another process would see."""
        with closing(sqlite3.connect(self.database._path)) as other:
            found = other.execute("SELECT name FROM counters WHERE name LIKE 'new-%'").fetchall()
        return {name for (name,) in found}


@pytest.fixture
def crowd(registry: Registry) -> Crowd:
    return Crowd(registry)


@pytest.fixture
def commits(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sizes of the transactions that were ended."""
    sizes: list[int] = []
    end = sqlite._Group.end

    def counted(group: sqlite._Group) -> bool:
        sizes.append(group.size)
        return end(group)

    monkeypatch.setattr(sqlite._Group, "end", counted)
    return sizes  # type: ignore[return-value]


def test_who_waits_shares_one_commit(crowd: Crowd, commits: list[int]) -> None:
    with crowd.registry.acting() as c:
        put(c, "new-first")
        for number in range(5):
            crowd.come(f"new-{number}")
        assert crowd.names() == set()
    crowd.leave()
    assert commits == [6]
    assert len(crowd.names()) == 6
    assert set(crowd.ended.values()) == {None}


def test_who_is_alone_does_not_wait(crowd: Crowd, commits: list[int]) -> None:
    for number in range(3):
        with crowd.registry.acting() as c:
            put(c, f"new-{number}")
    assert commits == [1, 1, 1]


def test_a_transaction_ends_though_more_stand_in_line(
    crowd: Crowd, commits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_GROUP", 2)
    with crowd.registry.acting() as c:
        put(c, "new-first")
        for number in range(4):
            crowd.come(f"new-{number}")
    crowd.leave()
    assert commits == [2, 2, 1]
    assert len(crowd.names()) == 5


def test_who_stands_in_line_shares_it_whoever_else_is_about(
    crowd: Crowd, commits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd.database._company, "count", lambda: 0)
    with crowd.registry.acting() as c:
        put(c, "new-first")
        crowd.come("new-1")
        crowd.come("new-2")
    crowd.leave()
    assert commits == [3]


def test_a_transaction_waits_for_who_is_about_to_act(
    crowd: Crowd, commits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_PATIENCE", 10.0)
    monkeypatch.setattr(crowd.database._company, "count", lambda: 2)
    turns = crowd.database._turns

    def run() -> None:
        with crowd.registry.acting() as c:
            put(c, "new-early")

    early = threading.Thread(target=run)
    early.start()
    crowd._until(lambda: turns._lingering is not None)
    assert crowd.names() == set()
    with crowd.registry.acting() as c:
        put(c, "new-late")
    early.join(10)
    assert commits == [2]
    assert crowd.names() == {"new-early", "new-late"}


def test_it_does_not_wait_for_ever(crowd: Crowd, commits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_PATIENCE", 0.01)
    monkeypatch.setattr(crowd.database._company, "count", lambda: 5)
    with crowd.registry.acting() as c:
        put(c, "new-alone")
    assert commits == [1]
    assert crowd.names() == {"new-alone"}


def test_an_act_that_fails_takes_nothing_with_it(crowd: Crowd, commits: list[int]) -> None:
    def half(c: Connection) -> None:
        put(c, "new-half")
        raise RuntimeError("half way")

    with crowd.registry.acting() as c:
        put(c, "new-first")
        crowd.come("half", half)
        crowd.come("twice", lambda c: (put(c, "new-twice"), put(c, "new-twice")))  # type: ignore[arg-type]
        crowd.come("new-last")
    crowd.leave()
    assert commits == [4]
    assert crowd.names() == {"new-first", "new-last"}
    assert isinstance(crowd.ended["half"], RuntimeError)
    assert crowd.ended["twice"] is not None
    assert crowd.ended["new-last"] is None


def test_the_first_act_may_fail_too(crowd: Crowd) -> None:
    with pytest.raises(RuntimeError), crowd.registry.acting() as c:
        put(c, "new-first")
        crowd.come("new-last")
        raise RuntimeError
    crowd.leave()
    assert crowd.names() == {"new-last"}


def test_a_commit_that_fails_is_told_to_everybody(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: sqlite._Session) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    with pytest.raises(DatabaseNotWritable), crowd.registry.acting() as c:
        put(c, "new-first")
        crowd.come("new-1")
        crowd.come("new-2")
        monkeypatch.setattr(sqlite._Session, "commit", full)
    crowd.leave()
    monkeypatch.undo()
    assert crowd.names() == set()
    assert {type(error) for error in crowd.ended.values()} == {DatabaseNotWritable}
    with crowd.registry.acting() as c:
        put(c, "new-later")
    assert crowd.names() == {"new-later"}


def test_a_transaction_that_is_gone_is_told_to_everybody_in_it(crowd: Crowd) -> None:
    """After some errors SQLite rolls everything back by itself: acts that succeeded before are gone with it."""

    def lose(c: Connection) -> None:
        put(c, "new-lost")
        c.execute(text("ROLLBACK"))
        raise RuntimeError("the disk failed")

    with pytest.raises(DatabaseNotWritable), crowd.registry.acting() as c:
        put(c, "new-first")
        crowd.come("new-early")
        crowd.come("lose", lose)
        crowd.come("new-late")
    crowd.leave()
    assert isinstance(crowd.ended["new-early"], DatabaseNotWritable)
    assert isinstance(crowd.ended["lose"], RuntimeError)
    assert crowd.ended["new-late"] is None, "a new transaction was begun for it"
    assert crowd.names() == {"new-late"}
