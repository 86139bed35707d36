"""What the admin API says of the authority and of whom it trusts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.web.schema_words import COUNT, DIGEST, SECONDS, TIMES, Schema, answer, closed, list_of, or_null

_KIND: Final = {"enum": ["root", "issuer", "bundle", "audit", "token", "sealing"]}

AUTHORITY: Final[Mapping[str, Schema]] = {
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
    "Dependents": answer(makers=list_of(closed({"sha256": DIGEST, "devices": COUNT}))),
}
