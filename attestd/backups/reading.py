"""File -> VerifiedBackup: the whole file is read once, and every digest compared, before anything is made of it.

What is read later is compared again, part by part, so that a file that changes in between is noticed, too.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from attestd.backups.archive import (
    MAX_PART,
    MAX_PARTS,
    BackupMalformed,
    BackupTruncated,
    Part,
    Source,
    is_part_name,
    read_parts,
)
from attestd.backups.making import FOLDERS, FORMAT, MANIFEST, MAX_FILE, MAX_FILES, MAX_LINES, SEALING, SETTINGS
from attestd.backups.sealed import PassphraseWrong, SealedReader, is_sealed
from attestd.errors import AttestdError, InputTooLarge, MalformedInput, Misconfigured
from attestd.ids import TrustDomain
from attestd.protocol.encoding import Members, read_object

_MAX_LINE = 8 * 1024 * 1024  # octets of one row


class BackupUnreadable(Misconfigured):
    """The backup can't be read"""

    remedy = "Check the file's name and permissions."


class BackupTooNew(Misconfigured):
    """The backup is of a form that this program does not know"""

    remedy = "Restore it with the program version that made it, or a later one."


class PassphraseNeeded(Misconfigured):
    """The backup is encrypted"""

    remedy = "Name the file with its passphrase: --passphrase-file FILE."


class NotEncrypted(Misconfigured):
    """The backup is not encrypted, and an encrypted one was asked for"""

    remedy = "Leave --passphrase-file out if you know where this file comes from: anybody could have written it."


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the backup says of itself. Times in unix seconds."""

    trust_domain: TrustDomain
    made_at: int
    made_by: str
    schema: str
    epoch: int
    bundle: int
    keys: bool  # whether private keys are in it
    encrypted: bool  # whether the instance kept its keys encrypted
    rows: Mapping[str, int]
    parts: Mapping[str, tuple[int, str]] = field(repr=False)  # name -> size, SHA-256


@dataclass(frozen=True, slots=True)
class VerifiedBackup:
    """A backup whose every part is the one that its manifest names. Made by `open_backup` alone."""

    manifest: Manifest
    _file: BinaryIO = field(repr=False)
    _sealed: SealedReader | None = field(repr=False)

    def files(self) -> dict[str, bytes]:
        """The instance's files, by their names in its folder."""
        return {part.name.removeprefix("files/"): part.data for part in self._parts() if part.name.startswith("files/")}

    def rows(self) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
        """Each table's rows, in the backup's order. Read them before the next table's."""
        for name, parts in self._groups("tables/"):
            yield name, (_row(line, part) for part in parts for line in _lines(part))

    def archived(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """The files of archived audit rows: each one's name and lines."""
        for name, parts in self._groups("audit/"):
            yield name, (line for part in parts for line in _lines(part))

    def _groups(self, prefix: str) -> Iterator[tuple[str, Iterator[Part]]]:
        wanted = (part for part in self._parts() if part.name.startswith(prefix))
        return groupby(wanted, key=lambda part: part.name.split("/")[1])

    def _parts(self) -> Iterator[Part]:
        for part in read_parts(_rewound(self._file, self._sealed)):
            if part.name != MANIFEST and self.manifest.parts.get(part.name) != _measured(part):
                raise BackupMalformed("The backup changed while it was read.", seen=part.name)
            yield part


@contextmanager
def open_backup(path: Path, *, passphrase: bytes | None) -> Iterator[VerifiedBackup]:
    """The backup, once all of it has been read.

    Raises BackupUnreadable, PassphraseNeeded, NotEncrypted, PassphraseWrong, BackupTooNew, BackupMalformed,
    BackupTruncated.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise BackupUnreadable(f"{path} can't be read: {error.strerror}.") from None
    with file:
        try:
            sealed = _opened(file, passphrase)
            manifest = _verified(_rewound(file, sealed))
        except OSError as error:
            raise BackupUnreadable(f"{path} can't be read: {error.strerror}.") from None
        yield VerifiedBackup(manifest, file, sealed)


def _opened(file: BinaryIO, passphrase: bytes | None) -> SealedReader | None:
    if is_sealed(file):
        if passphrase is None:
            raise PassphraseNeeded("This backup is encrypted.")
        return SealedReader(file, passphrase)
    if passphrase is not None:
        raise NotEncrypted("This backup is not encrypted.")
    return None


def _rewound(file: BinaryIO, sealed: SealedReader | None) -> Source:
    if sealed is not None:
        sealed.rewind()
        return sealed
    file.seek(0)
    return file


def _verified(source: Source) -> Manifest:
    """1. Read every part. 2. The last is the manifest. 3. It names exactly the parts that came before it."""
    seen: dict[str, tuple[int, str]] = {}
    last: Part | None = None
    for part in read_parts(source):  # 1
        if last is not None:
            if last.name in seen:
                raise BackupMalformed(f"{last.name} is in the backup twice.")
            seen[last.name] = _measured(last)
        last = part
    if last is None or last.name != MANIFEST:  # 2
        raise BackupTruncated("The backup has no manifest at its end.")
    manifest = _parsed(last.data)
    if list(manifest.parts.items()) != list(seen.items()):  # 3
        differing = [name for name in {**manifest.parts, **seen} if manifest.parts.get(name) != seen.get(name)]
        raise BackupMalformed(
            "Parts of the backup are not those that its manifest names.",
            seen=", ".join(differing[:3]) or "another order",
        )
    for name in manifest.parts:
        _require_place(name, manifest)
    return manifest


def _parsed(data: bytes) -> Manifest:
    try:
        members = Members(read_object(data, limit=MAX_PART, name="manifest"), "manifest")
        _require_form(members.integer("v"))
        rows = {name: Members({name: count}, "rows").integer(name) for name, count in members.object("rows").items()}
        parts: dict[str, tuple[int, str]] = {}
        for entry in members.objects("parts", most=MAX_PARTS):
            parts[entry.text("name")] = (entry.integer("size"), entry.text("sha256", limit=64))
            entry.done()
        manifest = Manifest(
            trust_domain=TrustDomain(members.text("trust_domain", limit=255)),
            made_at=members.integer("made_at"),
            made_by=members.text("made_by", limit=100),
            schema=members.text("schema", limit=20),
            epoch=members.integer("epoch"),
            bundle=members.integer("bundle"),
            keys=members.text("keys", limit=8) == "included",
            encrypted=members.text("sealing", limit=9) == "encrypted",
            rows=rows,
            parts=parts,
        )
        members.done()
    except (BackupMalformed, BackupTooNew):
        raise
    except (MalformedInput, InputTooLarge) as error:
        raise BackupMalformed(
            f"The backup's manifest can't be read: {error.detail}", seen=error.seen, expected=error.expected
        ) from None
    return manifest


def _require_form(version: int) -> None:
    if version != FORMAT:
        raise BackupTooNew(seen=f"form {version}", expected=f"form {FORMAT}")


def _require_place(name: str, manifest: Manifest) -> None:
    """Every part has a place in an instance: nothing is unpacked that a backup does not hold."""
    kind, _, rest = name.partition("/")
    if kind == "files" and is_part_name(name):
        if manifest.parts[name][0] > MAX_FILE or sum(n.startswith("files/") for n in manifest.parts) > MAX_FILES:
            raise BackupMalformed(f"{name} is too large, or one of too many files.")
        if (rest == SETTINGS or rest.split("/")[0] in FOLDERS) and rest not in (SEALING, *FOLDERS):
            return
    if rest.count("/") == 1 and (kind == "audit" or (kind == "tables" and rest.split("/")[0] in manifest.rows)):
        return
    raise BackupMalformed(f"{name[:100]} is no part of a backup.")


def _measured(part: Part) -> tuple[int, str]:
    return len(part.data), sha256(part.data).hexdigest()


def _lines(part: Part) -> list[bytes]:
    """The lines in one part, of which never more than MAX_LINES octets are unpacked."""
    unpacker = zlib.decompressobj(wbits=31)  # gzip, one member
    try:
        text = unpacker.decompress(part.data, MAX_LINES + 1)
    except zlib.error:
        raise BackupMalformed(f"{part.name} is not compressed as backups are.") from None
    if len(text) > MAX_LINES or not unpacker.eof or unpacker.unused_data:
        raise BackupMalformed(f"{part.name} is not one compressed part, or too large a one.")
    lines = text.split(b"\n")
    if lines.pop():
        raise BackupMalformed(f"{part.name} ends within a line.")
    return lines


def _row(line: bytes, part: Part) -> dict[str, Any]:
    try:
        return read_object(line, limit=_MAX_LINE, name="row")
    except AttestdError as error:
        # Without what was seen: it is somebody's data.
        raise BackupMalformed(f"A row in {part.name} can't be read: {error.detail}") from None


__all__ = [
    "BackupTooNew",
    "BackupUnreadable",
    "Manifest",
    "NotEncrypted",
    "PassphraseNeeded",
    "PassphraseWrong",
    "VerifiedBackup",
    "open_backup",
]
