"""Policies before they are in force: checked as they are written, and tried on what was decided lately."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from flask import Blueprint, Response

from attestd.errors import Limited
from attestd.ids import Site
from attestd.operations.trials import MAX_WINDOW, Covered, Trials, Tried
from attestd.policy.review import review
from attestd.policy.source import MAX_POLICY, Flaw
from attestd.policy.trying import EXAMPLES, Affected, Group, Trial
from attestd.protocol.encoding import Members
from attestd.registry.policies import MAX_VERSION
from attestd.web.admin_views import answer
from attestd.web.bodies import read_message
from attestd.web.context import Service, exchange

_HOUR: Final = timedelta(hours=1)
_WINDOW: Final = 24  # hours
_AT_ONCE: Final = 2  # texts that a process checks
_SHOWN: Final = 30  # groups
_CLIPPED: Final = 512  # characters of a path


class TooManyChecks(Limited):
    """Too many policies are being checked at the moment"""


@dataclass(frozen=True, slots=True)
class _Policies:
    trials: Trials
    checks: threading.BoundedSemaphore

    def check(self) -> Response:
        """POST /v1/admin/policy/check: what is wrong is an answer, not a problem"""
        message = read_message(exchange().body)
        text = message.text("text", limit=MAX_POLICY)
        message.done()
        if not self.checks.acquire(blocking=False):
            raise TooManyChecks(retry_after=1)
        try:
            found = review(text)
        finally:
            self.checks.release()
        return answer(
            {
                "valid": not found.flaws,
                "policies": [
                    {"id": one.id, "effect": one.effect, "line": one.line, "when_stale": one.when_stale}
                    for one in found.policies
                ],
                "flaws": list(map(_flaw, found.flaws)),
                "warnings": list(map(_flaw, found.warnings)),
            }
        )

    def dry_run(self) -> Response:
        """POST /v1/admin/policy/dry-run: a text, or the version that one would go back to"""
        current = exchange()
        message = read_message(current.body)
        text = _which(message)
        hours = message.number("window", least=1, most=MAX_WINDOW // _HOUR) if "window" in message else _WINDOW
        site = Site(message.text("site", limit=64)) if "site" in message else None
        message.done()
        began = time.monotonic()
        found = self.trials.run(text, site=site, window=hours * _HOUR, now=current.now)
        return answer(_tried(found) | {"window": hours, "seconds": round(time.monotonic() - began, 3)})


def _which(message: Members) -> str | int:
    if "version" in message:
        return message.number("version", least=1, most=MAX_VERSION - 1)
    return message.text("text", limit=MAX_POLICY)


def _flaw(flaw: Flaw) -> dict[str, Any]:
    return {"line": flaw.place.line, "column": flaw.place.column, "message": flaw.message}


def _tried(found: Tried) -> dict[str, Any]:
    trial, texts = found.trial, found.texts
    groups = trial.sorted_groups()
    return {
        "in_force": found.in_force.version,
        "policies": {"added": list(texts.added), "removed": list(texts.removed), "changed": list(texts.changed)},
        "source": "receipts",
        "since": found.since,
        "judged": trial.judged,
        "crossed": trial.crossed,
        "by_nearest": found.by_nearest,
        "looked_at": found.looked,
        "whole": found.whole,
        "newly_allowed": trial.newly_allowed,
        "newly_denied": trial.newly_denied,
        "left_out": {left.value: count for left, count in trial.left.items()},
        "groups": [_group(trial, group, affected) for group, affected in groups[:_SHOWN]],
        "more_groups": max(0, len(groups) - _SHOWN),
        "not_grouped": trial.not_grouped,
        "covered": list(map(_covered, found.covered)),
    }


def _group(trial: Trial, group: Group, affected: Affected) -> dict[str, Any]:
    crossing = affected.example.crossing
    start = {"tier": group.from_tier} | ({} if group.from_site is None else {"site": group.from_site})
    return {
        "boundary": group.boundary,
        "from": start,
        "to": {"tier": group.to_tier, "site": group.to_site},
        "labels": dict(group.labels),
        "becomes": "allow" if group.allowed else "deny",
        "before": list(group.before),
        "after": list(group.after),
        "count": affected.count,
        "crossed": affected.crossed,
        "devices": len(affected.who),
        "more_devices": affected.more > 0,
        "examples": [name for name, _ in affected.who.most_common(EXAMPLES)],
        "method": "" if crossing is None else crossing.method[:32],
        "path": "" if crossing is None else crossing.path[:_CLIPPED],
        "last_at": affected.last_at,
        "because": [{"policy": one.policy, "line": one.line, "why": one.why} for one in trial.because(affected)],
    }


def _covered(each: Covered) -> dict[str, Any]:
    return {
        "boundary": each.boundary,
        "allowed": each.allowed,
        "denied": each.denied,
        "judged": each.judged,
        "judged_denied": each.judged_denied,
    }


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    door = _Policies(Trials(service.registry, time.monotonic), threading.BoundedSemaphore(_AT_ONCE))
    routes = Blueprint("policy_trials", __name__, url_prefix="/v1/admin")
    routes.post("/policy/check")(door.check)
    routes.post("/policy/dry-run")(door.dry_run)
    return routes
