"""A passkey in software, and a browser that signs in with it: WebAuthn's octets packed by hand, with room for lies.

ada = Person(world, "ada", "operator")             # invited, registered, signed in: ada.get("/v1/admin/session")
again = ada.another_browser()                      # the same passkey, another session
ada.post(path, message, touch=True)                # confirmed with the passkey first
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from werkzeug.test import TestResponse

from attestd.credentials.requests import SoftwareKey
from attestd.protocol.encoding import b64decode, b64encode, write_object
from tests.service import Caller, World

USER_PRESENT, USER_VERIFIED, ATTESTED = 0x01, 0x04, 0x40
BROWSER = {"agent": "Firefox 140 on Linux", "address": "192.0.2.7"}
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def cose(key: Any) -> dict[int, Any]:
    """The public half as a COSE_Key."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        numbers = key.public_numbers()
        size = (key.curve.key_size + 7) // 8
        curve = {"secp256r1": 1, "secp384r1": 2}[key.curve.name]
        return {1: 2, 3: -7, -1: curve, -2: numbers.x.to_bytes(size, "big"), -3: numbers.y.to_bytes(size, "big")}
    if isinstance(key, rsa.RSAPublicKey):
        numbers_ = key.public_numbers()
        return {1: 3, 3: -257, -1: numbers_.n.to_bytes(key.key_size // 8, "big"), -2: numbers_.e.to_bytes(3, "big")}
    return {1: 1, 3: -8, -1: 6, -2: key.public_bytes(Encoding.Raw, PublicFormat.Raw)}


@dataclass
class Authenticator:
    """One passkey. `lies` of its methods replace what an honest one would say."""

    key: PrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    credential: bytes = field(default_factory=lambda: os.urandom(32))
    handle: bytes | None = None
    count: int = 0

    def create(self, options: Mapping[str, Any], origin: str, /, **lies: Any) -> dict[str, Any]:
        """navigator.credentials.create(), as JSON."""
        self.handle = b64decode(options["user"]["id"])
        key = cbor2.dumps(lies.get("cose", cose(self.key.public_key())))
        named = lies.get("inner_id", self.credential)
        attested = bytes(16) + len(named).to_bytes(2, "big") + named + key
        flags = lies.get("flags", USER_PRESENT | USER_VERIFIED | ATTESTED)
        data = self._data(options["rp"]["id"], flags, self.count, **lies) + attested
        statement = {"fmt": lies.get("fmt", "none"), "attStmt": {}, "authData": data}
        response = {
            "clientDataJSON": b64encode(_client_data("webauthn.create", options, origin, **lies)),
            "attestationObject": b64encode(cbor2.dumps(statement)),
            "transports": ["internal", "hybrid"],
        }
        return self._outside(response)

    def get(self, options: Mapping[str, Any], origin: str, /, **lies: Any) -> dict[str, Any]:
        """navigator.credentials.get(), as JSON."""
        self.count = lies.get("count", self.count + 1)
        data = self._data(options["rpId"], lies.get("flags", USER_PRESENT | USER_VERIFIED), self.count, **lies)
        said = _client_data("webauthn.get", options, origin, **lies)
        signature = lies.get("sign", self._sign)(data + hashlib.sha256(said).digest())
        handle = lies.get("handle", self.handle)
        response = {
            "clientDataJSON": b64encode(said),
            "authenticatorData": b64encode(data),
            "signature": b64encode(signature),
            "userHandle": None if handle is None else b64encode(handle),
        }
        return self._outside(response)

    def _data(self, rp_id: str, flags: int, count: int, /, **lies: Any) -> bytes:
        rp = hashlib.sha256(lies.get("rp_id", rp_id).encode()).digest()
        return rp + bytes([flags]) + count.to_bytes(4, "big")

    def _sign(self, message: bytes) -> bytes:
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            return self.key.sign(message, ec.ECDSA(hashes.SHA256()))
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return self.key.sign(message)

    def _outside(self, response: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": b64encode(self.credential),
            "rawId": b64encode(self.credential),
            "type": "public-key",
            "authenticatorAttachment": "platform",
            "clientExtensionResults": {},
            "response": response,
        }


def _client_data(kind: str, options: Mapping[str, Any], origin: str, /, **lies: Any) -> bytes:
    found = {
        "type": lies.get("type", kind),
        "challenge": lies.get("challenge", options["challenge"]),
        "origin": lies.get("origin", origin),
        "crossOrigin": lies.get("cross_origin", False),
    }
    return json.dumps(found).encode()


SIGN_IN = "/v1/admin/sign-in"


class Browser(Caller):
    """A browser's session key: it signs calls, first for itself and then for who signed in with it."""

    def __init__(self, world: World) -> None:
        super().__init__(world, SoftwareKey(ec.generate_private_key(ec.SECP256R1())))

    @property
    def origin(self) -> str:
        return self.world.settings.console_origin

    @property
    def public(self) -> str:
        return b64encode(self.key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    def begin(self, way: str, **message: Any) -> dict[str, Any]:
        """The first step of a way in: passkey or invitation."""
        body = write_object({"v": 1, "key": self.public, **message})
        answer = self.world.post(f"{SIGN_IN}/{way}/begin", body)
        assert answer.status_code == 200, answer.text
        return dict(answer.get_json())

    def finish(self, way: str, message: Mapping[str, Any], **lies: Any) -> TestResponse:
        """The last step, signed by the session key."""
        return self.post(f"{SIGN_IN}/{way}", {"v": 1, "key": self.public, "browser": BROWSER, **message}, **lies)

    def accept(self, token: str, passkey: Authenticator, **lies: Any) -> TestResponse:
        """An invitation: registers the passkey and signs in."""
        begun = self.begin("invitation", token=token)
        made = passkey.create(begun["options"], self.origin, **lies)
        message = {"token": token, "challenge": begun["challenge"], "credential": made, "label": "laptop"}
        return self.finish("invitation", message)

    def sign_in(self, passkey: Authenticator, **lies: Any) -> TestResponse:
        begun = self.begin("passkey")
        proof = passkey.get(begun["options"], self.origin, **lies)
        return self.finish("passkey", {"challenge": begun["challenge"], "credential": proof})

    def touch(self, passkey: Authenticator, method: str, path: str, body: bytes = b"", **lies: Any) -> dict[str, str]:
        """The header that confirms one act."""
        asked = {"method": method, "path": path, "body_sha256": b64encode(hashlib.sha256(body).digest())}
        answer = self.post("/v1/admin/touch/begin", {"v": 1, **asked})
        assert answer.status_code == 200, answer.text
        begun = answer.get_json()
        proof = passkey.get(begun["options"], self.origin, **lies)
        return {"Attestd-Touch": touch_header(begun["challenge"], proof)}


def touch_header(challenge: str, credential: Mapping[str, Any]) -> str:
    return b64encode(write_object({"challenge": challenge, "credential": credential}))


def invite(world: World, name: str, role: str) -> dict[str, Any]:
    """A one-time link, by the admin's own key."""
    answer = world.admin.post("/v1/admin/invitations", {"v": 1, "name": name, "role": role})
    assert answer.status_code == 201, answer.text
    return dict(answer.get_json())


class Person(Browser):
    """Somebody with a passkey, signed in."""

    def __init__(self, world: World, name: str, role: str, passkey: Authenticator | None = None) -> None:
        super().__init__(world)
        self.name, self.passkey = name, passkey or Authenticator()
        answer = self.accept(invite(world, name, role)["token"], self.passkey)
        assert answer.status_code == 201, answer.text
        self.session: dict[str, Any] = answer.get_json()["session"]

    def another_browser(self) -> Browser:
        """The same person in another session."""
        browser = Browser(self.world)
        answer = browser.sign_in(self.passkey)
        assert answer.status_code == 201, answer.text
        return browser

    def confirmed(
        self, method: str, path: str, message: Mapping[str, Any] | bytes = b"", **options: Any
    ) -> TestResponse:
        """The act, confirmed with the passkey."""
        body = message if isinstance(message, bytes) else write_object(message)
        headers = {**options.pop("headers", {}), **self.touch(self.passkey, method, path, body)}
        kind = options.pop("content_type", "application/json" if body else None)
        return self.open(method, path, body, headers=headers, content_type=kind, **options)
