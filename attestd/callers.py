"""Who calls: operators, edge proxies and the console's sessions, by the key that the registry knows them by
(docs/protocol.md, section 9).

Their requests are ordinary bodies with a detached signature in `Authorization`, so that no TLS terminator in between
can act in their name. The envelope's `kid` is the key's RFC 7638 thumbprint.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.sealing import SealingKeys
from attestd.credentials.jwk import jwk_thumbprint
from attestd.credentials.requests import verify_request
from attestd.errors import MalformedInput, Unauthenticated
from attestd.ids import Serial, Site
from attestd.issuance.challenges import RequestNonce
from attestd.protocol.derivations import request_digest
from attestd.protocol.encoding import MalformedBase64, b64decode, b64encode
from attestd.protocol.signed import SignedEnvelope
from attestd.registry import issued, operators, proxies, sessions, spends
from attestd.registry.engine import Registry
from attestd.registry.sessions import Session


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


class SessionOver(Unauthenticated):
    """This session is over"""

    remedy = "Sign in again."


class SessionKeyUnusable(MalformedInput):
    """This is not a session's public key"""

    remedy = "Send the public half of a P-256 key: SubjectPublicKeyInfo in DER, base64url."


class KeyMismatch(Unauthenticated):
    """The call is not signed by the key that it names"""

    remedy = "Sign it with the session key that the message holds."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who signed the call. `role` is viewer, operator, admin or proxy; `site` is a proxy's own; `session` is the id of
    the console's session that called for an operator, empty for who signs with a key of their own."""

    name: str
    role: str
    key: ec.EllipticCurvePublicKey
    site: Site | None = None
    session: str = ""

    @property
    def actor(self) -> str:
        """How audit rows name this caller."""
        return f"{'proxy' if self.role == 'proxy' else 'operator'}:{self.name}"


@dataclass(frozen=True, slots=True)
class Callers:
    """Proves callers. One object serves any number of requests."""

    registry: Registry
    sealing: SealingKeys
    idle_timeout: timedelta = timedelta(minutes=30)  # of sessions

    def require(self, envelope: SignedEnvelope, *, url: str, method: str, now: datetime, seen: bool = True) -> Caller:
        """The caller that signed this envelope, for this URL and method.

        A nonce serves any number of reads until it expires, since a repeated read tells the same caller the same
        things; for a change it is spent. `seen`: it is a sign that somebody is there, which keeps a session from being
        idle. Raises Unauthenticated's children.
        """
        caller = self._registered(envelope.unverified_kid, now, seen=seen)
        verify_request(envelope, key=caller.key, url=url, method=method)
        self._require_fresh(envelope, method, now)
        return caller

    def require_key(self, envelope: SignedEnvelope, key: SessionKey, *, url: str, method: str, now: datetime) -> None:
        """That this very key signed, whosever it is: how a session key proves itself before there is a session.

        Raises KeyMismatch and Unauthenticated's other children.
        """
        if envelope.unverified_kid != b64encode(key.thumbprint):
            raise KeyMismatch
        verify_request(envelope, key=key.key, url=url, method=method)
        self._require_fresh(envelope, method, now)

    def is_operator(self, kid: str, now: datetime) -> bool:
        """Whether calls signed by this key (its thumbprint) are an operator's, now. To ask is no sign of life: a
        session whose page only listens ends as one that does nothing."""
        try:
            return self._registered(kid, now, seen=False).role != "proxy"
        except Unauthenticated:
            return False

    def _require_fresh(self, envelope: SignedEnvelope, method: str, now: datetime) -> None:
        nonce = RequestNonce.open(envelope.nonce, self.sealing)
        nonce.require_alive(now)
        if method not in ("GET", "HEAD"):
            self._spend(nonce, envelope, now)

    def _registered(self, unverified_kid: str, now: datetime, *, seen: bool = True) -> Caller:
        try:
            thumbprint = b64decode(unverified_kid, name="kid")
        except MalformedBase64:
            thumbprint = b""
        with self.registry.reading() as c:
            operator = operators.by_thumbprint(c, thumbprint)
            proxy = None if operator is not None else proxies.by_thumbprint(c, thumbprint)
            session = None if operator or proxy else sessions.by_thumbprint(c, thumbprint)
            certificate = None
            if proxy is not None:
                with suppress(issued.UnknownCredential):  # forgotten, long after it expired
                    certificate = issued.by_serial(c, proxy.serial)
        if session is not None:
            return self._of_session(session, int(now.timestamp()), seen=seen)
        if operator is not None and operator.key is not None:
            if operator.disabled_at is not None:
                raise CallerDisabled("This operator has been disabled.")
            held = x509.load_der_x509_certificate(operator.key.certificate)
            with self.registry.reading() as c:
                revoked = issued.is_revoked(c, Serial(held.serial_number))
            if revoked or held.not_valid_after_utc <= now:
                raise CallerExpired("This operator's credential has expired or was revoked.")
            return Caller(operator.name, operator.role.value, _key(operator.key.public_key))
        if proxy is not None:
            if proxy.disabled_at is not None:
                raise CallerDisabled("This proxy has been disabled.")
            if certificate is None or certificate.revoked_at is not None or certificate.not_after <= now.timestamp():
                raise CallerExpired("This proxy's credential has expired or was revoked.")
            return Caller(proxy.name, "proxy", _key(proxy.public_key), proxy.site)
        raise CallerUnknown("No caller with this key is registered.", seen=repr(unverified_kid[:64]))

    def _of_session(self, session: Session, at: int, *, seen: bool) -> Caller:
        """The operator as they are now: a role that changed counts at once."""
        idle = int(self.idle_timeout.total_seconds())
        if session.disabled or session.is_over(now=at, idle=idle):
            raise SessionOver(seen=session.ended_because or "it was idle for too long, or open for too long")
        if seen and at - session.seen_at >= sessions.SEEN_EVERY:
            with self.registry.acting() as c:
                sessions.seen(c, session, now=at)
        return Caller(session.operator, session.role.value, _key(session.public_key), session=session.id)

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


@dataclass(frozen=True, slots=True)
class SessionKey:
    """The public half of a browser's key: P-256."""

    key: ec.EllipticCurvePublicKey
    public_key: bytes  # SubjectPublicKeyInfo, DER
    thumbprint: bytes  # RFC 7638

    @classmethod
    def parse(cls, public_key: bytes) -> Self:
        """Raises SessionKeyUnusable, also for a second spelling of a key."""
        try:
            key = serialization.load_der_public_key(public_key)
        except (ValueError, UnsupportedAlgorithm):
            raise SessionKeyUnusable(expected="SubjectPublicKeyInfo in DER") from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise SessionKeyUnusable("This key is of another kind.", seen=type(key).__name__, expected="P-256")
        written = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if written != public_key:
            raise SessionKeyUnusable("This key is written in another way than it must be.")
        return cls(key, public_key, b64decode(jwk_thumbprint(key)))


def _key(public_key: bytes) -> ec.EllipticCurvePublicKey:
    key = serialization.load_der_public_key(public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CallerUnknown("This caller's key is of another kind.", seen=type(key).__name__)
    return key
