"""What an attack must leave as it was: every certificate of a device, every device's state and keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from werkzeug.test import TestResponse

from attestd.registry import devices, issued
from tests.service import World, problem


@dataclass(frozen=True)
class Ledger:
    """The part of the registry that gives somebody trust. What only looks (audit rows, spent nonces) is not in it."""

    certificates: frozenset[tuple[str, bool]]  # serial number, whether it stands
    devices: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, world: World) -> Self:
        with world.registry.reading() as c:
            known = devices.page(c, limit=1000)
            certificates = frozenset(
                (str(entry.serial), entry.revoked_at is None)
                for device in known
                for entry in issued.page(c, device_id=device.id, limit=1000)
            )
        rows = (
            (d.id, d.state, d.tier, d.site, d.ek_hash, d.ak_public, d.ck_public, d.attestation_good_until)
            for d in known
        )
        return cls(certificates, tuple(sorted(rows)))


def refused(answer: TestResponse, status: int, name: str) -> bool:
    """Whether this is that refusal, with nothing of a credential in it. Fails with what it is instead."""
    assert b"BEGIN CERTIFICATE" not in answer.data
    assert b'"token"' not in answer.data
    assert (answer.status_code, problem(answer) if answer.status_code >= 400 else "none") == (status, name), answer.text
    return True
