"""Where an instance's signing keys are kept, and new ones go: in files, encrypted or not, or in a PKCS #11 token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.keyfiles import read_secret, write_secret
from attestd.ca.manifest import KEYS, Entry, Manifest
from attestd.ca.pkcs11 import KeyToken
from attestd.ca.sealing import MAX_SEALING_FILE, SEALING
from attestd.ca.signer import FileKey, SigningKey, TokenSigning, load_key
from attestd.ca.unlocking import NOTHING, Unlocking, encrypted_pem, plain_pem
from attestd.credentials.requests import SoftwareKey
from attestd.errors import Misconfigured


class RootKeyAbsent(Misconfigured):
    """The root's private key is not here"""

    remedy = "Put the root's key back into keys/ for this command, and take it away again afterwards."


class KeyStore(Protocol):
    """Makes keys and finds them again."""

    def make(self, name: str) -> tuple[SigningKey, str | None]:
        """A new key, stored for good, and its label if it is in a token."""

    def signing(self, entry: Entry) -> SigningKey:
        """The key of an entry."""

    def for_tokens(self, entry: Entry) -> TokenSigning:
        """The key of an entry, to sign access tokens with."""


@dataclass(frozen=True, slots=True)
class FileStore:
    """Keys in `<folder>/keys`, encrypted if there is a passphrase."""

    folder: Path
    entropy: Callable[[int], bytes] = field(repr=False)
    unlocking: Unlocking = NOTHING
    passphrase: bytes | None = field(default=None, repr=False)

    def make(self, name: str) -> tuple[SigningKey, str | None]:
        """Raises KeyFileExists, KeyFileUnwritable."""
        # The cryptography library's own generator makes private keys.
        key = ec.generate_private_key(ec.SECP256R1())
        pem = plain_pem(key) if self.passphrase is None else encrypted_pem(key, self.passphrase, self.entropy)
        write_secret(key_path(self.folder, name), pem, entropy=self.entropy)
        return FileKey(key), None

    def signing(self, entry: Entry) -> SigningKey:
        """Raises the errors of `load_key`."""
        return FileKey(load_key(key_path(self.folder, entry.name), self.unlocking))

    def for_tokens(self, entry: Entry) -> TokenSigning:
        """Raises the errors of `load_key`."""
        return SoftwareKey(load_key(key_path(self.folder, entry.name), self.unlocking))


@dataclass(frozen=True, slots=True)
class TokenStore:
    """Keys in a token; those without a label are in files all the same: an instance may have begun with files."""

    token: KeyToken
    files: FileStore

    def make(self, name: str) -> tuple[SigningKey, str | None]:
        """Raises KeyTokenUnavailable, KeyTokenRefused."""
        # Labels are the operator's world, too: several instances may share a token.
        label = f"attestd-{name}-{self.files.entropy(4).hex()}"
        return self.token.make(label), label

    def signing(self, entry: Entry) -> SigningKey:
        """Raises KeyTokenUnavailable, KeyTokenRefused, KeyNotInToken."""
        return self.files.signing(entry) if entry.label is None else self.token.find(entry.label)

    def for_tokens(self, entry: Entry) -> TokenSigning:
        """Raises KeyTokenUnavailable, KeyTokenRefused, KeyNotInToken."""
        return self.files.for_tokens(entry) if entry.label is None else self.token.find(entry.label)


def open_store(folder: Path, manifest: Manifest, unlocking: Unlocking, entropy: Callable[[int], bytes]) -> KeyStore:
    """The store of an instance. New files are encrypted if its sealing keys are. Asks for the PIN at its first use."""
    passphrase = unlocking.passphrase() if encrypts(folder) else None
    files = FileStore(folder, entropy, unlocking, passphrase)
    return files if manifest.place is None else TokenStore(_token(folder, manifest, unlocking), files)


def reading_store(folder: Path, manifest: Manifest, unlocking: Unlocking) -> KeyStore:
    """The store, to find keys in alone: asks for a passphrase only where a key needs it."""
    files = FileStore(folder, _no_entropy, unlocking)
    return files if manifest.place is None else TokenStore(_token(folder, manifest, unlocking), files)


def root_key(folder: Path, manifest: Manifest, store: KeyStore) -> SigningKey:
    """The current root's key. Raises RootKeyAbsent while it is kept elsewhere, and what the store raises."""
    return any_root_key(folder, manifest.entries["roots"][0], store)


def any_root_key(folder: Path, entry: Entry, store: KeyStore) -> SigningKey:
    """The key of this root. Raises RootKeyAbsent, and what the store raises."""
    if entry.label is None and not key_path(folder, entry.name).exists():
        raise RootKeyAbsent(f"{key_path(folder, entry.name)} does not exist.")
    return store.signing(entry)


def key_path(folder: Path, name: str) -> Path:
    """Where a key of this name is kept, if it is in a file."""
    return folder / KEYS / f"{name}.pem"


def encrypts(folder: Path) -> bool:
    """Whether this instance's key files are encrypted, as its sealing keys are."""
    return b'"sealed"' in read_secret(folder / KEYS / SEALING, limit=MAX_SEALING_FILE)


def _token(folder: Path, manifest: Manifest, unlocking: Unlocking) -> KeyToken:
    assert manifest.place is not None  # noqa: S101 - asked by both callers
    return KeyToken.of(manifest.place, unlocking, folder)


def _no_entropy(size: int) -> bytes:
    raise AssertionError("a store that only reads makes nothing")
