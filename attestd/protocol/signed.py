"""Signed requests: a JWS over the body, so that they hold behind any load balancer or TLS terminator.

A device's request *is* a flattened JWS (RFC 7515, section 7.2.2). Operators and edge proxies send an ordinary body with
`Authorization: Attestd <header>..<signature>`, a JWS whose payload is the body, detached (RFC 7515, appendix F).
Both carry the same protected header: `{alg, kid, url, nonce, typ}`, plus `htm` where the body is detached.

Here the envelope is only read. Who the key belongs to, and whether the signature is right, `credentials` decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

from attestd.errors import Unauthenticated
from attestd.protocol.encoding import Members, b64decode, b64encode, read_object, write_object

DEVICE_TYP = "attestd-request+jws"
CALLER_TYP = "attestd-call+jws"
SCHEME = "Attestd"
MAX_HEADER = 4096

# Signs octets with one key; returns the JWS form of the signature (ES256: r ‖ s, 64 octets).
Sign = Callable[[bytes], bytes]


class MalformedSignature(Unauthenticated):
    """The request's signature can't be read"""

    remedy = "Sign the request as docs/protocol.md, section 2, describes."


class SignedEnvelope(NamedTuple):
    """A JWS as it came: `unverified_*` until somebody checks `signature` over `signing_input`."""

    unverified_kid: str
    alg: str
    url: str
    nonce: bytes
    typ: str
    method: str
    unverified_payload: bytes
    signing_input: bytes
    signature: bytes

    @classmethod
    def parse_flattened(cls, data: bytes, *, limit: int) -> Self:
        """A device's request: `{"protected", "payload", "signature"}`; the method is POST."""
        members = Members(read_object(data, limit=limit, name="signed request"), "request")
        protected = members.text("protected", limit=MAX_HEADER)
        payload = members.text("payload", limit=limit)
        signature = members.octets("signature", limit=512, least=1)
        members.done()
        return cls._read(protected, payload, signature, detached=False)

    @classmethod
    def parse_detached(cls, authorization: str, body: bytes) -> Self:
        """A caller's `Authorization` header and the body that it signs."""
        scheme, _, compact = authorization.partition(" ")
        parts = compact.split(".")
        if scheme != SCHEME or len(parts) != 3 or parts[1] != "" or len(authorization) > MAX_HEADER:
            raise MalformedSignature(
                "The Authorization header is not a detached signature.", expected=f"{SCHEME} <header>..<signature>"
            )
        return cls._read(parts[0], b64encode(body), b64decode(parts[2], name="signature"), detached=True)

    @classmethod
    def _read(cls, protected: str, payload: str, signature: bytes, *, detached: bool) -> Self:
        header = Members(
            read_object(b64decode(protected, name="protected"), limit=MAX_HEADER, name="protected header"), "protected"
        )
        kid, alg = header.text("kid", limit=2048), header.text("alg", limit=16)
        url, nonce = header.text("url", limit=2048), header.octets("nonce", limit=256, least=1)
        typ, method = header.text("typ", limit=64), header.text("htm", limit=8) if detached else "POST"
        header.done()  # so `crit`, `jku`, `jwk`, `x5c` and `none`'s friends are refused, not ignored
        expected = CALLER_TYP if detached else DEVICE_TYP
        if typ != expected:
            raise MalformedSignature("The signature is of another kind.", seen=repr(typ), expected=expected)
        unverified_payload = b64decode(payload, name="payload")
        signing_input = f"{protected}.{payload}".encode("ascii")
        return cls(kid, alg, url, nonce, typ, method, unverified_payload, signing_input, signature)


def sign_flattened(payload: bytes, *, sign: Sign, alg: str, kid: str, url: str, nonce: bytes) -> bytes:
    """A device's signed request, ready to be posted to `url`."""
    protected = _protected({"alg": alg, "kid": kid, "url": url, "nonce": b64encode(nonce), "typ": DEVICE_TYP})
    body = b64encode(payload)
    signature = sign(f"{protected}.{body}".encode("ascii"))
    return write_object({"protected": protected, "payload": body, "signature": b64encode(signature)})


def sign_detached(body: bytes, *, sign: Sign, alg: str, kid: str, method: str, url: str, nonce: bytes) -> str:
    """The Authorization header's value for a caller's request."""
    protected = _protected(
        {"alg": alg, "kid": kid, "htm": method, "url": url, "nonce": b64encode(nonce), "typ": CALLER_TYP}
    )
    signature = sign(f"{protected}.{b64encode(body)}".encode("ascii"))
    return f"{SCHEME} {protected}..{b64encode(signature)}"


def _protected(header: dict[str, Any]) -> str:
    return b64encode(write_object(header))
