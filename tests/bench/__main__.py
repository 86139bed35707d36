"""Every benchmark, one after the other: a table, and build/bench.json.

    python -m tests.bench                    # `make bench`
    python -m tests.bench enrollment edge    # some of them

Each figure stands beside its floor or its peer from the same run: compare ratios, not machines. A goal that is missed
says so; the exit code does not, since a busy machine is no defect.
"""

# ruff: noqa: T201

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAMES = (
    "enrollment",
    "attestation",
    "renewals",
    "edge",
    "eventlog",
    "ima",
    "nats",
    "nginx",
    "bundle",
    "revocation",
    "scale",
    "console",
    "footprint",
)
_FILE = Path("build", "bench.json")
_MEMBERS = ("name", "value", "unit", "against", "ratio", "goal", "met")


def main(names: Sequence[str]) -> int:
    if unknown := set(names) - set(NAMES):
        print(f"There is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}.", file=sys.stderr)
        return 2
    found: list[dict[str, Any]] = []
    for name in names or NAMES:
        started = time.monotonic()
        print(f"{name} ...", end=" ", flush=True)
        found += importlib.import_module(f"tests.bench.{name}").measure()
        print(f"{time.monotonic() - started:.0f} s", flush=True)
    _FILE.parent.mkdir(exist_ok=True)
    _FILE.write_text(json.dumps([{name: entry[name] for name in _MEMBERS} for entry in found], indent=2) + "\n")
    _print(found)
    print(f"\nWritten to {_FILE}.")
    return 0


def _print(found: Sequence[dict[str, Any]]) -> None:
    rows = [("", "", "beside", "ratio", "goal", "")]
    for entry in found:
        met = {True: "met", False: "MISSED", None: ""}[entry["met"]]
        value = f"{entry['value']:,} {entry['unit']}"
        rows.append((entry["name"], value, entry["against"], f"{entry['ratio']}", entry["goal"] or "", met))
        parts = ", ".join(f"{name} {part}" for name, part in entry.get("parts", {}).items())
        if parts:
            rows.append(("", "", f"({parts})", "", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
