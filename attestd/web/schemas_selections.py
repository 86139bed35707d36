"""One act for many devices: the message, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.operations.selections import MAX_SELECTED, SELECTABLE
from attestd.web.schema_words import SEGMENT, TIER, Schema, answer, closed, list_of, message, ref, text
from attestd.web.schemas_labels import LABELLING

_VERSION: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": (1 << 53) - 1}

SELECTIONS: Final[Mapping[str, Schema]] = {
    "Selection": message(
        {
            "act": {"enum": sorted(event.value for event in SELECTABLE)},
            "devices": {**list_of(closed({"id": SEGMENT, "version": _VERSION}), MAX_SELECTED), "minItems": 1},
        },
        tier=TIER,
        site=SEGMENT,
        **LABELLING,
        dry_run={"type": "boolean", "description": "changes nothing"},
        reason=text(500),
    ),
    "SelectionAnswer": answer(
        act={"type": "string"},
        dry_run={"type": "boolean"},
        done={**list_of(ref("Device"), MAX_SELECTED), "description": "as they are afterwards; in a dry run, now"},
        left=list_of(
            closed({"id": SEGMENT, "problem": {"type": "string"}, "detail": {"type": "string"}}), MAX_SELECTED
        ),
    ),
}
