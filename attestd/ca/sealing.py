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
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Self

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from attestd.ca.keyfiles import read_secret
from attestd.ca.manifest import KEY_STATES, KeyState
from attestd.ca.unlocking import NOTHING, PassphraseWrong, Unlocking, open_file
from attestd.errors import InputTooLarge, MalformedInput, Misconfigured
from attestd.protocol.encoding import Members, b64encode, read_object, write_object

KEY_SIZE = 32
SEALING = "sealing.json"
EXPANSION = 1 + 8 + 12 + 16  # octets that sealing adds, whatever is sealed

_VERSION = b"\x01"
_ID = 8
_NONCE = 12
_PURPOSE = re.compile(r"[!-~]{1,64}", re.ASCII)
MAX_SEALING_FILE = 64 * 1024
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
    """One key: `current` seals and opens; `old` and `next` only open (the next may be another instance's current).

    `since` says when it came to its state (unix seconds; 0 if that was not noted).
    """

    id: bytes
    state: KeyState
    secret: bytes = field(repr=False)
    since: int = 0

    @classmethod
    def fresh(cls, state: KeyState, entropy: Callable[[int], bytes], since: int = 0) -> Self:
        return cls(entropy(_ID), state, entropy(KEY_SIZE), since)


class SealingPlace(NamedTuple):
    """Where one key stands, for who may know no secret."""

    id: bytes
    state: KeyState
    since: int


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
            # One attribute, so that `follow` changes ciphers and current key in one step.
            self._held = current[0], {key.id: AESGCMSIV(key.secret) for key in held}
            self._places = tuple(SealingPlace(key.id, key.state, key.since) for key in held)
        except UnsupportedAlgorithm:
            raise SealingKeysMalformed(
                "The cryptography library has no AES-GCM-SIV.",
                remedy="Install cryptography from its wheel, or against OpenSSL 3.2 or later.",
            ) from None

    @classmethod
    def load(cls, path: Path, unlocking: Unlocking = NOTHING) -> Self:
        """From `keys/sealing.json`. Raises the errors of `read_sealing_file`, SealingKeysMalformed."""
        return cls(read_sealing_file(path, unlocking))

    def follow(self, other: SealingKeys) -> None:
        """Takes over what the other one holds: whoever has this object seals and opens with those keys from now on."""
        self._held, self._places = other._held, other._places

    @property
    def places(self) -> tuple[SealingPlace, ...]:
        """Each key's place in its rotation."""
        return self._places

    def __repr__(self) -> str:
        current, ciphers = self._held
        return f"SealingKeys(current={current.hex()}, opens={len(ciphers)})"

    def seal(self, plaintext: bytes, *, purpose: str, entropy: Callable[[int], bytes]) -> bytes:
        """The sealed octets, EXPANSION longer than `plaintext`."""
        current, ciphers = self._held
        header = _VERSION + current
        nonce = entropy(_NONCE)
        return header + nonce + ciphers[current].encrypt(nonce, plaintext, _bound(header, purpose))

    def open(self, sealed: bytes, *, purpose: str) -> bytes:
        """What was sealed for this purpose. Raises SealKeyUnknown, SealBroken."""
        if len(sealed) < EXPANSION:
            raise SealBroken("This is too short to be sealed.", seen=f"{len(sealed)} octets")
        header, nonce, ciphertext = sealed[: 1 + _ID], sealed[1 + _ID : 1 + _ID + _NONCE], sealed[1 + _ID + _NONCE :]
        if header[:1] != _VERSION:
            raise SealBroken("This was sealed in an unknown way.", seen=f"version {header[0]}", expected="version 1")
        cipher = self._held[1].get(header[1:])
        if cipher is None:
            raise SealKeyUnknown("This was sealed with a key that is not known here.", seen=header[1:].hex())
        try:
            return cipher.decrypt(nonce, ciphertext, _bound(header, purpose))
        except InvalidTag:
            # Changed octets and another purpose look the same, on purpose.
            raise SealBroken("This was changed after it was sealed, or was sealed for something else.") from None


def read_sealing_file(path: Path, unlocking: Unlocking = NOTHING) -> tuple[SealingKey, ...]:
    """The keys of `keys/sealing.json`, encrypted or not.

    Raises the errors of `keyfiles`, SealingKeysMalformed; for an encrypted one PassphraseWrong and `Unlocking`'s.
    """
    data = read_secret(path, limit=MAX_SEALING_FILE)
    try:
        members = Members(read_object(data, limit=MAX_SEALING_FILE, name="file"), "file")
        members.version()
        if "sealed" in members:
            data = open_file(members, unlocking.passphrase(), limit=MAX_SEALING_FILE)
            members = Members(read_object(data, limit=MAX_SEALING_FILE, name="file"), "file")
            members.version()
        keys = tuple(_read_key(entry) for entry in members.objects("keys", most=_MAX_KEYS))
        members.done()
    except PassphraseWrong:
        raise PassphraseWrong(f"{path} does not open, or was changed.") from None
    except (MalformedInput, InputTooLarge) as error:
        # Without what was seen: it may be a key.
        raise SealingKeysMalformed(f"{path}: {error.detail}", expected=error.expected) from None
    return keys


def sealing_file(keys: Iterable[SealingKey]) -> bytes:
    """What `SealingKeys.load` reads: secret octets, for `write_secret` alone."""
    listed = [
        {"id": key.id.hex(), "key": b64encode(key.secret), "state": key.state}
        | ({"since": key.since} if key.since else {})
        for key in keys
    ]
    return write_object({"v": 1, "keys": listed})


def _read_key(entry: Members) -> SealingKey:
    key_id, state = entry.text("id", limit=2 * _ID), entry.text("state", limit=8)
    secret = entry.octets("key", limit=KEY_SIZE, least=KEY_SIZE)
    since = entry.integer("since") if "since" in entry else 0
    entry.done()
    if not re.fullmatch(r"[0-9a-f]{16}", key_id, re.ASCII):
        raise SealingKeysMalformed("A sealing key's id is not 16 hexadecimal digits.")
    if state not in KEY_STATES:
        raise SealingKeysMalformed(f"Sealing key {key_id} has no known state.", expected=", ".join(KEY_STATES))
    return SealingKey(bytes.fromhex(key_id), state, secret, since)


@lru_cache(maxsize=64)  # few keys, few purposes
def _bound(header: bytes, purpose: str) -> bytes:
    """The associated data: header ‖ purpose."""
    if not _PURPOSE.fullmatch(purpose):
        raise ValueError("a purpose is 1 to 64 printable ASCII characters")
    return header + purpose.encode("ascii")
