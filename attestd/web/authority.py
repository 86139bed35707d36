"""How the authority stands, and what depends on whom it trusts: for operators to look at. Keys are changed on the
service's own machine alone (`attestd ca`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from flask import Blueprint, Response

from attestd.registry import evidence
from attestd.web.admin_views import Query, answer
from attestd.web.context import Service, exchange


@dataclass(frozen=True, slots=True)
class _Authority:
    service: Service

    def show(self) -> Response:
        """GET /v1/admin/authority"""
        Query()
        current, standing = exchange(), self.service.authority
        return answer(
            {
                "time": int(current.now.timestamp()),
                "trust_domain": self.service.settings.trust_domain,
                "certificates": [_certificate(kind, one) for kind, one in standing.certificates()],
                "keys": [asdict(key) for key in standing.held()],
                "due": [asdict(stage) for stage in standing.stages(current.now)],
                "lifetimes": self._lifetimes(),
            }
        )

    def _lifetimes(self) -> dict[str, int]:
        """Seconds, by what lasts so long: certificates by their profiles' names, then what is no certificate."""
        settings = self.service.settings
        lasting = {name: profile.lifetime for name, profile in sorted(self.service.certifying.profiles.items())}
        lasting |= {"token": settings.credentials.token_lifetime, "bundle": settings.bundle.stale_after}
        lasting |= {"root": settings.credentials.root_lifetime, "issuer": settings.credentials.issuer_lifetime}
        return {name: int(lifetime.total_seconds()) for name, lifetime in lasting.items()}

    def dependents(self) -> Response:
        """GET /v1/admin/trust/dependents"""
        Query()
        with self.service.registry.reading() as c:
            counted = evidence.count_by_maker(c)
        return answer(
            {
                "makers": [{"sha256": sha256.hex(), "devices": devices} for sha256, devices in sorted(counted.items())],
            }
        )


def _certificate(kind: str, certificate: x509.Certificate) -> dict[str, Any]:
    return {
        "kind": kind,
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
        "not_before": int(certificate.not_valid_before_utc.timestamp()),
        "not_after": int(certificate.not_valid_after_utc.timestamp()),
    }


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    authority = _Authority(service)
    routes = Blueprint("authority", __name__, url_prefix="/v1/admin")
    routes.get("/authority")(authority.show)
    routes.get("/trust/dependents")(authority.dependents)
    return routes
