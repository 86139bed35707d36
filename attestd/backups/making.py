"""Instance -> backup: one moment of the registry, also while the service runs, and the files beside it.

    files/attestd.toml, files/ca/…, files/keys/…, files/admin/…, files/profiles/…       as they are on disk
    tables/<name>/00000001.jsonl.gz, …                                                  rows, as JSON Lines, in parts
    audit/<name>/00000001.jsonl.gz, …                                                   files of archived audit rows
    manifest.json                                                                       last: it names every part

Sealing keys are never in it: what they sealed must not open after a restore. The service's TLS key isn't, either.
The manifest's digests find damage. Only a passphrase finds malice: who can write the file can write digests.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from attestd.auditing.archives import FOLDER as AUDIT
from attestd.auditing.archives import archived_lines
from attestd.backups.archive import MAX_PART, Sink, is_part_name, write_end, write_part
from attestd.backups.sealed import SealedWriter
from attestd.ca.keyfiles import KeyFileUnreadable, read_public
from attestd.ca.keystore import encrypts
from attestd.config import Settings
from attestd.errors import Conflict, Misconfigured, Unavailable
from attestd.protocol.encoding import write_object
from attestd.registry import audit_tree, snapshot
from attestd.registry.engine import Registry

FORMAT = 1
MANIFEST = "manifest.json"
SETTINGS = "attestd.toml"
FOLDERS = ("ca", "keys", "admin", "profiles")
SEALING = "keys/sealing.json"
MAX_FILE = 1024 * 1024  # octets
MAX_FILES = 1000
MAX_LINES = 16 * 1024 * 1024  # octets of JSON Lines in one part, before it is compressed

_FLUSH = 4 * 1024 * 1024  # octets of JSON Lines after which a part is closed
_LEVEL = 6


class BackupExists(Conflict):
    """There is a file of this name already"""

    remedy = "Name another file; a backup is never overwritten."


class BackupUnwritable(Unavailable):
    """The backup can't be written"""

    remedy = "Check the folder's permissions and the space on its disk. Nothing was left there."


class FolderUnusual(Misconfigured):
    """The instance's folder holds something that a backup can't keep"""

    remedy = "Move it out of the instance's folder: its subfolders hold small files with plain names."


class FilesChanging(Unavailable):
    """The instance's files changed while they were read"""

    remedy = "Run the backup again once the keys are not being rotated."


class DatabaseEmpty(Misconfigured):
    """There are no tables in this database"""

    remedy = "Check the configured database: it is not the one of a service that ever ran."


@dataclass(frozen=True, slots=True)
class Made:
    """What a backup holds. Times in unix seconds."""

    made_at: int
    schema: str
    rows: Mapping[str, int]
    files: int
    octets: int  # of the file


def make_backup(
    target: Path,
    settings: Settings,
    registry: Registry,
    *,
    now: datetime,
    version: str,
    entropy: Callable[[int], bytes],
    keys: bool = True,
    passphrase: bytes | None = None,
) -> Made:
    """Writes `target` (mode 0600), whole or not at all.

    `keys=False` leaves private keys out: those that come back then come from elsewhere. Raises BackupExists,
    BackupUnwritable, FolderUnusual, FilesChanging, DatabaseEmpty, PassphraseTooShort and the registry's errors.
    """
    with _new_file(target, entropy) as file:
        sealed = None if passphrase is None else SealedWriter(file, passphrase, entropy=entropy)
        writer = _Writer(file if sealed is None else sealed)
        # One moment: the files are the same before and after the database was read.
        files = _files(settings, keys=keys)
        with registry.reading() as c:
            schema = registry.schema()
            if schema is None:
                raise DatabaseEmpty("The database is empty.")
            position = snapshot.position(c)
            for name, data in files.items():
                writer.part(f"files/{name}", data)
            counted: dict[str, int] = {}
            for name, table in snapshot.tables_of(c).items():
                counted[name] = writer.lines(f"tables/{name}", (write_object(row) for row in snapshot.rows(c, table)))
            archives = audit_tree.archives(c) if "audit_archives" in counted else []
        for archive in archives:  # written once, before the registry named them
            writer.lines(f"audit/{archive.file}", archived_lines(settings.dir / AUDIT, archive))
        if _files(settings, keys=keys) != files:
            raise FilesChanging(f"The files in {settings.dir} are not what they were a moment ago.")
        manifest = {
            "v": FORMAT,
            "trust_domain": str(settings.trust_domain),
            "made_at": int(now.timestamp()),
            "made_by": version,
            "schema": schema,
            "epoch": position.epoch,
            "bundle": position.bundle,
            "keys": "included" if keys else "left out",
            "sealing": "encrypted" if encrypts(settings.dir) else "plain",
            "rows": counted,
            "parts": [{"name": name, "size": size, "sha256": digest} for name, size, digest in writer.parts],
        }
        writer.end(write_object(manifest))
        if sealed is not None:
            sealed.close()
        octets = file.tell()
    return Made(int(now.timestamp()), schema, counted, len(files), octets)


class _Writer:
    """Parts, each counted."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.parts: list[tuple[str, int, str]] = []

    def part(self, name: str, data: bytes) -> None:
        write_part(self._sink, name, data)
        self.parts.append((name, len(data), sha256(data).hexdigest()))

    def lines(self, folder: str, lines: Iterator[bytes]) -> int:
        """JSON Lines in as many parts as it takes; returns how many lines."""
        count, number, held = 0, 0, bytearray()
        for line in lines:
            held += line + b"\n"
            count += 1
            if len(held) >= _FLUSH:
                number += 1
                self._compressed(folder, number, bytes(held))
                held.clear()
        if held or not number:
            self._compressed(folder, number + 1, bytes(held))
        return count

    def _compressed(self, folder: str, number: int, lines: bytes) -> None:
        if len(lines) > MAX_LINES:
            raise FolderUnusual(f"A row of {folder} is too large.", seen=f"{len(lines)} octets")
        self.part(f"{folder}/{number:08}.jsonl.gz", gzip.compress(lines, _LEVEL, mtime=0))

    def end(self, manifest: bytes) -> None:
        # Each line names a part of a file or 4 MiB of rows: the manifest of a terabyte fits.
        if len(manifest) > MAX_PART:
            raise FolderUnusual("The registry is too large for one backup.", seen=f"{len(self.parts)} parts")
        write_part(self._sink, MANIFEST, manifest)
        write_end(self._sink)


def _files(settings: Settings, *, keys: bool) -> dict[str, bytes]:
    """What is in the instance's folder, by its name in it; not what opens the keys, should that lie there, too."""
    base = settings.dir
    openers = {base / file for file in (settings.keys.passphrase_file, settings.keys.pin_file) if file}
    found = {SETTINGS: _read(base / SETTINGS)}
    for folder in FOLDERS:
        for path in sorted((base / folder).rglob("*")):
            name = path.relative_to(base).as_posix()
            if path.is_dir() or path in openers or not _is_kept(path, name, keys=keys):
                continue
            if not is_part_name(f"files/{name}"):
                raise FolderUnusual(f"{path} has a name that no backup keeps.", expected="a-z A-Z 0-9 . _ -")
            found[name] = _read(path)
            if len(found) > MAX_FILES:
                raise FolderUnusual("The instance's folder holds too many files.", expected=f"at most {MAX_FILES}")
    return found


def _is_kept(path: Path, name: str, *, keys: bool) -> bool:
    if any(part.startswith(".") for part in path.parts[-2:]) or path.suffix == ".new":
        return False  # a file that was never finished
    if name == SEALING:
        return False
    return keys or not (name.startswith("keys/") or path.suffix == ".key")


def _read(path: Path) -> bytes:
    try:
        return read_public(path, limit=MAX_FILE)
    except KeyFileUnreadable as error:
        raise FolderUnusual(error.detail, seen=error.seen, expected=error.expected) from None


@contextmanager
def _new_file(target: Path, entropy: Callable[[int], bytes]) -> Iterator[BinaryIO]:
    """A file that appears under its name when the block has been left, with its octets on the disk."""
    if target.exists():
        raise BackupExists(f"{target} exists.")
    draft = target.with_name(f".{target.name}.{entropy(8).hex()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, target)  # which, unlike a rename, refuses to replace what is there
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(target.parent)
    except FileExistsError:
        raise BackupExists(f"{target} exists.") from None
    except OSError as error:
        raise BackupUnwritable(f"{target} can't be written: {error.strerror}.") from None


def sync_folder(path: Path) -> None:
    """Returns once the folder's names are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
