"""What descriptions are written with: the forms and messages that more parts than one use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attestd.appraisal.manifests import Stage
from attestd.ids import Tier
from attestd.protocol.encoding import MAX_SECONDS
from attestd.registry.operators import Role
from attestd.registry.states import State

Schema = Mapping[str, Any]

_SEGMENT: Final = "^[a-z0-9][a-z0-9._-]{0,63}$"
TIMES: Final = {"type": "integer", "minimum": 0, "description": "unix seconds"}
CHAIN: Final = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
COUNT: Final = {"type": "integer", "minimum": 0}
VERSION: Final = {"const": 1}

SEGMENT: Final[Schema] = {"type": "string", "pattern": _SEGMENT}
SERIAL: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{1,40}$"}
DIGEST: Final[Schema] = {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}
TIER: Final[Schema] = {"enum": [tier.value for tier in Tier]}
STATE: Final[Schema] = {"enum": [state.value for state in State]}
ROLE: Final[Schema] = {"enum": [role.value for role in Role]}
STAGE: Final[Schema] = {"enum": [stage.value for stage in Stage]}
LIMIT: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 1000}
NUMBER: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
SECONDS: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": MAX_SECONDS}
LABELS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}
JWS: Final[Schema] = {"type": "string", "pattern": r"^[\w-]+\.[\w-]+\.[\w-]+$"}
LINES: Final[Schema] = {"type": "string"}
BINARY: Final[Schema] = {}
PEM: Final[Schema] = {"type": "string", "pattern": "^-----BEGIN CERTIFICATE-----\n"}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def closed(required: Mapping[str, Schema], **optional: Schema) -> dict[str, Any]:
    """An object with these members and no other."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": sorted(required),
        "additionalProperties": False,
    }


def text(limit: int, *, least: int = 0) -> Schema:
    return {"type": "string", "minLength": least, "maxLength": limit}


def octets(limit: int, *, least: int = 0) -> Schema:
    """Base64url without padding of so many octets."""
    sizes = {"minLength": (least * 4 + 2) // 3, "maxLength": (limit * 4 + 2) // 3}
    return {"type": "string", "pattern": "^[A-Za-z0-9_-]*$", **sizes}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def list_of(of: Schema, most: int | None = None) -> Schema:
    return {"type": "array", "items": of} | ({} if most is None else {"maxItems": most})


def named(of: Schema, most: int) -> Schema:
    """An object whose names are data."""
    names = {"type": "string", "pattern": "^[!-~]{1,64}$"}
    return {"type": "object", "propertyNames": names, "additionalProperties": of, "maxProperties": most}


def answer(**members: Schema) -> dict[str, Any]:
    return closed({"v": VERSION, **members})


def message(required: Mapping[str, Schema] | None = None, **optional: Schema) -> dict[str, Any]:
    """An operator's or a proxy's message: its version may be left out."""
    return closed(required or {}, v=VERSION, **optional)


REASON: Final[Mapping[str, Schema]] = {"reason": text(500)}

# An attestation result.
RESULT: Final = closed(
    {
        "status": {"enum": ["none", "affirming", "warning", "contraindicated"]},
        "vector": {"type": "object", "additionalProperties": {"type": "integer", "minimum": -128, "maximum": 127}},
        "reasons": list_of({"type": "string"}),
        "attested_at": TIMES,
    },
    # Not in results of before these were kept.
    facts={"type": "object", "additionalProperties": {"type": ["string", "boolean", "integer"]}},
    policies=list_of({"type": "string"}),
    monitored=list_of(
        closed(
            {
                "policy": {"type": "string"},
                "would": {"enum": ["hold", "refuse"]},
                "reasons": list_of({"type": "string"}),
            }
        )
    ),
)

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Nothing": message(),
    "Reason": message(**REASON),
    "Named": answer(name=SEGMENT),
    "Problem": closed(
        {
            "type": {"type": "string", "pattern": "^urn:attestd:problem:[a-z0-9-]+$"},
            "title": text(200, least=1),
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": text(2000, least=1),
            "remedy": {"type": "string", "minLength": 1},
            "request_id": {"type": "string"},
        },
        seen=text(2000),
        expected=text(2000),
        errors=list_of(closed({"line": COUNT, "what": {"type": "string"}})),
        more={"type": "boolean"},
    ),
}
