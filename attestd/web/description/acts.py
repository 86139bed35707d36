"""What operators do to devices, one or many of them, and the brake on quarantines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.operations.selections import MAX_SELECTED, SELECTABLE
from attestd.registry.demands import MAX_AT_ONCE
from attestd.web.description.described import Described
from attestd.web.description.words import (
    COUNT,
    DIGEST,
    LABELS,
    LIMIT,
    REASON,
    RESULT,
    SEGMENT,
    STAGE,
    TIER,
    TIMES,
    VERSION,
    Schema,
    answer,
    closed,
    list_of,
    message,
    or_null,
    ref,
    text,
)
from attestd.web.labels import MAX_NAME, MAX_NAMES

_STATE_VERSION: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": (1 << 53) - 1}
_ACT: Final[Mapping[str, Schema]] = {**REASON, "expected_version": _STATE_VERSION}
_LABELLING: Final[Mapping[str, Schema]] = {
    "labels": {**LABELS, "description": "to set; what is not named stays"},
    "remove": {**list_of(text(MAX_NAME), MAX_NAMES), "description": "names of labels"},
    "revoke": {"type": "boolean", "description": "certificates that say the old labels end with it"},
}


def _act(summary: str, takes: str = "Act") -> Described:
    return Described(summary, {200: "DeviceAnswer"}, takes)


DESCRIBED: Final[Mapping[str, Described]] = {
    "POST /v1/admin/devices/import": Described("Import an inventory: all of it, or nothing", {200: "Imported"}),
    "POST /v1/admin/devices/demand": Described(
        "Devices shall attest now: of a site, a tier, with labels or by their ids; `after` goes on with a large cohort",
        {200: "DemandedAnswer"},
        "Demand",
    ),
    "POST /v1/admin/devices/selection": Described(
        "One act for many devices, each as it was seen; or which it would be done to, and why not to the others",
        {200: "SelectionAnswer"},
        "Selection",
    ),
    "POST /v1/admin/devices/<id>/demand": _act("A device shall attest now"),
    "POST /v1/admin/devices/<id>/approve": _act("Approve a waiting device into a tier and a site", "Approval"),
    "POST /v1/admin/devices/<id>/label": _act("Set and remove a device's labels", "Labelling"),
    "GET /v1/admin/labels": Described(
        "What in force asks for labels: the policy, reference manifests", {200: "LabelReaders"}
    ),
    "POST /v1/admin/devices/<id>/reject": _act("Reject a waiting device"),
    "POST /v1/admin/devices/<id>/quarantine": _act("Quarantine a device"),
    "POST /v1/admin/devices/<id>/release": _act("Release a quarantined device"),
    "POST /v1/admin/devices/<id>/retire": _act("Retire a device for good"),
    "POST /v1/admin/devices/<id>/replace": _act("Give a device's identity to another TPM", "Replacement"),
    "POST /v1/admin/devices/release-cohort": Described(
        "Release quarantined devices that belong together, or see which they are",
        {200: "CohortAnswer"},
        "CohortRelease",
    ),
    "GET /v1/admin/brake": Described(
        "How the brake on quarantines stands, and what it holds",
        {200: "BrakeStanding"},
        query={"after": SEGMENT, "limit": LIMIT},
    ),
    "POST /v1/admin/brake/engage": Described("Engage the brake", {200: "BrakeAnswer"}, "Reason"),
    "POST /v1/admin/brake/release": Described("Release the brake", {200: "BrakeAnswer"}, "BrakeRelease"),
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Act": message(**_ACT),
    "Approval": message({"tier": TIER, "site": SEGMENT}, labels=LABELS, **_ACT),
    "Labelling": message(**_LABELLING, **_ACT),
    "LabelReaders": answer(
        policy=closed(
            {
                "version": COUNT,
                "names": {**list_of({"type": "string"}), "description": "of labels that a policy asks for"},
                "whole": {"type": "boolean", "description": "a policy looks at more labels than it names"},
            }
        ),
        references=list_of(closed({"number": COUNT, "name": text(63), "stage": STAGE, "labels": LABELS})),
    ),
    "Replacement": message({"ek_hash": DIGEST}, **_ACT),
    "DeviceAnswer": answer(device=ref("Device")),
    "Imported": answer(added=COUNT, unchanged=COUNT),
    "Demand": message(
        ids=list_of(SEGMENT, MAX_AT_ONCE), site=SEGMENT, tier=TIER, labels=LABELS, after=SEGMENT, **REASON
    ),
    "DemandedAnswer": answer(demanded=list_of(SEGMENT, MAX_AT_ONCE), after=or_null(SEGMENT)),
    "Selection": message(
        {
            "act": {"enum": sorted(event.value for event in SELECTABLE)},
            "devices": {**list_of(closed({"id": SEGMENT, "version": _STATE_VERSION}), MAX_SELECTED), "minItems": 1},
        },
        tier=TIER,
        site=SEGMENT,
        dry_run={"type": "boolean", "description": "changes nothing"},
        **_LABELLING,
        **REASON,
    ),
    "SelectionAnswer": answer(
        act={"type": "string"},
        dry_run={"type": "boolean"},
        done={**list_of(ref("Device"), MAX_SELECTED), "description": "as they are afterwards; in a dry run, now"},
        left=list_of(
            closed({"id": SEGMENT, "problem": {"type": "string"}, "detail": {"type": "string"}}), MAX_SELECTED
        ),
    ),
    "CohortRelease": message(
        site=SEGMENT,
        tier=TIER,
        label={**text(192), "description": "NAME=VALUE"},
        since=TIMES,
        by={"enum": ["appraisal", "operator"]},
        dry_run={"type": "boolean"},
        expected={**COUNT, "description": "how many devices it has; left out in a dry run, needed otherwise"},
        **REASON,
    ),
    "CohortAnswer": {
        "oneOf": [
            answer(count=COUNT, devices=list_of(ref("Device"), 100)),
            answer(released=COUNT, left=COUNT),
        ]
    },
    "BrakeRelease": message({"held": {"enum": ["dismiss", "quarantine"]}}, **REASON),
    "BrakeStanding": answer(
        enabled={"type": "boolean"},
        engaged=or_null(closed({"at": TIMES, "by": {"type": "string"}, "reason": {"type": "string"}})),
        count=COUNT,
        limit=COUNT,
        held_count=COUNT,
        first_end={**or_null(TIMES), "description": "of the results under which held devices live on"},
        held=list_of(ref("Held"), 1000),
        after=or_null(SEGMENT),
    ),
    "Held": closed({"device_id": SEGMENT, "at": TIMES, "result": RESULT}),
    "BrakeAnswer": closed({"v": VERSION, "engaged": {"type": "boolean"}}, held=COUNT, quarantined=COUNT),
}
