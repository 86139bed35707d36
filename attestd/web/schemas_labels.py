"""Changing labels: the message, and what asks for labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.web.labels import MAX_NAME, MAX_NAMES
from attestd.web.schema_words import COUNT, STAGE, Schema, answer, closed, list_of, message, text

_VALUES: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}
LABELLING: Final[Mapping[str, Schema]] = {
    "labels": {**_VALUES, "description": "to set; what is not named stays"},
    "remove": {**list_of(text(MAX_NAME), MAX_NAMES), "description": "names of labels"},
    "revoke": {"type": "boolean", "description": "certificates that say the old labels end with it"},
}

LABELS: Final[Mapping[str, Schema]] = {
    "Labelling": message(
        reason=text(500),
        expected_version={"type": "integer", "minimum": 1, "maximum": (1 << 53) - 1},
        **LABELLING,
    ),
    "LabelReaders": answer(
        policy=closed(
            {
                "version": COUNT,
                "names": {**list_of({"type": "string"}), "description": "of labels that a policy asks for"},
                "whole": {"type": "boolean", "description": "a policy looks at more labels than it names"},
            }
        ),
        references=list_of(
            closed({"number": COUNT, "name": text(63), "stage": STAGE, "labels": _VALUES}),
        ),
    ),
}
