"""What every door works with: the service (`Service`), and the one request that is being answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter
from typing import TYPE_CHECKING, cast

from flask import g

from attestd.callers import Caller
from attestd.errors import AttestdError
from attestd.operations import Act
from attestd.web.service import Service

if TYPE_CHECKING:
    from attestd.web.access import Door

__all__ = ["Exchange", "NoCaller", "Service", "exchange"]


class NoCaller(AttestdError):
    """A view asked for a caller on a route that has none"""


@dataclass(slots=True)
class Exchange:
    """One request and what becomes of it. The clock is read once, so that all of an answer speaks of one moment."""

    request_id: str
    now: datetime
    source: str  # the peer's address
    started: float  # perf_counter's seconds
    door: Door | None = None
    body: bytes = b""
    signed_by: Caller | None = None
    device: str | None = None  # the device that a device's request names
    problem: AttestdError | None = None
    cause: BaseException | None = None
    release: Callable[[], None] | None = None  # gives the permit for a large body back

    @property
    def caller(self) -> Caller:
        """The operator or proxy that signed this request; `access` admitted it."""
        if self.signed_by is None:
            raise NoCaller
        return self.signed_by

    @property
    def milliseconds(self) -> float:
        return (perf_counter() - self.started) * 1000

    def act(self, reason: str = "") -> Act:
        """What the caller does now, for the audit row."""
        caller = self.caller
        return Act(actor=caller.actor, now=self.now, request_id=self.request_id, reason=reason, session=caller.session)


def exchange() -> Exchange:
    """The request that this thread answers."""
    return cast("Exchange", g.exchange)
