"""A second opinion on every log: tpm2_eventlog of Debian's tpm2-tools, and where and why the two differ.

`deploy/install-dependencies.sh tests` installs it. DIFFERENT lists each file of the shared vectors for which it has
other values, or none, and WHY says for what reason; a difference that is not listed fails, and with the version that
the list was made with (5.4), so does one that is listed and gone. On logs of the project's own the two agree.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from attestd.tpm.eventlog import MalformedEventLog, UnverifiedEventLog, parse_event_log
from attestd.tpm.eventtypes import NO_ACTION
from attestd.tpm.replay import replay
from tests import logwriter as w
from tests.logwriter import Boot
from tests.vectors.test_shared_eventlogs import BROKEN, LOGS, VECTORS

pytestmark = pytest.mark.skipif(shutil.which("tpm2_eventlog") is None, reason="tpm2_eventlog is not installed")
shared = pytest.mark.skipif(
    not (VECTORS / "manifest.json").exists(), reason=f"no test vectors of real machines in {VECTORS}"
)

NO_ACTION_EXTENDS, NO_REGISTER, REGISTERS, SHORT, CRASHES, NO_LOG = (
    "extends",
    "no PCR",
    "registers",
    "short",
    "dies",
    "no log",
)
WHY: Final = {
    NO_ACTION_EXTENDS: "5.4 extends PCR 0 by the zeros of each EV_NO_ACTION event, and begins it at 0 whatever "
    "StartupLocality says; the values here are those of the quotes that came with these logs",
    NO_REGISTER: "5.4 gives up at Windows' last record, which is of no PCR (0xffffffff) and extends nothing",
    REGISTERS: "5.4 wants the spec-id event in PCR 0; a confidential guest's is in register 1",
    SHORT: "5.4 takes any first EV_NO_ACTION event for a spec-id event; this log is in the SHA-1 format",
    CRASHES: "5.4 dies of a segmentation fault at Windows' last record in the SHA-1 format",
    NO_LOG: "both refuse it, as it is none (5.4 dies of the text)",
}
DIFFERENT: Final = {
    "ccel-CCEL_unpadded.data": REGISTERS,
    "ccel-event_log": REGISTERS,
    "goattest-short_no_action_eventlog": SHORT,
    "gotpmtools-confidential-gke-debug-251000_eventlog": NO_ACTION_EXTENDS,  # SP800-155 events
    "gotpmtools-glinux-alex": NO_ACTION_EXTENDS,
    "immune-DESKTOP-MIMU51J-EPP-ESET": NO_ACTION_EXTENDS,
    "immune-Haruhi": NO_ACTION_EXTENDS,
    "immune-IMN-SUPERMICRO-EPP-MSDefender": NO_REGISTER,
    "immune-dell-notebook-5eventlogs-WBCL-0": NO_ACTION_EXTENDS,
    "immune-dell-notebook-5eventlogs-WBCL-1": NO_ACTION_EXTENDS,
    "immune-dell-notebook-5eventlogs-WBCL-2": NO_ACTION_EXTENDS,
    "immune-dell-notebook-5eventlogs-WBCL-3": NO_ACTION_EXTENDS,
    "immune-dell-notebook-5eventlogs-WBCL-4": NO_ACTION_EXTENDS,
    "immune-good-1": NO_ACTION_EXTENDS,
    "immune-hahuri-invalid-eventlog.values": NO_ACTION_EXTENDS,
    "immune-r340": NO_REGISTER,
    "immune-supermicro-WBCL-OSLOAD-quoted": NO_REGISTER,
    "immune-tpm2_windows_lenovo_yogax1v2": NO_REGISTER,
    "immune-windows_event_log": CRASHES,
    "keylime-binary_bios_measurements": NO_ACTION_EXTENDS,
    "keylime-binary_bios_measurements-bogus": NO_LOG,
    "keylime-binary_bios_measurements-empty": NO_LOG,
}

Values = dict[str, dict[int, bytes]]
_BANK = re.compile(r"  (\w+):")
_VALUE = re.compile(r"    (\d+) *: 0x([0-9a-fA-F]+)")


@cache
def listed_version() -> bool:
    said = subprocess.run(["tpm2_eventlog", "--version"], capture_output=True, text=True, check=False).stdout
    return 'version="5.4' in said


def ask(path: Path) -> tuple[int, Values, int]:
    """tpm2_eventlog's exit code, its PCR values, and how many records it printed."""
    done = subprocess.run(
        ["tpm2_eventlog", str(path)], capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    events, _, pcrs = done.stdout.partition("\npcrs:\n")
    values: Values = {}
    bank = ""
    for line in pcrs.splitlines():
        if (head := _BANK.fullmatch(line)) is not None:
            bank = head[1]
            values[bank] = {}
        elif (value := _VALUE.fullmatch(line)) is not None:
            values[bank][int(value[1])] = bytes.fromhex(value[2])
    return done.returncode, values, events.count("PCRIndex:")


def ours(log: UnverifiedEventLog) -> Values:
    """As tpm2_eventlog prints them: without banks that have no values."""
    return {bank: dict(values) for bank, values in replay(log).items() if values}


def as_5_4(log: UnverifiedEventLog, bank: str) -> bytes:
    """PCR 0 with every EV_NO_ACTION event extending it, from zeros."""
    value = bytes(hashlib.new(bank).digest_size)
    for event in log.events:
        if event.pcr == 0:
            value = hashlib.new(bank, value + (event.digests[log.banks.index(bank)] or b"")).digest()
    return value


@shared
@pytest.mark.parametrize("name", [name for name in LOGS if name not in BROKEN])
def test_the_two_agree_on_a_real_log_or_differ_for_a_known_reason(name: str) -> None:
    path = VECTORS / "eventlogs" / f"{name}.bin"
    log = parse_event_log(path.read_bytes())
    code, theirs, records = ask(path)
    if code == 0 and theirs == ours(log):
        assert name not in DIFFERENT or not listed_version()
        assert records == len(log.events) + len(log.apart) + (log.format == "crypto-agile")
        return
    reason = DIFFERENT[name]
    if reason == NO_ACTION_EXTENDS:
        expected = ours(log)
        for bank in expected:
            expected[bank][0] = as_5_4(log, bank)
        assert (code, theirs) == (0, expected), WHY[reason]
        assert any(event.type == NO_ACTION for event in log.events)
    else:
        assert code != 0, WHY[reason]
        assert theirs == {}
        assert bool(log.apart) is (reason in (NO_REGISTER, CRASHES))
        assert log.of_pcrs is (reason != REGISTERS)


@shared
@pytest.mark.parametrize("name", BROKEN)
def test_both_refuse_what_is_no_log(name: str) -> None:
    path = VECTORS / "eventlogs" / f"{name}.bin"
    with pytest.raises(MalformedEventLog):
        parse_event_log(path.read_bytes())
    assert ask(path)[0] != 0
    assert DIFFERENT[name] == NO_LOG


def test_every_difference_has_its_reason() -> None:
    assert set(DIFFERENT) <= set(LOGS)
    assert set(DIFFERENT.values()) == set(WHY)


OWN: Final = {
    "GRUB": w.grub_boot(),
    "GRUB without Secure Boot": w.grub_boot(secure_boot=b"\0"),
    "every bank": w.firmware(Boot(("sha1", "sha256", "sha384", "sha512"))),
    "one bank": w.firmware(Boot(("sha384",))),
    "a bank without a name here": w.firmware(Boot(("sha256", "sm3_256"))),
}


@pytest.mark.parametrize("name", OWN)
def test_the_two_agree_on_a_log_of_the_project_s_own(name: str, tmp_path: Path) -> None:
    boot = OWN[name]
    (tmp_path / "log").write_bytes(boot.agile())
    code, theirs, records = ask(tmp_path / "log")
    theirs.pop("sm3_256", None)
    assert (code, theirs) == (0, {bank: dict(sorted(values.items())) for bank, values in boot.pcrs.items()})
    assert theirs == ours(parse_event_log(boot.agile()))
    assert records == len(boot.log) + 1


def test_the_two_agree_on_the_sha1_format(tmp_path: Path) -> None:
    boot = w.grub_boot()
    (tmp_path / "log").write_bytes(boot.sha1())
    code, theirs, records = ask(tmp_path / "log")
    assert (code, theirs) == (0, {"sha1": dict(sorted(boot.pcrs["sha1"].items()))})
    assert theirs == ours(parse_event_log(boot.sha1()))
    assert records == len(boot.log)
