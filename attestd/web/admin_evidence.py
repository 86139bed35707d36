"""Evidence for who wants to check it again. It holds the TPM's certificate, so it is for those who may see an EK."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, Response

from attestd.ids import DeviceId
from attestd.operations.exporting import export
from attestd.registry.evidence import BAD, GOOD
from attestd.web.admin_views import JSON, Query, QueryMalformed
from attestd.web.context import Service, exchange


@dataclass(frozen=True, slots=True)
class _Evidence:
    service: Service

    def export(self, id: str) -> Response:
        """GET /v1/admin/devices/<id>/evidence: the newest, or by `verdict`"""
        verdict = Query("verdict").text("verdict", limit=8)
        if verdict not in (None, GOOD, BAD):
            raise QueryMalformed("This is no verdict.", seen=repr(verdict), expected=f"{GOOD}, {BAD}")
        service = self.service
        contents = service.attestations.appraiser.contents
        bundle = export(service.registry, contents, DeviceId(id), verdict=verdict, act=exchange().act())
        return Response(bundle.to_bytes(), content_type=JSON)


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    routes = Blueprint("admin_evidence", __name__, url_prefix="/v1/admin")
    routes.get("/devices/<id>/evidence")(_Evidence(service).export)
    return routes
