"""The audit trail: who did what to whom, written in the transaction that did it. Times are unix seconds.

A row never holds a secret or an EK hash (a lifelong tracker); devices are named by their ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from attestd.registry.tables import audit

MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One act. `number` tells records apart and orders them as they were written."""

    number: int
    at: int
    actor: str
    act: str
    subject: str
    request_id: str | None
    detail: Mapping[str, Any]
    leaf: int | None = None


_APPEND = insert(audit)


def append(
    c: Connection, *, at: int, actor: str, act: str, subject: str, request_id: str | None, detail: Mapping[str, Any]
) -> None:
    """Records an act in the transaction that does it: neither is kept without the other. `detail` is JSON."""
    c.execute(
        _APPEND,
        {"at": at, "actor": actor, "act": act, "subject": subject, "request_id": request_id, "detail": dict(detail)},
    )


def page(
    c: Connection,
    *,
    subject: str | None = None,
    before: int | None = None,
    after: int | None = None,
    limit: int = 100,
) -> list[AuditRecord]:
    """Records, the newest first; the last one's `number` is the next page's `before`.

    With `after` the oldest first, from there on, to follow the trail. `limit` is at most 1000.
    """
    wanted = [] if subject is None else [audit.c.subject == subject]
    if before is not None:
        wanted.append(audit.c.number < before)
    if after is not None:
        wanted.append(audit.c.number > after)
    order = audit.c.number.desc() if after is None else audit.c.number.asc()
    statement = select(audit).where(*wanted).order_by(order).limit(min(limit, MAX_PAGE))
    return [AuditRecord(**row._mapping) for row in c.execute(statement)]
