"""The fresh touch: who acts through the console confirms a dangerous act with a passkey, that act and no other.

The challenge binds the session, the method, the path with its query, and the body's digest. So a stolen cookie, or a
console that was taken over, can't do what its person did not confirm, nor do it twice (docs/sign-in.md). Operators who
sign with a key of their own need none: each of their calls is signed for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from attestd.errors import Conflict, Forbidden, MalformedInput, Unauthenticated
from attestd.operations.act import Act
from attestd.operations.ceremonies import MAX_CHALLENGE, Challenge
from attestd.operations.passkeys import MAX_CREDENTIAL, Answer, request_options
from attestd.operations.sign_in import Begun, SignIn, note_use
from attestd.protocol.encoding import Members, b64decode, read_object
from attestd.registry import passkeys
from attestd.registry.acts import perform

HEADER: Final = "Attestd-Touch"
MAX_HEADER: Final = MAX_CREDENTIAL * 4 // 3
PURPOSE: Final = "attestd/touch/1"


class TouchMissing(Forbidden):
    """This act needs to be confirmed with a passkey"""

    remedy = "Confirm it with your passkey: in the console, press the button again."


class TouchWrong(Forbidden):
    """The confirmation is not for this act, or not by your passkey"""

    remedy = "Confirm again. Nothing was done."


class TouchImpossible(Conflict):
    """You have no passkey to confirm with"""

    remedy = "Add a passkey under People and sessions, or use the command line."


@dataclass(frozen=True, slots=True)
class Asked:
    """The act that is confirmed: in which session, which call."""

    operator: str
    session: str
    method: str
    path: str  # with its query, as it is signed
    body_sha256: bytes

    @property
    def parts(self) -> tuple[bytes, ...]:
        return self.session.encode(), self.method.encode(), self.path.encode(), self.body_sha256


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What the header holds, read and not yet believed."""

    challenge: bytes
    answer: Answer

    @classmethod
    def parse(cls, header: str) -> Self:
        """base64url of `{challenge, credential}` in JSON. Raises TouchWrong."""
        try:
            if len(header) > MAX_HEADER:
                raise TouchWrong("The confirmation is too large.", seen=len(header), expected=f"at most {MAX_HEADER}")
            members = Members(
                read_object(b64decode(header, name=HEADER), limit=MAX_HEADER, name="confirmation"), "confirmation"
            )
            parsed = cls(
                members.octets("challenge", limit=MAX_CHALLENGE, least=1),
                Answer.assertion(members.object("credential")),
            )
            members.done()
        except MalformedInput as malformed:
            raise TouchWrong(malformed.detail) from None
        return parsed


@dataclass(frozen=True, slots=True)
class Touch:
    """One object serves any number of requests in any process."""

    sign_in: SignIn

    def begin(self, asked: Asked, act: Act) -> Begun:
        """What the browser needs for this one act. Raises TouchImpossible, PasskeysUnavailable."""
        with self.sign_in.registry.reading() as c:
            held = passkeys.of_operator(c, asked.operator)
        if not held:
            raise TouchImpossible
        challenge = Challenge.fresh(*asked.parts, now=act.now, entropy=self.sign_in.entropy)
        sealed = challenge.seal(self.sign_in.sealing, PURPOSE, self.sign_in.entropy)
        return Begun(sealed, request_options(self.sign_in.rp, sealed, held))

    def require(self, confirmation: Confirmation, asked: Asked, act: Act) -> None:
        """That the session's person confirmed this very act now. It is used up, whatever becomes of the act.

        Raises TouchWrong, with the reason.
        """
        try:
            challenge = Challenge.open(
                confirmation.challenge, *asked.parts, keys=self.sign_in.sealing, purpose=PURPOSE, now=act.now
            )
            with self.sign_in.registry.reading() as c:
                passkey = passkeys.by_credential(c, confirmation.answer.id)
            if passkey is None or passkey.operator != asked.operator:
                raise TouchWrong("This is not your passkey.")
            use = self.sign_in.verified(passkey, confirmation.answer, confirmation.challenge, act)
            with self.sign_in.registry.acting() as c:
                perform(c, challenge.spending(purpose="touch", now=act.now))
                note_use(c, passkey, use, act)
        except (Unauthenticated, passkeys.PasskeyUsedMeanwhile, passkeys.UnknownPasskey) as refused:
            raise TouchWrong(refused.detail, seen=refused.seen, expected=refused.expected) from None
