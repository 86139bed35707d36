"""An instance with a trail to seal, on the database that the tests run with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import text

from attestd.auditing.examination import Examination, examine
from attestd.auditing.log import AuditLog
from attestd.registry import audit
from tests.service import TRUST_DOMAIN, World


class Trail:
    """The audit trail of one instance: acts, and what somebody else does to the database."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.registry = world.registry
        self.folder = world.settings.dir / "audit"
        self.roots = [world.hierarchy.root.public_bytes(Encoding.DER)]
        self.log = self.opened()

    def opened(self) -> AuditLog:
        """Another process's way to it."""
        return AuditLog(self.registry, self.world.hierarchy, self.folder)

    def act(self, count: int = 1, **members: Any) -> None:
        """Rows, committed in one transaction."""
        with self.registry.acting() as c:
            for number in range(count):
                honest: dict[str, Any] = {
                    "at": int(self.world.clock().timestamp()),
                    "actor": "ada",
                    "act": "approve",
                    "subject": f"till-{number}",
                    "request_id": None,
                    "detail": {"n": number, "text": "ü\u2028"},
                }
                audit.append(c, **honest | members)

    def seal(self) -> int:
        return self.log.seal(self.world.clock())

    def rows(self) -> list[audit.AuditRecord]:
        with self.registry.reading() as c:
            return audit.page(c, after=0, limit=1000)

    def tamper(self, *statements: str, **values: Any) -> None:
        """Behind the service's back."""
        with self.registry.acting() as c:
            for statement in statements:
                c.execute(text(statement), values)

    def examine(self) -> Examination:
        return examine(self.registry, self.folder, roots=self.roots, trust_domain=TRUST_DOMAIN)

    def found(self) -> list[tuple[str, int | None]]:
        """Kinds of findings, with the rows' numbers."""
        return sorted(((f.kind, f.number) for f in self.examine().findings), key=str)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Trail]]:
    made: list[World] = []

    def trail(**options: Any) -> Trail:
        made.append(World(tmp_path / f"instance-{len(made)}", **options))
        return Trail(made[-1])

    yield trail
    for world in made:
        world.close()


@pytest.fixture
def trail(make: Callable[..., Trail]) -> Trail:
    return make()
