"""Devices' logins to a real nats-server by a real `attestd-edge nats serve`: how many a second.

    python -m tests.bench.nats

Every device has a certificate of its own that nobody has seen before. Clients are bare sockets with TLS in threads of
this process; beside it the same clients log in as a user whom nats-server knows by itself, without the callout.
"""

# ruff: noqa: T201

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests import authority as a
from tests.edge_site import environment

LOGINS, THREADS = 400, 16
ROUNDS = 3  # the best counts: others use the machine, too
GOAL = 200  # a second


def measure() -> list[dict[str, Any]]:
    """The benchmark's entries; none where nats-server is not installed."""
    if find_spec("nats") is None or find_spec("nacl") is None:
        return []
    from attestd_edge.nats.keys import Keys
    from tests.nats_site import NatsSiteOnDisk, nats_server

    if nats_server() is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        site = NatsSiteOnDisk(Path(folder) / "munich", lifetime=300)
        key = Keys.load(site.folder / "keys").carry
        known = site.client_tls(site.edge_site.leaf("proxy", key=a.p256(50), facts=None), key=a.p256(50))
        fleets = [
            [site.client_tls(site.device(name=f"bike-{part}-{number}")) for number in range(LOGINS)]
            for part in range(ROUNDS)
        ]

        def signed(nonce: str) -> dict[str, str]:
            return {"nkey": key.public, "sig": base64.b64encode(key.sign(nonce.encode())).decode()}

        server = site.server()
        server.start(debug=False)
        callout = subprocess.Popen(
            site.edge_site.command("nats", "serve", "--config", str(site.edge_site.config), "--json"),
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert callout.stdout is not None
            assert callout.stdout.readline()
            floor = max(_rate(site.port, [known] * LOGINS, signed) for _ in range(ROUNDS))
            before = _cpu(callout.pid), _cpu(server.process.pid if server.process else 0)
            rate = max(_rate(site.port, devices, lambda _: {}) for devices in fleets)
            after = _cpu(callout.pid), _cpu(server.process.pid if server.process else 0)
        finally:
            callout.terminate()
            callout.wait(20)
            if callout.stdout is not None:
                callout.stdout.close()
            server.stop()
    return [
        {
            "name": "NATS: devices' first logins",
            "value": round(rate),
            "unit": "/s",
            "against": f"users that nats-server knows, {floor:,.0f} /s",
            "ratio": round(rate / floor, 2),
            "goal": f">= {GOAL}",
            "met": rate >= GOAL,
            "parts": {
                "callout": f"{(after[0] - before[0]) / LOGINS / ROUNDS * 1000:.1f} ms of CPU a login",
                "nats-server": f"{(after[1] - before[1]) / LOGINS / ROUNDS * 1000:.1f} ms",
            },
        }
    ]


def _rate(port: int, contexts: Sequence[ssl.SSLContext], options: Callable[[str], dict[str, str]]) -> float:
    """Logins a second; each must succeed. Connections stay open until the end, as devices' do."""
    with ThreadPoolExecutor(THREADS) as pool:
        started = time.perf_counter()
        opened = list(pool.map(lambda context: _log_in(port, context, options), contexts))
        took = time.perf_counter() - started
    for connection in opened:
        connection.close()
    return len(contexts) / took


def _cpu(pid: int) -> float:
    """Seconds of processor time that this process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _log_in(port: int, context: ssl.SSLContext, options: Callable[[str], dict[str, str]]) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), timeout=20)
    told = b""
    while not told.endswith(b"\r\n"):
        told += raw.recv(4096)
    info = json.loads(told.removeprefix(b"INFO "))
    connection = context.wrap_socket(raw, server_hostname="localhost")
    said = {"verbose": False, "pedantic": False, "lang": "bench", "version": "1", "protocol": 1}
    connection.sendall(b"CONNECT %b\r\nPING\r\n" % json.dumps({**said, **options(info["nonce"])}).encode())
    answer = b""
    while b"PONG\r\n" not in answer:
        more = connection.recv(4096)
        assert more, answer
        answer += more
    return connection


if __name__ == "__main__":
    for entry in measure():
        print(json.dumps(entry, indent=2))
