"""Single use: one INSERT under a unique id spends a challenge or a nonce (docs/protocol.md, sections 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, delete, insert, select
from sqlalchemy.exc import IntegrityError

from attestd.errors import Conflict
from attestd.ids import DeviceId, Serial
from attestd.registry.engine import is_unique_violation
from attestd.registry.statements import Statement
from attestd.registry.tables import spends


class AlreadySpent(Conflict):
    """This challenge or nonce was used before"""

    remedy = "Begin again: fetch a fresh challenge or nonce."


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent, by which request, and what it was answered. Times are unix seconds."""

    id: bytes
    purpose: str
    request_digest: bytes
    proof_digest: bytes | None
    answer: bytes | None = field(repr=False)
    device_id: DeviceId | None
    serial: Serial | None
    at: int
    expires_at: int


_SPEND = Statement(insert(spends).inline(), columns=spends.c.keys())
_FIND = Statement(select(spends).where(spends.c.id == bindparam("wanted")))


def spend(
    c: Connection,
    id: bytes,
    *,
    purpose: str,
    request_digest: bytes,
    now: int,
    expires_at: int,
    proof_digest: bytes | None = None,
    answer: bytes | None = None,
    device_id: DeviceId | None = None,
    serial: Serial | None = None,
) -> None:
    """Uses `id` up. Raises AlreadySpent, which ends the transaction: nothing else of it may be kept.

    The row must outlive every copy of the challenge or nonce: `expires_at` is not before that one's own expiry.
    """
    try:
        _SPEND.change(
            c,
            {
                "id": id,
                "purpose": purpose,
                "request_digest": request_digest,
                "proof_digest": proof_digest,
                "answer": answer,
                "device_id": device_id,
                "serial": None if serial is None else str(serial),
                "at": now,
                "expires_at": expires_at,
            },
        )
    except IntegrityError as error:
        if is_unique_violation(error):
            raise AlreadySpent(f"This {purpose} was used before.") from None
        raise


def find(c: Connection, id: bytes) -> Spent | None:
    """What became of `id`, if it was spent. Rows past their `expires_at` are found until they are purged."""
    row = _FIND.one_or_none(c, {"wanted": id})
    if row is None:
        return None
    return Spent(
        id=row.id,
        purpose=row.purpose,
        request_digest=row.request_digest,
        proof_digest=row.proof_digest,
        answer=row.answer,
        device_id=None if row.device_id is None else DeviceId(row.device_id),
        serial=None if row.serial is None else Serial.parse(row.serial),
        at=row.at,
        expires_at=row.expires_at,
    )


def purge(c: Connection, *, before: int, limit: int) -> int:
    """Forgets what expired before this time, at most `limit` rows; returns how many went."""
    # Rows that another process forgets at this moment are left to it.
    old = select(spends.c.id).where(spends.c.expires_at < before).limit(limit).with_for_update(skip_locked=True)
    return c.execute(delete(spends).where(spends.c.id.in_(old))).rowcount
