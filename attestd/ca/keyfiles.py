"""Secrets on disk: readable by their owner alone, written whole or not at all, overwritten only on purpose.

A file appears under its name only after its octets are on the disk: it is written under a temporary name in the same
folder, synced, linked to its name (a link, unlike a rename, refuses to replace what is there), and the folder is synced
too. A power cut leaves the whole file or none; at worst a `.new-…` file with no other name, which is never read.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from attestd.errors import Conflict, Misconfigured


class KeyFileExposed(Misconfigured):
    """Others than the owner can read a key file"""

    remedy = "Take the others' permissions away with chmod, and replace the key if somebody may have read it."


class KeyFileMissing(Misconfigured):
    """A key file is missing"""

    remedy = "Restore the file from the backup of this instance's folder."


class KeyFileUnreadable(Misconfigured):
    """A key file can't be read"""

    remedy = "Let the service's user own the file and read it."


class KeyFileUnwritable(Misconfigured):
    """A key file can't be written"""

    remedy = "Let the service's user own the folder; it must be on a file system with hard links and free space."


class KeyFileExists(Conflict):
    """A key file is there already"""

    remedy = "Move the file away if it is not needed; keys are never overwritten."


def make_private_folder(path: Path) -> None:
    """A folder of mode 0700; one that exists must have that mode already.

    Raises KeyFileExposed, KeyFileUnwritable.
    """
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        require_private_folder(path)
    except OSError as error:
        raise KeyFileUnwritable(f"{path} can't be made.", seen=error.strerror) from None
    else:
        _sync_folder(path.parent)


def require_private_folder(path: Path) -> None:
    """Returns if only its owner enters this folder.

    Raises KeyFileMissing, KeyFileUnreadable, KeyFileExposed.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise KeyFileMissing(f"{path} does not exist.") from None
    except OSError as error:
        raise KeyFileUnreadable(f"{path} can't be read.", seen=error.strerror) from None
    if not stat.S_ISDIR(found.st_mode):
        raise KeyFileUnreadable(f"{path} is not a folder.")
    _require_private(path, found.st_mode, "700")


def write_secret(path: Path, data: bytes, *, entropy: Callable[[int], bytes]) -> None:
    """Writes a new file of mode 0600. Raises KeyFileExists, KeyFileUnwritable."""
    _write_new(path, data, 0o600, entropy)


def write_public(path: Path, data: bytes, *, entropy: Callable[[int], bytes]) -> None:
    """Writes a new file of mode 0644, as carefully as a secret. Raises KeyFileExists, KeyFileUnwritable."""
    _write_new(path, data, 0o644, entropy)


def replace_secret(path: Path, data: bytes, *, entropy: Callable[[int], bytes]) -> None:
    """Writes a file of mode 0600 over one that may exist: a power cut leaves the old one or the new one, whole.

    Raises KeyFileUnwritable.
    """
    _replace(path, data, 0o600, entropy)


def replace_public(path: Path, data: bytes, *, entropy: Callable[[int], bytes]) -> None:
    """Like `replace_secret`, with mode 0644. Raises KeyFileUnwritable."""
    _replace(path, data, 0o644, entropy)


def read_secret(path: Path, *, limit: int) -> bytes:
    """The whole file of at most `limit` octets. Raises KeyFileMissing, KeyFileUnreadable, KeyFileExposed.

    The permissions are those of the file that was opened, so nobody can swap it between check and use.
    """
    return _read(path, limit=limit, private=True)


def read_public(path: Path, *, limit: int) -> bytes:
    """The whole file of at most `limit` octets, whoever else may read it. Raises KeyFileMissing, KeyFileUnreadable."""
    return _read(path, limit=limit, private=False)


def _read(path: Path, *, limit: int, private: bool) -> bytes:
    try:
        # Non-blocking, so that a pipe put in the file's place can't hang the start.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise KeyFileUnreadable(f"{path} is not a regular file.")
            if private:
                _require_private(path, found.st_mode, "600")
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise KeyFileMissing(f"{path} does not exist.") from None
    except OSError as error:
        raise KeyFileUnreadable(f"{path} can't be read.", seen=error.strerror) from None
    if len(data) > limit:
        raise KeyFileUnreadable(f"{path} is too large.", seen=f"over {limit} octets", expected=f"at most {limit}")
    return data


def _require_private(path: Path, mode: int, wanted: str) -> None:
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyFileExposed(
            f"Others than its owner can reach {path}.",
            seen=f"mode {stat.S_IMODE(mode):04o}",
            expected=f"mode 0{wanted}",
            remedy=f"Run `chmod {wanted} {path}`, and replace the key if somebody may have read it.",
        )


def _write_new(path: Path, data: bytes, mode: int, entropy: Callable[[int], bytes]) -> None:
    try:
        with _draft(path, data, mode, entropy) as draft:
            os.link(draft, path)
        _sync_folder(path.parent)
    except FileExistsError:
        raise KeyFileExists(f"{path} exists.") from None
    except OSError as error:
        raise KeyFileUnwritable(f"{path} can't be written.", seen=error.strerror) from None


def _replace(path: Path, data: bytes, mode: int, entropy: Callable[[int], bytes]) -> None:
    try:
        with _draft(path, data, mode, entropy) as draft:
            draft.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise KeyFileUnwritable(f"{path} can't be written.", seen=error.strerror) from None


@contextlib.contextmanager
def _draft(path: Path, data: bytes, mode: int, entropy: Callable[[int], bytes]) -> Iterator[Path]:
    """The octets, on the disk, under a temporary name that is gone afterwards."""
    temporary = path.with_name(f".new-{entropy(8).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # the umask may have taken bits away, never added any
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
