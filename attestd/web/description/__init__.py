"""What is known of each door of the API and of the messages that go through it, a module a part of it.

`openapi` beside this makes the OpenAPI description of it and of the table of doors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.web.description import (
    acts,
    attesting,
    audit,
    authority,
    boundaries,
    device,
    edges,
    fleet,
    people,
    policies,
    published,
    receipts,
    references,
    words,
)
from attestd.web.description.described import Described
from attestd.web.description.words import Schema

DESCRIBED: Final[Mapping[str, Described]] = {
    **acts.DESCRIBED,
    **attesting.DESCRIBED,
    **audit.DESCRIBED,
    **authority.DESCRIBED,
    **boundaries.DESCRIBED,
    **device.DESCRIBED,
    **edges.DESCRIBED,
    **fleet.DESCRIBED,
    **people.DESCRIBED,
    **policies.DESCRIBED,
    **published.DESCRIBED,
    **receipts.DESCRIBED,
    **references.DESCRIBED,
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    **words.SCHEMAS,
    **acts.SCHEMAS,
    **attesting.SCHEMAS,
    **audit.SCHEMAS,
    **authority.SCHEMAS,
    **boundaries.SCHEMAS,
    **device.SCHEMAS,
    **edges.SCHEMAS,
    **fleet.SCHEMAS,
    **people.SCHEMAS,
    **policies.SCHEMAS,
    **published.SCHEMAS,
    **receipts.SCHEMAS,
    **references.SCHEMAS,
}
