"""Small disks that fill up, freeze or fail, and tests that run on one.

    @pytest.mark.small_disk()                          # 24 MB in memory
    @pytest.mark.small_disk(kind="ext4")               # a real file system in an image: it can freeze and fail
    def test_…(disk: Disk): …

Such a test runs in a pytest of its own, in a mount namespace of its own: the disk is nobody else's, and is gone with
the last process in there, however that ended. Where this is not permitted the test is skipped, and says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

INSIDE = "CHAOS_DISK"  # the disk's mount point, for the pytest inside
_ROOT = Path(__file__).resolve().parents[2]
_MOUNT = {
    "tmpfs": 'mount -t tmpfs -o "size=${MEGABYTES}m,mode=700" attestd-chaos "$CHAOS_DISK"',
    "ext4": 'truncate -s "${MEGABYTES}M" "$CHAOS_DISK.image" && mkfs.ext4 -q -m 0 "$CHAOS_DISK.image"'
    ' && mount -o loop,errors=remount-ro "$CHAOS_DISK.image" "$CHAOS_DISK"',
}
_NOT_PERMITTED = 77


@dataclass(frozen=True)
class Disk:
    """A file system that is this test's own, mounted at `path`."""

    path: Path

    def fill(self) -> None:
        """Not an octet is free any more."""
        with (self.path / "ballast").open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"\xff" * size)

    def free(self) -> None:
        """There is room again."""
        (self.path / "ballast").unlink()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Meanwhile whoever writes waits (fsfreeze(8)); reading goes on."""
        subprocess.run(["fsfreeze", "--freeze", str(self.path)], check=True)
        try:
            yield
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(self.path)], check=True)

    def fail(self) -> None:
        """The kernel finds the file system damaged and lets nobody write any more, open files included."""
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        (device,) = [source for source, where, *_ in mounts if where == str(self.path)]
        Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("1")


def run_inside(item: pytest.Item, mount_point: Path, *, kind: str, megabytes: int) -> None:
    """The test again, in a pytest that has the disk. Fails or skips as that one does."""
    mount_point.mkdir()
    script = f'( {_MOUNT[kind]} ) || exit {_NOT_PERMITTED}; exec "$@"'
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "-q", "-rs", "--basetemp", f"{mount_point}-tmp"]
    command = [sys.executable, "-m", "pytest", *options, item.nodeid]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *command],
        cwd=_ROOT,
        env={**os.environ, INSIDE: str(mount_point), "MEGABYTES": str(megabytes)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    if done.returncode == _NOT_PERMITTED or "unshare failed" in said:
        pytest.skip(f"no disk of its own is permitted here ({kind}): {said.strip()[-200:]}")
    assert done.returncode == 0, said
