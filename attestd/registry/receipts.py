"""Receipts that edges delivered, by chain and number, each as it was signed. Times are unix seconds.

What is here was verified before (`attestd.operations.receipts`). A chain grows by one conditional statement, so that of
two deliveries at once one counts. Old receipts are forgotten; the chain's beginning and where it stands stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from attestd.errors import Conflict
from attestd.ids import Site
from attestd.registry.engine import is_unique_violation
from attestd.registry.tables import receipt_chains, receipts

MAX_PAGE: Final = 1000
_MAX_PAGE_CHARACTERS: Final = 4 << 20


class DeliveredElsewhere(Conflict):
    """Another delivery of this chain was faster"""

    remedy = "Ask which receipt is wanted next, and go on from there."


@dataclass(frozen=True, slots=True)
class StoredChain:
    """One chain: which edge began it and why, and where it stands. `lost`: stretches (first and last number) that the
    edge did not have any more when they were wanted."""

    chain: str
    edge: str
    site: Site
    public_key: bytes = field(repr=False)  # SubjectPublicKeyInfo, DER
    beginning: str = field(repr=False)
    why: str
    began_at: int
    next: int
    digest: bytes  # of the last receipt
    last_at: int
    heard_at: int
    lost: Sequence[Sequence[int]] = ()


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """One receipt, and what it is found by."""

    chain: str
    seq: int
    edge: str
    at: int
    boundary: str | None  # None for a chain's beginning
    device_id: str | None
    decision: str | None
    received_at: int
    jws: str = field(repr=False)
    number: int = 0


def chain(c: Connection, name: str) -> StoredChain | None:
    """The chain of this name."""
    row = c.execute(select(receipt_chains).where(receipt_chains.c.chain == name)).one_or_none()
    return None if row is None else _chain_of(row)


def chains(
    c: Connection, *, edge: str | None = None, name: str | None = None, after: str = "", limit: int = MAX_PAGE
) -> list[StoredChain]:
    """In the order of their names."""
    wanted = [receipt_chains.c.chain > after]
    if edge is not None:
        wanted.append(receipt_chains.c.edge == edge)
    if name is not None:
        wanted.append(receipt_chains.c.chain == name)
    statement = select(receipt_chains).where(*wanted).order_by(receipt_chains.c.chain).limit(min(limit, MAX_PAGE))
    return [_chain_of(row) for row in c.execute(statement)]


def begin(c: Connection, begun: StoredChain) -> None:
    """A new chain. Raises DeliveredElsewhere."""
    values = {name: getattr(begun, name) for name in receipt_chains.c.keys()}  # noqa: SIM118 - columns, not names
    try:
        c.execute(insert(receipt_chains).values(values | {"site": str(begun.site), "lost": _lost(begun.lost)}))
    except IntegrityError as error:
        if is_unique_violation(error):
            raise DeliveredElsewhere(seen=begun.chain) from None
        raise


def advance(c: Connection, known: StoredChain, grown: StoredChain) -> None:
    """The chain stands elsewhere now, if it stood where it is known to. Raises DeliveredElsewhere."""
    statement = (
        update(receipt_chains)
        .where(receipt_chains.c.chain == known.chain, receipt_chains.c.next == known.next)
        .values(
            next=grown.next,
            digest=grown.digest,
            last_at=grown.last_at,
            heard_at=grown.heard_at,
            lost=_lost(grown.lost),
        )
    )
    if c.execute(statement).rowcount != 1:
        raise DeliveredElsewhere(seen=known.chain)


def add_all(c: Connection, rows: Sequence[StoredReceipt]) -> None:
    """In the transaction that lets their chain grow."""
    names = [name for name in receipts.c.keys() if name != "number"]  # noqa: SIM118
    if rows:
        c.execute(insert(receipts), [{name: getattr(row, name) for name in names} for row in rows])


def texts(c: Connection, chain: str, first: int, last: int) -> Mapping[int, str]:
    """The receipts of a chain with these numbers, as far as they are kept."""
    wanted = receipts.c.chain == chain, receipts.c.seq >= first, receipts.c.seq <= last
    return {row.seq: row.jws for row in c.execute(select(receipts.c.seq, receipts.c.jws).where(*wanted))}


def page(
    c: Connection,
    *,
    edge: str | None = None,
    chain: str | None = None,
    boundary: str | None = None,
    device: str | None = None,
    since: int | None = None,
    after: int = 0,
    limit: int = 100,
) -> list[StoredReceipt]:
    """In the order in which they came, which within a chain is its own; fewer than `limit` if they are large."""
    wanted = [receipts.c.number > after]
    for column, value in (
        (receipts.c.edge, edge),
        (receipts.c.chain, chain),
        (receipts.c.boundary, boundary),
        (receipts.c.device_id, device),
    ):
        if value is not None:
            wanted.append(column == value)
    if since is not None:
        wanted.append(receipts.c.at >= since)
    statement = select(receipts).where(*wanted).order_by(receipts.c.number).limit(min(limit, MAX_PAGE))
    return _within(c, statement)


def _within(c: Connection, statement: Select[Any]) -> list[StoredReceipt]:
    found: list[StoredReceipt] = []
    size = 0
    for row in c.execute(statement):
        size += len(row.jws)
        if found and size > _MAX_PAGE_CHARACTERS:
            break
        found.append(StoredReceipt(**row._mapping))
    return found


def latest_of(c: Connection, device_id: str, *, before: int | None = None, limit: int = 100) -> list[StoredReceipt]:
    """A device's crossings, the newest first; the last one's `number` is the next page's `before`."""
    wanted = [receipts.c.device_id == device_id] + ([] if before is None else [receipts.c.number < before])
    statement = select(receipts).where(*wanted).order_by(receipts.c.number.desc()).limit(min(limit, MAX_PAGE))
    return [StoredReceipt(**row._mapping) for row in c.execute(statement)]


def newest(c: Connection, *, before: int | None = None, limit: int = MAX_PAGE) -> list[StoredReceipt]:
    """The other way round: those that came last first, for who wants to know what happened lately."""
    wanted = [] if before is None else [receipts.c.number < before]
    statement = select(receipts).where(*wanted).order_by(receipts.c.number.desc()).limit(min(limit, MAX_PAGE))
    return _within(c, statement)


def purge(c: Connection, *, before: int, limit: int) -> int:
    """Forgets receipts that came before this time, at most `limit`; returns how many went. Chains stay."""
    old = select(receipts.c.number).where(receipts.c.received_at < before).limit(limit)
    return c.execute(delete(receipts).where(receipts.c.number.in_(old.with_for_update(skip_locked=True)))).rowcount


def _lost(stretches: Sequence[Sequence[int]]) -> list[list[int]]:
    return [list(stretch) for stretch in stretches]


def _chain_of(row: Row[Any]) -> StoredChain:
    found = dict(row._mapping)
    found["site"] = Site(found["site"])
    return StoredChain(**found)
