"""What the programs hold in memory, and how soon the service answers:

    python -m tests.bench.footprint              # 100,000 enrollments, or as many as fit in a quarter of an hour
    python -m tests.bench.footprint 10000

The largest worker of the real service with its usual two, after so many devices, each another one, have enrolled over
HTTPS, every second one by its maker's certificate; the agent's daemon once it has enrolled and waits for its next act;
the service from its command to its first answer, with modules compiled as they are where it is installed.
"""

# ruff: noqa: T201

from __future__ import annotations

import http.client
import os
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import local
from typing import Any

from attestd.config import Settings
from attestd.ids import EkHash, Site, Tier
from attestd.protocol.derivations import completion_proof, enrollment_certify_data, enrollment_quote_data
from attestd.protocol.evidence import CertifiedKey, QuoteEvidence
from attestd.protocol.messages import BeginAnswer, BeginRequest, CompleteRequest, EnrollmentEvidence
from attestd.registry import admission
from attestd.registry.engine import Registry
from attestd.registry.inventory import InventoryEntry
from attestd_demo.play import Play
from attestd_demo.story import Story
from attestd_demo.world import World
from tests import ek_ca
from tests.bench.site import Served, instance, resident
from tests.forger import Forger

ENROLLMENTS = 100_000
PATIENCE = 900.0  # seconds for them
WORKER, AGENT, START = 120, 60, 2.0  # MB, MB, seconds
_STARTS = 7
_BATCH = 2_000  # devices that come to the inventory at once
_FULL = 12_000  # enrollments after which a worker's caches are full twice over
_MB = 1024 * 1024
_PCRS = {"sha256": {index: bytes([index]) * 32 for index in range(8)}}


def measure(enrollments: int = ENROLLMENTS) -> list[dict[str, Any]]:
    """The benchmark's entries."""
    with instance() as folder:
        starts = _starts(folder)
        grown = _worker(folder, enrollments)
    return [
        _entry(
            "service, command to first answer",
            statistics.median(starts),
            "s",
            f"the median of {len(starts)}, {min(starts):.2f} to {max(starts):.2f}",
            START,
        ),
        {
            **_entry(f"a worker after {grown.count:,} enrollments", grown.now / _MB, "MB", grown.story, WORKER),
            "goal": f"under {WORKER} MB after {ENROLLMENTS:,}",
            "met": None if grown.carried_on is None else max(grown.now, grown.carried_on) / _MB < WORKER,
        },
        _entry(
            "the agent, waiting after it enrolled",
            _agent() / _MB,
            "MB",
            f"{_bare() / _MB:.0f} MB for Python alone",
            AGENT,
        ),
    ]


def _entry(name: str, value: float, unit: str, against: str, limit: float) -> dict[str, Any]:
    return {
        "name": name,
        "value": round(value, 2),
        "unit": unit,
        "against": against,
        "ratio": round(value / limit, 2),
        "goal": f"under {limit:g} {unit}",
        "met": value < limit,
    }


def _starts(folder: Path) -> list[float]:
    """Seconds. The first start is not among them: it compiles, as an installation does."""
    with tempfile.TemporaryDirectory(prefix="attestd-bench-") as compiled:
        environ = {"PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        found = []
        for _ in range(_STARTS + 1):
            started = time.perf_counter()
            with Served.running(folder, **environ):
                found.append(time.perf_counter() - started)
    return found[1:]


@dataclass
class _Grown:
    """Octets of the largest worker, by how many devices had enrolled."""

    samples: list[tuple[int, int]]

    @property
    def count(self) -> int:
        return self.samples[-1][0]

    @property
    def now(self) -> int:
        return self.samples[-1][1]

    @property
    def carried_on(self) -> float | None:
        """After all ENROLLMENTS: as measured, or as from the half of a long run to its end; None for a short one."""
        if self.count >= ENROLLMENTS:
            return self.now
        if self.count < _FULL:
            return None
        half, octets = self._half
        return self.now + (self.now - octets) / (self.count - half) * (ENROLLMENTS - self.count)

    @property
    def _half(self) -> tuple[int, int]:
        return min(self.samples, key=lambda sample: abs(sample[0] - self.count / 2))

    @property
    def story(self) -> str:
        told = f"{self.samples[0][1] / _MB:.0f} MB at first, {self._half[1] / _MB:.1f} after {self._half[0]:,}"
        if self.carried_on is None or self.count >= ENROLLMENTS:
            return told
        return f"{told}; carried on like that, {self.carried_on / _MB:.0f} MB after {ENROLLMENTS:,}"


def _worker(folder: Path, enrollments: int) -> _Grown:
    """Each device enrolls once, sixteen at a time, until all have or the time is over."""
    maker = ek_ca.maker()
    trusted = folder.parent / "maker.der"
    trusted.write_bytes(maker.root.certificate)
    command = [sys.executable, "-m", "attestd", "trust", "add", str(trusted), "--dir", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    registry = Registry.open(Settings.load(folder, os.environ).database_url)
    until = time.monotonic() + PATIENCE
    with Served.running(folder) as served, ThreadPoolExecutor(16) as pool:
        grown, post = _Grown([(0, served.resident())]), _client(served)

        def enroll(number: int, forger: Forger) -> None:
            chain: Sequence[bytes] = ()
            if number % 2:
                chain = maker.chain(maker.intermediate.ek_certificate(forger.ek.private.public_key()))
            asked = BeginRequest(forger.ek.public, forger.ak.public, tuple(chain))
            status, answer = post("/v1/enrollments", asked.to_bytes())
            assert status == 200, answer
            status, answer = post("/v1/enrollments/complete", _completion(forger, BeginAnswer.parse(answer)))
            assert status == 200, answer

        while grown.count < enrollments and time.monotonic() < until:
            forgers = [Forger() for _ in range(min(_BATCH, enrollments - grown.count))]
            _list(registry, forgers)
            list(pool.map(enroll, range(len(forgers)), forgers))
            grown.samples.append((grown.count + len(forgers), served.resident()))
    registry.close()
    return grown


def _list(registry: Registry, forgers: Sequence[Forger]) -> None:
    """In the inventory."""
    entries = [
        InventoryEntry(line, EkHash.of(forger.ek.public), Tier.DEVICE, Site("shop-1"))
        for line, forger in enumerate(forgers, 2)
    ]
    with registry.acting() as c:
        admission.import_approved(c, entries, entropy=os.urandom, now=int(datetime.now(UTC).timestamp()))


def _completion(forger: Forger, challenge: BeginAnswer) -> bytes:
    bound = {
        "nonce": challenge.nonce,
        "id": challenge.id,
        "ek_hash": EkHash.of(forger.ek.public),
        "ak_name": forger.ak.name,
        "ck_name": forger.ck.name,
    }
    attest, signature = forger.certify(enrollment_certify_data(**bound))
    quote = forger.quote(enrollment_quote_data(**bound), _PCRS)
    body = EnrollmentEvidence(
        CertifiedKey(forger.ck.public, attest, signature), QuoteEvidence(quote.attest, quote.signature, _PCRS)
    ).to_bytes()
    proof = completion_proof(secret=forger.activate(challenge.credential_blob, challenge.secret), body=body)
    return CompleteRequest(challenge.challenge, body, proof).to_bytes()


def _client(served: Served) -> Callable[[str, bytes], tuple[int, bytes]]:
    """A connection for each thread, kept open."""
    context = ssl.create_default_context(cafile=str(served.folder / "ca" / "root.pem"))
    address, mine = served.url.removeprefix("https://"), local()

    def post(path: str, body: bytes) -> tuple[int, bytes]:
        while True:
            try:
                if not hasattr(mine, "connection"):
                    mine.connection = http.client.HTTPSConnection(address, context=context, timeout=30)
                mine.connection.request("POST", path, body, {"Content-Type": "application/json"})
                answer = mine.connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException):
                del mine.connection
                continue
            if answer.status not in (429, 503):
                return answer.status, content
            time.sleep(float(answer.headers.get("Retry-After", "1")))

    return post


def _agent() -> int:
    """The resident octets of `attestd-agent run`, ten seconds after it enrolled a device that the service knows."""
    with tempfile.TemporaryDirectory(prefix="attestd-bench-") as folder:
        world = World(Path(folder, "instance"))
        play = Play(Story(), world)
        try:
            play.make_instance()
            world.start_service()
            device, *_ = play.power_on()
            play.trust_maker()
            play.ask_and_join(device, "berlin")
            shutil.rmtree(device.state)  # so that the daemon has all of it to do
            world.start_daemon(
                device, ATTESTD_AGENT_SERVER=world.url, ATTESTD_AGENT_CA=str(world.dir / "ca" / "root.pem")
            )
            assert world.daemon is not None
            until = time.monotonic() + 60
            while not (device.state / "credentials" / "chain.pem").exists():
                assert time.monotonic() < until, "the daemon did not enroll"
                time.sleep(0.1)
            time.sleep(10)
            return resident(world.daemon.pid)
        finally:
            world.close()


def _bare() -> int:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        time.sleep(0.5)
        size = resident(process.pid)
        process.communicate(b"\n")
    return size


def main(arguments: Sequence[str]) -> None:
    for entry in measure(int(arguments[0]) if arguments else ENROLLMENTS):
        print(entry)


if __name__ == "__main__":
    main(sys.argv[1:])
