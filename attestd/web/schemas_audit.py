"""What the admin API says of the audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.operations.edges import State
from attestd.web.schema_words import (
    COUNT,
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

AUDIT: Final[Mapping[str, Schema]] = {
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
}
