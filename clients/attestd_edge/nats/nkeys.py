"""NATS' keys and what they sign and seal: nkeys, their JWTs, and sealed messages (xkeys).

An nkey's text is base32 of a kind, 32 octets and a CRC-16 (nats-io/nkeys); signatures are Ed25519; sealed messages are
NaCl boxes behind `xkv1` and a nonce. PyPI's nkeys package knows no curve keys, and reads texts of any length.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey

from attestd.credentials.jws import MalformedJws, SignatureWrong
from attestd.errors import InputTooLarge, MalformedInput, Unauthenticated
from attestd.protocol.encoding import Members, b64decode, b64encode, read_object, write_object

_SEED = 18 << 3
_KEY = 32  # octets
_VERSION: Final = b"xkv1"
_NONCE = 24  # octets
_HEADER: Final = b64encode(write_object({"typ": "JWT", "alg": "ed25519-nkey"}))
_MAX_HEADER = 256  # octets


class Kind(Enum):
    """What a key is for; its text begins with this letter."""

    ACCOUNT = 0 << 3  # A
    SERVER = 13 << 3  # N
    USER = 20 << 3  # U
    CURVE = 23 << 3  # X


class NkeyMalformed(MalformedInput):
    """This is not an nkey of the kind that is needed here"""

    remedy = "Make keys with `attestd-edge nats keys`, and take each where it belongs."


class SealBroken(Unauthenticated):
    """The sealed message can't be opened with these keys"""

    remedy = "Let nats-server's auth_callout.xkey be the key that this service holds."


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
    """Exactly so many octets, in their one spelling."""
    try:
        whole = base64.b32decode(text + "=" * (-len(text) % 8)) if len(text) <= 64 else b""
    except (binascii.Error, ValueError):
        whole = b""
    data = whole[:-2]
    if len(data) != octets or _base32(data) != text:
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


def read_jwt(text: str, *, issuer: Kind, limit: int) -> tuple[str, Members]:
    """A NATS JWT's issuer and claims, proven to be signed by it. Who that is, is the caller's question.

    Raises MalformedInput, InputTooLarge or SignatureWrong.
    """
    if len(text) > limit:
        raise InputTooLarge("The JWT is too long.", seen=len(text), expected=f"at most {limit} characters")
    parts = text.split(".", 3)
    if len(parts) != 3 or not text.isascii():
        raise MalformedJws("This is not a JWT.", expected="three parts")
    header = Members(read_object(b64decode(parts[0]), limit=_MAX_HEADER, name="header"), "header")
    if (seen := (header.text("typ"), header.text("alg"))) != ("JWT", "ed25519-nkey"):
        raise MalformedJws("This is not a JWT of NATS.", seen=repr(seen)[:80], expected="JWT, ed25519-nkey")
    header.done()
    claims = Members(read_object(b64decode(parts[1]), limit=limit, name="claims"), "claims")
    named = claims.text("iss", limit=64)
    try:
        key = Ed25519PublicKey.from_public_bytes(read_public(named, issuer))
        key.verify(b64decode(parts[2]), f"{parts[0]}.{parts[1]}".encode())
    except (InvalidSignature, ValueError):
        raise SignatureWrong from None
    return named, claims


@dataclass(frozen=True, slots=True)
class CurveKey:
    """A key to which nats-server seals its requests."""

    public: str
    _private: PrivateKey = field(repr=False)

    @classmethod
    def from_seed(cls, text: str) -> Self:
        """Raises NkeyMalformed."""
        private = PrivateKey(read_seed(text, Kind.CURVE))
        return cls(write_public(Kind.CURVE, bytes(private.public_key)), private)

    def open(self, sealed: bytes, *, sender: str) -> bytes:
        """What `sender` (a curve key's text) sealed for this key. Raises NkeyMalformed or SealBroken."""
        if not sealed.startswith(_VERSION) or len(sealed) <= len(_VERSION) + _NONCE:
            raise SealBroken("This is not a sealed message.", expected="xkv1")
        box = Box(self._private, PublicKey(read_public(sender, Kind.CURVE)))
        try:
            return bytes(box.decrypt(sealed[len(_VERSION) :]))
        except CryptoError:
            raise SealBroken from None

    def seal(self, data: bytes, *, recipient: str, entropy: Callable[[int], bytes]) -> bytes:
        """`data` for `recipient` alone. Raises NkeyMalformed."""
        box = Box(self._private, PublicKey(read_public(recipient, Kind.CURVE)))
        return _VERSION + bytes(box.encrypt(data, entropy(_NONCE)))
