"""The service's audit trail as an edge sees it: its newest head, kept, so that history can't be rewritten unseen
(docs/protocol.md, section 8).

Each bundle carries a signed head. An edge keeps the last one, and uses a bundle only if the service proves that the
bundle's head contains the kept one. Who owns the service's database, and even its keys, can then change nothing that
was sealed before without every edge refusing what comes next. Only a restore from a backup begins a new log, in a new
epoch: that is accepted, logged and counted, and the old log's last head is kept as evidence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

from attestd.credentials.bundle import Bundle
from attestd.credentials.hashtree import HASH
from attestd.credentials.transparency import MAX_HEAD, Head, needs_proof, verify_head, verify_successor
from attestd.errors import InputTooLarge, MalformedInput, Misconfigured, Unauthenticated, Unavailable
from attestd.ids import TrustDomain
from attestd.protocol.encoding import Members, b64encode, read_object, write_object
from attestd_edge.files import FileUnreadable, read_file, replace_file

HEAD_FILE = "audit-head.json"
_MAX_FILE = 16 * 1024  # octets

logger = logging.getLogger("attestd_edge.history")

# Asks the service for the consistency proof of (log, first size, second size).
Prove = Callable[[int, int, int], Sequence[bytes]]


class HeadUnreadable(Misconfigured):
    """The record of the audit trail's last head is damaged"""

    remedy = (
        "Restore audit-head.json in the state folder. Removing it lets the edge accept the current head without proof "
        "that it contains the last one."
    )


class HeadMissing(Unauthenticated):
    """The bundle carries no head of the audit trail, and earlier ones did"""

    remedy = "Run the service at the version that it had before, or a later one."


class HeadOfAnotherEpoch(Unauthenticated):
    """The bundle's audit head is of another epoch's log"""

    remedy = "A log changes with the epoch only; look at the service with `attestd audit verify`."


class ProofUnavailable(Unavailable):
    """There is nobody to prove that history was kept"""


@dataclass(frozen=True, slots=True)
class KnownHead:
    """The last head that was in use here, and how often a new log began."""

    head: Head
    jws: str = field(repr=False)
    logs_begun: int = 0

    @classmethod
    def read(cls, path: Path, trust_domain: TrustDomain) -> Self | None:
        """What is on disk; None if there is nothing. Raises HeadUnreadable: a damaged record is not an absent one."""
        if not path.exists():
            return None
        try:
            members = Members(read_object(read_file(path, limit=_MAX_FILE), limit=_MAX_FILE, name="head"), "head")
            members.version()
            found = cls(
                Head(
                    trust_domain,
                    members.integer("log"),
                    members.integer("size"),
                    members.octets("root", limit=HASH, least=HASH),
                    members.integer("time"),
                ),
                members.text("jws", limit=MAX_HEAD),
                members.integer("logs_begun"),
            )
            members.done()
        except (MalformedInput, InputTooLarge, FileUnreadable, OSError) as error:
            raise HeadUnreadable(f"{path} can't be read: {error}") from error
        return found

    def to_bytes(self) -> bytes:
        return write_object(
            {
                "v": 1,
                "log": self.head.log,
                "size": self.head.size,
                "root": b64encode(self.head.root),
                "time": self.head.at,
                "jws": self.jws,
                "logs_begun": self.logs_begun,
            }
        )


class History:
    """One state folder's record. The process that owns the folder follows; the others may look."""

    def __init__(self, folder: Path, *, roots: Sequence[bytes], trust_domain: TrustDomain) -> None:
        """`roots`: the pinned roots (DER). Raises HeadUnreadable."""
        self._folder = folder
        self.roots = roots
        self._trust_domain = trust_domain
        self.refusals = 0  # since the start
        self.known = self._read()

    def follow(self, bundle: Bundle, prove: Prove | None, now: datetime) -> KnownHead | None:
        """The bundle's head, proven to go on from the one that is kept; None if there is none and never was.

        Raises HeadMissing, HeadOfAnotherEpoch, LogChanged, HistoryRewritten, TreeProofMalformed, HeadUnreadable, and
        what `verify_head` and `prove` raise.
        """
        try:
            return self._follow(bundle, prove, now)
        except Unauthenticated:
            self.refusals += 1
            raise

    def _follow(self, bundle: Bundle, prove: Prove | None, now: datetime) -> KnownHead | None:
        before = self.known = self._read()  # another process may have followed meanwhile
        # 1. There is one, genuine, and of the bundle's epoch.
        if bundle.audit_head is None:
            if before is not None:
                raise HeadMissing(expected=f"log {before.head.log}, at least {before.head.size} entries")
            return None
        head = verify_head(bundle.audit_head, roots=self.roots, trust_domain=self._trust_domain, now=now).head
        if head.log != bundle.epoch:
            raise HeadOfAnotherEpoch(seen=f"log {head.log}", expected=f"log {bundle.epoch}")
        if before is None:
            return KnownHead(head, bundle.audit_head)
        # 2. It contains what was seen before, or a restore began a new log.
        if not needs_proof(before.head, head):
            return KnownHead(head, bundle.audit_head, before.logs_begun + 1)
        path: Sequence[bytes] = ()
        if 0 < before.head.size < head.size:
            if prove is None:
                raise ProofUnavailable
            path = prove(head.log, before.head.size, head.size)
        verify_successor(before.head, head, path)
        return KnownHead(head, bundle.audit_head, before.logs_begun)

    def keep(self, known: KnownHead) -> None:
        """Puts it on the disk, synced; the last head of a log that ended stays beside it. Raises FileUnwritable."""
        before = self.known
        if before is not None and before.head.log != known.head.log:
            replace_file(self._folder / f"audit-head-{before.head.log}.json", before.to_bytes(), mode=0o640)
            logger.warning(
                "the service began a new audit log, as after a restore: log %d with %d entries; the last one was log "
                "%d with %d entries. If nobody restored it, its history is being rewritten",
                known.head.log,
                known.head.size,
                before.head.log,
                before.head.size,
            )
        replace_file(self._folder / HEAD_FILE, known.to_bytes(), mode=0o640)
        self.known = known

    def _read(self) -> KnownHead | None:
        return KnownHead.read(self._folder / HEAD_FILE, self._trust_domain)
