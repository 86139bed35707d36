"""Operators: signing in, sessions, passkeys, invitations and the fresh touch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.operations.ceremonies import MAX_CHALLENGE
from attestd.operations.oidc import MAX_STATE
from attestd.operations.sign_in import TOKEN
from attestd.web.description.described import Described
from attestd.web.description.words import (
    COUNT,
    PEM,
    ROLE,
    SEGMENT,
    TIMES,
    Schema,
    answer,
    closed,
    list_of,
    message,
    octets,
    or_null,
    ref,
    text,
)

_CEREMONY: Final = frozenset({401, 403, 409})
_KEY: Final = {**octets(256, least=1), "description": "the session key's SubjectPublicKeyInfo in DER"}
_TOKEN: Final = octets(TOKEN, least=TOKEN)
_CHALLENGE: Final = octets(MAX_CHALLENGE, least=1)
_OPTIONS: Final[Schema] = {"type": "object", "description": "in the JSON form of WebAuthn Level 3"}
_CREDENTIAL: Final[Schema] = {"type": "object", "description": "in the JSON form of WebAuthn Level 3"}
_BROWSER: Final = closed({"agent": text(1024), "address": text(1024)})
_BEGUN: Final = {"challenge": _CHALLENGE, "options": _OPTIONS}
_LABEL: Final = text(240)
_INVITATION: Final = {
    "id": SEGMENT,
    "name": SEGMENT,
    "role": ROLE,
    "created_at": TIMES,
    "created_by": {"type": "string"},
    "expires_at": TIMES,
}

DESCRIBED: Final[Mapping[str, Described]] = {
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
    "GET /v1/admin/operators": Described("Operators", {200: "Operators"}),
    "POST /v1/admin/operators": Described(
        "Add an operator, by their public key", {201: "OperatorAdded"}, "NewOperator"
    ),
    "POST /v1/admin/operators/<name>/disable": Described("Disable an operator", {200: "Named"}, "Reason"),
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Session": closed(
        {
            "id": SEGMENT,
            "operator": SEGMENT,
            "role": ROLE,
            "method": {"enum": ["passkey", "oidc", "invitation"]},
            "began_at": TIMES,
            "seen_at": TIMES,
            "ends_at": TIMES,
            "idle_until": TIMES,
            "browser": _BROWSER,
            "current": {"type": "boolean"},
        }
    ),
    "Passkey": closed(
        {
            "id": SEGMENT,
            "operator": SEGMENT,
            "label": {"type": "string"},
            "backed_up": {"type": "boolean"},
            "created_at": TIMES,
            "used_at": or_null(TIMES),
        }
    ),
    "WaysIn": answer(
        trust_domain={"type": "string"},
        passkeys={"type": "boolean"},
        rp_id={"type": "string"},
        origins=list_of({"type": "string"}),
        providers=list_of(closed({"name": SEGMENT, "label": {"type": "string"}})),
        first_run={"type": "boolean", "description": "nobody has a passkey or an identity yet"},
    ),
    "SessionKeyMessage": message({"key": _KEY}),
    "Begun": answer(**_BEGUN),
    "PasskeySignIn": message({"key": _KEY, "challenge": _CHALLENGE, "credential": _CREDENTIAL, "browser": _BROWSER}),
    "SignedIn": answer(session=ref("Session")),
    "InvitationBegin": message({"key": _KEY, "token": _TOKEN}),
    "InvitationBegun": answer(name=SEGMENT, role=ROLE, **_BEGUN),
    "InvitationSignIn": message(
        {"key": _KEY, "token": _TOKEN, "challenge": _CHALLENGE, "credential": _CREDENTIAL, "browser": _BROWSER},
        label=_LABEL,
    ),
    "OidcBegin": message({"key": _KEY, "provider": text(64), "redirect_uri": text(1024)}, token=_TOKEN),
    "OidcBegun": answer(url={"type": "string", "pattern": "^https?://"}, state=octets(MAX_STATE, least=1)),
    "OidcSignIn": message(
        {"key": _KEY, "state": octets(MAX_STATE, least=1), "code": text(4096), "browser": _BROWSER},
        iss={**text(1024), "description": "what the provider's answer named (RFC 9207)"},
    ),
    "SessionPage": answer(
        trust_domain={"type": "string"},
        operator=closed({"name": SEGMENT, "role": ROLE}),
        session=or_null(ref("Session")),
        passkeys=COUNT,
    ),
    "Sessions": answer(sessions=list_of(ref("Session"))),
    "Identified": answer(id=SEGMENT),
    "Passkeys": answer(passkeys=list_of(ref("Passkey"))),
    "PasskeyAnswer": answer(passkey=ref("Passkey")),
    "NewPasskey": message({"challenge": _CHALLENGE, "credential": _CREDENTIAL}, label=_LABEL),
    "Invitations": answer(invitations=list_of(closed(_INVITATION))),
    "NewInvitation": message({"name": SEGMENT, "role": ROLE}),
    "Invited": answer(token=_TOKEN, link={"type": "string", "pattern": "^https://"}, **_INVITATION),
    "InvitationAnswer": answer(**_INVITATION),
    "TouchBegin": message(
        {
            "method": {"enum": ["POST", "PUT", "DELETE"]},
            "path": {"type": "string", "pattern": "^/v1/admin/[!-~]*$", "maxLength": 2048},
            "body_sha256": octets(32, least=32),
        }
    ),
    "NewOperator": message({"name": SEGMENT, "role": ROLE, "public_key": text(4096)}),
    "Operators": answer(
        operators=list_of(
            closed(
                {
                    "name": SEGMENT,
                    "role": ROLE,
                    "created_at": TIMES,
                    "disabled_at": or_null(TIMES),
                    "key": {"type": "boolean", "description": "signs calls with a key of their own"},
                    "passkeys": COUNT,
                    "identities": list_of({"type": "string", "description": "an OpenID issuer"}),
                    "seen_at": or_null(TIMES),
                }
            )
        )
    ),
    "OperatorAdded": answer(name=SEGMENT, role=ROLE, chain=PEM, root=PEM),
}
