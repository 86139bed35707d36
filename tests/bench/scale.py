"""The same load against 1,000 and against 1,000,000 devices in the registry:

    python -m tests.bench.scale

Renewals of the same 256 devices, by the verb itself (no HTTP), in one process, with a durable commit; CPU time of the
process, in turns one after the other. The other devices are rows that differ in id, keys and status index.
"""

# ruff: noqa: T201

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select

from attestd.ids import DeviceId
from attestd.protocol.messages import MAX_SMALL, WaitAnswer
from attestd.protocol.signed import SignedEnvelope
from attestd.registry import tables
from attestd.registry.engine import Registry
from tests.bench.site import Fleet
from tests.service import Clock, World

SMALL, LARGE = 1_000, 1_000_000
TURNS, RENEWALS = 7, 192
URL = "https://attestd.example:8443"


def measure() -> list[dict[str, Any]]:
    """The benchmark's entries."""
    with tempfile.TemporaryDirectory(prefix="attestd-bench-") as folder:
        small, large = _Site(Path(folder, "small"), SMALL), _Site(Path(folder, "large"), LARGE)
        costs: dict[_Site, list[float]] = {small: [], large: []}
        for _ in range(TURNS + 1):
            for site in (small, large):
                costs[site].append(site.turn())
        few, many = (statistics.median(costs[site][1:]) for site in (small, large))
        small.world.close()
        large.world.close()
    return [
        {
            "name": f"renewal with {LARGE:,} devices, server CPU",
            "value": round(many * 1e6),
            "unit": "µs",
            "against": f"with {SMALL:,} devices, {few * 1e6:.0f} µs",
            "ratio": round(many / few, 2),
            "goal": "within 1.3 times",
            "met": many <= 1.3 * few,
        }
    ]


class _Site:
    """An instance with so many devices, 256 of which renew."""

    def __init__(self, folder: Path, count: int) -> None:
        self.world = World(folder)
        self.world.clock = Clock(datetime.now(UTC))
        self._fleet = Fleet.enrolled(folder, self.world.registry, 256)
        _fill(self.world.registry, count - 256)
        self._pool = ThreadPoolExecutor(8)

    def turn(self) -> float:
        """CPU seconds of one renewal."""
        requests = self._fleet.renewals(URL, RENEWALS)
        started = time.process_time()
        answers = list(self._pool.map(self._renew, requests))
        spent = time.process_time() - started
        assert not any(isinstance(answer, WaitAnswer) for answer in answers)
        return spent / len(requests)

    def _renew(self, request: bytes) -> bytes:
        envelope = SignedEnvelope.parse_flattened(request, limit=MAX_SMALL)
        now = datetime.now(UTC)
        return self.world.service.lifecycle.renew(envelope, url=f"{URL}/v1/renewals", now=now, request_id="bench")


def _fill(registry: Registry, count: int) -> None:
    """So many more active devices, as copies of one that has enrolled."""
    with registry.reading() as c:
        model = dict(c.execute(select(tables.devices).limit(1)).one()._mapping)
    for start in range(0, count, 20_000):
        with registry.acting() as c:
            c.execute(insert(tables.devices), list(_copies(model, start, min(start + 20_000, count))))


def _copies(model: dict[str, Any], start: int, end: int) -> Iterator[dict[str, Any]]:
    for number in range(start, end):
        yield model | {
            "id": str(DeviceId.random(os.urandom(16))),
            "ek_hash": os.urandom(32),
            "status_index": 10_000 + number,
            "site": f"shop-{number % 5000}",
        }


if __name__ == "__main__":
    for entry in measure():
        print(entry)
