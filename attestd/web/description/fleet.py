"""How the fleet stands, its devices by filters, and what happens in it (docs/fleet.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.operations.edges import State as EdgeState
from attestd.registry import causes, finding
from attestd.registry.filters import MAX_TEXT
from attestd.web.description.described import Described
from attestd.web.description.words import (
    COUNT,
    DIGEST,
    LIMIT,
    NUMBER,
    SEGMENT,
    STATE,
    TIER,
    TIMES,
    Schema,
    answer,
    closed,
    list_of,
    message,
    or_null,
    ref,
    text,
)

_TEXT: Final[Schema] = {"type": "string"}
_SITES: Final = list_of(closed({"site": SEGMENT, "count": COUNT}))
_EXAMPLES: Final = list_of(SEGMENT, 5)
_SHARE: Final = closed(
    dict.fromkeys(
        ("devices", "affirming", "warning", "contraindicated", "none", "overdue", "quarantined"),
        COUNT,
    )
)
_EDGE: Final = closed(
    {
        "name": SEGMENT,
        "site": SEGMENT,
        "state": {"enum": [state.value for state in EdgeState]},
        "heard_at": or_null(TIMES),
        "bundle_version": or_null(COUNT),
        "bundle_age": or_null(COUNT),
    }
)
_LISTED: Final[Schema] = {**text(MAX_TEXT), "description": "names with commas between them: one must hold"}
FILTERS: Final[Mapping[str, Schema]] = {
    "state": {**_LISTED, "description": "states with commas between them, `overdue` beside them"},
    "result": _LISTED,
    "tier": TIER,
    "site": SEGMENT,
    "maker": text(MAX_TEXT),
    "label": {**text(MAX_TEXT), "description": "name=value, or a name for any value"},
    "overdue": {"enum": ["yes"]},
    "q": {**text(MAX_TEXT), "description": "words: each begins an id, serial number, maker, model, site or label"},
}

DESCRIBED: Final[Mapping[str, Described]] = {
    "GET /v1/admin/overview": Described("How the fleet stands", {200: "Overview"}),
    "GET /v1/admin/counts": Described("How many devices there are, by state", {200: "Counts"}),
    "GET /v1/admin/devices/<id>/edges": Described(
        "How many edges refuse a device, by the bundles that they last said they use", {200: "RefusingEdges"}
    ),
    "GET /v1/admin/brake/causes": Described("What the brake holds, by why it would quarantine", {200: "Causes"}),
    "GET /v1/admin/devices": Described(
        "Devices by any combination of filters, page by page, in the order of their ids",
        {200: "Devices"},
        query={**FILTERS, "after": SEGMENT, "limit": LIMIT},
    ),
    "GET /v1/admin/causes": Described(
        "The devices that match, by why they are as they are", {200: "Causes"}, query=FILTERS
    ),
    "GET /v1/admin/sites": Described(
        "Sites that have devices", {200: "Sites"}, query={"after": SEGMENT, "limit": LIMIT}
    ),
    "POST /v1/admin/devices/find": Described("The device of an endorsement key", {200: "FoundDevice"}, "FindDevice"),
    "GET /v1/admin/events": Described(
        "What happens, as it does: events `changed`, with topics and devices; `since`: and what did before now",
        {200: ("text/event-stream", {"type": "string"})},
        query={"since": NUMBER},
        refusals=frozenset({503}),
    ),
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Overview": answer(
        trust_domain=_TEXT,
        time=TIMES,
        devices={"type": "object", "propertyNames": STATE, "additionalProperties": COUNT},
        policy_version=COUNT,
        bundle=or_null(closed({"epoch": COUNT, "version": COUNT, "issued_at": TIMES})),
        tiers={"type": "object", "propertyNames": TIER, "additionalProperties": _SHARE},
        sites=COUNT,
        needs=closed(
            {
                "quarantined": list_of(
                    closed(
                        {
                            "why": _TEXT,
                            "site": _TEXT,
                            "by": or_null(_TEXT),
                            "count": COUNT,
                            "since": TIMES,
                            "example": SEGMENT,
                            "serial_number": or_null(_TEXT),
                        }
                    )
                ),
                "quarantined_more": {"type": "boolean"},
                "overdue": list_of(closed({"site": _TEXT, "count": COUNT, "since": TIMES, "edges": list_of(_EDGE, 5)})),
                "overdue_sites": COUNT,
            }
        ),
        results=list_of(closed({"at": TIMES, "status": _TEXT, "count": COUNT})),
        refusals=list_of(
            closed(
                {"why": _TEXT, "verb": _TEXT, "count": COUNT, "last_at": TIMES, "sites": _SITES, "devices": _EXAMPLES}
            )
        ),
        expiring=closed(
            {
                "soon": list_of(closed({"what": _TEXT, "name": _TEXT, "ends": TIMES})),
                "makers": closed({"count": COUNT, "first": list_of(closed({"subject": _TEXT, "ends": TIMES}), 5)}),
                "next_hour": closed({"count": COUNT, "exact": {"type": "boolean"}}),
            }
        ),
        service=closed(
            {
                "database": closed({"kind": {"enum": ["SQLite", "PostgreSQL"]}, "microseconds": COUNT}),
                "attestations": {
                    **closed({"count": COUNT, "since": or_null(TIMES), "microseconds": or_null(COUNT)}),
                    "description": "that the answering process served lately; 95 of 100 took so long at most",
                },
                "audit": closed(dict.fromkeys(("size", "unsealed", "lag"), COUNT)),
                "edges": closed({"count": COUNT, "newest": COUNT, "behind": list_of(_EDGE)}),
                "brake": closed(
                    {
                        "enabled": {"type": "boolean"},
                        "engaged_at": or_null(TIMES),
                        "recent": COUNT,
                        "held": COUNT,
                    }
                ),
                "signing_key": _TEXT,
            }
        ),
    ),
    "RefusingEdges": answer(
        edges={**COUNT, "description": "that are not disabled"},
        refuse=COUNT,
        others={
            **list_of(
                closed(
                    {
                        "name": SEGMENT,
                        "state": {"enum": [state.value for state in EdgeState]},
                        "heard_at": or_null(TIMES),
                    }
                ),
                5,
            ),
            "description": "the first that are not known to refuse it",
        },
    ),
    "Counts": answer(devices={"type": "object", "propertyNames": STATE, "additionalProperties": COUNT}),
    "Devices": answer(
        devices=list_of(ref("Device"), 1000),
        held={**list_of(ref("Held"), 1000), "description": "results of these devices that the brake holds"},
        after={**or_null(SEGMENT), "description": "where to go on, even after a page that is not full"},
        total={**or_null(COUNT), "description": "how many match, if that is known exactly"},
        ended_by={**TIMES, "description": "an active device whose result ended by then is overdue"},
    ),
    "Causes": answer(
        causes=list_of(
            closed(
                {
                    "kind": _TEXT,
                    "why": _TEXT,
                    "count": COUNT,
                    "sites": _SITES,
                    "devices": _EXAMPLES,
                    "since": or_null(TIMES),
                }
            ),
            causes.MAX_CAUSES,
        ),
        more={"type": "boolean", "description": f"only the first {finding.FEW} devices were looked at"},
    ),
    "Sites": answer(sites=list_of(SEGMENT, 1000), after=or_null(SEGMENT)),
    "FindDevice": message({"ek_hash": DIGEST}),
    "FoundDevice": answer(id=SEGMENT),
}
