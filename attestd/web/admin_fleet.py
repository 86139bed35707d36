"""The admin API for many devices at once: the brake on quarantines, and releasing a cohort (docs/operations.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

from flask import Blueprint, Response

from attestd.ids import DeviceId, Site, Tier
from attestd.operations.fleet import Fate
from attestd.protocol.encoding import MalformedJson, Members
from attestd.registry import causes
from attestd.registry.cohorts import Cohort
from attestd.registry.devices import APPRAISAL, OPERATOR
from attestd.registry.labels import parse_labels
from attestd.web.admin_views import Query, answer, cause_members, device_members, held_members
from attestd.web.bodies import only_reason, read_message, read_reason
from attestd.web.context import Service, exchange
from attestd.web.touching import require_touch

QUARANTINED_BY: Final = (APPRAISAL, OPERATOR)
MAX_LABEL: Final = 192  # characters of NAME=VALUE
_MAX_NUMBER: Final = (1 << 53) - 1

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Many:
    service: Service

    def show_brake(self) -> Response:
        """GET /v1/admin/brake"""
        query = Query("after", "limit")
        after, limit = query.text("after"), query.limit()
        seen = self.service.fleet.brake_standing(
            now=exchange().now, after=None if after is None else DeviceId(after), limit=limit
        )
        engaged = {"at": seen.brake.engaged_at, "by": seen.brake.engaged_by, "reason": seen.brake.reason}
        return answer(
            {
                "enabled": seen.enabled,
                "engaged": engaged if seen.brake.engaged else None,
                "count": seen.count,
                "limit": seen.limit,
                "held_count": seen.held_count,
                "first_end": seen.first_end,
                "held": [held_members(held) for held in seen.held],
                "after": seen.held[-1].device_id if len(seen.held) == limit else None,
            }
        )

    def show_causes(self) -> Response:
        """GET /v1/admin/brake/causes"""
        Query()
        with self.service.registry.reading() as c:
            found, more = causes.of_held(c)
        return answer({"causes": [cause_members(each) for each in found], "more": more})

    def engage_brake(self) -> Response:
        """POST /v1/admin/brake/engage"""
        current = exchange()
        reason = only_reason(current.body)
        self.service.fleet.engage_brake(current.act(reason))
        return answer({"engaged": True})

    def release_brake(self) -> Response:
        """POST /v1/admin/brake/release"""
        current = exchange()
        message = read_message(current.body)
        fate = _one_of(message.text("held", limit=16), "held", {fate.value: fate for fate in Fate})
        reason = read_reason(message)
        message.done()
        done = self.service.fleet.release_brake(fate, current.act(reason))
        return answer({"engaged": False, "held": done.held, "quarantined": done.quarantined})

    def release_cohort(self) -> Response:
        """POST /v1/admin/devices/release-cohort"""
        current = exchange()
        message = read_message(current.body)
        cohort = _cohort(message)
        dry_run = message.boolean("dry_run") if "dry_run" in message else False
        expected = None if dry_run else _whole(message, "expected")
        reason = read_reason(message)
        message.done()
        if expected is None:
            seen = self.service.fleet.preview(cohort)
            domain = self.service.settings.trust_domain
            return answer({"count": seen.count, "devices": [device_members(device, domain) for device in seen.devices]})
        require_touch(self.service, current)
        done = self.service.fleet.release_cohort(cohort, expected=expected, act=current.act(reason))
        return answer({"released": done.released, "left": done.left})


def _cohort(message: Members) -> Cohort:
    return Cohort(
        site=Site(message.text("site", limit=64)) if "site" in message else None,
        tier=Tier.parse(message.text("tier", limit=16)) if "tier" in message else None,
        label=_label(message.text("label", limit=MAX_LABEL)) if "label" in message else None,
        since=_whole(message, "since") if "since" in message else None,
        quarantined_by=_one_of(message.text("by", limit=16), "by", {name: name for name in QUARANTINED_BY})
        if "by" in message
        else None,
    )


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise MalformedJson("label is not a label.", seen=repr(text[:80]), expected="NAME=VALUE")
    parse_labels({name: value})
    return name, value


def _whole(message: Members, name: str) -> int:
    value = message.integer(name)
    if not 0 <= value <= _MAX_NUMBER:
        raise MalformedJson(f"{name} is out of range.", seen=value, expected=f"0 to {_MAX_NUMBER}")
    return value


def _one_of(text: str, name: str, known: dict[str, _T]) -> _T:
    if text not in known:
        raise MalformedJson(f"{name} is none that is known.", seen=repr(text), expected=" or ".join(known))
    return known[text]


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    many = _Many(service)
    routes = Blueprint("admin_fleet", __name__, url_prefix="/v1/admin")
    routes.get("/brake")(many.show_brake)
    routes.get("/brake/causes")(many.show_causes)
    routes.post("/brake/engage")(many.engage_brake)
    routes.post("/brake/release")(many.release_brake)
    routes.post("/devices/release-cohort")(many.release_cohort)
    return routes
