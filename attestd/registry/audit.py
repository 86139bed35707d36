"""The audit trail: who did what to whom, written in the transaction that did it. Times are unix seconds.

A row never holds a secret or an EK hash (a lifelong tracker); devices are named by their ids. Soon after its commit a
row is sealed: it gets its leaf in the hash tree (`audit_tree`), and is never changed again. Later its leaf outlives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from attestd.errors import NotFound
from attestd.registry.acts import Step, perform
from attestd.registry.engine import is_unique_violation
from attestd.registry.statements import Statement
from attestd.registry.tables import audit
from attestd.registry.tiles import TreeDamaged

MAX_PAGE = 1000
_MAX_COUNTED = 100_000


class AuditRowUnknown(NotFound):
    """There is no such row in the audit trail"""

    remedy = "`attestd audit list` shows the numbers; rows past their retention are in the archive files."


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One act. `number` tells records apart and orders them as they were written; `leaf` once the record is sealed."""

    number: int
    at: int
    actor: str
    act: str
    subject: str
    request_id: str | None
    detail: Mapping[str, Any]
    leaf: int | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """What a leaf covers (`attestd.credentials.transparency.entry_octets`)."""
        return {
            "number": self.number,
            "at": self.at,
            "actor": self.actor,
            "act": self.act,
            "subject": self.subject,
            "request_id": self.request_id,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Unsealed:
    """Rows that have no leaf yet: how many (counted up to 100,000), and when the oldest was written."""

    count: int
    oldest: int | None


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What there is to know of a record without its detail."""

    number: int
    at: int
    act: str
    subject: str


_APPEND = Statement(insert(audit).inline(), columns=("at", "actor", "act", "subject", "request_id", "detail"))


def entry(*, at: int, actor: str, act: str, subject: str, request_id: str | None, detail: Mapping[str, Any]) -> Step:
    """Records an act in the transaction that does it: neither is kept without the other. `detail` is JSON."""
    return Step(
        _APPEND,
        {"at": at, "actor": actor, "act": act, "subject": subject, "request_id": request_id, "detail": detail},
    )


def append(
    c: Connection, *, at: int, actor: str, act: str, subject: str, request_id: str | None, detail: Mapping[str, Any]
) -> None:
    """`entry`, in a transaction that asks in between."""
    perform(c, entry(at=at, actor=actor, act=act, subject=subject, request_id=request_id, detail=detail))


def append_all(
    c: Connection,
    entries: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    at: int,
    actor: str,
    act: str,
    request_id: str | None,
) -> None:
    """One act on many subjects: a row for each, with its detail."""
    shared = {"at": at, "actor": actor, "act": act, "request_id": request_id}
    if entries:
        c.execute(insert(audit), [{**shared, "subject": subject, "detail": dict(said)} for subject, said in entries])


def page(
    c: Connection,
    *,
    subject: str | None = None,
    actor: str | None = None,
    act: str | None = None,
    before: int | None = None,
    after: int | None = None,
    low: int = 0,
    limit: int = 100,
) -> list[AuditRecord]:
    """Records, the newest first; the last one's `number` is the next page's `before`. None is lower than `low`.

    With `after` the oldest first, from there on, to follow the trail. `limit` is at most 1000.
    """
    named = ((audit.c.subject, subject), (audit.c.actor, actor), (audit.c.act, act))
    wanted = [column == value for column, value in named if value is not None]
    if before is not None:
        wanted.append(audit.c.number < before)
    if after is not None:
        wanted.append(audit.c.number > after)
    if low:
        wanted.append(audit.c.number >= low)
    order = audit.c.number.desc() if after is None else audit.c.number.asc()
    statement = select(audit).where(*wanted).order_by(order).limit(min(limit, MAX_PAGE))
    return [AuditRecord(**row._mapping) for row in c.execute(statement)]


def span(c: Connection) -> tuple[int, int]:
    """The lowest and the highest number; zeros without rows."""
    least, most = c.execute(select(func.min(audit.c.number), func.max(audit.c.number))).one()
    return int(least or 0), int(most or 0)


def number_at(c: Connection, at: int) -> int:
    """The lowest number from which on records are of that time (unix seconds) or later, as far as their times are in
    the order of their numbers; the next free one if none is. Twenty looks at the primary key."""
    t = audit.c
    first = select(t.number, t.at).where(t.number >= bindparam("least")).order_by(t.number).limit(1)
    low, most = span(c)
    high = most + 1
    while low < high:
        middle = (low + high) // 2
        row = c.execute(first, {"least": middle}).one()
        if row.at >= at:
            high = middle
        else:
            low = int(row.number) + 1
    return low


def by_number(c: Connection, number: int) -> AuditRecord:
    """One record. Raises AuditRowUnknown; an archived one is in the files only."""
    row = c.execute(select(audit).where(audit.c.number == number)).one_or_none()
    if row is None:
        raise AuditRowUnknown(seen=number)
    return AuditRecord(**row._mapping)


def of_request(c: Connection, request_id: str, *, actor: str, after: int, limit: int) -> list[int]:
    """The numbers after that one of what this actor did in this request, in their order."""
    t = audit.c
    mine = select(t.number).where(t.actor == actor, t.number > after, t.request_id == request_id)
    return list(c.execute(mine.order_by(t.number).limit(limit)).scalars())


def glimpses(c: Connection, *, after: int | None = None, among: Sequence[int] = (), limit: int) -> list[Glimpse]:
    """With `after` the records after that number, the oldest first, and those `among` these numbers that are there by
    now; else the newest."""
    t = audit.c
    seen = select(t.number, t.at, t.act, t.subject)
    if after is None:
        statement = seen.order_by(t.number.desc())
    else:
        statement = seen.where(or_(t.number > after, t.number.in_(among))).order_by(t.number)
    return [Glimpse(**row._mapping) for row in c.execute(statement.limit(limit))]


# ---- For the sealer ---------------------------------------------------------------------------------------------


def unsealed(c: Connection, *, limit: int) -> list[AuditRecord]:
    """Committed rows without a leaf, by number. With PostgreSQL a lower number may still be committed later."""
    statement = select(audit).where(audit.c.leaf.is_(None)).order_by(audit.c.number).limit(limit)
    return [AuditRecord(**row._mapping) for row in c.execute(statement)]


_SEAL = (
    update(audit)
    .where(audit.c.number.between(bindparam("low"), bindparam("high")), audit.c.leaf.is_(None))
    .values(leaf=audit.c.number + bindparam("shift", type_=audit.c.leaf.type))
)


def seal(c: Connection, numbers: Sequence[int], *, first: int) -> None:
    """Gives these rows, in this order, the leaves from `first` on. Raises TreeDamaged if they are not as they were."""
    leaf = first
    try:
        for low, high in _runs(numbers):
            count = high - low + 1
            if c.execute(_SEAL, {"low": low, "high": high, "shift": leaf - low}).rowcount != count:
                raise TreeDamaged(f"Of the rows {low} to {high} some have gone, or have a leaf.")
            leaf += count
    except IntegrityError as error:
        if not is_unique_violation(error):
            raise
        raise TreeDamaged(f"A row that was never sealed has a leaf from {first} on.") from None


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Numbers in ascending order, as first and last of what has no gap: most of them are one statement's work."""
    start = 0
    for n in range(1, len(numbers) + 1):
        if n == len(numbers) or numbers[n] != numbers[n - 1] + 1:
            yield numbers[start], numbers[n - 1]
            start = n


def lag(c: Connection) -> Unsealed:
    """What waits to be sealed."""
    some = select(audit.c.number, audit.c.at).where(audit.c.leaf.is_(None)).limit(_MAX_COUNTED).subquery()
    count, oldest = c.execute(select(func.count(), func.min(some.c.at)).select_from(some)).one()
    return Unsealed(count, oldest)


def age_at(c: Connection, leaf: int | None, *, now: int) -> int:
    """How many seconds old the row with this leaf is; 0 where there is none."""
    at = None if leaf is None else c.execute(select(audit.c.at).where(audit.c.leaf == leaf)).scalar_one_or_none()
    return 0 if at is None else max(0, now - int(at))


# ---- For archives and examination -------------------------------------------------------------------------------


def sealed(c: Connection, start: int, end: int) -> list[AuditRecord]:
    """The rows with leaves from `start` to `end - 1`, in their order."""
    wanted = select(audit).where(audit.c.leaf >= start, audit.c.leaf < end).order_by(audit.c.leaf, audit.c.number)
    return [AuditRecord(**row._mapping) for row in c.execute(wanted)]


def outside(c: Connection, size: int) -> list[AuditRecord]:
    """Some rows with leaves that a tree of `size` leaves does not have."""
    wanted = select(audit).where(or_(audit.c.leaf >= size, audit.c.leaf < 0)).order_by(audit.c.number).limit(MAX_PAGE)
    return [AuditRecord(**row._mapping) for row in c.execute(wanted)]


def last_number(c: Connection) -> int:
    """The highest number; 0 without rows. SQLite numbers the next row by it, so the row that has it must stay."""
    return int(c.execute(select(func.max(audit.c.number))).scalar_one() or 0)


def remove_archived(c: Connection, start: int, end: int) -> int:
    """Forgets the rows with leaves from `start` to `end - 1`; the caller has them in a file. Returns how many went."""
    return c.execute(delete(audit).where(audit.c.leaf >= start, audit.c.leaf < end)).rowcount


def first_leaf(c: Connection) -> int | None:
    """The lowest leaf that a row has here."""
    found: int | None = c.execute(select(func.min(audit.c.leaf))).scalar_one()
    return found
