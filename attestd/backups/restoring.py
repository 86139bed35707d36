"""VerifiedBackup -> a new instance (docs/adr, "Restoring"). It appears whole, or not at all.

1. There is nothing yet where it will be: neither in the folder nor in the database.
2. A draft beside that folder gets the files, with sealing keys that never sealed anything.
3. Its authority is the backup's: one trust domain in manifest, settings and certificates.
4. The newest bundle of an edge, if there is one, is that authority's, and not older than the backup.
5. The rows go into a fresh SQLite file in the draft, with the tables of their revision, and these are brought up to
   date. What is restored into PostgreSQL is made here first, too.
6. What nobody may count on any more is forgotten (`attestd.registry.recovery`).
7. The instance is opened and finished by the caller.
8. PostgreSQL gets everything in one transaction.
9. The draft gets its name.

A process that dies before the end leaves a hidden folder beside the place, which nothing ever reads, and, if it dies
between 8 and 9, a database that the next attempt refuses by name.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from attestd.auditing.archives import FOLDER as AUDIT
from attestd.backups.archive import BackupMalformed
from attestd.backups.making import MAX_FILE, SEALING, SETTINGS, sync_folder
from attestd.backups.reading import Manifest, VerifiedBackup
from attestd.ca.hierarchy import Hierarchy, complete_hierarchy
from attestd.ca.keyfiles import make_private_folder, read_secret, write_public, write_secret
from attestd.ca.manifest import KeyState
from attestd.ca.profiles import load_profiles
from attestd.ca.sealing import SealingKey, sealing_file
from attestd.ca.unlocking import Unlocking, require_strong, seal_file
from attestd.config import Settings
from attestd.credentials.bundle import Bundle, verify_copy
from attestd.credentials.copies import Copy
from attestd.errors import Conflict, Misconfigured
from attestd.ids import TrustDomain
from attestd.protocol.encoding import write_object
from attestd.registry import recovery, snapshot
from attestd.registry.engine import Registry
from attestd.registry.recovery import Recovered

LOCAL_DATABASE = "sqlite:///registry.db"
_DATABASE_VARIABLE = "ATTESTD_DATABASE_URL"
_SQLITE = "sqlite:"


class PlaceTaken(Conflict):
    """Something is in the folder already"""

    remedy = "Name an empty or absent folder with --dir. Nothing is ever restored over an instance."


class BackupOfAnother(BackupMalformed):
    """The parts of this backup belong to different trust domains"""

    remedy = "Use another copy of the backup: this one was put together from several."


class KeysNeeded(Misconfigured):
    """The backup was made without the private keys"""

    remedy = "Name the folder that holds them: --keys FOLDER."


class SettingsUnclear(Misconfigured):
    """The database's URL can't be put into the restored settings"""

    remedy = 'Restore without --database, or correct [database] url = "…" in the original settings first.'


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of it."""

    manifest: Manifest
    recovered: Recovered
    database: str  # its kind: the URL may hold a password
    bundle_issued_at: int | None


def restore(
    backup: VerifiedBackup,
    dir: Path,
    *,
    database: str | None,
    bundle: bytes | None,
    keys: Path | None,
    now: datetime,
    entropy: Callable[[int], bytes],
    environ: Mapping[str, str],
    keep_operator: str,
    unlock: Callable[[Settings], Unlocking],
    finish: Callable[[Path, Mapping[str, str], Manifest], None],
) -> Restored:
    """Makes an instance in `dir`, and its registry there or in `database` (postgresql://…).

    `bundle` is the newest one of any edge (its file), `keys` a folder with the private keys that the backup was made
    without. `unlock` says what opens encrypted keys; `finish` opens the draft and does the rest. Raises PlaceTaken,
    DatabaseNotEmpty, BackupMalformed and its siblings, KeysNeeded, SettingsUnclear, SnapshotTooNew, RowMalformed, what
    `verify_copy` raises, and the errors of settings, keys and registry.
    """
    manifest = backup.manifest
    if dir.exists() and (not dir.is_dir() or any(dir.iterdir())):  # 1
        raise PlaceTaken(f"{dir} is not empty.", expected="an empty or absent folder")
    dir.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{dir.name}-", dir=dir.parent))  # 0700
    try:
        files = backup.files()
        url = database or _database_of(files.get(SETTINGS, b""))
        elsewhere = None if url.startswith(_SQLITE) else Registry(url)
        if elsewhere is not None:
            snapshot.require_empty(elsewhere)
        _write_files(draft, files, manifest, keys, entropy)  # 2
        final_settings = with_database(files[SETTINGS], LOCAL_DATABASE if elsewhere is None else url)
        here = {name: value for name, value in environ.items() if name != _DATABASE_VARIABLE}
        settings = Settings.load(draft, here)
        unlocking = unlock(settings)
        _write_sealing_keys(draft, unlocking if manifest.encrypted else None, now, entropy)
        complete_hierarchy(draft, now=now, entropy=entropy, unlocking=unlocking)
        hierarchy = Hierarchy.load(draft, unlocking)  # 3
        _require_one_domain(manifest.trust_domain, settings.trust_domain, hierarchy.trust_domain)
        newest = None if bundle is None else _verified(bundle, hierarchy, manifest, now)  # 4
        longest = _longest(draft)
        registry = _fill(draft, backup)  # 5
        try:
            with registry.acting() as c:  # 6
                recovered = recovery.recover(
                    c,
                    now=now,
                    newest=newest,
                    longest=longest,
                    keep_operator=keep_operator,
                    detail={"made_at": manifest.made_at, "bundle": None if newest is None else newest.issued_at},
                )
        finally:
            registry.close()
        finish(draft, here, manifest)  # 7
        if elsewhere is not None:
            _move(draft, elsewhere)  # 8
        (draft / SETTINGS).unlink()
        write_secret(draft / SETTINGS, final_settings, entropy=entropy)
        draft.rename(dir)  # 9
        sync_folder(dir.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    kind = "SQLite" if elsewhere is None else "PostgreSQL"
    return Restored(manifest, recovered, kind, None if newest is None else newest.issued_at)


# ---- Files ------------------------------------------------------------------------------------------------------


def _write_files(
    draft: Path,
    files: Mapping[str, bytes],
    manifest: Manifest,
    keys: Path | None,
    entropy: Callable[[int], bytes],
) -> None:
    """Only their owner reads what is not public. The settings name the draft's own database until the end."""
    if SETTINGS not in files:
        raise BackupMalformed("The backup holds no settings.")
    for name, data in files.items():
        path = draft / name
        _make_folders(path, draft)
        public = name.startswith(("ca/", "profiles/"))
        content = with_database(data, LOCAL_DATABASE) if name == SETTINGS else data
        (write_public if public else write_secret)(path, content, entropy=entropy)
    if keys is not None:
        _take_keys(keys, draft / "keys", entropy)
    elif not manifest.keys:
        raise KeysNeeded("The backup holds no private keys.")


def _write_sealing_keys(
    draft: Path, unlocking: Unlocking | None, now: datetime, entropy: Callable[[int], bytes]
) -> None:
    """New ones, kept as the old ones were: nothing opens any more that was sealed before."""
    make_private_folder(draft / "keys")
    states: tuple[KeyState, ...] = ("current", "next")
    data = sealing_file(SealingKey.fresh(state, entropy, int(now.timestamp())) for state in states)
    if unlocking is not None:
        data = seal_file(data, require_strong(unlocking.passphrase()), entropy)
    write_secret(draft / SEALING, data, entropy=entropy)


def _make_folders(path: Path, root: Path) -> None:
    """The folders between `root` and a file in it."""
    for folder in reversed(path.relative_to(root).parents[:-1]):
        make_private_folder(root / folder)


def _take_keys(source: Path, target: Path, entropy: Callable[[int], bytes]) -> None:
    """The private keys from where they were kept, but for those that sealed something."""
    make_private_folder(target)
    found = [path for path in sorted(source.iterdir()) if path.is_file() and path.name != Path(SEALING).name]
    for path in found:
        if not path.name.startswith(".") and not (target / path.name).exists():
            write_secret(target / path.name, read_secret(path, limit=MAX_FILE), entropy=entropy)


def with_database(settings: bytes, url: str) -> bytes:
    """Settings that name another database; nothing else in them changes. Raises SettingsUnclear."""
    try:
        text = settings.decode("utf-8")
        before = tomllib.loads(text)
    except ValueError:
        raise SettingsUnclear("The settings are not TOML.") from None
    line = f"url = {write_object({'': url}).decode()[4:-1]}"  # a JSON string is a TOML basic string
    section = re.search(r"(?m)^[ \t]*\[[ \t]*database[ \t]*\][^\n]*\n?", text)
    if section is None:
        changed = f"{text.rstrip()}\n\n[database]\n{line}\n"
        # Keys behind a table's header belong to it: a section can only be appended.
    else:
        rest = text[section.end() :]
        ends = re.search(r"(?m)^[ \t]*\[", rest)
        body = rest if ends is None else rest[: ends.start()]
        replaced, count = re.subn(r"(?m)^[ \t]*url[ \t]*=[^\n]*$", lambda _: line, body, count=1)
        body = replaced if count else f"{line}\n{body}"
        head = text[: section.end()].rstrip("\n") + "\n"
        changed = head + body + ("" if ends is None else rest[ends.start() :])
    try:
        after = tomllib.loads(changed)
    except tomllib.TOMLDecodeError:
        after = {}
    if after != {**before, "database": {**before.get("database", {}), "url": url}}:
        raise SettingsUnclear("The settings are written in a way that this program does not change.")
    return changed.encode("utf-8")


def _database_of(settings: bytes) -> str:
    """The database that the backup's settings name; the instance's own file if it is SQLite."""
    try:
        found = tomllib.loads(settings.decode("utf-8")).get("database", {})
    except ValueError:
        raise SettingsUnclear("The settings are not TOML.") from None
    url = found.get("url", LOCAL_DATABASE) if isinstance(found, dict) else ""
    return url if isinstance(url, str) else ""


# ---- Authority, bundle, rows ------------------------------------------------------------------------------------


def _require_one_domain(manifest: TrustDomain, settings: TrustDomain, authority: TrustDomain) -> None:
    if not manifest == settings == authority:
        raise BackupOfAnother(seen=f"manifest {manifest}, settings {settings}, certificates {authority}")


def _verified(bundle: bytes, hierarchy: Hierarchy, manifest: Manifest, now: datetime) -> Bundle:
    roots = [root.public_bytes(serialization.Encoding.DER) for root in hierarchy.roots]
    floor = (manifest.epoch, manifest.bundle)
    return verify_copy(Copy.read(bundle), roots=roots, trust_domain=manifest.trust_domain, floor=floor, now=now)


def _longest(draft: Path) -> timedelta:
    """How long a certificate can live."""
    own = draft / "profiles"
    return max(profile.lifetime for profile in load_profiles(own if own.is_dir() else None).values())


def _fill(draft: Path, backup: VerifiedBackup) -> Registry:
    """A registry with all rows, its tables this program's. Raises RowMalformed, SnapshotTooNew."""
    path = draft / "registry.db"
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    registry = Registry(f"sqlite:///{path.absolute()}")
    try:
        _load(registry, backup)
        registry.migrate()
    except BaseException:
        registry.close()
        raise
    for name, lines in backup.archived():
        make_private_folder(draft / AUDIT)
        _write_archive(draft / AUDIT / name, lines)
    return registry


def _load(registry: Registry, backup: VerifiedBackup) -> None:
    """All rows in one act, and as many as the manifest says."""
    manifest = backup.manifest
    snapshot.create_empty(registry, manifest.schema)
    loaded: dict[str, int] = {}
    with registry.acting() as c:
        tables = snapshot.tables_of(c)
        for name, rows in backup.rows():
            if name not in tables:
                raise BackupMalformed(f"There is no table {name[:40]!r} at revision {manifest.schema}.")
            loaded[name] = snapshot.load(c, tables[name], rows)
    if loaded != dict(manifest.rows) or loaded.keys() != tables.keys():
        raise BackupMalformed("The backup has other rows than its manifest says.")


def _move(draft: Path, target: Registry) -> None:
    """Everything to PostgreSQL, and nothing of it here any more."""
    registry = Registry.open(f"sqlite:///{(draft / 'registry.db').absolute()}")
    try:
        snapshot.copy(registry, target)
    finally:
        registry.close()
        target.close()
    for path in draft.glob("registry.db*"):
        path.unlink()


def _write_archive(path: Path, lines: Iterator[bytes]) -> None:
    """A file of archived audit rows, as it was."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        for line in lines:
            file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
