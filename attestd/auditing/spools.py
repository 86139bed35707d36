"""Receipts on an edge's own disk, before they are delivered: a state folder's `receipts/`, read and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from attestd.auditing.receipts import Given
from attestd.credentials.receipts import BEGINNING_FILE, CHAIN_ID, MAX_RECEIPT, SEGMENT_FILE, SPOOL_FOLDER
from attestd.errors import AttestdError, NotFound
from attestd.protocol.encoding import Members, read_object


class NoSpool(NotFound):
    """There are no receipts in this folder"""

    remedy = "Name the edge's state folder: edge.state_dir in its configuration."


@dataclass(frozen=True, slots=True)
class Spooled:
    """One chain on a disk. `torn`: octets at its end that a crash, or a write that goes on, left."""

    given: Given
    lines: list[str]
    torn: int


def read_spool(state: Path) -> Iterator[Spooled]:
    """The chains under a state folder, or under its folder of receipts. Raises NoSpool or OSError."""
    folder = state / SPOOL_FOLDER if (state / SPOOL_FOLDER).is_dir() else state
    try:
        chains = sorted(path for path in folder.iterdir() if CHAIN_ID.fullmatch(path.name))
    except (FileNotFoundError, NotADirectoryError):
        raise NoSpool(seen=state) from None
    if not chains and folder == state:
        raise NoSpool(seen=state)
    for path in chains:
        yield _chain(path)


def _chain(path: Path) -> Spooled:
    stretches = sorted(
        (int(match[1]), file) for file in path.iterdir() if (match := SEGMENT_FILE.fullmatch(file.name)) is not None
    )
    beginning = None
    with suppress(FileNotFoundError):
        beginning = (path / BEGINNING_FILE).read_bytes()[:MAX_RECEIPT].decode("ascii", "replace").strip()
    lines: list[str] = []
    torn = 0
    for _, file in stretches:
        *whole, rest = file.read_bytes().split(b"\n")
        lines += [line.decode("ascii", "replace") for line in whole]
        torn += len(rest)
    # What was delivered is gone, whole files from the beginning on; what is left must be whole.
    first = min(stretches[0][0], _delivered(path)) if stretches else 0
    return Spooled(Given(path.name, beginning, first=first), lines, torn)


def _delivered(path: Path) -> int:
    """The number of the first receipt that the service does not have, by the edge's own note."""
    try:
        data = (path / "delivered.json").read_bytes()
        return Members(read_object(data, limit=1024, name="note"), "note").integer("next")
    except (OSError, AttestdError):
        return 0
