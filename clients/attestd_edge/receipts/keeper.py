"""Crossings -> receipts on the disk. One for each process; safe for threads.

A chain has an order, so one thread at a time signs and writes; it takes all that waits, and what a sync costs, it costs
once for all of them (docs/adr/0038-receipts.md). A crossing waits for its receipt; a refusal does not, and goes to the
disk with the next ones.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestd.credentials.receipt_chains import KeyOfAnotherChain, Position, VerifiedChain
from attestd.credentials.receipts import NOTHING, Beginning, Crossed, Receipt, Why, digest_of, sign_receipt
from attestd.errors import AttestdError
from attestd_edge.clock import EdgeClock
from attestd_edge.identity import ProxyIdentity
from attestd_edge.receipts.folders import ChainFolder
from attestd_edge.receipts.spool import ReceiptNotKept, ReceiptsFull, Spool, SpoolDamaged
from attestd_edge.receipts.tallies import Tallies

logger = logging.getLogger("attestd_edge.receipts")

_MOST_REFUSALS: Final = 256  # that wait for the disk in memory
_REFUSALS_SHARE: Final = 2  # refusals may take one part in so many of the room: strangers must not fill it
_MEASURED_FOR: Final = 1.0  # seconds for which what other processes take on the disk is not looked at again


@dataclass(slots=True, eq=False)
class _Draft:
    """A crossing that is to get a receipt, and what became of it."""

    said: Crossed
    done: bool = False
    error: ReceiptNotKept | None = None


class Keeper:
    """Signs, chains and keeps. Its chain is opened with the first receipt."""

    def __init__(
        self,
        state: Path,
        *,
        load_identity: Callable[[], ProxyIdentity],
        identity_files: Sequence[Path],
        clock: EdgeClock,
        octets: int,
        entropy: Callable[[int], bytes],
        tallies: Tallies,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`octets`: that all receipts in this state folder may take. `identity_files`: once they change, the identity
        is loaded again."""
        self._state = state
        self._load_identity = load_identity
        self._identity_files = identity_files
        self._clock = clock
        self._octets = octets
        self._entropy = entropy
        self._tallies = tallies
        self._monotonic = monotonic
        self._queue: list[_Draft] = []
        self._queued = threading.Lock()
        self._writing = threading.Lock()
        # What follows belongs to who holds `_writing`.
        self._spool: Spool | None = None
        self._who: ProxyIdentity | None = None
        self._mark: tuple[object, ...] = ()
        self._kid = ""  # the key of our chain
        self._omitted = 0
        self._taken, self._taken_at = 0, float("-inf")
        self._said = ""

    def keep(self, crossed: Crossed) -> None:
        """Returns once the receipt is on the disk: then it may cross. Raises ReceiptNotKept."""
        draft = _Draft(crossed)
        with self._queued:
            self._queue.append(draft)
        while not draft.done:
            with self._writing:
                if not draft.done:
                    self._write()
        if draft.error is not None:
            raise draft.error

    def note(self, refused: Crossed) -> None:
        """A refusal gets its receipt with the next ones. Never raises: it is refused all the same, and what gets no
        receipt is counted in the one that follows."""
        with self._queued:
            self._queue.append(_Draft(refused))
            many = len(self._queue) >= _MOST_REFUSALS
        if many:
            self.flush()

    def flush(self) -> None:
        """Writes what waits. Never raises."""
        with self._writing:
            self._write()

    def close(self) -> None:
        """Writes what waits, and lets another process go on with the chain."""
        with self._writing:
            self._write()
            self._let_go()

    # ---- With `_writing` held -----------------------------------------------------------------------------------

    def _write(self) -> None:
        with self._queued:
            taken, self._queue = self._queue, []
        if not taken:
            return
        try:
            self._chain(taken)
        except (AttestdError, OSError) as error:
            self._fail(taken, error)
        except BaseException:
            self._fail(taken, ReceiptNotKept("Another crossing, whose receipt was written with this one, failed."))
            raise
        finally:
            for draft in taken:
                draft.done = True

    def _chain(self, taken: Sequence[_Draft]) -> None:
        who = self._identity()
        spool, lines, position = self._ready(who)
        room = self._octets - self._used() - sum(map(len, lines))
        spare = self._octets - self._octets // _REFUSALS_SHARE
        omitted = self._omitted
        kept: list[_Draft] = []
        for draft in taken:
            now = max(int(self._clock.now().timestamp()), position.time)
            receipt = Receipt(spool.folder.chain, position.seq + 1, position.digest, now, draft.said, omitted)
            jws = sign_receipt(receipt, kid=who.kid, sign=who.key.sign)
            size = len(jws) + 1
            if size > room - (0 if draft.said.allowed else spare):
                draft.error = ReceiptsFull(expected=f"at most {self._octets} octets")
                omitted += 0 if draft.said.allowed else 1
                continue
            lines.append(jws.encode("ascii") + b"\n")
            position, omitted, room = Position(receipt.seq, digest_of(jws), now), 0, room - size
            kept.append(draft)
        if not kept:
            self._omitted = omitted
            self._forget_unused()
        else:
            spool.append(b"".join(lines), position, first=0 if spool.position is None else spool.position.seq + 1)
            self._omitted = omitted
            self._taken += sum(map(len, lines))
            self._tell("")
        for draft in taken:
            self._count(draft)

    def _count(self, draft: _Draft) -> None:
        if draft.error is None:
            self._tallies.written(draft.said)
        elif draft.said.allowed:
            self._tallies.not_kept(draft.error)
            self._tell(str(draft.error))
        else:
            self._tallies.omitted()

    def _fail(self, taken: Sequence[_Draft], error: AttestdError | OSError) -> None:
        """None of them has a receipt. Errors are each one's own: tracebacks of threads must not mix."""
        kind = type(error) if isinstance(error, ReceiptNotKept) else ReceiptNotKept
        detail = error.detail if isinstance(error, AttestdError) else (error.strerror or str(error))
        self._forget_unused()
        for draft in taken:
            draft.error = kind(detail)
            self._omitted += 0 if draft.said.allowed else 1
            self._count(draft)

    def _identity(self) -> ProxyIdentity:
        """The proxy's, as its files are now. Raises what loading raises."""
        mark = tuple((found.st_ino, found.st_mtime_ns) for found in (file.stat() for file in self._identity_files))
        if self._who is None or mark != self._mark:
            self._who = self._load_identity()
            self._mark = mark
        return self._who

    def _used(self) -> int:
        """Octets that receipts take here: this process knows its own, and looks at the others' each second."""
        if self._monotonic() - self._taken_at >= _MEASURED_FOR:
            self._taken = sum(folder.octets() for folder in ChainFolder.all_in(self._state))
            self._taken_at = self._monotonic()
        return self._taken

    # ---- The chain --------------------------------------------------------------------------------------------------

    def _ready(self, who: ProxyIdentity) -> tuple[Spool, list[bytes], Position]:
        """Our chain, the lines that begin it if it is new, and where it stands after them."""
        why: Why = "start"
        after: tuple[str, int, bytes] | None = None
        if self._spool is None:
            self._spool, why, after = self._take(who)
        if self._spool is not None and self._spool.position is not None:
            over = self._over(self._spool, who)
            if over is None:
                return self._spool, [], self._spool.position
            why, after = over, (self._spool.folder.chain, self._spool.position.seq, self._spool.position.digest)
            if self._spool.folder.ended() is None:
                self._spool.folder.end(why)
            self._let_go()
        spool = self._spool = Spool.make(self._state, self._entropy(16).hex())
        now = int(self._clock.now().timestamp())
        first = Receipt(spool.folder.chain, 0, NOTHING, now, Beginning(why, after))
        jws = sign_receipt(first, kid=who.kid, sign=who.key.sign, certificates=who.chain)
        spool.folder.keep_beginning(jws)
        logger.info("a chain of receipts begins (%s): %s", why, spool.folder.chain)
        return spool, [jws.encode("ascii") + b"\n"], Position(0, digest_of(jws), now)

    def _over(self, spool: Spool, who: ProxyIdentity) -> Why | None:
        """Why our chain can't go on."""
        if spool.folder.ended() is not None:
            return "restored"
        if who.kid != self._kid:
            return "new-key"
        if spool.position is not None and self._clock.now().timestamp() < spool.position.time:
            return "clock"
        return None

    def _take(self, who: ProxyIdentity) -> tuple[Spool | None, Why, tuple[str, int, bytes] | None]:
        """A chain that nobody writes; else why there is none, and the end of one that can't go on."""
        self._kid = who.kid
        why: Why = "start"
        after: tuple[str, int, bytes] | None = None
        folders = ChainFolder.all_in(self._state)
        over = [folder for folder in folders if folder.ended() is not None]
        if over and len(over) == len(folders):
            why, after = "restored", over[-1].end_of()
        for folder in folders:
            if folder in over:
                continue
            try:
                spool = Spool.take(folder, VerifiedChain(folder.chain, who.name, who.key.public_key))
            except KeyOfAnotherChain:
                why = "new-key"
            except SpoolDamaged as error:
                logger.error("a chain of receipts is damaged and ends: %s", error)  # noqa: TRY400 - it is named
                why = "damaged"
            else:
                if spool is None:
                    continue
                if spool.position is not None and folder.next() <= spool.position.seq + 1:
                    return spool, "start", None
                spool.close()
                if folder.next() == 0:  # a process ended before it wrote anything
                    folder.remove()
                    continue
                why = "restored"  # the service has more of it than there is here
            after = folder.end_of()
            folder.end(why)
        return None, why, after

    def _forget_unused(self) -> None:
        """A chain that was made and got nothing."""
        if self._spool is not None and self._spool.position is None:
            self._spool.folder.remove()
            self._let_go()

    def _let_go(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _tell(self, what: str) -> None:
        """Says what is wrong once, when it begins and when it ends."""
        if what == self._said:
            return
        self._said = what
        if what:
            logger.error("nothing crosses where receipts are demanded: %s", what)
        else:
            logger.info("receipts are kept again")
