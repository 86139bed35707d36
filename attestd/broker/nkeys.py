"""NATS' signing keys: their texts, and what they sign.

An nkey's text is base32 of a kind, 32 octets and a CRC-16 (nats-io/nkeys); signatures are Ed25519. PyPI's nkeys package
comes as source only, and reads texts of any length.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestd.errors import MalformedInput
from attestd.protocol.encoding import b64encode, write_object

_SEED = 18 << 3
_KEY = 32  # octets
_BASE32 = re.compile(r"[A-Z2-7]+", re.ASCII)
_DIGITS = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789ABCDEFGHIJKLMNOPQRSTUV")  # as int reads them
_HEADER: Final = b64encode(write_object({"typ": "JWT", "alg": "ed25519-nkey"}))


class Kind(Enum):
    """What a key is for; its text begins with this letter."""

    ACCOUNT = 0 << 3  # A
    SERVER = 13 << 3  # N
    USER = 20 << 3  # U
    CURVE = 23 << 3  # X


class NkeyMalformed(MalformedInput):
    """This is not an nkey of the kind that is needed here"""

    remedy = "Make keys with `attestd-edge nats keys`, and take each where it belongs."


def write_public(kind: Kind, key: bytes) -> str:
    """A public key's text."""
    return _base32(bytes((kind.value,)) + key)


def read_public(text: str, kind: Kind) -> bytes:
    """The 32 octets of a public key of this kind. Raises NkeyMalformed."""
    data = _from_base32(text, 1 + _KEY)
    if data[0] != kind.value:
        raise NkeyMalformed(seen=text[:1], expected=kind.name.lower())
    return data[1:]


def write_seed(kind: Kind, seed: bytes) -> str:
    """A private key's text. Keep it secret."""
    return _base32(bytes((_SEED | kind.value >> 5, (kind.value & 31) << 3)) + seed)


def read_seed(text: str, kind: Kind) -> bytes:
    """The 32 octets of a private key of this kind. Raises NkeyMalformed, without a word of the text."""
    data = _from_base32(text, 2 + _KEY)
    if data[0] & 0xF8 != _SEED or (data[0] & 7) << 5 | data[1] >> 3 != kind.value:
        raise NkeyMalformed(expected=f"a seed of kind {kind.name.lower()}")
    return data[2:]


def _base32(data: bytes) -> str:
    whole = data + binascii.crc_hqx(data, 0).to_bytes(2, "little")
    return base64.b32encode(whole).decode().rstrip("=")


def _from_base32(text: str, octets: int) -> bytes:
    """Exactly so many octets, in their one spelling. (The standard library's reader is a loop in Python, and a login
    needs four.)"""
    bits = 8 * (octets + 2)
    unused = -bits % 5
    if 5 * len(text) != bits + unused or not _BASE32.fullmatch(text):
        raise NkeyMalformed(expected="an nkey's text")
    number = int(text.encode("ascii").translate(_DIGITS), 32)
    whole = (number >> unused).to_bytes(octets + 2, "big")
    data, check = whole[:-2], whole[-2:]
    if number & ((1 << unused) - 1) or binascii.crc_hqx(data, 0).to_bytes(2, "little") != check:
        raise NkeyMalformed(expected="an nkey's text")
    return data


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An account's or user's key."""

    public: str
    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def from_seed(cls, text: str, kind: Kind) -> Self:
        """Raises NkeyMalformed."""
        private = Ed25519PrivateKey.from_private_bytes(read_seed(text, kind))
        return cls(write_public(kind, private.public_key().public_bytes_raw()), private)

    def sign(self, data: bytes) -> bytes:
        return self._private.sign(data)

    def jwt(self, claims: Mapping[str, Any]) -> str:
        """NATS' JWT of these claims, as their issuer."""
        signing_input = f"{_HEADER}.{b64encode(write_object({**claims, 'iss': self.public}))}"
        return f"{signing_input}.{b64encode(self.sign(signing_input.encode()))}"
