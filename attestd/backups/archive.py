"""The form of a backup: a POSIX tar archive (ustar) of regular files of at most 8 MiB, and nothing else.

Any `tar` lists and unpacks it. This reader accepts less than any `tar` does: each header must be, octet for octet, the
one that this writer makes for that name and size. So there are no links, devices, absolute names, `..`, sparse files or
extended headers to guard against, and nobody can make it hold more than one part in memory.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from attestd.errors import MalformedInput

MAX_PART = 8 * 1024 * 1024  # octets
MAX_PARTS = 1_000_000

_BLOCK = 512
_END = bytes(2 * _BLOCK)
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(rf"{_SEGMENT}(/{_SEGMENT}){{0,7}}", re.ASCII)
MAX_NAME = 100  # octets: what a ustar header holds without a prefix


class BackupMalformed(MalformedInput):
    """This is not a backup, or it was altered"""

    remedy = "Use another copy of the backup. Nothing was restored."


class BackupTruncated(MalformedInput):
    """The backup is cut off"""

    remedy = "Copy the whole file again, or use another copy. Nothing was restored."


class Sink(Protocol):
    """Where octets go."""

    def write(self, data: bytes, /) -> object:
        """Takes all of them."""


class Source(Protocol):
    """Where octets come from."""

    def read(self, size: int, /) -> bytes:
        """The next octets: fewer than `size` only at the end."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the archive."""

    name: str
    data: bytes = field(repr=False)


def is_part_name(name: str) -> bool:
    """Whether a part may be called so: a relative path of plain segments, none of which begins with a dot."""
    return len(name) <= MAX_NAME and _NAME.fullmatch(name) is not None


def write_part(sink: Sink, name: str, data: bytes) -> None:
    """Appends one part. Raises ValueError for a name or a size that no archive may have."""
    if not is_part_name(name) or len(data) > MAX_PART:
        raise ValueError(f"no part of a backup: {name[:MAX_NAME]!r} of {len(data)} octets")
    sink.write(_header(name, len(data)))
    sink.write(data)
    sink.write(bytes(-len(data) % _BLOCK))


def write_end(sink: Sink) -> None:
    """Ends the archive."""
    sink.write(_END)


def read_parts(source: Source) -> Iterator[Part]:
    """The parts, one after the other; the archive must end where its end says so.

    Raises BackupMalformed, BackupTruncated.
    """
    for _ in range(MAX_PARTS):
        header = _exactly(source, _BLOCK)
        if header == bytes(_BLOCK):
            if _exactly(source, _BLOCK) != bytes(_BLOCK) or source.read(1):
                raise BackupMalformed("Something follows the end of the backup.")
            return
        name, size = _parsed(header)
        data = _exactly(source, size)
        if _exactly(source, -size % _BLOCK).strip(b"\0"):
            raise BackupMalformed(f"{name} is padded with something else than zeros.")
        yield Part(name, data)
    raise BackupMalformed("The backup has too many parts.", expected=f"at most {MAX_PARTS}")


def _header(name: str, size: int) -> bytes:
    """The one header for a name and a size: mode 0600, owned by nobody in particular, of no particular time."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o600
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _parsed(header: bytes) -> tuple[str, int]:
    name_field, size_field = header[:MAX_NAME].rstrip(b"\0"), header[124:136].rstrip(b"\0 ")
    try:
        name, size = name_field.decode("ascii"), int(size_field, 8)
    except ValueError:
        raise BackupMalformed("A header of the backup can't be read.") from None
    if not is_part_name(name) or not 0 <= size <= MAX_PART:
        raise BackupMalformed("A part of the backup is not one.", seen=f"{name_field[:60]!r} of {size} octets")
    if _header(name, size) != header:
        raise BackupMalformed(
            f"The header of {name} is not as backups have them.", expected="a regular file, mode 0600"
        )
    return name, size


def _exactly(source: Source, size: int) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise BackupTruncated(f"{size - len(data)} octets are missing at the end.")
    return data
