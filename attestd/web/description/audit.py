"""The audit trail: its rows, its heads and its proofs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.operations.edges import State
from attestd.web.description.described import Described
from attestd.web.description.words import (
    COUNT,
    DIGEST,
    LIMIT,
    NUMBER,
    SEGMENT,
    TIMES,
    VERSION,
    Schema,
    answer,
    closed,
    list_of,
    octets,
    or_null,
    ref,
    text,
)

_HASH: Final = octets(32, least=32)
_ACTS: Final[Schema] = {"type": "string", "pattern": "^[a-z0-9-]{1,40}(,[a-z0-9-]{1,40}){0,19}$"}
FILTERS: Final[Mapping[str, Schema]] = {
    "subject": text(200),
    "actor": text(200),
    "act": _ACTS,
    "but": _ACTS,
    "since": TIMES,
    "until": TIMES,
    "text": text(200),
}

DESCRIBED: Final[Mapping[str, Described]] = {
    "GET /v1/admin/audit": Described(
        "The audit trail: the newest first, archives included, or with `after` the oldest first. One answer looks at a "
        "bounded number of rows: it may hold fewer than were wanted, and more follow where it names a number",
        {200: "AuditRows"},
        query={**FILTERS, "before": NUMBER, "after": NUMBER, "limit": LIMIT},
    ),
    "GET /v1/admin/audit/<number>": Described("One row, and its place in the tree", {200: "AuditPage"}),
    "GET /v1/admin/audit/witnesses": Described("Which head of the tree each edge has seen", {200: "AuditWitnesses"}),
    "GET /v1/admin/audit/head": Described("The newest signed head", {200: "AuditHead"}),
    "GET /v1/admin/audit/consistency": Described(
        "That the audit trail's tree begins with a smaller one",
        {200: "ConsistencyAnswer"},
        query={"log": NUMBER, "first": NUMBER, "second": NUMBER},
        required=frozenset({"first", "second"}),
        refusals=frozenset({404, 409}),
    ),
    "GET /v1/admin/audit/<number>/proof": Described(
        "That a row is under the newest head", {200: "AuditProof"}, refusals=frozenset({409})
    ),
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "AuditRow": closed(
        {
            "number": COUNT,
            "leaf": or_null(COUNT),
            "at": TIMES,
            "actor": {"type": "string"},
            "act": {"type": "string"},
            "subject": {"type": "string"},
            "request_id": {"type": ["string", "null"]},
            "detail": {"type": "object"},
        }
    ),
    "AuditRows": closed(
        {"v": VERSION, "audit": list_of(ref("AuditRow"), 1000)},
        before=or_null(COUNT),
        after=or_null(COUNT),
        unread=COUNT,
    ),
    "AuditPage": answer(
        row=ref("AuditRow"),
        archived={"type": "boolean"},
        leaf_hash=_HASH,
        head=or_null(closed({"log": COUNT, "size": COUNT, "root": _HASH, "time": TIMES})),
        path=list_of(_HASH, 64),
        trouble={"type": "string"},
    ),
    "AuditWitnesses": answer(
        log=COUNT,
        size=COUNT,
        edges=list_of(
            closed(
                {
                    "name": SEGMENT,
                    "site": SEGMENT,
                    "state": {"enum": [state.value for state in State]},
                    "heard_at": or_null(TIMES),
                    "log": or_null(COUNT),
                    "size": or_null(COUNT),
                }
            )
        ),
    ),
    "AuditHead": answer(log=COUNT, size=COUNT, root=octets(32, least=32), time=TIMES, head={"type": "string"}),
    "ConsistencyAnswer": answer(path=list_of(octets(32, least=32))),
    "AuditProof": answer(
        entry={"type": "object"},
        leaf=COUNT,
        path=list_of(octets(32, least=32)),
        head={"type": "string"},
        root_sha256=DIGEST,
    ),
}
