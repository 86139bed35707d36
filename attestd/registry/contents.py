"""Octets that many rows speak of, kept once and compressed, by their SHA-256: event logs, certificates, manifests.

Content is written before the act that speaks of it, by itself: it is the same whoever writes it, and nobody's until a
row names it. `at` says when it was last kept, so that what nothing names any more can be forgotten after a while.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from typing import Final

from sqlalchemy import Connection, bindparam, delete, exists, insert, or_, select, update

from attestd.errors import Conflict, NotFound
from attestd.registry.acts import Step
from attestd.registry.engine import Registry
from attestd.registry.statements import Statement
from attestd.registry.tables import attestation_runs, contents, evidence

EVENT_LOG: Final = "eventlog"
CERTIFICATE: Final = "certificate"
REFERENCES: Final = "references"
ADVISORIES: Final = "advisories"

MAX_CONTENT: Final = 16 * 1024 * 1024  # octets
FORGET_AFTER: Final = 24 * 3600  # seconds that content nothing names stays: far longer than `_KNOWN_FOR`
_KNOWN_FOR: Final = 600  # seconds for which a process does not write again what it wrote
_REMEMBERED: Final = 4096  # digests
_LEVEL: Final = 1  # a hundredth more room than the default's for logs and lists, in half of its time


class ContentGone(NotFound):
    """What this evidence speaks of is not kept any more"""

    remedy = "Have the device attest again: `attestd devices demand`."


class _AlreadyThere(Conflict):
    """This content was kept before"""


_TOUCH = Statement(
    update(contents)
    .where(contents.c.sha256 == bindparam("wanted"))
    .values(at=bindparam("now", type_=contents.c.at.type))
)
_INSERT = Statement(insert(contents).inline(), columns=contents.c.keys())
_FIND = Statement(select(contents.c.content).where(contents.c.sha256 == bindparam("wanted")))


class Contents:
    """One process's way to keep content. Any number of threads."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._kept: dict[bytes, int] = {}

    def keep(self, kind: str, content: bytes, *, now: int) -> bytes:
        """The content's SHA-256, once it is on the disk. `now` is in unix seconds. Raises acting()'s errors."""
        digest = hashlib.sha256(content).digest()
        if self._is_kept(digest, now):
            return digest
        values = {"sha256": digest, "kind": kind, "content": packed(content), "at": now}
        try:
            self._registry.act(Step(_INSERT, values, taken=_AlreadyThere))
        except _AlreadyThere:
            self._registry.act(Step(_TOUCH, {"wanted": digest, "now": now}))
        self._note(digest, now)
        return digest

    def find(self, sha256: bytes) -> bytes:
        """The content. Raises ContentGone."""
        row = self._registry.ask(_FIND, {"wanted": sha256})
        if row is None:
            raise ContentGone(seen=sha256.hex())
        return unpacked(row.content)

    def _is_kept(self, digest: bytes, now: int) -> bool:
        with self._lock:
            return 0 <= now - self._kept.get(digest, -_KNOWN_FOR) < _KNOWN_FOR

    def _note(self, digest: bytes, now: int) -> None:
        with self._lock:
            if len(self._kept) >= _REMEMBERED:
                self._kept.clear()
            self._kept[digest] = now


def purge(c: Connection, *, now: int, limit: int) -> int:
    """Forgets event logs that no evidence names, some time after they were last kept. Returns how many went."""
    named = or_(
        exists().where(evidence.c.boot_log == contents.c.sha256),
        exists().where(attestation_runs.c.boot_log == contents.c.sha256),
    )
    old = (
        select(contents.c.sha256)
        .where(contents.c.kind == EVENT_LOG, contents.c.at < now - FORGET_AFTER, ~named)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return c.execute(delete(contents).where(contents.c.sha256.in_(old))).rowcount


def packed(content: bytes) -> bytes:
    """Content as it is stored."""
    return zlib.compress(content, _LEVEL)


def unpacked(stored: bytes, limit: int = MAX_CONTENT) -> bytes:
    """What was stored, within bounds. Raises zlib.error or ValueError for what was not stored by us."""
    reader = zlib.decompressobj()
    data = reader.decompress(stored, limit)
    if reader.unconsumed_tail or not reader.eof:
        raise ValueError("stored content is larger than it can have been")
    return data
