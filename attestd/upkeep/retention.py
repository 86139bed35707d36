"""What the service forgets by itself, so that its database stays as large as its fleet, not as old as it.

| what | when it goes | setting |
|---|---|---|
| spent challenges and nonces, with their stored answers | once nobody can present them again | – |
| certificates and their revocations | some time after their end | retention.certificates |
| requests that nobody decided on | once they are old | enrollment.pending_lifetime |
| what watched manifests said of devices | once they count no longer | – |
| event logs that no kept evidence names | a day after they were last sent | – |
| what devices' attestations came to | some time after it changed | retention.attestations |
| edges' receipts, not where their chains stand | some time after they came | retention.receipts |
| what edges decided, by hour | some days later | retention.edge_counts |
| sessions of the console, and invitations | some time after their end | retention.sessions |
| which calls operators sent once | a week later | – |
| audit rows, not their leaf hashes | into files, once they are old | audit.retention |

Bundles are forgotten as new ones are signed. Devices, blocked EKs, operators, passkeys, proxies and policies stay: they
are few, and what they say still counts. A round is many small acts, so that requests are served in between; any number
of services on one database may run rounds at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from attestd.auditing.archives import FOLDER, archive_audit
from attestd.config import Settings
from attestd.errors import AttestdError
from attestd.registry import (
    admission,
    attestations,
    contents,
    edges,
    invitations,
    issued,
    once,
    receipts,
    references,
    sessions,
    spends,
)
from attestd.registry.engine import Connection, Registry

BATCH: Final = 250  # rows that one act takes
ROUNDS: Final = 400  # acts of one kind in one round; what is left is the next round's
_ARCHIVED_AT_ONCE: Final = 2000  # rows in one archive file
_PAUSE: Final = 0.005  # seconds between two acts: others come first

_Forget = Callable[[Connection, int], int]


@dataclass(frozen=True, slots=True)
class Swept:
    """How many rows went. `errors`: what kept some from going; the next round tries again."""

    spends: int
    certificates: int
    revocations: int
    requests: int
    watched: int
    eventlogs: int
    attestations: int
    receipts: int
    edge_counts: int
    sessions: int
    invitations: int
    once: int
    archived: int
    errors: tuple[AttestdError, ...]


def sweep(registry: Registry, settings: Settings, *, now: datetime, pause: Callable[[float], object]) -> Swept:
    """One round. `pause` waits for so many seconds, or returns at once when the service ends. Raises nothing."""
    at = int(now.timestamp())
    ended = int((now - settings.retention.certificates).timestamp())
    changed = int((now - settings.retention.attestations).timestamp())
    delivered = int((now - settings.retention.receipts).timestamp())
    counted = int((now - settings.retention.edge_counts).timestamp())
    signed_out = int((now - settings.retention.sessions).timestamp())
    undecided = int((now - settings.enrollment.pending_lifetime).timestamp())
    errors: list[AttestdError] = []

    def forget(kind: _Forget) -> int:
        """Acts until one takes less than a batch."""
        gone = 0
        try:
            for _ in range(ROUNDS):
                with registry.acting() as c:
                    taken = kind(c, BATCH)
                gone += taken
                if taken < BATCH:
                    break
                pause(_PAUSE)
        except AttestdError as error:
            errors.append(error)
        return gone

    return Swept(
        spends=forget(lambda c, most: spends.purge(c, before=at, limit=most)),
        certificates=forget(lambda c, most: issued.purge(c, before=ended, limit=most)),
        revocations=forget(lambda c, most: issued.purge_revocations(c, before=ended, limit=most)),
        requests=forget(lambda c, _: admission.purge_pending(c, older_than=undecided)),  # few, by max_pending
        watched=forget(lambda c, most: references.purge_watched(c, now=at, limit=most)),
        eventlogs=forget(lambda c, most: contents.purge(c, now=at, limit=most)),
        attestations=forget(lambda c, most: attestations.purge(c, before=changed, limit=most)),
        receipts=forget(lambda c, most: receipts.purge(c, before=delivered, limit=most)),
        edge_counts=forget(lambda c, most: edges.purge(c, before=counted, limit=most)),
        sessions=forget(lambda c, most: sessions.purge(c, before=signed_out, limit=most)),
        invitations=forget(lambda c, most: invitations.purge(c, before=signed_out, limit=most)),
        once=forget(lambda c, most: once.purge(c, before=at - once.KEPT, limit=most)),
        archived=_archive(registry, settings, now, pause, errors),
        errors=tuple(errors),
    )


def _archive(
    registry: Registry,
    settings: Settings,
    now: datetime,
    pause: Callable[[float], object],
    errors: list[AttestdError],
) -> int:
    """Old audit rows, some files at a time."""
    archived = 0
    try:
        for _ in range(ROUNDS):
            taken = archive_audit(registry, settings.dir / FOLDER, now, settings.audit.retention, _ARCHIVED_AT_ONCE)
            archived += taken
            if taken < _ARCHIVED_AT_ONCE:
                break
            pause(_PAUSE)
    except AttestdError as error:
        errors.append(error)
    return archived
