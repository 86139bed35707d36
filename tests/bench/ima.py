"""How fast an IMA list is appraised, beside the hashes that nobody can do without:

    python -m tests.bench.ima

A binary ima-ng list of 100,000 files comes in blocks of 64 KiB: every template digest is checked, PCR 10 replayed and
compared with the quoted one, and every file looked up by path and digest among 100,000 references. The floor is two
hashes of the same template data (SHA-1 for the template digest, SHA-256 for the bank) and nothing else; the replay
itself takes a third one, and before it is known how the kernel extends, a fourth. "A plain loop" does what the first
two cost and no more than is needed for a replay: it cuts nothing, compares nothing and looks nothing up.

CPU time of one thread, in turns one after the other, so that a busy machine slows floor and figure alike; medians.
"""

# ruff: noqa: T201

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

from attestd.appraisal.runtime import Boot, RuntimeState, appraise_runtime
from attestd.appraisal.runtimepolicy import FileReferences, RuntimePolicy
from attestd.tpm.imastate import HASHED
from tests import ima_lists as w

FILES, KNOWN, NEW = 100_000, 10_000, 20
TURNS = 9
RATE, FLOORS = 300_000, 5.0
_BLOCK = 64 * 1024
_MB = 1024 * 1024


@cache
def _items() -> list[w.Item]:
    return [w.boot_aggregate(), *(w.ng(_path(number), b"%d" % number) for number in range(FILES - 1))]


def _path(number: int) -> str:
    return f"/usr/lib/x86_64-linux-gnu/package-{number % 997}/libexample-{number}.so.1"


@cache
def _policy() -> RuntimePolicy:
    files = {_path(number): [f"sha256:{w.digest_of(b'%d' % number).hex()}"] for number in range(FILES)}
    return RuntimePolicy(FileReferences.of(files))


def _blocks(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), _BLOCK):
        yield data[at : at + _BLOCK]


def measure() -> list[dict[str, Any]]:
    """The benchmark's entries."""
    return [*_throughput(), _memory(), _incremental()]


def _median(runs: Sequence[Callable[[], object]], turns: int = TURNS) -> list[float]:
    """Seconds of processor time of each, in turns."""
    spent: list[list[float]] = [[] for _ in runs]
    for _ in range(turns):
        for run, times in zip(runs, spent, strict=True):
            started = time.process_time()
            run()
            times.append(time.process_time() - started)
    return [statistics.median(times) for times in spent]


def _throughput() -> list[dict[str, Any]]:
    data, template_data = w.binary(_items()), [item.data() for item in _items()]
    quote, policy = w.quote(_items()), _policy()
    fresh = RuntimeState.begin([policy], ["sha256"], Boot.of(quote))
    settled = replace(
        fresh, replay=replace(fresh.replay, chains=tuple(c for c in fresh.replay.chains if c.form == HASHED))
    )

    def appraise(known: RuntimeState) -> None:
        result = appraise_runtime([policy], _blocks(data), quote=quote, known=known)
        assert result.acceptable
        assert result.state.files == FILES

    def two_hashes() -> None:
        for octets in template_data:
            sha1(octets).digest()
            sha256(octets).digest()

    def plain_loop() -> None:
        value = bytes(32)
        for octets in template_data:
            sha1(octets).digest()
            value = sha256(value + sha256(octets).digest()).digest()

    appraise(fresh)  # the policy's sets are made once
    first, later, floor, plain = _median([lambda: appraise(fresh), lambda: appraise(settled), two_hashes, plain_loop])
    return [
        _rate("IMA list, the first of a device", first, floor, plain),
        _rate("IMA list, known how the kernel extends", later, floor, plain),
    ]


def _rate(name: str, spent: float, floor: float, plain: float) -> dict[str, Any]:
    return {
        "name": name,
        "value": round(FILES / spent),
        "unit": "entries/s",
        "against": f"two hashes of each alone, {FILES / floor:,.0f}/s",
        "ratio": round(spent / floor, 2),
        "goal": f"{RATE:,} a second, within {FLOORS:g} times",
        "met": FILES / spent >= RATE and spent <= FLOORS * floor,
        "parts": {"a plain loop of its three hashes": f"{FILES / plain:,.0f}/s"},
    }


def _memory() -> dict[str, Any]:
    """The largest resident size of a process that appraises a list, of one that is ten times as long."""
    short, long = (_peak(blocks) for blocks in (40, 400))
    return {
        "name": "IMA list of 1,300,000 entries, largest resident size",
        "value": round(long / _MB, 1),
        "unit": "MB",
        "against": f"a tenth of them, {short / _MB:.1f} MB",
        "ratio": round(long / short, 3),
        "goal": "does not grow",
        "met": long - short < _MB,
    }


def _peak(blocks: int) -> int:
    command = [sys.executable, "-m", "tests.bench.ima", "--stream", str(blocks)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _stream(blocks: int) -> None:
    """Appraises that many blocks of 3,250 entries, and tells this process's largest resident size in octets."""
    from attestd.tpm.ima import ImaListMismatch

    block = w.binary(_items_of_block())
    try:
        appraise_runtime(
            [_small_policy()], (block for _ in range(blocks)), quote=w.quote([w.boot_aggregate()], pcrs=_NOWHERE)
        )
    except ImaListMismatch as mismatch:
        assert f"{3250 * blocks} entries" in str(mismatch)
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(line.split()[1]) * 1024)


def _items_of_block() -> list[w.Item]:
    return [w.boot_aggregate(), *(w.ng(_path(number), b"%d" % number) for number in range(3249))]


def _small_policy() -> RuntimePolicy:
    return RuntimePolicy(FileReferences.of({_path(n): [f"sha256:{w.digest_of(b'%d' % n).hex()}"] for n in range(3249)}))


_NOWHERE = {"sha256": {10: b"\xee" * 32}}


def _incremental() -> dict[str, Any]:
    """Twenty new entries, after ten thousand and after one, from the kept octets to those to be kept."""
    policy = _policy()

    def again(known: int) -> Callable[[], None]:
        items = _items()[:known]
        everything = _items()[: known + NEW]
        state = appraise_runtime([policy], w.binary(items), quote=w.quote(items)).state
        kept, new, quote = state.to_bytes(), w.binary(everything[known:]), w.quote(everything)

        def run() -> None:
            for _ in range(200):
                result = appraise_runtime([policy], new, quote=quote, known=RuntimeState.parse(kept), begins_at=known)
                assert result.new_entries == NEW
                result.state.to_bytes()

        return run

    many, few = (spent / 200 for spent in _median([again(KNOWN), again(1)]))
    return {
        "name": f"{NEW} new IMA entries after {KNOWN:,} known ones",
        "value": round(many * 1e6),
        "unit": "µs",
        "against": f"after one, {few * 1e6:.0f} µs",
        "ratio": round(many / few, 2),
        "goal": "within 1.1 times",
        "met": many <= 1.1 * few,
    }


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["--stream"]:
        _stream(int(arguments[1]))
        return
    for entry in measure():
        print(entry)


if __name__ == "__main__":
    main(sys.argv[1:])
