"""Who calls: operators and edge proxies, by the key that the registry knows them by (docs/protocol.md, section 9).

Their requests are ordinary bodies with a detached signature in `Authorization`, so that no TLS terminator in between
can act in their name. The envelope's `kid` is the key's RFC 7638 thumbprint.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.sealing import SealingKeys
from attestd.credentials.requests import verify_request
from attestd.errors import Unauthenticated
from attestd.ids import Serial, Site
from attestd.issuance.challenges import RequestNonce
from attestd.protocol.derivations import request_digest
from attestd.protocol.encoding import MalformedBase64, b64decode
from attestd.protocol.signed import SignedEnvelope
from attestd.registry import issued, operators, proxies, spends
from attestd.registry.engine import Registry


class CallerUnknown(Unauthenticated):
    """No caller with this key may sign requests here"""

    remedy = "Use the key that `attestd init` made, or have an admin register this one."


class CallerDisabled(Unauthenticated):
    """This caller has been disabled"""

    remedy = "Ask an admin of this service."


class CallerExpired(Unauthenticated):
    """This caller's credential has expired or was revoked"""

    remedy = "`attestd admin renew` on the service's machine; a proxy's is renewed by `attestd proxies add`."


class CallNonceSpent(Unauthenticated):
    """The call's nonce has been used"""

    remedy = "Sign the call again with the nonce of this answer's Replay-Nonce header."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who signed the call. `role` is viewer, operator, admin or proxy; `site` is a proxy's own."""

    name: str
    role: str
    key: ec.EllipticCurvePublicKey
    site: Site | None = None

    @property
    def actor(self) -> str:
        """How audit rows name this caller."""
        return f"{'proxy' if self.role == 'proxy' else 'operator'}:{self.name}"


@dataclass(frozen=True, slots=True)
class Callers:
    """Proves callers. One object serves any number of requests."""

    registry: Registry
    sealing: SealingKeys

    def require(self, envelope: SignedEnvelope, *, url: str, method: str, now: datetime) -> Caller:
        """The caller that signed this envelope, for this URL and method.

        A nonce serves any number of reads until it expires, since a repeated read tells the same caller the same
        things; for a change it is spent. Raises Unauthenticated's children.
        """
        caller = self._registered(envelope.unverified_kid, now)
        verify_request(envelope, key=caller.key, url=url, method=method)
        nonce = RequestNonce.open(envelope.nonce, self.sealing)
        nonce.require_alive(now)
        if method not in ("GET", "HEAD"):
            self._spend(nonce, envelope, now)
        return caller

    def is_operator(self, kid: str, now: datetime) -> bool:
        """Whether calls signed by this key (its thumbprint) are an operator's, now."""
        try:
            return self._registered(kid, now).role != "proxy"
        except Unauthenticated:
            return False

    def _registered(self, unverified_kid: str, now: datetime) -> Caller:
        try:
            thumbprint = b64decode(unverified_kid, name="kid")
        except MalformedBase64:
            thumbprint = b""
        with self.registry.reading() as c:
            operator = operators.by_thumbprint(c, thumbprint)
            proxy = None if operator is not None else proxies.by_thumbprint(c, thumbprint)
            certificate = None
            if proxy is not None:
                with suppress(issued.UnknownCredential):  # forgotten, long after it expired
                    certificate = issued.by_serial(c, proxy.serial)
        if operator is not None:
            if operator.disabled_at is not None:
                raise CallerDisabled("This operator has been disabled.")
            held = x509.load_der_x509_certificate(operator.certificate)
            with self.registry.reading() as c:
                revoked = issued.is_revoked(c, Serial(held.serial_number))
            if revoked or held.not_valid_after_utc <= now:
                raise CallerExpired("This operator's credential has expired or was revoked.")
            return Caller(operator.name, operator.role.value, _key(operator.public_key))
        if proxy is not None:
            if proxy.disabled_at is not None:
                raise CallerDisabled("This proxy has been disabled.")
            if certificate is None or certificate.revoked_at is not None or certificate.not_after <= now.timestamp():
                raise CallerExpired("This proxy's credential has expired or was revoked.")
            return Caller(proxy.name, "proxy", _key(proxy.public_key), proxy.site)
        raise CallerUnknown("No caller with this key is registered.", seen=repr(unverified_kid[:64]))

    def _spend(self, nonce: RequestNonce, envelope: SignedEnvelope, now: datetime) -> None:
        try:
            self.registry.act(
                spends.spending(
                    nonce.id,
                    purpose="nonce",
                    request_digest=request_digest(envelope.signing_input),
                    now=int(now.timestamp()),
                    expires_at=nonce.expires_at + int(timedelta(minutes=1).total_seconds()),
                )
            )
        except spends.AlreadySpent:
            raise CallNonceSpent("This nonce has been used.") from None


def _key(public_key: bytes) -> ec.EllipticCurvePublicKey:
    key = serialization.load_der_public_key(public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CallerUnknown("This caller's key is of another kind.", seen=type(key).__name__)
    return key
