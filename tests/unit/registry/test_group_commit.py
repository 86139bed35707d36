"""SQLite: acts that share a transaction. Each is kept or undone by itself, and nobody hears "done" before the disk
does."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
from sqlalchemy import bindparam, delete, insert, select, text

from attestd.errors import Conflict
from attestd.registry import revision, sqlite
from attestd.registry.acts import Step
from attestd.registry.engine import DatabaseBusy, DatabaseFailed, DatabaseNotWritable, Registry
from attestd.registry.statements import Statement
from attestd.registry.states import State
from attestd.registry.tables import counters, devices

from .conftest import Fleet

pytestmark = pytest.mark.once

_PUT = Statement(insert(counters).inline(), columns=("name", "value"))
_FIND = Statement(select(counters.c.value).where(counters.c.name == bindparam("wanted")))
_EMPTY = Statement(delete(devices))


class Refusal(Conflict):
    """A step of the test was refused"""


def put(name: str) -> Step:
    return Step(_PUT, {"name": name, "value": 1}, taken=Refusal)


def never() -> Step:
    return Step(_FIND, {"wanted": "nobody has this name"}, otherwise=lambda _: Refusal())


class Crowd:
    """Several threads that act while the turn is somebody else's, so that all of them share one transaction."""

    def __init__(self, registry: Registry) -> None:
        assert isinstance(registry._database, sqlite.SqliteDatabase)
        self.registry, self.database = registry, registry._database
        self.ended: dict[str, BaseException | None] = {}
        self._threads: list[threading.Thread] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody's act begins before the block is left."""
        assert self.database._turns.take(0)
        yield
        self.database._turns.end()
        self.leave()

    def come(self, name: str, *steps: Step) -> None:
        """One more stands in line, to put a counter of this name, or to do something else."""

        def run() -> None:
            try:
                self.registry.act(*(steps or (put(name),)))
            except Exception as error:  # noqa: BLE001 - the test looks at it
                self.ended[name] = error
            else:
                self.ended[name] = None

        before = len(self.database._batches._line)
        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()
        until(lambda: len(self.database._batches._line) > before)

    def leave(self) -> None:
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def names(self) -> set[str]:
        """The counters of this test that another process would see."""
        with closing(sqlite3.connect(self.database._path)) as other:
            found = other.execute("SELECT name FROM counters WHERE name LIKE 'new-%'").fetchall()
        return {name for (name,) in found}


def until(seen: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not seen():
        assert time.monotonic() < ends
        time.sleep(0.001)


@pytest.fixture
def crowd(registry: Registry) -> Crowd:
    return Crowd(registry)


@pytest.fixture
def commits(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each transaction that was committed by an act."""
    done: list[None] = []
    commit = sqlite._Session.commit

    def counted(session: sqlite._Session) -> None:
        commit(session)
        if session is crowd.database._writer:
            done.append(None)

    monkeypatch.setattr(sqlite._Session, "commit", counted)
    return done


def test_who_stands_in_line_shares_one_commit(crowd: Crowd, commits: list[None]) -> None:
    with crowd.held():
        for number in range(5):
            crowd.come(f"new-{number}")
        assert crowd.names() == set()
    assert len(commits) == 1
    assert len(crowd.names()) == 5
    assert set(crowd.ended.values()) == {None}


def test_who_is_alone_has_a_transaction_without_a_savepoint(
    crowd: Crowd, commits: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    run = sqlite._Session.run
    monkeypatch.setattr(sqlite._Session, "run", lambda session, command: (ran.append(command), run(session, command)))
    for number in range(3):
        crowd.registry.act(put(f"new-{number}"))
    assert ran == ["BEGIN IMMEDIATE"] * 3
    assert len(commits) == 3


def test_a_refused_act_takes_nothing_with_it(crowd: Crowd, commits: list[None]) -> None:
    with crowd.held():
        crowd.come("new-first")
        crowd.come("half", put("new-half"), never())
        crowd.come("twice", put("new-twice"), put("new-twice"))
        crowd.come("new-last")
    assert crowd.names() == {"new-first", "new-last"}
    assert {name: type(error) for name, error in crowd.ended.items()} == {
        "new-first": type(None),
        "half": Refusal,
        "twice": Refusal,
        "new-last": type(None),
    }
    assert len(commits) == 1


@pytest.mark.parametrize("first", [True, False])
def test_an_act_that_the_database_refuses_takes_nothing_with_it(crowd: Crowd, fleet: Fleet, first: bool) -> None:
    """It would delete what others refer to: an error that no step has a name for."""
    fleet.device(State.ACTIVE)
    with crowd.held():
        for name in ("broken", "new-other") if first else ("new-other", "broken"):
            crowd.come(name, *((put("new-broken"), Step(_EMPTY, {})) if name == "broken" else ()))
    assert crowd.names() == {"new-other"}
    assert isinstance(crowd.ended["broken"], DatabaseFailed)
    assert crowd.ended["new-other"] is None


def test_a_lone_act_that_is_refused_is_undone(crowd: Crowd) -> None:
    for steps in ((put("new-1"), never()), (put("new-2"), put("new-2"))):
        with pytest.raises(Refusal):
            crowd.registry.act(*steps)
    with pytest.raises(DatabaseFailed):
        crowd.registry.act(put("new-3"), Step(_PUT, {"name": "new-3", "value": 1}))  # it has no name for that
    assert crowd.names() == set()
    crowd.registry.act(put("new-4"))
    assert crowd.names() == {"new-4"}


def test_a_commit_that_fails_is_told_to_everybody(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: sqlite._Session) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(sqlite._Session, "commit", full)
        with crowd.held():
            crowd.come("new-1")
            crowd.come("refused", never())
            crowd.come("new-2")
    assert crowd.names() == set()
    assert {type(error) for error in crowd.ended.values()} == {DatabaseNotWritable}
    crowd.registry.act(put("new-later"))
    assert crowd.names() == {"new-later"}


def test_a_transaction_that_is_gone_is_told_to_everybody_in_it(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some errors SQLite rolls everything back by itself: acts that succeeded before are gone with it."""
    perform = sqlite._Session.perform
    seen: list[None] = []

    def lose(session: sqlite._Session, steps: object) -> object:
        seen.append(None)
        refused = perform(session, steps)  # type: ignore[arg-type]
        if len(seen) == 2:
            session.run("ROLLBACK")
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        return refused

    monkeypatch.setattr(sqlite._Session, "perform", lose)
    with crowd.held():
        for name in ("new-early", "new-lost", "new-late"):
            crowd.come(name)
    assert crowd.names() == set()
    assert {type(error) for error in crowd.ended.values()} == {DatabaseNotWritable}


def test_a_transaction_that_is_gone_is_not_committed(crowd: Crowd) -> None:
    """Not by an act that did not notice, either."""
    with pytest.raises(DatabaseNotWritable, match="gave up"), crowd.registry.acting() as c:
        c.execute(insert(counters).values(name="new-lost", value=1))
        c.execute(text("ROLLBACK"))
    assert crowd.names() == set()


def test_a_turn_that_does_not_come_is_told_to_everybody(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd.database, "_timeout", 0.2)
    assert crowd.database._turns.take(0)
    crowd.come("new-1")
    crowd.come("new-2")
    crowd.leave()
    assert {type(error) for error in crowd.ended.values()} == {DatabaseBusy}
    crowd.database._turns.end()
    crowd.registry.act(put("new-3"))
    assert crowd.names() == {"new-3"}


def test_acts_that_ask_in_between_take_turns_with_the_others(crowd: Crowd) -> None:
    with crowd.registry.acting() as c:
        c.execute(insert(counters).values(name="new-first", value=1))
        crowd.come("new-second")
        time.sleep(0.02)
        assert crowd.ended == {}
    crowd.leave()
    assert crowd.names() == {"new-first", "new-second"}


def test_a_question_to_act_on_is_waited_for(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    expected: list[None] = []
    monkeypatch.setattr(crowd.database._company, "expect", lambda: expected.append(None))
    crowd.registry.ask(_FIND, {"wanted": revision.REVISION})
    assert len(expected) == 0
    crowd.registry.ask(_FIND, {"wanted": revision.REVISION}, to_act=True)
    assert len(expected) == 1
