"""Edge proxies: what they fetch and report, and what operators see of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.operations.edges import MAX_BOUNDARIES, MAX_COUNT, MAX_HOURS, MAX_REASONS, MAX_STANDING
from attestd.operations.edges import State as EdgeState
from attestd.protocol.evidence import MAX_CERTIFICATE
from attestd.web.description.boundaries import GUARDED
from attestd.web.description.described import Described
from attestd.web.description.words import (
    CHAIN,
    COUNT,
    JWS,
    NUMBER,
    PEM,
    SECONDS,
    SEGMENT,
    SERIAL,
    TIMES,
    Schema,
    answer,
    closed,
    list_of,
    message,
    named,
    octets,
    or_null,
    ref,
    text,
)

_PARTS: Final[Mapping[str, Schema]] = {name: {"type": "string"} for name in ("keys", "policy", "status", "revoked")}
_BUNDLE_NAMED: Final = closed({"epoch": COUNT, "version": COUNT, "issued_at": TIMES})
_PROXY: Final[Mapping[str, Schema]] = {
    "name": SEGMENT,
    "site": SEGMENT,
    "serial": SERIAL,
    "created_at": TIMES,
    "disabled_at": or_null(TIMES),
    "state": {"enum": [state.value for state in EdgeState]},
    "heard_at": or_null(TIMES),
    "bundle": or_null(_BUNDLE_NAMED),
    "bundle_age": or_null(COUNT),
    "versions_behind": or_null(COUNT),
    "seconds_behind": COUNT,
    "stale_boundaries": COUNT,
    "receipts_waiting": or_null(COUNT),
}
_REPORTED_COUNT: Final = {"type": "integer", "minimum": 0, "maximum": MAX_COUNT}
_WHOLE: Final = {"type": "integer", "minimum": 0, "maximum": (1 << 53) - 1}
_FROM_ONE: Final = {**_WHOLE, "minimum": 1}

DESCRIBED: Final[Mapping[str, Described]] = {
    "GET /v1/bundle": Described("What an edge decides by, signed", {200: "Bundle", 226: "BundleDelta", 304: None}),
    "GET /v1/bundle/stream": Described(
        "What an edge decides by, as it changes: server-sent events, each a bundle or a delta",
        {200: ("text/event-stream", {"type": "string"})},
        refusals=frozenset({503}),
    ),
    "GET /v1/audit/consistency": Described(
        "That the audit trail's tree begins with a smaller one",
        {200: "ConsistencyAnswer"},
        query={"log": NUMBER, "first": NUMBER, "second": NUMBER},
        required=frozenset({"first", "second"}),
        refusals=frozenset({404, 409}),
    ),
    "POST /v1/proxies/renewals": Described("A proxy's next certificate", {200: "ProxyAnswer"}, "Nothing"),
    "POST /v1/proxies/reports": Described(
        "What an edge decided, and how it stands; each report counts once",
        {200: "EdgeReportAnswer"},
        "EdgeReport",
    ),
    "GET /v1/admin/proxies": Described("Edge proxies, and how each stands", {200: "Proxies"}),
    "GET /v1/admin/proxies/<name>": Described(
        "One edge proxy, with what it decided; `since`: left out, in the last day",
        {200: "ProxyPage"},
        query={"since": NUMBER},
    ),
    "POST /v1/admin/proxies": Described("Give an edge proxy an identity", {201: "ProxyAdded"}, "NewProxy"),
    "POST /v1/admin/proxies/<name>/disable": Described("Disable a proxy", {200: "Named"}, "Nothing"),
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Bundle": answer(statement=JWS, signer=list_of(octets(MAX_CERTIFICATE)), parts=closed(_PARTS, head=JWS)),
    "BundleDelta": answer(
        statement=JWS, base={"type": "string", "pattern": r"^\d+\.\d+$"}, parts={"type": "object", "maxProperties": 5}
    )
    | {"additionalProperties": True},
    "ProxyAnswer": answer(chain=PEM, renew_after=SECONDS, expires_in=SECONDS),
    "EdgeReport": message(
        {
            "ledger": CHAIN,
            "sequence": _FROM_ONE,
            "since": _WHOLE,
            "until": _WHOLE,
            "bundle": or_null(closed({"epoch": _FROM_ONE, "version": _FROM_ONE, "issued_at": _WHOLE})),
            "counts": named(
                closed({"allowed": _REPORTED_COUNT, "refused": named(_REPORTED_COUNT, MAX_REASONS)}), MAX_BOUNDARIES
            ),
            "receipts_waiting": _WHOLE,
            "stale_for": named(SECONDS, MAX_STANDING),
        },
        boundaries=GUARDED,
    ),
    "EdgeReportAnswer": answer(sequence=_FROM_ONE),
    "EdgeStanding": closed(_PROXY),
    "Proxies": answer(time=TIMES, proxies=list_of(ref("EdgeStanding"))),
    "ProxyPage": answer(
        time=TIMES,
        proxy=closed(_PROXY),
        totals=closed(dict.fromkeys(("allowed", "refused", "reports", "missed"), COUNT)),
        boundaries=list_of(
            closed(
                {
                    "name": {"type": "string"},
                    "stale_for": or_null(COUNT),
                    "allowed": COUNT,
                    "refused": {"type": "object", "additionalProperties": COUNT},
                }
            )
        ),
        hours=list_of(
            closed({"at": TIMES, "boundary": {"type": "string"}, "allowed": COUNT, "refused": COUNT}), MAX_HOURS
        ),
    ),
    "NewProxy": message({"name": SEGMENT, "site": SEGMENT, "public_key": text(4096)}),
    "ProxyAdded": answer(name=SEGMENT, site=SEGMENT, chain=PEM),
}
