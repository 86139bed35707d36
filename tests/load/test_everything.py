"""All attacks at once, for minutes: `make soak` only. Looks for what shows late: memory, descriptors, silence."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from tests.load.conftest import SOAK, Site
from tests.load.running import attackers, eventually, renewing

SECONDS = 180
PROMISE = 60.0  # ten attackers compute on the same cores
ATTACKS = (
    ("sockets", {"connections": 2000, "sources": 50}),
    ("idle", {"connections": 3000, "sources": 50}),
    ("headers", {"connections": 300, "sources": 50}),
    ("bodies", {"connections": 300, "sources": 50}),
    ("unread", {"connections": 20, "sources": 4}),
    ("chunked", {"connections": 20, "sources": 20, "path": "/v1/enrollments/complete"}),
    ("garbage", {"connections": 200, "sources": 2000}),
    ("impostors", {"connections": 200, "sources": 2000}),
    ("enrollments", {"connections": 200, "sources": 2000, "path": "/v1/enrollments"}),
    ("reads", {"connections": 100, "sources": 2000, "path": "/v1/nonce"}),
)


@pytest.mark.skipif(not SOAK, reason="make soak")
@pytest.mark.timeout(900)
def test_devices_renew_under_everything_at_once(site: Site) -> None:
    before = max(site.service.descriptors())
    with ExitStack() as attacks:
        for number, (attack, details) in enumerate(ATTACKS):
            attacks.enter_context(
                attackers(site.service, attack, network=20 + 2 * number, kid=site.devices[0].id, **details)
            )
        with renewing(site.devices, every=1.0, promise=PROMISE) as outcome:
            time.sleep(SECONDS)
        site.must_hold(outcome, grown=400, promise=PROMISE)
    assert eventually(lambda: max(site.service.descriptors()) < before + 30, within=60)
    with site.renewing() as afterwards:
        time.sleep(5)
    site.must_hold(afterwards, grown=300)
    assert afterwards.attempts == len(afterwards.seconds)  # each at its first attempt
