"""Encrypted keys: nothing opens without the passphrase, and an interrupted encryption leaves a working instance."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from attestd.ca import encryption
from attestd.ca.encryption import encrypt_keys
from attestd.ca.hierarchy import Hierarchy, create_hierarchy, examine
from attestd.ca.keystore import RootKeyAbsent, encrypts, open_store, root_key
from attestd.ca.manifest import read_manifest
from attestd.ca.sealing import SealingKeysMalformed
from attestd.ca.signer import load_key
from attestd.ca.unlocking import (
    PassphraseMissing,
    PassphraseTooShort,
    PassphraseWrong,
    SecretFileExposed,
    SecretFileUnreadable,
    Unlocking,
    encrypted_pem,
    is_encrypted,
)

from .conftest import DOMAIN, LEAF_KEY, NOW, Entropy, counted

PHRASE = b"correct horse battery staple"


def passphrase_file(folder: Path, said: bytes = PHRASE, name: str = "passphrase") -> Path:
    path = folder / name
    path.write_bytes(said + b"\n")
    path.chmod(0o600)
    return path


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes guessing dear makes tests slow; one test does without."""
    monkeypatch.setattr("attestd.ca.unlocking._N", 1 << 4)


@pytest.fixture
def unlocking(tmp_path_factory: pytest.TempPathFactory) -> Unlocking:
    return Unlocking(passphrase_file=passphrase_file(tmp_path_factory.mktemp("elsewhere")))


@pytest.fixture
def encrypted(instance: Path, unlocking: Unlocking, entropy: Entropy) -> Path:
    encrypt_keys(instance, unlocking, entropy)
    return instance


# ---- One key ----------------------------------------------------------------------------------------------------


def test_openssl_reads_an_encrypted_key(tmp_path: Path, entropy: Entropy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    key, phrase = tmp_path / "key.pem", passphrase_file(tmp_path)
    key.write_bytes(encrypted_pem(LEAF_KEY, PHRASE, entropy))
    command = ["openssl", "pkey", "-in", str(key), "-passin", f"file:{phrase}"]
    done = subprocess.run(command, capture_output=True, check=True)
    read = serialization.load_pem_private_key(done.stdout, None)
    assert read.private_numbers() == LEAF_KEY.private_numbers()  # type: ignore[union-attr]


def test_a_key_opens_with_its_passphrase_alone(tmp_path: Path, unlocking: Unlocking, entropy: Entropy) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(encrypted_pem(LEAF_KEY, PHRASE, entropy))
    path.chmod(0o600)
    assert load_key(path, unlocking).private_numbers() == LEAF_KEY.private_numbers()
    with pytest.raises(PassphraseMissing):
        load_key(path)
    with pytest.raises(PassphraseWrong):
        load_key(path, Unlocking(passphrase_file=passphrase_file(tmp_path, PHRASE + b"!")))


def test_two_encryptions_share_nothing(entropy: Entropy) -> None:
    one, other = (encrypted_pem(LEAF_KEY, PHRASE, entropy) for _ in range(2))
    assert one != other
    assert is_encrypted(one)


# ---- Where the passphrase comes from ----------------------------------------------------------------------------


def test_a_file_that_others_read_is_refused(tmp_path: Path) -> None:
    path = passphrase_file(tmp_path)
    for mode in (0o640, 0o604):
        path.chmod(mode)
        with pytest.raises(SecretFileExposed):
            Unlocking(passphrase_file=path).passphrase()


def test_a_delivered_credential_may_have_a_groups_bit(tmp_path: Path) -> None:
    """systemd sets an access list, whose mask shows there; only the service enters the folder."""
    path = passphrase_file(tmp_path)
    path.chmod(0o440)
    assert Unlocking(passphrase_file=path, delivered_in=tmp_path).passphrase() == PHRASE
    path.chmod(0o444)
    with pytest.raises(SecretFileExposed):
        Unlocking(passphrase_file=path, delivered_in=tmp_path).passphrase()


def test_a_missing_empty_or_huge_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SecretFileUnreadable):
        Unlocking(passphrase_file=tmp_path / "none").passphrase()
    with pytest.raises(PassphraseMissing):
        Unlocking(passphrase_file=passphrase_file(tmp_path, b"")).passphrase()
    with pytest.raises(SecretFileUnreadable):
        Unlocking(passphrase_file=passphrase_file(tmp_path, b"x" * 2000)).passphrase()
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(SecretFileUnreadable):
        Unlocking(passphrase_file=tmp_path / "pipe").passphrase()


def test_nothing_shows_the_passphrase(unlocking: Unlocking) -> None:
    asked = Unlocking(ask=lambda: PHRASE)
    assert PHRASE.decode() not in f"{unlocking!r} {asked!r}"
    assert asked.passphrase() == PHRASE


# ---- An instance ------------------------------------------------------------------------------------------------


def test_a_new_instance_has_no_plain_key(tmp_path: Path, unlocking: Unlocking, entropy: Entropy) -> None:
    made = create_hierarchy(tmp_path, DOMAIN, now=NOW, entropy=entropy, unlocking=unlocking, encrypt=True)
    for path in (tmp_path / "keys").glob("*.pem"):
        assert is_encrypted(path.read_bytes())
    assert b'"key"' not in (tmp_path / "keys/sealing.json").read_bytes()
    assert Hierarchy.load(tmp_path, unlocking).issuer.certificate == made.issuer.certificate
    assert examine(tmp_path, NOW, unlocking) == ()
    with pytest.raises(PassphraseMissing):
        Hierarchy.load(tmp_path)
    assert {type(problem) for problem in examine(tmp_path, NOW)} == {PassphraseMissing}


def test_a_short_passphrase_makes_nothing(tmp_path: Path, entropy: Entropy) -> None:
    short = Unlocking(ask=lambda: b"short")
    with pytest.raises(PassphraseTooShort):
        create_hierarchy(tmp_path / "i", DOMAIN, now=NOW, entropy=entropy, unlocking=short, encrypt=True)
    assert not (tmp_path / "i").exists()


def test_an_instance_is_encrypted_afterwards(instance: Path, unlocking: Unlocking, entropy: Entropy) -> None:
    before = Hierarchy.load(instance)
    sealed = before.sealing.seal(b"x", purpose="test", entropy=entropy)
    names = encrypt_keys(instance, unlocking, entropy)
    assert set(names) == {path.name for path in (instance / "keys").iterdir()}
    after = Hierarchy.load(instance, unlocking)
    assert after.sealing.open(sealed, purpose="test") == b"x"
    assert after.token_key.kid == before.token_key.kid
    assert all(path.stat().st_mode & 0o077 == 0 for path in (instance / "keys").iterdir())
    assert encrypt_keys(instance, unlocking, entropy) == ()


@pytest.mark.parametrize("survived", [0, 1, 5, 8])
def test_killed_in_the_middle_it_works_and_goes_on(
    instance: Path, unlocking: Unlocking, entropy: Entropy, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    kid, left = Hierarchy.load(instance).token_key.kid, [survived]
    replace = encryption.replace_secret

    def mortal(path: Path, data: bytes, **said: Entropy) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(path, data, **said)

    monkeypatch.setattr(encryption, "replace_secret", mortal)
    with pytest.raises(KeyboardInterrupt):
        encrypt_keys(instance, unlocking, entropy)
    monkeypatch.undo()
    assert Hierarchy.load(instance, unlocking).token_key.kid == kid
    assert not encrypts(instance)
    assert len(encrypt_keys(instance, unlocking, entropy)) == 9 - survived
    assert Hierarchy.load(instance, unlocking).token_key.kid == kid
    assert encrypts(instance)


def test_a_second_passphrase_changes_nothing(encrypted: Path, tmp_path: Path, entropy: Entropy) -> None:
    before = {path.name: path.read_bytes() for path in (encrypted / "keys").iterdir()}
    other = Unlocking(passphrase_file=passphrase_file(tmp_path, b"another passphrase", "other"))
    with pytest.raises(PassphraseWrong):
        encrypt_keys(encrypted, other, entropy)
    assert {path.name: path.read_bytes() for path in (encrypted / "keys").iterdir()} == before


@pytest.mark.parametrize("member", ["salt", "nonce", "sealed"])
def test_changed_sealing_keys_do_not_open(encrypted: Path, unlocking: Unlocking, member: str) -> None:
    path = encrypted / "keys/sealing.json"
    members = json.loads(path.read_text())
    text = members[member]
    path.write_text(json.dumps(members | {member: ("B" if text[0] == "A" else "A") + text[1:]}))
    with pytest.raises(PassphraseWrong, match=r"sealing\.json"):
        Hierarchy.load(encrypted, unlocking)
    path.write_text(json.dumps({**members, member: ""}))
    with pytest.raises(SealingKeysMalformed):
        Hierarchy.load(encrypted, unlocking)


def test_the_roots_key_may_be_elsewhere_and_commands_say_so(encrypted: Path, unlocking: Unlocking) -> None:
    away = encrypted / "root.away"
    (encrypted / "keys/root.pem").rename(away)
    assert Hierarchy.load(encrypted, unlocking).root
    manifest = read_manifest(encrypted)
    store = open_store(encrypted, manifest, unlocking, counted("store"))
    with pytest.raises(RootKeyAbsent, match=r"keys/root\.pem"):
        root_key(encrypted, manifest, store)
    away.rename(encrypted / "keys/root.pem")
    assert root_key(encrypted, manifest, store).public_key == Hierarchy.load(encrypted, unlocking).root.public_key()


def test_a_start_leaves_an_encrypted_root_shut(encrypted: Path, unlocking: Unlocking) -> None:
    """Under another passphrase, as after its own move offline: the service needs it for nothing."""
    path = encrypted / "keys/root.pem"
    path.write_bytes(encrypted_pem(load_key(path, unlocking), b"the root's own passphrase", counted("root")))
    assert Hierarchy.load(encrypted, unlocking)
    assert [type(problem) for problem in examine(encrypted, NOW, unlocking)] == [PassphraseWrong]
