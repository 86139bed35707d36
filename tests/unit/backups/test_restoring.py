"""Backups that somebody changed, and restores that die: nothing comes of either."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from attestd.backups.archive import BackupMalformed, BackupTruncated, read_parts, write_end, write_part
from attestd.backups.making import MAX_LINES, BackupExists
from attestd.backups.reading import BackupTooNew, BackupUnreadable, NotEncrypted, PassphraseNeeded, open_backup
from attestd.backups.restoring import BackupOfAnother, KeysNeeded, PlaceTaken, SettingsUnclear, with_database
from attestd.backups.sealed import PassphraseWrong
from attestd.ca.sealing import SealingKeys, SealKeyUnknown
from attestd.errors import AttestdError
from attestd.registry.snapshot import RowMalformed, SnapshotTooNew
from tests.restored import back_up, restored
from tests.service import World

Change = Callable[[dict[str, bytes], dict[str, Any]], None]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "before")
    yield world
    world.close()


@pytest.fixture
def file(world: World, tmp_path: Path) -> Path:
    path = tmp_path / "backup.tar"
    back_up(world, path)
    return path


@pytest.fixture
def nothing_made(tmp_path: Path) -> Iterator[None]:
    """After the test there is no instance, and no half of one."""
    yield
    assert [path.name for path in tmp_path.iterdir() if "after" in path.name] == []


def forged(file: Path, change: Change, *, honest_digests: bool = True) -> Path:
    """The backup with parts and manifest changed; by default as by somebody who corrects the digests, too."""
    parts = {part.name: part.data for part in read_parts(io.BytesIO(file.read_bytes()))}
    manifest = json.loads(parts.pop("manifest.json"))
    listed = {entry["name"]: entry for entry in manifest["parts"]}
    change(parts, manifest)
    if honest_digests:
        manifest["parts"] = [
            {"name": name, "size": len(data), "sha256": sha256(data).hexdigest()} for name, data in parts.items()
        ]
    else:
        manifest["parts"] = list(listed.values())
    sink = io.BytesIO()
    for name, data in parts.items():
        write_part(sink, name, data)
    write_part(sink, "manifest.json", json.dumps(manifest).encode())
    write_end(sink)
    path = file.with_name("forged.tar")
    path.write_bytes(sink.getvalue())
    return path


def rows_of(table: str, change: Callable[[list[dict[str, Any]]], None]) -> Change:
    def changed(parts: dict[str, bytes], manifest: dict[str, Any]) -> None:
        name = f"tables/{table}/00000001.jsonl.gz"
        rows = [json.loads(line) for line in gzip.decompress(parts[name]).splitlines()]
        change(rows)
        parts[name] = gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        manifest["rows"][table] = len(rows)

    return changed


def put(name: str, data: bytes) -> Change:
    def changed(parts: dict[str, bytes], _: dict[str, Any]) -> None:
        parts[name] = data

    return changed


def say(**members: Any) -> Change:
    def changed(_: dict[str, bytes], manifest: dict[str, Any]) -> None:
        manifest.update(members)

    return changed


def unchanged(parts: dict[str, bytes], manifest: dict[str, Any]) -> None:
    """The accepted twin of every forgery."""


# ---- Reading ----------------------------------------------------------------------------------------------------


def test_the_accepted_twin(world: World, file: Path, tmp_path: Path) -> None:
    restored(world, forged(file, unchanged), tmp_path / "after").close()
    restored(world, forged(file, rows_of("policies", lambda rows: None)), tmp_path / "again").close()


@pytest.mark.usefixtures("nothing_made")
@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (put("files/run/service.json", b"{}"), BackupMalformed),
        (put("files/keys/sealing.json", b"{}"), BackupMalformed),
        (put("files/keys", b""), BackupMalformed),
        (put("tables/other/00000001.jsonl.gz", gzip.compress(b"")), BackupMalformed),
        (put("tables/spends/00000001.jsonl.gz", gzip.compress(b"")), BackupMalformed),
        (put("elsewhere/a", b""), BackupMalformed),
        (put("files/attestd.toml", b"trust_domain = 'other.example'\n"), BackupOfAnother),
        (put("files/ca/hierarchy.json", b"{}"), AttestdError),
        (say(trust_domain="other.example"), BackupOfAnother),
        (say(v=2), BackupTooNew),
        (say(schema="0999"), SnapshotTooNew),
        (say(schema="head"), SnapshotTooNew),
        (say(more=1), BackupMalformed),
        (say(rows={}), BackupMalformed),
        (say(epoch="1"), BackupMalformed),
        (lambda parts, _: parts.pop("files/attestd.toml"), BackupMalformed),
        (lambda parts, _: parts.pop("tables/devices/00000001.jsonl.gz"), BackupMalformed),
        (rows_of("policies", lambda rows: rows[0].update(version="1")), RowMalformed),
        (rows_of("policies", lambda rows: rows[0].update(version=True)), RowMalformed),
        (rows_of("policies", lambda rows: rows[0].update(version=1 << 63)), RowMalformed),
        (rows_of("policies", lambda rows: rows[0].update(text=None)), RowMalformed),
        (rows_of("policies", lambda rows: rows[0].update(more=1)), RowMalformed),
        (rows_of("policies", lambda rows: rows[0].pop("text") and None), RowMalformed),
        (rows_of("policies", lambda rows: rows.append(rows[0])), RowMalformed),
        (rows_of("tpm_makers", lambda rows: rows[0].update(der="not base64!")), RowMalformed),
        (rows_of("tpm_makers", lambda rows: rows[0].update(is_root=1)), RowMalformed),
    ],
)
def test_a_forged_backup(world: World, file: Path, tmp_path: Path, change: Change, refusal: type[Exception]) -> None:
    """Without a passphrase anybody can make its digests right; its form still holds, and its parts agree."""
    with pytest.raises(refusal):
        restored(world, forged(file, change), tmp_path / "after")


@pytest.mark.usefixtures("nothing_made")
@pytest.mark.parametrize("name", ["files/attestd.toml", "tables/counters/00000001.jsonl.gz", "files/keys/root.pem"])
def test_a_part_that_is_not_what_the_manifest_says(world: World, file: Path, tmp_path: Path, name: str) -> None:
    def change(parts: dict[str, bytes], _: dict[str, Any]) -> None:
        parts[name] += b"x"

    with pytest.raises(BackupMalformed, match="manifest names"):
        restored(world, forged(file, change, honest_digests=False), tmp_path / "after")


@pytest.mark.usefixtures("nothing_made")
def test_a_part_that_unpacks_without_end(world: World, file: Path, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(MAX_LINES + 1))
    for name in ("tables/policies/00000001.jsonl.gz", "audit/1-0-9.jsonl/00000001.jsonl.gz"):
        with pytest.raises(BackupMalformed):
            restored(world, forged(file, put(name, bomb)), tmp_path / "after")


@pytest.mark.usefixtures("nothing_made")
@pytest.mark.parametrize(
    "data",
    [b"", gzip.compress(b"{}\n")[:-3], gzip.compress(b"{}\n") + b"x", gzip.compress(b"{}")],
    ids=["empty", "cut off", "followed by something", "without a line's end"],
)
def test_a_part_that_is_not_compressed_as_it_should_be(world: World, file: Path, tmp_path: Path, data: bytes) -> None:
    with pytest.raises((BackupMalformed, RowMalformed)):
        restored(world, forged(file, put("tables/policies/00000001.jsonl.gz", data)), tmp_path / "after")


@pytest.mark.usefixtures("nothing_made")
def test_a_cut_off_backup(world: World, file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for length in (0, 511, 5000, len(whole) - 1024, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(BackupTruncated):
            restored(world, file, tmp_path / "after")


def test_a_backup_that_changes_while_it_is_read(file: Path) -> None:
    data = bytearray(file.read_bytes())
    with open_backup(file, passphrase=None) as backup:
        at = data.index(b"trust_domain")
        data[at] ^= 1
        with file.open("r+b") as opened:
            opened.write(data)
        with pytest.raises(BackupMalformed, match="changed while"):
            backup.files()


@pytest.mark.usefixtures("nothing_made")
def test_an_encrypted_backup(world: World, tmp_path: Path) -> None:
    path = tmp_path / "sealed"
    back_up(world, path, passphrase=b"correct horse battery")
    assert b"trust_domain" not in path.read_bytes()
    with pytest.raises(PassphraseNeeded):
        restored(world, path, tmp_path / "after")
    with pytest.raises(PassphraseWrong):
        restored(world, path, tmp_path / "after", passphrase=b"correct horse batteries")
    restored(world, path, tmp_path / "well", passphrase=b"correct horse battery").close()


def test_who_asks_for_an_encrypted_one_gets_no_other(file: Path) -> None:
    """Or whoever can write where backups lie would have theirs restored."""
    with pytest.raises(NotEncrypted), open_backup(file, passphrase=b"correct horse battery"):
        pass


def test_no_backup(tmp_path: Path) -> None:
    with pytest.raises(BackupUnreadable), open_backup(tmp_path / "none", passphrase=None):
        pass


# ---- Making -----------------------------------------------------------------------------------------------------


def test_a_backup_is_its_owners_alone_and_never_overwritten(world: World, file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_bytes()
    with pytest.raises(BackupExists):
        back_up(world, file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir() if path.name.startswith(".")] == []


def test_a_backup_that_fails_leaves_nothing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attestd.backups.making.write_end", lambda _: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(AttestdError, match="no space"):
        back_up(world, tmp_path / "full.tar")
    assert [path.name for path in tmp_path.iterdir() if "full" in path.name] == []


def test_it_is_one_moment_of_a_service_that_goes_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that enrolls between two tables is in neither."""
    from attestd.registry import snapshot

    tables_of, late = snapshot.tables_of, []

    def meanwhile(c: Any) -> Any:
        found = tables_of(c)
        list(snapshot.rows(c, found["counters"]))
        if not late:
            late.append(world.enrolled())
        return found

    monkeypatch.setattr(snapshot, "tables_of", meanwhile)
    made = back_up(world, tmp_path / "backup.tar")
    assert late
    assert made.rows["devices"] == made.rows["issued"] == 0


def test_what_is_never_in_it(world: World, tmp_path: Path) -> None:
    """Sealing keys; the service's TLS key; spent nonces and answers."""
    (world.settings.dir / "tls").mkdir()
    (world.settings.dir / "tls" / "server.key").write_text("key")
    back_up(world, tmp_path / "1.tar")
    names = {part.name for part in read_parts(io.BytesIO((tmp_path / "1.tar").read_bytes()))}
    assert not [name for name in names if "sealing" in name or "tls" in name or "spends" in name or "bundles" in name]
    assert "files/keys/issuer.pem" in names


def test_sealing_keys_are_new_after_a_restore(world: World, file: Path, tmp_path: Path) -> None:
    old = SealingKeys.load(world.settings.dir / "keys" / "sealing.json")
    sealed = old.seal(b"data", purpose="test", entropy=os.urandom)
    for name in ("after", "again"):
        restored(world, file, tmp_path / name).close()
        with pytest.raises(SealKeyUnknown):
            SealingKeys.load(tmp_path / name / "keys" / "sealing.json").open(sealed, purpose="test")


def test_without_keys(world: World, tmp_path: Path) -> None:
    path = tmp_path / "1.tar"
    back_up(world, path, keys=False)
    assert b"PRIVATE KEY" not in path.read_bytes()
    with pytest.raises(KeysNeeded):
        restored(world, path, tmp_path / "after")
    assert not (tmp_path / "after").exists()
    keys = world.settings.dir / "keys"
    after = restored(world, path, tmp_path / "after", keys=keys)
    assert after.hierarchy.issuer.public_key == world.hierarchy.issuer.public_key
    assert (tmp_path / "after/keys/sealing.json").read_bytes() != (keys / "sealing.json").read_bytes()
    after.close()


# ---- The place --------------------------------------------------------------------------------------------------


def test_never_over_an_instance(world: World, file: Path) -> None:
    before = sorted(path.name for path in world.settings.dir.iterdir())
    with pytest.raises(PlaceTaken):
        restored(world, file, world.settings.dir)
    assert sorted(path.name for path in world.settings.dir.iterdir()) == before


@pytest.mark.parametrize("moment", ["recovery.recover", "finish", "write_secret", "rename"])
def test_a_restore_that_is_killed(world: World, file: Path, tmp_path: Path, moment: str) -> None:
    """SIGKILL at a step of it: there is no instance, and the next attempt succeeds."""
    program = """
import os, signal, sys
from pathlib import Path
from attestd.backups import restoring
from tests.restored import restored
from tests.service import World

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

class Before:
    from datetime import UTC, datetime
    clock = staticmethod(lambda: Before.datetime(2026, 6, 1, 12, 1, tzinfo=Before.UTC))
    maker = None

options = {}
moment = sys.argv[3]
if moment == "finish":
    options["finish"] = die
elif moment == "rename":
    Path.rename = die
elif moment == "write_secret":
    count = iter(range(1000))
    real = restoring.write_secret
    restoring.write_secret = lambda *a, **k: die() if next(count) > 5 else real(*a, **k)
else:
    part = restoring
    *path, last = moment.split(".")
    for name in path:
        part = getattr(part, name)
    setattr(part, last, die)
restored(Before, Path(sys.argv[1]), Path(sys.argv[2]), **options)
"""
    command = [sys.executable, "-c", program, str(file), str(tmp_path / "after"), moment]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "after").exists()
    restored(world, file, tmp_path / "after").close()


# ---- Settings ---------------------------------------------------------------------------------------------------

URL = 'postgresql://attestd@/"fleet"?host=/run/postgresql'


@pytest.mark.parametrize(
    "text",
    [
        'trust_domain = "a"\n',
        'trust_domain = "a"\n[database]\nurl = "sqlite:///registry.db"\n',
        'trust_domain = "a"\n[ database ]  # where\n  url="x"   # old\n[server]\nlisten = "0.0.0.0:1"\n',
        "trust_domain = 'a'\n[database]\n# url = 'commented out'\n[server]\n",
        'trust_domain = "a"\n[database]\n[keys]\nurl = "another section"\n',
        'trust_domain = "a"\n[[reference]]\nname = "r"\n[reference.pcrs.sha256]\n7 = ["00"]',
    ],
)
def test_settings_that_name_another_database(text: str) -> None:
    import tomllib

    before = tomllib.loads(text.replace('"another section"', "1")) if "[keys]" in text else tomllib.loads(text)
    after = tomllib.loads(with_database(text.encode(), URL).decode())
    assert after.pop("database") == {"url": URL}
    before.pop("database", None)
    assert after.keys() == before.keys()


@pytest.mark.parametrize(
    "text", ['database = {url = "x"}\n', 'database.url = "x"\n', "not TOML", 'x = """\n[database]\n"""']
)
def test_settings_that_are_not_changed_by_guesswork(text: str) -> None:
    with pytest.raises(SettingsUnclear):
        with_database(text.encode(), URL)
