"""The service's OpenAPI 3.1 description: made of the one table of doors (access.py), so that it can't leave one out.

`GET /v1/openapi.json` and `attestd openapi` give it. What a door's own limits, caller and nonce imply (statuses,
headers, media types) is derived; what it takes and answers stands in `DESCRIBED`, once for each door.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import Any, Final

from flask import Blueprint, Response

from attestd.operations.timeline import KINDS
from attestd.operations.touch import HEADER as TOUCH
from attestd.operations.touch import MAX_HEADER as MAX_TOUCH
from attestd.protocol.demanded import HEADER, MAX_HEADER
from attestd.protocol.encoding import MAX_SECONDS, write_object
from attestd.protocol.signed import SCHEME
from attestd.web.access import DEVICES, DOORS, UNATTENDED, Door, Who
from attestd.web.context import Service
from attestd.web.once import HEADER as ONCE
from attestd.web.once import SCHEMA as ONCE_SCHEMA
from attestd.web.once import is_once
from attestd.web.problems import MEDIA_TYPE
from attestd.web.schemas import DIGEST, PEM, SCHEMAS, SEGMENT, SERIAL, Schema, octets, ref, text
from attestd.web.schemas_audit import FILTERS as AUDIT_FILTERS
from attestd.web.schemas_fleet import FILTERS

_JSON: Final = "application/json"
_JWS: Final[Schema] = {"type": "string", "pattern": r"^[\w-]+\.[\w-]+\.[\w-]+$"}
_LINES: Final[Schema] = {"type": "string"}
_BINARY: Final[Schema] = {}


@dataclass(frozen=True, slots=True)
class Described:
    """One door: in a line, what it takes, and what it answers when all is well, by status.

    An answer is a schema's name (JSON), a media type with a schema, or None for no content. `refusals` are further
    statuses of problems, beside those that the door itself implies. `signed` names the payload of a device's request.
    """

    summary: str
    answers: Mapping[int, str | tuple[str, Schema] | None]
    takes: str = ""
    signed: str = ""
    query: Mapping[str, Schema] = field(default_factory=dict)
    required: frozenset[str] = frozenset()  # of the query
    refusals: frozenset[int] = frozenset()


_LIMIT: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 1000}
_NUMBER: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_SECONDS: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": MAX_SECONDS}
_TRUTH: Final[Schema] = {"enum": ["true", "false"]}
_CEREMONY: Final = frozenset({401, 403, 409})
_CREDENTIAL: Final = {200: "CredentialAnswer", 202: "WaitAnswer"}


def _act(summary: str, takes: str = "Act") -> Described:
    return Described(summary, {200: "DeviceAnswer"}, takes)


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
        {200: ("application/jose", _JWS)},
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
    "GET /v1/root": Described("The root certificate", {200: ("application/pem-certificate-chain", PEM)}),
    "GET /v1/jwks": Described("The token keys", {200: ("application/jwk-set+json", ref("Jwks"))}),
    "GET /.well-known/jwks.json": Described("The token keys", {200: ("application/jwk-set+json", ref("Jwks"))}),
    "GET /v1/crl": Described("The certificate revocation list (DER)", {200: ("application/pkix-crl", _BINARY)}),
    "GET /v1/status-list": Described(
        "The states of all devices, as a Token Status List", {200: ("application/statuslist+jwt", _JWS)}
    ),
    "GET /v1/policy/schema": Described(
        "The schema of policies, in Cedar's language", {200: ("text/plain", {"type": "string"})}
    ),
    "GET /v1/openapi.json": Described("This description", {200: "Description"}),
    "GET /v1/bundle": Described("What an edge decides by, signed", {200: "Bundle", 226: "BundleDelta", 304: None}),
    "GET /v1/bundle/stream": Described(
        "What an edge decides by, as it changes: server-sent events, each a bundle or a delta",
        {200: ("text/event-stream", {"type": "string"})},
        refusals=frozenset({503}),
    ),
    "GET /v1/audit/consistency": Described(
        "That the audit trail's tree begins with a smaller one",
        {200: "ConsistencyAnswer"},
        query={"log": _NUMBER, "first": _NUMBER, "second": _NUMBER},
        required=frozenset({"first", "second"}),
        refusals=frozenset({404, 409}),
    ),
    "POST /v1/proxies/renewals": Described("A proxy's next certificate", {200: "ProxyAnswer"}, "Nothing"),
    "POST /v1/proxies/reports": Described(
        "What an edge decided, and how it stands; each report counts once",
        {200: "EdgeReportAnswer"},
        "EdgeReport",
    ),
    "POST /v1/receipts": Described(
        "An edge's receipts, in their order; none: which one is wanted next",
        {200: "ReceiptsAnswer"},
        "ReceiptsMessage",
        refusals=frozenset({403, 409}),
    ),
    "GET /v1/admin/sign-in": Described("How people can sign in here", {200: "WaysIn"}),
    "POST /v1/admin/sign-in/passkey/begin": Described(
        "Begin to sign in with a passkey: nobody is named", {200: "Begun"}, "SessionKeyMessage", refusals=_CEREMONY
    ),
    "POST /v1/admin/sign-in/passkey": Described(
        "Sign in with a passkey; the session key in the message signs the call",
        {201: "SignedIn"},
        "PasskeySignIn",
        refusals=_CEREMONY,
    ),
    "POST /v1/admin/sign-in/invitation/begin": Described(
        "Who a one-time link is for, and how to make their passkey",
        {200: "InvitationBegun"},
        "InvitationBegin",
        refusals=_CEREMONY,
    ),
    "POST /v1/admin/sign-in/invitation": Described(
        "Register the invited person's passkey and sign in; the session key in the message signs the call",
        {201: "SignedIn"},
        "InvitationSignIn",
        refusals=_CEREMONY,
    ),
    "POST /v1/admin/sign-in/oidc/begin": Described(
        "Begin to sign in with an OpenID provider: where the browser goes",
        {200: "OidcBegun"},
        "OidcBegin",
        refusals=_CEREMONY | {404},
    ),
    "POST /v1/admin/sign-in/oidc": Described(
        "Sign in with the provider's code; the session key in the message signs the call",
        {201: "SignedIn"},
        "OidcSignIn",
        refusals=_CEREMONY | {404},
    ),
    "GET /v1/admin/session": Described("Who calls, and by which session", {200: "SessionPage"}),
    "DELETE /v1/admin/session": Described("Sign out", {200: "Identified"}, refusals=frozenset({404, 409})),
    "GET /v1/admin/sessions": Described("Live sessions: one's own, or everybody's for an admin", {200: "Sessions"}),
    "POST /v1/admin/sessions/<id>/revoke": Described("End a session", {200: "Identified"}, "Reason"),
    "GET /v1/admin/passkeys": Described(
        "Passkeys: one's own, or an operator's for an admin", {200: "Passkeys"}, query={"operator": SEGMENT}
    ),
    "POST /v1/admin/passkeys/begin": Described(
        "Begin to add a passkey; who has one confirms with it (Attestd-Touch)", {200: "Begun"}, "Nothing"
    ),
    "POST /v1/admin/passkeys": Described("Add a passkey", {201: "PasskeyAnswer"}, "NewPasskey"),
    "POST /v1/admin/passkeys/<id>/remove": Described("Remove a passkey", {200: "PasskeyAnswer"}, "Reason"),
    "POST /v1/admin/touch/begin": Described(
        "Begin to confirm one act with a passkey; for sessions", {200: "Begun"}, "TouchBegin"
    ),
    "GET /v1/admin/invitations": Described("Open invitations", {200: "Invitations"}),
    "POST /v1/admin/invitations": Described(
        "Invite a person: a one-time link for a day", {201: "Invited"}, "NewInvitation"
    ),
    "POST /v1/admin/invitations/<id>/withdraw": Described(
        "Withdraw an invitation", {200: "InvitationAnswer"}, "Reason"
    ),
    "GET /v1/admin/overview": Described("How the fleet stands", {200: "Overview"}),
    "GET /v1/admin/counts": Described("How many devices there are, by state", {200: "Counts"}),
    "GET /v1/admin/devices": Described(
        "Devices by any combination of filters, page by page, in the order of their ids",
        {200: "Devices"},
        query={**FILTERS, "after": SEGMENT, "limit": _LIMIT},
    ),
    "GET /v1/admin/causes": Described(
        "The devices that match, by why they are as they are", {200: "Causes"}, query=FILTERS
    ),
    "GET /v1/admin/sites": Described(
        "Sites that have devices", {200: "Sites"}, query={"after": SEGMENT, "limit": _LIMIT}
    ),
    "POST /v1/admin/devices/find": Described("The device of an endorsement key", {200: "FoundDevice"}, "FindDevice"),
    "GET /v1/admin/devices/<id>": Described("One device", {200: "DevicePage"}),
    "GET /v1/admin/devices/<id>/evidence": Described(
        "A device's evidence with all that its result rests on: what `attestd appraise bundle` reads",
        {200: "EvidenceBundle"},
        query={"verdict": {"enum": ["good", "bad"]}},
    ),
    "GET /v1/admin/devices/<id>/history": Described(
        "What happened to a device, the newest first: results, certificates, crossings and acts in one order",
        {200: "Timeline"},
        query={"before": text(80), "limit": _LIMIT, "only": {"enum": list(KINDS)}},
    ),
    "GET /v1/admin/devices/<id>/attestations/<number>": Described(
        "What an attestation came to, and what differs from reference values", {200: "AttestationPage"}
    ),
    "GET /v1/admin/devices/<id>/attestations/<number>/events": Described(
        "All events of its boot, in the log's order",
        {200: "BootEvents"},
        query={"after": _NUMBER, "limit": _LIMIT},
    ),
    "GET /v1/admin/devices/<id>/attestations/<number>/files": Described(
        "What ran since its boot, as it was judged",
        {200: "RanFiles"},
        query={"after": _NUMBER, "limit": _LIMIT, "only": {"enum": ["differing"]}},
    ),
    "GET /v1/admin/devices/<id>/endorsement": Described(
        "By which certificates a device's TPM is endorsed", {200: "EndorsementChain"}
    ),
    "GET /v1/admin/devices/<id>/edges": Described(
        "How many edges refuse a device, by the bundles that they last said they use", {200: "RefusingEdges"}
    ),
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
        query={"after": SEGMENT, "limit": _LIMIT},
    ),
    "GET /v1/admin/brake/causes": Described("What the brake holds, by why it would quarantine", {200: "Causes"}),
    "POST /v1/admin/brake/engage": Described("Engage the brake", {200: "BrakeAnswer"}, "Reason"),
    "POST /v1/admin/brake/release": Described("Release the brake", {200: "BrakeAnswer"}, "BrakeRelease"),
    "GET /v1/admin/credentials": Described(
        "Certificates, the newest first",
        {200: "Credentials"},
        query={"device": SEGMENT, "before": _NUMBER, "limit": _LIMIT},
    ),
    "POST /v1/admin/credentials/<serial>/revoke": Described("Revoke a certificate", {200: "Revoked"}, "Reason"),
    "GET /v1/admin/audit": Described(
        "The audit trail: the newest first, archives included, or with `after` the oldest first. One answer looks at a "
        "bounded number of rows: it may hold fewer than were wanted, and more follow where it names a number",
        {200: "AuditRows"},
        query={**AUDIT_FILTERS, "before": _NUMBER, "after": _NUMBER, "limit": _LIMIT},
    ),
    "GET /v1/admin/audit/<number>": Described("One row, and its place in the tree", {200: "AuditPage"}),
    "GET /v1/admin/audit/witnesses": Described("Which head of the tree each edge has seen", {200: "AuditWitnesses"}),
    "GET /v1/admin/audit/head": Described("The newest signed head", {200: "AuditHead"}),
    "GET /v1/admin/audit/consistency": Described(
        "That the audit trail's tree begins with a smaller one",
        {200: "ConsistencyAnswer"},
        query={"log": _NUMBER, "first": _NUMBER, "second": _NUMBER},
        required=frozenset({"first", "second"}),
        refusals=frozenset({404, 409}),
    ),
    "GET /v1/admin/audit/<number>/proof": Described(
        "That a row is under the newest head", {200: "AuditProof"}, refusals=frozenset({409})
    ),
    "GET /v1/admin/events": Described(
        "What happens, as it does: events `changed`, with topics and devices; `since`: and what did before now",
        {200: ("text/event-stream", {"type": "string"})},
        query={"since": _NUMBER},
        refusals=frozenset({503}),
    ),
    "GET /v1/admin/receipts": Described(
        "What crossed at edges, in the order in which it was delivered",
        {200: "Receipts"},
        query={
            "edge": text(200),
            "chain": text(200),
            "boundary": text(200),
            "device": text(200),
            "since": _NUMBER,
            "after": _NUMBER,
            "limit": _LIMIT,
        },
    ),
    "GET /v1/admin/receipts/chains": Described(
        "Chains of receipts, and where each stands",
        {200: "ReceiptChains"},
        query={"edge": text(200), "chain": text(200), "after": text(200), "limit": _LIMIT},
    ),
    "GET /v1/admin/operators": Described("Operators", {200: "Operators"}),
    "POST /v1/admin/operators": Described(
        "Add an operator, by their public key", {201: "OperatorAdded"}, "NewOperator"
    ),
    "POST /v1/admin/operators/<name>/disable": Described("Disable an operator", {200: "Named"}, "Reason"),
    "GET /v1/admin/authority": Described(
        "The authority's certificates and keys, what comes next for them, and how long things last",
        {200: "AuthorityStanding"},
    ),
    "GET /v1/admin/trust/dependents": Described(
        "How many devices enrolled under each maker's certificate", {200: "Dependents"}
    ),
    "GET /v1/admin/trust": Described("The TPM makers' certificates that are trusted", {200: "Makers"}),
    "POST /v1/admin/trust": Described("Trust a file of makers' certificates", {200: "Makers"}),
    "DELETE /v1/admin/trust/<sha256>": Described("Trust a certificate no longer", {200: "Distrusted"}),
    "GET /v1/admin/policy": Described("The policy in force", {200: "PolicyInForce"}),
    "PUT /v1/admin/policy": Described("Put a policy in force", {200: "PolicySet"}, "Policy"),
    "GET /v1/admin/policy/versions": Described(
        "The policy's versions, the newest first", {200: "PolicyVersions"}, query={"before": _NUMBER, "limit": _LIMIT}
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
    "GET /v1/admin/references": Described(
        "Reference manifests, the newest first",
        {200: "References"},
        query={"all": _TRUTH, "before": _NUMBER, "limit": _LIMIT},
    ),
    "POST /v1/admin/references": Described(
        "Add a reference manifest: the document, in TOML (1 MiB) or JSON",
        {201: "ReferenceAnswer"},
        query={"overlap": _SECONDS, "accept_refusals": _NUMBER, "unwatched": _TRUTH, "reason": text(500)},
    ),
    "POST /v1/admin/references/learn": Described(
        "Learn a draft from golden devices; it is stored nowhere", {200: "LearnedDraft"}, "Learning"
    ),
    "GET /v1/admin/references/<number>": Described("One version, with its document", {200: "ReferencePage"}),
    "GET /v1/admin/references/<number>/refusals": Described(
        "Devices that a watched manifest would refuse, and what enforcing it would do",
        {200: "Refusals"},
        query={"after": SEGMENT, "limit": _LIMIT},
    ),
    "POST /v1/admin/references/<number>/promote": Described(
        "Take a manifest to another stage", {200: "ReferenceAnswer"}, "Promotion"
    ),
    "POST /v1/admin/references/<number>/withdraw": Described("Withdraw a manifest", {200: "ReferenceAnswer"}, "Reason"),
    "GET /v1/admin/proxies": Described("Edge proxies, and how each stands", {200: "Proxies"}),
    "GET /v1/admin/proxies/<name>": Described(
        "One edge proxy, with what it decided; `since`: left out, in the last day",
        {200: "ProxyPage"},
        query={"since": _NUMBER},
    ),
    "GET /v1/admin/boundaries": Described(
        "Boundaries by how much is refused there; `window` in hours",
        {200: "BoundariesPage"},
        query={"site": SEGMENT, "window": {**_LIMIT, "maximum": 744}, "limit": _LIMIT},
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
    "POST /v1/admin/proxies": Described("Give an edge proxy an identity", {201: "ProxyAdded"}, "NewProxy"),
    "POST /v1/admin/proxies/<name>/disable": Described("Disable a proxy", {200: "Named"}, "Nothing"),
    "GET /healthz": Described("Is it alive?", {200: ("text/plain", _LINES)}),
    "GET /readyz": Described("Can it do its work?", {200: "Ready", 503: "Ready"}),
    "GET /metrics": Described("Prometheus' text format", {200: ("text/plain", _LINES)}),
}

_TOUCH: Final[Mapping[str, Any]] = {
    "name": TOUCH,
    "in": "header",
    "required": False,
    "description": "From a session of the console: base64url of {challenge, credential}, which confirm this very call.",
    "schema": {"type": "string", "maxLength": MAX_TOUCH},
}
_UNATTENDED: Final[Mapping[str, Any]] = {
    "name": UNATTENDED,
    "in": "header",
    "required": False,
    "description": "From a session of the console: `1`, if nobody asked for this. It keeps no session alive.",
    "schema": {"const": "1"},
}
_VARIABLE: Final = re.compile(r"<(?:\w+:)?(\w+)>")
_VARIABLES: Final[Mapping[str, Schema]] = {
    "id": SEGMENT,
    "name": SEGMENT,
    "serial": SERIAL,
    "sha256": DIGEST,
    "number": _NUMBER,
}
_SECURITY: Final[Mapping[Who, str]] = {
    Who.PUBLIC: "",
    Who.DEVICE: "device",
    Who.PROXY: "proxy",
    Who.VIEWER: "operator",
    Who.OPERATOR: "operator",
    Who.ADMIN: "operator",
}


@cache
def describe() -> bytes:
    """The description as JSON."""
    paths: dict[str, dict[str, Any]] = {}
    for route, door in DOORS.items():
        method, _, path = route.partition(" ")
        paths.setdefault(_VARIABLE.sub(r"{\1}", path), {})[method.lower()] = _operation(route, door, DESCRIBED[route])
    signed = "A detached JWS over method, URL, nonce and body (docs/protocol.md, section 2), in `Authorization`."
    return write_object(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "attestd",
                "version": "1",
                "description": "Device identity and attestation. docs/protocol.md has every derivation and signature.",
            },
            "paths": paths,
            "components": {
                "schemas": SCHEMAS,
                "securitySchemes": {
                    "operator": {"type": "http", "scheme": SCHEME, "description": f"An operator's key. {signed}"},
                    "proxy": {"type": "http", "scheme": SCHEME, "description": f"An edge proxy's key. {signed}"},
                    "device": {
                        "type": "http",
                        "scheme": SCHEME,
                        "description": "A device's credential key. The body is itself a flattened JWS.",
                    },
                },
            },
        }
    )


def _operation(route: str, door: Door, described: Described) -> dict[str, Any]:
    method, _, path = route.partition(" ")
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _VARIABLES[name]} for name in _VARIABLE.findall(path)
    ]
    parameters += [
        {"name": name, "in": "query", "required": name in described.required, "schema": schema}
        for name, schema in described.query.items()
    ]
    if is_once(route, door):
        parameters.append({"name": ONCE, "in": "header", "required": False, "schema": ONCE_SCHEMA})
    if door.touch:
        parameters.append(dict(_TOUCH))
    if method == "GET" and _SECURITY[door.who] == "operator":
        parameters.append(dict(_UNATTENDED))
    found: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": described.summary,
        "tags": [door.who.value],
        "x-caller": door.who.value,
        "parameters": parameters,
        "responses": dict(_responses(route, door, described)),
    }
    if security := _SECURITY[door.who]:
        found["security"] = [{security: []}]
    if door.accepts:
        found["requestBody"] = {
            "required": True,
            "x-limit": door.limit,
            "content": {kind: {"schema": _body(described, kind)} for kind in sorted(door.accepts)},
        }
        if described.signed:
            found["requestBody"]["x-signed-payload"] = ref(described.signed)
    return found


def _operation_id(route: str) -> str:
    words = re.findall(r"[a-z0-9]+", _VARIABLE.sub(r"by \1", route.replace("/v1", "").replace(".", "")).lower())
    return "_".join(words)


def _body(described: Described, kind: str) -> Schema:
    if described.signed:
        return ref("SignedRequest")
    if described.takes:
        return ref(described.takes)
    return _LINES if kind in ("text/csv", "application/jsonl") else _BINARY


def _responses(route: str, door: Door, described: Described) -> Iterator[tuple[str, dict[str, Any]]]:
    """Successes as described; then every refusal that this door can come to."""
    for status, answer in described.answers.items():
        yield str(status), _response(status, door, _content(answer))
    problem = {MEDIA_TYPE: {"schema": ref("Problem")}}
    for status in sorted(_refusals(route, door, described) - set(described.answers)):
        yield str(status), _response(status, door, problem)


def _content(answer: str | tuple[str, Schema] | None) -> dict[str, Any]:
    if answer is None:
        return {}
    if isinstance(answer, str):
        return {_JSON: {"schema": ref(answer)}}
    kind, schema = answer
    return {kind: {"schema": schema}}


def _refusals(route: str, door: Door, described: Described) -> set[int]:
    """400 for what can't be read, 413 for what is too large, 429 and 503 for what is too much, whatever the door."""
    found = {400, 413, 429, 503} | described.refusals
    if door.who is not Who.PUBLIC:
        found |= {401, 403}
    if door.accepts:
        found |= {408, 415}
    if "<" in route:
        found.add(404)
    if is_once(route, door):
        found.add(409)
    if door.who is Who.DEVICE or (door.accepts and door.who is not Who.PUBLIC):
        found |= {404, 409}
    return found


def _response(status: int, door: Door, content: dict[str, Any]) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    if door.nonce:
        headers["Replay-Nonce"] = {
            "description": "For the next signed request.",
            "required": True,
            "schema": octets(256, least=1),
        }
    if door.nonce and door.who in DEVICES:
        headers[HEADER] = {
            "description": "What an attestation should hold now: a quote's PCRs, and logs. Unknown without a database.",
            "required": False,
            "schema": {"type": "string", "maxLength": MAX_HEADER},
        }
    if status in (202, 429, 503) and content.get(_JSON, {}).get("schema") != ref("Ready"):
        headers["Retry-After"] = {
            "description": "Seconds.",
            "required": True,
            "schema": {"type": "integer", "minimum": 1},
        }
    if status == 401:
        headers["WWW-Authenticate"] = {"required": True, "schema": {"const": SCHEME}}
    found: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if headers:
        found["headers"] = headers
    if content:
        found["content"] = content
    return found


def blueprint(service: Service) -> Blueprint:
    """GET /v1/openapi.json"""
    del service
    routes = Blueprint("openapi", __name__)

    def openapi() -> Response:
        return Response(describe(), content_type=_JSON, headers={"Cache-Control": "public, max-age=300"})

    routes.get("/v1/openapi.json")(openapi)
    return routes
