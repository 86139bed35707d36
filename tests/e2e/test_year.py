"""A year of a fleet with hourly certificates: the database stays as large as the fleet, but for 33 octets an act.

10 devices attest every hour of 365 days, by a clock that is moved: 87,600 attestations. Most of them are written as
the rows that an attestation leaves (its nonce, its certificate, its audit row), many at once; every week one device
does it for real. The audit trail is sealed and the service's own round of forgetting runs, as they do every minute.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text, update

from attestd.auditing.archives import FOLDER
from attestd.auditing.log import AuditLog
from attestd.ids import DeviceId
from attestd.registry import issued as issued_rows
from attestd.registry.tables import audit, audit_heads, audit_tiles, bundles, devices, issued, spends
from attestd.upkeep.retention import sweep
from tests.service import World

DEVICES = 10
STEP = 24  # hours that are written at once
DAYS = 365
TABLES = {"spends": spends, "issued": issued, "audit": audit, "audit_heads": audit_heads, "bundles": bundles}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, database="sqlite")
    yield world
    world.close()


class Year:
    def __init__(self, world: World) -> None:
        self.world = world
        self.log = AuditLog(world.registry, world.hierarchy, world.settings.dir / FOLDER)
        self.fleet = [world.enrolled() for _ in range(DEVICES)]
        self._number = 0
        with world.registry.reading() as c:
            self._certificate = issued_rows.page(c, device_id=DeviceId(self.fleet[0].id), limit=1)[0].der

    def pass_(self, hours: int) -> None:
        """What so many hours leave behind."""
        nonces, certificates, rows = [], [], []
        for _ in range(hours):
            at = int(self.world.clock.advance(hours=1).timestamp())
            for device in self.fleet:
                self._number += 1
                serial = f"{self._number:040x}"
                nonces.append(self._nonce(device.id, serial, at))
                certificates.append(self._issued(device.id, serial, at))
                detail = {"serial": serial, "result": "none"}
                act = {"actor": f"device:{device.id}", "act": "attest", "subject": device.id}
                rows.append(act | {"at": at, "request_id": serial[:16], "detail": detail})
        with self.world.registry.acting() as c:
            c.execute(insert(spends), nonces)
            c.execute(insert(issued), certificates)
            c.execute(insert(audit), rows)
            c.execute(update(devices).values(attested_at=at, attestation_good_until=at + 4 * 3600))
        self.log.seal(self.world.clock())
        sweep(self.world.registry, self.world.settings, now=self.world.clock(), pause=lambda _: None)

    def _nonce(self, device: str, serial: str, at: int) -> dict[str, Any]:
        answer = {"answer": bytes(2600), "request_digest": bytes(32), "purpose": "nonce", "device_id": device}
        return answer | {"id": bytes.fromhex(serial), "serial": serial, "at": at, "expires_at": at + 3600}

    def _issued(self, device: str, serial: str, at: int) -> dict[str, Any]:
        said = {"subject": f"spiffe://fleet.example/device/shop-1/{device}", "profile": "device", "device_id": device}
        times = {"not_before": at - 60, "not_after": at + 3600}
        return said | times | {"serial": serial, "der": self._certificate, "thumbprint": bytes(32)}

    def figures(self) -> dict[str, int]:
        """Rows of the tables that could grow, octets of the tree, of the database's file, of archive files."""
        with self.world.registry.reading() as c:
            found = {
                name: int(c.execute(select(func.count()).select_from(table)).scalar_one())
                for name, table in TABLES.items()
            }
            found["tree"] = int(c.execute(select(func.sum(func.length(audit_tiles.c.hashes)))).scalar_one())
            pages, free, size = (
                int(c.execute(text(f"PRAGMA {name}")).scalar_one())
                for name in ("page_count", "freelist_count", "page_size")
            )
        archives = (self.world.settings.dir / FOLDER).glob("*")
        return found | {
            "file": pages * size,
            "free": free * size,
            "archives": sum(path.stat().st_size for path in archives),
        }


@pytest.mark.timeout(900)
def test_a_year(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    year = Year(world)
    seen: list[dict[str, int]] = []
    for day in range(1, DAYS + 1):
        for _ in range(24 // STEP):
            year.pass_(STEP)
        if day % 7 == 0:
            assert year.fleet[0].attest().status_code == 200
        if day % 73 == 0:
            seen.append({"day": day} | year.figures())
    with capsys.disabled():
        lines = [" ".join(f"{name:>11}" for name in seen[0])]
        lines += [" ".join(f"{value:>11}" for value in row.values()) for row in seen]
        sys.stdout.write("\n" + "\n".join(lines) + "\n")

    acts = DEVICES * 24 * DAYS
    first, last = seen[1], seen[-1]  # from day 146 on, everything that is kept for a time has been kept so long
    hourly = DEVICES * 24
    assert last["spends"] <= DEVICES * (STEP + 1) + 100
    assert last["issued"] <= hourly * 31 + DEVICES * STEP + 100
    assert last["audit"] <= hourly * 92 + 200
    assert last["audit_heads"] <= DAYS + 200
    assert last["bundles"] <= 8
    grown = {name: last[name] - first[name] for name in first}
    for name in ("spends", "issued", "audit"):
        assert abs(grown[name]) <= 2 * hourly
    acted = DEVICES * 24 * (last["day"] - first["day"])
    assert acted * 32 <= grown["tree"] <= acted * 33
    # Beside the tree the file grows by a head a day; pages that became free are used again.
    assert grown["file"] <= grown["tree"] * 1.3 + (last["day"] - first["day"]) * 1500 + (1 << 20)
    assert last["tree"] >= acts * 32
