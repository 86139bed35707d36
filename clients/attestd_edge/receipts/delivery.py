"""Takes receipts to the service: in their order, chain by chain, and removes them here once they are there.

One thread a process. Of several processes on one state folder one delivers, for all of them. What the service has
already it takes again without a word; where it has less than was delivered (it was restored from a backup), it is told
which receipts are gone, and writes that down. A chain that it refuses stays on the disk, and another one begins.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import httpx

from attestd.credentials.receipts import SPOOL_FOLDER
from attestd.errors import AttestdError
from attestd.protocol.encoding import Members, read_object, write_object
from attestd.protocol.messages import MAX_BEGIN
from attestd_edge.identity import ProxyIdentity
from attestd_edge.receipts.folders import REFUSED, ChainFolder
from attestd_edge.receipts.keeper import Keeper
from attestd_edge.receipts.tallies import Tallies
from attestd_edge.service import Service, ServiceAnswerWrong, ServiceRefused
from attestd_edge.store import BundleStore

INTERVAL = 5.0  # seconds between deliveries
FLUSH_INTERVAL = 1.0  # seconds that a refusal's receipt waits for the disk at most
MAX_BACKOFF = 60.0  # seconds between attempts while the service does not take anything
MAX_DELIVERY = 256 * 1024  # octets of receipts in one message, unless a single one is larger
MAX_RECEIPTS = 1000  # in one message
_LOCK_FILE = "delivery.lock"
_MISSING = "urn:attestd:problem:receipt-missing"
# Refusals of a whole chain: it will not get better by sending it again.
_FINAL = frozenset(f"urn:attestd:problem:{name}" for name in ("chain-forked", "chain-refused", "chain-of-another-edge"))

logger = logging.getLogger("attestd_edge.receipts")


class Delivery:
    """`tick` does one round; `start` runs rounds in a thread until `stop`."""

    def __init__(
        self,
        keeper: Keeper,
        store: BundleStore,
        service: Service,
        *,
        load_identity: Callable[[], ProxyIdentity],
        tallies: Tallies,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`service` is this object's own. `keeper` is flushed and closed with it."""
        self.keeper = keeper
        self._store = store
        self._service = service
        self._load_identity = load_identity
        self._tallies = tallies
        self._monotonic = monotonic
        self._trusted = store.roots
        self._lock: int | None = None
        self._due = monotonic()
        self._failures = 0
        self._said: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to deliver in the background."""
        self._thread = threading.Thread(target=self._run, name="attestd-edge-receipts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread. What waits stays on the disk, for the next process. Waits at most some seconds."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=15)
        self.keeper.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._service.close()

    def hurry(self) -> None:
        """The service was heard after an outage: what waits for it goes in the next round."""
        if self._failures:
            self._due = self._monotonic()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.tick()
            except Exception:  # a thread that dies unseen would let receipts pile up in silence
                logger.exception("a round of delivering receipts failed in an unforeseen way")
            self._stop.wait(FLUSH_INTERVAL)

    def tick(self) -> None:
        """One round: what waits in memory goes to the disk, and what waits there to the service, if it is time."""
        self.keeper.flush()
        if self._monotonic() < self._due:
            return
        try:
            if not self._owns():
                return
            self._deliver_all()
        except (AttestdError, OSError) as error:
            self._failures += 1
            self._say("delivery", f"receipts are not delivered: {error}")
            self._due = self._monotonic() + min(INTERVAL * 2**self._failures, MAX_BACKOFF)
            return
        self._failures = 0
        if self._said.pop("delivery", None):
            logger.info("receipts are delivered again")
        self._due = self._monotonic() + INTERVAL

    def _owns(self) -> bool:
        """Whether this process delivers. Raises OSError."""
        if self._lock is not None:
            return True
        folder = self._store.folder / SPOOL_FOLDER
        if not folder.exists():
            return False
        handle = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._lock = handle
        return True

    def _deliver_all(self) -> None:
        """Raises what asking raises; what is wrong with one chain, after the others had their turn."""
        who: ProxyIdentity | None = None
        wrong: ServiceAnswerWrong | None = None
        for folder in ChainFolder.all_in(self._store.folder):
            ended = folder.ended()
            if ended == REFUSED:
                self._say(folder.chain, f"the service refused the chain {folder.chain}; look at {folder.path}")
                continue
            try:
                for lines in _batches(folder):
                    if self._stop.is_set():
                        return
                    who = who or self._load_identity()
                    if not self._deliver(who, folder, lines):
                        break
                else:
                    if ended is not None and folder.waiting().count == 0:
                        folder.remove()
            except ServiceAnswerWrong as error:
                wrong = error
        if wrong is not None:
            raise wrong

    def _deliver(self, who: ProxyIdentity, folder: ChainFolder, lines: list[str]) -> bool:
        """Whether there may be more of this chain. Raises what asking raises."""
        start = folder.next()
        try:
            status, problem, body = self._ask(who, folder, lines)
            if problem == _MISSING:
                # 1. Which does it want? 2. Those, if we have them; else the chain's beginning, and what there is.
                _, _, answer = self._ask(who, folder, [])
                wanted = _next_in(answer)
                if wanted >= start:
                    raise ServiceAnswerWrong(seen=f"it wants receipt {wanted}", expected=f"at most {start}")
                logger.error("the service lost receipts of %s from number %d on", folder.chain, wanted)
                start, lines = wanted, _from(folder, wanted)
                status, problem, body = self._ask(who, folder, lines, lost=True)
        except ServiceRefused as error:
            status, problem, body = 403, (error.seen or "").rpartition(" ")[2], b""
            if problem not in _FINAL:
                raise
        if problem in _FINAL:
            logger.error("the service refuses the chain %s for good: %s", folder.chain, problem)
            folder.end(REFUSED)
            return False
        if status != httpx.codes.OK:
            raise ServiceAnswerWrong(f"Receipts were not taken: {problem}.", seen=f"status {status}", expected="200")
        until = _next_in(body)
        if until <= start:
            raise ServiceAnswerWrong(seen=f"it wants receipt {until}", expected=f"more than {start}")
        folder.delivered(until)
        self._tallies.delivered(until - start)
        return True

    def _ask(
        self, who: ProxyIdentity, folder: ChainFolder, lines: list[str], *, lost: bool = False
    ) -> tuple[int, str, bytes]:
        """Status, the problem's type if it is one, and the body."""
        if self._trusted != self._store.roots:
            self._trusted = self._store.roots
            self._service.trust(self._trusted)
        message = {"v": 1, "chain": folder.chain, "receipts": lines} | ({"lost": True} if lost else {})
        body = write_object(message)
        status, _, answer = self._service._ask(who, "POST", "/v1/receipts", body, {}, limit=MAX_BEGIN)
        problem = ""
        if status >= httpx.codes.BAD_REQUEST:
            with suppress(AttestdError):
                problem = str(read_object(answer, limit=MAX_BEGIN, name="problem").get("type", ""))[:200]
        return status, problem, answer

    def _say(self, topic: str, text: str) -> None:
        """Logs what is wrong once, until it changes or ends."""
        if self._said.get(topic) != text:
            self._said[topic] = text
            logger.warning("%s", text)


def _batches(folder: ChainFolder) -> Iterator[list[str]]:
    """What waits, in messages. After each one it is looked at anew."""
    while True:
        batch: list[str] = []
        size = 0
        for line in folder.lines(folder.next()):
            if batch and (size + len(line) > MAX_DELIVERY or len(batch) >= MAX_RECEIPTS):
                break
            batch.append(line)
            size += len(line)
        if not batch:
            return
        yield batch


def _from(folder: ChainFolder, wanted: int) -> list[str]:
    """What there is from number `wanted` on, after the chain's beginning if that is wanted and gone."""
    batch: list[str] = []
    if wanted == 0 and (beginning := folder.beginning()) is not None:
        batch.append(beginning)
    size = 0
    for line in folder.lines(wanted):
        if line in batch:
            continue
        if batch and (size + len(line) > MAX_DELIVERY or len(batch) >= MAX_RECEIPTS):
            break
        batch.append(line)
        size += len(line)
    return batch


def _next_in(body: bytes) -> int:
    """Raises ServiceAnswerWrong."""
    try:
        answer = Members(read_object(body, limit=MAX_BEGIN, name="answer"), "answer")
        answer.version()
        return answer.integer("next")
    except AttestdError as error:
        raise ServiceAnswerWrong(f"The answer about receipts can't be read: {error}") from error
