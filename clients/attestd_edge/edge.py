"""An edge, put together: settings -> store, clock, service, refresher, receipts, reports -> `admit`, which every door
calls.

Where a boundary demands receipts, nothing is admitted before its receipt is on the disk (docs/receipts.md).

`admit` never raises and never lets a request through on a fault: whatever is not a permit becomes a refusal, with its
reasons in the log and no more than its kind on the wire.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from attestd.broker.addresses import require_client
from attestd.credentials.dpop import EdgeNonces, ReplayCache
from attestd.credentials.identity import VerifiedIdentity
from attestd.credentials.receipts import Crossed
from attestd.errors import AttestdError, Forbidden, Unavailable
from attestd.policy import Boundary, Decision
from attestd_edge.attempts import Asked, Attempt
from attestd_edge.background import delivery, refresher, reporter
from attestd_edge.clock import EdgeClock
from attestd_edge.decide import CrossingDenied, TokenRules, judge
from attestd_edge.files import read_file
from attestd_edge.identity import MAX_PEM, read_certificates
from attestd_edge.metrics import Metrics
from attestd_edge.problems import EdgeFailed, Refusal, refusal
from attestd_edge.receipts.delivery import Delivery
from attestd_edge.receipts.folders import ChainFolder, Waiting
from attestd_edge.receipts.spool import ReceiptNotKept
from attestd_edge.receipts.tallies import Tallies
from attestd_edge.refresh import Feed, Refresher
from attestd_edge.reports.counts import Judged, by_name
from attestd_edge.reports.reporter import Reporter
from attestd_edge.settings import Guarded, Receipted, Settings, SettingsInvalid
from attestd_edge.standing import Standing, StandingMetrics, standing
from attestd_edge.store import BundleStore
from attestd_edge.views import check_fresh

__all__ = ["Admitted", "Asked", "ConnectionAged", "Edge"]

logger = logging.getLogger("attestd_edge.decisions")


class ConnectionAged(Forbidden):
    """The connection has lasted as long as one verdict may"""

    remedy = "Connect again."


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may go on: who it is, why, and headers for the answer."""

    identity: VerifiedIdentity
    decision: Decision
    headers: tuple[tuple[str, str], ...]
    request_id: str


Later = Callable[[], Admitted | Refusal]


class Edge:
    """One edge in one process. Its background thread starts with the first request, or with `start`."""

    def __init__(
        self,
        store: BundleStore,
        *,
        tokens: TokenRules | None,
        boundaries: Mapping[str, Guarded] = MappingProxyType({}),
        make_refresher: Callable[[], Refresher] | None = None,
        make_delivery: Callable[[Tallies], Delivery] | None = None,
        make_reporter: Callable[[Edge], Reporter] | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`make_refresher`, `make_delivery` and `make_reporter` are called in each process that judges."""
        self.store = store
        self.boundaries = boundaries
        self.metrics = Metrics()
        self._tokens = tokens
        self._make_refresher = make_refresher
        self._entropy = entropy
        self._refresher: Refresher | None = None
        self._started_in: int | None = None
        self._starting = threading.Lock()
        self._staleness = {name: guarded.staleness for name, guarded in boundaries.items()}
        self._receipted = {name: guarded.receipts for name, guarded in boundaries.items()}
        self._make_delivery = make_delivery if any(map(self.demands, boundaries)) else None
        self._delivery: Delivery | None = None
        self._make_reporter = make_reporter
        self._reporter: Reporter | None = None
        self._tallies = Tallies(self.metrics.registry) if any(map(self.demands, boundaries)) else None
        self._watch()

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """From the configuration, with this machine's clock and randomness. Loads the bundle on disk.

        Raises Misconfigured. A bundle on disk that is damaged or stale is no error: the edge refuses crossings, and
        says so, until it has a good one.
        """
        roots = read_certificates(read_file(settings.root, limit=MAX_PEM), where=str(settings.root))
        clock = EdgeClock(partial(datetime.now, UTC), time.monotonic, datetime.fromtimestamp(0, UTC))
        store = BundleStore(settings.state_dir, roots=roots, trust_domain=settings.trust_domain, clock=clock)
        try:
            store.load()
        except AttestdError as error:
            logger.warning("the bundle on disk is not used: %s", error)
        feed, tokens = broker_feed(settings), None
        if settings.audience is not None:
            # A secret for this process alone: a nonce, and so a proof, is good in the process that issued it only.
            tokens = TokenRules(settings.audience, settings.origins, EdgeNonces(os.urandom(32)), ReplayCache())
        return cls(
            store,
            tokens=tokens,
            boundaries=settings.boundaries,
            make_refresher=lambda: refresher(settings, store, feed),
            make_delivery=lambda tallies: delivery(settings, store, tallies),
            make_reporter=lambda edge: reporter(settings, store, edge),
        )

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """`open` with the configuration in this TOML file."""
        return cls.open(Settings.load(Path(path)))

    def boundary(self, named: Boundary | str) -> Boundary:
        """A boundary, or the configured one of that name. Raises SettingsInvalid."""
        if isinstance(named, Boundary):
            return named
        if named not in self.boundaries:
            raise SettingsInvalid("No such boundary is configured.", seen=repr(named), expected=sorted(self.boundaries))
        return self.boundaries[named].boundary

    def start(self) -> None:
        """Begins to refresh, deliver and report in the background, once a process: threads do not survive a fork."""
        if self._started_in == os.getpid():
            return
        with self._starting:
            if self._started_in != os.getpid():
                if self._make_refresher is not None:
                    self._refresher = self._make_refresher()
                    self._refresher.start()
                if self._make_delivery is not None and self._tallies is not None:
                    self._delivery = self._make_delivery(self._tallies)
                    self._delivery.start()
                if self._make_reporter is not None:
                    self._reporter = self._make_reporter(self)
                    self._reporter.start()
                self._started_in = os.getpid()

    def stop(self) -> None:
        """Ends the background threads of this process and keeps what has to be kept."""
        with self._starting:
            if self._started_in == os.getpid():
                if self._refresher is not None:
                    self._refresher.stop()
                if self._delivery is not None:
                    self._delivery.stop()
                if self._reporter is not None:
                    self._reporter.stop()
            self._refresher, self._delivery, self._reporter, self._started_in = None, None, None, None

    def demands(self, boundary: str) -> bool:
        """Whether nothing crosses this boundary without a receipt."""
        return self._receipted.get(boundary, Receipted.NOTHING) is not Receipted.NOTHING

    def admit(self, boundary: Boundary, read: Callable[[], Asked]) -> Admitted | Refusal:
        """Judges one request. `read` takes it apart; what that raises is a refusal, too.

        Where receipts are demanded it waits for the disk: the other two are for event loops.
        """
        answer = self.admit_at_once(boundary, read)
        return answer() if callable(answer) else answer

    async def admit_soon(self, boundary: Boundary, read: Callable[[], Asked]) -> Admitted | Refusal:
        """As `admit`; while one crossing waits for the disk, others are judged, and their receipts share its next
        sync."""
        answer = self.admit_at_once(boundary, read)
        return await asyncio.to_thread(answer) if callable(answer) else answer

    def admit_at_once(self, boundary: Boundary, read: Callable[[], Asked]) -> Admitted | Refusal | Later:
        """As `admit`, without waiting; where a receipt has to be kept first, what does that and has the answer then."""
        attempt, error = self._judge(boundary, read)
        if error is not None or not self.demands(boundary.name):
            return self._answer(attempt, error)
        return lambda: self._answer(attempt, self._keep(attempt))

    def keep(self, crossed: Crossed) -> None:
        """Returns once this crossing, which somebody else judged, has its receipt on the disk; for a refusal, at once.

        Raises ReceiptNotKept. Without a demand for receipts it does nothing.
        """
        if not self.demands(crossed.where.boundary):
            return
        self.start()
        if crossed.allowed:
            if self._delivery is None:
                raise ReceiptNotKept("This edge was made without a place for receipts.")
            self._delivery.keeper.keep(crossed)
        elif self._receipted[crossed.where.boundary] is Receipted.ALL and self._delivery is not None:
            self._delivery.keeper.note(crossed)

    def _judge(self, boundary: Boundary, read: Callable[[], Asked]) -> tuple[Attempt, AttestdError | None]:
        """The attempt, and what refuses it."""
        attempt = Attempt(boundary, self._entropy, time.perf_counter(), self.store.clock.now())
        try:
            self.start()
            attempt.asked = asked = read()
            attempt.view = view = self.store.view()
            attempt.verdict = verdict = judge(
                view,
                boundary=boundary,
                presented=asked.presented,
                request=asked.request,
                tokens=self._tokens,
                now=attempt.now,
                staleness=self._staleness.get(boundary.name),
            )
        except AttestdError as error:
            return attempt, error
        except Exception as error:  # the door stays shut on what nobody foresaw
            logger.exception("a request could not be judged", extra={"attestd": attempt.record()})
            return attempt, EdgeFailed(f"{type(error).__name__}: {error}"[:300])
        if not verdict.decision.allowed:
            return attempt, CrossingDenied("; ".join(verdict.decision.reasons))
        return attempt, None

    def _keep(self, attempt: Attempt) -> AttestdError | None:
        """What kept this crossing from having its receipt on the disk."""
        try:
            self.keep(attempt.crossed(""))
        except AttestdError as error:
            return error
        except Exception as error:
            logger.exception("a receipt could not be written", extra={"attestd": attempt.record()})
            return EdgeFailed(f"{type(error).__name__}: {error}"[:300])
        return None

    def _answer(self, attempt: Attempt, error: AttestdError | None) -> Admitted | Refusal:
        verdict, asked = attempt.verdict, attempt.asked
        if error is not None or verdict is None or asked is None:
            return self._refuse(error or EdgeFailed(), attempt)
        self.metrics.allowed(attempt.boundary.name, attempt.seconds(), remembered=verdict.remembered)
        if logger.isEnabledFor(logging.INFO):
            logger.info("allowed", extra={"attestd": attempt.record()})
        nonce = self._nonce(attempt.now) if asked.presented.proof is not None else None
        headers = (("DPoP-Nonce", nonce),) if nonce is not None else ()
        return Admitted(verdict.identity, verdict.decision, headers, attempt.request_id)

    def readiness(self) -> tuple[bool, str]:
        """Whether this edge can decide, and if not, why."""
        try:
            check_fresh(self.store.view().bundle, self.store.clock.now())
        except AttestdError as error:
            return False, error.detail
        return True, "ready"

    def standings(self) -> dict[str, Standing]:
        """How each boundary stands."""
        now = self.store.clock.now()
        return {name: standing(self.store, rule, now) for name, rule in self._staleness.items()}

    def connected(self) -> bool:
        """Whether the service answers this process."""
        return self._refresher is not None and self._refresher.connection in ("connected", "listening")

    def heard_again(self) -> None:
        """The service is back: receipts need not wait for the end of a pause."""
        if self._delivery is not None:
            self._delivery.hurry()

    def receipts_waiting(self) -> int:
        """How many receipts the service does not have yet."""
        return self._waiting().count

    def judged(self) -> dict[Judged, int]:
        """What this process decided so far."""
        return by_name(self.metrics.decisions())

    def status(self) -> dict[str, Any]:
        """What an operator wants to know about this edge."""
        ready, why = self.readiness()
        found: dict[str, Any] = {"ready": ready, "why": why, "clock_behind_seconds": _seconds(self.store)}
        found["connection"] = self._refresher.connection if self._refresher is not None else "not started"
        if self._tallies is not None:
            found["receipts_waiting"] = self._waiting().count
        found["audit_refusals"] = self.store.history.refusals
        if (known := self.store.history.known) is not None:
            found |= {"audit_log": known.head.log, "audit_size": known.head.size, "audit_logs_begun": known.logs_begun}
        try:
            bundle = self.store.view().bundle
        except Unavailable:
            return found
        return found | {
            "epoch": bundle.epoch,
            "version": bundle.version,
            "policy_version": bundle.policy_version,
            "issued_at": bundle.issued_at,
            "stale_at": int(bundle.age_limit.timestamp()),
        }

    def _refuse(self, error: AttestdError, attempt: Attempt) -> Refusal:
        answer = refusal(error, request_id=attempt.request_id, nonce=self._nonce(attempt.now))
        if self.demands(attempt.boundary.name):
            try:
                self.keep(attempt.crossed(type(error).slug()))
            except Exception:  # it is refused all the same
                logger.exception("a refusal got no receipt", extra={"attestd": attempt.record()})
        remembered = attempt.verdict is not None and attempt.verdict.remembered
        self.metrics.refused(attempt.boundary.name, attempt.seconds(), type(error).slug(), remembered=remembered)
        verdict = attempt.verdict
        reasons = (str(error),) if verdict is None or verdict.decision.allowed else verdict.decision.reasons
        record = {"problem": type(error).slug(), "status": answer.status, "reasons": reasons}
        logger.warning("refused: %s", "; ".join(reasons), extra={"attestd": attempt.record() | record})
        return answer

    def _waiting(self) -> Waiting:
        """Of all processes on this state folder."""
        return sum((folder.waiting() for folder in ChainFolder.all_in(self.store.folder)), Waiting())

    def _nonce(self, now: datetime) -> str | None:
        return self._tokens.nonces.issue(now) if self._tokens is not None else None

    def _watch(self) -> None:
        def of_bundle(name: str) -> Callable[[], float]:
            return lambda: float(self.status().get(name, 0))

        watch = self.metrics.watch
        watch("ready", "1 if this edge can decide, 0 if it refuses everything.", of_bundle("ready"))
        watch("bundle_epoch", "Epoch of the bundle in use.", of_bundle("epoch"))
        watch("bundle_version", "Version of the bundle in use.", of_bundle("version"))
        watch("bundle_issued_timestamp_seconds", "When the bundle in use was issued.", of_bundle("issued_at"))
        watch("bundle_stale_timestamp_seconds", "When the bundle in use becomes stale.", of_bundle("stale_at"))
        watch("audit_log", "The service's audit log whose head is kept here.", of_bundle("audit_log"))
        watch("audit_size", "Entries under that head.", of_bundle("audit_size"))
        watch("audit_logs_begun", "How often a restore began a new audit log.", of_bundle("audit_logs_begun"))
        watch("audit_refusals", "Bundles refused for their audit head since the start.", of_bundle("audit_refusals"))
        self.metrics.registry.register(StandingMetrics(self.standings))
        if self._tallies is not None:
            self._tallies.watch(self._waiting, lambda: self.store.clock.now().timestamp())
        watch("clock_behind_seconds", "By how much the system's clock is behind.", of_bundle("clock_behind_seconds"))


def _seconds(store: BundleStore) -> float:
    return round(store.clock.ahead().total_seconds(), 3)


def broker_feed(settings: Settings) -> Feed | None:
    """Where bundles come from besides the service. Raises SettingsInvalid, BrokerMisconfigured or BrokerMissing."""
    if settings.push is None:
        return None
    require_client()
    from attestd_edge.nats.push import feed_of  # noqa: PLC0415 - it takes an extra that may be missing

    return feed_of(settings)
