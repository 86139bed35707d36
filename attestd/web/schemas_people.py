"""Signing in, sessions, passkeys, invitations and the fresh touch: the messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.operations.ceremonies import MAX_CHALLENGE
from attestd.operations.oidc import MAX_STATE
from attestd.operations.sign_in import TOKEN
from attestd.web.schema_words import (
    COUNT,
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

PEOPLE: Final[Mapping[str, Schema]] = {
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
}
