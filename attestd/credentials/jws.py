"""Compact JWS, one algorithm, one type at a time (RFC 7515, section 7.1; RFC 7518, section 3.4; RFC 8725).

Everything signed that an edge or an agent reads comes through here: tokens, DPoP proofs, bundles, times. What went
wrong elsewhere can't be said here: `alg` is ES256 or the text is refused; `typ` is the one that the reader names, so
that no kind passes for another (RFC 8725, section 3.11); a header member that nobody asked for, such as `crit`, `jku`
or `b64`, is refused; and the payload can't be had but by verifying the signature over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from attestd.errors import InputTooLarge, MalformedInput, Unauthenticated
from attestd.protocol.encoding import Members, b64decode, b64encode, read_object, write_object
from attestd.protocol.signed import Sign

MAX_HEADER = 4096  # octets; the largest holds one certificate
_SHORT_HEADER = 512  # characters, of which a token's and a proof's have less
_SHA256 = ec.ECDSA(hashes.SHA256())


class MalformedJws(MalformedInput):
    """This is not a compact JWS"""

    remedy = "Send it as it was issued: three base64url parts with dots between them."


class AlgorithmNotAllowed(Unauthenticated):
    """This is not signed with the one algorithm that is accepted here"""

    remedy = "Sign with ES256."


class TypeConfused(Unauthenticated):
    """This is signed for another purpose"""

    remedy = "Present the kind of object that this place asks for."


class SignatureWrong(Unauthenticated):
    """The signature is wrong"""

    remedy = "Sign with the key that is registered, or that the credential is bound to."


def verify_es256(key: ec.EllipticCurvePublicKey, *, signature: bytes, message: bytes) -> None:
    """Returns if `signature` (r ‖ s) is `key`'s over `message`, else raises SignatureWrong."""
    if len(signature) != 64:
        raise SignatureWrong("The signature has the wrong size.", seen=f"{len(signature)} octets", expected="64 octets")
    if not isinstance(key.curve, ec.SECP256R1):
        raise SignatureWrong("The key is not one for ES256.", seen=key.curve.name, expected="P-256")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), message, _SHA256)
    except InvalidSignature:
        raise SignatureWrong from None


def raw_signature(der: bytes) -> bytes:
    """The JWS form (r ‖ s, 64 octets) of a P-256 signature in DER."""
    r, s = decode_dss_signature(der)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@dataclass(frozen=True, slots=True)
class UnverifiedJws:
    """A JWS of the right type and algorithm, whose signature nobody has checked yet.

    Take what is needed from `unverified_header`, find the key, then call `verified_by`.
    """

    unverified_header: Members
    _payload: str
    _signing_input: bytes
    _signature: bytes

    @classmethod
    def read(cls, text: str, *, typ: str, limit: int, name: str) -> Self:
        """Raises MalformedInput, InputTooLarge, AlgorithmNotAllowed or TypeConfused; `limit` in characters."""
        if len(text) > limit:
            raise InputTooLarge(f"The {name} is too long.", seen=len(text), expected=f"at most {limit} characters")
        parts = text.split(".", 3)
        if len(parts) != 3 or not text.isascii():
            raise MalformedJws(f"The {name} is not a compact JWS.", expected="three parts")
        protected, payload, signature = parts
        read = _known_header if len(protected) <= _SHORT_HEADER else _read_header
        header = Members(read(protected, name), "header")
        if (alg := header.text("alg", limit=MAX_HEADER)) != "ES256":
            raise AlgorithmNotAllowed(seen=repr(alg[:20]), expected="ES256")
        if (seen := header.text("typ", limit=MAX_HEADER)) != typ:
            raise TypeConfused(f"This is not a {name}.", seen=repr(seen[:40]), expected=typ)
        return cls(header, payload, f"{protected}.{payload}".encode("ascii"), b64decode(signature, name="signature"))

    def verified_by(self, key: ec.EllipticCurvePublicKey) -> bytes:
        """The payload, proven to be signed by `key`. Refuses header members that nobody has asked for by now."""
        self.unverified_header.done()
        verify_es256(key, signature=self._signature, message=self._signing_input)
        return b64decode(self._payload, name="payload")


def _read_header(protected: str, name: str) -> Mapping[str, Any]:
    return read_object(b64decode(protected, name="header"), limit=MAX_HEADER, name=f"{name}'s header")


# All tokens of one key have one header; those of proofs come again with each request. They are read, not believed.
_known_header = lru_cache(maxsize=512)(_read_header)


def sign_jws(header: Mapping[str, Any], payload: bytes, *, typ: str, sign: Sign) -> str:
    """A compact JWS; `sign` returns ES256's r ‖ s, and `header` holds what comes beside `alg` and `typ`."""
    protected = b64encode(write_object({**header, "alg": "ES256", "typ": typ}))
    signing_input = f"{protected}.{b64encode(payload)}"
    return f"{signing_input}.{b64encode(sign(signing_input.encode('ascii')))}"
