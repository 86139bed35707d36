"""The fleet for operators: how it stands, and its devices by any combination of filters (docs/fleet.md).

An EK hash finds its device by POST alone: it is a lifelong tracker, and stays out of addresses and logs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Final

from flask import Blueprint, Response

from attestd.errors import NotFound
from attestd.ids import DeviceId, EkHash
from attestd.operations.edges import Standing
from attestd.operations.overview import Overview, Watchtower
from attestd.registry import brake, causes, counts, devices, finding, outlook
from attestd.registry.filters import FILTERS, Filters
from attestd.web.admin_views import Query, answer, cause_members, device_members, held_members
from attestd.web.bodies import read_message
from attestd.web.context import Service, exchange

_MOST_CAUSES: Final = 20
_MOST_EDGES: Final = 20


class NoSuchTpm(NotFound):
    """No device has this endorsement key"""

    remedy = "`attestd-agent evidence` prints a device's EK hash; a replaced TPM is nobody's any more."


@dataclass(frozen=True, slots=True)
class _Fleet:
    service: Service

    @property
    def tower(self) -> Watchtower:
        return Watchtower(self.service.settings, self.service.registry, self.service.authority)

    def overview(self) -> Response:
        """GET /v1/admin/overview"""
        Query()
        now = exchange().now
        started = perf_counter()
        self.service.registry.schema()
        answered = perf_counter() - started
        seen = self.tower.look(now)
        at = int(now.timestamp())
        bundle = seen.bundle
        return answer(
            {
                "trust_domain": self.service.settings.trust_domain,
                "time": at,
                "devices": {state.value: count for state, count in seen.states.items()},
                "policy_version": seen.policy_version,
                "bundle": None if bundle is None else dict(zip(("epoch", "version", "issued_at"), bundle, strict=True)),
                "tiers": {tier: asdict(share) for tier, share in seen.tiers.items()},
                "sites": seen.sites,
                "needs": _needs(seen, at),
                "results": [asdict(each) for each in seen.results],
                "refusals": [_refusal(each) for each in seen.refusals],
                "expiring": {
                    "soon": [asdict(each) for each in seen.endings],
                    "makers": {
                        "count": seen.makers.count,
                        "first": [{"subject": subject, "ends": ends} for subject, ends in seen.makers.first],
                    },
                    "next_hour": {"count": seen.certificates, "exact": seen.certificates < outlook.COUNTED},
                },
                "service": self._health(seen, at, answered),
            }
        )

    def count(self) -> Response:
        """GET /v1/admin/counts: what stands beside a navigation, without all that the overview looks at"""
        Query()
        with self.service.registry.reading() as c:
            found = counts.by_state(c)
        return answer({"devices": {state.value: count for state, count in found.items()}})

    def _health(self, seen: Overview, at: int, answered: float) -> dict[str, Any]:
        behind = [edge for edge in seen.edges if edge.versions_behind != 0]
        pace = self.service.attesting_pace.lately(now=at)
        issuers = [key for key in self.service.authority.held() if (key.kind, key.state) == ("issuer", "current")]
        return {
            "database": {
                "kind": "SQLite" if self.service.settings.database_url.startswith("sqlite") else "PostgreSQL",
                "microseconds": int(answered * 1_000_000),
            },
            "attestations": {
                "count": pace.count,
                "since": pace.since,
                "microseconds": None if pace.seconds is None else int(pace.seconds * 1_000_000),
            },
            "audit": {
                "size": seen.audit_size,
                "unsealed": seen.unsealed.count,
                "lag": 0 if seen.unsealed.oldest is None else max(0, at - seen.unsealed.oldest),
            },
            "edges": {
                "count": len(seen.edges),
                "newest": len(seen.edges) - len(behind),
                "behind": [_edge(edge, at) for edge in behind[:_MOST_EDGES]],
            },
            "brake": {
                "enabled": self.service.settings.brake.enabled,
                "engaged_at": seen.brake.engaged_at,
                "recent": seen.brake_recent,
                "held": seen.brake_held,
            },
            "signing_key": issuers[0].place if issuers else "elsewhere",
        }

    def list_devices(self) -> Response:
        """GET /v1/admin/devices"""
        query = Query(*FILTERS, "after", "limit")
        filters = _filters(query)
        after, limit = query.text("after"), query.limit()
        ended_by = self.tower.ended_by(exchange().now)
        with self.service.registry.reading() as c:
            found = finding.page(
                c, filters, ended_by=ended_by, after=None if after is None else DeviceId(after), limit=limit
            )
            held = brake.held_against(c, [device.id for device in found.devices])
        return answer(
            {
                "devices": [device_members(device, self.service.settings.trust_domain) for device in found.devices],
                "held": [held_members(each) for each in held.values()],
                "after": found.after,
                "total": found.total,
                "ended_by": ended_by,
            }
        )

    def list_causes(self) -> Response:
        """GET /v1/admin/causes"""
        filters = _filters(Query(*FILTERS))
        with self.service.registry.reading() as c:
            found, more = causes.of_matching(c, filters, ended_by=self.tower.ended_by(exchange().now))
        return answer({"causes": [cause_members(each) for each in found], "more": more})

    def list_sites(self) -> Response:
        """GET /v1/admin/sites"""
        query = Query("after", "limit")
        after, limit = query.text("after") or "", query.limit()
        with self.service.registry.reading() as c:
            found = counts.sites(c, first=f"{after}!", before="\U0010ffff", limit=limit)
        return answer({"sites": found, "after": found[-1] if len(found) == limit else None})

    def find(self) -> Response:
        """POST /v1/admin/devices/find"""
        message = read_message(exchange().body)
        ek_hash = EkHash.parse(message.text("ek_hash", limit=64))
        message.done()
        with self.service.registry.reading() as c:
            device = devices.by_ek_hash(c, ek_hash)
        if device is None:
            raise NoSuchTpm
        return answer({"id": device.id})


def _filters(query: Query) -> Filters:
    return Filters.parse({name: query.text(name) or "" for name in FILTERS})


def _needs(seen: Overview, at: int) -> dict[str, Any]:
    """What somebody has to do something about."""
    edges: dict[str, list[Standing]] = {}
    for edge in seen.edges:
        edges.setdefault(str(edge.proxy.site), []).append(edge)
    return {
        "quarantined": [asdict(each) for each in seen.quarantined[:_MOST_CAUSES]],
        "quarantined_more": len(seen.quarantined) > _MOST_CAUSES
        or sum(each.count for each in seen.quarantined) >= outlook.LOOKED,
        "overdue": [
            {
                "site": each.site,
                "count": each.count,
                "since": each.since,
                "edges": [_edge(edge, at) for edge in edges.get(each.site, [])[:5]],
            }
            for each in seen.late
        ],
        "overdue_sites": seen.late_sites,
    }


def _edge(standing: Standing, at: int) -> dict[str, Any]:
    told = standing.told
    return {
        "name": standing.proxy.name,
        "site": str(standing.proxy.site),
        "state": standing.state.value,
        "heard_at": None if told is None else told.heard_at,
        "bundle_version": None if told is None else told.version,
        "bundle_age": standing.bundle_age(at),
    }


def _refusal(each: Any) -> dict[str, Any]:
    return {
        "why": each.why,
        "verb": each.verb,
        "count": each.count,
        "last_at": each.last_at,
        "sites": _sites(each.sites[:10]),
        "devices": list(each.devices),
    }


def _sites(sites: Any) -> list[dict[str, Any]]:
    return [{"site": site, "count": count} for site, count in sites]


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    fleet = _Fleet(service)
    routes = Blueprint("fleet", __name__, url_prefix="/v1/admin")
    routes.get("/overview")(fleet.overview)
    routes.get("/counts")(fleet.count)
    routes.get("/devices")(fleet.list_devices)
    routes.get("/causes")(fleet.list_causes)
    routes.get("/sites")(fleet.list_sites)
    routes.post("/devices/find")(fleet.find)
    return routes
