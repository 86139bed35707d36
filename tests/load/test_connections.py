"""More connections than the service holds, from a few who hold them: the others still get in."""

from __future__ import annotations

import time

import pytest

from tests.load.conftest import Site, scale
from tests.load.running import attackers

MOST = 200
SETTINGS = {"limits_connections": str(MOST)}
SECONDS = scale(5, 60)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sources", [1, 20])
def test_who_holds_the_most_is_cut_down(site: Site, sources: int) -> None:
    """Held connections alone would fill every place of both workers for ten seconds, over and over."""
    with attackers(site.service, "idle", connections=scale(800, 4000), sources=sources):
        with site.renewing() as outcome:
            time.sleep(SECONDS)
        site.must_hold(outcome, grown=150)
    closed = [count for name, count in site.service.metrics().items() if name.startswith("attestd_connections_closed")]
    assert sum(closed) > 0
