"""What is said of one door, beside what the table of doors (attestd/web/access.py) implies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attestd.web.description.words import Schema


@dataclass(frozen=True, slots=True)
class Described:
    """One door: in a line, what it takes, and what it answers when all is well, by status.

    An answer is a schema's name (JSON), a media type with a schema, or None for no content. `refusals` are further
    statuses of problems, beside those that the door itself implies. `signed` names the payload of a device's request.
    """

    summary: str
    answers: Mapping[int, str | tuple[str, Schema] | None]
    takes: str = ""
    signed: str = ""
    query: Mapping[str, Schema] = field(default_factory=dict)
    required: frozenset[str] = frozenset()  # of the query
    refusals: frozenset[int] = frozenset()
