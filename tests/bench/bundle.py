"""A bundle for a million devices: how large it is, how long an edge takes to load it, what it takes in memory, and how
large a delta after one quarantine is.

    python -m tests.bench.bundle

One device in a hundred is suspended and one in a thousand has a revoked certificate, anywhere in the list: much worse
than a healthy fleet, and the list compresses badly. Loading is what an edge does at its start: read from disk, verify,
make ready to decide. Memory is what a process holds on top of the same process with a bundle for no device.
"""

# ruff: noqa: T201

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from attestd.credentials.copies import Copy
from attestd.credentials.status import Status, StatusList
from attestd.ids import Serial
from attestd.policy import default_policy
from attestd_edge.clock import EdgeClock
from attestd_edge.store import BUNDLE_FILE, BundleStore
from tests import authority as a

DEVICES = 1_000_000
TURNS = 9
_CHILD = "import sys; from tests.bench.bundle import _resident_with; _resident_with(sys.argv[1])"


def measure() -> list[dict[str, Any]]:
    """The benchmark's entries."""
    with tempfile.TemporaryDirectory(prefix="attestd-bench-") as name:
        folder = Path(name)
        large, after = bundles()
        written = {"large": large.to_bytes(), "none": a.copy_of(a.bundle(**_SAID, status=StatusList(b""))).to_bytes()}
        for kind, octets in written.items():
            (folder / kind).mkdir()
            (folder / kind / BUNDLE_FILE).write_bytes(octets)
            (folder / kind / "root.der").write_bytes(a.ROOT.der)
        took = statistics.median(_load(folder / "large") for _ in range(TURNS))
        least = statistics.median(_load(folder / "none") for _ in range(TURNS))
        grown = {kind: statistics.median(_resident(folder / kind) for _ in range(5)) for kind in written}
    memory = (grown["large"] - grown["none"]) / 1e6
    delta = len(after.since(large, "2.5"))
    wire = len(written["large"]) / 1e6
    alone = "its list alone, 0.25 MB"
    return [
        {
            "name": "bundle for 1,000,000 devices, on the wire",
            "value": round(wire, 2),
            "unit": "MB",
            "against": alone,
            "ratio": round(wire / 0.25, 1),
            "goal": "under 1 MB",
            "met": wire < 1,
        },
        {
            "name": "the same, loaded",
            "value": round(took * 1e3, 1),
            "unit": "ms",
            "against": f"one for no device, {least * 1e3:.1f} ms",
            "ratio": round(took / least, 1),
            "goal": "under 200 ms",
            "met": took < 0.2,
        },
        {
            "name": "the same, in memory",
            "value": round(memory, 1),
            "unit": "MB",
            "against": alone,
            "ratio": round(memory / 0.25, 1),
            "goal": "under 10 MB",
            "met": memory < 10,
        },
        {
            "name": "delta after one quarantine",
            "value": delta,
            "unit": "octets",
            "against": f"the whole bundle, {len(written['large']):,}",
            "ratio": round(delta / len(written["large"]), 5),
            "goal": "under 1,000",
            "met": delta < 1000,
        },
    ]


_SAID: dict[str, Any] = {"policy": default_policy(), "stale_after": 86400, "issued_at": int(a.NOW.timestamp())}


def bundles() -> tuple[Copy, Copy]:
    """One for a million devices, and the one after a quarantine."""
    chance = random.Random(5)
    states = dict.fromkeys(chance.sample(range(DEVICES), DEVICES // 100), Status.SUSPENDED)
    revoked = frozenset(Serial(chance.getrandbits(158) + 1) for _ in range(DEVICES // 1000))
    signer = a.signer()
    said = {**_SAID, "revoked": revoked}
    before = a.copy_of(a.bundle(**said, status=StatusList.of(states, DEVICES)), certificates=[signer])
    quarantined = next(index for index in range(DEVICES) if index not in states)
    states = {**states, quarantined: Status.SUSPENDED}
    after = a.copy_of(a.bundle(**said, version=6, status=StatusList.of(states, DEVICES)), certificates=[signer])
    return before, after


def _opened(folder: Path) -> BundleStore:
    clock = EdgeClock(lambda: a.NOW, time.monotonic, a.NOW)
    return BundleStore(folder, roots=[(folder / "root.der").read_bytes()], trust_domain=a.TRUST_DOMAIN, clock=clock)


def _load(folder: Path) -> float:
    """Seconds until it can be decided with."""
    started = time.perf_counter()
    store = _opened(folder)
    store.load()
    store.view()
    return time.perf_counter() - started


def _resident(folder: Path) -> int:
    """Octets that a process with this bundle holds."""
    done = subprocess.run([sys.executable, "-c", _CHILD, str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def _resident_with(folder: str) -> None:
    store = _opened(Path(folder))
    store.load()
    print(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    store.view()


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
