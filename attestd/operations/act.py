"""Who acts, and the audit row that says so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from attestd.registry import audit
from attestd.registry.engine import Connection


@dataclass(frozen=True, slots=True)
class Act:
    """Who acts, when, in which request, and why."""

    actor: str
    now: datetime
    request_id: str
    reason: str = ""

    @property
    def at(self) -> int:
        return int(self.now.timestamp())

    def note(self, c: Connection, act: str, subject: str, **detail: Any) -> None:
        """The audit row, in the transaction that acts."""
        if self.reason:
            detail["reason"] = self.reason
        audit.append(
            c, at=self.at, actor=self.actor, act=act, subject=subject, request_id=self.request_id, detail=detail
        )
