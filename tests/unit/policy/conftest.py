"""A machine with a verified identity, and the boundary of its home, to change one thing at a time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from attestd.credentials.facts import Facts
from attestd.credentials.identity import VerifiedIdentity
from attestd.ids import DeviceId, Serial, Site, SpiffeId, Tier, TrustDomain
from attestd.policy import Boundary

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def identity() -> Callable[..., VerifiedIdentity]:
    """`identity(site="berlin", vector={...})`: bike-1 of tier device at munich, but for what is named."""

    def make(
        *,
        tier: str = "device",
        site: str = "munich",
        device_id: str = "bike-1",
        vector: dict[str, int] | None = None,
        labels: dict[str, str] | None = None,
        boot: dict[str, Any] | None = None,
    ) -> VerifiedIdentity:
        where = Tier.parse(tier), Site(site), DeviceId(device_id)
        return VerifiedIdentity(
            spiffe_id=SpiffeId.of_device(TrustDomain("example.org"), *where),
            tier=where[0],
            site=where[1],
            device_id=where[2],
            facts=Facts(
                vector={"instance-identity": 2, "hardware": 2} if vector is None else vector,
                labels=labels or {},
                boot=boot or {},
                status_index=7,
                attested_at=int(NOW.timestamp()) - 60,
            ),
            credential_id="0a",
            certificate_serial=Serial(10),
            not_after=NOW + timedelta(hours=1),
            kind="x509",
        )

    return make


@pytest.fixture
def home() -> Boundary:
    return Boundary("field-to-munich", Tier.DEVICE, Site("munich"), Tier.EDGE, Site("munich"))
