"""Demands that devices attest now: operators make them, and each device's agent asks every so often.

Agents ask without a signature, so that it costs next to nothing: a look into a set that each worker keeps in memory.
Whoever knows a device's id learns whether it shall attest, and nothing about whether there is such a device.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from flask import Blueprint, Response

from attestd.errors import AttestdError
from attestd.ids import DeviceId, Site, Tier
from attestd.protocol.encoding import Members, write_object
from attestd.registry import demands
from attestd.registry.demands import MAX_AT_ONCE, Cohort
from attestd.registry.engine import Registry
from attestd.registry.labels import parse_labels
from attestd.web.admin_views import JSON, answer
from attestd.web.bodies import read_message, read_reason
from attestd.web.context import Service, exchange

_log = logging.getLogger(__name__)
_EVERY: Final = 1.0  # seconds between two looks into the database
_SHARE: Final = 20  # a look that took long is followed by so many times as long without one
_CACHE: Final = "public, max-age=2"
_ATTEST: Final = write_object({"v": 1, "attest": True})


class Outstanding:
    """Who shall attest, as of a moment ago. One a process; while one thread looks anew, others take what is there.

    While the database is away, what was known stays known: who was asked to attest is still asked.
    """

    def __init__(self, registry: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry, self._clock = registry, clock
        self._looking = threading.Lock()
        self._known: frozenset[str] = frozenset()
        self._next = float("-inf")

    def __contains__(self, device_id: str) -> bool:
        if self._clock() >= self._next and self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._looking.release()
        return device_id in self._known

    def _look(self) -> None:
        began = self._clock()
        try:
            with self._registry.reading() as c:
                self._known = demands.outstanding(c)
        except AttestdError as error:
            _log.warning("who shall attest is not known anew", extra={"members": {"problem": error.slug()}})
        ended = self._clock()
        self._next = ended + max(_EVERY, _SHARE * (ended - began))


@dataclass(frozen=True, slots=True)
class _Demands:
    service: Service
    outstanding: Outstanding

    def is_demanded(self, id: str) -> Response:
        """GET /v1/demands/<id>: no id is malformed here, for that would tell ids from others"""
        if id in self.outstanding:
            return Response(_ATTEST, content_type=JSON, headers={"Cache-Control": _CACHE})
        nothing = Response(status=204, headers={"Cache-Control": _CACHE})
        del nothing.headers["Content-Type"]
        return nothing

    def demand_cohort(self) -> Response:
        """POST /v1/admin/devices/demand"""
        current = exchange()
        message = read_message(current.body)
        cohort = Cohort(
            ids=tuple(map(DeviceId, message.texts("ids", most=MAX_AT_ONCE, limit=64))) if "ids" in message else (),
            site=Site(message.text("site", limit=64)) if "site" in message else None,
            tier=Tier.parse(message.text("tier", limit=16)) if "tier" in message else None,
            labels=_labels(message) if "labels" in message else {},
        )
        after = DeviceId(message.text("after", limit=64)) if "after" in message else None
        reason = read_reason(message)
        message.done()
        demanded = self.service.operations.demand_cohort(cohort, after=after, act=current.act(reason))
        return answer({"demanded": list(demanded.ids), "after": demanded.after})


def _labels(message: Members) -> dict[str, str]:
    members = message.object("labels")
    return parse_labels({name: members.text(name) for name, _ in members.items()})


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    door = _Demands(service, Outstanding(service.registry))
    routes = Blueprint("demands", __name__, url_prefix="/v1")
    routes.get("/demands/<id>")(door.is_demanded)
    routes.post("/admin/devices/demand")(door.demand_cohort)
    return routes
