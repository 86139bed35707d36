"""Quarantining an active device by a contraindicated result: at once, or held by the brake (docs/operations.md).

A result quarantines in the act that records it. When more would within a minute than the settings allow, or while the
brake is engaged, the result is held instead: the device stays as it was found before, until that no longer counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from attestd.appraisal.results import AttestationResult
from attestd.config import BrakeSettings
from attestd.errors import Forbidden
from attestd.registry import audit, brake, counts, transitions
from attestd.registry.acts import Step, perform
from attestd.registry.engine import Connection, Registry
from attestd.registry.standing import Standing
from attestd.registry.states import Event, State

FLEET: Final = "fleet"  # the brake, in the audit trail
SERVICE: Final = "attestd"  # who engages it by itself
_COUNTED_FOR: Final = 60  # seconds


class ResultHeld(Forbidden):
    """The device's evidence is contraindicated, and an operator has to decide about it"""

    remedy = "Bring the device into a state that the reference values know and attest again, or ask an operator."


class Quarantines:
    """One a process, for both verbs: how many devices are active is asked once a minute."""

    def __init__(self, registry: Registry, settings: BrakeSettings) -> None:
        self.settings = settings
        self._registry = registry
        self._limit = (0, -_COUNTED_FOR)  # and when it was found
        self._refused_at = -_COUNTED_FOR  # when the brake last refused a quarantine here

    def limit(self, now: datetime) -> int:
        """How many devices may be quarantined within a minute."""
        at = int(now.timestamp())
        limit, since = self._limit
        if abs(at - since) >= _COUNTED_FOR:
            with self._registry.reading() as c:
                limit = self.settings.limit(counts.matching(c, {"state": [State.ACTIVE.value]}))
            self._limit = limit, at
        return limit

    def settle(
        self,
        device: Standing,
        result: AttestationResult,
        *,
        quarantining: Sequence[Step],
        holding: Callable[[], Sequence[Step]],
        now: datetime,
        request_id: str,
    ) -> bool:
        """Quarantines this active device, in one act with `quarantining`: True. Or, where the brake refuses, holds the
        result, in one act with what `holding` returns, which is asked for it then: False.

        The steps are what else belongs to either: the request that is spent, the result, audit rows. Raises what they
        say, and StateChanged.
        """
        at = int(now.timestamp())
        change = transitions.changing_state(
            device.id,
            Event.QUARANTINE,
            reason="; ".join(result.reasons),
            now=at,
            expected_version=device.state_version,
        )
        if not self.settings.enabled:
            self._registry.act(*quarantining, *change)
            return True
        limit = self.limit(now)
        counted = brake.quarantining(device.id, limit=limit, now=at)
        # Who was refused a moment ago expects it again. To be wrong costs nothing but a slower way to the same.
        if abs(at - self._refused_at) >= _COUNTED_FOR:
            try:
                self._registry.act(*counted, *quarantining, *change)
            except (brake.BrakeEngaged, brake.BrakeLimit):
                self._refused_at = at
            else:
                return True
        held = holding()
        with self._registry.acting() as c:
            found = brake.take(c)
            seen = brake.recent(c, now=at)
            if not found.engaged and seen < limit:  # an operator released it meanwhile
                self._refused_at = -_COUNTED_FOR
                perform(c, *counted, *quarantining, *change)
                return True
            if not found.engaged:
                self._engage(c, seen, limit, at, request_id)
            # The device that was appraised, and none that an operator quarantined or replaced since.
            perform(c, transitions.unchanged(device.id, expected_version=device.state_version), *held)
            brake.hold(c, device.id, result.to_members(), now=at)
            _note(c, at, "hold", str(device.id), request_id, because=list(result.reasons))
        return False

    def _engage(self, c: Connection, seen: int, limit: int, at: int, request_id: str) -> None:
        """The audit row is the alarm: webhooks carry it outward."""
        reason = f"{seen} devices were quarantined within {brake.WINDOW} s; the limit is {limit}"
        brake.engage(c, by=SERVICE, reason=reason, now=at)
        _note(c, at, "engage-brake", FLEET, request_id, count=seen, limit=limit, reason=reason)


def _note(c: Connection, at: int, act: str, subject: str, request_id: str, **detail: object) -> None:
    audit.append(c, at=at, actor=SERVICE, act=act, subject=subject, request_id=request_id, detail=detail)
