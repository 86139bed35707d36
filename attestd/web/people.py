"""People's own things: sessions, passkeys, the fresh touch; and whom an admin invites (docs/sign-in.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from flask import Blueprint, Response

from attestd.errors import MalformedInput
from attestd.operations.ceremonies import MAX_CHALLENGE
from attestd.operations.passkeys import Answer, described
from attestd.operations.people import NoSession, NotYours, Person
from attestd.operations.touch import Asked
from attestd.protocol.encoding import Members, b64encode
from attestd.registry import invitations, passkeys, sessions
from attestd.registry.invitations import Invitation
from attestd.registry.operators import Role
from attestd.web.admin_views import Query, answer
from attestd.web.bodies import only_reason, read_message
from attestd.web.context import Exchange, Service, exchange
from attestd.web.sign_in import MAX_NAMED, begun_members, session_members
from attestd.web.touching import METHODS, require_touch

MAX_PATH: Final = 2048
_PATH: Final = re.compile(r"/v1/admin/[!-~]*", re.ASCII)


class NotAnAct(MalformedInput):
    """This is no act that could be confirmed"""

    remedy = "Name the method and the path of a call to the admin API, and its body's SHA-256."


def person_of(current: Exchange) -> Person:
    caller = current.caller
    return Person(caller.name, caller.role == Role.ADMIN.value, caller.session)


@dataclass(frozen=True, slots=True)
class _People:
    service: Service

    # ---- Sessions ---------------------------------------------------------------------------------------------

    def show_session(self) -> Response:
        """GET /v1/admin/session"""
        Query()
        caller = exchange().caller
        with self.service.registry.reading() as c:
            held = passkeys.count(c, caller.name)
            found = sessions.by_id(c, caller.session) if caller.session else None
        idle = self.service.sign_in.idle
        return answer(
            {
                "trust_domain": self.service.settings.trust_domain,
                "operator": {"name": caller.name, "role": caller.role},
                "session": None if found is None else session_members(found, idle=idle, current=caller.session),
                "passkeys": held,
            }
        )

    def sign_out(self) -> Response:
        """DELETE /v1/admin/session"""
        current = exchange()
        self.service.people.sign_out(person_of(current), current.act())
        return answer({"id": current.caller.session})

    def list_sessions(self) -> Response:
        """GET /v1/admin/sessions: the live ones"""
        Query()
        current = exchange()
        found = self.service.people.live_sessions(person_of(current), current.act())
        idle = self.service.sign_in.idle
        return answer(
            {"sessions": [session_members(each, idle=idle, current=current.caller.session) for each in found]}
        )

    def end_session(self, id: str) -> Response:
        """POST /v1/admin/sessions/<id>/revoke"""
        current = exchange()
        reason = only_reason(current.body)
        self.service.people.end_session(person_of(current), id, current.act(reason))
        return answer({"id": id})

    # ---- Passkeys ---------------------------------------------------------------------------------------------

    def list_passkeys(self) -> Response:
        """GET /v1/admin/passkeys: one's own, or an operator's for an admin"""
        wanted = Query("operator").text("operator")
        person = person_of(exchange())
        name = person.name if wanted is None else wanted
        if name != person.name and not person.is_admin:
            raise NotYours
        with self.service.registry.reading() as c:
            found = passkeys.of_operator(c, name)
        return answer({"passkeys": [described(each) for each in found]})

    def begin_passkey(self) -> Response:
        """POST /v1/admin/passkeys/begin: who has a passkey confirms with it first"""
        current = exchange()
        read_message(current.body).done()
        person = person_of(current)
        if self.service.people.has_passkeys(person.name):
            require_touch(self.service, current)
        return answer(begun_members(self.service.people.begin_passkey(person, current.act())))

    def add_passkey(self) -> Response:
        """POST /v1/admin/passkeys"""
        current = exchange()
        message = read_message(current.body)
        challenge = message.octets("challenge", limit=MAX_CHALLENGE, least=1)
        proof = Answer.registration(message.object("credential"))
        label = message.text("label", limit=MAX_NAMED) if "label" in message else ""
        message.done()
        added = self.service.people.add_passkey(person_of(current), challenge, proof, label, current.act())
        return answer({"passkey": described(added)}, status=201)

    def remove_passkey(self, id: str) -> Response:
        """POST /v1/admin/passkeys/<id>/remove"""
        current = exchange()
        reason = only_reason(current.body)
        removed = self.service.people.remove_passkey(person_of(current), id, current.act(reason))
        return answer({"passkey": described(removed)})

    # ---- Invitations ------------------------------------------------------------------------------------------

    def list_invitations(self) -> Response:
        """GET /v1/admin/invitations: the open ones"""
        Query()
        with self.service.registry.reading() as c:
            found = invitations.every_open(c, now=int(exchange().now.timestamp()))
        return answer({"invitations": [_invitation_members(each) for each in found]})

    def invite(self) -> Response:
        """POST /v1/admin/invitations: the token is in this answer and nowhere else"""
        current = exchange()
        message = read_message(current.body)
        name, role = message.text("name", limit=64), Role.parse(message.text("role", limit=16))
        message.done()
        token, invitation = self.service.people.invite(name, role, current.act())
        link = f"{self.service.settings.console_origin}/first/{b64encode(token)}"
        return answer(
            {"token": b64encode(token), "link": link, **_invitation_members(invitation)},
            status=201,
        )

    def withdraw(self, id: str) -> Response:
        """POST /v1/admin/invitations/<id>/withdraw"""
        current = exchange()
        reason = only_reason(current.body)
        return answer(_invitation_members(self.service.people.withdraw(id, current.act(reason))))

    # ---- The fresh touch --------------------------------------------------------------------------------------

    def begin_touch(self) -> Response:
        """POST /v1/admin/touch/begin"""
        current = exchange()
        message = read_message(current.body)
        asked = _asked(message, current)
        message.done()
        if not current.caller.session:
            raise NoSession
        return answer(begun_members(self.service.touch.begin(asked, current.act())))


def _asked(message: Members, current: Exchange) -> Asked:
    method, path = message.text("method", limit=8), message.text("path", limit=MAX_PATH)
    if method not in METHODS or not _PATH.fullmatch(path):
        raise NotAnAct(seen=f"{method} {path}"[:120], expected="POST, PUT or DELETE of /v1/admin/…")
    digest = message.octets("body_sha256", limit=32, least=32)
    return Asked(current.caller.name, current.caller.session, method, path, digest)


def _invitation_members(invitation: Invitation) -> dict[str, Any]:
    return {
        "id": invitation.id,
        "name": invitation.name,
        "role": invitation.role.value,
        "created_at": invitation.created_at,
        "created_by": invitation.created_by,
        "expires_at": invitation.expires_at,
    }


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    people = _People(service)
    routes = Blueprint("people", __name__, url_prefix="/v1/admin")
    routes.get("/session")(people.show_session)
    routes.delete("/session")(people.sign_out)
    routes.get("/sessions")(people.list_sessions)
    routes.post("/sessions/<id>/revoke")(people.end_session)
    routes.get("/passkeys")(people.list_passkeys)
    routes.post("/passkeys/begin")(people.begin_passkey)
    routes.post("/passkeys")(people.add_passkey)
    routes.post("/passkeys/<id>/remove")(people.remove_passkey)
    routes.get("/invitations")(people.list_invitations)
    routes.post("/invitations")(people.invite)
    routes.post("/invitations/<id>/withdraw")(people.withdraw)
    routes.post("/touch/begin")(people.begin_touch)
    return routes
