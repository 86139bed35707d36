"""A site without uplink, with the real programs: it goes on, ever more narrowly, through its own restart; when the
service is back it catches up, and what it counted and signed meanwhile arrives once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from attestd.errors import AttestdError
from attestd.policy import default_policy
from attestd_edge.identity import read_certificates
from attestd_edge.reports.counts import Found
from tests.edge_site import environment, get, pem
from tests.listening import DOMAIN, Home, home
from tests.load.running import serving

POLICY = (
    default_policy()
    + """
@id("telemetry-goes-on") @when_stale("telemetry")
permit (principal is Device, action == Action::"cross", resource is Boundary) when { context.method == "POST" };
"""
)


class Site:
    """An edge's folder, and its process."""

    def __init__(self, made: Home) -> None:
        self.home = made
        self.folder = made.folders[0]
        self.state = self.folder / "state"
        self.state.mkdir()
        self.socket = self.folder / "auth.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self.asked: Counter[str] = Counter()
        self.since_start = 0
        chain = read_certificates((self.folder.parent / "device.pem").read_bytes(), where="device.pem")
        self._header = quote(pem(chain[0]).decode(), safe="")
        self.config = self.folder / "edge.toml"
        self.config.write_text(f"""
[edge]
server = "https://127.0.0.1:{made.service.port}"
root = "{self.folder.parent / "root.pem"}"
trust_domain = "{DOMAIN}"
state_dir = "state"
key = "proxy.key.pem"
certificate = "proxy.pem"
[listen]
unix = "auth.sock"
[[boundary]]
name = "field"
from = {{ tier = "device", site = "berlin" }}
to = {{ tier = "edge", site = "berlin" }}
receipts = "allowed"
max_staleness = 6
when_stale = "telemetry"
""")

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "attestd_edge", "serve", "--config", str(self.config), "--json"],
                env=environment(), stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self.process.stdout is not None
        assert b"listening" in self.process.stdout.readline(), self.log()
        self.since_start = 0

    def end(self, how: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def ask(self, method: str = "GET", *, known: bool = True) -> str:
        """ "allowed", or the problem's name."""
        headers = {
            "X-Forwarded-Method": method,
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "shop.example.org",
            "X-Forwarded-Uri": "/orders",
        } | ({"X-Client-Cert": self._header} if known else {})
        status, _, body = get(self.socket, "/auth", headers)
        said = "allowed" if status < 300 else json.loads(body)["type"].rpartition(":")[2]
        self.asked[said] += 1
        self.since_start += 1
        return said

    def until(self, says: str, method: str, *, within: float = 40.0) -> float:
        """Seconds until the device is answered so."""
        began = time.monotonic()
        while (said := self.ask(method)) != says:
            assert time.monotonic() - began < within, (said, self.log())
            time.sleep(0.2)
        return time.monotonic() - began

    def counted_on_disk(self) -> bool:
        """Whether this process has written down all that it decided."""
        return any(
            sum(found.counts.values()) == self.since_start for found in Found.all_in(self.state) if not found.over
        )

    def stands(self) -> str:
        text = get(self.socket, "/metrics", {})[2].decode()
        (line,) = [
            line
            for line in text.splitlines()
            if line.startswith("attestd_edge_boundary_standing{") and line.endswith(" 1.0")
        ]
        return line.partition('standing="')[2].partition('"')[0]

    def told(self) -> Counter[str]:
        """What the service counts, over all boundaries and hours."""
        found: Counter[str] = Counter()
        for boundary in self.home.api.get("/proxies/edge-0", since=1)["boundaries"]:
            found.update({"allowed": boundary["allowed"]} | boundary["refused"])
        return found

    def row(self) -> tuple[str, int, int]:
        """Its state, boundaries that are stale, and receipts that wait, as of its last report."""
        (edge,) = self.home.api.get("/proxies")["proxies"]
        return edge["state"], edge["stale_boundaries"], edge["receipts_waiting"]

    def crossed(self) -> int:
        """Receipts of crossings that the service has."""
        found = self.home.api.get("/receipts", edge="edge-0", boundary="field", limit=1000)
        return len(found["receipts"])


def eventually(true: Callable[[], bool], *, within: float) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if true():
                return True
        except AttestdError:
            pass
        time.sleep(0.1)
    return False


@contextmanager
def cut(made: Home, how: str) -> Iterator[Callable[[], None]]:
    """No uplink from here on; calling what is given brings it back."""
    pids = [made.service.process.pid, *made.service.workers()]
    with ExitStack() as after:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        if how == "killed":
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            made.service.process.wait(30)

        def back() -> None:
            if how == "killed":
                folder: Path = made.service.folder
                made.service = after.enter_context(
                    serving(folder, port=made.service.port, bundle_stale_after="18s", server_workers="1")
                )
            else:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)

        try:
            yield back
        finally:
            if how != "killed":
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("how", "end"), [("stopped", signal.SIGTERM), ("killed", signal.SIGKILL)])
def test_a_site_that_is_cut_off_goes_on_and_catches_up(tmp_path: Path, how: str, end: signal.Signals) -> None:
    with home(tmp_path, 1, bundle_stale_after="18s", server_workers="1") as made:
        made.api.put("/policy", {"v": 1, "text": POLICY})
        site = Site(made)
        site.start()
        try:
            site.until("allowed", "GET")
            for _ in range(5):
                assert site.ask() == "allowed"
            assert site.ask(known=False) == "no-credential"
            assert eventually(lambda: site.told() == site.asked, within=30), (site.told(), site.asked, site.log())
            with cut(made, how) as back:
                assert site.ask() == "allowed"
                assert eventually(site.counted_on_disk, within=20)
                site.end(end)
                site.start()
                # Everything, then one class, then nothing; nobody refreshed it meanwhile.
                assert site.ask("POST") == "allowed"
                site.until("crossing-denied", "GET")
                assert (site.ask("POST"), site.stands()) == ("allowed", "class")
                site.until("bundle-stale", "POST")
                assert (site.ask("GET"), site.stands()) == ("bundle-stale", "nothing")
                site.end(end if eventually(site.counted_on_disk, within=20) else signal.SIGTERM)
                site.start()
                assert site.ask("POST") == "bundle-stale"
                back()
                waiting = site.asked.total()
                site.until("allowed", "GET")
                assert site.stands() == "all"
                # What it counted while it was cut off goes at once, what comes after in its own time.
                assert eventually(lambda: site.told().total() >= waiting, within=6), (site.told(), site.asked)
                assert eventually(lambda: site.told() == site.asked, within=30), (site.told(), site.asked, site.log())
                assert eventually(lambda: site.crossed() == site.asked["allowed"], within=30)
                assert eventually(lambda: site.row() == ("current", 0, 0), within=70), site.row()
                assert made.api.get("/proxies/edge-0")["totals"]["missed"] == 0
                # Exactly once: one more crossing, and nothing else, makes a difference of one.
                assert site.ask() == "allowed"
                assert eventually(lambda: site.told()["allowed"] >= site.asked["allowed"], within=30)
                assert site.told() == site.asked
                assert eventually(lambda: site.crossed() >= site.asked["allowed"], within=30)
                assert site.crossed() == site.asked["allowed"]
                said = site.log()
                for word in ("only when_stale(telemetry) crosses", "nothing crosses", "what policy permits crosses"):
                    assert word in said
        finally:
            if site.process is not None and site.process.poll() is None:
                site.end(signal.SIGTERM)
