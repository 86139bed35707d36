"""`attestd appraise ima`: an IMA measurement list, text or binary, checked entry by entry and replayed.

What the document tells of the list (`entries`, `violations`, `pcr10`) is of all of it. What a given PCR 10 *proves* is
`matched_at`: so many entries, from the first one on, and no others. Whatever stands after them decides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from attestd.cli.appraise.verdicts import FileUnreadable, judging, tell
from attestd.cli.options import Json
from attestd.errors import EvidenceRefused, MalformedInput
from attestd.protocol.evidence import BANKS
from attestd.tpm.ima import ImaWalk
from attestd.tpm.imastate import ImaState

_BLOCK = 256 * 1024  # octets read at a time: a list may be of any length
_BANKS = ("sha1", "sha256")


class Pcr10Malformed(MalformedInput):
    """The PCR's value can't be read"""

    remedy = "Give PCR 10 in hexadecimal digits: 20 octets for SHA-1, 32 for SHA-256, 48 or 64 for the others."


class NoEntries(MalformedInput):
    """The file holds no entries"""

    remedy = "Give the kernel's list: /sys/kernel/security/ima/binary_runtime_measurements, read as root."


def ima(
    file: Annotated[Path, typer.Argument(help="The measurement list, binary or text; - is standard input.")],
    pcr10: Annotated[
        str | None, typer.Option(metavar="HEX", help="PCR 10 as quoted: the list is good up to the entry it proves.")
    ] = None,
    json: Json = False,
) -> None:
    """Check and replay an IMA measurement list."""
    with judging(as_json=json):
        quoted = _read_pcr10(pcr10)
        walk, cut_short = _walk(_blocks(file), quoted)
    document = _document(walk, quoted, cut_short)
    tell(document, as_json=json, text=_in_words(document), refusal=_refusal(walk, quoted))


def _read_pcr10(text: str | None) -> dict[str, bytes]:
    """The value by its bank, which its size tells. Raises Pcr10Malformed."""
    if text is None:
        return {}
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    for bank, size in BANKS.items():
        if size == len(value):
            return {bank: value}
    raise Pcr10Malformed(seen=repr(text[:130]))


def _blocks(path: Path) -> Iterator[bytes]:
    """The file, block by block. Raises FileUnreadable."""
    try:
        with open(0, "rb", closefd=False) if str(path) == "-" else path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:
        raise FileUnreadable(f"{path} can't be read: {os.strerror(error.errno or 0)}.") from None


def _walk(blocks: Iterable[bytes], quoted: dict[str, bytes]) -> tuple[ImaWalk, str]:
    """The walk through all of the list, and why it ended before the list did: only after what is proven it may."""
    walk = ImaWalk(ImaState.begin(dict.fromkeys((*_BANKS, *quoted))), blocks, quoted=quoted, survey=True)
    cut_short = ""
    try:
        for _ in walk:
            pass
    except MalformedInput as error:
        if walk.reached is None:
            raise
        cut_short = str(error)
    if not walk.state.entries:
        raise NoEntries
    return walk, cut_short


def _refusal(walk: ImaWalk, quoted: dict[str, bytes]) -> EvidenceRefused | None:
    try:
        if quoted:
            walk.proven()
        elif walk.wrong:
            return walk.mismatch()
    except EvidenceRefused as error:
        return error
    return None


def _document(walk: ImaWalk, quoted: dict[str, bytes], cut_short: str) -> dict[str, Any]:
    state = walk.state
    proven = walk.reached
    document: dict[str, Any] = {
        "entries": state.entries,
        "violations": state.violations,
        "pcr10": {bank: value.hex() if value else None for bank, value in state.pcr10.items()},
        "matched_at": proven.entries if proven else None,
        "form": "text" if walk.text else "binary",
        "templates": walk.templates,
        "wrong_template_digests": walk.wrong,
        "for_other_pcrs": state.elsewhere,
        "boot_aggregate": state.boot_aggregate.text if state.boot_aggregate else None,
    }
    if proven:
        (bank,) = quoted
        document |= {
            "matched_bank": bank,
            "extended": next(chain.form for chain in proven.chains if chain.bank == bank),
            "matched_violations": proven.violations,
            "ignored": state.entries - proven.entries,
        }
        if cut_short:
            document["unreadable_after"] = cut_short
    return document


def _in_words(document: dict[str, Any]) -> str:
    lines = [f"{document['entries']} entries in a {document['form']} list, {document['violations']} of them violations"]
    lines += [f"PCR 10, {bank}: {value or 'not to be computed'}" for bank, value in document["pcr10"].items()]
    if document["matched_at"] is not None:
        bank, number = document["matched_bank"], document["matched_at"]
        lines.append(f"The given PCR 10 ({bank}) proves the first {number} entries.")
        if document["ignored"] or "unreadable_after" in document:
            lines.append(f"What follows them is proven by nothing, and ignored: {document['ignored']} entries.")
    return "\n".join(lines)
