"""What the admin API says of boundaries, and of policies before they are in force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.operations.boundaries import MAX_NAMED
from attestd.operations.edges import State
from attestd.operations.guarded import MAX_GUARDED, RECEIPTS
from attestd.policy.source import MAX_POLICY
from attestd.policy.trying import Left
from attestd.registry.policies import MAX_VERSION
from attestd.web.schema_words import (
    COUNT,
    SECONDS,
    SEGMENT,
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

_END: Final = closed({"tier": TIER}, site=SEGMENT)
_STALENESS: Final = {**SECONDS, "minimum": 1}
_NAMES: Final = list_of({"type": "string"})
_NAMED_COUNTS: Final = {"type": "object", "additionalProperties": COUNT}
_STATES: Final = {"type": "object", "propertyNames": {"enum": [each.value for each in State]}} | {
    "additionalProperties": COUNT
}
_SUMS: Final = closed(dict.fromkeys(("boundaries", "sites", "allowed", "refused"), COUNT))
_PLACE: Final = {"type": "integer", "minimum": 1}
_FLAWS: Final = list_of(closed({"line": _PLACE, "column": _PLACE, "message": {"type": "string"}}))
_VERSION_SEEN: Final = {**COUNT, "maximum": MAX_VERSION, "description": "the one that the author began at"}
_HOURS: Final = {"type": "integer", "minimum": 1, "maximum": 744, "description": "hours"}

# What an edge tells of its boundaries.
GUARDED: Final[Schema] = {
    "type": "object",
    "propertyNames": SEGMENT,
    "maxProperties": MAX_GUARDED,
    "additionalProperties": closed(
        {"from": _END, "to": closed({"tier": TIER, "site": SEGMENT})},
        receipts={"enum": list(RECEIPTS)},
        max_staleness=_STALENESS,
        when_stale=SEGMENT,
    ),
}

BOUNDARIES: Final[Mapping[str, Schema]] = {
    "Policy": message(
        {"text": text(MAX_POLICY)}, expected_version=_VERSION_SEEN, reason={"type": "string", "maxLength": 500}
    ),
    "PolicyText": message({"text": text(MAX_POLICY)}),
    "PolicyTrial": message(
        text=text(MAX_POLICY),
        version={"type": "integer", "minimum": 1, "maximum": MAX_VERSION - 1, "description": "in place of a text"},
        window=_HOURS,
        site=SEGMENT,
    ),
    "BoundariesPage": answer(
        time=TIMES,
        since=TIMES,
        window=_HOURS,
        site=or_null(SEGMENT),
        sites=_NAMES,
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
                    "from": or_null(_END),
                    "to": or_null(_END),
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
    "PolicyChecked": answer(
        valid={"type": "boolean"},
        policies=list_of(
            closed(
                {
                    "id": {"type": "string"},
                    "effect": {"enum": ["permit", "forbid"]},
                    "line": _PLACE,
                    "when_stale": or_null({"type": "string"}),
                }
            )
        ),
        flaws=_FLAWS,
        warnings=_FLAWS,
    ),
    "PolicyTried": answer(
        in_force=COUNT,
        policies=closed({"added": _NAMES, "removed": _NAMES, "changed": _NAMES}),
        source={"enum": ["receipts"]},
        since=TIMES,
        window=_HOURS,
        seconds={"type": "number", "minimum": 0},
        judged=COUNT,
        crossed=COUNT,
        by_nearest=COUNT,
        looked_at=COUNT,
        whole={"type": "boolean"},
        newly_allowed=COUNT,
        newly_denied=COUNT,
        left_out={
            "type": "object",
            "propertyNames": {"enum": [each.value for each in Left]},
            "additionalProperties": COUNT,
        },
        groups=list_of(
            closed(
                {
                    "boundary": SEGMENT,
                    "from": _END,
                    "to": _END,
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "becomes": {"enum": ["allow", "deny"]},
                    "before": _NAMES,
                    "after": _NAMES,
                    "count": COUNT,
                    "crossed": COUNT,
                    "devices": COUNT,
                    "more_devices": {"type": "boolean"},
                    "examples": list_of(SEGMENT),
                    "method": {"type": "string"},
                    "path": {"type": "string"},
                    "last_at": TIMES,
                    "because": list_of(
                        closed({"policy": {"type": "string"}, "line": COUNT, "why": {"type": "string"}})
                    ),
                }
            )
        ),
        more_groups=COUNT,
        not_grouped=COUNT,
        covered=list_of(
            closed(
                {
                    "boundary": {"type": "string"},
                    **dict.fromkeys(("allowed", "denied", "judged", "judged_denied"), COUNT),
                }
            )
        ),
    ),
}
