"""Which connections must end now: what let each in is asked again whenever this edge's bundle changes.

A connection was let in on three grounds: its device stands, its credential was genuine, policy gave it its subjects.
When one of these falls, the connection is ended, not only refused the next time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from attestd.errors import AttestdError
from attestd_edge.nats.ledger import Connection, Known, Ledger
from attestd_edge.nats.login import ask_policy
from attestd_edge.nats.settings import NatsSettings
from attestd_edge.views import View

EXPIRED: Final = "login-expired"


@dataclass(frozen=True, slots=True)
class Ending:
    """A connection that must end, and why: an error's slug, or what else changed."""

    connection: Connection
    why: str


def endings(ledger: Ledger, settings: NatsSettings, view: View, before: View | None, now: datetime) -> Iterator[Ending]:
    """Those that may not last under `view`; `before` is the last one looked at, None at the start."""
    # Other authorities or token keys: what was proven under the old ones is proven anew at the next login.
    resigned = before is not None and view.proofs is not before.proofs
    ruled = before is None or view.decisions is not before.decisions
    for connection, known in ledger.connections():
        why = _why(settings, view, connection, known, now, ruled=ruled)
        if why is not None or resigned:
            yield Ending(connection, why or "authorities-changed")


def _why(
    settings: NatsSettings, view: View, connection: Connection, known: Known, now: datetime, *, ruled: bool
) -> str | None:
    try:
        identity = known.stands(view)
        if ruled and ask_policy(view, settings.grants, identity, now)[1] != connection.permissions:
            return "permissions-changed"
    except AttestdError as error:
        return type(error).slug()
    return None


def ended(ledger: Ledger, now: datetime) -> Iterator[Ending]:
    """Those past their end, by this edge's time, which never runs backwards."""
    for connection, _ in ledger.connections():
        if now >= connection.until:
            yield Ending(connection, EXPIRED)
