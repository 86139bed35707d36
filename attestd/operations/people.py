"""People: who is invited, whose passkeys and sessions there are, and how an admin ends them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from attestd.errors import Conflict, Forbidden, Unauthenticated
from attestd.ids import SpiffeId
from attestd.operations.act import Act
from attestd.operations.ceremonies import CeremonySpent, Challenge
from attestd.operations.passkeys import Answer, creation_options, verify_registration
from attestd.operations.sign_in import TOKEN, Begun, SignIn, add_passkey
from attestd.registry import identities, invitations, operators, passkeys, sessions
from attestd.registry.acts import perform
from attestd.registry.engine import Connection
from attestd.registry.invitations import Invitation
from attestd.registry.operators import Operator, OperatorTaken, Role
from attestd.registry.passkeys import Passkey
from attestd.registry.sessions import Session

INVITED_FOR: Final = timedelta(hours=24)
FIRST_PASSKEY_WITHIN: Final = 600  # seconds after the sign-in, for who has none to confirm with
ADDING: Final = "attestd/passkeys/1"


class NotYours(Forbidden):
    """This is somebody else's"""

    remedy = "Ask an admin of this service to do it."


class NoSession(Conflict):
    """There is no session here"""

    remedy = "This is for the console's sessions; who signs with a key of their own needs none of it."


class LastWayIn(Conflict):
    """This is the only way in that you have"""

    remedy = "Add another passkey first."


class SignInTooOld(Forbidden):
    """The sign-in is too long ago to register a first passkey"""

    remedy = "Sign in again, and add the passkey within ten minutes."


class PasskeyNotAdded(Forbidden):
    """The new passkey is not for this, or was not made in time"""

    remedy = "Begin again, and make it within two minutes. Nothing was added."


@dataclass(frozen=True, slots=True)
class Person:
    """Who acts on passkeys and sessions: an operator, and the session that they came by, if by one."""

    name: str
    is_admin: bool
    session: str = ""


@dataclass(frozen=True, slots=True)
class People:
    """One object serves any number of requests in any process."""

    sign_in: SignIn

    # ---- Invitations ------------------------------------------------------------------------------------------

    def invite(self, name: str, role: Role, act: Act) -> tuple[bytes, Invitation]:
        """A one-time link's secret, which is kept nowhere, and the invitation.

        For a name that is free or was disabled, for oneself, or for an operator of this role who has no passkey and no
        identity yet: nobody gets another's name who uses it. Raises MalformedName, OperatorTaken.
        """
        SpiffeId.of_operator(self.sign_in.settings.trust_domain, name)
        token = self.sign_in.entropy(TOKEN)
        digest, number = hashlib.sha256(token).digest(), self.sign_in.entropy(10).hex()
        with self.sign_in.registry.acting() as c:
            held = operators.find(c, name)
            if held is not None and held.disabled_at is None:
                self._require_free(c, held, role, act)
            invitations.add(
                c,
                id=number,
                token=digest,
                name=name,
                role=role,
                created_by=act.actor,
                now=act.at,
                expires_at=act.at + int(INVITED_FOR.total_seconds()),
            )
            act.note(c, "invite", name, role=role.value, invitation=number)
            return token, invitations.require_open(c, digest, now=act.at)

    def _require_free(self, c: Connection, held: Operator, role: Role, act: Act) -> None:
        if held.role is not role:
            raise OperatorTaken("This operator has another role.", seen=held.role.value, expected=role.value)
        has_way_in = passkeys.count(c, held.name) or identities.of_operator(c, held.name)
        if has_way_in and act.actor != f"operator:{held.name}":
            raise OperatorTaken(
                "This operator has a way in already.",
                seen=held.name,
                remedy="They can add passkeys themselves. If they lost all of them, remove those first.",
            )

    def withdraw(self, id: str, act: Act) -> Invitation:
        """Raises UnknownInvitation."""
        with self.sign_in.registry.acting() as c:
            invitation = invitations.withdraw(c, id, now=act.at)
            act.note(c, "withdraw-invitation", invitation.name, invitation=id)
        return invitation

    # ---- Passkeys ---------------------------------------------------------------------------------------------

    def has_passkeys(self, name: str) -> bool:
        with self.sign_in.registry.reading() as c:
            return passkeys.count(c, name) > 0

    def begin_passkey(self, person: Person, act: Act) -> Begun:
        """How a person makes another passkey; who has one confirmed with it before. Raises SignInTooOld for a first
        one in an old session: a session that was stolen shall not become a passkey. Raises PasskeysUnavailable."""
        with self.sign_in.registry.reading() as c:
            known = passkeys.of_operator(c, person.name)
            session = sessions.by_id(c, person.session) if person.session else None
        if not known and session is not None and act.at - session.began_at > FIRST_PASSKEY_WITHIN:
            raise SignInTooOld(seen=f"{act.at - session.began_at} s ago", expected=f"{FIRST_PASSKEY_WITHIN} s at most")
        bound = person.name.encode(), person.session.encode()
        challenge = Challenge.fresh(*bound, now=act.now, entropy=self.sign_in.entropy)
        sealed = challenge.seal(self.sign_in.sealing, ADDING, self.sign_in.entropy)
        return Begun(sealed, creation_options(self.sign_in.rp, sealed, person.name, known))

    def add_passkey(self, person: Person, sealed: bytes, answer: Answer, label: str, act: Act) -> Passkey:
        """Raises PasskeyNotAdded, PasskeyTaken, TooManyPasskeys, OperatorDisabled."""
        bound = person.name.encode(), person.session.encode()
        keys = self.sign_in.sealing
        try:
            challenge = Challenge.open(sealed, *bound, keys=keys, purpose=ADDING, now=act.now)
            made = verify_registration(self.sign_in.rp, answer, sealed)
        except Unauthenticated as refused:  # the caller is proven: this says nothing of the session
            raise PasskeyNotAdded(refused.detail, seen=refused.seen, expected=refused.expected) from None
        with self.sign_in.registry.acting() as c:
            operators.require_enabled(c, person.name)
            try:
                perform(c, challenge.spending(purpose="passkey", now=act.now))
            except CeremonySpent as spent:
                raise PasskeyNotAdded(spent.detail) from None
            return add_passkey(c, made, person.name, label, entropy=self.sign_in.entropy, act=act)

    def remove_passkey(self, person: Person, id: str, act: Act) -> Passkey:
        """One's own, or anybody's by an admin. The sessions that it opened end with it: it may have been stolen. Raises
        UnknownPasskey, NotYours, LastWayIn."""
        with self.sign_in.registry.acting() as c:
            passkey = passkeys.by_id(c, id)
            self._require_own(person, passkey.operator)
            passkeys.remove(c, id)
            owner = operators.by_name(c, passkey.operator)
            others = passkeys.count(c, owner.name) or identities.of_operator(c, owner.name) or owner.key
            if owner.name == person.name and not others:
                raise LastWayIn
            ended = sessions.end_by_passkey(c, id, because="its passkey was removed", now=act.at)
            act.note(c, "remove-passkey", passkey.operator, passkey=id, label=passkey.label, ended=ended)
        return passkey

    # ---- Sessions ---------------------------------------------------------------------------------------------

    def live_sessions(self, person: Person, act: Act) -> Sequence[Session]:
        """One's own; an admin sees everybody's."""
        whose = None if person.is_admin else person.name
        with self.sign_in.registry.reading() as c:
            return sessions.live(c, operator=whose, now=act.at, idle=self.sign_in.idle)

    def end_session(self, person: Person, id: str, act: Act) -> Session:
        """From its next call on the session is over, in every process. Raises UnknownSession, NotYours."""
        with self.sign_in.registry.acting() as c:
            session = sessions.by_id(c, id)
            self._require_own(person, session.operator)
            sessions.end(c, id, because=f"{act.actor} ended it", now=act.at)
            act.note(c, "end-session", session.operator, ended=id)
        return session

    def sign_out(self, person: Person, act: Act) -> None:
        """Raises NoSession."""
        if not person.session:
            raise NoSession
        with self.sign_in.registry.acting() as c:
            sessions.end(c, person.session, because="signed out", now=act.at)
            act.note(c, "sign-out", person.name)

    def _require_own(self, person: Person, operator: str) -> None:
        if operator != person.name and not person.is_admin:
            raise NotYours
