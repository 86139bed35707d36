"""What events say of themselves: a line for people, printable and bounded, whatever is in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attestd.tpm.eventlog import Event, parse_event_log
from attestd.tpm.eventnames import MAX_NAME, event_name
from tests import logwriter as w
from tests.logwriter import EV, GLOBAL, SECURITY

VECTORS = Path(os.environ.get("ATTESTD_VECTORS", Path(__file__).resolve().parents[3].parent / "shared" / "vectors"))
LOGS = sorted(file.name for file in (VECTORS / "eventlogs").glob("*.bin"))
EVIL = "<b>\u202e\x1b[31m\n"


def name(kind: int, data: bytes, pcr: int = 4) -> str:
    told = event_name(Event(1, pcr, kind, (bytes(32),), data))
    assert len(told) <= MAX_NAME
    assert told.isprintable()
    return told


@pytest.mark.parametrize(
    ("kind", "data", "told"),
    [
        (EV.VAR_CONFIG, w.variable(GLOBAL, "SecureBoot", b"\0"), "SecureBoot = 00"),
        (EV.VAR_CONFIG, w.variable(SECURITY, "dbx", b""), "dbx, 0 entries"),
        (EV.VAR_CONFIG, w.variable(SECURITY, "db", w.signatures(b"one", b"two")), "db, 2 entries"),
        (EV.VAR_CONFIG, w.variable(SECURITY, "db", b"no lists at all"), "db, 15 octets"),
        (EV.VAR_CONFIG, w.variable(GLOBAL, "Long", bytes(9)), "Long, 9 octets"),
        (EV.BS_APP, w.image_load(w.file_path(r"\EFI\shimx64.efi")), r"\EFI\shimx64.efi"),
        (EV.CRTM_VERSION, w.utf16("N40ET41W", end=True), "N40ET41W"),
        (EV.EFI_ACTION, b"Exit Boot Services Invocation", "Exit Boot Services Invocation"),
        (EV.IPL, b"grub_cmd: insmod ext2\0", "grub_cmd: insmod ext2"),
        (EV.BLOB, bytes(range(200, 216)), ""),
        (EV.SEPARATOR, bytes(4), "the end of what the firmware measures before the system"),
    ],
)
def test_what_is_told(kind: int, data: bytes, told: str) -> None:
    assert name(kind, data) == told


@pytest.mark.parametrize(
    "kind", [EV.VAR_CONFIG, EV.VAR_BOOT, EV.BS_APP, EV.IPL, EV.CRTM_VERSION, EV.EFI_ACTION, EV.GPT]
)
def test_hostile_names_stay_text_of_one_line(kind: int) -> None:
    for data in (
        EVIL.encode(),
        w.utf16(EVIL),
        w.variable(GLOBAL, EVIL, EVIL.encode()),
        w.variable(GLOBAL, "Boot0001", w.load_option(EVIL, w.file_path(EVIL))),
        w.image_load(w.file_path(EVIL)),
        b"x" * 100_000,
        w.utf16("x" * 100_000),
        b"",
        b"\0",
        bytes(7),
        b"\xff" * 33,
    ):
        name(kind, data)


@pytest.mark.skipif(not LOGS, reason=f"no event logs of real machines in {VECTORS}")
@pytest.mark.parametrize("log", LOGS)
def test_events_of_real_machines(log: str) -> None:
    try:
        events = parse_event_log((VECTORS / "eventlogs" / log).read_bytes()).events
    except Exception:  # noqa: BLE001 - broken ones are other tests' matter
        pytest.skip("this log can't be read")
    told = [name(event.type, event.data, event.pcr) for event in events]
    assert any(told) or len(told) == 1
