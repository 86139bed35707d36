"""What every door works with: the service's verbs. It is apart from Flask, so that who opens no door does without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from attestd.callers import Callers
from attestd.config import Settings
from attestd.issuance.attesting import Attestations
from attestd.issuance.enrollment import Enrollment
from attestd.issuance.lifecycle import Lifecycle
from attestd.operations import Operations
from attestd.operations.authority import Authority
from attestd.operations.certifying import Certifying
from attestd.operations.fleet import Fleet
from attestd.operations.news import Newsroom
from attestd.operations.oidc import Oidc
from attestd.operations.people import People
from attestd.operations.selections import Selections
from attestd.operations.sign_in import SignIn
from attestd.operations.touch import Touch
from attestd.publication import Publication
from attestd.registry.engine import Registry
from attestd.web.pace import Pace


@dataclass(frozen=True)
class Service:
    """Everything that requests are answered with. One a process, made after forking."""

    settings: Settings
    registry: Registry
    enrollment: Enrollment
    attestations: Attestations
    lifecycle: Lifecycle
    operations: Operations
    certifying: Certifying
    fleet: Fleet
    selections: Selections
    authority: Authority
    sign_in: SignIn
    oidc: Oidc
    people: People
    touch: Touch
    callers: Callers
    newsroom: Newsroom
    publication: Publication
    clock: Callable[[], datetime]
    entropy: Callable[[int], bytes]
    attesting_pace: Pace = field(default_factory=Pace)
