"""The boundaries of the fleet, for operators (docs/sites.md)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from flask import Blueprint, Response

from attestd.ids import Site
from attestd.operations.boundaries import MAX_NAMED, MAX_WINDOW, Boundaries, Crossed, Sums
from attestd.operations.edges import EdgeBook
from attestd.web.admin_views import Query, QueryMalformed, answer
from attestd.web.context import Service, exchange
from attestd.web.edges import edge_members

_HOUR: Final = timedelta(hours=1)
_WINDOW: Final = 24  # hours


@dataclass(frozen=True, slots=True)
class _Boundaries:
    boundaries: Boundaries

    def show(self) -> Response:
        """GET /v1/admin/boundaries: `window` in hours, by default a day"""
        query = Query("site", "window", "limit")
        now = exchange().now
        window = query.number("window")
        hours = _WINDOW if window is None else window
        if not _HOUR <= hours * _HOUR <= MAX_WINDOW:
            raise QueryMalformed("window is out of range.", seen=hours, expected=f"1 to {MAX_WINDOW // _HOUR} hours")
        site = query.text("site", limit=64)
        found = self.boundaries.picture(
            site=None if site is None else Site(site), window=hours * _HOUR, limit=query.limit(), now=now
        )
        at = int(now.timestamp())
        return answer(
            {
                "time": at,
                "since": found.since,
                "window": hours,
                "site": site,
                "sites": list(found.sites),
                "totals": _sums(found.all),
                "boundaries": [_members(each) for each in found.shown],
                "others": _sums(found.others),
                "ways": [
                    {
                        "from": way.start,
                        "to": way.end,
                        "boundaries": way.boundaries,
                        "allowed": way.allowed,
                        "refused": way.refused,
                    }
                    for way in found.ways
                ],
                "edges": [edge_members(each, at) for each in found.edges],
                "states": dict(found.states),
            }
        )


def _members(each: Crossed) -> dict[str, Any]:
    said = each.said or {}
    return {
        "name": each.name,
        "site": str(each.site),
        "from": said.get("from"),
        "to": said.get("to"),
        "receipts": None if each.said is None else said.get("receipts", "none"),
        "max_staleness": said.get("max_staleness"),
        "when_stale": said.get("when_stale"),
        "allowed": each.allowed,
        "refused": each.refused.total(),
        "reasons": dict(each.refused.most_common()),
        "stale_for": each.stale_for,
        "edges": len(each.guards),
        "guards": sorted(each.guards)[:MAX_NAMED],
        "states": dict(each.states),
    }


def _sums(found: Sums) -> dict[str, int]:
    return {
        "boundaries": found.boundaries,
        "sites": found.sites,
        "allowed": found.allowed,
        "refused": found.refused,
    }


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    door = _Boundaries(Boundaries(EdgeBook(service.registry, service.settings)))
    routes = Blueprint("boundaries", __name__, url_prefix="/v1/admin")
    routes.get("/boundaries")(door.show)
    return routes
