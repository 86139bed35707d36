"""Which part of the boot logs an attestation holds, by what the service knows of them. No TPM."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from attestd.protocol.evidence import MAX_LOG, Lately, QuoteEvidence
from attestd.protocol.messages import MAX_BODY, AttestationRequest
from attestd_agent import evidence
from attestd_agent.bootlogs import BootLogs
from attestd_agent.evidence import read_logs
from tests import ima_lists as w

EVENTS = b"the firmware's events"
LIST = [w.boot_aggregate(), *(w.ng(f"/usr/bin/{number}") for number in range(9))]
BOTH = ("eventlog", "ima")
KNOWN = hashlib.sha256(EVENTS).digest()


@pytest.fixture
def logs(tmp_path: Path) -> BootLogs:
    (tmp_path / "events").write_bytes(EVENTS)
    (tmp_path / "ima").write_bytes(w.binary(LIST))
    return BootLogs(tmp_path / "events", tmp_path / "ima")


@pytest.mark.parametrize("wants", [(), ("eventlog",), ("ima",), BOTH, ("ima", "eventlog", "ima")])
def test_what_is_wanted_is_sent_whole_where_nothing_is_known(logs: BootLogs, wants: tuple[str, ...]) -> None:
    whole = {"eventlog": EVENTS, "ima": w.binary(LIST)}
    assert read_logs(logs, wants) == {name: whole[name] for name in wants}


def test_what_this_agent_does_not_know_is_left_out(logs: BootLogs) -> None:
    assert read_logs(logs, ("future", "eventlog")) == {"eventlog": EVENTS}


def test_a_known_event_log_is_named_by_its_digest(logs: BootLogs) -> None:
    assert read_logs(logs, ("eventlog",), Lately(KNOWN)) == {"eventlog_sha256": KNOWN}


def test_another_event_log_is_sent(logs: BootLogs) -> None:
    assert read_logs(logs, ("eventlog",), Lately(bytes(32))) == {"eventlog": EVENTS}


@pytest.mark.parametrize("known", range(1, len(LIST)))
def test_known_entries_are_left_out(logs: BootLogs, known: int) -> None:
    found = read_logs(logs, ("ima",), Lately(ima=known))
    assert found == {"ima": w.binary(LIST[known:]), "ima_from": known}


def test_nothing_new_is_said_too(logs: BootLogs) -> None:
    found = read_logs(logs, ("ima",), Lately(ima=len(LIST)))
    assert found == {"ima": b"", "ima_from": len(LIST)}
    request = AttestationRequest(QuoteEvidence(b"attest", b"signature", {}, **found))
    assert AttestationRequest.parse(request.to_bytes()) == request


def test_a_shorter_list_is_another_boot_s(logs: BootLogs) -> None:
    assert read_logs(logs, ("ima",), Lately(ima=len(LIST) + 1)) == {"ima": w.binary(LIST)}


def test_a_list_that_can_t_be_read_is_the_service_s_to_judge(
    logs: BootLogs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ima").write_bytes(b"\xff nonsense")
    assert read_logs(logs, ("ima",), Lately(ima=3)) == {"ima": b"\xff nonsense"}
    assert "can't be read" in caplog.text


# ---- Bounds ---------------------------------------------------------------------------------------------------------


def write_large(path: Path, size: int) -> int:
    """A list of about this many octets. Returns its entries."""
    entry = w.ng("/usr/bin/" + "x" * 200).binary()
    count = -(-size // len(entry))
    path.write_bytes(w.binary(LIST[:1]) + entry * count)
    return count + 1


@pytest.mark.parametrize(("size", "sent"), [(MAX_LOG, True), (MAX_LOG + 1, False)])
def test_an_event_log_has_a_limit(
    logs: BootLogs, tmp_path: Path, size: int, sent: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "events").write_bytes(bytes(size))
    assert ("eventlog" in read_logs(logs, BOTH)) is sent
    assert "ima" in read_logs(logs, BOTH)
    assert ("too large" in caplog.text) is not sent


def test_a_list_that_is_too_large_is_left_out_and_what_to_do_is_said(
    logs: BootLogs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_large(tmp_path / "ima", MAX_LOG)
    assert read_logs(logs, BOTH) == {"eventlog": EVENTS}
    (warned,) = caplog.records
    assert "Restart the device" in vars(warned)["remedy"]


def test_only_what_travels_counts(logs: BootLogs, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries = write_large(tmp_path / "ima", 2 * MAX_LOG)
    assert list(read_logs(logs, ("ima",), Lately(ima=entries - 100))) == ["ima", "ima_from"]
    assert not caplog.records
    assert read_logs(logs, ("ima",), Lately(ima=100)) == {}  # as many new ones as no message holds
    assert len(caplog.records) == 1


def test_both_fit_into_one_message(logs: BootLogs, tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(bytes(evidence._MAX_LOGS - MAX_LOG))
    (tmp_path / "ima").write_bytes(bytes(MAX_LOG))
    found = read_logs(logs, BOTH)
    assert set(found) == set(BOTH)
    quote: dict[str, Any] = {"attest": bytes(2048), "signature": bytes(1100)}
    pcrs = {bank: dict.fromkeys(range(24), bytes(size)) for bank, size in w.SIZES.items()}
    assert len(AttestationRequest(QuoteEvidence(**quote, pcrs=pcrs, **found)).to_bytes()) <= MAX_BODY


def test_two_that_don_t_are_not_sent_together(logs: BootLogs, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "events").write_bytes(bytes(evidence._MAX_LOGS - MAX_LOG + 1))
    (tmp_path / "ima").write_bytes(bytes(MAX_LOG))
    assert set(read_logs(logs, BOTH)) == {"eventlog"}
    assert "too large" in caplog.text
