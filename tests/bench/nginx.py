"""Requests through a real nginx that asks a real `attestd-edge serve` about each one, beside the same nginx with a
static 204 as its authority:

    python -m tests.bench.nginx

nginx runs the shipped configuration (deploy/nginx/attestd-edge.conf) with as many workers as there are cores. Its
servers differ in the authority alone: the edge; a server of the same nginx that says 204 to everything, over a Unix
socket, too; none. The application is that static 204 for all of them. Every request carries the same certificate, so
its credential is hot.

- **plain**: clients speak HTTP, and the certificate's header is a constant of the configuration. TLS hides nothing of
  what the authority costs, so this is the figure that the goal is held against.
- **TLS**: clients speak TLS with a client certificate, and keep their connections, as devices do. wrk has no client
  certificates, so a loop of Python's asks, which takes more of the machine than wrk does.

Otherwise the load is wrk's: for the rate, as fast as it can; for the latency, each of its connections waits a random
while between two requests, so that together they ask half as often as the edge could answer, and whoever waits for an
answer holds nobody else up. Turns are short, one authority after the other, so that a busy machine slows each alike; a
figure is the median of its turns. nginx, edge and load share this machine's cores.
"""

# ruff: noqa: T201

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from cryptography import x509

from tests import authority as a
from tests.edge_site import EdgeSite, pem, private_pem

TURNS: Final = int(os.environ.get("ATTESTD_BENCH_TURNS", "7"))
SECONDS: Final = 2
CONNECTIONS: Final = 32
PACED: Final = 64  # connections of the paced load
GOAL_RATIO: Final = 0.5
GOAL_MILLISECONDS: Final = 2.0
_SHIPPED: Final = Path(__file__).resolve().parents[2] / "deploy" / "nginx" / "attestd-edge.conf"
_NGINX: Final = shutil.which("nginx") or "/usr/sbin/nginx"
_UNITS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0}
_AUTHORITIES: Final = ("edge", "static", "none")


class Bench:
    """A folder with an edge, an nginx that asks it, and what wrk needs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.site = EdgeSite(folder)
        server = self.site.leaf(
            "service", key=a.LOWER_KEY, facts=None, names=[x509.DNSName("api.example.org")],
            purposes=(x509.oid.ExtendedKeyUsageOID.SERVER_AUTH,),
        )  # fmt: skip
        (folder / "server.pem").write_bytes(pem(server) + pem(self.site.issuer.der))
        (folder / "server.key").write_bytes(private_pem(a.LOWER_KEY))
        self._leaf = self.site.device()
        (folder / "client.pem").write_bytes(pem(self._leaf) + pem(self.site.issuer.der) + private_pem(a.LEAF_KEY))
        self._ports = {(kind, authority): _free_port() for kind in ("plain", "TLS") for authority in _AUTHORITIES}

    @contextlib.contextmanager
    def nginx(self) -> Iterator[None]:
        """It runs, and answers on every port."""
        path = self._folder / "nginx.conf"
        path.write_text(self._configuration())
        process = subprocess.Popen([_NGINX, "-c", str(path), "-p", str(self._folder), "-e", "stderr"])
        try:
            for port in self._ports.values():
                while True:
                    with contextlib.suppress(OSError):
                        socket.create_connection(("127.0.0.1", port), timeout=1).close()
                        break
                    if process.poll() is not None:
                        raise RuntimeError("nginx did not start")
                    time.sleep(0.01)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)

    def _configuration(self) -> str:
        shipped = _SHIPPED.read_text()
        escaped = quote(pem(self._leaf).decode(), safe="")
        servers = []
        upstreams, server = re.split(r"^(?=server \{)", shipped, maxsplit=1, flags=re.MULTILINE)
        upstreams = _with(
            upstreams,
            {
                "unix:/run/attestd-edge/auth.sock": f"unix:{self.site.socket}",
                "server 127.0.0.1:8080;": f"server unix:{self._folder}/static.sock;",
            },
        )
        upstreams += f"upstream static {{ server unix:{self._folder}/static.sock; keepalive 16; }}\n"
        for (kind, authority), port in self._ports.items():
            changes = {
                "listen 443 ssl;": f"listen 127.0.0.1:{port}{' ssl' if kind == 'TLS' else ''};",
                "/etc/nginx/tls/api.example.org.pem": f"{self._folder}/server.pem",
                "/etc/nginx/tls/api.example.org.key": f"{self._folder}/server.key",
            }
            if kind == "plain":
                changes |= {
                    "ssl_verify_client optional_no_ca;": "",
                    "X-Client-Cert      $ssl_client_escaped_cert;": f'X-Client-Cert "{escaped}";',
                }
            if authority != "edge":  # the shipped file lets nobody in whom the edge does not name
                changes["http://$attestd_application"] = "http://application"
            if authority == "static":
                changes["http://attestd_edge/"] = "http://static/"
            elif authority == "none":
                changes["auth_request /_attestd;"] = ""
            servers.append(_with(server, changes))
        servers.append(f"server {{ listen unix:{self._folder}/static.sock; location / {{ return 204; }} }}\n")
        temporary = "".join(
            f"{kind}_temp_path {self._folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        return (
            f"{user} daemon off; worker_processes auto; pid {self._folder}/nginx.pid;\n"
            "events { worker_connections 1024; }\n"
            f"http {{ access_log off; keepalive_requests 1000000; {temporary} {upstreams} {''.join(servers)} }}\n"
        )

    def rate(self, kind: str, authority: str) -> float:
        """Requests a second, as many as there can be."""
        if kind == "TLS":
            return self._with_certificates(authority)
        return self._wrk(authority, connections=CONNECTIONS)[0]

    def latency(self, authority: str, rate: float) -> tuple[float, Mapping[str, float]]:
        """Plain requests a second, near `rate`, and by percentile how long they took, in milliseconds."""
        pause = PACED / rate * 1000  # milliseconds between two requests of one connection
        script = self._folder / "paced.lua"
        script.write_text(
            f"local mean = {pause}\n"
            "function delay()\n"  # whole milliseconds: chance decides which of the two neighbours
            "  local wanted = mean * 2 * math.random()\n"
            "  local whole = math.floor(wanted)\n"
            "  return whole + (math.random() < wanted - whole and 1 or 0)\n"
            "end\n"
        )
        return self._wrk(authority, "--latency", "-s", str(script), connections=PACED)

    def _wrk(self, authority: str, *options: str, connections: int) -> tuple[float, Mapping[str, float]]:
        found = subprocess.run(
            [
                "wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", *options, "-H", "Host: api.example.org",
                f"http://127.0.0.1:{self._ports['plain', authority]}/orders",
            ],
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip
        if "Non-2xx" in found or "Socket errors" in found:
            raise RuntimeError(f"not every request was answered: {found}")
        rate = re.search(r"Requests/sec:\s+([0-9.]+)", found)
        assert rate is not None, found
        spread = {
            name: float(value) * _UNITS[unit]
            for name, value, unit in re.findall(r"^\s+([0-9]+)%\s+([0-9.]+)(us|ms|s)$", found, re.MULTILINE)
        }
        return float(rate[1]), spread

    def _with_certificates(self, authority: str) -> float:
        context = ssl.create_default_context(cadata=pem(self.site.root.der).decode())
        context.load_cert_chain(self._folder / "client.pem")
        asked = b"GET /orders HTTP/1.1\r\nHost: api.example.org\r\n\r\n"
        opened: dict[int, ssl.SSLSocket] = {}
        with select.epoll() as ready, contextlib.ExitStack() as closing:
            for _ in range(CONNECTIONS):
                raw = socket.create_connection(("127.0.0.1", self._ports["TLS", authority]), timeout=20)
                connection = closing.enter_context(context.wrap_socket(raw, server_hostname="api.example.org"))
                opened[connection.fileno()] = connection
                connection.sendall(asked)
                ready.register(connection, select.EPOLLIN)
            begun, answers = time.perf_counter(), 0
            while (passed := time.perf_counter() - begun) < SECONDS:
                for number, _ in ready.poll():
                    answer = opened[number].recv(4096)  # small, and written at once
                    if not answer.startswith(b"HTTP/1.1 204 ") or not answer.endswith(b"\r\n\r\n"):
                        raise RuntimeError(f"not every request was answered: {answer[:200]!r}")
                    opened[number].sendall(asked)
                    answers += 1
        return answers / passed


def _with(text: str, changes: Mapping[str, str]) -> str:
    for shipped, here in changes.items():
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, here)
    return text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _cpu(pid: int) -> float:
    """Seconds of processor time that this process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure() -> list[dict[str, Any]]:
    """The benchmark's entries; none where nginx or wrk is not installed."""
    if not Path(_NGINX).exists() or shutil.which("wrk") is None:
        return []
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        bench = Bench(Path(folder))
        with bench.site.serving() as edge, bench.nginx():
            return [entry for kind in ("plain", "TLS") for entry in _measured(bench, kind, edge.pid)]


def _measured(bench: Bench, kind: str, pid: int) -> Iterator[dict[str, Any]]:
    bench.rate(kind, "edge")  # everything is hot
    rates: dict[str, list[float]] = {"edge": [], "static": []}
    costs = []
    for _ in range(TURNS):
        for authority, found in rates.items():
            before = _cpu(pid)
            found.append(bench.rate(kind, authority))
            if authority == "edge":
                costs.append((_cpu(pid) - before) / (found[-1] * SECONDS) * 1e6)
    ratio = statistics.median(one / other for one, other in zip(rates["edge"], rates["static"], strict=True))
    edge, static = statistics.median(rates["edge"]), statistics.median(rates["static"])
    yield {
        "name": f"nginx auth_request, {kind}, hot",
        "value": round(edge),
        "unit": "/s",
        "against": f"a static 204 as its authority, {static:,.0f} /s",
        "ratio": round(ratio, 2),
        "goal": f"at least {GOAL_RATIO:g} times",
        "met": ratio >= GOAL_RATIO,
        "parts": {"edge": f"{statistics.median(costs):.0f} us of CPU a request"},
    }
    if kind == "TLS":
        return
    took: dict[str, list[Mapping[str, float]]] = {authority: [] for authority in _AUTHORITIES}
    asked = []
    for _ in range(TURNS):
        for authority, spreads in took.items():
            rate, spread = bench.latency(authority, edge / 2)
            spreads.append(spread)
            if authority == "edge":
                asked.append(rate)
    p99 = {authority: statistics.median(spread["99"] for spread in spreads) for authority, spreads in took.items()}
    p50 = {authority: statistics.median(spread["50"] for spread in spreads) for authority, spreads in took.items()}
    added = p99["edge"] - p99["none"]
    yield {
        "name": f"nginx auth_request, {kind}, p99 added at half load",
        "value": round(added, 2),
        "unit": "ms",
        "against": f"no authority, {p99['none']:.2f} ms, at {statistics.median(asked):,.0f} /s",
        "ratio": round(p99["edge"] / p99["none"], 2),
        "goal": f"under {GOAL_MILLISECONDS:g} ms",
        "met": added < GOAL_MILLISECONDS,
        "parts": {
            "p99 in all": f"{p99['edge']:.2f} ms",
            "with a static 204": f"{p99['static']:.2f} ms",
            "medians": f"{p50['edge']:.2f}, {p50['static']:.2f}, {p50['none']:.2f} ms",
        },
    }


if __name__ == "__main__":
    for entry in measure():
        print(json.dumps(entry, indent=2))
    sys.exit(0)
