"""From an operator's quarantine to the refusal, at 200 edges that listen to the real service.

    python -m tests.bench.revocation

The clock starts before the operator's signed call is sent and stops, for each edge, when it has verified, stored and
taken up the bundle that says so; that it then refuses is asked after. The edges are real; a process holds 25 of them,
and all share two cores with the service. Each would have a disk of its own, so their folders are in memory where there
is one.
"""

# ruff: noqa: T201

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.listening import connected, home

EDGES, EACH = 200, 25
TURNS = 12
GOAL = 1.0  # seconds, at the 99th percentile
_MEMORY = Path("/dev/shm")


def measure() -> list[dict[str, Any]]:
    """The benchmark's entry."""
    where = _MEMORY if _MEMORY.is_dir() else None
    found: list[float] = []
    calls: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="attestd-bench-", dir=where) as folder,
        home(Path(folder), EDGES) as made,
        _edges(made.folders) as edges,
    ):
        for turn in range(TURNS):
            started = time.perf_counter()
            made.quarantine()
            called = time.perf_counter() - started
            times = [taken - started for taken in _taken(edges, started, "device-suspended")]
            released = time.perf_counter()
            made.release()
            _taken(edges, released, "allowed")
            if turn:  # the first one warms everything up
                found += times
                calls.append(called)
    found.sort()
    slow, call = found[int(len(found) * 0.99)], sorted(calls)[len(calls) // 2]
    return [
        {
            "name": f"from quarantine to refusal at {EDGES} edges, 99th percentile",
            "value": round(slow, 2),
            "unit": "s",
            "against": f"the operator's call alone, {call:.3f} s",
            "ratio": round(slow / call, 1),
            "goal": f"under {GOAL:g} s",
            "met": slow < GOAL,
            "parts": {"half of them within": f"{found[len(found) // 2]:.2f} s", "the first": f"{found[0]:.2f} s"},
        }
    ]


@contextmanager
def _edges(folders: Sequence[Path]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes with EACH edges, all connected."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.bench.revocation", *map(str, folders[at : at + EACH])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for at in range(0, len(folders), EACH)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "connected\n"
        yield processes
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in processes:
            process.wait(60)


def _taken(processes: Sequence[subprocess.Popen[str]], since: float, said: str) -> list[float]:
    """When each edge took up a bundle after `since`; each must say `said` of the device then."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(json.dumps([since, said]) + "\n")
        process.stdin.flush()
    found: list[float] = []
    for process in processes:
        assert process.stdout is not None
        found += json.loads(process.stdout.readline())
    return found


def _hold(folders: Sequence[Path]) -> None:
    """One process with edges: answers each question when all of them have taken up what is asked about."""
    with connected(folders) as edges:
        print("connected", flush=True)
        for line in sys.stdin:
            since, said = json.loads(line)
            deadline = time.monotonic() + 60
            while any(edge.taken < since for edge in edges):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert {edge.asked() for edge in edges} == {said}
            print(json.dumps([edge.taken for edge in edges]), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _hold([Path(name) for name in sys.argv[1:]])
    else:
        print(json.dumps(measure(), indent=2))
