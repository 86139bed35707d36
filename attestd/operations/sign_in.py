"""Signing in: how a person's browser gets a session (docs/sign-in.md).

The browser's session key is there before the session: every ceremony is bound to it, and the request that ends one is
signed by it. So what passes between browser, console and service opens no session for anybody else, and a session
that somebody began elsewhere can't be slipped into a browser. In every way in, one act spends the challenge (and the
invitation), notes the passkey's use, begins the session and writes the audit row: all or nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from attestd.ca.sealing import SealingKeys
from attestd.config import Settings
from attestd.operations.act import Act
from attestd.operations.ceremonies import Challenge, Entropy
from attestd.operations.passkeys import (
    Answer,
    PasskeyCopied,
    PasskeyRefused,
    PasskeyUnknown,
    RelyingParty,
    VerifiedPasskey,
    VerifiedUse,
    creation_options,
    request_options,
    verify_assertion,
    verify_registration,
)
from attestd.registry import identities, invitations, operators, passkeys, sessions
from attestd.registry.acts import perform
from attestd.registry.engine import Connection, Registry
from attestd.registry.invitations import Invitation
from attestd.registry.operators import Operator
from attestd.registry.passkeys import Passkey
from attestd.registry.sessions import Session

PASSKEY: Final = "attestd/sign-in/passkey/1"
INVITATION: Final = "attestd/sign-in/invitation/1"
TOKEN: Final = 32  # octets of an invitation's secret
MAX_LABEL: Final = 60  # characters
_MAX_AGENT: Final = 200
_MAX_ADDRESS: Final = 64


@dataclass(frozen=True, slots=True)
class Browser:
    """What a browser says of itself and where it came from: for people who look at their sessions, and no proof."""

    agent: str
    address: str

    @property
    def shown(self) -> Browser:
        """One line each, and short."""
        return Browser(_line(self.agent, _MAX_AGENT), _line(self.address, _MAX_ADDRESS))


@dataclass(frozen=True, slots=True)
class NewSession:
    """The public half of a browser's key, and what is to be told of the browser."""

    public_key: bytes  # SubjectPublicKeyInfo, DER; it signed the request
    thumbprint: bytes
    browser: Browser


@dataclass(frozen=True, slots=True)
class Begun:
    """What a browser needs to go on."""

    challenge: bytes
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SignIn:
    """The ways in. One object serves any number of requests in any process."""

    settings: Settings
    registry: Registry
    sealing: SealingKeys
    entropy: Entropy

    @property
    def rp(self) -> RelyingParty:
        return RelyingParty(self.settings.rp_id, self.settings.console_origin, self.settings.trust_domain)

    @property
    def idle(self) -> int:
        """Seconds without a call after which a session is over."""
        return int(self.settings.console.idle_timeout.total_seconds())

    def is_first_run(self) -> bool:
        """Whether nobody has a passkey or an identity yet."""
        with self.registry.reading() as c:
            return not (passkeys.any_at_all(c) or identities.any_at_all(c))

    # ---- A passkey --------------------------------------------------------------------------------------------

    def begin_passkey(self, thumbprint: bytes, now: datetime) -> Begun:
        """Nobody is named: the person chooses a passkey. Raises PasskeysUnavailable."""
        challenge = Challenge.fresh(thumbprint, now=now, entropy=self.entropy)
        sealed = challenge.seal(self.sealing, PASSKEY, self.entropy)
        return Begun(sealed, request_options(self.rp, sealed))

    def with_passkey(self, new: NewSession, sealed: bytes, answer: Answer, act: Act) -> Session:
        """A session for who holds the passkey. Raises ChallengeForeign and its siblings, PasskeyUnknown,
        PasskeyRefused, PasskeyCopied, OperatorDisabled, SessionKeyTaken."""
        challenge = Challenge.open(sealed, new.thumbprint, keys=self.sealing, purpose=PASSKEY, now=act.now)
        with self.registry.reading() as c:
            passkey = passkeys.by_credential(c, answer.id)
        if passkey is None:
            raise PasskeyUnknown
        if answer.user_handle is None:  # as discoverable ones always have (WebAuthn Level 3, section 7.2, step 6)
            raise PasskeyRefused("The passkey does not say whose it is.", expected="a user handle")
        use = self.verified(passkey, answer, sealed, act)
        act = replace(act, actor=f"operator:{passkey.operator}")
        with self.registry.acting() as c:
            perform(c, challenge.spending(purpose="sign-in", now=act.now))
            operator = operators.require_enabled(c, passkey.operator)
            note_use(c, passkey, use, act)
            return self.begin_session(c, operator, "passkey", new, act, passkey=passkey.id)

    def verified(self, passkey: Passkey, answer: Answer, sealed: bytes, act: Act) -> VerifiedUse:
        """`verify_assertion`; a passkey that may have been copied leaves an audit row, which webhooks hear of."""
        try:
            return verify_assertion(self.rp, answer, passkey, sealed)
        except PasskeyCopied as copied:
            with self.registry.acting() as c:
                told = replace(act, actor="attestd", reason="", session="")
                told.note(c, "passkey-copied", passkey.operator, passkey=passkey.id, seen=copied.seen)
            raise

    # ---- An invitation ----------------------------------------------------------------------------------------

    def begin_invitation(self, thumbprint: bytes, token: bytes, now: datetime) -> tuple[Invitation, Begun]:
        """Who the link is for, and how to make their passkey. Nothing is used up. Raises InvitationOver,
        PasskeysUnavailable."""
        digest = hashlib.sha256(token).digest()
        with self.registry.reading() as c:
            invitation = invitations.require_open(c, digest, now=int(now.timestamp()))
            known = passkeys.of_operator(c, invitation.name)
        challenge = Challenge.fresh(thumbprint, digest, now=now, entropy=self.entropy)
        sealed = challenge.seal(self.sealing, INVITATION, self.entropy)
        return invitation, Begun(sealed, creation_options(self.rp, sealed, invitation.name, known))

    def with_invitation(
        self, new: NewSession, token: bytes, sealed: bytes, answer: Answer, *, label: str, act: Act
    ) -> Session:
        """Registers the passkey and signs in. Raises ChallengeForeign and its siblings, InvitationOver,
        PasskeyRefused, PasskeyTaken, OperatorTaken, SessionKeyTaken."""
        digest = hashlib.sha256(token).digest()
        challenge = Challenge.open(sealed, new.thumbprint, digest, keys=self.sealing, purpose=INVITATION, now=act.now)
        made = verify_registration(self.rp, answer, sealed)
        with self.registry.acting() as c:
            perform(c, challenge.spending(purpose="sign-in", now=act.now))
            invitation = invitations.spend(c, digest, now=act.at)
            operator = operators.admit_person(c, name=invitation.name, role=invitation.role, now=act.at)
            act = replace(act, actor=f"operator:{operator.name}")
            passkey = add_passkey(c, made, operator.name, label, entropy=self.entropy, act=act)
            act.note(c, "accept-invitation", operator.name, invitation=invitation.id, role=operator.role.value)
            return self.begin_session(c, operator, "invitation", new, act, passkey=passkey.id)

    def begin_session(
        self,
        c: Connection,
        operator: Operator,
        method: str,
        new: NewSession,
        act: Act,
        *,
        passkey: str | None = None,
        **detail: Any,
    ) -> Session:
        """The session and its audit row, in the act that proved the person. Raises SessionKeyTaken."""
        lifetime = int(self.settings.console.session_lifetime.total_seconds())
        browser = new.browser.shown
        session = sessions.begin(
            c,
            id=self.entropy(10).hex(),
            thumbprint=new.thumbprint,
            public_key=new.public_key,
            operator=operator.name,
            method=method,
            passkey=passkey,
            agent=browser.agent,
            address=browser.address,
            now=act.at,
            ends_at=act.at + lifetime,
            idle=self.idle,
        )
        act = replace(act, session=session.id)
        if passkey is not None:
            detail["passkey"] = passkey
        act.note(c, "sign-in", operator.name, method=method, address=browser.address, **detail)
        return session


def note_use(c: Connection, passkey: Passkey, use: VerifiedUse, act: Act) -> None:
    """Raises PasskeyUsedMeanwhile, and UnknownPasskey for one that was removed in between."""
    passkeys.by_id(c, passkey.id)
    passkeys.used(c, passkey, sign_count=use.sign_count, backed_up=use.backed_up, now=act.at)


def add_passkey(
    c: Connection, made: VerifiedPasskey, operator: str, label: str, *, entropy: Entropy, act: Act
) -> Passkey:
    """Raises PasskeyTaken, TooManyPasskeys."""
    passkey = passkeys.add(
        c,
        id=entropy(10).hex(),
        credential=made.credential,
        operator=operator,
        public_key=made.public_key,
        sign_count=made.sign_count,
        label=_line(label, MAX_LABEL) or "passkey",
        transports=made.transports,
        backed_up=made.backed_up,
        now=act.at,
    )
    act.note(c, "add-passkey", operator, passkey=passkey.id, label=passkey.label)
    return passkey


def _line(text: str, limit: int) -> str:
    """What of a text can be shown in one line."""
    return "".join(character for character in text if character.isprintable()).strip()[:limit]
