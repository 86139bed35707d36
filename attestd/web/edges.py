"""Edges tell how they stand; operators see it (docs/sites.md)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from flask import Blueprint, Response

from attestd.credentials.status import Status
from attestd.ids import DeviceId
from attestd.operations.edges import Decided, EdgeBook, Report, Standing, State
from attestd.registry import devices
from attestd.web.admin_views import Query, answer
from attestd.web.bodies import read_message
from attestd.web.context import Service, exchange

_WINDOW: Final = timedelta(days=1)
_NAMED: Final = 5  # edges of which it is not known that they refuse a device


@dataclass(frozen=True, slots=True)
class _Edges:
    book: EdgeBook
    service: Service

    def report(self) -> Response:
        """POST /v1/proxies/reports: the caller's own; a report names no proxy"""
        current = exchange()
        report = Report.read(read_message(current.body))
        return answer({"sequence": self.book.take(report, edge=current.caller.name, act=current.act())})

    def list(self) -> Response:
        """GET /v1/admin/proxies"""
        Query()
        now = exchange().now
        found = self.book.every(now)
        at = int(now.timestamp())
        return answer({"time": at, "proxies": [edge_members(each, at) for each in found]})

    def show(self, name: str) -> Response:
        """GET /v1/admin/proxies/<name>: with what it decided since then, by default in the last day"""
        query = Query("since")
        now = exchange().now
        since = query.number("since")
        if since is None:
            since = int((now - _WINDOW).timestamp())
        found, decided = self.book.one(name, since=since, now=now)
        return answer(
            {
                "time": int(now.timestamp()),
                "proxy": edge_members(found, int(now.timestamp())),
                "totals": _totals(found),
                "boundaries": _boundaries(found, decided),
                "hours": [
                    {"at": each.at, "boundary": each.boundary, "allowed": each.allowed, "refused": each.refused}
                    for each in decided.hours
                ],
            }
        )

    def refusing(self, id: str) -> Response:
        """GET /v1/admin/devices/<id>/edges: how many of them refuse it, by the bundle that each last said it uses"""
        Query()
        now, publication = exchange().now, self.service.publication
        with self.service.registry.reading() as c:
            index = devices.by_id(c, DeviceId(id)).status_index
            found = [each for each in self.book.standings(c, now) if each.state is not State.DISABLED]
        refuse, other = 0, []
        for each in found:
            bundle = None if each.told is None else each.told.bundle
            # Of a device that no bundle speaks of, and of a bundle that is not kept, nothing is known.
            status = None
            if bundle is not None and index is not None:
                status = publication.status_in(f"{bundle[0]}.{bundle[1]}", index)
            if status is not None and status is not Status.VALID:
                refuse += 1
            else:
                other.append(each)
        return answer(
            {
                "edges": len(found),
                "refuse": refuse,
                "others": [
                    {
                        "name": each.proxy.name,
                        "state": each.state.value,
                        "heard_at": None if each.told is None else each.told.heard_at,
                    }
                    for each in other[:_NAMED]
                ],
            }
        )


def edge_members(each: Standing, now: int) -> dict[str, Any]:
    proxy, told = each.proxy, each.told
    bundle = None
    if told is not None and told.bundle is not None:
        bundle = {"epoch": told.epoch, "version": told.version, "issued_at": told.issued_at}
    stale_for = {} if told is None else told.stale_for or {}
    return {
        "name": proxy.name,
        "site": proxy.site,
        "serial": str(proxy.serial),
        "created_at": proxy.created_at,
        "disabled_at": proxy.disabled_at,
        "state": each.state.value,
        "heard_at": None if told is None else told.heard_at,
        "bundle": bundle,
        "bundle_age": each.bundle_age(now),
        "versions_behind": each.versions_behind,
        "seconds_behind": each.seconds_behind,
        "stale_boundaries": sum(1 for seconds in stale_for.values() if seconds),
        "receipts_waiting": None if told is None else told.receipts_waiting,
    }


def _totals(each: Standing) -> dict[str, int]:
    told = each.told
    if told is None:
        return {"allowed": 0, "refused": 0, "reports": 0, "missed": 0}
    return {"allowed": told.allowed, "refused": told.refused, "reports": told.reports, "missed": told.missed}


def _boundaries(each: Standing, decided: Decided) -> list[dict[str, Any]]:
    stale_for = {} if each.told is None else dict(each.told.stale_for or {})
    refused: dict[str, dict[str, int]] = {}
    for (boundary, reason), count in decided.sums.items():
        if reason:
            refused.setdefault(boundary, {})[reason] = count
    names = sorted({*stale_for, *(boundary for boundary, _ in decided.sums)})
    return [
        {
            "name": name,
            "stale_for": stale_for.get(name),
            "allowed": decided.sums.get((name, ""), 0),
            "refused": refused.get(name, {}),
        }
        for name in names
    ]


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    door = _Edges(EdgeBook(service.registry, service.settings), service)
    routes = Blueprint("edges", __name__)
    routes.post("/v1/proxies/reports")(door.report)
    routes.get("/v1/admin/proxies")(door.list)
    routes.get("/v1/admin/proxies/<name>")(door.show)
    routes.get("/v1/admin/devices/<id>/edges")(door.refusing)
    return routes
