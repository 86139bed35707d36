"""Bodies of a gigabyte: refused before they are read, and never held."""

from __future__ import annotations

import time

import pytest

from tests.load.conftest import Site, scale
from tests.load.running import attackers, told

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
    seen = told(tell)
    turns = sum(count for name, count in seen.items() if name != "octets")
    assert turns >= (connections if attack == "announced" else 1)
    if attack == "announced":
        assert seen["octets"] / turns < 16 * 1024 * 1024  # what fits into the kernel's buffers on the way
