"""What attesters ask: enrolling, attesting, renewing, tokens. Their messages are docs/protocol.md, sections 4 to 7."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

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
from attestd.registry.states import State
from attestd.web.description.described import Described
from attestd.web.description.words import (
    JWS,
    PEM,
    RESULT,
    SECONDS,
    SEGMENT,
    VERSION,
    Schema,
    answer,
    closed,
    list_of,
    octets,
    text,
)

_SELECTION: Final[Schema] = {
    "type": "object",
    "propertyNames": {"enum": sorted(BANKS)},
    "additionalProperties": list_of({"type": "integer", "minimum": 0, "maximum": 23}, 24),
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
_CREDENTIAL: Final = {200: "CredentialAnswer", 202: "WaitAnswer"}

DESCRIBED: Final[Mapping[str, Described]] = {
    "POST /v1/enrollments": Described(
        "Begin an enrollment: who the TPM says it is",
        {200: "BeginAnswer"},
        "BeginRequest",
        refusals=frozenset({403, 409}),
    ),
    "POST /v1/enrollments/complete": Described(
        "Complete it: the activated secret's proof and the evidence",
        _CREDENTIAL,
        "CompleteRequest",
        refusals=frozenset({401, 403, 404, 409, 429}),
    ),
    "GET /v1/nonce": Described("A nonce for the first signed request", {204: None}),
    "GET /v1/time": Described(
        "The time, signed, in answer to a nonce",
        {200: ("application/jose", JWS)},
        query={"nonce": octets(64, least=16)},
        required=frozenset({"nonce"}),
    ),
    "GET /v1/demands/<id>": Described(
        "Shall this device attest now? 204: no, or nobody is called so",
        {200: "DemandAnswer", 204: None},
    ),
    "POST /v1/attestations": Described("Attest again, and renew", _CREDENTIAL, signed="AttestationRequest"),
    "POST /v1/renewals": Described(
        "Another certificate, for the same key or a new one", {200: "CredentialAnswer"}, signed="RenewalRequest"
    ),
    "POST /v1/tokens": Described("A token for an audience", {200: "TokenAnswer"}, signed="TokenRequest"),
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "BeginRequest": closed(
        {
            "v": VERSION,
            "ek": closed(
                {
                    "public": octets(MAX_PUBLIC, least=1),
                    "certificates": list_of(octets(MAX_CERTIFICATE), MAX_CERTIFICATES),
                }
            ),
            "ak": closed({"public": octets(MAX_PUBLIC, least=1)}),
        },
        iak=closed(
            {
                "public": octets(MAX_PUBLIC, least=1),
                "certificates": list_of(octets(MAX_CERTIFICATE), MAX_CERTIFICATES),
            }
        ),
    ),
    "BeginAnswer": answer(
        id=octets(16, least=16),
        challenge=octets(MAX_SEALED, least=1),
        credential_blob=octets(MAX_PUBLIC, least=1),
        secret=octets(MAX_PUBLIC, least=1),
        nonce=octets(32, least=32),
        pcrs=_SELECTION,
        wants=list_of(text(1024), 8),
        expires_in=SECONDS,
    ),
    "CompleteRequest": closed(
        {
            "v": VERSION,
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
            "v": VERSION,
            "device_id": SEGMENT,
            "spiffe_id": {"type": "string", "pattern": "^spiffe://"},
            "chain": PEM,
            "result": RESULT,
            "renew_after": SECONDS,
            "expires_in": SECONDS,
        },
        **_FURTHER,
    ),
    "WaitAnswer": closed(
        {
            "v": VERSION,
            "state": {"enum": [State.PENDING.value, State.QUARANTINED.value]},
            "retry_after": SECONDS,
            "result": {"anyOf": [RESULT, {"type": "object", "maxProperties": 0}]},
        },
        **_FURTHER,
    ),
    "DemandAnswer": answer(attest={"const": True}),
    "SignedRequest": closed(
        {
            "protected": {**text(4096), "description": "base64url of {alg, kid, url, nonce, typ}"},
            "payload": {"type": "string", "pattern": "^[A-Za-z0-9_-]*$"},
            "signature": octets(512, least=1),
        }
    ),
    "AttestationRequest": closed({"v": VERSION, **_EVIDENCE}, **_LOGS),
    "RenewalRequest": closed({"v": VERSION}, ck=_CERTIFIED),
    "TokenRequest": closed({"v": VERSION, "audience": text(255)}, binding={"enum": ["dpop", "tls"]}),
    "TokenAnswer": answer(token={"type": "string", "pattern": r"^[\w-]+\.[\w-]+\.[\w-]+$"}, expires_in=SECONDS),
}
