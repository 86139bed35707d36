"""Signing in with an OpenID provider: the ceremony, and who may come in (docs/sign-in.md).

The state is sealed: it carries the nonce and the PKCE verifier, and binds the browser's session key, the provider and
the invitation. So a code serves the browser that asked for it, at the provider that it was asked of, once.

Who comes in is known by issuer and subject, never by an email address or a user name: those change hands. Either an
invitation bound the two to an operator, or what the provider says gives a role by the settings; then the operator is
made at the first sign-in, under a name that is nobody else's, and has at each sign-in the role that the provider says.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Self

from attestd.ca.sealing import SealBroken
from attestd.config import OidcSettings
from attestd.errors import Forbidden, MalformedInput, NotFound
from attestd.operations.act import Act
from attestd.operations.ceremonies import CeremonySpent, ChallengeForeign, ChallengeLate
from attestd.operations.provider import Provider, VerifiedToken
from attestd.operations.sign_in import NewSession, SignIn
from attestd.protocol.encoding import Members, b64encode, read_object, write_object
from attestd.registry import identities, invitations, operators, sessions, spends
from attestd.registry.acts import Step, perform
from attestd.registry.engine import Connection
from attestd.registry.operators import Operator, OperatorDisabled, Role
from attestd.registry.sessions import Session

PURPOSE: Final = "attestd/sign-in/oidc/1"
LIFETIME: Final = timedelta(minutes=10)  # people look for their second factor
RETURN: Final = "/sign-in/return"  # where a provider sends browsers back to: below the console's origin, nowhere else
MAX_STATE: Final = 1024  # octets, sealed
_NAME: Final = re.compile(r"[^a-z0-9._-]+", re.ASCII)
_NAMES: Final = ("preferred_username", "email", "name")
_HIGHEST_FIRST: Final = (Role.ADMIN, Role.OPERATOR, Role.VIEWER)


class UnknownProvider(NotFound):
    """There is no such identity provider"""

    remedy = "Choose one of those that the sign-in page shows; attestd.toml has them as [console.oidc.NAME]."


class ReturnElsewhere(MalformedInput):
    """The identity provider would send the browser elsewhere"""

    remedy = "Set console.origin in attestd.toml to the address that browsers find the console at."


class NotInvited(Forbidden):
    """Nobody here is known by this identity"""

    remedy = (
        "Ask an admin for an invitation (`attestd operators invite NAME --role ROLE`), and choose this provider on the "
        "page that its link opens; or to give your group a role: [console.oidc.NAME] roles in attestd.toml."
    )


@dataclass(frozen=True, slots=True)
class _State:
    """What the ceremony is about, from begin to end."""

    id: bytes
    expires_at: int
    thumbprint: bytes
    provider: str
    nonce: str
    verifier: str
    token: bytes  # an invitation's SHA-256, or nothing

    def seal(self, sign_in: SignIn) -> bytes:
        members = {
            "id": b64encode(self.id),
            "until": self.expires_at,
            "key": b64encode(self.thumbprint),
            "provider": self.provider,
            "nonce": self.nonce,
            "verifier": self.verifier,
            "token": b64encode(self.token),
        }
        return sign_in.sealing.seal(write_object(members), purpose=PURPOSE, entropy=sign_in.entropy)

    @classmethod
    def open(cls, sealed: bytes, sign_in: SignIn, *, thumbprint: bytes, now: datetime) -> Self:
        """Raises ChallengeForeign, ChallengeLate."""
        try:
            content = sign_in.sealing.open(sealed, purpose=PURPOSE)
        except SealBroken:
            raise ChallengeForeign from None
        members = Members(read_object(content, limit=MAX_STATE), "state")
        state = cls(
            id=members.octets("id", limit=16),
            expires_at=members.integer("until"),
            thumbprint=members.octets("key", limit=32),
            provider=members.text("provider"),
            nonce=members.text("nonce"),
            verifier=members.text("verifier"),
            token=members.octets("token", limit=32),
        )
        if state.thumbprint != thumbprint:
            raise ChallengeForeign
        if now.timestamp() >= state.expires_at:
            raise ChallengeLate
        return state

    def spending(self, now: int) -> Step:
        step = spends.spending(
            self.id,
            purpose="sign-in",
            request_digest=hashlib.sha256(self.thumbprint).digest(),
            now=now,
            expires_at=self.expires_at + 60,
        )
        return Step(step.statement, step.values, taken=CeremonySpent)


@dataclass(frozen=True, slots=True)
class Oidc:
    """One object serves any number of requests in any process."""

    sign_in: SignIn
    providers: Mapping[str, Provider]

    def begin(
        self, thumbprint: bytes, name: str, redirect_uri: str, token: bytes | None, now: datetime
    ) -> tuple[str, bytes]:
        """Where the browser goes, and the sealed state. Raises UnknownProvider, ReturnElsewhere, InvitationOver, and
        the provider's errors."""
        provider = self._provider(name)
        if redirect_uri != self._return:
            raise ReturnElsewhere(seen=repr(redirect_uri)[:200], expected=self._return)
        digest = b"" if token is None else hashlib.sha256(token).digest()
        if token is not None:
            with self.sign_in.registry.reading() as c:
                invitations.require_open(c, digest, now=int(now.timestamp()))
        entropy = self.sign_in.entropy
        nonce, verifier = b64encode(entropy(24)), b64encode(entropy(48))
        until = int((now + LIFETIME).timestamp())
        state = _State(entropy(16), until, thumbprint, name, nonce, verifier, digest)
        sealed = state.seal(self.sign_in)
        url = provider.authorization_url(
            redirect_uri=redirect_uri, state=b64encode(sealed), nonce=nonce, verifier=verifier
        )
        return url, sealed

    def finish(self, new: NewSession, sealed: bytes, code: str, issuer: str | None, act: Act) -> Session:
        """A session for who the provider says it is. `issuer` is what the provider's answer named, if it did.

        Raises ChallengeForeign and its siblings, CodeRefused, IdTokenRefused, NotInvited, InvitationOver,
        IdentityTaken, OperatorDisabled, SessionKeyTaken, and the provider's errors.
        """
        state = _State.open(sealed, self.sign_in, thumbprint=new.thumbprint, now=act.now)
        provider = self._provider(state.provider)
        provider.require_issuer(issuer)
        proven = provider.redeem(
            code, redirect_uri=self._return, verifier=state.verifier, nonce=state.nonce, now=act.now
        )
        role = role_by_claims(provider.settings, proven.claims)
        self._end_what_claims_gave(proven, role, act)
        with self.sign_in.registry.acting() as c:
            perform(c, state.spending(act.at))
            operator = self._operator(c, state, proven, role, act)
            act = replace(act, actor=f"operator:{operator.name}")
            return self.sign_in.begin_session(c, operator, "oidc", new, act, provider=state.provider)

    @property
    def _return(self) -> str:
        return self.sign_in.settings.console_origin + RETURN

    def _provider(self, name: str) -> Provider:
        try:
            return self.providers[name]
        except KeyError:
            raise UnknownProvider(seen=repr(name[:40]), expected=", ".join(self.providers)) from None

    def _operator(self, c: Connection, state: _State, proven: VerifiedToken, role: Role | None, act: Act) -> Operator:
        """1. Who was invited. 2. Who is known. 3. Who has a role by what the provider says."""
        known = identities.find(c, proven.issuer, proven.subject)
        if state.token:  # 1
            if known is not None:
                raise identities.IdentityTaken
            invitation = invitations.spend(c, state.token, now=act.at)
            operator = operators.admit_person(c, name=invitation.name, role=invitation.role, now=act.at)
            self._bind(c, proven, operator, act, by_claims=False)
            told = replace(act, actor=f"operator:{operator.name}")
            told.note(c, "accept-invitation", operator.name, invitation=invitation.id, role=operator.role.value)
            return operator
        if known is not None:  # 2
            operator = operators.require_enabled(c, known.operator)
            identities.used(c, known, now=act.at)
            if known.by_claims and role is not None and operator.role is not role:
                operators.set_role(c, operator.name, role)
                told = replace(act, actor="attestd")
                told.note(c, "change-role", operator.name, role=role.value, before=operator.role.value)
                return replace(operator, role=role)
            return operator
        if role is None:
            raise _not_invited(proven)
        name = _free_name(c, proven)  # 3
        operator = operators.add_person(c, name=name, role=role, now=act.at)
        self._bind(c, proven, operator, act, by_claims=True)
        return operator

    def _bind(self, c: Connection, proven: VerifiedToken, operator: Operator, act: Act, *, by_claims: bool) -> None:
        identities.bind(
            c,
            issuer=proven.issuer,
            subject=proven.subject,
            operator=operator.name,
            by_claims=by_claims,
            now=act.at,
        )
        told = replace(act, actor=f"operator:{operator.name}")
        told.note(
            c, "bind-identity", operator.name, issuer=proven.issuer, known_as=proven.subject, role=operator.role.value
        )

    def _end_what_claims_gave(self, proven: VerifiedToken, role: Role | None, act: Act) -> None:
        """Whose role the provider does not say any more has no session either. Raises NotInvited, OperatorDisabled."""
        with self.sign_in.registry.reading() as c:
            known = identities.find(c, proven.issuer, proven.subject)
            held = None if known is None else operators.by_name(c, known.operator)
        if held is not None and held.disabled_at is not None:
            raise OperatorDisabled
        if known is None or not known.by_claims or role is not None:
            return
        with self.sign_in.registry.acting() as c:
            ended = sessions.end_of(c, known.operator, because="the provider gives no role any more", now=act.at)
            if ended:
                replace(act, actor="attestd").note(c, "end-sessions", known.operator, ended=ended)
        raise _not_invited(proven)


def role_by_claims(settings: OidcSettings, claims: Mapping[str, Any]) -> Role | None:
    """The highest role that the claim's values give; the claim is a string, or a list of strings. A claim within
    another is named with dots, like `realm_access.roles`, unless there is one of the whole name."""
    if not settings.roles_claim:
        return None
    said: Any = claims.get(settings.roles_claim)
    if said is None:
        said = claims
        for part in settings.roles_claim.split("."):
            said = said.get(part) if isinstance(said, dict) else None
    listed = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    values = {value for value in listed if isinstance(value, str)}
    for role in _HIGHEST_FIRST:
        if values.intersection(settings.roles.get(role.value, ())):
            return role
    return None


def _not_invited(proven: VerifiedToken) -> NotInvited:
    return NotInvited(seen=f"{proven.subject} of {proven.issuer}")


def _free_name(c: Connection, proven: VerifiedToken) -> str:
    """A name to recognise the person by, and nobody else's, also not of one who was disabled: what a provider calls
    somebody gives no right to a name."""
    said = next((claim for name in _NAMES if isinstance(claim := proven.claims.get(name), str) and claim), "person")
    stem = _NAME.sub("-", said.partition("@")[0].lower()).strip("-._")[:40] or "person"
    if operators.find(c, stem) is None:
        return stem
    digest = hashlib.sha256(f"{proven.issuer}\0{proven.subject}".encode()).hexdigest()
    return f"{stem}-{digest[:12]}"
