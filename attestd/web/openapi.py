"""The service's OpenAPI 3.1 description: made of the one table of doors (access.py), so that it can't leave one out.

`GET /v1/openapi.json` and `attestd openapi` give it. What a door's own limits, caller and nonce imply (statuses,
headers, media types) is derived; what it takes and answers stands in `description`, once for each
door.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any, Final

from flask import Blueprint, Response

from attestd.operations.touch import HEADER as TOUCH
from attestd.operations.touch import MAX_HEADER as MAX_TOUCH
from attestd.protocol.demanded import HEADER, MAX_HEADER
from attestd.protocol.encoding import write_object
from attestd.protocol.signed import SCHEME
from attestd.web.access import DEVICES, DOORS, UNATTENDED, Door, Who
from attestd.web.context import Service
from attestd.web.description import DESCRIBED, SCHEMAS
from attestd.web.description.described import Described
from attestd.web.description.words import BINARY, DIGEST, LINES, NUMBER, SEGMENT, SERIAL, Schema, octets, ref
from attestd.web.once import HEADER as ONCE
from attestd.web.once import SCHEMA as ONCE_SCHEMA
from attestd.web.once import is_once
from attestd.web.problems import MEDIA_TYPE

_JSON: Final = "application/json"
_TOUCH: Final[Mapping[str, Any]] = {
    "name": TOUCH,
    "in": "header",
    "required": False,
    "description": "From a session of the console: base64url of {challenge, credential}, which confirm this very call.",
    "schema": {"type": "string", "maxLength": MAX_TOUCH},
}
_UNATTENDED: Final[Mapping[str, Any]] = {
    "name": UNATTENDED,
    "in": "header",
    "required": False,
    "description": "From a session of the console: `1`, if nobody asked for this. It keeps no session alive.",
    "schema": {"const": "1"},
}
_VARIABLE: Final = re.compile(r"<(?:\w+:)?(\w+)>")
_VARIABLES: Final[Mapping[str, Schema]] = {
    "id": SEGMENT,
    "name": SEGMENT,
    "serial": SERIAL,
    "sha256": DIGEST,
    "number": NUMBER,
}
_SECURITY: Final[Mapping[Who, str]] = {
    Who.PUBLIC: "",
    Who.DEVICE: "device",
    Who.PROXY: "proxy",
    Who.VIEWER: "operator",
    Who.OPERATOR: "operator",
    Who.ADMIN: "operator",
}


@cache
def describe() -> bytes:
    """The description as JSON."""
    paths: dict[str, dict[str, Any]] = {}
    for route, door in DOORS.items():
        method, _, path = route.partition(" ")
        paths.setdefault(_VARIABLE.sub(r"{\1}", path), {})[method.lower()] = _operation(route, door, DESCRIBED[route])
    signed = "A detached JWS over method, URL, nonce and body (docs/protocol.md, section 2), in `Authorization`."
    return write_object(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "attestd",
                "version": "1",
                "description": "Device identity and attestation. docs/protocol.md has every derivation and signature.",
            },
            "paths": paths,
            "components": {
                "schemas": SCHEMAS,
                "securitySchemes": {
                    "operator": {"type": "http", "scheme": SCHEME, "description": f"An operator's key. {signed}"},
                    "proxy": {"type": "http", "scheme": SCHEME, "description": f"An edge proxy's key. {signed}"},
                    "device": {
                        "type": "http",
                        "scheme": SCHEME,
                        "description": "A device's credential key. The body is itself a flattened JWS.",
                    },
                },
            },
        }
    )


def _operation(route: str, door: Door, described: Described) -> dict[str, Any]:
    method, _, path = route.partition(" ")
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _VARIABLES[name]} for name in _VARIABLE.findall(path)
    ]
    parameters += [
        {"name": name, "in": "query", "required": name in described.required, "schema": schema}
        for name, schema in described.query.items()
    ]
    if is_once(route, door):
        parameters.append({"name": ONCE, "in": "header", "required": False, "schema": ONCE_SCHEMA})
    if door.touch:
        parameters.append(dict(_TOUCH))
    if method == "GET" and _SECURITY[door.who] == "operator":
        parameters.append(dict(_UNATTENDED))
    found: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": described.summary,
        "tags": [door.who.value],
        "x-caller": door.who.value,
        "parameters": parameters,
        "responses": dict(_responses(route, door, described)),
    }
    if security := _SECURITY[door.who]:
        found["security"] = [{security: []}]
    if door.accepts:
        found["requestBody"] = {
            "required": True,
            "x-limit": door.limit,
            "content": {kind: {"schema": _body(described, kind)} for kind in sorted(door.accepts)},
        }
        if described.signed:
            found["requestBody"]["x-signed-payload"] = ref(described.signed)
    return found


def _operation_id(route: str) -> str:
    words = re.findall(r"[a-z0-9]+", _VARIABLE.sub(r"by \1", route.replace("/v1", "").replace(".", "")).lower())
    return "_".join(words)


def _body(described: Described, kind: str) -> Schema:
    if described.signed:
        return ref("SignedRequest")
    if described.takes:
        return ref(described.takes)
    return LINES if kind in ("text/csv", "application/jsonl") else BINARY


def _responses(route: str, door: Door, described: Described) -> Iterator[tuple[str, dict[str, Any]]]:
    """Successes as described; then every refusal that this door can come to."""
    for status, answer in described.answers.items():
        yield str(status), _response(status, door, _content(answer))
    problem = {MEDIA_TYPE: {"schema": ref("Problem")}}
    for status in sorted(_refusals(route, door, described) - set(described.answers)):
        yield str(status), _response(status, door, problem)


def _content(answer: str | tuple[str, Schema] | None) -> dict[str, Any]:
    if answer is None:
        return {}
    if isinstance(answer, str):
        return {_JSON: {"schema": ref(answer)}}
    kind, schema = answer
    return {kind: {"schema": schema}}


def _refusals(route: str, door: Door, described: Described) -> set[int]:
    """400 for what can't be read, 413 for what is too large, 429 and 503 for what is too much, whatever the door."""
    found = {400, 413, 429, 503} | described.refusals
    if door.who is not Who.PUBLIC:
        found |= {401, 403}
    if door.accepts:
        found |= {408, 415}
    if "<" in route:
        found.add(404)
    if is_once(route, door):
        found.add(409)
    if door.who is Who.DEVICE or (door.accepts and door.who is not Who.PUBLIC):
        found |= {404, 409}
    return found


def _response(status: int, door: Door, content: dict[str, Any]) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    if door.nonce:
        headers["Replay-Nonce"] = {
            "description": "For the next signed request.",
            "required": True,
            "schema": octets(256, least=1),
        }
    if door.nonce and door.who in DEVICES:
        headers[HEADER] = {
            "description": "What an attestation should hold now: a quote's PCRs, and logs. Unknown without a database.",
            "required": False,
            "schema": {"type": "string", "maxLength": MAX_HEADER},
        }
    if status in (202, 429, 503) and content.get(_JSON, {}).get("schema") != ref("Ready"):
        headers["Retry-After"] = {
            "description": "Seconds.",
            "required": True,
            "schema": {"type": "integer", "minimum": 1},
        }
    if status == 401:
        headers["WWW-Authenticate"] = {"required": True, "schema": {"const": SCHEME}}
    found: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if headers:
        found["headers"] = headers
    if content:
        found["content"] = content
    return found


def blueprint(service: Service) -> Blueprint:
    """GET /v1/openapi.json"""
    del service
    routes = Blueprint("openapi", __name__)

    def openapi() -> Response:
        return Response(describe(), content_type=_JSON, headers={"Cache-Control": "public, max-age=300"})

    routes.get("/v1/openapi.json")(openapi)
    return routes
