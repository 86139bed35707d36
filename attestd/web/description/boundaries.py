"""Boundaries: what edges guard, and what was decided there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.operations.boundaries import MAX_NAMED
from attestd.operations.edges import State
from attestd.operations.guarded import MAX_GUARDED, RECEIPTS
from attestd.web.description.described import Described
from attestd.web.description.words import (
    COUNT,
    LIMIT,
    SECONDS,
    SEGMENT,
    TIER,
    TIMES,
    Schema,
    answer,
    closed,
    list_of,
    or_null,
    ref,
)

END: Final = closed({"tier": TIER}, site=SEGMENT)
HOURS: Final = {"type": "integer", "minimum": 1, "maximum": 744, "description": "hours"}
_NAMED_COUNTS: Final = {"type": "object", "additionalProperties": COUNT}
_STALENESS: Final = {**SECONDS, "minimum": 1}
_STATES: Final = {"type": "object", "propertyNames": {"enum": [each.value for each in State]}} | {
    "additionalProperties": COUNT
}
_SUMS: Final = closed(dict.fromkeys(("boundaries", "sites", "allowed", "refused"), COUNT))

# What an edge tells of its boundaries.
GUARDED: Final[Schema] = {
    "type": "object",
    "propertyNames": SEGMENT,
    "maxProperties": MAX_GUARDED,
    "additionalProperties": closed(
        {"from": END, "to": closed({"tier": TIER, "site": SEGMENT})},
        receipts={"enum": list(RECEIPTS)},
        max_staleness=_STALENESS,
        when_stale=SEGMENT,
    ),
}

DESCRIBED: Final[Mapping[str, Described]] = {
    "GET /v1/admin/boundaries": Described(
        "Boundaries by how much is refused there; `window` in hours",
        {200: "BoundariesPage"},
        query={"site": SEGMENT, "window": {**LIMIT, "maximum": 744}, "limit": LIMIT},
    ),
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "BoundariesPage": answer(
        time=TIMES,
        since=TIMES,
        window=HOURS,
        site=or_null(SEGMENT),
        sites=list_of({"type": "string"}),
        totals=_SUMS,
        others=_SUMS,
        ways=list_of(
            closed(
                {
                    "from": or_null(TIER),
                    "to": or_null(TIER),
                    **dict.fromkeys(("boundaries", "allowed", "refused"), COUNT),
                }
            )
        ),
        boundaries=list_of(
            closed(
                {
                    "name": {"type": "string"},
                    "site": SEGMENT,
                    "from": or_null(END),
                    "to": or_null(END),
                    "receipts": {"enum": ["none", *RECEIPTS, None]},
                    "max_staleness": or_null(_STALENESS),
                    "when_stale": or_null(SEGMENT),
                    "allowed": COUNT,
                    "refused": COUNT,
                    "reasons": _NAMED_COUNTS,
                    "stale_for": or_null(COUNT),
                    "edges": COUNT,
                    "guards": list_of(SEGMENT, MAX_NAMED),
                    "states": _STATES,
                }
            )
        ),
        edges=list_of(ref("EdgeStanding")),
        states=_STATES,
    ),
}
