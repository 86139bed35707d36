"""Who acts, and the audit row that says so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from attestd.registry import audit
from attestd.registry.engine import Connection


@dataclass(frozen=True, slots=True)
class Act:
    """Who acts, when, in which request, why, and in which of the console's sessions, if in one."""

    actor: str
    now: datetime
    request_id: str
    reason: str = ""
    session: str = ""

    @property
    def at(self) -> int:
        return int(self.now.timestamp())

    @property
    def said(self) -> dict[str, str]:
        """What every row of this act says beside its own detail."""
        return {name: value for name, value in (("reason", self.reason), ("session", self.session)) if value}

    def note(self, c: Connection, act: str, subject: str, **detail: Any) -> None:
        """The audit row, in the transaction that acts."""
        detail |= self.said
        audit.append(
            c, at=self.at, actor=self.actor, act=act, subject=subject, request_id=self.request_id, detail=detail
        )
