"""nats-server's question to an auth callout, written without the code under test, which can lie in any one field.

asker = Asker(ours=keys.sealing.public, issuer=keys.issuer.public)
data = asker.ask(chain=[der, …])                  # sealed to us
asker.answer(…)                                   # what we answered, opened and verified
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from nacl.public import Box, PrivateKey, PublicKey
from nacl.signing import SigningKey, VerifyKey

from tests import authority as a
from tests.edge_site import pem

USER = "UBO2MQV67TQTVIRV3XFTEZOACM4WLOCMCDMAWN5QVN5PI2N6JHTVDRON"  # NATS ADR-26's
NONCE = "Zm9vYmFyYmF6cXU"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


SERVER, USER_KIND, CURVE = 13 << 3, 20 << 3, 23 << 3


def key_text(kind: int, public: bytes) -> str:
    whole = bytes((kind,)) + public
    return base64.b32encode(whole + binascii.crc_hqx(whole, 0).to_bytes(2, "little")).decode().rstrip("=")


def curve_octets(text: str) -> bytes:
    return base64.b32decode(text)[1:33]


class Pair:
    """A signing key of this kind."""

    def __init__(self, number: int, kind: int) -> None:
        self._key = SigningKey(bytes([number]) * 32)
        self.public = key_text(kind, bytes(self._key.verify_key))

    def sign(self, data: bytes) -> bytes:
        return bytes(self._key.sign(data).signature)


class Asker:
    """One nats-server."""

    def __init__(self, *, ours: str, issuer: str, number: int = 1) -> None:
        self.ours, self.issuer = ours, issuer
        self.key = Pair(number, SERVER)
        self.id = self.key.public
        self.curve = PrivateKey(bytes([number + 100]) * 32)
        self.xkey = key_text(CURVE, bytes(self.curve.public_key))

    def claims(self, *, chain: Sequence[bytes] = (), **lies: Any) -> dict[str, Any]:
        """The honest question; `lies` change members of any of its objects by name, `...` takes one out."""
        now = int(a.NOW.timestamp())
        told: dict[str, dict[str, Any]] = {
            "server_id": {"name": "s", "host": "0.0.0.0", "id": self.id, "version": "2.15.1", "xkey": self.xkey},
            "client_info": {
                "host": "127.0.0.1", "id": 7, "kind": "Client", "type": "nats", "nonce": NONCE,
            },
            "connect_opts": {"protocol": 1, "lang": "python3"},
        }  # fmt: skip
        nats: dict[str, Any] = {"user_nkey": USER, "type": "authorization_request", "version": 2}
        if chain:
            nats["client_tls"] = {"version": "1.3", "verified_chains": [[pem(der).decode() for der in chain]]}
        claims: dict[str, Any] = {
            "aud": "nats-authorization-request", "exp": now + 2, "iat": now, "iss": self.id, "sub": self.issuer,
        }  # fmt: skip
        for name, value in lies.items():
            where, _, member = name.partition("__")
            owner = {"nats": nats, "top": claims, **told}[where]
            owner[member] = value
            if value is ...:
                del owner[member]
        return {**claims, "nats": {**nats, **told}} if "nats" not in claims else claims

    def jwt(self, claims: dict[str, Any], *, key: Any = None, header: dict[str, str] | None = None) -> str:
        head = {"typ": "JWT", "alg": "ed25519-nkey"} if header is None else header
        text = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(claims).encode())}"
        return f"{text}.{b64((key or self.key).sign(text.encode()))}"

    def seal(self, text: bytes) -> bytes:
        nonce = b"n" * 24
        return b"xkv1" + bytes(Box(self.curve, PublicKey(curve_octets(self.ours))).encrypt(text, nonce))

    def ask(self, **lies: Any) -> bytes:
        return self.seal(self.jwt(self.claims(**lies)).encode())

    def opened(self, answer: bytes) -> dict[str, Any]:
        """Our answer's claims, its signature checked by PyNaCl."""
        assert answer.startswith(b"xkv1")
        text = Box(self.curve, PublicKey(curve_octets(self.ours))).decrypt(answer[4:]).decode()
        return read(text)


def read(text: str) -> dict[str, Any]:
    """A NATS JWT's claims, proven to be its issuer's."""
    head, payload, signature = text.split(".")
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "==="))
    key = VerifyKey(base64.b32decode(claims["iss"])[1:33])
    key.verify(f"{head}.{payload}".encode(), base64.urlsafe_b64decode(signature + "==="))
    return claims
