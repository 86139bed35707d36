"""Reference manifests: what is good, who would be refused, and drafts of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.operations.learning import MAX_GOLDEN
from attestd.web.description.described import Described
from attestd.web.description.words import (
    COUNT,
    DIGEST,
    LIMIT,
    NUMBER,
    REASON,
    SECONDS,
    SEGMENT,
    STAGE,
    TIMES,
    Schema,
    answer,
    closed,
    list_of,
    message,
    or_null,
    ref,
    text,
)

_TRUTH: Final[Schema] = {"enum": ["true", "false"]}
_REFERENCE: Final[Mapping[str, Schema]] = {
    "number": COUNT,
    "name": {"type": "string"},
    "stage": STAGE,
    "digest": DIGEST,
    "added_at": TIMES,
    "added_by": {"type": "string"},
    "until": or_null(TIMES),
    "counts": {"type": "boolean"},
}

DESCRIBED: Final[Mapping[str, Described]] = {
    "GET /v1/admin/references": Described(
        "Reference manifests, the newest first",
        {200: "References"},
        query={"all": _TRUTH, "before": NUMBER, "limit": LIMIT},
    ),
    "POST /v1/admin/references": Described(
        "Add a reference manifest: the document, in TOML (1 MiB) or JSON",
        {201: "ReferenceAnswer"},
        query={"overlap": SECONDS, "accept_refusals": NUMBER, "unwatched": _TRUTH, "reason": text(500)},
    ),
    "POST /v1/admin/references/learn": Described(
        "Learn a draft from golden devices; it is stored nowhere", {200: "LearnedDraft"}, "Learning"
    ),
    "GET /v1/admin/references/<number>": Described("One version, with its document", {200: "ReferencePage"}),
    "GET /v1/admin/references/<number>/refusals": Described(
        "Devices that a watched manifest would refuse, and what enforcing it would do",
        {200: "Refusals"},
        query={"after": SEGMENT, "limit": LIMIT},
    ),
    "POST /v1/admin/references/<number>/promote": Described(
        "Take a manifest to another stage", {200: "ReferenceAnswer"}, "Promotion"
    ),
    "POST /v1/admin/references/<number>/withdraw": Described("Withdraw a manifest", {200: "ReferenceAnswer"}, "Reason"),
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Reference": closed(_REFERENCE),
    "References": answer(references=list_of(ref("Reference"), 1000), before=or_null(COUNT)),
    "ReferenceAnswer": answer(reference=ref("Reference")),
    "ReferencePage": answer(reference=ref("Reference"), document=ref("Manifest")),
    "Manifest": {"type": "object", "required": ["name", "stage"], "description": "docs/references.md"},
    "Refusals": answer(
        reference=ref("Reference"),
        total=COUNT,
        devices=list_of(closed({"id": SEGMENT, "at": TIMES, "reasons": list_of({"type": "string"})}), 1000),
        after=or_null(SEGMENT),
        prospect=or_null(
            closed(
                {
                    "watched_since": or_null(TIMES),
                    "refused": COUNT,
                    "unheard": COUNT,
                    "held": COUNT,
                    "more": {"type": "boolean"},
                }
            )
        ),
    ),
    "Promotion": message(
        {"stage": STAGE},
        overlap=SECONDS,
        accept_refusals={"type": "integer", "minimum": 0, "maximum": 10**9},
        unwatched={"type": "boolean"},
        **REASON,
    ),
    "Learning": message(
        {"devices": {**list_of(SEGMENT, MAX_GOLDEN), "minItems": 1}, "name": text(63, least=1)},
        match={"type": "object"},
        pcrs=list_of({"type": "integer", "minimum": 0, "maximum": 23}, 24),
        facts=list_of(text(64), 128),
        runtime={"type": "boolean"},
    ),
    "LearnedDraft": answer(
        document=ref("Manifest"),
        notes={"type": "object", "additionalProperties": list_of({"type": "string"})},
        devices=list_of(
            closed(
                {
                    "id": SEGMENT,
                    "attested_at": or_null(TIMES),
                    "eventlog": {"type": "boolean"},
                    "ima": {"type": "boolean"},
                    "why": {"type": "string"},
                }
            ),
            MAX_GOLDEN,
        ),
    ),
}
