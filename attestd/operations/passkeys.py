"""Passkeys, the part that the library verifies (WebAuthn Level 3, sections 7.1 and 7.2), and what it leaves to us.

What it leaves: where a credential may come from (no frame of another site), which keys are taken, whose user handle it
is, and what a signature counter says that went back. The library is loaded by the first who signs in: it takes
megabytes, and most processes never need it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from attestd.errors import Conflict, MalformedInput, Unauthenticated
from attestd.protocol.encoding import Members, b64encode
from attestd.registry.passkeys import Passkey

if TYPE_CHECKING:
    from webauthn.helpers.structs import PublicKeyCredentialDescriptor

MAX_CREDENTIAL: Final = 12 * 1024  # octets of an authenticator's answer, as JSON
_MAX_ID: Final = 1023  # octets (WebAuthn, section 4: credential id)
_MAX_CLIENT_DATA: Final = 2048
_MAX_AUTHENTICATOR_DATA: Final = 4096
_MAX_SIGNATURE: Final = 1024
_TIMEOUT: Final = 110_000  # milliseconds; the challenge lives for two minutes
_TRANSPORTS: Final = frozenset({"usb", "nfc", "ble", "internal", "cable", "hybrid", "smart-card"})
# Nothing else is asked for; `packed` without certificates is what a browser may leave of a self attestation.
_FORMATS: Final = ("none", "packed")


class PasskeysUnavailable(Conflict):
    """Passkeys need the console to be called by a host name"""

    remedy = "Set console.origin in attestd.toml to https://NAME[:PORT]: passkeys belong to names, never to addresses."


class PasskeyUnknown(Unauthenticated):
    """This passkey is not registered here"""

    remedy = "Use another passkey, or ask an admin for an invitation."


class PasskeyRefused(Unauthenticated):
    """The passkey's answer does not prove what it should"""

    remedy = "Try again in the console's own window; if it stays so, use another passkey."


class PasskeyCopied(Unauthenticated):
    """The passkey's signature counter went back: there may be a copy of it"""

    remedy = "Have an admin remove this passkey, and register another one."


class CredentialMalformed(MalformedInput):
    """This is not an authenticator's answer"""

    remedy = "Send what navigator.credentials gave, in the JSON form of WebAuthn Level 3."


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """Who asks: the console, by its host name and its origin."""

    id: str
    origin: str
    trust_domain: str

    def require_named(self) -> None:
        """Raises PasskeysUnavailable."""
        if not self.id:
            raise PasskeysUnavailable(seen=self.origin)

    def handle(self, operator: str) -> bytes:
        """What authenticators know an operator by: the same for all of their passkeys, and no name."""
        told = f"attestd user handle\0{self.trust_domain}\0{operator}".encode()
        return hashlib.sha256(told).digest()


@dataclass(frozen=True, slots=True)
class Answer:
    """An authenticator's answer, read within bounds and not yet believed: an assertion, or a new credential."""

    id: bytes
    client_data: bytes = field(repr=False)
    authenticator_data: bytes = field(default=b"", repr=False)
    signature: bytes = field(default=b"", repr=False)
    user_handle: bytes | None = field(default=None, repr=False)
    attestation: bytes = field(default=b"", repr=False)
    transports: tuple[str, ...] = ()

    @classmethod
    def assertion(cls, credential: Members) -> Self:
        """AuthenticationResponseJSON; members that are none of the proof are passed over. Raises MalformedInput."""
        named_id, response = _outside(credential)
        handle = response.octets("userHandle", limit=64) if _there(response, "userHandle") else None
        return cls(
            id=named_id,
            client_data=response.octets("clientDataJSON", limit=_MAX_CLIENT_DATA, least=1),
            authenticator_data=response.octets("authenticatorData", limit=_MAX_AUTHENTICATOR_DATA, least=1),
            signature=response.octets("signature", limit=_MAX_SIGNATURE, least=1),
            user_handle=handle or None,
        )

    @classmethod
    def registration(cls, credential: Members) -> Self:
        """RegistrationResponseJSON. Raises MalformedInput."""
        named_id, response = _outside(credential)
        named = response.texts("transports", most=16, limit=32) if _there(response, "transports") else ()
        return cls(
            id=named_id,
            client_data=response.octets("clientDataJSON", limit=_MAX_CLIENT_DATA, least=1),
            attestation=response.octets("attestationObject", limit=2 * _MAX_AUTHENTICATOR_DATA, least=1),
            transports=tuple(sorted(_TRANSPORTS.intersection(named))),
        )


def _outside(credential: Members) -> tuple[bytes, Members]:
    named_id = credential.octets("id", limit=_MAX_ID, least=1)
    if credential.octets("rawId", limit=_MAX_ID, least=1) != named_id:
        raise CredentialMalformed("id and rawId differ.")
    if (seen := credential.text("type", limit=32)) != "public-key":
        raise CredentialMalformed("This is a credential of another kind.", seen=repr(seen), expected="public-key")
    return named_id, credential.object("response")


def _there(members: Members, name: str) -> bool:
    return name in members and not members.is_null(name)


# ---- What a browser is asked for --------------------------------------------------------------------------------


def request_options(rp: RelyingParty, challenge: bytes, allowed: Iterable[Passkey] = ()) -> dict[str, Any]:
    """PublicKeyCredentialRequestOptionsJSON; without `allowed` the person chooses, and nobody has to be named."""
    from webauthn import generate_authentication_options
    from webauthn.helpers import options_to_json_dict
    from webauthn.helpers.structs import UserVerificationRequirement

    rp.require_named()
    return options_to_json_dict(
        generate_authentication_options(
            rp_id=rp.id,
            challenge=challenge,
            timeout=_TIMEOUT,
            allow_credentials=_described(allowed),
            user_verification=UserVerificationRequirement.REQUIRED,
        )
    )


def creation_options(rp: RelyingParty, challenge: bytes, name: str, known: Sequence[Passkey]) -> dict[str, Any]:
    """PublicKeyCredentialCreationOptionsJSON for another passkey of this operator's."""
    from webauthn import generate_registration_options
    from webauthn.helpers import options_to_json_dict
    from webauthn.helpers.structs import (
        AttestationConveyancePreference,
        AuthenticatorSelectionCriteria,
        ResidentKeyRequirement,
        UserVerificationRequirement,
    )

    rp.require_named()
    return options_to_json_dict(
        generate_registration_options(
            rp_id=rp.id,
            rp_name=f"attestd, {rp.trust_domain}",
            user_name=name,
            user_id=rp.handle(name),
            challenge=challenge,
            timeout=_TIMEOUT,
            attestation=AttestationConveyancePreference.NONE,
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED,
                user_verification=UserVerificationRequirement.REQUIRED,
            ),
            exclude_credentials=_described(known),
            supported_pub_key_algs=_algorithms(),
        )
    )


def _described(passkeys: Iterable[Passkey]) -> list[PublicKeyCredentialDescriptor]:
    from webauthn.helpers.structs import AuthenticatorTransport, PublicKeyCredentialDescriptor

    return [
        PublicKeyCredentialDescriptor(
            id=passkey.credential, transports=[AuthenticatorTransport(name) for name in passkey.transports] or None
        )
        for passkey in passkeys
    ]


def _algorithms() -> list[Any]:
    from webauthn.helpers.cose import COSEAlgorithmIdentifier as Algorithm

    return [Algorithm.ECDSA_SHA_256, Algorithm.EDDSA, Algorithm.RSASSA_PKCS1_v1_5_SHA_256]


# ---- What is believed -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VerifiedUse:
    """This passkey's holder was there, verified by the authenticator, and confirmed this challenge."""

    sign_count: int
    backed_up: bool


@dataclass(frozen=True, slots=True)
class VerifiedPasskey:
    """A new passkey, made for this challenge by an authenticator that verified its user."""

    credential: bytes = field(repr=False)
    public_key: bytes = field(repr=False)
    sign_count: int
    backed_up: bool
    transports: tuple[str, ...]


def verify_assertion(rp: RelyingParty, answer: Answer, passkey: Passkey, challenge: bytes) -> VerifiedUse:
    """WebAuthn Level 3, section 7.2. Raises PasskeyRefused, and PasskeyCopied when all but the counter is right."""
    from webauthn import verify_authentication_response
    from webauthn.helpers.structs import AuthenticationCredential, AuthenticatorAssertionResponse

    rp.require_named()
    if answer.id != passkey.credential:  # steps 5 and 6
        raise PasskeyRefused("This is another passkey.")
    if answer.user_handle is not None and answer.user_handle != rp.handle(passkey.operator):
        raise PasskeyRefused("The passkey names another person.")
    _require_own_window(answer.client_data)
    try:
        verified = verify_authentication_response(  # steps 7 to 21, without the counter
            credential=AuthenticationCredential(
                id=b64encode(answer.id),
                raw_id=answer.id,
                response=AuthenticatorAssertionResponse(
                    client_data_json=answer.client_data,
                    authenticator_data=answer.authenticator_data,
                    signature=answer.signature,
                    user_handle=answer.user_handle,
                ),
            ),
            expected_challenge=challenge,
            expected_rp_id=rp.id,
            expected_origin=rp.origin,
            credential_public_key=passkey.public_key,
            credential_current_sign_count=0,
            require_user_verification=True,
        )
    except _library_errors() as error:
        raise PasskeyRefused(_said(error)) from None
    count = verified.new_sign_count
    if (count or passkey.sign_count) and count <= passkey.sign_count:  # step 22: only now, for now it is believed
        raise PasskeyCopied(seen=count, expected=f"more than {passkey.sign_count}")
    return VerifiedUse(count, verified.credential_backed_up)


def verify_registration(rp: RelyingParty, answer: Answer, challenge: bytes) -> VerifiedPasskey:
    """WebAuthn Level 3, section 7.1. Raises PasskeyRefused."""
    from webauthn import verify_registration_response
    from webauthn.helpers import parse_attestation_object
    from webauthn.helpers.structs import AuthenticatorAttestationResponse, RegistrationCredential

    rp.require_named()
    _require_own_window(answer.client_data)
    try:
        seen = parse_attestation_object(answer.attestation).fmt
        if seen not in _FORMATS:
            raise PasskeyRefused("An attestation was not asked for.", seen=str(seen)[:40], expected="none")
        verified = verify_registration_response(
            credential=RegistrationCredential(
                id=b64encode(answer.id),
                raw_id=answer.id,
                response=AuthenticatorAttestationResponse(
                    client_data_json=answer.client_data, attestation_object=answer.attestation
                ),
            ),
            expected_challenge=challenge,
            expected_rp_id=rp.id,
            expected_origin=rp.origin,
            require_user_verification=True,
            supported_pub_key_algs=_algorithms(),
        )
        _require_usable(verified.credential_public_key)
    except _library_errors() as error:
        raise PasskeyRefused(_said(error)) from None
    if verified.credential_id != answer.id:
        raise PasskeyRefused("The credential is called otherwise outside than inside.")
    return VerifiedPasskey(
        verified.credential_id,
        verified.credential_public_key,
        verified.sign_count,
        verified.credential_backed_up,
        answer.transports,
    )


def _require_own_window(client_data: bytes) -> None:
    """The console is in nobody's frame, so neither is a ceremony (steps on crossOrigin and topOrigin)."""
    from webauthn.helpers import parse_client_data_json

    try:
        crossing = parse_client_data_json(client_data).cross_origin or b'"topOrigin"' in client_data
    except _library_errors() as error:
        raise PasskeyRefused(_said(error)) from None
    if crossing:
        raise PasskeyRefused("This was confirmed in a frame of another page.")


def _require_usable(public_key: bytes) -> None:
    """An algorithm's own kind of key: ES256 on P-256, EdDSA on Ed25519, RS256 with 2048 to 4096 bits."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from webauthn.helpers import decode_credential_public_key, decoded_public_key_to_cryptography
    from webauthn.helpers.cose import COSEAlgorithmIdentifier as Algorithm

    decoded = decode_credential_public_key(public_key)
    key = decoded_public_key_to_cryptography(decoded)
    fits = {
        Algorithm.ECDSA_SHA_256: isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1),
        Algorithm.EDDSA: isinstance(key, ed25519.Ed25519PublicKey),
        Algorithm.RSASSA_PKCS1_v1_5_SHA_256: isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 4096,
    }
    if not fits.get(decoded.alg, False):
        raise PasskeyRefused("The passkey's key does not fit its algorithm.", expected="ES256, EdDSA or RS256")


def _library_errors() -> tuple[type[Exception], ...]:
    """What the library and the parsers below it raise for octets that were made up."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from webauthn.helpers.exceptions import WebAuthnException

    others = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError)
    return (WebAuthnException, UnsupportedAlgorithm, *others)


def _said(error: Exception) -> str:
    """The library's sentence where it is its own; it holds no secret, but may hold what a stranger sent."""
    from webauthn.helpers.exceptions import InvalidAuthenticationResponse, InvalidRegistrationResponse

    if isinstance(error, InvalidAuthenticationResponse | InvalidRegistrationResponse):
        return str(error)[:200]
    return "The authenticator's answer can't be read."


def described(passkey: Passkey) -> Mapping[str, Any]:
    """A passkey as people see it."""
    return {
        "id": passkey.id,
        "operator": passkey.operator,
        "label": passkey.label,
        "backed_up": passkey.backed_up,
        "created_at": passkey.created_at,
        "used_at": passkey.used_at,
    }
