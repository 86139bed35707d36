"""What nats-server signs and seals for an auth callout: its JWTs and sealed messages (xkeys).

Sealed messages are NaCl boxes behind `xkv1` and a nonce. PyPI's nkeys package knows no curve keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey

from attestd.broker.nkeys import Kind, read_public, read_seed, write_public
from attestd.credentials.jws import MalformedJws, SignatureWrong
from attestd.errors import InputTooLarge, Unauthenticated
from attestd.protocol.encoding import Members, b64decode, read_object

_VERSION: Final = b"xkv1"
_NONCE = 24  # octets
_SERVERS = 16  # a cluster's
_MAX_HEADER = 256  # octets


class SealBroken(Unauthenticated):
    """The sealed message can't be opened with these keys"""

    remedy = "Let nats-server's auth_callout.xkey be the key that this service holds."


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
    _boxes: dict[str, Box] = field(repr=False, default_factory=dict)  # of nats-servers lately: what two keys share

    @classmethod
    def from_seed(cls, text: str) -> Self:
        """Raises NkeyMalformed."""
        private = PrivateKey(read_seed(text, Kind.CURVE))
        return cls(write_public(Kind.CURVE, bytes(private.public_key)), private)

    def open(self, sealed: bytes, *, sender: str) -> bytes:
        """What `sender` (a curve key's text) sealed for this key. Raises NkeyMalformed or SealBroken."""
        if not sealed.startswith(_VERSION) or len(sealed) <= len(_VERSION) + _NONCE:
            raise SealBroken("This is not a sealed message.", expected="xkv1")
        box = self._box(sender)
        try:
            return bytes(box.decrypt(sealed[len(_VERSION) :]))
        except CryptoError:
            raise SealBroken from None

    def seal(self, data: bytes, *, recipient: str, entropy: Callable[[int], bytes]) -> bytes:
        """`data` for `recipient` alone. Raises NkeyMalformed."""
        return _VERSION + bytes(self._box(recipient).encrypt(data, entropy(_NONCE)))

    def _box(self, other: str) -> Box:
        """Raises NkeyMalformed."""
        if (box := self._boxes.get(other)) is None:
            if len(self._boxes) >= _SERVERS:
                self._boxes.clear()
            box = self._boxes[other] = Box(self._private, PublicKey(read_public(other, Kind.CURVE)))
        return box
