"""The policy: in force, before, and tried before it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.policy.source import MAX_POLICY
from attestd.policy.trying import Left
from attestd.registry.policies import MAX_VERSION
from attestd.web.description.boundaries import END, HOURS
from attestd.web.description.described import Described
from attestd.web.description.words import (
    COUNT,
    LIMIT,
    NUMBER,
    REASON,
    SEGMENT,
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

_PLACE: Final = {"type": "integer", "minimum": 1}
_FLAWS: Final = list_of(closed({"line": _PLACE, "column": _PLACE, "message": {"type": "string"}}))
_VERSION_SEEN: Final = {**COUNT, "maximum": MAX_VERSION, "description": "the one that the author began at"}
_NAMES: Final = list_of({"type": "string"})

DESCRIBED: Final[Mapping[str, Described]] = {
    "GET /v1/admin/policy": Described("The policy in force", {200: "PolicyInForce"}),
    "PUT /v1/admin/policy": Described("Put a policy in force", {200: "PolicySet"}, "Policy"),
    "GET /v1/admin/policy/versions": Described(
        "The policy's versions, the newest first", {200: "PolicyVersions"}, query={"before": NUMBER, "limit": LIMIT}
    ),
    "GET /v1/admin/policy/versions/<number>": Described(
        "One version of the policy", {200: "PolicyInForce"}, refusals=frozenset({404})
    ),
    "POST /v1/admin/policy/rollback": Described(
        "Put an old policy in force again, as a new version",
        {200: "PolicyRolledBack"},
        "PolicyRollback",
        refusals=frozenset({404, 409}),
    ),
    "POST /v1/admin/policy/check": Described(
        "What is wrong with a policy, by line and column",
        {200: "PolicyChecked"},
        "PolicyText",
        refusals=frozenset({429}),
    ),
    "POST /v1/admin/policy/dry-run": Described(
        "What a policy would change of what was decided lately",
        {200: "PolicyTried"},
        "PolicyTrial",
        refusals=frozenset({404, 429}),
    ),
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Policy": message(
        {"text": text(MAX_POLICY)}, expected_version=_VERSION_SEEN, reason={"type": "string", "maxLength": 500}
    ),
    "PolicyInForce": answer(version=COUNT, text={"type": "string"}, created_at=TIMES, created_by={"type": "string"}),
    "PolicySet": answer(version=COUNT),
    "PolicyVersion": closed({"version": COUNT, "created_at": TIMES, "created_by": {"type": "string"}}),
    "PolicyVersions": answer(versions=list_of(ref("PolicyVersion"), 1000), before=or_null(COUNT)),
    "PolicyRollback": message(
        expected_version=COUNT,
        to={"type": "integer", "minimum": 1, "maximum": MAX_VERSION - 1, "description": "left out: the text before"},
        **REASON,
    ),
    "PolicyRolledBack": answer(version=COUNT, of=COUNT),
    "PolicyText": message({"text": text(MAX_POLICY)}),
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
    "PolicyTrial": message(
        text=text(MAX_POLICY),
        version={"type": "integer", "minimum": 1, "maximum": MAX_VERSION - 1, "description": "in place of a text"},
        window=HOURS,
        site=SEGMENT,
    ),
    "PolicyTried": answer(
        in_force=COUNT,
        policies=closed({"added": _NAMES, "removed": _NAMES, "changed": _NAMES}),
        source={"enum": ["receipts"]},
        since=TIMES,
        window=HOURS,
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
                    "from": END,
                    "to": END,
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
