"""Signed requests: is this envelope signed by that key, for this URL and method (docs/protocol.md, section 2)?

`protocol.signed` reads the envelope; here its signature is checked. The caller finds the key by the envelope's
`unverified_kid`, and afterwards spends the envelope's `nonce`: both are the registry's business.
"""

from __future__ import annotations

from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.jwk import jwk_thumbprint, public_jwk
from attestd.credentials.jws import raw_signature, verify_es256
from attestd.errors import Misconfigured, Unauthenticated
from attestd.protocol.signed import SignedEnvelope


class RequestMisdirected(Unauthenticated):
    """The request was signed for another address or method"""

    remedy = "Sign the exact URL and method that the request is sent to; check the configured public address."


class RequestAlgorithmWrong(Unauthenticated):
    """The request is signed with another algorithm than this key's"""

    remedy = "Sign with the algorithm that is registered for this key."


class UnusableKey(Misconfigured):
    """This is not an unencrypted P-256 private key"""

    remedy = "Make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`."


def verify_request(
    envelope: SignedEnvelope,
    *,
    key: ec.EllipticCurvePublicKey,
    url: str,
    method: str,
    alg: str = "ES256",
) -> bytes:
    """The payload, proven to be signed by `key` for `method` on `url`.

    `alg` is the algorithm registered for this key, never the envelope's word; ES256 is the only one so far.
    Raises RequestAlgorithmWrong, RequestMisdirected or SignatureWrong.
    """
    if alg != "ES256" or envelope.alg != alg:
        raise RequestAlgorithmWrong(seen=repr(envelope.alg), expected="ES256")
    if envelope.url != url:
        raise RequestMisdirected("The request was signed for another URL.", seen=repr(envelope.url), expected=url)
    if envelope.method != method:
        raise RequestMisdirected(
            "The request was signed for another method.", seen=repr(envelope.method), expected=method
        )
    verify_es256(key, signature=envelope.signature, message=envelope.signing_input)
    return envelope.unverified_payload  # verified now: the signing input holds these octets


class SoftwareKey:
    """A P-256 private key in memory: operators' and proxies', never a device's."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(private_key.curve, ec.SECP256R1):
            raise UnusableKey(seen=private_key.curve.name, expected="P-256")
        self._private_key = private_key
        self.public_key = private_key.public_key()
        self.thumbprint = jwk_thumbprint(self.public_key)  # RFC 7638, base64url
        self.jwk = public_jwk(self.public_key)

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """From PKCS#8 or SEC 1 PEM without a passphrase. Raises UnusableKey."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise UnusableKey from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UnusableKey(seen=type(key).__name__.removeprefix("_"))
        return cls(key)

    def sign(self, data: bytes) -> bytes:
        """ES256: r ‖ s, 64 octets (RFC 7518, section 3.4)."""
        return raw_signature(self._private_key.sign(data, ec.ECDSA(hashes.SHA256())))

    def __repr__(self) -> str:
        return f"SoftwareKey({self.thumbprint})"
