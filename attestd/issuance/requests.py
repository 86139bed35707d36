"""Proving a known device's request, before any verb looks at it (docs/protocol.md, section 2).

Every request is a JWS signed by the device's credential key:

1. The nonce is one that this service sealed: what is not costs no question to the registry.
2. The device is known and has a credential key; the signature over the exact octets is that key's, for this URL.
3. The nonce is unspent and in time. A spent one is looked up before its expiry is checked.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.sealing import SealingKeys
from attestd.credentials.jws import SignatureWrong
from attestd.credentials.requests import verify_request
from attestd.errors import Unauthenticated
from attestd.ids import DeviceId, MalformedName
from attestd.issuance.challenges import RequestNonce
from attestd.issuance.known import DeviceUnknown, KnownDevice
from attestd.issuance.records import require_standing
from attestd.protocol.derivations import request_digest
from attestd.protocol.signed import SignedEnvelope
from attestd.registry import issued
from attestd.registry.engine import Registry
from attestd.registry.spends import Spent
from attestd.registry.standing import for_request
from attestd.registry.states import UnknownDevice


class NonceSpent(Unauthenticated):
    """The request's nonce has been used"""

    remedy = "Sign the request again with the nonce of this answer's Replay-Nonce header."


@dataclass(frozen=True, slots=True)
class Requested:
    """A signed request after steps 1 to 3: `payload` is what this device signed."""

    device: KnownDevice
    payload: bytes
    nonce: RequestNonce
    sealed_nonce: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class DeviceRequests:
    """Proves requests. One object serves any number of them."""

    registry: Registry
    sealing: SealingKeys

    def require(self, envelope: SignedEnvelope, *, url: str, now: datetime) -> Requested | bytes:
        """Steps 1 to 3. Octets: the stored answer to this very request, which was made before."""
        nonce = RequestNonce.open(envelope.nonce, self.sealing)  # 1
        device, spent = self._read(envelope.unverified_kid, nonce)
        try:
            payload = verify_request(envelope, key=device.key, url=url, method="POST")  # 2
        except SignatureWrong:
            if spent is None or (former := self._key_before(device, spent)) is None:
                raise
            payload = verify_request(envelope, key=former, url=url, method="POST")
        digest = request_digest(envelope.signing_input)
        if spent is not None:  # 3
            same = hmac.compare_digest(spent.request_digest, digest)
            if not same or spent.answer is None or spent.serial is None or spent.device_id != device.id:
                raise NonceSpent("This nonce has been used.")
            with self.registry.reading() as c:
                require_standing(c, device.id, spent.serial, now)
            return spent.answer
        nonce.require_alive(now)
        return Requested(device, payload, nonce, envelope.nonce, digest)

    def _key_before(self, device: KnownDevice, spent: Spent) -> ec.EllipticCurvePublicKey | None:
        """The key that the device had before the certificate of this answer: a re-keying is signed by the key that it
        replaces, so it is what the same request is signed by when it comes again."""
        if spent.serial is None or spent.device_id != device.id:
            return None
        with self.registry.reading() as c:
            number = issued.by_serial(c, spent.serial).number
            before = issued.page(c, device_id=device.id, before=number, limit=1)
        key = x509.load_der_x509_certificate(before[0].der).public_key() if before else None
        return key if isinstance(key, ec.EllipticCurvePublicKey) else None

    def _read(self, unverified_kid: str, nonce: RequestNonce) -> tuple[KnownDevice, Spent | None]:
        """The device that the request names, and what became of its nonce, at one moment."""
        try:
            standing, spent = for_request(self.registry, DeviceId(unverified_kid), nonce.id)
            return KnownDevice.of(standing), spent
        except (MalformedName, UnknownDevice):
            raise DeviceUnknown("No device of this name is enrolled here.", seen=repr(unverified_kid[:64])) from None
