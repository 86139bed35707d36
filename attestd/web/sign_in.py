"""Where people sign in: public routes, whose last step the browser's session key signs (docs/sign-in.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from flask import Blueprint, Response, request

from attestd.callers import SessionKey
from attestd.operations.act import Act
from attestd.operations.ceremonies import MAX_CHALLENGE
from attestd.operations.oidc import MAX_STATE
from attestd.operations.passkeys import Answer
from attestd.operations.sign_in import TOKEN, Begun, Browser, NewSession
from attestd.protocol.encoding import Members, b64encode
from attestd.protocol.signed import SCHEME, SignedEnvelope
from attestd.registry.sessions import Session
from attestd.web.access import SignatureMissing, signed_url
from attestd.web.admin_views import Query, answer
from attestd.web.bodies import read_message
from attestd.web.context import Service, exchange

MAX_KEY: Final = 256  # octets of a session's public key
MAX_CODE: Final = 4096  # characters
_MAX_SAID: Final = 1024  # characters of what a browser says of itself
MAX_NAMED: Final = 240  # characters of a passkey's label


def session_members(session: Session, *, idle: int, current: str = "") -> dict[str, Any]:
    """A session as people see it; `current` is the id of the one that asks."""
    return {
        "id": session.id,
        "operator": session.operator,
        "role": session.role.value,
        "method": session.method,
        "began_at": session.began_at,
        "seen_at": session.seen_at,
        "ends_at": session.ends_at,
        "idle_until": min(session.ends_at, session.seen_at + idle),
        "browser": {"agent": session.agent, "address": session.address},
        "current": session.id == current,
    }


def begun_members(begun: Begun) -> dict[str, Any]:
    return {"challenge": b64encode(begun.challenge), "options": begun.options}


@dataclass(frozen=True, slots=True)
class _Door:
    service: Service

    def show(self) -> Response:
        """GET /v1/admin/sign-in"""
        Query()
        settings = self.service.settings
        return answer(
            {
                "trust_domain": settings.trust_domain,
                "passkeys": bool(settings.rp_id),
                "rp_id": settings.rp_id,
                "origins": [settings.console_origin],
                "providers": [{"name": each.name, "label": each.label} for each in settings.providers],
                "first_run": self.service.sign_in.is_first_run(),
            }
        )

    def begin_passkey(self) -> Response:
        """POST /v1/admin/sign-in/passkey/begin"""
        current = exchange()
        message = read_message(current.body)
        key = _key(message)
        message.done()
        return answer(begun_members(self.service.sign_in.begin_passkey(key.thumbprint, current.now)))

    def with_passkey(self) -> Response:
        """POST /v1/admin/sign-in/passkey"""
        message = read_message(exchange().body)
        new = self._new(message)
        challenge = _challenge(message)
        proof = Answer.assertion(message.object("credential"))
        message.done()
        return self._signed_in(self.service.sign_in.with_passkey(new, challenge, proof, _act()))

    def begin_invitation(self) -> Response:
        """POST /v1/admin/sign-in/invitation/begin"""
        current = exchange()
        message = read_message(current.body)
        key, token = _key(message), _token(message)
        message.done()
        invitation, begun = self.service.sign_in.begin_invitation(key.thumbprint, token, current.now)
        return answer({"name": invitation.name, "role": invitation.role.value, **begun_members(begun)})

    def with_invitation(self) -> Response:
        """POST /v1/admin/sign-in/invitation"""
        message = read_message(exchange().body)
        new = self._new(message)
        token, challenge = _token(message), _challenge(message)
        proof = Answer.registration(message.object("credential"))
        label = message.text("label", limit=MAX_NAMED) if "label" in message else ""
        message.done()
        return self._signed_in(
            self.service.sign_in.with_invitation(new, token, challenge, proof, label=label, act=_act())
        )

    def begin_oidc(self) -> Response:
        """POST /v1/admin/sign-in/oidc/begin"""
        current = exchange()
        message = read_message(current.body)
        key, provider = _key(message), message.text("provider", limit=64)
        redirect_uri = message.text("redirect_uri", limit=_MAX_SAID)
        token = _token(message) if "token" in message else None
        message.done()
        url, state = self.service.oidc.begin(key.thumbprint, provider, redirect_uri, token, current.now)
        return answer({"url": url, "state": b64encode(state)})

    def with_oidc(self) -> Response:
        """POST /v1/admin/sign-in/oidc"""
        message = read_message(exchange().body)
        new = self._new(message)
        state = message.octets("state", limit=MAX_STATE, least=1)
        code = message.text("code", limit=MAX_CODE)
        issuer = message.text("iss", limit=_MAX_SAID) if "iss" in message else None
        message.done()
        return self._signed_in(self.service.oidc.finish(new, state, code, issuer, _act()))

    def _new(self, message: Members) -> NewSession:
        """The session key in the message, which signed this request. Raises Unauthenticated's children."""
        current = exchange()
        key = _key(message)
        authorization = request.headers.get("Authorization", "")
        if not authorization:
            raise SignatureMissing(expected=f"Authorization: {SCHEME} <header>..<signature>")
        envelope = SignedEnvelope.parse_detached(authorization, current.body)
        url = signed_url(self.service, request)
        self.service.callers.require_key(envelope, key, url=url, method=request.method, now=current.now)
        said = message.object("browser")
        browser = Browser(said.text("agent", limit=_MAX_SAID), said.text("address", limit=_MAX_SAID))
        said.done()
        return NewSession(key.public_key, key.thumbprint, browser)

    def _signed_in(self, session: Session) -> Response:
        members = session_members(session, idle=self.service.sign_in.idle, current=session.id)
        return answer({"session": members}, status=201)


def _act() -> Act:
    """Whose act it is, the ceremony will tell."""
    current = exchange()
    return Act(actor="", now=current.now, request_id=current.request_id)


def _key(message: Members) -> SessionKey:
    return SessionKey.parse(message.octets("key", limit=MAX_KEY, least=1))


def _token(message: Members) -> bytes:
    return message.octets("token", limit=TOKEN, least=TOKEN)


def _challenge(message: Members) -> bytes:
    return message.octets("challenge", limit=MAX_CHALLENGE, least=1)


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    door = _Door(service)
    routes = Blueprint("sign_in", __name__, url_prefix="/v1/admin/sign-in")
    routes.get("")(door.show)
    routes.post("/passkey/begin")(door.begin_passkey)
    routes.post("/passkey")(door.with_passkey)
    routes.post("/invitation/begin")(door.begin_invitation)
    routes.post("/invitation")(door.with_invitation)
    routes.post("/oidc/begin")(door.begin_oidc)
    routes.post("/oidc")(door.with_oidc)
    return routes
