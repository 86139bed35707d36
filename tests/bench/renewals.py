"""Renewals a second, through HTTP, TLS and the durable commit, beside the smallest JSON view of the same server:

    python -m tests.bench.renewals

Two workers, 64 connections, loopback; on SQLite, and on PostgreSQL with fsync, which runs on the same machine.
"""

# ruff: noqa: T201

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attestd.config import Settings
from attestd.registry.engine import Registry
from tests.bench.site import Fleet, Load, Served, instance
from tests.postgres import Postgres

DEVICES = 256
SECONDS = 6
MOST = 3_000  # renewals a second for which requests are prepared
WANTED = 2_315  # a second: what Let's Encrypt prepared for in 2021, over its whole infrastructure


def measure() -> list[dict[str, Any]]:
    """The benchmark's entries."""
    found = _measure("SQLite", None)
    with Postgres.start(fast=False) as postgres:
        found += _measure("PostgreSQL", postgres.fresh_database())
    return found


def _measure(name: str, database: str | None) -> list[dict[str, Any]]:
    with instance(database) as folder:
        registry = Registry.open(Settings.load(folder, os.environ).database_url)
        fleet = Fleet.enrolled(folder, registry, DEVICES)
        registry.close()
        with Served.running(folder) as served:
            for seconds in (2, SECONDS):  # the first warms up
                bodies = fleet.renewals(served.url, seconds * MOST)
                load = served.post("/v1/renewals", bodies, "application/jose+json", seconds)
            with _smallest(folder) as smallest:
                floor = smallest.get("/", SECONDS)
    assert load.refused == 0, f"{load.refused} of {load.answers} renewals were refused"
    assert floor.refused == 0, f"{floor.refused} of {floor.answers} smallest answers were none"
    return [_entry(name, load, floor)]


def _entry(name: str, load: Load, floor: Load) -> dict[str, Any]:
    ratio = load.rate / floor.rate
    return {
        "name": f"renewals, {name}",
        "value": round(load.rate),
        "unit": "a second",
        "against": f"the smallest JSON view of the same server, {floor.rate:.0f} a second",
        "ratio": round(ratio, 3),
        "goal": f"a quarter of it or more; aim at {WANTED} a second",
        "met": ratio >= 0.25,
        "parts": {
            "server CPU, µs": round(load.server_cpu * 1e6),
            "smallest view, server CPU, µs": round(floor.server_cpu * 1e6),
            "client CPU, µs": round(load.client_cpu * 1e6),
        },
    }


@contextmanager
def _smallest(folder: Path) -> Iterator[Served]:
    """granian with the same front, workers and TLS, around a Flask application of one view."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "granian", "--interface", "asgi", "--factory", "--workers", "2", "--no-ws"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"),
        *("--ssl-certificate", str(folder / "tls" / "server.pem"), "--ssl-keyfile", str(folder / "tls" / "server.key")),
        "tests.bench.smallest:create_front",
    ]
    process = subprocess.Popen(command)
    try:
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.1)
        time.sleep(2)  # both workers
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        yield Served(folder, process, f"https://127.0.0.1:{port}", [process.pid, *children])  # type: ignore[arg-type]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


if __name__ == "__main__":
    for entry in measure():
        print(entry)
