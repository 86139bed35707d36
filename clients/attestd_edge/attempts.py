"""One request on its way through an edge: what its door read, what became of it, what is written down of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from attestd.credentials.receipts import Crossed
from attestd.policy import Boundary, Crossing
from attestd.policy.recorded import record as record_decision
from attestd.policy.situations import Situation
from attestd_edge.decide import Presented, Request
from attestd_edge.paths import read_path
from attestd_edge.receipts import crossings
from attestd_edge.views import Verdict, View

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a door read from a request. `request_id` is the hop's, if an authenticated one gave it; `digest_claimed` the
    SHA-256 that the sender says the content has."""

    presented: Presented
    request: Request
    request_id: str | None = None
    digest_claimed: bytes | None = None

    def again(self, target: str, request_id: str | None) -> Asked:
        """The same for another path, under another id. As `dataclasses.replace`, which takes three times as long."""
        request = self.request
        if target != request.target:
            request = replace(request, target=target)
        return Asked(self.presented, request, request_id, self.digest_claimed)


@dataclass(slots=True)
class Attempt:
    """One request on its way through `admit`."""

    boundary: Boundary
    entropy: Callable[[int], bytes]
    started: float
    now: datetime
    asked: Asked | None = None
    verdict: Verdict | None = None
    view: View | None = None
    known_as: str | None = None

    @property
    def request_id(self) -> str:
        """The hop's if it gave a good one, else one of our own: drawn when it is asked for, and the same then."""
        if self.known_as is None:
            told = self.asked.request_id if self.asked is not None else None
            if told is None or not _REQUEST_ID.fullmatch(told):
                told = self.entropy(8).hex()
            self.known_as = told
        return self.known_as

    def crossed(self, problem: str) -> Crossed:
        """For a receipt; `problem` is empty for what may cross."""
        request = self.asked.request if self.asked is not None else None
        if request is None or self.verdict is None or self.view is None or self.asked is None:
            return crossings.unjudged(self.boundary, request, request_id=self.request_id, problem=problem)
        return crossings.judged(
            self.boundary,
            request,
            self.verdict,
            self.view.bundle,
            request_id=self.request_id,
            problem=problem,
            digest_claimed=self.asked.digest_claimed,
        )

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
            path = read_path(request.target)
            crossing = Crossing(self.boundary, request.method, path, request.labels, request.claims, self.verdict.stale)
            record |= {
                "spiffe_id": str(identity.spiffe_id),
                "credential": identity.credential_id,
                "kind": identity.kind,
                "remembered": self.verdict.remembered,
            } | record_decision(Situation.of(identity, crossing, self.now), decision)
        return record
