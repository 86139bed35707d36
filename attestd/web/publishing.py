"""What everybody may fetch (the root, token keys, the CRL), and what edge proxies may (bundles, their own renewal)."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, Response, request

from attestd.credentials.copies import DELTA
from attestd.policy import published_schema
from attestd.protocol.encoding import write_object
from attestd.web.bodies import read_message
from attestd.web.bundle_stream import KIND
from attestd.web.context import Service, exchange
from attestd.web.streams import ALIVE, MEDIA_TYPE, begun, event

# How long others may keep what is public. Revocation is urgent, and bundles carry it within a second; the CRL is for
# those who have nothing else.
_CACHE_KEYS = "public, max-age=300"
_CACHE_CRL = "public, max-age=60"
_CACHE_STATUS = "public, max-age=15"
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class _Publishing:
    service: Service

    def root(self) -> Response:
        """GET /v1/root"""
        return Response(
            self.service.publication.roots_pem,
            content_type="application/pem-certificate-chain",
            headers={"Cache-Control": _CACHE_KEYS},
        )

    def jwks(self) -> Response:
        """GET /v1/jwks (RFC 7517, section 8.5.1 names the media type)"""
        return Response(
            write_object(self.service.publication.jwks()),
            content_type="application/jwk-set+json",
            headers={"Cache-Control": _CACHE_KEYS},
        )

    def crl(self) -> Response:
        """GET /v1/crl (RFC 2585, section 4.2 names the media type)"""
        return Response(
            self.service.publication.crl(exchange().now),
            content_type="application/pkix-crl",
            headers={"Cache-Control": _CACHE_CRL},
        )

    def status_list(self) -> Response:
        """GET /v1/status-list (draft-ietf-oauth-status-list-21, section 8.1 names the media type)"""
        return Response(
            self.service.publication.status_list(exchange().now),
            content_type="application/statuslist+jwt",
            headers={"Cache-Control": _CACHE_STATUS},
        )

    def policy_schema(self) -> Response:
        """GET /v1/policy/schema: what this service's policies may speak of"""
        return Response(published_schema(), content_type="text/plain; charset=utf-8")

    def bundle(self) -> Response:
        """GET /v1/bundle: 304 to the proxy that has this very one (RFC 9110, section 13.1.2); 226 with what is
        different from the one that it has, if it takes that (RFC 3229) and that one is still kept."""
        bundle = self.service.publication.bundle(exchange().now)
        if request.if_none_match.contains_weak(bundle.name):
            unchanged = Response(status=304, headers=_named(bundle.name))
            del unchanged.headers["Content-Type"]
            return unchanged
        if request.headers.get("A-IM", "").strip().lower() == DELTA:
            for base in request.if_none_match.as_set():
                name, content, is_delta = self.service.publication.update(base)
                if is_delta:
                    told = {"IM": DELTA, "Delta-Base": f'"{base}"'}
                    return Response(content, status=226, content_type=_JSON, headers=_named(name) | told)
        return Response(bundle.content, content_type=_JSON, headers=_named(bundle.name))

    def stream(self) -> Response:
        """GET /v1/bundle/stream: what is new since the bundle that Last-Event-ID names, or a whole one, and then each
        change as it comes. `streams` goes on from here."""
        newest = self.service.publication.bundle(exchange().now).name
        has = request.headers.get("Last-Event-ID", "")
        begin = ALIVE
        if has != newest:
            newest, content, is_delta = self.service.publication.update(has)
            begin = event("delta" if is_delta else "bundle", newest, content)
        return Response(begin, content_type=MEDIA_TYPE, headers=begun(KIND, exchange().caller.name, newest))

    def renew_proxy(self) -> Response:
        """POST /v1/proxies/renewals"""
        current = exchange()
        read_message(current.body).done()
        certificate, chain = self.service.certifying.renew_proxy(current.caller.name, current.act())
        left = int((certificate.not_after - current.now).total_seconds())
        answer = {"v": 1, "chain": chain, "renew_after": left // 2, "expires_in": left}
        return Response(write_object(answer), content_type="application/json")


def _named(name: str) -> dict[str, str]:
    """A strong ETag (RFC 9110, section 8.8.3): epoch and version."""
    return {"ETag": f'"{name}"', "Vary": "If-None-Match, A-IM"}


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    door = _Publishing(service)
    routes = Blueprint("publishing", __name__)
    routes.get("/v1/root")(door.root)
    routes.get("/v1/jwks")(door.jwks)
    routes.get("/.well-known/jwks.json", endpoint="well_known_jwks")(door.jwks)
    routes.get("/v1/crl")(door.crl)
    routes.get("/v1/status-list")(door.status_list)
    routes.get("/v1/policy/schema")(door.policy_schema)
    routes.get("/v1/bundle")(door.bundle)
    routes.get("/v1/bundle/stream")(door.stream)
    routes.post("/v1/proxies/renewals")(door.renew_proxy)
    return routes
