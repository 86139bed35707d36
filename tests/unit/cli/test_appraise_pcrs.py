"""PCR values from files: what tpm2-tools prints, and JSON; each value of its bank's size, each PCR once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.cli.appraise.pcrs import MalformedPcrFile, parse_pcrs, read_pcr_file
from attestd.cli.appraise.verdicts import FileUnreadable
from attestd.errors import InputTooLarge

ZEROS, ONES = "00" * 32, "FF" * 32
PCRREAD = f"""  sha1:
  sha256:
    0 : 0x{ZEROS}
    17: 0x{ONES}
  sm3_256:
    0 : 0x{ZEROS}
"""
WANTED = {"sha256": {0: bytes(32), 17: b"\xff" * 32}}


@pytest.mark.parametrize(
    "text",
    [
        PCRREAD,
        PCRREAD.replace("\n", "\r\n"),
        f"---\npcrs:\n{PCRREAD}\n",
        f"selected_pcrs:\n{PCRREAD}",
        PCRREAD.replace("0x", ""),
        json.dumps({"sha256": {"0": ZEROS, "17": ONES}}),
        json.dumps({"sha1": {}, "sha256": {"0": "0x" + ZEROS, "17": ONES.lower()}}),
        json.dumps({"events": 3, "pcrs": {"sha256": {"0": ZEROS, "17": ONES}}}),
    ],
)
def test_values(text: str) -> None:
    assert parse_pcrs(text.encode()) == WANTED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  sha256:\n",
        "  sm3_256:\n    0 : 0x" + ZEROS,
        f"    0 : 0x{ZEROS}\n",
        PCRREAD + f"  sha256:\n    1 : 0x{ZEROS}\n",
        PCRREAD + "something else\n",
        PCRREAD + "events:\n",
        f"  sha256:\n    0 : 0x{ZEROS}\n    0 : 0x{ONES}\n",
        f"  sha256:\n    24 : 0x{ZEROS}\n",
        f"  sha256:\n    0 : 0x{ZEROS[2:]}\n",
        f"  sha256:\n    0 : 0x{ZEROS}0\n",
        f"  sha1:\n    0 : 0x{ZEROS}\n",
        "\ufeff",
        "{",
        "{}",
        '{"sha256": []}',
        '{"pcrs": []}',
        '{"sha3": {}}',
        '{"sha256": {"0": 7}}',
        json.dumps({"sha256": {"-1": ZEROS}}),
        json.dumps({"sha256": {"1 ": ZEROS}}),
        json.dumps({"sha256": {"\N{ARABIC-INDIC DIGIT ONE}": ZEROS}}),
        json.dumps({"sha256": {"1": ZEROS, "01": ONES}}),
        json.dumps({"sha256": {"0": "zz" * 32}}),
        f'{{"sha256": {{"0": "{ZEROS}", "0": "{ONES}"}}}}',
        '{"a":' * 5000,
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(MalformedPcrFile):
        parse_pcrs(text.encode())


def test_octets_are_no_text() -> None:
    with pytest.raises(MalformedPcrFile, match="no text"):
        parse_pcrs(b"\xff\xfe")


@given(st.binary(max_size=300))
def test_any_octets_are_values_or_a_named_error(data: bytes) -> None:
    try:
        parse_pcrs(data)
    except MalformedPcrFile:
        return


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "pcrs"
    with pytest.raises(FileUnreadable):
        read_pcr_file(file)
    file.write_text(PCRREAD)
    assert read_pcr_file(file) == WANTED
    file.write_text("\n" * 70_000)
    with pytest.raises(InputTooLarge):
        read_pcr_file(file)
