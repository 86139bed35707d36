"""Envoy's side of ext_authz, as Envoy does it: CheckRequests, and the requests of its HTTP mode."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from urllib.parse import quote

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

CHECK = "/envoy.service.auth.v3.Authorization/Check"
HOST = "shop.example.org"


def escaped(der: bytes) -> str:
    """urlEncodedPemEncodedPeerCertificate() of Envoy's connections."""
    pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM).decode()
    return quote(pem, safe="")


def forwarded(der: bytes, *more: str) -> str:
    """X-Forwarded-Client-Cert of a connection with this certificate, by SANITIZE_SET and `cert`."""
    return ";".join((f"Hash={hashlib.sha256(der).hexdigest()}", f'Cert="{escaped(der)}"', *more))


def question(
    leaf: bytes | None = None,
    *headers: tuple[str, str],
    boundary: str | None = "field-to-munich",
    labels: str | None = None,
    raw: bool = True,
    method: str = "GET",
    scheme: str = "https",
    host: str = HOST,
    path: str = "/orders",
) -> CheckRequest:
    """What Envoy asks about one request; `raw`: with encode_raw_headers, else equal headers are joined by commas."""
    request = CheckRequest()
    attributes = request.attributes
    if leaf is not None:
        attributes.source.certificate = escaped(leaf)
        attributes.source.principal = "spiffe://example.org/device/munich/somebody-else"
    if boundary is not None:
        attributes.context_extensions["attestd-boundary"] = boundary
    if labels is not None:
        attributes.context_extensions["attestd-labels"] = labels
    http = attributes.request.http
    http.id, http.method, http.scheme, http.host, http.path = "1234", method, scheme, host, path
    http.protocol = "HTTP/1.1"
    pseudo = ((":authority", host), (":path", path), (":method", method), (":scheme", scheme))
    ours = (("x-forwarded-proto", "https"), ("x-request-id", "1f0a3b5c-0000-4000-8000-000000000001"))
    for name, value in (*pseudo, *headers, *ours):
        key = name.lower()
        if raw:
            http.header_map.headers.add(key=key, raw_value=value.encode("latin-1"))
        else:
            http.headers[key] = f"{http.headers[key]},{value}" if key in http.headers else value
    return request


def asked(channel: grpc.Channel, request: CheckRequest | bytes) -> CheckResponse:
    octets = request if isinstance(request, bytes) else request.SerializeToString()
    call = channel.unary_unary(CHECK, response_deserializer=CheckResponse.FromString)
    return call(octets, timeout=20, wait_for_ready=True)


def status_of(response: CheckResponse) -> int:
    """What Envoy makes of it: 200 lets the request on."""
    if response.status.code == 0:
        assert response.WhichOneof("http_response") == "ok_response"
        return 200
    assert response.WhichOneof("http_response") == "denied_response"
    return int(response.denied_response.status.code)


def upstream(response: CheckResponse, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers with which the request goes on: Envoy sets, and then removes (its filter's order)."""
    assert status_of(response) == 200
    found = [(name.lower(), value) for name, value in headers]
    for option in response.ok_response.headers:
        assert option.append_action == option.OVERWRITE_IF_EXISTS_OR_ADD
        found = [(name, value) for name, value in found if name != option.header.key]
        found.append((option.header.key, option.header.value))
    return [(name, value) for name, value in found if name not in response.ok_response.headers_to_remove]


def told(response: CheckResponse) -> dict[str, str]:
    """The headers that come to the client."""
    options = (
        response.ok_response.response_headers_to_add if status_of(response) == 200 else response.denied_response.headers
    )
    return {option.header.key: option.header.value for option in options}
