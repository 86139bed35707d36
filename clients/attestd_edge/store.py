"""The bundle and the floors on disk: what an edge has seen, it never unlearns (docs/protocol.md, section 5).

The order of `adopt` is the point of this module:
1. the bundle is verified against the pinned roots and the floor, its audit head against the last one (`history`);
2. head, bundle, the roots that it leads to and floor are on disk, synced;
3. only then does anybody decide with it.
A crash between any two of these leaves a state in which nothing older is accepted than what was ever decided with.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from attestd.credentials.bundle import Bundle, BundleRolledBack, verify_copy
from attestd.credentials.copies import MAX_COPY, Copy, Delta, DeltaMisfit
from attestd.errors import InputTooLarge, MalformedInput, Misconfigured, Unavailable
from attestd.ids import TrustDomain
from attestd.protocol.encoding import Members, read_object, write_object
from attestd_edge.clock import EdgeClock
from attestd_edge.files import FileUnreadable, read_file, replace_file
from attestd_edge.history import History, Prove
from attestd_edge.roots import PinnedRoots
from attestd_edge.views import BundleUnusable, View

BUNDLE_FILE = "bundle.json"
FLOOR_FILE = "floor.json"
LOCK_FILE = "refresh.lock"
FLOOR_INTERVAL = timedelta(seconds=60)  # how much of the time's floor a power cut may cost
_MAX_FLOOR = 1024  # octets


class FloorUnreadable(Misconfigured):
    """The record of what this edge has seen is damaged"""

    remedy = (
        "Restore floor.json in the state folder. Removing it lets the edge accept the current bundle anew, and an old "
        "one too, if somebody replays it."
    )


class NoBundle(Unavailable):
    """This edge has no bundle yet"""

    remedy = "Let the edge reach the service once; it keeps what it fetches."


@dataclass(frozen=True, slots=True)
class Floor:
    """The highest epoch and version ever used here, and a time that has passed."""

    epoch: int
    version: int
    time: datetime

    @classmethod
    def read(cls, path: Path) -> Self:
        """What is on disk; zero if there is nothing. Raises FloorUnreadable: a damaged floor is not a low one."""
        if not path.exists():
            return cls(0, 0, datetime.fromtimestamp(0, UTC))
        try:
            members = Members(read_object(read_file(path, limit=_MAX_FLOOR), limit=_MAX_FLOOR, name="floor"), "floor")
            members.version()
            floor = cls(
                members.integer("epoch"),
                members.integer("version"),
                datetime.fromtimestamp(members.integer("time"), UTC),
            )
            members.done()
        except (MalformedInput, InputTooLarge, FileUnreadable, ValueError, OverflowError, OSError) as error:
            raise FloorUnreadable(f"{path} can't be read: {error}") from error
        return floor

    def to_bytes(self) -> bytes:
        return write_object({"v": 1, "epoch": self.epoch, "version": self.version, "time": int(self.time.timestamp())})


class BundleStore:
    """One state folder. Several processes may open it; the one that holds the lock writes, the others read along."""

    def __init__(self, folder: Path, *, roots: Sequence[bytes], trust_domain: TrustDomain, clock: EdgeClock) -> None:
        """`roots`: the pinned roots (DER). Raises FloorUnreadable, HeadUnreadable."""
        self.folder = folder
        self.clock = clock
        self._roots = PinnedRoots(folder, roots)
        self._trust_domain = trust_domain
        self._lock = threading.RLock()
        self._floor = Floor.read(folder / FLOOR_FILE)
        self.history = History(folder, roots=self._roots.current, trust_domain=trust_domain)
        self._view: View | None = None
        self._unusable: str | None = None
        self._mark: tuple[int, int, int] | None = None
        self._copy: Copy | None = None  # what `_view` was made of
        self._owner: int | None = None
        clock.raise_to(self._floor.time)

    @property
    def roots(self) -> tuple[bytes, ...]:
        """The roots that count here now (DER)."""
        return self._roots.current

    @property
    def floor(self) -> Floor:
        return self._floor

    @property
    def name(self) -> str | None:
        """Epoch and version of the bundle in use, as deltas and ETags name it; None if there is none."""
        view = self._view
        return None if view is None or self._unusable is not None else view.bundle.name

    def view(self) -> View:
        """What to decide with. Raises NoBundle, or BundleUnusable for one that this edge does not understand."""
        if self._unusable is not None:
            raise BundleUnusable(self._unusable)
        if self._view is None:
            raise NoBundle
        return self._view

    def load(self) -> bool:
        """Takes up the bundle on disk if it is another than the one in use: at the start, and beside a process that
        refreshes. Returns whether there was a new one. Raises what `verify_copy` raises."""
        path = self.folder / BUNDLE_FILE
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        mark = (found.st_ino, found.st_mtime_ns, found.st_size)
        with self._lock:
            if mark == self._mark:
                return False
            self._mark = mark  # read once, whatever it turns out to be: it does not get better by reading it again
            copy = Copy.read(read_file(path, limit=MAX_COPY))
            self._raise_floor(Floor.read(self.folder / FLOOR_FILE))
            self._roots.look()
            self._use(self._verify(copy), copy)
        return True

    def adopt(self, content: bytes, *, prove: Prove | None = None) -> bool:
        """A bundle just fetched; `prove` asks the service for a consistency proof. Returns whether it is a new one.

        Raises what `Copy.read`, `verify_copy` and `History.follow` raise, FileUnwritable (then nothing has changed), or
        BundleUnusable (then nothing crosses until another comes).
        """
        return self._adopt(Copy.read(content), prove)

    def adopt_delta(self, content: bytes, *, prove: Prove | None = None) -> bool:
        """What is different from the bundle in use. Raises DeltaMisfit for another one's, and what `adopt` raises."""
        delta = Delta.read(content)
        with self._lock:
            if self._copy is None or self._view is None:
                raise DeltaMisfit(expected="a whole bundle at first")
            bundle = self._view.bundle
            if delta.base != (bundle.epoch, bundle.version):
                raise DeltaMisfit(seen=f"a delta from {delta.base[0]}.{delta.base[1]}", expected=bundle.name)
            return self._adopt(self._copy.after(delta), prove)

    def _adopt(self, copy: Copy, prove: Prove | None) -> bool:
        with self._lock:
            if self._copy is not None and copy.statement == self._copy.statement:
                return False
            # 1. Genuine, ours, not older than anything used before, and with all of the history that was.
            bundle = self._verify(copy)
            roots = bundle.succeed(self.roots, self.clock.now())
            self.history.roots = tuple({*self.roots, *roots})
            head = self.history.follow(bundle, prove, self.clock.now())
            # 2. On disk. The head before the bundle that it came with; the floor last: a floor without its bundle would
            # leave a cut-off edge with nothing.
            if head is not None and head != self.history.known:
                self.history.keep(head)
            replace_file(self.folder / BUNDLE_FILE, copy.to_bytes(), mode=0o640)
            # After the bundle, which leads to them from where we were; the one before may not hold under the new ones.
            self._roots.keep(roots)
            self._write_floor(bundle.epoch, bundle.version)
            # 3. In use.
            self._use(bundle, copy)
        return True

    def keep_time(self, *, at_once: bool = False) -> None:
        """Raises the time's floor on disk, at most once a minute unless `at_once`. Raises FileUnwritable."""
        with self._lock:
            now = self.clock.now()
            if at_once or now - self._floor.time >= FLOOR_INTERVAL:
                self._write_floor(self._floor.epoch, self._floor.version)

    def own(self) -> bool:
        """Whether this process is the one that writes here; takes the lock if nobody holds it."""
        with self._lock:
            if self._owner is not None:
                return True
            handle = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                return False
            self._owner = handle
            return True

    def disown(self) -> None:
        """Lets another process write here."""
        with self._lock:
            if self._owner is not None:
                os.close(self._owner)
                self._owner = None

    def _verify(self, copy: Copy) -> Bundle:
        bundle = verify_copy(
            copy,
            roots=self.roots,
            trust_domain=self._trust_domain,
            floor=(self._floor.epoch, self._floor.version),
            now=self.clock.now(),
        )
        # The service may sign one version again, to keep it fresh; then the later signature counts, and no earlier one.
        if self._view is not None:
            used = self._view.bundle
            if (bundle.epoch, bundle.version) == (used.epoch, used.version) and bundle.issued_at < used.issued_at:
                raise BundleRolledBack(
                    "This bundle was signed before the one in use.", seen=bundle.issued_at, expected=used.issued_at
                )
        return bundle

    def _use(self, bundle: Bundle, copy: Copy) -> None:
        self._raise_floor(Floor(bundle.epoch, bundle.version, self._floor.time))
        self._copy = copy
        try:
            self._view = View.of(bundle, pinned=bundle.succeed(self.roots, self.clock.now()), before=self._view)
        except BundleUnusable as error:
            self._unusable = error.detail
            raise
        self._unusable = None

    def _raise_floor(self, other: Floor) -> None:
        """In memory: the higher of what is known and `other`."""
        self.clock.raise_to(other.time)
        epoch, version = max((self._floor.epoch, self._floor.version), (other.epoch, other.version))
        self._floor = Floor(epoch, version, max(self._floor.time, other.time))

    def _write_floor(self, epoch: int, version: int) -> None:
        floor = Floor(epoch, version, self.clock.now())
        replace_file(self.folder / FLOOR_FILE, floor.to_bytes(), mode=0o640)
        self._raise_floor(floor)
