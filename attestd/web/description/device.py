"""One device: its page, its past, its attestations opened, by what its TPM is endorsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attestd.appraisal.explanation import MAX_DIFFERENCES, Standing
from attestd.appraisal.record import MAX_RECORD
from attestd.appraisal.runtime import MAX_REFUSED
from attestd.appraisal.stages import Stage
from attestd.operations.timeline import KINDS
from attestd.protocol.evidence import BANKS, MAX_CERTIFICATE
from attestd.tpm.eventnames import MAX_NAME
from attestd.web.description.described import Described
from attestd.web.description.words import (
    COUNT,
    DIGEST,
    LABELS,
    LIMIT,
    NUMBER,
    RESULT,
    SEGMENT,
    SERIAL,
    STAGE,
    STATE,
    TIER,
    TIMES,
    Schema,
    answer,
    closed,
    list_of,
    octets,
    or_null,
    ref,
    text,
)

# As lists have it; its own page tells more.
_DEVICE: Final[Mapping[str, Schema]] = {
    "id": SEGMENT,
    "state": STATE,
    "state_version": {"type": "integer", "minimum": 1},
    "state_reason": {"type": ["string", "null"]},
    "tier": or_null(TIER),
    "site": or_null(SEGMENT),
    "spiffe_id": {"type": ["string", "null"], "pattern": "^spiffe://"},
    "serial_number": {"type": ["string", "null"]},
    "labels": LABELS,
    "manufacturer": {"type": ["string", "null"]},
    "model": {"type": ["string", "null"]},
    "firmware_version": {"type": ["string", "null"]},
    "endorsement": {"type": ["string", "null"]},
    "attested_at": or_null(TIMES),
    "attestation_good_until": or_null(TIMES),
    "result": or_null(RESULT),
    "source": {"type": "string"},
    "created_at": TIMES,
    "updated_at": TIMES,
}
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
        "folded": list_of({"oneOf": [closed(_EVENT), _STRETCH]}),
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

DESCRIBED: Final[Mapping[str, Described]] = {
    "GET /v1/admin/devices/<id>": Described("One device", {200: "DevicePage"}),
    "GET /v1/admin/devices/<id>/evidence": Described(
        "A device's evidence with all that its result rests on: what `attestd appraise bundle` reads",
        {200: "EvidenceBundle"},
        query={"verdict": {"enum": ["good", "bad"]}},
    ),
    "GET /v1/admin/devices/<id>/history": Described(
        "What happened to a device, the newest first: results, certificates, crossings and acts in one order",
        {200: "Timeline"},
        query={"before": text(80), "limit": LIMIT, "only": {"enum": list(KINDS)}},
    ),
    "GET /v1/admin/devices/<id>/attestations/<number>": Described(
        "What an attestation came to, and what differs from reference values", {200: "AttestationPage"}
    ),
    "GET /v1/admin/devices/<id>/attestations/<number>/events": Described(
        "All events of its boot, in the log's order",
        {200: "BootEvents"},
        query={"after": NUMBER, "limit": LIMIT},
    ),
    "GET /v1/admin/devices/<id>/attestations/<number>/files": Described(
        "What ran since its boot, as it was judged",
        {200: "RanFiles"},
        query={"after": NUMBER, "limit": LIMIT, "only": {"enum": ["differing"]}},
    ),
    "GET /v1/admin/devices/<id>/endorsement": Described(
        "By which certificates a device's TPM is endorsed", {200: "EndorsementChain"}
    ),
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Device": closed(_DEVICE),
    "DevicePage": answer(
        device=closed(_DEVICE, ek_hash={**DIGEST, "description": "for operators and admins"}),
        held={**or_null(ref("Held")), "description": "a result of it that the brake holds"},
        credentials=list_of(ref("Credential"), 20),
        audit=list_of(ref("AuditRow"), 20),
    ),
    "EvidenceBundle": answer(
        kind={"const": "attestd-evidence"},
        record=octets(MAX_RECORD, least=2),
        result=octets(MAX_RECORD, least=2),
        certificates=list_of(octets(MAX_CERTIFICATE), 16),
        missing=list_of(DIGEST, 16),
        documents=closed(
            {"references": list_of({"type": "string"}, 256), "advisories": {"type": "string"}},
            eventlog={"type": "string"},
            ima={"type": "string"},
        ),
    ),
    "Timeline": answer(entries=list_of(_ENTRY), before=or_null(text(80))),
    "AttestationPage": answer(number=COUNT, at=TIMES, run=_RUN, result=RESULT, explanation=or_null(_EXPLANATION)),
    "BootEvents": answer(events=list_of(closed(_EVENT)), after=or_null(COUNT)),
    "RanFiles": answer(
        entries=list_of(
            closed({"number": COUNT, "path": {"type": "string"}, "digest": text(200), "why": {"type": "string"}})
        ),
        total=COUNT,
        after=or_null(COUNT),
    ),
    "EndorsementChain": answer(
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
