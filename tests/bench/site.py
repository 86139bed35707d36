"""The real service under a load from outside: an instance, `attestd serve`, devices in its registry, and wrk.

Requests are signed before and read from a file, so that the client costs next to nothing; what it does cost is
reported apart. CPU times are the operating system's, of the supervisor and all workers.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from attestd.ca.hierarchy import Hierarchy
from attestd.ids import DeviceId, EkHash, Site, Tier
from attestd.issuance.challenges import RequestNonce
from attestd.protocol.messages import RenewalRequest
from attestd.protocol.signed import sign_flattened
from attestd.registry import admission, devices, transitions
from attestd.registry.acts import perform
from attestd.registry.engine import Registry
from attestd.registry.inventory import InventoryEntry
from tests.forger import Forger
from tests.processes import workers_of
from tests.soft_device import signer

CLIENTS = 64
_BIN = Path(sys.executable).parent
_TICKS = os.sysconf("SC_CLK_TCK")
_CLOCK = {"clock": 1, "reset_count": 1, "restart_count": 1, "safe": True}

_SCRIPT = """
local threads = 0
function setup(thread) thread:set("mine", threads) threads = threads + 1 end
function init(args)
  bodies, at = {}, 0
  local n = 0
  for line in io.lines(args[1]) do
    if n % 2 == mine then bodies[#bodies + 1] = line end
    n = n + 1
  end
  headers = { ["Content-Type"] = args[2] }
end
function request()
  at = at + 1
  if at > #bodies then error("too few bodies") end
  return wrk.format("POST", nil, headers, bodies[at])
end
"""


@dataclass(frozen=True)
class Load:
    """What a load did: answers a second, server and client CPU seconds for each, and answers other than 200."""

    rate: float
    server_cpu: float
    client_cpu: float
    refused: int
    answers: int


@dataclass
class Served:
    """A running `attestd serve`."""

    folder: Path
    process: subprocess.Popen[str]
    url: str
    pids: Sequence[int] = field(default=())

    @classmethod
    @contextmanager
    def running(cls, folder: Path, **environ: str) -> Iterator[Self]:
        command = [str(_BIN / "attestd"), "serve", "--dir", str(folder), "--listen", "127.0.0.1:0", "--json"]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | environ)
        assert process.stdout is not None
        try:
            said = ""
            for line in process.stdout:
                said += line
                if line.startswith("}"):
                    break
            served = cls(folder, process, json.loads(said)["url"])
            served.pids = [process.pid, *workers_of(process.pid)]
            yield served
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    def cpu(self) -> float:
        """Seconds that the supervisor and the workers have computed, in user and kernel."""
        return sum(_cpu(pid) for pid in self.pids)

    def resident(self) -> int:
        """The largest worker's resident octets."""
        return max(resident(pid) for pid in self.pids[1:])

    def post(self, path: str, bodies: Sequence[bytes], content_type: str, seconds: int) -> Load:
        """Sends a body after the other, each once, CLIENTS at a time."""
        with tempfile.TemporaryDirectory(prefix="attestd-wrk-") as scratch:
            script, requests = Path(scratch, "post.lua"), Path(scratch, "bodies")
            script.write_text(_SCRIPT)
            requests.write_bytes(b"\n".join(bodies) + b"\n")
            return self._wrk(path, seconds, "-s", str(script), "--", str(requests), content_type)

    def get(self, path: str, seconds: int) -> Load:
        return self._wrk(path, seconds)

    def _wrk(self, path: str, seconds: int, *more: str) -> Load:
        before, client = self.cpu(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = ["wrk", "-t2", f"-c{CLIENTS}", f"-d{seconds}s", "--timeout", "30s", self.url + path, *more]
        split = command.index("--") if "--" in command else len(command)
        # wrk wants the address behind its options, and the script's arguments behind the address.
        options = [word for word in command[:split] if word != self.url + path]
        done = subprocess.run([*options, self.url + path, *command[split:]], capture_output=True, text=True, check=True)
        spent = self.cpu() - before
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        client_cpu = after.ru_utime + after.ru_stime - client.ru_utime - client.ru_stime
        count, time = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", done.stdout).groups()[:2]  # type: ignore[union-attr]
        unit = re.search(r"requests in [\d.]+(ms|s|m)", done.stdout).group(1)  # type: ignore[union-attr]
        elapsed = float(time) * {"ms": 0.001, "s": 1, "m": 60}[unit]
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
        answers = int(count)
        return Load(
            rate=answers / elapsed,
            server_cpu=spent / answers,
            client_cpu=client_cpu / answers,
            refused=int(refused.group(1)) if refused else 0,
            answers=answers,
        )


@contextmanager
def instance(database: str | None = None) -> Iterator[Path]:
    """A new instance's folder."""
    folder = Path(tempfile.mkdtemp(prefix="attestd-bench-"))
    try:
        command = [str(_BIN / "attestd"), "init", "--dir", str(folder / "instance"), "--trust-domain", "bench.example"]
        environ = os.environ | ({} if database is None else {"ATTESTD_DATABASE_URL": database})
        subprocess.run(command, check=True, capture_output=True, env=environ)
        if database is not None:
            settings = folder / "instance" / "attestd.toml"
            text = re.sub(r'(?m)^url = ".*"$', f'url = "{database}"', settings.read_text())
            settings.write_text(text)
        yield folder / "instance"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Fleet:
    """Active devices with keys that the benchmark holds."""

    hierarchy: Hierarchy
    members: Sequence[tuple[DeviceId, Forger]]

    @classmethod
    def enrolled(cls, folder: Path, registry: Registry, count: int) -> Self:
        """As if these devices had enrolled just now."""
        now = int(datetime.now(UTC).timestamp())
        forgers = [Forger() for _ in range(count)]
        entries = [
            InventoryEntry(line, EkHash.of(forger.ek.public), Tier.DEVICE, Site("shop-1"))
            for line, forger in enumerate(forgers, 2)
        ]
        with registry.acting() as c:
            admission.import_approved(c, entries, entropy=os.urandom, now=now)
            members = []
            for forger in forgers:
                device = devices.by_ek_hash(c, EkHash.of(forger.ek.public))
                assert device is not None
                enrolled = transitions.activation(
                    device.id,
                    was=device.state,
                    expected_version=device.state_version,
                    ek_public=forger.ek.public,
                    ak_public=forger.ak.public,
                    ck_public=forger.ck.public,
                    ck_name=forger.ck.name,
                    endorsement="certificate",
                    manufacturer="TEST",
                    model="bench",
                    firmware_version="1",
                    result={"vector": {"instance-identity": 2, "hardware": 2}, "reasons": [], "attested_at": now},
                    clock=_CLOCK,
                    good_until=now + 4 * 3600,
                    now=now,
                )
                perform(c, *enrolled)
                members.append((device.id, forger))
        return cls(Hierarchy.load(folder), members)

    def renewals(self, url: str, count: int) -> list[bytes]:
        """Signed requests, each with a nonce of its own, as the service would have handed out."""
        now, payload = datetime.now(UTC), RenewalRequest().to_bytes()
        found = []
        for number in range(count):
            device_id, forger = self.members[number % len(self.members)]
            nonce = RequestNonce.fresh(now, timedelta(minutes=5), os.urandom).seal(self.hierarchy.sealing, os.urandom)
            found.append(
                sign_flattened(
                    payload,
                    sign=signer(forger.ck.private),
                    alg="ES256",
                    kid=str(device_id),
                    url=f"{url}/v1/renewals",
                    nonce=nonce,
                )
            )
        return found


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident(pid: int) -> int:
    """A process's resident octets."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
