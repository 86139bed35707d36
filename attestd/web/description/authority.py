"""The authority: its certificates and keys, what it issued, and whom it trusts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.web.description.described import Described
from attestd.web.description.words import (
    COUNT,
    DIGEST,
    LIMIT,
    NUMBER,
    SECONDS,
    SEGMENT,
    SERIAL,
    TIMES,
    Schema,
    answer,
    closed,
    list_of,
    or_null,
    ref,
)

_KIND: Final = {"enum": ["root", "issuer", "bundle", "audit", "token", "sealing"]}

DESCRIBED: Final[Mapping[str, Described]] = {
    "GET /v1/admin/authority": Described(
        "The authority's certificates and keys, what comes next for them, and how long things last",
        {200: "AuthorityStanding"},
    ),
    "GET /v1/admin/credentials": Described(
        "Certificates, the newest first",
        {200: "Credentials"},
        query={"device": SEGMENT, "before": NUMBER, "limit": LIMIT},
    ),
    "POST /v1/admin/credentials/<serial>/revoke": Described("Revoke a certificate", {200: "Revoked"}, "Reason"),
    "GET /v1/admin/trust": Described("The TPM makers' certificates that are trusted", {200: "Makers"}),
    "GET /v1/admin/trust/dependents": Described(
        "How many devices enrolled under each maker's certificate", {200: "Dependents"}
    ),
    "POST /v1/admin/trust": Described("Trust a file of makers' certificates", {200: "Makers"}),
    "DELETE /v1/admin/trust/<sha256>": Described("Trust a certificate no longer", {200: "Distrusted"}),
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "AuthorityStanding": answer(
        time=TIMES,
        trust_domain={"type": "string"},
        certificates=list_of(
            closed(
                {
                    "kind": {"enum": [*_KIND["enum"][:4], "cross"]},
                    "subject": {"type": "string"},
                    "issuer": {"type": "string"},
                    "sha256": DIGEST,
                    "not_before": TIMES,
                    "not_after": TIMES,
                }
            )
        ),
        keys=list_of(
            closed(
                {
                    "kind": _KIND,
                    "name": {"type": "string"},
                    "state": {"enum": ["current", "next", "old"]},
                    "since": TIMES,
                    "ends": or_null(TIMES),
                    "place": {"type": "string"},
                }
            )
        ),
        due=list_of(closed({"kind": _KIND, "stage": {"enum": ["prepare", "activate", "retire"]}, "at": TIMES})),
        lifetimes={"type": "object", "additionalProperties": SECONDS},
    ),
    "Credential": closed(
        {
            "number": COUNT,
            "serial": SERIAL,
            "device_id": or_null(SEGMENT),
            "subject": {"type": "string", "pattern": "^spiffe://"},
            "profile": {"type": "string"},
            "not_before": TIMES,
            "not_after": TIMES,
            "revoked_at": or_null(TIMES),
            "revoked_because": {"type": ["string", "null"]},
        }
    ),
    "Credentials": answer(credentials=list_of(ref("Credential"), 1000), before=or_null(COUNT)),
    "Revoked": answer(serial=SERIAL),
    "Maker": closed(
        {
            "sha256": DIGEST,
            "subject": {"type": "string"},
            "not_after": {"type": "integer"},
            "is_root": {"type": "boolean"},
            "added_at": TIMES,
            "added_by": {"type": "string"},
        }
    ),
    "Makers": answer(makers=list_of(ref("Maker"))),
    "Dependents": answer(makers=list_of(closed({"sha256": DIGEST, "devices": COUNT}))),
    "Distrusted": answer(sha256=DIGEST),
}
