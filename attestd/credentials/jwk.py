"""Public keys as JSON: P-256 only (RFC 7517; RFC 7518, section 6.2; thumbprints by RFC 7638)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric import ec

from attestd.errors import MalformedInput
from attestd.protocol.encoding import Members, b64encode, write_object


class MalformedJwk(MalformedInput):
    """This is not a public P-256 key in JSON"""

    remedy = 'Send the public key alone: {"kty":"EC","crv":"P-256","x":…,"y":…}.'


def public_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The required members, and no other."""
    numbers = key.public_numbers()
    if not isinstance(numbers.curve, ec.SECP256R1):
        raise MalformedJwk("Only P-256 keys are used here.", seen=numbers.curve.name, expected="P-256")
    return {
        "kty": "EC",
        "crv": "P-256",
        "x": b64encode(numbers.x.to_bytes(32, "big")),
        "y": b64encode(numbers.y.to_bytes(32, "big")),
    }


def read_jwk(jwk: Mapping[str, object]) -> ec.EllipticCurvePublicKey:
    """The key, its point checked to lie on the curve. Any further member is refused, `d` and `x5c` among them."""
    return read_jwk_and_thumbprint(jwk)[0]


def read_jwk_and_thumbprint(jwk: Mapping[str, object]) -> tuple[ec.EllipticCurvePublicKey, str]:
    """The key as `read_jwk` reads it, with its RFC 7638 thumbprint."""
    members = Members(jwk, "jwk")
    for name, only in (("kty", "EC"), ("crv", "P-256")):
        if (seen := members.text(name, limit=16)) != only:
            raise MalformedJwk("This kind of key is not used here.", seen=repr(seen), expected=only)
    x, y = (members.octets(name, limit=32, least=32) for name in ("x", "y"))
    members.done()
    return _at(x, y)


@lru_cache(maxsize=1024)  # of some 4 kB: who proves a key at an edge proves it with each request
def _at(x: bytes, y: bytes) -> tuple[ec.EllipticCurvePublicKey, str]:
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + x + y)
    except ValueError:
        raise MalformedJwk("This point is not on the curve.") from None
    return key, jwk_thumbprint(key)


def jwk_thumbprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 over the required members in lexicographic order, base64url: `cnf.jkt`, and our `kid`s."""
    return b64encode(hashlib.sha256(write_object(public_jwk(key))).digest())
