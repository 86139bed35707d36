"""Tells the service what this edge decided and how it stands: every ten seconds if anything changed, every minute else.

One thread a process. Each process writes down what it counts; of several on one state folder one reports, for all of
them. While the service is away the counts wait on the disk; when something is heard again, they go at once.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import httpx

from attestd.errors import AttestdError, Unavailable
from attestd.protocol.encoding import Members, read_object, write_object
from attestd.protocol.messages import MAX_BEGIN
from attestd_edge.identity import ProxyIdentity
from attestd_edge.reports.counts import REPORTS_FOLDER, CountFile
from attestd_edge.reports.ledger import Ledger
from attestd_edge.service import Service, ServiceAnswerWrong, ServiceBusy
from attestd_edge.standing import Standing
from attestd_edge.store import BundleStore

INTERVAL: Final = 10.0  # seconds between reports while anything changes
QUIET_INTERVAL: Final = 60.0  # seconds between reports while nothing does
FLUSH_INTERVAL: Final = 5.0  # seconds of counts that a power cut may cost
MAX_BACKOFF: Final = 60.0  # seconds between attempts while the service does not answer
MAX_STANDING: Final = 256  # boundaries that a report says how stale they are
_LOOK: Final = 1.0  # seconds between rounds
_LOCK_FILE: Final = "report.lock"

logger = logging.getLogger("attestd_edge.reports")


class Reporter:
    """`tick` does one round; `start` runs rounds in a thread until `stop`."""

    def __init__(
        self,
        counts: CountFile,
        store: BundleStore,
        service: Service,
        *,
        load_identity: Callable[[], ProxyIdentity],
        standings: Callable[[], Mapping[str, Standing]],
        waiting: Callable[[], int],
        connected: Callable[[], bool],
        returned: Callable[[], None],
        chance: Callable[[], float],
        guarding: Mapping[str, Any] = MappingProxyType({}),
        entropy: Callable[[int], bytes] = os.urandom,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`service` is this object's own. `waiting`: receipts that were not delivered yet. `connected`: whether the
        service answers this process. `returned` is called when something is heard after an outage. `chance` gives
        numbers in [0, 1) for jitter. `guarding`: what this edge guards (guarding.py)."""
        self._counts = counts
        self._store = store
        self._service = service
        self._load_identity = load_identity
        self._standings = standings
        self._waiting = waiting
        self._connected = connected
        self._returned = returned
        self._chance = chance
        self._guarding = dict(guarding)
        self._tells_guarding = bool(guarding)
        self._entropy = entropy
        self._monotonic = monotonic
        self._trusted = store.roots
        self._lock: int | None = None
        self._ledger: Ledger | None = None
        self._flush_at = monotonic() + FLUSH_INTERVAL
        self._due = monotonic() + _LOOK * (1 + chance())
        self._not_before = self._due  # what a busy service asked for holds, whatever is heard of it
        self._last = monotonic() - QUIET_INTERVAL
        self._failures = 0
        self._heard: str | None = None  # the bundle in use at the last look
        self._was_connected = False
        self._reported: tuple[object, ...] = ()  # the bundle of the last report, and what crossed where
        self._stood: Mapping[str, Standing] = {}
        self._said: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to count on the disk and to report, in the background."""
        self._thread = threading.Thread(target=self._run, name="attestd-edge-reports", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and writes down what was counted. Waits at most some seconds."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=15)
        self._flush(at_once=True)
        self._counts.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._service.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.tick()
            except Exception:  # a thread that dies unseen would let the service believe that this edge is gone
                logger.exception("a round of reporting failed in an unforeseen way")
            self._stop.wait(_LOOK)

    def tick(self) -> None:
        """One round: what was counted goes to the disk, and a report to the service, if it is time."""
        returned = self._look_for_news()
        self._flush(at_once=returned)
        try:
            if not self._owns():
                return
            self._tell_standings()
            if returned and self._failures:
                self._due = min(self._due, self._monotonic() + _LOOK * self._chance())
            if self._monotonic() >= max(self._due, self._not_before):
                self._report_all()
        except (AttestdError, OSError) as error:
            self._failures += 1
            self._say("reports", f"nothing is reported to the service: {error}")
            pause = min(INTERVAL * 2 ** min(self._failures - 1, 10), MAX_BACKOFF) * self._jitter()
            self._due = self._monotonic() + pause
            if isinstance(error, ServiceBusy) and error.retry_after is not None:
                self._not_before = self._monotonic() + error.retry_after

    def _flush(self, *, at_once: bool) -> None:
        if not at_once and self._monotonic() < self._flush_at:
            return
        self._flush_at = self._monotonic() + FLUSH_INTERVAL
        try:
            self._counts.flush()
            self._said.pop("disk", None)
        except (AttestdError, OSError) as error:
            self._say("disk", f"what was decided is not counted on the disk: {error}")

    def _look_for_news(self) -> bool:
        """Whether the service was heard again since the last look: it answers this process, or another one took a
        bundle of it. Then others are told, too, who wait for it to be back."""
        heard, was_connected = self._heard, self._was_connected
        self._heard, self._was_connected = self._store.name, self._connected()
        new = not was_connected if self._was_connected else self._heard not in (None, heard)
        if new:
            self._returned()
            self._tells_guarding = bool(self._guarding)  # it may be a newer service
        return new

    def _owns(self) -> bool:
        """Whether this process reports. Raises OSError, FileUnwritable."""
        if self._ledger is not None:
            return True
        if self._lock is None:
            folder = self._store.folder / REPORTS_FOLDER
            folder.mkdir(mode=0o750, exist_ok=True)
            handle = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(handle)
                if isinstance(error, BlockingIOError):
                    return False
                raise
            self._lock = handle
        self._ledger = Ledger(self._store.folder, entropy=self._entropy)
        if self._ledger.damaged:
            logger.error("the record of what was counted can't be read: what it held is not reported")
        return True

    def _report_all(self) -> None:
        """What is to be told now, and then what waits of the hours before. Raises what asking raises."""
        ledger = self._ledger
        assert ledger is not None  # noqa: S101 - `_owns` saw to it
        now = int(self._store.clock.now().timestamp())
        ledger.take(now)
        stands = self._store.name, *((name, each.crosses) for name, each in self._stood.items())
        news = ledger.waits or ledger.pending is not None or self._reported != stands or self._failures > 0
        if news or self._monotonic() - self._last >= QUIET_INTERVAL:
            while True:
                self._report(ledger, now)
                if self._stop.is_set() or not ledger.waits:
                    break
            self._last, self._reported = self._monotonic(), stands
            if self._failures:
                self._failures = 0
                self._said.pop("reports", None)
                logger.info("the service takes reports again")
        self._due = self._monotonic() + INTERVAL * self._jitter()

    def _report(self, ledger: Ledger, now: int) -> None:
        pending = ledger.begin(now)
        who = self._load_identity()
        if self._trusted != self._store.roots:
            self._trusted = self._store.roots
            self._service.trust(self._trusted)
        message = {"v": 1, "ledger": ledger.name, **pending.members(), **self._standing_members()}
        told = message | ({"boundaries": self._guarding} if self._tells_guarding else {})
        status, answer = self._send(who, told)
        if status == httpx.codes.BAD_REQUEST and self._tells_guarding:
            self._tells_guarding = False  # a service from before boundaries were told: the counts must not wait for it
            status, answer = self._send(who, message)
        if status != httpx.codes.OK or _sequence_in(answer) != pending.sequence:
            raise ServiceAnswerWrong("The report was not taken.", seen=f"status {status}", expected="200")
        ledger.answered()

    def _send(self, who: ProxyIdentity, message: Mapping[str, Any]) -> tuple[int, bytes]:
        body = write_object(message)
        status, _, answer = self._service._ask(who, "POST", "/v1/proxies/reports", body, {}, limit=MAX_BEGIN)
        return status, answer

    def _standing_members(self) -> dict[str, object]:
        bundle = None
        try:
            used = self._store.view().bundle
            bundle = {"epoch": used.epoch, "version": used.version, "issued_at": used.issued_at}
        except Unavailable:
            pass
        return {
            "bundle": bundle,
            "receipts_waiting": self._waiting(),
            "stale_for": {name: each.stale_for for name, each in list(self._standings().items())[:MAX_STANDING]},
        }

    def _tell_standings(self) -> None:
        """Logs a boundary whose standing changed, once."""
        found = self._standings()
        for name, each in found.items():
            before = self._stood.get(name, Standing("all"))
            if (before.crosses, before.allows) != (each.crosses, each.allows):
                log = logger.info if each.crosses == "all" else logger.warning
                log("%s: %s", name, each)
        self._stood = found

    def _jitter(self) -> float:
        return 0.9 + 0.2 * self._chance()

    def _say(self, topic: str, text: str) -> None:
        """Logs what is wrong once, until it changes or ends."""
        if self._said.get(topic) != text:
            self._said[topic] = text
            logger.warning("%s", text)


def _sequence_in(body: bytes) -> int:
    """Raises ServiceAnswerWrong."""
    try:
        answer = Members(read_object(body, limit=MAX_BEGIN, name="answer"), "answer")
        answer.version()
        return answer.integer("sequence")
    except AttestdError as error:
        raise ServiceAnswerWrong(f"The answer to a report can't be read: {error}") from error
