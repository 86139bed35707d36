"""`make fuzz`: every target for FUZZ_SECONDS under coverage, one process each, then the longer property tests.

    python -m tests.fuzz [--seconds N] [TARGET…]

Corpora stay in build/fuzz/, so that the next run goes on from there. Each find is printed with a minimized input and
kept there too; the exit code is 1 if there is any.
"""

# ruff: noqa: T201  (it is a report)
from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.harness import find_of, minimized
from tests.fuzz.targets import TARGETS, by_name

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "fuzz"
_PROGRESS = re.compile(r"^#(\d+)\t(?:.*?cov: (\d+) ft: (\d+) corp: (\d+))?", re.MULTILINE)


@dataclass(frozen=True)
class Report:
    """What came of one target: executions, features (libFuzzer's measure of coverage), kept inputs, finds."""

    name: str
    executions: int
    features: int
    corpus: int
    finds: tuple[Path, ...]
    broken: str = ""  # why the fuzzer itself did not run

    def __str__(self) -> str:
        told = f"{self.name:24} {self.executions:>12,} {self.features:>9,} {self.corpus:>7,}  "
        if self.broken:
            return f"{told}DID NOT RUN: {self.broken}"
        return told + (f"{len(self.finds)} FOUND" if self.finds else "-")


def fuzz(name: str, seconds: int) -> Report:
    """One target in a process of its own."""
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in _finds(folder):
        old.unlink()
    command = [sys.executable, "-m", "tests.fuzz.guided", name, str(folder), str(seconds)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(  # the limit is for a fuzzer that hangs where no alarm reaches it
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds * 3 + 300,
        check=False,
    )
    (folder / "log").write_text(done.stderr + done.stdout)
    executions = features = corpus = 0
    for line in _PROGRESS.finditer(done.stderr):
        executions = int(line[1])
        if line[3]:
            features, corpus = int(line[3]), int(line[4])
    finds = _finds(folder)
    broken = "" if done.returncode == 0 or finds else (done.stderr.strip().splitlines() or ["no output"])[-1]
    return Report(name, executions, features, corpus, finds, broken)


def _finds(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for kind in ("crash", "oom", "timeout", "leak") for path in folder.glob(f"{kind}-*")))


def explain(report: Report) -> None:
    """Each find, as small as it gets."""
    target = by_name(report.name)
    for path in report.finds:
        data = path.read_bytes()
        place = find_of(target, data)
        if place is None:
            print(f"  {path}: {len(data)} octets; not reproduced without the fuzzer: see {path.parent / 'log'}")
            continue
        small = minimized(target, data)
        path.with_name("minimized").write_bytes(small)
        kind, file, line = place
        print(f"  {kind} at {file}:{line}\n  {len(data)} octets, minimized to {len(small)}: {small[:400]!r}")


def walk(seconds: int) -> bool:
    """The property tests' long form: calls by the service's description, and walks through the protocol's states."""
    here = Path(__file__).parent
    tests = [str(here / f"test_{name}.py") for name in ("described_api", "state_machine", "evidence_machine")]
    environment = {**os.environ, "FUZZ_EXAMPLES": str(max(10, seconds))}
    print(f"\n{' '.join(Path(test).name for test in tests)}, {environment['FUZZ_EXAMPLES']} examples", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=0", "--tb=short", *tests]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the parsers of untrusted octets.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("targets", nargs="*", choices=[[], *(target.name for target in TARGETS)], metavar="TARGET")
    chosen = parser.parse_args()
    names = chosen.targets or [target.name for target in TARGETS]
    failed = False
    if importlib.util.find_spec("atheris") is None:
        print("SKIPPED: atheris is not installed (it is for Linux on x86-64), so nothing is fuzzed under coverage.")
    else:
        print(f"{len(names)} targets, {chosen.seconds} s each")
        print(f"{'TARGET':24} {'EXECUTIONS':>12} {'FEATURES':>9} {'CORPUS':>7}  FINDS", flush=True)
        for name in names:
            report = fuzz(name, chosen.seconds)
            print(report, flush=True)
            explain(report)
            failed = failed or bool(report.finds or report.broken)
    if not chosen.targets:
        failed = not walk(chosen.seconds) or failed
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
