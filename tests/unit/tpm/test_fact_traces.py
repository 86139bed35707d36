"""Which events facts rest on: each traced value is the fact's own, and no element is left without its event."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from attestd.tpm.bootfacts import trace_facts, unquoted_facts
from attestd.tpm.eventlog import UnverifiedEventLog, parse_event_log
from attestd.tpm.replay import PREFERENCE, Match, replay_bank
from tests import logwriter as w
from tests.logwriter import EV, Boot

VECTORS = Path(os.environ.get("ATTESTD_VECTORS", Path(__file__).resolve().parents[3].parent / "shared" / "vectors"))
LOGS = sorted(file.name for file in (VECTORS / "eventlogs").glob("*.bin"))

# Facts that are made of what events say; others say that there was no such event, or are of all of them together.
TRACED = {
    *("firmware_version", "secure_boot", "pk", "kek", "db", "db_images", "dbx_count", "dbx_digest", "dbx_certificates"),
    *("signers", "authorities", "sbat", "sbat_level", "firmware_actions", "drivers", "loaders", "boot_files"),
    *("system_extensions", "mok_lists", "uki_sections", "initrd", "grub_commands", "kernel_command_lines"),
    *("kernel_command_line",),
}


def elements(value: Any) -> list[Any]:
    return value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else [value]


def check(log: UnverifiedEventLog) -> dict[str, list[tuple[int, Any]]]:
    """The traces of a log, seen to be the facts."""
    bank = next(bank for bank in PREFERENCE if bank in log.banks)
    match = Match((bank,), bank, frozenset(replay_bank(log, bank)))
    facts = unquoted_facts(log, match)
    assert facts is not None
    members = facts.to_members()
    found: dict[str, list[tuple[int, Any]]] = {}
    for trace in trace_facts(log, match, facts):
        found.setdefault(trace.fact, []).append((trace.event, trace.value))
    for name in TRACED & members.keys():
        said = {json.dumps(value, sort_keys=True) for value in elements(members[name])}
        assert {json.dumps(value, sort_keys=True) for _, value in found.get(name, [])} == said, name
    return found


def log_of(boot: Boot) -> UnverifiedEventLog:
    return parse_event_log(boot.agile())


@pytest.mark.parametrize("boot", [w.grub_boot(), w.uki_boot(), w.windows_boot()], ids=["grub", "uki", "windows"])
def test_every_element_of_a_fact_has_its_event(boot: Boot) -> None:
    check(log_of(boot))


def test_an_event_is_the_one_that_measured_it() -> None:
    boot = w.grub_boot()
    numbers = [event.number for event in log_of(boot).events if event.type == EV.BS_APP and event.pcr == 4]
    assert [number for number, _ in check(log_of(boot))["loaders"]] == numbers


def test_a_secure_boot_that_is_off_names_its_event() -> None:
    boot = w.exit_boot_services(w.grub(w.shim(w.firmware(Boot(), secure_boot=b"\0"))))
    ((number, value),) = check(log_of(boot))["secure_boot"]
    assert value is False
    assert log_of(boot).events[number - 1].pcr == 7


@pytest.mark.skipif(not LOGS, reason=f"no event logs of real machines in {VECTORS}")
@pytest.mark.parametrize("name", LOGS)
def test_facts_of_real_machines_have_their_events(name: str) -> None:
    try:
        log = parse_event_log((VECTORS / "eventlogs" / name).read_bytes())
    except Exception:  # noqa: BLE001 - broken ones are other tests' matter
        pytest.skip("this log can't be read")
    if not log.of_pcrs:
        pytest.skip("this log is of a confidential guest's registers")
    check(log)
