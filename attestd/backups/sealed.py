"""A backup under a passphrase: AES-256-GCM over chunks of 64 KiB, with a key that scrypt makes of passphrase and salt.

    magic (16 octets) ‖ salt (16) ‖ chunk ‖ … ‖ last chunk        each chunk is 16 octets longer than its plaintext

The nonce of a chunk is its number (11 octets) ‖ 1 for the last chunk, else 0: chunks can't be left out, moved or
appended to, and a file that is cut off at a chunk's border has no last chunk (the STREAM construction of Hoang,
Reyhanitabar, Rogaway and Vizár, 2015, as age uses it). The salt is fresh for each file, so a key never meets a nonce
twice. Magic and salt are associated data of every chunk. scrypt's cost is fixed by the magic: a file can't choose it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from attestd.backups.archive import BackupMalformed, BackupTruncated, Sink
from attestd.errors import Misconfigured

MAGIC: Final = b"attestd backup\x00\x01"
CHUNK: Final = 64 * 1024
MIN_PASSPHRASE: Final = 12  # octets

_SALT = 16
_TAG = 16
_SEALED = CHUNK + _TAG
_N, _R, _P = 1 << 16, 8, 1  # 64 MiB and a quarter of a second
_MEMORY = 128 * 1024 * 1024  # octets that scrypt may take


class PassphraseWrong(BackupMalformed):
    """The passphrase does not open this backup"""

    remedy = "Use the passphrase that the backup was made with; if it is right, the file was altered."


class PassphraseTooShort(Misconfigured):
    """The passphrase is too short"""

    remedy = "Make one: `openssl rand -base64 24 > FILE && chmod 600 FILE`, and keep it elsewhere than the backups."


class File(Protocol):
    """A file that can be read again from its beginning."""

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...


class SealedWriter:
    """Encrypts what is written to it. Without `close` the file has no end, and does not open."""

    def __init__(self, sink: Sink, passphrase: bytes, *, entropy: Callable[[int], bytes]) -> None:
        """Raises PassphraseTooShort."""
        salt = entropy(_SALT)
        self._sink = sink
        self._header = MAGIC + salt
        self._cipher = _cipher(passphrase, salt)
        self._number = 0
        self._held = bytearray()
        sink.write(self._header)

    def write(self, data: bytes) -> None:
        self._held += data
        while len(self._held) > CHUNK:  # one chunk is always kept back: it may be the last
            self._seal(bytes(self._held[:CHUNK]), last=False)
            del self._held[:CHUNK]

    def close(self) -> None:
        """Writes the last chunk."""
        self._seal(bytes(self._held), last=True)
        self._held.clear()

    def _seal(self, plaintext: bytes, *, last: bool) -> None:
        self._sink.write(self._cipher.encrypt(_nonce(self._number, last=last), plaintext, self._header))
        self._number += 1


class SealedReader:
    """Decrypts a file. Every octet that it gives was authenticated; that the end is there is known at the end."""

    def __init__(self, file: File, passphrase: bytes) -> None:
        """Raises BackupMalformed for a file that is not encrypted like this, BackupTruncated, PassphraseTooShort."""
        file.seek(0)
        header = file.read(len(MAGIC) + _SALT)
        if header[: len(MAGIC)] != MAGIC:
            raise BackupMalformed("This file is not an encrypted backup.")
        if len(header) != len(MAGIC) + _SALT:
            raise BackupTruncated("The file ends in its header.")
        self._file = file
        self._header = header
        self._cipher = _cipher(passphrase, header[len(MAGIC) :])
        self.rewind()

    def rewind(self) -> None:
        """Begins again, without paying for scrypt again."""
        self._file.seek(len(self._header))
        self._next = self._file.read(_SEALED)
        self._number = 0
        self._held = b""
        self._ended = False

    def read(self, size: int) -> bytes:
        """The next `size` octets, fewer at the end. Raises PassphraseWrong, BackupMalformed, BackupTruncated."""
        found = bytearray()
        while len(found) < size and (self._held or not self._ended):
            if not self._held:
                self._held = self._open()
            taken = size - len(found)
            found += self._held[:taken]
            self._held = self._held[taken:]
        return bytes(found)

    def _open(self) -> bytes:
        sealed, self._next = self._next, self._file.read(_SEALED)
        last = not self._next
        if len(sealed) < _TAG:
            raise BackupTruncated("The file ends within a chunk.")
        try:
            plaintext = self._cipher.decrypt(_nonce(self._number, last=last), sealed, self._header)
        except InvalidTag:
            raise self._refusal(sealed, last=last) from None
        self._number += 1
        self._ended = last
        return plaintext

    def _refusal(self, sealed: bytes, *, last: bool) -> BackupMalformed | BackupTruncated:
        """Why a chunk does not open, as far as anybody can know."""
        if last and self._opens(sealed, last=False):
            return BackupTruncated("The file ends before its last chunk.")
        if self._number == 0:
            return PassphraseWrong()
        return BackupMalformed(f"Chunk {self._number} was altered, or the file is cut off in it.")

    def _opens(self, sealed: bytes, *, last: bool) -> bool:
        try:
            self._cipher.decrypt(_nonce(self._number, last=last), sealed, self._header)
        except InvalidTag:
            return False
        return True


def is_sealed(file: File) -> bool:
    """Whether a file says that it is encrypted; reading goes on at its beginning."""
    file.seek(0)
    found = file.read(len(MAGIC)) == MAGIC
    file.seek(0)
    return found


def _cipher(passphrase: bytes, salt: bytes) -> AESGCM:
    if len(passphrase) < MIN_PASSPHRASE:
        raise PassphraseTooShort(seen=f"{len(passphrase)} octets", expected=f"at least {MIN_PASSPHRASE}")
    return AESGCM(hashlib.scrypt(passphrase, salt=salt, n=_N, r=_R, p=_P, maxmem=_MEMORY, dklen=32))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
