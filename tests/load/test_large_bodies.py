"""Bodies of a gigabyte: refused before they are read, and never held."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.load.conftest import Site, scale
from tests.load.running import attackers, eventually, told

SECONDS = scale(3, 30)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("attack", "path"),
    [
        ("announced", "/v1/renewals"),
        ("announced", "/v1/enrollments/complete"),
        ("chunked", "/v1/enrollments/complete"),
        ("chunked", "/v1/admin/devices/import"),
    ],
)
def test_a_gigabyte_is_not_taken(site: Site, attack: str, path: str) -> None:
    connections = scale(30, 200)
    with attackers(site.service, attack, connections=connections, sources=connections, path=path) as (tell,):
        with site.renewing() as outcome:
            time.sleep(SECONDS)
        site.must_hold(outcome, grown=400)  # 256 MiB of bodies at most
        # On a busy machine an attacker takes its time until the first one was turned away.
        assert eventually(lambda: _turns(told(tell)) >= (connections if attack == "announced" else 1), within=60)
    seen = told(tell)
    turns = _turns(seen)
    if attack == "announced":
        assert seen["octets"] / turns < 16 * 1024 * 1024  # what fits into the kernel's buffers on the way


def _turns(seen: Counter[str]) -> int:
    return sum(count for name, count in seen.items() if name != "octets")
