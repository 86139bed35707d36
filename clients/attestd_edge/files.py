"""Files that are whole or not there: written beside, synced, renamed, and the folder synced (rename(2), fsync(2))."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from attestd.errors import Misconfigured


class FileUnreadable(Misconfigured):
    """A file that is needed can't be read"""

    remedy = "Check that the file exists and that the edge's user may read it."


class FileUnwritable(Misconfigured):
    """The edge's state can't be written"""

    remedy = "Check the state folder's owner, its permissions and the space on its disk."


def read_file(path: Path, *, limit: int) -> bytes:
    """The file's octets, at most `limit`. Raises FileUnreadable."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise FileUnreadable(f"{path} can't be read: {error.strerror}.") from error
    if len(data) > limit:
        raise FileUnreadable(f"{path} is too large.", expected=f"at most {limit} octets")
    return data


def replace_file(path: Path, data: bytes, *, mode: int) -> None:
    """Puts `data` at `path` so that a power cut leaves the old octets or the new ones. Raises FileUnwritable."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        beside = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise FileUnwritable(f"{path} can't be written: {error.strerror}.") from error
