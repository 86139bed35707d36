"""The boot logs that go with a quote, and the agent's own log lines."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from attestd.protocol.messages import MAX_LOG
from attestd_agent import journal
from attestd_agent.bootlogs import BootLogs


@pytest.fixture
def logs(tmp_path: Path) -> BootLogs:
    found = BootLogs(tmp_path / "events", tmp_path / "ima")
    found.eventlog.write_bytes(b"events")
    found.ima.write_bytes(b"measurements")
    return found


def test_only_what_is_wanted_is_read(logs: BootLogs) -> None:
    assert logs.read(()) == {}
    assert logs.read(("ima",)) == {"ima": b"measurements"}
    assert logs.read(("eventlog", "ima")) == {"eventlog": b"events", "ima": b"measurements"}


def test_what_can_t_be_read_is_left_out_and_logged(logs: BootLogs, caplog: pytest.LogCaptureFixture) -> None:
    logs.ima.unlink()
    assert logs.read(("eventlog", "ima")) == {"eventlog": b"events"}
    assert "can't be read" in caplog.text


def test_what_is_unknown_is_left_out_and_logged(logs: BootLogs, caplog: pytest.LogCaptureFixture) -> None:
    assert logs.read(("future",)) == {}
    assert "does not know" in caplog.text


@pytest.mark.parametrize(("size", "sent"), [(MAX_LOG, True), (MAX_LOG + 1, False)])
def test_no_more_than_a_message_takes(logs: BootLogs, size: int, sent: bool) -> None:
    logs.eventlog.write_bytes(bytes(size))
    assert ("eventlog" in logs.read(("eventlog",))) is sent


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
