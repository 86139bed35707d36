"""Every fuzz target, by family."""

from __future__ import annotations

from typing import Final

from tests.fuzz import (
    agent,
    appraisals,
    certificates,
    credentials,
    crossings,
    edge,
    eventlogs,
    files,
    measurements,
    messages,
    receipts,
    tpm_structures,
    trail_and_backups,
)
from tests.fuzz.harness import Target

FAMILIES: Final = (
    tpm_structures,
    eventlogs,
    certificates,
    messages,
    credentials,
    edge,
    crossings,
    receipts,
    agent,
    files,
    trail_and_backups,
    measurements,
    appraisals,
)
TARGETS: Final[tuple[Target, ...]] = tuple(target for family in FAMILIES for target in family.TARGETS)


def by_name(name: str) -> Target:
    return next(target for target in TARGETS if target.name == name)
