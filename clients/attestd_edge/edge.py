"""An edge, put together: settings -> store, clock, service, refresher -> `admit`, which every door calls.

`admit` never raises and never lets a request through on a fault: whatever is not a permit becomes a refusal, with its
reasons in the log and no more than its kind on the wire.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from attestd.broker.addresses import require_client
from attestd.credentials.dpop import EdgeNonces, ReplayCache
from attestd.credentials.identity import VerifiedIdentity
from attestd.errors import AttestdError, Forbidden, Unavailable
from attestd.policy import Boundary, Crossing, Decision
from attestd.policy.recorded import record as record_decision
from attestd.policy.situations import Situation
from attestd_edge.clock import EdgeClock
from attestd_edge.decide import CrossingDenied, Presented, Request, TokenRules, Verdict, check_fresh, judge, read_path
from attestd_edge.files import read_file
from attestd_edge.identity import MAX_PEM, ProxyIdentity, read_certificates
from attestd_edge.metrics import Metrics
from attestd_edge.problems import EdgeFailed, Refusal, refusal
from attestd_edge.refresh import Feed, Refresher
from attestd_edge.service import Service
from attestd_edge.settings import Guarded, Settings, SettingsInvalid
from attestd_edge.store import BundleStore

logger = logging.getLogger("attestd_edge.decisions")

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)


class ConnectionAged(Forbidden):
    """The connection has lasted as long as one verdict may"""

    remedy = "Connect again."


@dataclass(frozen=True, slots=True)
class Asked:
    """What a door read from a request. `request_id` is the hop's, if an authenticated one gave it."""

    presented: Presented
    request: Request
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may go on: who it is, why, and headers for the answer."""

    identity: VerifiedIdentity
    decision: Decision
    headers: tuple[tuple[str, str], ...]
    request_id: str


@dataclass(slots=True)
class _Attempt:
    """One request on its way through `admit`."""

    boundary: Boundary
    request_id: str
    started: float
    now: datetime
    asked: Asked | None = None
    verdict: Verdict | None = None

    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self.started

    def record(self) -> dict[str, Any]:
        """For the log. Never a token, a proof, a query or an EK hash."""
        record: dict[str, Any] = {"request_id": self.request_id, "boundary": self.boundary.name}
        if self.asked is not None:
            request = self.asked.request
            record |= {"method": request.method[:32], "path": request.target.partition("?")[0][:256]}
        if self.verdict is not None and self.asked is not None:
            identity, decision, request = self.verdict.identity, self.verdict.decision, self.asked.request
            crossing = Crossing(
                self.boundary, request.method, read_path(request.target), request.labels, request.claims
            )
            record |= {
                "spiffe_id": str(identity.spiffe_id),
                "credential": identity.credential_id,
                "kind": identity.kind,
                "remembered": self.verdict.remembered,
            } | record_decision(Situation.of(identity, crossing, self.now), decision)
        return record


class Edge:
    """One edge in one process. Its background thread starts with the first request, or with `start`."""

    def __init__(
        self,
        store: BundleStore,
        *,
        tokens: TokenRules | None,
        boundaries: Mapping[str, Guarded] = MappingProxyType({}),
        make_refresher: Callable[[], Refresher] | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.store = store
        self.boundaries = boundaries
        self.metrics = Metrics()
        self._tokens = tokens
        self._make_refresher = make_refresher
        self._entropy = entropy
        self._refresher: Refresher | None = None
        self._started_in: int | None = None
        self._starting = threading.Lock()
        self._watch()

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """From the configuration, with this machine's clock and randomness. Loads the bundle on disk.

        Raises Misconfigured. A bundle on disk that is damaged or stale is no error: the edge refuses crossings, and
        says so, until it has a good one.
        """
        roots = read_certificates(read_file(settings.root, limit=MAX_PEM), where=str(settings.root))
        clock = EdgeClock(lambda: datetime.now(UTC), time.monotonic, datetime.fromtimestamp(0, UTC))
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
            make_refresher=lambda: _refresher(settings, store, feed),
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
        """Begins to refresh in the background, once in each process: threads do not survive a fork."""
        if self._make_refresher is None or self._started_in == os.getpid():
            return
        with self._starting:
            if self._started_in != os.getpid():
                self._refresher = self._make_refresher()
                self._refresher.start()
                self._started_in = os.getpid()

    def stop(self) -> None:
        """Ends the background thread of this process and keeps what has to be kept."""
        with self._starting:
            if self._refresher is not None and self._started_in == os.getpid():
                self._refresher.stop()
            self._refresher, self._started_in = None, None

    def admit(self, boundary: Boundary, read: Callable[[], Asked]) -> Admitted | Refusal:
        """Judges one request. `read` takes it apart; what that raises is a refusal, too."""
        attempt = _Attempt(boundary, self._entropy(8).hex(), time.perf_counter(), self.store.clock.now())
        try:
            self.start()
            attempt.asked = asked = read()
            if asked.request_id is not None and _REQUEST_ID.fullmatch(asked.request_id):
                attempt.request_id = asked.request_id
            attempt.verdict = verdict = judge(
                self.store.view(),
                boundary=boundary,
                presented=asked.presented,
                request=asked.request,
                tokens=self._tokens,
                now=attempt.now,
            )
        except AttestdError as error:
            return self._refuse(error, attempt)
        except Exception as error:  # the door stays shut on what nobody foresaw
            logger.exception("a request could not be judged", extra={"attestd": attempt.record()})
            return self._refuse(EdgeFailed(f"{type(error).__name__}: {error}"[:300]), attempt)
        if not verdict.decision.allowed:
            return self._refuse(CrossingDenied("; ".join(verdict.decision.reasons)), attempt)
        self.metrics.allowed(boundary.name, attempt.seconds(), remembered=verdict.remembered)
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

    def status(self) -> dict[str, Any]:
        """What an operator wants to know about this edge."""
        ready, why = self.readiness()
        found: dict[str, Any] = {"ready": ready, "why": why, "clock_behind_seconds": _seconds(self.store)}
        found["connection"] = self._refresher.connection if self._refresher is not None else "not started"
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

    def _refuse(self, error: AttestdError, attempt: _Attempt) -> Refusal:
        answer = refusal(error, request_id=attempt.request_id, nonce=self._nonce(attempt.now))
        remembered = attempt.verdict is not None and attempt.verdict.remembered
        self.metrics.refused(attempt.boundary.name, attempt.seconds(), type(error).slug(), remembered=remembered)
        reasons = attempt.verdict.decision.reasons if attempt.verdict is not None else (str(error),)
        record = {"problem": type(error).slug(), "status": answer.status, "reasons": reasons}
        logger.warning("refused: %s", "; ".join(reasons), extra={"attestd": attempt.record() | record})
        return answer

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


def _refresher(settings: Settings, store: BundleStore, feed: Feed | None) -> Refresher:
    return Refresher(
        store,
        Service(settings.server, roots=store.roots),
        load_identity=lambda: ProxyIdentity.load(settings.key, settings.certificate),
        certificate_file=settings.certificate,
        trust_domain=settings.trust_domain,
        chance=random.random,
        feed=feed,
    )
