"""A boot log of about 100 events: parsed, replayed to quoted PCRs, and turned into facts, in their JSON form.

    python -m tests.bench.eventlog

Logs of the project's own, of the size and kind of real ones: shim and GRUB with 64 commands, a database of 400 revoked
images and a dozen boot options; Windows with 140 modules. CPU time of one thread, the median of short turns; beside it
the hashes alone, which no appraisal can do without: one to extend and one to recompute for every event.
"""

# ruff: noqa: T201

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from typing import Any

from attestd.tpm.attest import VerifiedQuote
from attestd.tpm.bootfacts import boot_facts
from attestd.tpm.eventlog import parse_event_log
from attestd.tpm.replay import verify_event_log
from attestd.tpm.statements import ClockInfo
from tests import logwriter as w
from tests.logwriter import Boot

TURNS, EACH = 40, 10
GOAL = 2.0  # ms


def grub(mark: str = "a value of usual length") -> Boot:
    """As a machine with Debian or Ubuntu boots; a `mark` of its own gives a log of its own."""
    revoked = [hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(400)]
    keys = {**w.keys(), "dbx": w.signatures(*revoked, kind=w.IMAGE_SHA256, each=False)}
    options = [w.load_option(f"option {number}", w.hard_drive(), w.file_path(r"\EFI\x.efi")) for number in range(12)]
    boot = w.shim(w.firmware(Boot(), variables=keys, options=options))
    for number in range(30):
        w.grub_command(boot, f"set variable_{number}={mark}")
    w.grub_command(boot, "menuentry 'Debian' {" + "\n  insmod ext2" * 60 + "\n}")
    for number in range(8):
        w.grub_file(boot, f"(hd0,gpt2)/grub/x86_64-efi/module-{number}.lst", b"%d" % number)
    return w.exit_boot_services(w.grub(boot))


def windows() -> Boot:
    modules = b"".join(w.windows_module(b"%d.sys" % number) for number in range(140))
    return w.windows_boot(late=w.windows_block() + modules)


def measure() -> list[dict[str, Any]]:
    """The benchmark's entries."""
    return [_entry("GRUB", grub(), goal=True), _entry("Windows, 140 modules", windows(), goal=False)]


def _entry(name: str, boot: Boot, *, goal: bool) -> dict[str, Any]:
    data = boot.agile()
    quote = VerifiedQuote({"sha256": boot.pcrs["sha256"]}, ClockInfo(0, 0, 0, True), 0, b"")
    log = parse_event_log(data)
    verified = verify_event_log(log, quote)
    facts = boot_facts(verified)
    members = facts.to_members()
    assert members["secure_boot"] is True
    assert members["doubts"] == []

    def whole() -> None:
        boot_facts(verify_event_log(parse_event_log(data), quote)).to_members()

    def floor() -> None:
        value = bytes(32)
        for event in log.events:
            value = hashlib.sha256(value + hashlib.sha256(event.data).digest()).digest()

    # In turns, so that a busy machine slows all of them alike.
    tasks: dict[str, Callable[[], object]] = {
        "whole": whole,
        "floor": floor,
        "parse": lambda: parse_event_log(data),
        "replay": lambda: verify_event_log(log, quote),
        "facts": lambda: boot_facts(verified),
        "JSON": facts.to_members,
    }
    times: dict[str, list[float]] = {task: [] for task in tasks}
    for _ in range(TURNS):
        for task, run in tasks.items():
            begin = time.process_time()
            for _ in range(EACH):
                run()
            times[task].append((time.process_time() - begin) / EACH * 1000)
    medians = {task: statistics.median(found) for task, found in times.items()}
    return {
        "name": f"boot log to facts, {name}, {len(log.events)} events",
        "value": round(medians["whole"], 2),
        "unit": "ms",
        "against": f"its hashes alone, {medians['floor']:.2f} ms",
        "ratio": round(medians["whole"] / medians["floor"], 1),
        "goal": f"under {GOAL:.0f} ms" if goal else None,
        "met": medians["whole"] < GOAL if goal else None,
        "parts": {f"{task}, ms": round(medians[task], 2) for task in ("parse", "replay", "facts", "JSON")},
    }


if __name__ == "__main__":
    for entry in measure():
        print(entry)
