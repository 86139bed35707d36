"""Proofs of the audit trail (docs/protocol.md, section 8): for auditors by the admin API, for edges at their door."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, Response

from attestd.protocol.encoding import b64encode
from attestd.registry.audit import AuditRowUnknown
from attestd.web.admin_views import NUMBER, Query, QueryMalformed, answer
from attestd.web.context import Service, exchange


@dataclass(frozen=True, slots=True)
class _Audit:
    service: Service

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
        if not NUMBER.fullmatch(number):
            raise AuditRowUnknown(seen=repr(number[:40]))
        return answer(self.service.publication.audit.inclusion(int(number), exchange().now).to_members())

    def consistency(self) -> Response:
        """GET /v1/admin/audit/consistency, for edges /v1/audit/consistency: that a tree begins with a smaller one"""
        query = Query("log", "first", "second")
        first, second = query.number("first"), query.number("second")
        if first is None or second is None:
            raise QueryMalformed("The sizes of two heads are missing.", expected="first=…&second=…")
        path = self.service.publication.audit.consistency(query.number("log"), first, second)
        return answer({"path": [b64encode(step) for step in path]})


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    door = _Audit(service)
    routes = Blueprint("audit", __name__)
    routes.get("/v1/admin/audit/head")(door.head)
    routes.get("/v1/admin/audit/<number>/proof")(door.proof)
    routes.get("/v1/admin/audit/consistency", endpoint="admin_consistency")(door.consistency)
    routes.get("/v1/audit/consistency")(door.consistency)
    return routes
