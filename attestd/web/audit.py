"""The audit trail: found and read by operators, proven (docs/protocol.md, section 8) to auditors by the admin API and
to edges at their door."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from flask import Blueprint, Response

from attestd.auditing import search
from attestd.auditing.search import Wanted
from attestd.credentials.hashtree import leaf_hash
from attestd.credentials.transparency import entry_octets
from attestd.operations.edges import EdgeBook
from attestd.protocol.encoding import b64encode
from attestd.registry.audit import AuditRowUnknown
from attestd.web.admin_views import NUMBER, Query, QueryMalformed, answer, audit_members
from attestd.web.context import Service, exchange

_FILTERS: Final = ("subject", "actor", "act", "but", "since", "until", "text")
_ACT: Final = re.compile(r"[a-z0-9-]{1,40}", re.ASCII)
_MAX_ACTS: Final = 20
_MAX_NAMED: Final = 2000  # characters of a list of acts


@dataclass(frozen=True, slots=True)
class _Audit:
    service: Service
    book: EdgeBook

    def list(self) -> Response:
        """GET /v1/admin/audit: the newest first, or with `after` the oldest first from there on, to follow it"""
        query = Query(*_FILTERS, "before", "after", "limit")
        limit, before, after = query.limit(), query.number("before"), query.number("after")
        registry, log = self.service.registry, self.service.publication.audit
        if after is not None:
            if before is not None:
                raise QueryMalformed("before and after lead in opposite directions.", expected="one of them")
            found = search.following(registry, _wanted(query), after=after, limit=limit)
            return answer({"audit": [audit_members(row) for row in found.rows], "after": found.next})
        found = search.newest(registry, log.folder, _wanted(query), before=before, limit=limit)
        unread = {} if found.unread is None else {"unread": found.unread}
        return answer({"audit": [audit_members(row) for row in found.rows], "before": found.next, **unread})

    def show(self, number: str) -> Response:
        """GET /v1/admin/audit/<number>: one row, in the database or a file, and its place in the tree"""
        Query()
        found = self.service.publication.audit.opened(_number(number), exchange().now)
        head = found.head
        return answer(
            {
                "row": audit_members(found.row),
                "archived": found.archived,
                "leaf_hash": b64encode(leaf_hash(entry_octets(found.row.entry))),
                "head": None
                if head is None
                else {"log": head.log, "size": head.size, "root": b64encode(head.root), "time": head.at},
                "path": [b64encode(step) for step in found.path],
                "trouble": found.trouble,
            }
        )

    def witnesses(self) -> Response:
        """GET /v1/admin/audit/witnesses: which head each edge last used, and so found to go on from all before"""
        Query()
        now, publication = exchange().now, self.service.publication
        newest = publication.audit.head(now).head
        edges = []
        for each in self.book.every(now):
            if each.proxy.disabled_at is not None:
                continue
            told = each.told
            bundle = None if told is None else told.bundle
            seen = None if bundle is None else publication.head_in(f"{bundle[0]}.{bundle[1]}")
            edges.append(
                {
                    "name": each.proxy.name,
                    "site": each.proxy.site,
                    "state": each.state.value,
                    "heard_at": None if told is None else told.heard_at,
                    "log": None if seen is None else seen.log,
                    "size": None if seen is None else seen.size,
                }
            )
        return answer({"log": newest.log, "size": newest.size, "edges": edges})

    def head(self) -> Response:
        """GET /v1/admin/audit/head: the newest head, over every row committed so far"""
        Query()
        found = self.service.publication.audit.head(exchange().now)
        head = found.head
        return answer(
            {"log": head.log, "size": head.size, "root": b64encode(head.root), "time": head.at, "head": found.jws}
        )

    def proof(self, number: str) -> Response:
        """GET /v1/admin/audit/<number>/proof: that this row is under the newest head"""
        Query()
        return answer(self.service.publication.audit.inclusion(_number(number), exchange().now).to_members())

    def consistency(self) -> Response:
        """GET /v1/admin/audit/consistency, for edges /v1/audit/consistency: that a tree begins with a smaller one"""
        query = Query("log", "first", "second")
        first, second = query.number("first"), query.number("second")
        if first is None or second is None:
            raise QueryMalformed("The sizes of two heads are missing.", expected="first=…&second=…")
        path = self.service.publication.audit.consistency(query.number("log"), first, second)
        return answer({"path": [b64encode(step) for step in path]})


def _number(text: str) -> int:
    if not NUMBER.fullmatch(text):
        raise AuditRowUnknown(seen=repr(text[:40]))
    return int(text)


def _wanted(query: Query) -> Wanted:
    return Wanted(
        subject=query.text("subject"),
        actor=query.text("actor"),
        acts=_acts(query, "act"),
        but=_acts(query, "but"),
        since=query.number("since"),
        until=query.number("until"),
        text=query.text("text") or "",
    )


def _acts(query: Query, name: str) -> tuple[str, ...]:
    """Acts with commas between them."""
    text = query.text(name, limit=_MAX_NAMED)
    acts = () if text is None else tuple(text.split(","))
    if len(acts) > _MAX_ACTS or not all(_ACT.fullmatch(act) for act in acts):
        raise QueryMalformed(
            f"{name} is no list of acts.",
            seen=repr((text or "")[:80]),
            expected=f"up to {_MAX_ACTS} with commas between",
        )
    return acts


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    door = _Audit(service, EdgeBook(service.registry, service.settings))
    routes = Blueprint("audit", __name__)
    routes.get("/v1/admin/audit")(door.list)
    routes.get("/v1/admin/audit/head")(door.head)
    routes.get("/v1/admin/audit/witnesses")(door.witnesses)
    routes.get("/v1/admin/audit/<number>")(door.show)
    routes.get("/v1/admin/audit/<number>/proof")(door.proof)
    routes.get("/v1/admin/audit/consistency", endpoint="admin_consistency")(door.consistency)
    routes.get("/v1/audit/consistency")(door.consistency)
    return routes
