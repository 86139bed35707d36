"""What the admin API says of one device's past: its timeline, its attestations opened, by what its TPM is endorsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attestd.appraisal.explanation import MAX_DIFFERENCES, Standing
from attestd.appraisal.runtime import MAX_REFUSED
from attestd.appraisal.stages import Stage
from attestd.protocol.evidence import BANKS
from attestd.tpm.eventnames import MAX_NAME
from attestd.web.schema_words import (
    COUNT,
    DIGEST,
    SEGMENT,
    SERIAL,
    STAGE,
    TIMES,
    Schema,
    closed,
    list_of,
    or_null,
    text,
)
from attestd.web.schema_words import answer as _answer

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

_STANDING: Final = {"enum": [standing.value for standing in Standing]}
_STAGE: Final = {"enum": [stage.value for stage in Stage]}
_HEX: Final = {"type": "string", "pattern": "^([0-9a-f]{2})*$"}
_PCR: Final = {"type": "integer", "minimum": 0, "maximum": 23}
_BANK: Final = {"enum": list(BANKS)}
_ANYTHING: Final[Schema] = {}
_EVENT: Final = {
    "number": COUNT,
    "pcr": _PCR,
    "type": text(64),
    "digest": or_null(_HEX),
    "name": text(MAX_NAME),
    "standing": _STANDING,
}
_TOLD: Final = {"at": TIMES, "first_at": TIMES, "count": COUNT}
_RUN: Final = closed(
    {"first": COUNT, "last": COUNT, "first_at": TIMES, "last_at": TIMES, "ended_at": or_null(TIMES), "boot": text(80)}
)


def _entry(kind: str, **members: Schema) -> dict[str, Any]:
    return closed({"kind": {"const": kind}, **_TOLD, **members})


_ENTRY: Final = {
    "oneOf": [
        _entry(
            "attestation",
            first=COUNT,
            last=COUNT,
            status=RESULT["properties"]["status"],
            reasons=list_of({"type": "string"}),
            boot=text(80),
            ended_at=or_null(TIMES),
            kept={"type": "boolean"},
        ),
        _entry(
            "credential",
            serial=SERIAL,
            profile={"type": "string"},
            not_after=TIMES,
            revoked_at=or_null(TIMES),
            revoked_because=or_null({"type": "string"}),
        ),
        _entry(
            "crossing",
            edge={"type": "string"},
            boundary=or_null({"type": "string"}),
            decision=or_null({"type": "string"}),
            problem={"type": "string"},
            method={"type": "string"},
            path={"type": "string"},
        ),
        _entry("act", act={"type": "string"}, actor={"type": "string"}, number=COUNT, detail={"type": "object"}),
    ]
}
_EXPECTED: Final = closed(
    {
        "manifest": text(63),
        "digest": DIGEST,
        "ends": or_null(TIMES),
        "values": list_of(_ANYTHING),
        "more": COUNT,
        "at_least": or_null({"type": "integer"}),
    }
)
_KNOWN: Final = closed(
    {
        "devices": COUNT,
        "some": list_of(SEGMENT),
        "manifests": list_of(closed({"number": COUNT, "name": text(63), "stage": STAGE, "until": or_null(TIMES)})),
        "looked": COUNT,
    }
)
_DIFFERENCE: Final = closed(
    {
        "stage": _STAGE,
        "claim": {"enum": ["executables", "configuration"]},
        "bank": or_null(_BANK),
        "pcr": or_null(_PCR),
        "event": or_null(COUNT),
        "type": or_null(text(64)),
        "name": text(MAX_NAME),
        "fact": or_null(text(63)),
        "value": _ANYTHING,
        "digest": or_null(_HEX),
        "relied": {"type": "boolean"},
        "expected": list_of(_EXPECTED),
        "reason": {"type": "string"},
        "known": or_null(_KNOWN),
    }
)
_STRETCH: Final = closed({"first": COUNT, "last": COUNT, "standing": or_null(_STANDING)})
_LOG: Final = closed(
    {
        "events": COUNT,
        "standings": {"type": "object", "additionalProperties": COUNT},
        "folded": list_of(
            {"oneOf": [closed(_EVENT), closed({"first": COUNT, "last": COUNT, "standing": or_null(_STANDING)})]}
        ),
    }
)
_REFUSAL: Final = closed({"entry": COUNT, "path": {"type": "string"}, "digest": text(200), "why": {"type": "string"}})
_FILES: Final = closed(
    {
        "entries": COUNT,
        "violations": COUNT,
        "files": COUNT,
        "ignored": COUNT,
        "buffers": COUNT,
        "refused": COUNT,
        "refusals": list_of(_REFUSAL, MAX_REFUSED),
    }
)
_EXPLANATION: Final = closed(
    {
        "quote": closed(
            {
                "reset_count": COUNT,
                "restart_count": COUNT,
                "clock": COUNT,
                "safe": {"type": "boolean"},
                "qualified_by": _HEX,
                "firmware_version": COUNT,
            }
        ),
        "manifests": list_of(
            closed({"name": text(63), "digest": DIGEST, "number": or_null(COUNT), "ends": or_null(TIMES)})
        ),
        "chain": list_of(closed({"stage": _STAGE, "standing": _STANDING})),
        "differences": list_of(_DIFFERENCE, MAX_DIFFERENCES),
        "more_differences": COUNT,
        "pcrs": list_of(
            closed(
                {
                    "bank": _BANK,
                    "pcr": _PCR,
                    "value": _HEX,
                    "standing": _STANDING,
                    "replayed": {"type": "boolean"},
                    "events": list_of(COUNT),
                    "event_count": COUNT,
                }
            )
        ),
        "log": or_null(_LOG),
        "log_kept": {"type": "boolean"},
        "facts": {"type": "object", "additionalProperties": {"type": ["string", "boolean", "integer"]}},
        "files": or_null(_FILES),
        "list_kept": {"type": "boolean"},
    }
)

DEVICE_PAGES: Final[Mapping[str, Schema]] = {
    "Timeline": _answer(entries=list_of(_ENTRY), before=or_null(text(80))),
    "AttestationPage": _answer(number=COUNT, at=TIMES, run=_RUN, result=RESULT, explanation=or_null(_EXPLANATION)),
    "BootEvents": _answer(events=list_of(closed(_EVENT)), after=or_null(COUNT)),
    "RanFiles": _answer(
        entries=list_of(
            closed({"number": COUNT, "path": {"type": "string"}, "digest": text(200), "why": {"type": "string"}})
        ),
        total=COUNT,
        after=or_null(COUNT),
    ),
    "EndorsementChain": _answer(
        kind={"enum": ["certificate", "iak", "inventory"]},
        certificates=list_of(
            closed(
                {
                    "subject": {"type": "string"},
                    "not_after": or_null(TIMES),
                    "own": {"type": "boolean"},
                    "trusted": {"type": "boolean"},
                    "root": {"type": "boolean"},
                    "kept": {"type": "boolean"},
                },
                sha256={**DIGEST, "description": "a TPM's own one for operators and admins"},
            )
        ),
        quirks=list_of({"type": "string"}),
        advisories=list_of(
            closed(
                {
                    "id": {"type": "string"},
                    "claim": {"enum": ["warning", "contraindicated"]},
                    "means": {"type": "string"},
                    "source": {"type": "string"},
                    "accepted": {"type": "boolean"},
                }
            )
        ),
    ),
}
