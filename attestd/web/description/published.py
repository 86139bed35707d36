"""What the service publishes to everybody, and how it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.web.description.described import Described
from attestd.web.description.words import BINARY, JWS, LINES, PEM, Schema, answer, closed, list_of, ref

DESCRIBED: Final[Mapping[str, Described]] = {
    "GET /v1/root": Described("The root certificate", {200: ("application/pem-certificate-chain", PEM)}),
    "GET /v1/jwks": Described("The token keys", {200: ("application/jwk-set+json", ref("Jwks"))}),
    "GET /.well-known/jwks.json": Described("The token keys", {200: ("application/jwk-set+json", ref("Jwks"))}),
    "GET /v1/crl": Described("The certificate revocation list (DER)", {200: ("application/pkix-crl", BINARY)}),
    "GET /v1/status-list": Described(
        "The states of all devices, as a Token Status List", {200: ("application/statuslist+jwt", JWS)}
    ),
    "GET /v1/policy/schema": Described(
        "The schema of policies, in Cedar's language", {200: ("text/plain", {"type": "string"})}
    ),
    "GET /v1/openapi.json": Described("This description", {200: "Description"}),
    "GET /healthz": Described("Is it alive?", {200: ("text/plain", LINES)}),
    "GET /readyz": Described("Can it do its work?", {200: "Ready", 503: "Ready"}),
    "GET /metrics": Described("Prometheus' text format", {200: ("text/plain", LINES)}),
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Jwks": closed(
        {
            "keys": list_of(
                {
                    "type": "object",
                    "required": ["kty", "crv", "x", "y", "kid"],
                    "properties": {"kty": {"const": "EC"}, "crv": {"const": "P-256"}, "d": False},
                }
            )
        }
    ),
    "Description": {"type": "object", "required": ["openapi", "info", "paths"]},
    "Ready": answer(ready={"type": "boolean"}, reasons=list_of({"type": "string"})),
}
