"""The messages, one read-only type each: `parse` reads untrusted octets within bounds, `to_members` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from attestd.protocol.encoding import MalformedJson, Members, b64encode, read_object, write_object
from attestd.protocol.evidence import (
    MAX_CERTIFICATE,
    MAX_CERTIFICATES,
    MAX_PUBLIC,
    NOTHING_KNOWN,
    CertifiedKey,
    Identification,
    IdentityKey,
    Lately,
    PcrSelection,
    QuoteEvidence,
    parse_selection,
)

MAX_BEGIN = 64 * 1024
MAX_COMPLETE = 12 * 1024 * 1024
MAX_BODY = 8 * 1024 * 1024
MAX_SMALL = 16 * 1024
MAX_SEALED = 16 * 1024  # a challenge has 450 to 700 octets; in its first layout it held a certificate, too
MAX_EAR = 16 * 1024  # characters; reasons are the most of it


class BeginRequest(NamedTuple):
    """`POST /v1/enrollments`: who the TPM says it is. `ek_public` and `ak_public` are TPMT_PUBLIC areas."""

    ek_public: bytes
    ak_public: bytes
    ek_certificates: tuple[bytes, ...] = ()
    iak: IdentityKey | None = None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        message = Members(read_object(data, limit=MAX_BEGIN), "message")
        message.version()
        ek, ak = message.object("ek"), message.object("ak")
        iak = IdentityKey.read(message.object("iak")) if "iak" in message else None
        message.done()
        ek_public = ek.octets("public", limit=MAX_PUBLIC, least=1)
        ek_certificates = ek.many_octets("certificates", limit=MAX_CERTIFICATE, most=MAX_CERTIFICATES)
        ak_public = ak.octets("public", limit=MAX_PUBLIC, least=1)
        ek.done()
        ak.done()
        if iak is not None and ek_certificates:
            raise MalformedJson("A device enrolls by its EK or by its IAK.", seen="certificates of both")
        return cls(ek_public, ak_public, ek_certificates, iak)

    def to_bytes(self) -> bytes:
        return write_object(
            {
                "v": 1,
                "ek": {
                    "public": b64encode(self.ek_public),
                    "certificates": [b64encode(c) for c in self.ek_certificates],
                },
                "ak": {"public": b64encode(self.ak_public)},
                **({} if self.iak is None else {"iak": self.iak.to_members()}),
            }
        )


class BeginAnswer(NamedTuple):
    """What the device must answer: activate, certify, quote. `credential_blob` is a TPM2B_ID_OBJECT, `secret` a
    TPM2B_ENCRYPTED_SECRET, both with their size fields."""

    id: bytes
    challenge: bytes
    credential_blob: bytes
    secret: bytes
    nonce: bytes
    pcrs: PcrSelection
    wants: tuple[str, ...]
    expires_in: int  # seconds

    @classmethod
    def parse(cls, data: bytes) -> Self:
        message = Members(read_object(data, limit=MAX_BEGIN), "answer")
        message.version()
        parsed = cls(
            id=message.octets("id", limit=16, least=16),
            challenge=message.octets("challenge", limit=MAX_SEALED, least=1),
            credential_blob=message.octets("credential_blob", limit=MAX_PUBLIC, least=1),
            secret=message.octets("secret", limit=MAX_PUBLIC, least=1),
            nonce=message.octets("nonce", limit=32, least=32),
            pcrs=parse_selection(message.object("pcrs")),
            wants=message.texts("wants", most=8),
            expires_in=message.seconds("expires_in"),
        )
        message.done()
        return parsed

    def to_bytes(self) -> bytes:
        return write_object(
            {
                "v": 1,
                "id": b64encode(self.id),
                "challenge": b64encode(self.challenge),
                "credential_blob": b64encode(self.credential_blob),
                "secret": b64encode(self.secret),
                "nonce": b64encode(self.nonce),
                "pcrs": {bank: list(indices) for bank, indices in self.pcrs.items()},
                "wants": list(self.wants),
                "expires_in": self.expires_in,
            }
        )


class EnrollmentEvidence(NamedTuple):
    """The completion's body: everything the device proves, in exact octets. `iak` goes with an IAK in the beginning."""

    key: CertifiedKey
    quote: QuoteEvidence
    iak: Identification | None = None

    @classmethod
    def parse(cls, body: bytes) -> Self:
        members = Members(read_object(body, limit=MAX_BODY, name="body"), "body")
        iak = Identification.read(members.object("iak")) if "iak" in members else None
        parsed = cls(CertifiedKey.read(members.object("ck")), QuoteEvidence.read(members), iak)
        members.done()
        return parsed

    def to_bytes(self) -> bytes:
        iak = {} if self.iak is None else {"iak": self.iak.to_members()}
        return write_object({"ck": self.key.to_members(), **iak, **self.quote.to_members()})


class CompleteRequest(NamedTuple):
    """`POST /v1/enrollments/complete`. `body` is kept as octets: the proof and the retry's digest are over these."""

    challenge: bytes
    body: bytes
    proof: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        message = Members(read_object(data, limit=MAX_COMPLETE), "message")
        message.version()
        challenge = message.octets("challenge", limit=MAX_SEALED, least=1)
        body = message.octets("body", limit=MAX_BODY, least=2)
        proof = message.octets("proof", limit=32, least=32)
        message.done()
        return cls(challenge, body, proof)

    def to_bytes(self) -> bytes:
        return write_object(
            {
                "v": 1,
                "challenge": b64encode(self.challenge),
                "body": b64encode(self.body),
                "proof": b64encode(self.proof),
            }
        )


@dataclass(frozen=True, slots=True)
class CredentialAnswer:
    """A certificate for the device (`200` of completion, attestation and renewal).

    `chain` is PEM, the leaf first and without the root; times are seconds from now, for devices without a clock. `ear`
    is the result as a JWT, for relying parties; `lately` what the next attestation may leave out.
    """

    device_id: str
    spiffe_id: str
    chain: str
    result: Mapping[str, Any]
    renew_after: int
    expires_in: int
    ear: str = ""
    lately: Lately = NOTHING_KNOWN

    @classmethod
    def parse(cls, data: bytes) -> Self:
        message = Members(read_object(data, limit=MAX_BEGIN), "answer")
        message.version()
        parsed = cls(
            device_id=message.text("device_id", limit=64),
            spiffe_id=message.text("spiffe_id", limit=2048),
            chain=message.text("chain", limit=MAX_BEGIN),
            result=dict(message.object("result").items()),
            renew_after=message.seconds("renew_after"),
            expires_in=message.seconds("expires_in"),
            ear=_read_ear(message),
            lately=_read_lately(message),
        )
        message.done()
        return parsed

    def to_bytes(self) -> bytes:
        return write_object(
            {
                "v": 1,
                "device_id": self.device_id,
                "spiffe_id": self.spiffe_id,
                "chain": self.chain,
                "result": self.result,
                "renew_after": self.renew_after,
                "expires_in": self.expires_in,
                **_further(self.ear, self.lately),
            }
        )


def _read_ear(message: Members) -> str:
    return message.text("ear", limit=MAX_EAR) if "ear" in message else ""


def _read_lately(message: Members) -> Lately:
    return Lately.read(message.object("lately")) if "lately" in message else NOTHING_KNOWN


def _further(ear: str, lately: Lately) -> dict[str, Any]:
    """What an answer holds where there is something to hold."""
    members = lately.to_members()
    return ({"ear": ear} if ear else {}) | ({"lately": members} if members else {})


@dataclass(frozen=True, slots=True)
class WaitAnswer:
    """`202`: the device is known and gets nothing yet (pending), or only a result (quarantined)."""

    state: str
    retry_after: int  # seconds
    result: Mapping[str, Any] = field(default_factory=dict)
    ear: str = ""
    lately: Lately = NOTHING_KNOWN

    @classmethod
    def parse(cls, data: bytes) -> Self:
        message = Members(read_object(data, limit=MAX_BEGIN), "answer")
        message.version()
        parsed = cls(
            state=message.text("state", limit=20),
            retry_after=message.seconds("retry_after"),
            result=dict(message.object("result").items()),
            ear=_read_ear(message),
            lately=_read_lately(message),
        )
        message.done()
        return parsed

    def to_bytes(self) -> bytes:
        return write_object(
            {
                "v": 1,
                "state": self.state,
                "retry_after": self.retry_after,
                "result": self.result,
                **_further(self.ear, self.lately),
            }
        )


class AttestationRequest(NamedTuple):
    """`POST /v1/attestations`, the payload of a signed request: re-attests and renews in one round trip."""

    quote: QuoteEvidence

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        members = Members(read_object(payload, limit=MAX_BODY, name="payload"), "payload")
        members.version()
        parsed = cls(QuoteEvidence.read(members))
        members.done()
        return parsed

    def to_bytes(self) -> bytes:
        return write_object({"v": 1, **self.quote.to_members()})


class RenewalRequest(NamedTuple):
    """`POST /v1/renewals`: a new certificate for the same key, or for a new one certified by the AK."""

    key: CertifiedKey | None = None

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        members = Members(read_object(payload, limit=MAX_SMALL, name="payload"), "payload")
        members.version()
        parsed = cls(CertifiedKey.read(members.object("ck")) if "ck" in members else None)
        members.done()
        return parsed

    def to_bytes(self) -> bytes:
        return write_object({"v": 1} if self.key is None else {"v": 1, "ck": self.key.to_members()})


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """`POST /v1/tokens`. `binding` names what the token is bound to: "tls" (cnf.x5t#S256) or "dpop" (cnf.jkt)."""

    audience: str
    binding: str = "dpop"

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        members = Members(read_object(payload, limit=MAX_SMALL, name="payload"), "payload")
        members.version()
        binding = members.text("binding", limit=8) if "binding" in members else "dpop"
        if binding not in ("tls", "dpop"):
            raise MalformedJson("This binding is unknown.", seen=repr(binding), expected='"tls" or "dpop"')
        parsed = cls(audience=members.text("audience", limit=255), binding=binding)
        members.done()
        return parsed

    def to_bytes(self) -> bytes:
        return write_object({"v": 1, "audience": self.audience, "binding": self.binding})


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    token: str
    expires_in: int  # seconds

    @classmethod
    def parse(cls, data: bytes) -> Self:
        message = Members(read_object(data, limit=MAX_SMALL), "answer")
        message.version()
        parsed = cls(token=message.text("token", limit=MAX_SMALL), expires_in=message.seconds("expires_in"))
        message.done()
        return parsed

    def to_bytes(self) -> bytes:
        return write_object({"v": 1, "token": self.token, "expires_in": self.expires_in})
