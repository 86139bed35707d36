"""The processes of an `attestd serve`: a supervisor, its nursery, and the workers that the nursery made."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def nursery_of(supervisor: int) -> int | None:
    """The process that workers are copied from; None if there is none."""
    found = [pid for pid in children(supervisor) if b"multiprocessing.forkserver" in command_line(pid)]
    return found[0] if found else None


def workers_of(supervisor: int) -> list[int]:
    """Those that run, the oldest first."""
    nursery = nursery_of(supervisor)
    return [] if nursery is None else children(nursery)


def children(parent: int) -> list[int]:
    """Those that run."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return sorted(pid for pid in pids if (stat := status(pid))[1:2] == [str(parent)] and stat[0] != "Z")


def command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def status(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the program's name: state, parent's id, …; none if there is no such one."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []
