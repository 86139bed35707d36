"""The boot logs that go with a quote, and the agent's own log lines."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from attestd_agent import journal
from attestd_agent.bootlogs import MAX_LIST, BootLogs


@pytest.fixture
def logs(tmp_path: Path) -> BootLogs:
    found = BootLogs(tmp_path / "events", tmp_path / "ima")
    (tmp_path / "events").write_bytes(b"events")
    (tmp_path / "ima").write_bytes(b"measurements")
    return found


def test_each_is_read_whole(logs: BootLogs) -> None:
    assert logs.read("eventlog") == b"events"
    assert logs.read("ima") == b"measurements"


def test_what_can_t_be_read_is_left_out_and_logged(
    logs: BootLogs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ima").unlink()
    assert logs.read("ima") is None
    assert "can't be read" in caplog.text


@pytest.mark.parametrize(
    ("logs", "name", "why"),
    [(BootLogs(), "eventlog", "has none"), (BootLogs(), "ima", "has none"), (BootLogs(), "future", "does not know")],
    ids=["eventlog", "ima", "future"],
)
def test_what_there_is_not_is_left_out_and_logged(
    logs: BootLogs, name: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert logs.read(name) is None
    assert why in str(vars(caplog.records[0])["why"])


@pytest.mark.parametrize(("size", "read"), [(MAX_LIST, True), (MAX_LIST + 1, False)])
def test_no_more_is_read_than_a_list_may_have(
    logs: BootLogs, tmp_path: Path, size: int, read: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with (tmp_path / "ima").open("wb") as file:
        file.truncate(size)
    assert (logs.read("ima") is not None) is read
    assert ("too large" in caplog.text) is not read


SYS = Path("/sys/kernel/security")


@pytest.mark.parametrize(
    ("tcti", "eventlog", "ima"),
    [
        ("device:/dev/tpmrm0", "tpm0/binary_bios_measurements", "ima/binary_runtime_measurements"),
        ("device:/dev/tpm0", "tpm0/binary_bios_measurements", "ima/binary_runtime_measurements"),
        ("device:/dev/tpmrm1", "tpm1/binary_bios_measurements", None),
        ("swtpm:path=/dev/tpmrm0", None, None),
        ("mssim:host=localhost,port=2321", None, None),
        ("device:/tmp/dev/tpmrm0", None, None),
        ("device:/dev/tpmrm0/../vtpm", None, None),
        ("device", None, None),
    ],
)
def test_the_kernel_s_logs_go_with_the_kernel_s_tpm(tcti: str, eventlog: str | None, ima: str | None) -> None:
    assert BootLogs.of(tcti) == BootLogs(
        None if eventlog is None else SYS / eventlog, None if ima is None else SYS / ima
    )


@pytest.mark.parametrize("tcti", ["device:/dev/tpmrm0", "swtpm:path=x"])
def test_named_ones_go_with_any(tcti: str) -> None:
    assert BootLogs.of(tcti, eventlog=Path("e"), ima=Path("i")) == BootLogs(Path("e"), Path("i"))


# ---- The agent's own ------------------------------------------------------------------------------------------------


def lines(capsys: pytest.CaptureFixture[str], *, objects: bool, **extra: Any) -> str:
    kept = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        journal.configure(objects=objects, debug=False)
        log = logging.getLogger("attestd_agent.test")
        log.debug("unseen")
        log.warning("failed", extra=extra)
    finally:
        logging.getLogger().handlers[:] = kept[0]
        logging.getLogger().setLevel(kept[1])
    return capsys.readouterr().err


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    text = lines(capsys, objects=False, why="it broke", retry_in=1.5, nothing=None)
    assert text.endswith(' warning failed why="it broke" retry_in=1.5\n')


def test_objects_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(lines(capsys, objects=True, why="it broke", retry_in=1.5))
    assert {"level": "warning", "event": "failed", "why": "it broke", "retry_in": 1.5}.items() <= found.items()
    assert found["time"].endswith("Z")


@pytest.mark.parametrize("objects", [False, True])
def test_what_a_stranger_says_stays_on_its_line(capsys: pytest.CaptureFixture[str], objects: bool) -> None:
    text = lines(capsys, objects=objects, why='a\n2026 error "forged" line\x1b[2J')
    assert text.count("\n") == 1
    assert "\x1b" not in text


@pytest.mark.parametrize("objects", [False, True])
def test_a_fault_of_ours_comes_with_its_trace(capsys: pytest.CaptureFixture[str], objects: bool) -> None:
    kept = logging.getLogger().handlers[:]
    try:
        journal.configure(objects=objects, debug=True)
        try:
            int("broken")
        except ValueError:
            logging.getLogger("attestd_agent.test").exception("unexpected failure")
    finally:
        logging.getLogger().handlers[:] = kept
    assert "ValueError: invalid literal" in capsys.readouterr().err
