"""The messages as JSON Schema (2020-12, as OpenAPI 3.1 has it), written down from docs/protocol.md.

Objects are closed: the service refuses members that it does not know, and sends none that are not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.appraisal.record import MAX_RECORD
from attestd.credentials.receipts import MAX_RECEIPT, WHYS
from attestd.operations.edges import MAX_BOUNDARIES, MAX_COUNT, MAX_HOURS, MAX_REASONS, MAX_STANDING
from attestd.operations.edges import State as EdgeState
from attestd.operations.receipts import MAX_RECEIPTS
from attestd.operations.references import MAX_GOLDEN
from attestd.protocol.evidence import (
    BANKS,
    MAX_ATTEST,
    MAX_CERTIFICATE,
    MAX_CERTIFICATES,
    MAX_ENTRIES,
    MAX_LOG,
    MAX_PUBLIC,
    MAX_SIGNATURE,
)
from attestd.protocol.messages import MAX_BODY, MAX_EAR, MAX_SEALED
from attestd.registry.demands import MAX_AT_ONCE
from attestd.registry.policies import MAX_VERSION
from attestd.registry.states import State
from attestd.web.schema_words import CHAIN as _CHAIN
from attestd.web.schema_words import COUNT as _COUNT
from attestd.web.schema_words import (
    DIGEST,
    PEM,
    ROLE,
    SEGMENT,
    SERIAL,
    STAGE,
    STATE,
    TIER,
    Schema,
    closed,
    octets,
    ref,
    text,
)
from attestd.web.schema_words import SECONDS as _SECONDS
from attestd.web.schema_words import TIMES as _TIMES
from attestd.web.schema_words import VERSION as _VERSION
from attestd.web.schema_words import answer as _answer
from attestd.web.schema_words import list_of as _list
from attestd.web.schema_words import message as _message
from attestd.web.schema_words import named as _named
from attestd.web.schema_words import or_null as _or_null
from attestd.web.schemas_audit import AUDIT
from attestd.web.schemas_authority import AUTHORITY
from attestd.web.schemas_boundaries import BOUNDARIES, GUARDED
from attestd.web.schemas_devices import DEVICE_PAGES
from attestd.web.schemas_devices import RESULT as _RESULT
from attestd.web.schemas_fleet import FLEET
from attestd.web.schemas_people import PEOPLE
from attestd.web.schemas_selections import SELECTIONS

__all__ = ["DIGEST", "PEM", "SCHEMAS", "SEGMENT", "SERIAL", "STATE", "TIER", "Schema", "octets", "ref", "text"]

_SELECTION: Final[Schema] = {
    "type": "object",
    "propertyNames": {"enum": sorted(BANKS)},
    "additionalProperties": _list({"type": "integer", "minimum": 0, "maximum": 23}, 24),
}
_PCRS: Final[Schema] = {
    "type": "object",
    "properties": {
        bank: {
            "type": "object",
            "propertyNames": {"pattern": "^([0-9]|1[0-9]|2[0-3])$"},
            "additionalProperties": octets(size, least=size),
        }
        for bank, size in BANKS.items()
    },
    "additionalProperties": False,
}
_CERTIFIED: Final = closed(
    {
        "public": octets(MAX_PUBLIC, least=1),
        "attest": octets(MAX_ATTEST, least=1),
        "signature": octets(MAX_SIGNATURE, least=1),
    }
)
_QUOTE: Final = closed({"attest": octets(MAX_ATTEST, least=1), "signature": octets(MAX_SIGNATURE, least=1)})
_JWS: Final[Schema] = {"type": "string", "pattern": r"^[\w-]+\.[\w-]+\.[\w-]+$"}
_PARTS: Final[Mapping[str, Schema]] = {name: {"type": "string"} for name in ("keys", "policy", "status", "revoked")}
_EVIDENCE: Final[Mapping[str, Schema]] = {"quote": _QUOTE, "pcrs": _PCRS}
_LOGS: Final[Mapping[str, Schema]] = {
    "eventlog": octets(MAX_LOG),
    "ima": octets(MAX_LOG),
    "eventlog_sha256": octets(32, least=32),
    "ima_from": {"type": "integer", "minimum": 1, "exclusiveMaximum": MAX_ENTRIES},
}
_FURTHER: Final[Mapping[str, Schema]] = {
    "ear": {**text(MAX_EAR), "description": "the result as a JWT: an EAR, draft-ietf-rats-ear-03"},
    "lately": {
        **closed({}, eventlog=octets(32, least=32), ima={"type": "integer", "minimum": 1}),
        "description": "what the next attestation may leave out",
    },
}
_REASON: Final[Mapping[str, Schema]] = {"reason": text(500)}
_ACT: Final[Mapping[str, Schema]] = {
    **_REASON,
    "expected_version": {"type": "integer", "minimum": 1, "maximum": (1 << 53) - 1},
}
_LABELS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}
_DEVICE: Final[Mapping[str, Schema]] = {
    "id": SEGMENT,
    "state": STATE,
    "state_version": {"type": "integer", "minimum": 1},
    "state_reason": {"type": ["string", "null"]},
    "tier": _or_null(TIER),
    "site": _or_null(SEGMENT),
    "spiffe_id": {"type": ["string", "null"], "pattern": "^spiffe://"},
    "serial_number": {"type": ["string", "null"]},
    "labels": _LABELS,
    "manufacturer": {"type": ["string", "null"]},
    "model": {"type": ["string", "null"]},
    "firmware_version": {"type": ["string", "null"]},
    "endorsement": {"type": ["string", "null"]},
    "attested_at": _or_null(_TIMES),
    "attestation_good_until": _or_null(_TIMES),
    "result": _or_null(_RESULT),
    "source": {"type": "string"},
    "created_at": _TIMES,
    "updated_at": _TIMES,
}

_BUNDLE_NAMED: Final = closed({"epoch": _COUNT, "version": _COUNT, "issued_at": _TIMES})
_PROXY: Final[Mapping[str, Schema]] = {
    "name": SEGMENT,
    "site": SEGMENT,
    "serial": SERIAL,
    "created_at": _TIMES,
    "disabled_at": _or_null(_TIMES),
    "state": {"enum": [state.value for state in EdgeState]},
    "heard_at": _or_null(_TIMES),
    "bundle": _or_null(_BUNDLE_NAMED),
    "bundle_age": _or_null(_COUNT),
    "versions_behind": _or_null(_COUNT),
    "seconds_behind": _COUNT,
    "stale_boundaries": _COUNT,
    "receipts_waiting": _or_null(_COUNT),
}
_REPORTED_COUNT: Final = {"type": "integer", "minimum": 0, "maximum": MAX_COUNT}
_WHOLE: Final = {"type": "integer", "minimum": 0, "maximum": (1 << 53) - 1}
_FROM_ONE: Final = {**_WHOLE, "minimum": 1}

_REFERENCE: Final[Mapping[str, Schema]] = {
    "number": _COUNT,
    "name": {"type": "string"},
    "stage": STAGE,
    "digest": DIGEST,
    "added_at": _TIMES,
    "added_by": {"type": "string"},
    "until": _or_null(_TIMES),
    "counts": {"type": "boolean"},
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    **AUDIT,
    **AUTHORITY,
    **FLEET,
    **DEVICE_PAGES,
    **BOUNDARIES,
    **SELECTIONS,
    **PEOPLE,
    # Devices
    "BeginRequest": closed(
        {
            "v": _VERSION,
            "ek": closed(
                {
                    "public": octets(MAX_PUBLIC, least=1),
                    "certificates": _list(octets(MAX_CERTIFICATE), MAX_CERTIFICATES),
                }
            ),
            "ak": closed({"public": octets(MAX_PUBLIC, least=1)}),
        },
        iak=closed(
            {
                "public": octets(MAX_PUBLIC, least=1),
                "certificates": _list(octets(MAX_CERTIFICATE), MAX_CERTIFICATES),
            }
        ),
    ),
    "BeginAnswer": _answer(
        id=octets(16, least=16),
        challenge=octets(MAX_SEALED, least=1),
        credential_blob=octets(MAX_PUBLIC, least=1),
        secret=octets(MAX_PUBLIC, least=1),
        nonce=octets(32, least=32),
        pcrs=_SELECTION,
        wants=_list(text(1024), 8),
        expires_in=_SECONDS,
    ),
    "CompleteRequest": closed(
        {
            "v": _VERSION,
            "challenge": octets(MAX_SEALED, least=1),
            "body": {
                **octets(MAX_BODY, least=2),
                "description": "the exact octets of an EnrollmentEvidence",
            },
            "proof": octets(32, least=32),
        }
    ),
    "EnrollmentEvidence": closed({"ck": _CERTIFIED, **_EVIDENCE}, iak=_QUOTE, **_LOGS),
    "CredentialAnswer": closed(
        {
            "v": _VERSION,
            "device_id": SEGMENT,
            "spiffe_id": {"type": "string", "pattern": "^spiffe://"},
            "chain": PEM,
            "result": _RESULT,
            "renew_after": _SECONDS,
            "expires_in": _SECONDS,
        },
        **_FURTHER,
    ),
    "WaitAnswer": closed(
        {
            "v": _VERSION,
            "state": {"enum": [State.PENDING.value, State.QUARANTINED.value]},
            "retry_after": _SECONDS,
            "result": {"anyOf": [_RESULT, {"type": "object", "maxProperties": 0}]},
        },
        **_FURTHER,
    ),
    "DemandAnswer": _answer(attest={"const": True}),
    "SignedRequest": closed(
        {
            "protected": {**text(4096), "description": "base64url of {alg, kid, url, nonce, typ}"},
            "payload": {"type": "string", "pattern": "^[A-Za-z0-9_-]*$"},
            "signature": octets(512, least=1),
        }
    ),
    "AttestationRequest": closed({"v": _VERSION, **_EVIDENCE}, **_LOGS),
    "RenewalRequest": closed({"v": _VERSION}, ck=_CERTIFIED),
    "TokenRequest": closed({"v": _VERSION, "audience": text(255)}, binding={"enum": ["dpop", "tls"]}),
    "TokenAnswer": _answer(token={"type": "string", "pattern": r"^[\w-]+\.[\w-]+\.[\w-]+$"}, expires_in=_SECONDS),
    # Publishing
    "Jwks": closed(
        {
            "keys": _list(
                {
                    "type": "object",
                    "required": ["kty", "crv", "x", "y", "kid"],
                    "properties": {"kty": {"const": "EC"}, "crv": {"const": "P-256"}, "d": False},
                }
            )
        }
    ),
    "ProxyAnswer": _answer(chain=PEM, renew_after=_SECONDS, expires_in=_SECONDS),
    "EdgeReport": _message(
        {
            "ledger": _CHAIN,
            "sequence": _FROM_ONE,
            "since": _WHOLE,
            "until": _WHOLE,
            "bundle": _or_null(closed({"epoch": _FROM_ONE, "version": _FROM_ONE, "issued_at": _WHOLE})),
            "counts": _named(
                closed({"allowed": _REPORTED_COUNT, "refused": _named(_REPORTED_COUNT, MAX_REASONS)}), MAX_BOUNDARIES
            ),
            "receipts_waiting": _WHOLE,
            "stale_for": _named(_SECONDS, MAX_STANDING),
        },
        boundaries=GUARDED,
    ),
    "EdgeReportAnswer": _answer(sequence=_FROM_ONE),
    "ReceiptsMessage": _message(
        {"chain": _CHAIN, "receipts": _list(text(MAX_RECEIPT), MAX_RECEIPTS)},
        lost={"type": "boolean", "description": "the edge has none of those that are left out"},
    ),
    "ReceiptsAnswer": _answer(next=_COUNT),
    "Bundle": _answer(statement=_JWS, signer=_list(octets(MAX_CERTIFICATE)), parts=closed(_PARTS, head=_JWS)),
    "BundleDelta": _answer(
        statement=_JWS, base={"type": "string", "pattern": r"^\d+\.\d+$"}, parts={"type": "object", "maxProperties": 5}
    )
    | {"additionalProperties": True},
    "ConsistencyAnswer": _answer(path=_list(octets(32, least=32))),
    "Ready": _answer(ready={"type": "boolean"}, reasons=_list({"type": "string"})),
    "Description": {"type": "object", "required": ["openapi", "info", "paths"]},
    # Operators: messages
    "Nothing": _message(),
    "Act": _message(**_ACT),
    "Reason": _message(**_REASON),
    "Approval": _message({"tier": TIER, "site": SEGMENT}, labels=_LABELS, **_ACT),
    "Demand": _message(
        ids=_list(SEGMENT, MAX_AT_ONCE), site=SEGMENT, tier=TIER, labels=_LABELS, after=SEGMENT, **_REASON
    ),
    "Replacement": _message({"ek_hash": DIGEST}, **_ACT),
    "BrakeRelease": _message({"held": {"enum": ["dismiss", "quarantine"]}}, **_REASON),
    "CohortRelease": _message(
        site=SEGMENT,
        tier=TIER,
        label={**text(192), "description": "NAME=VALUE"},
        since=_TIMES,
        by={"enum": ["appraisal", "operator"]},
        dry_run={"type": "boolean"},
        expected={**_COUNT, "description": "how many devices it has; left out in a dry run, needed otherwise"},
        **_REASON,
    ),
    "PolicyRollback": _message(
        expected_version=_COUNT,
        to={"type": "integer", "minimum": 1, "maximum": MAX_VERSION - 1, "description": "left out: the text before"},
        **_REASON,
    ),
    "Promotion": _message(
        {"stage": STAGE},
        overlap=_SECONDS,
        accept_refusals={"type": "integer", "minimum": 0, "maximum": 10**9},
        unwatched={"type": "boolean"},
        **_REASON,
    ),
    "Learning": _message(
        {"devices": {**_list(SEGMENT, MAX_GOLDEN), "minItems": 1}, "name": text(63, least=1)},
        match={"type": "object"},
        pcrs=_list({"type": "integer", "minimum": 0, "maximum": 23}, 24),
        facts=_list(text(64), 128),
        runtime={"type": "boolean"},
    ),
    "NewProxy": _message({"name": SEGMENT, "site": SEGMENT, "public_key": text(4096)}),
    "NewOperator": _message({"name": SEGMENT, "role": ROLE, "public_key": text(4096)}),
    # Operators: answers
    "Device": closed(_DEVICE),
    "DeviceAnswer": _answer(device=ref("Device")),
    "DemandedAnswer": _answer(demanded=_list(SEGMENT, MAX_AT_ONCE), after=_or_null(SEGMENT)),
    "EvidenceBundle": _answer(
        kind={"const": "attestd-evidence"},
        record=octets(MAX_RECORD, least=2),
        result=octets(MAX_RECORD, least=2),
        certificates=_list(octets(MAX_CERTIFICATE), 16),
        missing=_list(DIGEST, 16),
        documents=closed(
            {"references": _list({"type": "string"}, 256), "advisories": {"type": "string"}},
            eventlog={"type": "string"},
            ima={"type": "string"},
        ),
    ),
    "DevicePage": _answer(
        device=closed(_DEVICE, ek_hash={**DIGEST, "description": "for operators and admins"}),
        held={**_or_null(ref("Held")), "description": "a result of it that the brake holds"},
        credentials=_list(ref("Credential"), 20),
        audit=_list(ref("AuditRow"), 20),
    ),
    "Credential": closed(
        {
            "number": _COUNT,
            "serial": SERIAL,
            "device_id": _or_null(SEGMENT),
            "subject": {"type": "string", "pattern": "^spiffe://"},
            "profile": {"type": "string"},
            "not_before": _TIMES,
            "not_after": _TIMES,
            "revoked_at": _or_null(_TIMES),
            "revoked_because": {"type": ["string", "null"]},
        }
    ),
    "Credentials": _answer(credentials=_list(ref("Credential"), 1000), before=_or_null(_COUNT)),
    "AuditRow": closed(
        {
            "number": _COUNT,
            "leaf": _or_null(_COUNT),
            "at": _TIMES,
            "actor": {"type": "string"},
            "act": {"type": "string"},
            "subject": {"type": "string"},
            "request_id": {"type": ["string", "null"]},
            "detail": {"type": "object"},
        }
    ),
    "AuditHead": _answer(log=_COUNT, size=_COUNT, root=octets(32, least=32), time=_TIMES, head={"type": "string"}),
    "AuditProof": _answer(
        entry={"type": "object"},
        leaf=_COUNT,
        path=_list(octets(32, least=32)),
        head={"type": "string"},
        root_sha256=DIGEST,
    ),
    "Receipts": _answer(
        receipts=_list(
            closed(
                {
                    "number": _COUNT,
                    "chain": _CHAIN,
                    "seq": _COUNT,
                    "edge": SEGMENT,
                    "received_at": _TIMES,
                    "jws": text(MAX_RECEIPT),
                }
            ),
            1000,
        ),
        after=_or_null(_COUNT),
    ),
    "ReceiptChains": _answer(
        chains=_list(
            closed(
                {
                    "chain": _CHAIN,
                    "edge": SEGMENT,
                    "site": SEGMENT,
                    "why": {"enum": list(WHYS)},
                    "began_at": _TIMES,
                    "next": _COUNT,
                    "digest": octets(32, least=32),
                    "last_at": _TIMES,
                    "heard_at": _TIMES,
                    "lost": _list({**_list(_COUNT, 2), "minItems": 2}),
                    "beginning": text(MAX_RECEIPT),
                }
            ),
            1000,
        ),
        after=_or_null(_CHAIN),
    ),
    "BrakeStanding": _answer(
        enabled={"type": "boolean"},
        engaged=_or_null(closed({"at": _TIMES, "by": {"type": "string"}, "reason": {"type": "string"}})),
        count=_COUNT,
        limit=_COUNT,
        held_count=_COUNT,
        first_end={**_or_null(_TIMES), "description": "of the results under which held devices live on"},
        held=_list(ref("Held"), 1000),
        after=_or_null(SEGMENT),
    ),
    "Held": closed({"device_id": SEGMENT, "at": _TIMES, "result": _RESULT}),
    "BrakeAnswer": closed({"v": _VERSION, "engaged": {"type": "boolean"}}, held=_COUNT, quarantined=_COUNT),
    "CohortAnswer": {
        "oneOf": [
            _answer(count=_COUNT, devices=_list(ref("Device"), 100)),
            _answer(released=_COUNT, left=_COUNT),
        ]
    },
    "Imported": _answer(added=_COUNT, unchanged=_COUNT),
    "Revoked": _answer(serial=SERIAL),
    "Maker": closed(
        {
            "sha256": DIGEST,
            "subject": {"type": "string"},
            "not_after": {"type": "integer"},
            "is_root": {"type": "boolean"},
            "added_at": _TIMES,
            "added_by": {"type": "string"},
        }
    ),
    "Makers": _answer(makers=_list(ref("Maker"))),
    "Distrusted": _answer(sha256=DIGEST),
    "PolicyInForce": _answer(version=_COUNT, text={"type": "string"}, created_at=_TIMES, created_by={"type": "string"}),
    "PolicySet": _answer(version=_COUNT),
    "PolicyVersion": closed({"version": _COUNT, "created_at": _TIMES, "created_by": {"type": "string"}}),
    "PolicyVersions": _answer(versions=_list(ref("PolicyVersion"), 1000), before=_or_null(_COUNT)),
    "PolicyRolledBack": _answer(version=_COUNT, of=_COUNT),
    "Reference": closed(_REFERENCE),
    "References": _answer(references=_list(ref("Reference"), 1000), before=_or_null(_COUNT)),
    "ReferenceAnswer": _answer(reference=ref("Reference")),
    "ReferencePage": _answer(reference=ref("Reference"), document=ref("Manifest")),
    "Manifest": {"type": "object", "required": ["name", "stage"], "description": "docs/references.md"},
    "Refusals": _answer(
        reference=ref("Reference"),
        total=_COUNT,
        devices=_list(closed({"id": SEGMENT, "at": _TIMES, "reasons": _list({"type": "string"})}), 1000),
        after=_or_null(SEGMENT),
        prospect=_or_null(
            closed(
                {
                    "watched_since": _or_null(_TIMES),
                    "refused": _COUNT,
                    "unheard": _COUNT,
                    "held": _COUNT,
                    "more": {"type": "boolean"},
                }
            )
        ),
    ),
    "LearnedDraft": _answer(
        document=ref("Manifest"),
        notes={"type": "object", "additionalProperties": _list({"type": "string"})},
        devices=_list(
            closed(
                {
                    "id": SEGMENT,
                    "attested_at": _or_null(_TIMES),
                    "eventlog": {"type": "boolean"},
                    "ima": {"type": "boolean"},
                    "why": {"type": "string"},
                }
            ),
            MAX_GOLDEN,
        ),
    ),
    "EdgeStanding": closed(_PROXY),
    "Proxies": _answer(time=_TIMES, proxies=_list(ref("EdgeStanding"))),
    "ProxyPage": _answer(
        time=_TIMES,
        proxy=closed(_PROXY),
        totals=closed(dict.fromkeys(("allowed", "refused", "reports", "missed"), _COUNT)),
        boundaries=_list(
            closed(
                {
                    "name": {"type": "string"},
                    "stale_for": _or_null(_COUNT),
                    "allowed": _COUNT,
                    "refused": {"type": "object", "additionalProperties": _COUNT},
                }
            )
        ),
        hours=_list(
            closed({"at": _TIMES, "boundary": {"type": "string"}, "allowed": _COUNT, "refused": _COUNT}), MAX_HOURS
        ),
    ),
    "ProxyAdded": _answer(name=SEGMENT, site=SEGMENT, chain=PEM),
    "Operators": _answer(
        operators=_list(
            closed(
                {
                    "name": SEGMENT,
                    "role": ROLE,
                    "created_at": _TIMES,
                    "disabled_at": _or_null(_TIMES),
                    "key": {"type": "boolean", "description": "signs calls with a key of their own"},
                    "passkeys": _COUNT,
                    "identities": _list({"type": "string", "description": "an OpenID issuer"}),
                    "seen_at": _or_null(_TIMES),
                }
            )
        )
    ),
    "OperatorAdded": _answer(name=SEGMENT, role=ROLE, chain=PEM, root=PEM),
    "Named": _answer(name=SEGMENT),
    # RFC 9457
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
        errors=_list(closed({"line": _COUNT, "what": {"type": "string"}})),
        more={"type": "boolean"},
    ),
}
