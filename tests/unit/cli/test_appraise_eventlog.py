"""`attestd appraise eventlog`: its document, its words and its exit codes; 0 is a good verdict and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from attestd.cli.main import app
from tests import logwriter as w
from tests.logwriter import EV, Boot

runner = CliRunner()
GRUB = w.grub_boot()


@pytest.fixture
def appraise(tmp_path: Path) -> Any:
    def run(log: bytes, *more: str, pcrs: Mapping[str, Mapping[int, bytes]] | str | None = None) -> Result:
        (tmp_path / "log").write_bytes(log)
        arguments = ["appraise", "eventlog", str(tmp_path / "log"), *more]
        if pcrs is not None:
            text = pcrs if isinstance(pcrs, str) else json.dumps(as_json(pcrs))
            (tmp_path / "pcrs").write_text(text)
            arguments += ["--pcrs", str(tmp_path / "pcrs")]
        return runner.invoke(app, arguments)

    return run


def as_json(pcrs: Mapping[str, Mapping[int, bytes]]) -> dict[str, dict[str, str]]:
    return {bank: {str(pcr): value.hex() for pcr, value in values.items()} for bank, values in pcrs.items()}


def as_pcrread(pcrs: Mapping[str, Mapping[int, bytes]]) -> str:
    """What tpm2_pcrread prints."""
    lines = []
    for bank, values in pcrs.items():
        lines += [f"  {bank}:", *(f"    {pcr:<2}: 0x{value.hex().upper()}" for pcr, value in values.items())]
    return "\n".join(lines) + "\n"


def test_a_log_with_nothing_to_compare_it_with(appraise: Any) -> None:
    result = appraise(GRUB.agile(), "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["events"] == len(GRUB.log)
    assert document["pcrs"] == as_json({bank: dict(sorted(values.items())) for bank, values in GRUB.pcrs.items()})
    assert (document["compared"], document["facts"]["compared"]) == (False, False)
    assert document["facts"]["secure_boot"] is True
    assert document["claimed"]["loaders"][0]["name"].endswith("shimx64.efi")
    assert (document["format"], document["registers"]) == ("crypto-agile", "pcr")
    assert result.stderr == ""


@pytest.mark.parametrize("form", [as_pcrread, lambda pcrs: json.dumps(as_json(pcrs))], ids=["pcrread", "JSON"])
def test_a_log_that_replays_to_the_given_values(appraise: Any, form: Any) -> None:
    result = appraise(GRUB.agile(), "--json", pcrs=form(GRUB.pcrs))
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["compared"], document["facts"]["compared"]) == (True, True)
    assert (document["compared_banks"], document["not_compared_banks"]) == (["sha256", "sha1"], [])


def test_the_output_serves_as_values(appraise: Any) -> None:
    printed = appraise(GRUB.agile(), "--json").stdout
    assert appraise(GRUB.agile(), "--json", pcrs=printed).exit_code == 0
    assert appraise(w.uki_boot().agile(), "--json", pcrs=printed).exit_code == 1


def test_a_log_that_does_not_replay_is_refused(appraise: Any) -> None:
    other = w.grub_boot(secure_boot=b"\0")
    result = appraise(GRUB.agile(), "--json", pcrs={"sha256": other.pcrs["sha256"]})
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["facts"] == {}
    assert "claimed" not in document
    assert document["mismatch"] == {
        "bank": "sha256",
        "pcr": 7,
        "last_fitting_event": None,
        "events": sum(event.pcr == 7 for event in GRUB.log),
        "replayed": GRUB.pcrs["sha256"][7].hex(),
        "given": other.pcrs["sha256"][7].hex(),
    }
    assert json.loads(result.stderr)["error"] == "event-log-mismatch"


def test_the_reason_in_plain_words(appraise: Any) -> None:
    longer = w.grub_boot().measure(4, EV.BS_APP, b"", b"evil")
    result = appraise(longer.agile(), pcrs=GRUB.pcrs)
    assert result.exit_code == 1
    assert (
        "error: The event log does not replay to PCR 4 of the sha256 bank: the last event that still" in result.stderr
    )
    assert "Traceback" not in result.stderr


def test_values_of_another_bank_prove_nothing(appraise: Any) -> None:
    result = appraise(GRUB.agile(), "--json", pcrs={"sha384": {7: bytes(48)}})
    assert result.exit_code == 1
    assert json.loads(result.stderr)["error"] == "event-log-bank-missing"
    mixed = appraise(GRUB.agile(), "--json", pcrs={"sha384": {7: bytes(48)}, "sha256": GRUB.pcrs["sha256"]})
    assert mixed.exit_code == 0
    assert json.loads(mixed.stdout)["not_compared_banks"] == ["sha384"]


@pytest.mark.parametrize("log", [b"", b"This is text and no event log at all, as anybody can see.", GRUB.agile()[:-1]])
def test_what_is_no_log_is_unusable(appraise: Any, log: bytes) -> None:
    result = appraise(log, "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert json.loads(result.stderr)["error"] == "malformed-event-log"


@pytest.mark.parametrize("pcrs", ["", "no values here", '{"sha256": {"7": "00"}}'])
def test_values_that_are_none_are_unusable(appraise: Any, pcrs: str) -> None:
    result = appraise(GRUB.agile(), "--json", pcrs=pcrs)
    assert result.exit_code == 2
    assert json.loads(result.stderr)["error"] == "malformed-pcr-file"


def test_a_file_that_is_not_there() -> None:
    result = runner.invoke(app, ["appraise", "eventlog", "/nowhere/at/all", "--json"])
    assert result.exit_code == 2
    assert json.loads(result.stderr)["error"] == "file-unreadable"


def test_a_confidential_guest_s_log(appraise: Any) -> None:
    boot = Boot(("sha384",)).separate((1, 2))
    log = b"\x01" + boot.agile()[1:]
    result = appraise(log, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["registers"], document["facts"]) == ("mr", {})
    assert document["pcrs"] == as_json(boot.pcrs)
    refused = appraise(log, "--json", pcrs={"sha384": {1: boot.pcrs["sha384"][1]}})
    assert refused.exit_code == 1
    assert json.loads(refused.stderr)["error"] == "not-a-log-of-pcrs"


def test_the_words_for_people(appraise: Any) -> None:
    result = appraise(w.uki_boot().agile())
    assert result.exit_code == 0
    for words in (
        "38 events, crypto-agile format, banks: sha1, sha256",
        f"PCR 11  {w.uki_boot().pcrs['sha256'][11].hex()}",
        "Nothing was given to compare this log with",
        "Secure Boot:                    yes",
        "kernel command line:            debug=1",
        r"\EFI\Linux\house.efi",
    ):
        assert words in result.stdout
    compared = appraise(w.uki_boot().agile(), pcrs=w.uki_boot().pcrs)
    assert "Nothing was given" not in compared.stdout


def test_the_sha1_format(appraise: Any) -> None:
    boot = w.firmware(Boot(("sha1",), locality=3))
    result = appraise(boot.sha1(), "--json", pcrs=boot.pcrs)
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["format"], document["startup_locality"], document["facts"]["bank"]) == ("sha1", 3, "sha1")


def test_a_log_from_standard_input() -> None:
    result = runner.invoke(app, ["appraise", "eventlog", "--help"])
    assert "- is stdin" in " ".join(result.stdout.split()).replace("│ ", "").replace(" │", "")
