"""What the programs hold in memory, and how soon the service answers:

    python -m tests.bench.footprint              # 100,000 enrollments: some minutes
    python -m tests.bench.footprint 10000

The largest worker of the real service with its usual two, after so many enrollments were begun and completed over
HTTPS; the agent's daemon while it waits for its next renewal; the service from its command to its first answer.
"""

# ruff: noqa: T201

from __future__ import annotations

import http.client
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import local
from typing import Any

from attestd.config import Settings
from attestd.ids import EkHash, Site, Tier
from attestd.protocol.derivations import completion_proof, enrollment_certify_data, enrollment_quote_data
from attestd.protocol.messages import (
    BeginAnswer,
    BeginRequest,
    CertifiedKey,
    CompleteRequest,
    EnrollmentEvidence,
    QuoteEvidence,
)
from attestd.registry import admission
from attestd.registry.engine import Registry
from attestd.registry.inventory import InventoryEntry
from attestd_demo.__main__ import Play
from attestd_demo.story import Story
from attestd_demo.world import World
from tests.bench.site import Served, instance, resident
from tests.forger import Forger

ENROLLMENTS = 100_000
WORKER, AGENT, START = 120, 60, 2.0  # MB, MB, seconds
_MB = 1024 * 1024
_PCRS = {"sha256": {index: bytes([index]) * 32 for index in range(8)}}


def measure(enrollments: int = ENROLLMENTS) -> list[dict[str, Any]]:
    """The benchmark's entries."""
    with instance() as folder:
        starts = [_start(folder) for _ in range(5)]
        before, after = _worker(folder, enrollments)
    return [
        _entry("service, command to first answer", statistics.median(starts), "s", "the median of five", START),
        _entry(
            f"a worker after {enrollments:,} enrollments", after / _MB, "MB", f"{before / _MB:.0f} MB at first", WORKER
        ),
        _entry("the agent, waiting", _agent() / _MB, "MB", f"{_bare() / _MB:.0f} MB for Python alone", AGENT),
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


def _start(folder: Path) -> float:
    started = time.perf_counter()
    with Served.running(folder):
        return time.perf_counter() - started


def _worker(folder: Path, enrollments: int) -> tuple[int, int]:
    """Octets of the largest worker before and after. 64 devices enroll again and again, as re-installed ones do."""
    forgers = [Forger() for _ in range(64)]
    registry = Registry.open(Settings.load(folder, os.environ).database_url)
    entries = [
        InventoryEntry(line, EkHash.of(forger.ek.public), Tier.DEVICE, Site("shop-1"))
        for line, forger in enumerate(forgers, 2)
    ]
    with registry.acting() as c:
        admission.import_approved(c, entries, entropy=os.urandom, now=int(datetime.now(UTC).timestamp()))
    registry.close()
    with Served.running(folder) as served:
        before, post = served.resident(), _client(served)

        def enroll(number: int) -> None:
            """The devices take turns; one that is enrolled twice at once is told to try again."""
            forger = forgers[number % len(forgers)]
            asked = BeginRequest(ek_public=forger.ek.public, ak_public=forger.ak.public, ek_certificates=())
            for _ in range(5):
                challenge = BeginAnswer.parse(post("/v1/enrollments", asked.to_bytes())[1])
                status, answer = post("/v1/enrollments/complete", _completion(forger, challenge))
                if status == 200:
                    return
                assert status == 409, answer
            raise AssertionError("a device did not come to its turn")

        with ThreadPoolExecutor(16) as pool:
            for _ in pool.map(enroll, range(enrollments)):
                pass
        return before, served.resident()


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
    """The resident octets of `attestd-agent run`, ten seconds after its start."""
    with tempfile.TemporaryDirectory(prefix="attestd-bench-") as folder:
        world = World(Path(folder, "instance"))
        play = Play(Story(), world)
        try:
            play.make_instance()
            world.start_service()
            device, *_ = play.power_on()
            play.trust_maker()
            play.ask_and_join(device, "berlin")
            world.start_daemon(device)
            time.sleep(10)
            assert world.daemon is not None
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
