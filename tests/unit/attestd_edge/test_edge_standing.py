"""How a boundary stands after some time without news, and since when."""

from __future__ import annotations

from datetime import timedelta

import pytest

from attestd_edge.decide import Staleness
from attestd_edge.standing import Standing, standing
from tests import authority as a


@pytest.mark.parametrize(
    ("rule", "after", "expected"),
    [
        (None, 0, Standing("all")),
        (None, 299, Standing("all")),
        (None, 300, Standing("nothing", None, 0)),
        (None, 330, Standing("nothing", None, 30)),
        (Staleness(100), 99, Standing("all")),
        (Staleness(100), 130, Standing("nothing", None, 30)),
        (Staleness(100, "telemetry"), 130, Standing("class", "telemetry", 30)),
        (Staleness(100, "telemetry"), 330, Standing("nothing", None, 230)),
        (Staleness(1000, "telemetry"), 330, Standing("nothing", None, 30)),  # the bundle's own limit comes first
    ],
)
def test_what_crosses_and_since_when_it_is_stale(store, bundle, rule, after, expected) -> None:
    used = bundle(stale_after=300)
    store.adopt(a.signed_bundle(used))
    now = a.NOW.fromtimestamp(used.issued_at, a.NOW.tzinfo) + timedelta(seconds=after)
    assert standing(store, rule, now) == expected


def test_without_a_bundle_nothing_crosses_and_nothing_has_gone_stale(store) -> None:
    assert standing(store, None, a.NOW) == Standing("nothing")
