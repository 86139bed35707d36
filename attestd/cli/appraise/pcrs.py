"""PCR values from a file: as `tpm2_pcrread` prints them, or as JSON.

tpm2-tools, man/tpm2_pcrread.1.md: banks, each with lines `INDEX : 0xDIGEST`; tpm2_quote prints the same under "pcrs:".
The JSON form is `{BANK: {INDEX: HEX}}`, alone or as the member `pcrs` of an object, as these commands print it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from attestd.cli.appraise.verdicts import read_input
from attestd.errors import MalformedInput
from attestd.protocol.evidence import BANKS
from attestd.tpm.eventlog import PCRS

_MOST_OCTETS: Final = 64 * 1024
_BANK = re.compile(r"\s*([a-z0-9_]{1,16})\s*:\s*")
_VALUE = re.compile(r"\s*([0-9]{1,2})\s*:\s*(?:0[xX])?([0-9A-Fa-f]{2,128})\s*")
_HEADS: Final = ("pcrs", "selected_pcrs")
_UNKNOWN_BANKS: Final = ("sm3_256", "sha3_256", "sha3_384", "sha3_512")  # read past, never compared

PcrFile = dict[str, dict[int, bytes]]


class MalformedPcrFile(MalformedInput):
    """The file with PCR values can't be read"""

    remedy = "Write it by `tpm2_pcrread > FILE`, or as JSON: {BANK: {INDEX: HEX}}."


def read_pcr_file(path: Path) -> PcrFile:
    """The values in a file, by bank and PCR. Raises FileUnreadable, InputTooLarge or MalformedPcrFile."""
    return parse_pcrs(read_input(path, limit=_MOST_OCTETS))


def parse_pcrs(data: bytes) -> PcrFile:
    """PCR values in either form; banks without values are left out. Raises MalformedPcrFile."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedPcrFile("The PCR values are no text.") from None
    found = _from_json(text) if text.lstrip().startswith("{") else _from_lines(text)
    kept = {bank: values for bank, values in found.items() if values}
    if not kept:
        raise MalformedPcrFile("There are no PCR values in the file.", expected="at least one")
    return kept


def _from_lines(text: str) -> PcrFile:
    found: PcrFile = {}
    bank: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.strip() == "---":
            continue
        if (value := _VALUE.fullmatch(line)) is not None and bank is not None:
            if bank not in _UNKNOWN_BANKS:
                _put(found, bank, value[1], value[2])
        elif (head := _BANK.fullmatch(line)) is not None and head[1] in (*BANKS, *_UNKNOWN_BANKS):
            bank = head[1]
            if bank in found:
                raise MalformedPcrFile("A bank comes twice.", seen=bank)
            found[bank] = {}
        elif head is None or head[1] not in _HEADS:
            raise MalformedPcrFile(
                f"Line {number} is neither a bank nor a PCR value.", seen=repr(line[:80]), expected="INDEX : 0xDIGEST"
            )
    return found


def _from_json(text: str) -> PcrFile:
    try:
        document: Any = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise MalformedPcrFile("The PCR values are no JSON.") from None
    banks = document.get("pcrs", document)
    if not isinstance(banks, dict):
        raise MalformedPcrFile("The PCR values are no object of banks.", seen=type(banks).__name__)
    found: PcrFile = {}
    for bank, values in banks.items():
        if bank not in BANKS or not isinstance(values, dict):
            raise MalformedPcrFile("This is no bank of PCR values.", seen=repr(bank[:20]), expected=", ".join(BANKS))
        found[bank] = {}
        for index, value in values.items():
            if not isinstance(value, str):
                raise MalformedPcrFile("A PCR value is a text.", seen=type(value).__name__)
            _put(found, bank, index, value.removeprefix("0x"))
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise MalformedPcrFile("A member comes twice.")
    return dict(pairs)


def _put(found: PcrFile, bank: str, index: str, value: str) -> None:
    """One value, if it is one of the bank's size and the first of its PCR."""
    if not (index.isascii() and index.isdigit() and len(index) <= 2 and int(index) < PCRS):
        raise MalformedPcrFile("This is no PCR.", seen=repr(index[:20]), expected=f"0 to {PCRS - 1}")
    try:
        digest = bytes.fromhex(value)
    except ValueError:
        raise MalformedPcrFile(f"The value of {bank} PCR {index} is not hexadecimal.", seen=repr(value[:20])) from None
    if len(digest) != BANKS[bank] or int(index) in found[bank]:
        raise MalformedPcrFile(
            f"{bank} PCR {index} has a value of the wrong size, or two.",
            seen=f"{len(digest)} octets",
            expected=f"{BANKS[bank]}, once",
        )
    found[bank][int(index)] = digest
