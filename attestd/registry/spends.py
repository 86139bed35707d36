"""Single use: one INSERT under a unique id spends a challenge or a nonce (docs/protocol.md, sections 1 and 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select

from attestd.errors import Conflict
from attestd.ids import DeviceId, Serial
from attestd.registry.acts import Step
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


def spending(
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
) -> Step:
    """Uses `id` up, or is refused as AlreadySpent: nothing else of the act is kept then.

    The row must outlive every copy of the challenge or nonce: `expires_at` is not before that one's own expiry.
    """
    return Step(
        _SPEND,
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
        taken=lambda: AlreadySpent(f"This {purpose} was used before."),
    )


def find(c: Connection, id: bytes) -> Spent | None:
    """What became of `id`, if it was spent. Rows past their `expires_at` are found until they are purged."""
    row = _FIND.one_or_none(c, {"wanted": id})
    return None if row is None else spent_of(row)


def spent_of(row: Sequence[Any]) -> Spent:
    """A row of the table, in the order of its columns; for this room only."""
    spent_id, purpose, request_digest, proof_digest, answer, device_id, serial, at, expires_at = row
    return Spent(
        id=spent_id,
        purpose=purpose,
        request_digest=request_digest,
        proof_digest=proof_digest,
        answer=answer,
        device_id=None if device_id is None else DeviceId(device_id),
        serial=None if serial is None else Serial.parse(serial),
        at=at,
        expires_at=expires_at,
    )


def purge(c: Connection, *, before: int, limit: int) -> int:
    """Forgets what expired before this time, at most `limit` rows; returns how many went."""
    # Rows that another process forgets at this moment are left to it.
    old = select(spends.c.id).where(spends.c.expires_at < before).limit(limit).with_for_update(skip_locked=True)
    return c.execute(delete(spends).where(spends.c.id.in_(old))).rowcount
