"""A connection to PostgreSQL that makes one trip of an act: all statements, their transaction and its commit.

The statements go out one behind the other with one Sync at their end. Without BEGIN they are one transaction, which the
Sync commits once all have succeeded; after one that fails, the server skips the others and undoes all of them
(PostgreSQL 15, sections 55.2.3 and 34.5.1.3). So whatever must be true has to be an error where it is not: a statement
that must hit one row is wrapped so that it divides by nothing when it doesn't.

This speaks libpq's own language, past the driver's cursors: those cost more than the server does.
"""

from __future__ import annotations

import select
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any

from psycopg import Connection, OperationalError
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult
from sqlalchemy import JSON, Integer, LargeBinary, String

from attestd.errors import Unavailable
from attestd.registry.acts import Bound, Refused
from attestd.registry.failures import POSTGRESQL_UNIQUE, DatabaseBusy
from attestd.registry.statements import Kind, Plan
from attestd.registry.turns import Waiting

_BINARY = 1
_MISSED = "22012"  # division by zero: what a statement ends in that must hit one row and does not
# How each kind goes in: the type's number (PostgreSQL 15, catalog pg_type), and whether in its binary format. Texts are
# binary, as their length is theirs then: what ends a C string is refused by the server, and cuts nothing off.
_TYPES: dict[Kind, tuple[int, int]] = {String: (1043, 1), Integer: (20, 0), LargeBinary: (17, 1), JSON: (114, 1)}

_OK = frozenset({int(ExecStatus.COMMAND_OK), int(ExecStatus.TUPLES_OK)})
_SYNC, _FATAL, _SKIPPED = map(int, (ExecStatus.PIPELINE_SYNC, ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED))


class Line:
    """One connection, one user at a time."""

    def __init__(
        self,
        connection: Connection[Any],
        *,
        named: Callable[[str | None, str], Unavailable],
        patience: float,
        waiting: Waiting,
    ) -> None:
        """Takes the connection over. `named` makes an error of a SQLSTATE and the server's words; `patience`: for how
        many seconds the server may be silent when it was asked."""
        self._connection = connection
        self._pg = connection.pgconn
        self._named = named
        self._patience = patience
        self._waiting = waiting
        self._prepared: set[bytes] = set()
        self._poll = select.poll()
        self._poll.register(self._pg.socket, select.POLLIN)
        self._made_at = monotonic()
        self._pg.enter_pipeline_mode()

    @property
    def alive(self) -> bool:
        """Whether the connection stands. Then whatever was refused is known to be undone."""
        return self._pg.status == ConnStatus.OK

    def fresh(self, life: float) -> bool:
        """Whether it was made within so many seconds, and nothing came from a server that was not asked: it does not
        speak but to say good-bye."""
        return monotonic() - self._made_at < life and self.alive and not self._poll.poll(0)

    def close(self) -> None:
        self._connection.close()

    def one_or_none(self, plan: Plan, parameters: list[Any]) -> list[Any] | None:
        """The first row's octets; NULL is None. Raises Unavailable's children."""
        with ExitStack() as waits:
            found, _ = self._trip([Bound(plan, parameters, must=False)], waits)
        assert found is not None  # noqa: S101 - nothing of this can be refused
        if found.ntuples == 0:
            return None
        return [found.get_value(0, column) for column in range(found.nfields)]

    def perform(self, steps: Iterable[Bound], waits: ExitStack) -> Refused | None:
        """All steps, committed; or none, and which one was refused. From when it waits for the answer, `waits` holds
        what is given up meanwhile. Raises Unavailable's children: none of the steps was done if the line is alive then,
        and nobody knows if it is not."""
        return self._trip(steps, waits)[1]

    def _trip(self, steps: Iterable[Bound], waits: ExitStack) -> tuple[PGresult | None, Refused | None]:
        """There and back. Returns the last statement's result, or what was refused."""
        try:
            sent = self._send(steps)
            waits.enter_context(self._waiting())
            last, failed = self._hear(sent)
        except OperationalError as error:
            self.close()
            raise self._named(None, str(error)) from None
        except BaseException:
            self.close()  # half way
            raise
        return last, None if failed is None else self._refused(*failed)

    def _send(self, steps: Iterable[Bound]) -> list[bytes | int]:
        """Returns what results will come: of which preparation, of which step."""
        pg, sent = self._pg, list[bytes | int]()
        for place, (plan, parameters, must) in enumerate(steps):
            name = b"%s%d" % (b"must" if must else b"may", plan.number)
            formats = [_TYPES[kind][1] for _, kind in plan.parameters]
            if name not in self._prepared and name not in sent:
                types = [_TYPES[kind][0] for _, kind in plan.parameters]
                pg.send_prepare(name, (_must(plan) if must else plan.text).encode(), types)
                sent.append(name)
            pg.send_query_prepared(name, parameters, formats, _BINARY)
            sent.append(place)
        pg.pipeline_sync()
        return sent

    def _hear(self, sent: Sequence[bytes | int]) -> tuple[PGresult | None, tuple[PGresult, bytes | int | None] | None]:
        """The last statement's result, and the one that failed, with what it is of."""
        while self._pg.flush():  # more than the socket takes at once
            self._wait(select.POLLIN | select.POLLOUT)
        last: PGresult | None = None
        failed: tuple[PGresult, bytes | int | None] | None = None
        expected = iter(sent)
        while (result := self._next()).status != _SYNC:
            what = next(expected, None)
            if result.status in _OK:
                last = result
                if isinstance(what, bytes):
                    self._prepared.add(what)
            elif result.status != _SKIPPED and failed is None:
                failed = result, what
        return last, failed

    def _refused(self, result: PGresult, what: bytes | int | None) -> Refused:
        state = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode() or None
        if isinstance(what, int) and state in (_MISSED, POSTGRESQL_UNIQUE):
            return Refused(what, taken=state == POSTGRESQL_UNIQUE)
        said = result.error_field(DiagnosticField.MESSAGE_PRIMARY) or result.error_message
        raise self._named(state, said.decode(errors="replace"))

    def _next(self) -> PGresult:
        """The next result. Between two there is one that is none."""
        for _ in range(3):
            while self._pg.is_busy():
                self._wait(select.POLLIN)
            if (result := self._pg.get_result()) is not None:
                if result.status == _FATAL and not self.alive:
                    raise OperationalError(result.error_message.decode(errors="replace"))
                return result
        raise OperationalError("the server's answer has no end")

    def _wait(self, what: int) -> None:
        self._poll.modify(self._pg.socket, what)
        if not self._poll.poll(self._patience * 1000):
            raise OperationalError(f"no answer for {self._patience:g} s")
        self._pg.consume_input()


def _must(plan: Plan) -> str:
    """The statement, an error unless it changes, or finds, exactly one row."""
    changing = plan.text if plan.returns else f"{plan.text} RETURNING 1"
    return f"WITH hit AS ({changing}) SELECT 1 / (count(*) = 1)::int FROM hit"  # noqa: S608 - a text of ours


class Lines:
    """The lines of one kind that this process keeps."""

    def __init__(
        self, connect: Callable[[], Line], *, most: int, life: float, timeout: float, waiting: Waiting
    ) -> None:
        """`most` at the same time, each used for `life` seconds; whoever wants one waits `timeout` seconds for it.
        `connect` gives up by itself what a thread gives up while it waits."""
        self._connect = connect
        self._life = life
        self._timeout = timeout
        self._waiting = waiting
        self._places = threading.Semaphore(most)
        self._idle: deque[Line] = deque()

    @contextmanager
    def line(self) -> Iterator[Line]:
        """One line, alone. Raises DatabaseBusy, DatabaseUnreachable."""
        self._take_place()
        try:
            line = self._idle_one() or self._connect()
            try:
                yield line
            finally:
                if line.alive:
                    self._idle.append(line)
                else:
                    self.close()  # the others are broken, too, if the server went
        finally:
            self._places.release()

    def close(self) -> None:
        """Those that nobody uses."""
        while (line := self._pop()) is not None:
            line.close()

    def _take_place(self) -> None:
        if self._places.acquire(blocking=False):
            return
        with self._waiting():
            taken = self._places.acquire(timeout=self._timeout)
        if not taken:
            raise DatabaseBusy("All database connections of this process are in use.")

    def _idle_one(self) -> Line | None:
        while (line := self._pop()) is not None:
            if line.fresh(self._life):
                return line
            line.close()
        return None

    def _pop(self) -> Line | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None
