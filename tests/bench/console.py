"""What operators wait for: overview, search, lists and a device's page, with a large fleet.

    python -m tests.bench.console

PostgreSQL with 1,000,000 devices and 10,000,000 certificates (rows without the certificates' own octets), SQLite with
100,000 devices: each kind of question so often, through the signed admin API and through the console's page, in the
same process. PostgreSQL was vacuumed, as autovacuum does; its buffers hold 32 MB.
"""

# ruff: noqa: T201

from __future__ import annotations

import gc
import hashlib
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from sqlalchemy import insert

from attestd.ids import EkHash
from attestd.registry import counts, outcomes
from attestd.registry.acts import perform
from attestd.registry.engine import Connection
from attestd.registry.tables import devices
from attestd_console.api import Api, Service
from tests.console import console_client
from tests.postgres import shared
from tests.service import URL, World

MANY, FEWER, EACH = 1_000_000, 100_000, 10
SITES: Final = 5_000
TURNS: Final = 40
GOAL: Final = 0.150  # seconds, at the 95th percentile
_RESULT: Final = {
    "vector": {"instance-identity": 2, "hardware": 2, "executables": 2, "configuration": 2},
    "reasons": [],
    "policies": ["gateway-os-5.2@" + "a" * 64],
}
_WHYS: Final = ("The kernel is not in the reference values", "Secure Boot is off", "The event log does not replay")


def measure() -> list[dict[str, Any]]:
    """The benchmark's entries."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="attestd-bench-") as folder:
        with _postgresql(Path(folder, "large")) as world:
            found += _measured(world, f"PostgreSQL, {MANY:,} devices")
        world = World(Path(folder, "small"), database="sqlite")
        _fill_sqlite(world)
        found += _measured(world, f"SQLite, {FEWER:,} devices")
        world.close()
    return found


def _measured(world: World, where: str) -> Iterator[dict[str, Any]]:
    console = console_client(world, role="viewer")
    # A client of the API as the console has it: the tests' own compares every answer with the description first.
    api = Api(Service.inside(world.app.wsgi_app, URL), world.viewer.key)
    some = hashlib.md5(b"4711", usedforsecurity=False).hexdigest()[:26]
    middle = "8" * 26
    questions = {
        "overview": "overview",
        "a device": f"devices/{some}",
        "search, one id": f"devices?q={some}",
        "search, one serial number": "devices?q=SN-0004711",
        "search, a common maker": "devices?q=norvik",
        "search, maker and site": "devices?q=norvik%20shop-17",
        "search, a rare maker": "devices?q=rareco",
        "search, what many begin with": "devices?q=sn",
        "search, nothing": "devices?q=nobody",
        "a label of one in ten": "devices?label=ring%3Dcanary",
        "a label and a result": "devices?label=ring%3Dcanary&result=warning",
        "quarantined or overdue": "devices?state=quarantined,overdue",
        "quarantined, by cause": "causes?state=quarantined",
        "deep in the list": f"devices?after={middle}",
        "deep in what is active with a warning": f"devices?state=active&result=warning&after={middle}",
        "deep in a tier and a maker": f"devices?tier=device&maker=norvik&after={middle}",
    }
    gc.collect()
    gc.freeze()  # as in a worker (`attestd.cli.preloaded`): what is loaded is not looked through again and again
    slowest: dict[str, tuple[float, float]] = {}
    for name, path in questions.items():
        route, _, query = path.partition("?")
        slowest[name] = _times(lambda route=route, query=query: api.get(f"/v1/admin/{route}", dict(parse_qsl(query))))  # type: ignore[misc]
    pages = {
        "the overview's page": "/",
        "the fleet's page": "/fleet",
        "the fleet's page, by a label": "/fleet?label=ring%3Dcanary",
        "a search's page": "/fleet?q=norvik%20shop-17",
        "a device's page": f"/fleet/{some}",
        "the approvals' page": "/approvals",
        "the audit's page": "/audit",
    }
    for name, path in pages.items():
        slowest[name] = _times(lambda path=path: _ok(console.get(path)))  # type: ignore[misc]
    for name, (middle_time, late) in slowest.items():
        yield {
            "name": f"{name} ({where}), 95th percentile",
            "value": round(late * 1000, 1),
            "unit": "ms",
            "against": f"half of them within {middle_time * 1000:.1f} ms",
            "ratio": round(late / middle_time, 1),
            "goal": f"under {GOAL * 1000:g} ms",
            "met": late < GOAL,
        }


def _times(ask: Callable[[], object]) -> tuple[float, float]:
    """The median and the 95th percentile, in seconds."""
    ask()
    found = []
    for _ in range(TURNS):
        started = time.perf_counter()
        ask()
        found.append(time.perf_counter() - started)
    found.sort()
    return found[len(found) // 2], found[int(len(found) * 0.95)]


def _ok(answer: Any) -> None:
    assert answer.status_code == 200, answer.text


# ---- The fleets -------------------------------------------------------------------------------------------------


def _rows(count: int, now: int) -> Iterator[dict[str, Any]]:
    """Devices as fleets have them: most are well, and some of everything."""
    chance = random.Random(17)
    for number in range(count):
        kind = chance.random()
        state, status = "active", "affirming" if chance.random() < 0.99 else "warning"
        if kind < 0.0005:
            state, status = "quarantined", "contraindicated"
        elif kind < 0.0007:
            state, status = "pending", "none"
        elif kind < 0.02:
            state = "retired"
        why = chance.choice(_WHYS) if state == "quarantined" else None
        late = chance.random() < 0.003
        maker = "Rareco" if chance.random() < 0.0002 else "Norvik" if chance.random() < 0.6 else "Halden"
        yield {
            "id": hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()[:26],
            "state": state,
            "state_version": 3,
            "tier": None if state == "pending" else "edge" if number % 200 == 0 else "device",
            "site": None if state == "pending" else f"shop-{chance.randrange(SITES)}",
            "serial_number": f"SN-{number:07}",
            "labels": {"ring": "canary" if number % 10 == 0 else "stable", "asset": f"A{number:07}"},
            "ek_hash": EkHash.of(b"%d" % number),
            "ek_public": b"e" * 120,
            "ak_public": b"a" * 90,
            "ck_public": b"c" * 90,
            "ck_name": b"n" * 34,
            "status_index": number,
            "manufacturer": maker,
            "model": "NV20" if maker == "Norvik" else "T2",
            "firmware_version": "7.85",
            "endorsement": "certificate",
            "created_at": now - 9_000_000,
            "updated_at": now - 600,
            "attested_at": now - 600,
            "attestation_good_until": now - chance.randrange(400, 9_000)
            if late
            else now + chance.randrange(300, 3_600),
            "result": {**_RESULT, "status": status, "reasons": [why] if why else [], "attested_at": now - 600},
            "result_status": status,
            "clock": {"clock": 5, "reset_count": 1, "restart_count": 2, "safe": True},
            "state_reason": why,
            "source": "request",
            "quarantined_by": "appraisal" if why else None,
            "quarantined_at": now - 2_000 if why else None,
        }


def _fill_sqlite(world: World) -> None:
    now = int(world.clock().timestamp())
    batch: list[dict[str, Any]] = []
    for row in _rows(FEWER, now):
        batch.append(row)
        if len(batch) == 5_000:
            with world.registry.acting() as c:
                c.execute(insert(devices), batch)
            batch.clear()
    _settle(world, now)


def _settle(world: World, now: int) -> None:
    """A day's results, and everything added up, as upkeep does every minute."""
    with world.registry.acting() as c:
        for back in range(0, 86_400, 600):
            perform(c, outcomes.marking("affirming", now=now - back))
            perform(c, *outcomes.contraindicating("attest", [_WHYS[back % 3]], site=None, device=None, now=now - back))

    def fold(kind: Callable[[Connection], int]) -> None:
        while True:
            with world.registry.acting() as c:
                if kind(c) < counts.BATCH:
                    return

    fold(counts.fold)
    fold(lambda c: outcomes.fold(c, now=now))


@contextmanager
def _postgresql(folder: Path) -> Iterator[World]:
    world = World(folder, database="postgresql")
    try:
        _fill_postgresql(world, int(world.clock().timestamp()))
        yield world
    finally:
        world.close()


_COUNTS: Final = (
    "INSERT INTO fleet_counts SELECT coalesce(tier, ''), coalesce(site, ''), state, coalesce(result_status, 'none'), "
    "count(*) FROM devices GROUP BY 1, 2, 3, 4"
)
_TERMS: Final = (
    "INSERT INTO device_terms (device_id, term, kind) SELECT d.id, lower(t.term), t.kind FROM devices d, "
    "LATERAL (VALUES "
    "(d.serial_number, 'serial'), (d.manufacturer, 'maker'), (d.model, 'model'), "
    "('ring=' || (d.labels->>'ring'), 'label'), ('asset=' || (d.labels->>'asset'), 'label'), "
    "(d.labels->>'ring', 'value'), (d.labels->>'asset', 'value')) AS t(term, kind)"
)


def _fill_postgresql(world: World, now: int) -> None:
    postgres, name = shared(), world.url.partition("?")[0].rpartition("/")[2]
    names = [column.name for column in devices.columns]
    with postgres.connect(name) as c:
        # A million single rows are the triggers' work otherwise; what they would write is written at once below.
        c.execute("ALTER TABLE devices DISABLE TRIGGER USER")
        with c.cursor() as cursor, cursor.copy(f"COPY devices ({', '.join(names)}) FROM STDIN") as copy:
            for row in _rows(MANY, now):
                copy.write_row([json.dumps(v) if isinstance(v := row[name], dict) else v for name in names])
        c.execute("ALTER TABLE devices ENABLE TRIGGER USER")
        c.execute(_COUNTS)
        c.execute(_TERMS)
        indexes = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'issued' AND indexname LIKE 'ix%'"
        made = c.execute(indexes).fetchall()
        for index, _ in made:
            c.execute(f"DROP INDEX {index}")
        c.execute(
            "INSERT INTO issued (serial, device_id, subject, profile, not_before, not_after, der, thumbprint) "
            f"SELECT to_hex(d.status_index::bigint * {EACH} + n), d.id, 'spiffe://fleet.example/' || d.id, 'device', "
            f"{now} - n * 3600, {now} - n * 3600 + 3600 * 4 + d.status_index % 3600, '\\x00', '\\x00' "
            f"FROM devices d, generate_series(1, {EACH}) n"
        )
        for _, definition in made:
            c.execute(definition)
    _settle(world, now)
    with postgres.connect(name) as c:
        c.execute("VACUUM ANALYZE")


if __name__ == "__main__":
    for entry in measure():
        print(entry["name"], entry["value"], entry["unit"], entry["against"], "" if entry["met"] else "MISSED")
