"""The folder in which the workers' metrics are added up, as files that each of them maps into its memory.

It is in memory where it can be: on a disk that stands still, counting would stand still too, and with it every answer.
What is killed can't clean up: the next service removes the folders of those that are no more. And a mapped file that
there is no room for ends the process that writes to it (SIGBUS), so each worker takes its room first, or counts alone.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attestd.errors import Unavailable

_log = logging.getLogger(__name__)

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # the library's own name for it
_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder in it is its owner's alone
_PREFIX = "attestd-metrics-"
# The files of one worker, by what is before its process id, and their octets: some hundred values of 300 octets. A file
# that is there when the library opens it is used as it is; one that it makes itself has holes in the place of room.
_FILES = {"counter": 512 * 1024, "histogram": 512 * 1024, "gauge_livesum": 64 * 1024}
_USED = struct.Struct("i")  # how much of a file is in use: its first octets


class RunFolderUnusable(Unavailable):
    """The service has no room for its running state"""

    remedy = "Free space on the file system of the instance's folder; the service's user must be able to write there."


@contextmanager
def counting(run: Path) -> Iterator[None]:
    """Makes `run`, and a folder for this service's workers, which is theirs until the block ends.

    Raises RunFolderUnusable.
    """
    try:
        run.mkdir(mode=0o700, exist_ok=True)
        try:
            ours = _made_in(_MEMORY)
        except OSError:
            ours = _made_in(run)
        held = _hold(ours)
    except OSError as error:
        raise RunFolderUnusable(f"{run} can't be written.", seen=error.strerror) from None
    os.environ[FOLDER_VARIABLE] = str(ours)
    try:
        yield
    finally:
        os.environ.pop(FOLDER_VARIABLE, None)
        shutil.rmtree(ours, ignore_errors=True)
        if held is not None:
            os.close(held)


def reserve() -> None:
    """Takes the room that this worker's counts will need; before its first metric. Without room it counts alone: then
    /metrics tells only of the worker that answers."""
    if (folder := os.environ.get(FOLDER_VARIABLE)) is None:
        return
    try:
        for name, octets in _FILES.items():
            file = os.open(Path(folder) / f"{name}_{os.getpid()}.db", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(file, 0, octets)
            finally:
                os.close(file)
    except OSError as error:
        _log.warning("no room to count in %s (%s): this worker counts alone", folder, error.strerror)
        del os.environ[FOLDER_VARIABLE]
        from prometheus_client import values  # loaded already, by what counts

        values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]


def tidy() -> None:
    """Gives back the room that workers had which are no more; what they counted stays, or totals would fall."""
    for path in Path(os.environ[FOLDER_VARIABLE]).glob("*.db"):
        name, _, pid = path.stem.rpartition("_")
        if Path(f"/proc/{pid}").exists():
            continue
        with suppress(OSError), path.open("rb+") as file:
            if name.startswith("gauge_live"):
                path.unlink()  # a gauge speaks of the living
            else:
                (used,) = _USED.unpack(file.read(_USED.size))
                file.truncate(max(used, _USED.size))


def _made_in(place: Path) -> Path:
    """A new folder, after those that nobody holds are gone."""
    for folder in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's
            _remove_if_abandoned(folder)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))


def _hold(folder: Path) -> int | None:
    """A lock on a folder, which ends with this process (flock(2)); None if another one holds it."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held


def _remove_if_abandoned(folder: Path) -> None:
    if (held := _hold(folder)) is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)
