"""Sealing rows into the tree, signing its heads, proving what they cover.

Any number of processes may seal: a round computes and signs first, holding no transaction, and is kept only if the
tree is still the one that it began with. Before anything is added, what is there must be what the newest head signed,
and must contain what this process saw before: a tree that was tampered with is not signed again.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization

from attestd.auditing.archives import find_archived
from attestd.ca.bundles import sign_head
from attestd.ca.hierarchy import Hierarchy
from attestd.credentials.hashtree import HistoryRewritten, consistency_path, inclusion_path, leaf_hash, tree_root
from attestd.credentials.transparency import (
    Head,
    InclusionProof,
    VerifiedHead,
    entry_octets,
    verify_head,
    verify_successor,
)
from attestd.errors import AttestdError, Conflict, Unavailable
from attestd.registry import audit, audit_tree, revision
from attestd.registry.audit import AuditRecord, AuditRowUnknown
from attestd.registry.audit_tree import StoredHead
from attestd.registry.engine import Connection, Registry
from attestd.registry.tiles import Place, TreeDamaged, grown, nodes_in

logger = logging.getLogger("attestd.auditing")

BATCH = 2048  # rows sealed in one transaction
_KEPT_PROOFS = 256  # edges that are up to date all ask for the same one


class NotSealed(Unavailable):
    """The audit trail has no head yet"""


class LogElsewhere(Conflict):
    """The service's audit log is not the one that was asked for"""

    remedy = "Fetch the newest bundle; after a restore from a backup a new log begins."


@dataclass(frozen=True, slots=True)
class Opened:
    """One row with the newest head and its path to it, if it is sealed. `trouble`: why the tree does not prove it."""

    row: AuditRecord
    archived: bool
    head: Head | None = None
    path: tuple[bytes, ...] = ()
    trouble: str = ""


class AuditLog:
    """One process's way to the tree. Safe from several threads."""

    def __init__(self, registry: Registry, hierarchy: Hierarchy, folder: Path) -> None:
        """`folder`: where archived rows are, `<dir>/audit`."""
        self._registry = registry
        self._hierarchy = hierarchy
        self.folder = folder
        self._lock = threading.Lock()
        self._newest: VerifiedHead | None = None  # the newest one that this process has seen and found in the tree
        self._proofs: OrderedDict[tuple[int, int, int], tuple[bytes, ...]] = OrderedDict()
        self._trouble = ""

    # ---- Sealing ----------------------------------------------------------------------------------------------

    def seal(self, now: datetime) -> int:
        """Seals every committed row that has no leaf, and signs a head if the tree grew or a new log begins.

        Returns how many rows. Raises TreeDamaged, and the registry's errors.
        """
        total = 0
        with self._lock:
            while (count := self._seal_some(now)) == BATCH:
                total += count
        return total + count

    def _seal_some(self, now: datetime) -> int:
        # 1. What there is, of one moment.
        with self._registry.reading() as c:
            log = revision.epoch(c)
            size = audit_tree.size(c)
            last = audit_tree.read_last_tiles(c, size)
            self._require_intact(c, log, size, last)
            rows = audit.unsealed(c, limit=BATCH)
        newest = None if self._newest is None else self._newest.head
        if not rows and newest is not None and newest.log == log:
            return 0
        # 2. What there will be, signed.
        changed = grown(last, size, [leaf_hash(entry_octets(row.entry)) for row in rows])
        root = _root(last | changed, size + len(rows))
        head = Head(self._hierarchy.trust_domain, log, size + len(rows), root, int(now.timestamp()))
        signer = self._hierarchy.audit_signer
        jws = sign_head(head, signer, self._hierarchy.crosses_above(signer))
        # 3. Kept, unless another process was faster, or a restore began a new log meanwhile.
        try:
            with self._registry.acting() as c:
                if not audit_tree.grow(c, known=size, moved=head.size):
                    return 0
                if revision.epoch(c) != log or audit_tree.newest_head(c) != self._stored():
                    raise LogElsewhere  # noqa: TRY301 - leaving the block undoes what `grow` did
                audit.seal(c, [row.number for row in rows], first=size)
                audit_tree.put_tiles(c, changed)
                audit_tree.store_head(c, StoredHead(log, head.size, head.at, jws))
        except LogElsewhere:
            return 0
        self._newest = VerifiedHead(head, jws)
        return len(rows)

    def _stored(self) -> StoredHead | None:
        if self._newest is None:
            return None
        head = self._newest.head
        return StoredHead(head.log, head.size, head.at, self._newest.jws)

    def _require_intact(self, c: Connection, log: int, size: int, last: Mapping[Place, bytes]) -> None:
        """Takes up the newest stored head, if the tree is what it says and contains what was seen here before.

        Raises TreeDamaged.
        """
        stored = audit_tree.newest_head(c)
        if stored is None:
            if size or self._newest is not None:
                raise TreeDamaged("The heads have gone.", seen=f"{size} leaves", expected="a head for them")
            return
        known = self._read(stored)
        head = known.head
        if head.size != size:
            raise TreeDamaged("The tree is not as large as its newest head says.", seen=size, expected=head.size)
        if _root(last, size) != head.root:
            raise TreeDamaged("The tree is not the one that its newest head signed.", expected=head.root.hex())
        if self._newest is not None and known is not self._newest and log == self._newest.head.log:
            before = self._newest.head
            path = consistency_path(audit_tree.nodes(c), before.size, size) if before.size <= size else ()
            try:
                verify_successor(before, head, path)
            except HistoryRewritten as error:
                raise TreeDamaged(f"What was sealed before has changed: {error.detail}.") from error
        self._newest = known

    def _read(self, stored: StoredHead) -> VerifiedHead:
        """Verified, unless it is the one that was verified last. Raises TreeDamaged."""
        known = self._newest
        if known is None or known.jws != stored.jws:
            try:
                known = verify_head(stored.jws, roots=self._roots, trust_domain=self._hierarchy.trust_domain, now=None)
            except AttestdError as error:
                raise TreeDamaged(f"The newest head is not genuine: {error}") from error
        head = known.head
        if (head.log, head.size, head.at) != (stored.log, stored.size, stored.at):
            raise TreeDamaged("The newest head is not the one that its row says.", seen=f"{stored.log}.{stored.size}")
        return known

    def read_head(self, jws: str) -> Head:
        """The head in `jws`, which this trust domain signed at any time. Raises what `verify_head` raises."""
        return verify_head(jws, roots=self._roots, trust_domain=self._hierarchy.trust_domain, now=None).head

    @property
    def _roots(self) -> list[bytes]:
        return [root.public_bytes(serialization.Encoding.DER) for root in self._hierarchy.every_root]

    # ---- Heads and proofs -------------------------------------------------------------------------------------

    def head(self, now: datetime) -> VerifiedHead:
        """The newest head of this epoch's log; seals what waits first.

        A damaged tree is no reason to keep bundles, and with them quarantines, from edges: the newest genuine head then
        goes on, and the trouble into the log. Raises NotSealed if there is none, and the registry's errors.
        """
        try:
            self.seal(now)
            self._trouble = ""
        except TreeDamaged as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                logger.critical("the audit trail is not sealed: %s", error)
        with self._registry.reading() as c:
            stored, epoch = audit_tree.newest_head(c), revision.epoch(c)
        if stored is None or stored.log != epoch:
            raise NotSealed(seen=self._trouble or None)
        return self._read(stored)

    def inclusion(self, number: int, now: datetime) -> InclusionProof:
        """The proof that a row is under the newest head; a row that waits is sealed first.

        Raises AuditRowUnknown, TreeDamaged, and the archive's errors.
        """
        self.seal(now)
        with self._registry.reading() as c:
            stored = audit_tree.newest_head(c)
            row = self._row(c, number)
            if stored is None or row.leaf is None:
                raise NotSealed(f"Row {number} is not sealed yet.")
            path = inclusion_path(audit_tree.nodes(c), row.leaf, stored.size)
        return InclusionProof(
            entry=row.entry,
            leaf=row.leaf,
            path=path,
            jws=stored.jws,
            root_sha256=self._hierarchy.root.fingerprint(hashes.SHA256()),
        )

    def opened(self, number: int, now: datetime) -> Opened:
        """One row, and its place in the tree; a row that waits is sealed first. From a damaged tree the row alone.

        Raises AuditRowUnknown and the archive's errors.
        """
        with suppress(TreeDamaged):
            self.seal(now)
        with self._registry.reading() as c:
            row = self._row(c, number)
            archived = row.leaf is not None and row.leaf < audit_tree.archived(c)
            stored = audit_tree.newest_head(c)
            if row.leaf is None or stored is None or row.leaf >= stored.size:
                return Opened(row, archived)
            try:
                head = self._read(stored).head
                path = inclusion_path(audit_tree.nodes(c), row.leaf, head.size)
            except TreeDamaged as error:
                return Opened(row, archived, trouble=str(error))
        return Opened(row, archived, head, path)

    def _row(self, c: Connection, number: int) -> AuditRecord:
        try:
            return audit.by_number(c, number)
        except AuditRowUnknown:
            found = find_archived(self.folder, audit_tree.archives(c, holding=number), number)
            if found is None:
                raise
            return found

    def consistency(self, log: int | None, first: int, second: int) -> tuple[bytes, ...]:
        """The proof that the tree of `second` leaves begins with that of `first`; `log`: which one, if it matters.

        Raises LogElsewhere.
        """
        with self._registry.reading() as c:
            newest = audit_tree.newest_head(c)
            if newest is None or (log is not None and newest.log != log) or not first <= second <= newest.size:
                here = "no log" if newest is None else f"log {newest.log} with {newest.size} leaves"
                raise LogElsewhere(seen=f"log {log}, {first} to {second}", expected=here)
            key = (newest.log, first, second)
            if (known := self._proofs.get(key)) is not None:
                return known
            path = consistency_path(audit_tree.nodes(c), first, second)
        self._proofs[key] = path
        while len(self._proofs) > _KEPT_PROOFS:
            self._proofs.popitem(last=False)
        return path


def _root(tiles: Mapping[Place, bytes], size: int) -> bytes:
    """A tree's root, out of its last tiles."""
    return tree_root(nodes_in(lambda level, number: tiles.get((level, number), b"")), size)
