"""Sealing: what the service hands out and must recognise later without remembering it (docs/protocol.md, section 1).

AES-256-GCM-SIV (RFC 8452): under a repeated nonce it reveals that two plaintexts are equal, and nothing more. The form:

    version (1 octet, 1) ‖ key id (8) ‖ nonce (12) ‖ ciphertext with its tag (16 more than the plaintext)

The associated data is version ‖ key id ‖ purpose label in ASCII; the first two have fixed sizes, so it has one reading.
Something sealed for one purpose does not open for another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from attestd.ca.keyfiles import read_secret
from attestd.ca.signer import KEY_STATES, KeyState
from attestd.errors import InputTooLarge, MalformedInput, Misconfigured
from attestd.protocol.encoding import Members, b64encode, read_object, write_object

KEY_SIZE = 32
EXPANSION = 1 + 8 + 12 + 16  # octets that sealing adds, whatever is sealed

_VERSION = b"\x01"
_ID = 8
_NONCE = 12
_PURPOSE = re.compile(r"[!-~]{1,64}", re.ASCII)
_MAX_FILE = 64 * 1024
_MAX_KEYS = 32


class SealBroken(MalformedInput):
    """This was not sealed here, or for something else"""

    remedy = "Begin again, and send back exactly what the service gave."


class SealKeyUnknown(SealBroken):
    """This was sealed with a key that is not known here"""

    remedy = "Begin again; what was sealed so long ago, or by another instance, can't be opened any more."


class SealingKeysMalformed(Misconfigured):
    """The sealing keys can't be read"""

    remedy = "Restore keys/sealing.json from the backup of this instance's folder."


@dataclass(frozen=True, slots=True)
class SealingKey:
    """One key: `current` seals and opens; `old` and `next` only open (the next may be another instance's current)."""

    id: bytes
    state: KeyState
    secret: bytes = field(repr=False)

    @classmethod
    def fresh(cls, state: KeyState, entropy: Callable[[int], bytes]) -> Self:
        return cls(entropy(_ID), state, entropy(KEY_SIZE))


class SealingKeys:
    """Seals with the current key, opens with any that it holds."""

    def __init__(self, keys: Iterable[SealingKey]) -> None:
        """Raises SealingKeysMalformed unless exactly one key is current and ids and secrets differ from each other."""
        held = tuple(keys)
        if any(len(key.id) != _ID or len(key.secret) != KEY_SIZE for key in held):
            raise SealingKeysMalformed("A sealing key has the wrong size.", expected=f"{KEY_SIZE} octets, id of {_ID}")
        current = [key.id for key in held if key.state == "current"]
        if len(current) != 1:
            raise SealingKeysMalformed("The current sealing key is not certain.", seen=len(current), expected="one")
        if len({key.id for key in held}) != len(held) or len({key.secret for key in held}) != len(held):
            raise SealingKeysMalformed("A sealing key is listed twice.")
        try:
            self._ciphers = {key.id: AESGCMSIV(key.secret) for key in held}
        except UnsupportedAlgorithm:
            raise SealingKeysMalformed(
                "The cryptography library has no AES-GCM-SIV.",
                remedy="Install cryptography from its wheel, or against OpenSSL 3.2 or later.",
            ) from None
        self._current = current[0]

    @classmethod
    def load(cls, path: Path) -> Self:
        """From `keys/sealing.json`. Raises the errors of `keyfiles` and SealingKeysMalformed."""
        data = read_secret(path, limit=_MAX_FILE)
        try:
            members = Members(read_object(data, limit=_MAX_FILE, name="file"), "file")
            members.version()
            keys = [_read_key(entry) for entry in members.objects("keys", most=_MAX_KEYS)]
            members.done()
        except (MalformedInput, InputTooLarge) as error:
            # Without what was seen: it may be a key.
            raise SealingKeysMalformed(f"{path}: {error.detail}", expected=error.expected) from None
        return cls(keys)

    def __repr__(self) -> str:
        return f"SealingKeys(current={self._current.hex()}, opens={len(self._ciphers)})"

    def seal(self, plaintext: bytes, *, purpose: str, entropy: Callable[[int], bytes]) -> bytes:
        """The sealed octets, EXPANSION longer than `plaintext`."""
        header = _VERSION + self._current
        nonce = entropy(_NONCE)
        return header + nonce + self._ciphers[self._current].encrypt(nonce, plaintext, _bound(header, purpose))

    def open(self, sealed: bytes, *, purpose: str) -> bytes:
        """What was sealed for this purpose. Raises SealKeyUnknown, SealBroken."""
        if len(sealed) < EXPANSION:
            raise SealBroken("This is too short to be sealed.", seen=f"{len(sealed)} octets")
        header, nonce, ciphertext = sealed[: 1 + _ID], sealed[1 + _ID : 1 + _ID + _NONCE], sealed[1 + _ID + _NONCE :]
        if header[:1] != _VERSION:
            raise SealBroken("This was sealed in an unknown way.", seen=f"version {header[0]}", expected="version 1")
        cipher = self._ciphers.get(header[1:])
        if cipher is None:
            raise SealKeyUnknown("This was sealed with a key that is not known here.", seen=header[1:].hex())
        try:
            return cipher.decrypt(nonce, ciphertext, _bound(header, purpose))
        except InvalidTag:
            # Changed octets and another purpose look the same, on purpose.
            raise SealBroken("This was changed after it was sealed, or was sealed for something else.") from None


def sealing_file(keys: Iterable[SealingKey]) -> bytes:
    """What `SealingKeys.load` reads: secret octets, for `write_secret` alone."""
    listed = [{"id": key.id.hex(), "key": b64encode(key.secret), "state": key.state} for key in keys]
    return write_object({"v": 1, "keys": listed})


def _read_key(entry: Members) -> SealingKey:
    key_id, state = entry.text("id", limit=2 * _ID), entry.text("state", limit=8)
    secret = entry.octets("key", limit=KEY_SIZE, least=KEY_SIZE)
    entry.done()
    if not re.fullmatch(r"[0-9a-f]{16}", key_id, re.ASCII):
        raise SealingKeysMalformed("A sealing key's id is not 16 hexadecimal digits.")
    if state not in KEY_STATES:
        raise SealingKeysMalformed(f"Sealing key {key_id} has no known state.", expected=", ".join(KEY_STATES))
    return SealingKey(bytes.fromhex(key_id), state, secret)


def _bound(header: bytes, purpose: str) -> bytes:
    """The associated data: header ‖ purpose."""
    if not _PURPOSE.fullmatch(purpose):
        raise ValueError("a purpose is 1 to 64 printable ASCII characters")
    return header + purpose.encode("ascii")
