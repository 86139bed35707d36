"""Runs verbs as threads, one at a time, and hands over between them only where one touches the registry.

    stage = Stage(probe)
    with stage.watching():                      # every Registry of this process has points where a verb may be held
        run = stage.run([renew, retire], chooser)
        run.log                                 # [(0, "read"), (0, "view"), (1, "act"), (1, "committed"), …]
        run.outcomes                            # what each verb returned or raised

The points: `read` (before a reading begins) and `view` (its end, while its snapshot is still held), `act` (before a
transaction), `statement` (before each of its statements, where transactions run side by side), `commit` and
`committed`, `undone` (rolled back), `done` (the answer leaves). An entry of the log is what has happened when it is
written. An act that is known beforehand is carried out step by step here, so that it can be held between them.

Where transactions run side by side a verb may be blocked by a lock of one that is held here: `probe` says so of a
connection, and another verb gets the turn. Where they don't, a verb waits at `act` until the other's is over.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import Engine, event

from attestd.registry.acts import Step, perform
from attestd.registry.engine import Connection, Registry
from attestd.registry.statements import Statement

__all__ = ["Run", "Stage", "Tree", "Verb"]

Verb = Callable[[], object]
_here = threading.local()
_PATIENCE = 30.0  # seconds until a run that stands still is a failure
_GLANCE = 0.002  # seconds after which a verb that has not come to its next point may be blocked


@dataclass
class Run:
    """What happened, in order; `outcomes` are results or exceptions, one a verb."""

    log: list[tuple[int, str]] = field(default_factory=list)
    outcomes: list[object] = field(default_factory=list)

    def at(self, number: int, label: str, nth: int = 0) -> int | None:
        """The place in the log where this verb came to this point, the first time or later."""
        places = [place for place, entry in enumerate(self.log) if entry == (number, label)]
        return places[nth] if len(places) > nth else None


class Tree:
    """The interleavings of some verbs that were tried: chooses, at random and repeatably, only what was not."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._root = _Node()
        self._path: list[tuple[_Node, int]] = []
        self._lengths: Counter[int] = Counter()
        self._left: Counter[int] = Counter()
        self.tried = 0

    @property
    def exhausted(self) -> bool:
        return self._root.done

    def begin(self) -> None:
        self._path = []
        self._left = Counter(self._lengths)

    def choose(self, ready: Sequence[int]) -> int:
        """Which of the verbs that can go on goes on."""
        node = self._path[-1][0].children[self._path[-1][1]] if self._path else self._root
        node.seen.update(ready)
        fresh = [number for number in ready if not node.child(number).done] or list(ready)
        # By the steps that each has still to go: so every interleaving is about as likely as any other.
        chosen = self._random.choices(fresh, [max(1, self._left[number]) for number in fresh])[0]
        self._left[chosen] -= 1
        self._path.append((node, chosen))
        return chosen

    def end(self) -> bool:
        """The run is over: whether it was one that had not been tried."""
        if not self._path:
            return False
        self._lengths |= Counter(number for _, number in self._path)
        node, chosen = self._path[-1]
        leaf = node.children[chosen]
        new = not leaf.done and not leaf.seen
        leaf.done = True
        for node, _ in reversed(self._path):
            node.done = all(node.child(number).done for number in node.seen)
        self.tried += new
        return new


@dataclass
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    done: bool = False

    def child(self, number: int) -> _Node:
        return self.children.setdefault(number, _Node())


class _Actor:
    """Plays one verb a run, on a thread of its own; it runs only while it has the turn, or gets away from a lock."""

    def __init__(self, stage: Stage, number: int) -> None:
        self.stage = stage
        self.number = number
        self.verb: Verb | None = None
        self.state = "ready"  # ready, running, blocked, done
        self.label = "begin"
        self.acting = False
        self.connection: object = None  # the driver's, of its transaction
        self.outcome: object = None
        self.turn = threading.Lock()
        self.turn.acquire()
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def prepare(self, verb: Verb) -> None:
        """What it plays in the next run."""
        self.verb, self.state, self.label, self.outcome = verb, "ready", "begin", None

    def _play(self) -> None:
        _here.actor = self
        while True:
            self.turn.acquire()
            if self.verb is None:
                return
            try:
                self.outcome = self.verb()
            except Exception as error:  # noqa: BLE001 - the outcome, whatever it is
                self.outcome = error
            self.stage.arrive(self, "done")

    def dismiss(self) -> None:
        """Ends its thread."""
        self.verb = None
        self.turn.release()
        self._thread.join(_PATIENCE)


class Stage:
    """`probe` says whether a driver's connection waits for a lock; None: acting transactions exclude each other."""

    def __init__(self, probe: Callable[[Any], bool] | None) -> None:
        self._probe = probe
        self._mutex = threading.Lock()
        self._attention = threading.Semaphore(0)
        self._company: list[_Actor] = []
        self._actors: list[_Actor] = []
        self._choose: Callable[[Sequence[int]], int] = min
        self._run = Run()

    def run(self, verbs: Sequence[Verb], tree: Tree) -> Run:
        """Plays the verbs to their ends, in an order that the tree chooses."""
        self._company.extend(_Actor(self, number) for number in range(len(self._company), len(verbs)))
        self._actors = self._company[: len(verbs)]
        for actor, verb in zip(self._actors, verbs, strict=True):
            actor.prepare(verb)
        self._choose, self._run = tree.choose, Run()
        tree.begin()
        with self._mutex:
            self._hand_over()
        idle = 0.0
        while not all(actor.state == "done" for actor in self._actors):
            told = self._attention.acquire(timeout=_PATIENCE if self._probe is None else _GLANCE)
            idle = 0.0 if told else idle + (_PATIENCE if self._probe is None else _GLANCE)
            if idle >= _PATIENCE:
                raise RuntimeError(f"Nobody goes on: {[(a.number, a.state, a.label) for a in self._actors]}")
            if self._probe is not None:
                with self._mutex:
                    self._settle(self._probe)
        self._run.outcomes = [actor.outcome for actor in self._actors]
        return self._run

    def arrive(self, actor: _Actor, label: str) -> None:
        """The running verb has come to a point; it goes on when it gets the turn."""
        with self._mutex:
            self._run.log.append((actor.number, label))
            had_turn = actor.state == "running"
            actor.state = "done" if label == "done" else "ready"
            actor.label = label
            if not had_turn or self._blocked():
                self._attention.release()  # who was blocked may be free now; that is looked at first
            elif self._hand_over() is actor:
                return
        if label != "done":
            actor.turn.acquire()

    def _blocked(self) -> list[_Actor]:
        return [actor for actor in self._actors if actor.state == "blocked"]

    def _hand_over(self) -> _Actor | None:
        """Gives the turn to the verb that the order names; the caller holds the mutex."""
        ready = [actor for actor in self._actors if actor.state == "ready"]
        if self._probe is None and any(actor.acting for actor in ready):
            ready = [actor for actor in ready if actor.acting or actor.label != "act"]
        if not ready:
            if not self._blocked():
                self._attention.release()  # all are done
            return None
        chosen = self._actors[self._choose([actor.number for actor in ready])]
        here = getattr(_here, "actor", None) is chosen
        chosen.state = "running"
        if not here:
            chosen.turn.release()
        return chosen

    def _settle(self, probe: Callable[[Any], bool]) -> None:
        """Finds out who is blocked; when nobody runs, the next one gets the turn. The caller holds the mutex."""
        running = [actor for actor in self._actors if actor.state == "running"]
        for actor in running:
            if actor.acting and actor.connection is not None and probe(actor.connection):
                actor.state = "blocked"
        if any(actor.state == "running" for actor in self._actors):
            return
        if all(probe(actor.connection) for actor in self._blocked()):
            self._hand_over()

    # ---- The points -------------------------------------------------------------------------------------------

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Gives every registry of this process its points, for the verbs that run on a stage."""
        run = Statement._run

        def direct(statement: Statement, c: Connection, values: Mapping[str, Any]) -> Any:
            _before_statement(c)
            return run(statement, c, values)

        with pytest.MonkeyPatch.context() as patched:
            for name, door in _doors().items():
                patched.setattr(Registry, name, door)
            if self._probe is not None:
                patched.setattr(Statement, "_run", direct)
                event.listen(Engine, "before_cursor_execute", _before_statement)
            try:
                yield
            finally:
                for actor in self._company:
                    actor.dismiss()
                self._company = []
                if self._probe is not None:
                    event.remove(Engine, "before_cursor_execute", _before_statement)


def _doors() -> Mapping[str, Callable[..., Any]]:
    """The registry's doors, with their points."""
    reading, acting, ask, act = Registry.reading, Registry.acting, Registry.ask, Registry.act

    @contextmanager
    def read(registry: Registry) -> Iterator[Connection]:
        _point("read")
        with reading(registry) as c:
            yield c
            _point("view")

    def ask_once(registry: Registry, statement: Statement, values: Mapping[str, Any], **options: Any) -> Any:
        _point("read")
        found = ask(registry, statement, values, **options)
        _point("view")
        return found

    @contextmanager
    def transact(registry: Registry) -> Iterator[Connection]:
        actor: _Actor | None = getattr(_here, "actor", None)
        if actor is None:
            with acting(registry) as c:
                yield c
            return
        _point("act")
        actor.acting = True
        try:
            with acting(registry) as c:
                yield c
                _point("commit")
            actor.acting = False
            _point("committed")
        except BaseException:
            if actor.acting:
                actor.acting = False
                _point("undone")
            raise
        finally:
            actor.connection = None

    def step_by_step(registry: Registry, *steps: Step) -> None:
        if getattr(_here, "actor", None) is None:
            act(registry, *steps)
            return
        with transact(registry) as c:
            perform(c, *steps)

    return {"reading": read, "ask": ask_once, "acting": transact, "act": step_by_step}


def _point(label: str) -> None:
    actor: _Actor | None = getattr(_here, "actor", None)
    if actor is not None:
        actor.stage.arrive(actor, label)


def _before_statement(c: Connection, *_statement: object) -> None:
    actor: _Actor | None = getattr(_here, "actor", None)
    if actor is not None and actor.acting:
        actor.connection = c.connection.driver_connection
        _point("statement")
