"""Secrets on disk: private, whole, never overwritten."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from attestd.ca.keyfiles import (
    KeyFileExists,
    KeyFileExposed,
    KeyFileMissing,
    KeyFileUnreadable,
    KeyFileUnwritable,
    make_private_folder,
    read_public,
    read_secret,
    require_private_folder,
    write_public,
    write_secret,
)

from .conftest import Entropy

SECRET = b"a secret that must not be shown"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o177])
def test_a_secret_is_its_owners_alone_whatever_the_umask(tmp_path: Path, entropy: Entropy, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_secret(tmp_path / "key", SECRET, entropy=entropy)
    finally:
        os.umask(before)
    assert mode(tmp_path / "key") == 0o600
    assert read_secret(tmp_path / "key", limit=100) == SECRET
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_a_certificate_may_be_read_by_all(tmp_path: Path, entropy: Entropy) -> None:
    write_public(tmp_path / "cert", b"public", entropy=entropy)
    assert mode(tmp_path / "cert") == 0o644
    assert read_public(tmp_path / "cert", limit=100) == b"public"


@pytest.mark.parametrize("write", [write_secret, write_public])
def test_nothing_is_overwritten(tmp_path: Path, entropy: Entropy, write: Callable[..., None]) -> None:
    write(tmp_path / "key", SECRET, entropy=entropy)
    with pytest.raises(KeyFileExists):
        write(tmp_path / "key", b"another", entropy=entropy)
    assert (tmp_path / "key").read_bytes() == SECRET
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_a_link_in_the_files_place_is_not_followed(tmp_path: Path, entropy: Entropy) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileExists):
        write_secret(tmp_path / "key", SECRET, entropy=entropy)
    assert not (tmp_path / "elsewhere").exists()


def test_it_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, entropy: Entropy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    fsync, link = os.fsync, os.link

    def noted_fsync(descriptor: int) -> None:
        seen.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def noted_link(source: Path, target: Path) -> None:
        assert source.read_bytes() == SECRET
        seen.append("name")
        link(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "link", noted_link)
    write_secret(tmp_path / "key", SECRET, entropy=entropy)
    assert seen == ["sync file", "name", "sync folder"]


def test_a_full_disk_leaves_no_file(tmp_path: Path, entropy: Entropy, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileUnwritable, match="No space left"):
        write_secret(tmp_path / "key", SECRET, entropy=entropy)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, entropy: Entropy) -> None:
    with pytest.raises(KeyFileUnwritable, match="nowhere"):
        write_secret(tmp_path / "nowhere" / "key", SECRET, entropy=entropy)


@pytest.mark.parametrize("bits", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_a_key_that_others_reach_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, entropy: Entropy, bits: int
) -> None:
    path = tmp_path / "key"
    write_secret(path, SECRET, entropy=entropy)
    path.chmod(0o600 | bits)
    with pytest.raises(KeyFileExposed) as caught:
        read_secret(path, limit=100)
    assert f"`chmod 600 {path}`" in caught.value.what_to_do
    assert caught.value.seen == f"mode {0o600 | bits:04o}"
    path.chmod(0o400)
    assert read_secret(path, limit=100) == SECRET


def test_bounds_and_kinds(tmp_path: Path, entropy: Entropy) -> None:
    write_secret(tmp_path / "key", SECRET, entropy=entropy)
    assert read_secret(tmp_path / "key", limit=len(SECRET)) == SECRET
    with pytest.raises(KeyFileUnreadable, match="too large"):
        read_secret(tmp_path / "key", limit=len(SECRET) - 1)
    with pytest.raises(KeyFileMissing):
        read_secret(tmp_path / "other", limit=100)
    with pytest.raises(KeyFileUnreadable):
        read_secret(tmp_path, limit=100)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileUnreadable, match="regular"):  # and does not hang
        read_secret(tmp_path / "pipe", limit=100)


def test_a_file_that_may_not_be_read(tmp_path: Path, entropy: Entropy, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    write_secret(tmp_path / "key", SECRET, entropy=entropy)
    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(KeyFileUnreadable, match="Permission denied"):
        read_secret(tmp_path / "key", limit=100)


def test_private_folders(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "keys")
    assert mode(tmp_path / "keys") == 0o700
    make_private_folder(tmp_path / "keys")
    (tmp_path / "keys").chmod(0o750)
    for check in (make_private_folder, require_private_folder):
        with pytest.raises(KeyFileExposed, match="0750") as caught:
            check(tmp_path / "keys")
        assert f"chmod 700 {tmp_path / 'keys'}" in caught.value.what_to_do
    with pytest.raises(KeyFileMissing):
        require_private_folder(tmp_path / "nowhere")
    (tmp_path / "file").touch(0o600)
    with pytest.raises(KeyFileUnreadable, match="not a folder"):
        require_private_folder(tmp_path / "file")
    with pytest.raises(KeyFileUnwritable):
        make_private_folder(tmp_path / "file" / "keys")


def test_no_error_shows_what_is_in_a_file(tmp_path: Path, entropy: Entropy) -> None:
    write_secret(tmp_path / "key", SECRET, entropy=entropy)
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(KeyFileExposed) as caught:
        read_secret(tmp_path / "key", limit=100)
    assert SECRET.decode() not in f"{caught.value} {caught.value!r} {caught.value.what_to_do}"
