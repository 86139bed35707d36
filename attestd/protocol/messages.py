"""The messages, one read-only type each: `parse` reads untrusted octets within bounds, `to_members` writes them.

Sizes: the largest TPM structures a message can hold, with room for RSA-4096 and P-521 (TPM 2.0 Library, Part 2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from attestd.protocol.encoding import MalformedJson, Members, b64decode, b64encode, read_object, write_object

MAX_BEGIN = 64 * 1024
MAX_COMPLETE = 12 * 1024 * 1024
MAX_BODY = 8 * 1024 * 1024
MAX_SMALL = 16 * 1024
MAX_PUBLIC = 1024
MAX_ATTEST = 2048
MAX_SIGNATURE = 1100
MAX_CERTIFICATE = 8 * 1024
MAX_CERTIFICATES = 8
MAX_SEALED = 16 * 1024  # a challenge has 450 to 700 octets; in its first layout it held a certificate, too
MAX_LOG = 4 * 1024 * 1024
MAX_EAR = 16 * 1024  # characters; reasons are the most of it
MAX_ENTRIES = 1 << 31  # of one boot's IMA list

# Bank name -> PCR index -> digest.
PcrValues = Mapping[str, Mapping[int, bytes]]
# Bank name -> PCR indices.
PcrSelection = Mapping[str, tuple[int, ...]]

BANKS = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}  # digest sizes in octets
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)
_PCRS = {str(index): index for index in range(24)}  # as they are spelled


class IdentityKey(NamedTuple):
    """An IAK in an EK's place: its TPMT_PUBLIC, and its certificate with those of its issuers. Nothing is proven."""

    public: bytes
    certificates: tuple[bytes, ...]

    @classmethod
    def read(cls, members: Members) -> Self:
        public = members.octets("public", limit=MAX_PUBLIC, least=1)
        certificates = members.many_octets("certificates", limit=MAX_CERTIFICATE, most=MAX_CERTIFICATES)
        members.done()
        return cls(public, certificates)

    def to_members(self) -> dict[str, Any]:
        return {"public": b64encode(self.public), "certificates": [b64encode(c) for c in self.certificates]}


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


def parse_selection(members: Members) -> dict[str, tuple[int, ...]]:
    selection: dict[str, tuple[int, ...]] = {}
    for bank, indices in members.items():
        if bank not in BANKS:
            raise MalformedJson("This is not a PCR bank.", seen=repr(bank[:20]), expected=", ".join(BANKS))
        if not isinstance(indices, list) or not all(type(i) is int and 0 <= i < 24 for i in indices):
            raise MalformedJson("A PCR selection is a list of indices.", expected="whole numbers from 0 to 23")
        selection[bank] = tuple(sorted(set(indices)))
    return selection


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


class CertifiedKey(NamedTuple):
    """A credential key with its certification: TPMT_PUBLIC, TPMS_ATTEST, TPMT_SIGNATURE. Nothing is proven yet."""

    public: bytes
    attest: bytes
    signature: bytes

    @classmethod
    def read(cls, members: Members) -> Self:
        public = members.octets("public", limit=MAX_PUBLIC, least=1)
        attest = members.octets("attest", limit=MAX_ATTEST, least=1)
        signature = members.octets("signature", limit=MAX_SIGNATURE, least=1)
        members.done()
        return cls(public, attest, signature)

    def to_members(self) -> dict[str, Any]:
        return {
            "public": b64encode(self.public),
            "attest": b64encode(self.attest),
            "signature": b64encode(self.signature),
        }


class Lately(NamedTuple):
    """What the service knows of a boot's logs, so that they need not be sent again: the SHA-256 of the event log, and
    how many entries of the IMA list."""

    eventlog: bytes | None = None
    ima: int = 0

    @classmethod
    def read(cls, members: Members) -> Self:
        eventlog = members.octets("eventlog", limit=32, least=32) if "eventlog" in members else None
        ima = _entries(members, "ima") if "ima" in members else 0
        members.done()
        return cls(eventlog, ima)

    def to_members(self) -> dict[str, Any]:
        found: dict[str, Any] = {} if self.eventlog is None else {"eventlog": b64encode(self.eventlog)}
        return found | ({"ima": self.ima} if self.ima else {})


_NOTHING = Lately()


def _entries(members: Members, name: str) -> int:
    if not 0 < (count := members.integer(name)) < MAX_ENTRIES:
        raise MalformedJson(f"{name} is no number of entries.", seen=count, expected=f"1 to {MAX_ENTRIES - 1}")
    return count


class QuoteEvidence(NamedTuple):
    """A quote, the PCR values that it is said to cover, and the logs. Nothing is proven yet.

    `eventlog_sha256` stands for an event log that the service knows of this boot; `ima` goes on after the `ima_from`
    entries that it knows.
    """

    attest: bytes
    signature: bytes
    pcrs: PcrValues
    eventlog: bytes | None = None
    ima: bytes | None = None
    eventlog_sha256: bytes | None = None
    ima_from: int = 0

    @classmethod
    def read(cls, members: Members) -> Self:
        """Takes `quote`, `pcrs` and the logs out of `members`; the caller calls `done()`."""
        quote = members.object("quote")
        attest = quote.octets("attest", limit=MAX_ATTEST, least=1)
        signature = quote.octets("signature", limit=MAX_SIGNATURE, least=1)
        quote.done()
        pcrs = _read_pcrs(members.object("pcrs"))
        eventlog = members.octets("eventlog", limit=MAX_LOG) if "eventlog" in members else None
        ima = members.octets("ima", limit=MAX_LOG) if "ima" in members else None
        known = members.octets("eventlog_sha256", limit=32, least=32) if "eventlog_sha256" in members else None
        if known is not None and eventlog is not None:
            raise MalformedJson("An event log is sent or it is known.", seen="eventlog and eventlog_sha256")
        ima_from = _entries(members, "ima_from") if "ima_from" in members else 0
        if ima_from and ima is None:
            raise MalformedJson("ima_from tells where entries begin.", seen="ima_from without ima")
        return cls(attest, signature, pcrs, eventlog, ima, known, ima_from)

    def to_members(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "quote": {"attest": b64encode(self.attest), "signature": b64encode(self.signature)},
            "pcrs": {
                bank: {str(i): b64encode(value) for i, value in values.items()} for bank, values in self.pcrs.items()
            },
        }
        if self.eventlog is not None:
            found["eventlog"] = b64encode(self.eventlog)
        if self.ima is not None:
            found["ima"] = b64encode(self.ima)
        if self.eventlog_sha256 is not None:
            found["eventlog_sha256"] = b64encode(self.eventlog_sha256)
        if self.ima_from:
            found["ima_from"] = self.ima_from
        return found


def _read_pcrs(members: Members) -> dict[str, dict[int, bytes]]:
    banks: dict[str, dict[int, bytes]] = {}
    for bank, values in members.items():
        if bank not in BANKS:
            raise MalformedJson("This is not a PCR bank.", seen=repr(bank[:20]), expected=", ".join(BANKS))
        if type(values) is not dict or len(values) > 24:
            raise MalformedJson("A bank maps PCR indices to digests.", expected="at most 24 entries")
        size = BANKS[bank]
        found = banks[bank] = {}
        for spelled, text in values.items():
            index = _PCRS.get(spelled)
            if index is None:
                raise MalformedJson("This is not a PCR index.", seen=repr(spelled[:20]), expected="0 to 23")
            if type(text) is not str or len(text) > 100:
                raise MalformedJson("A PCR value is a base64url string.", seen=type(text).__name__)
            digest = b64decode(text, name=f"pcrs.{bank}.{spelled}")
            if len(digest) != size:
                raise MalformedJson("A PCR value has the wrong size.", seen=len(digest), expected=f"{size} octets")
            found[index] = digest
    return banks


def read_hex_pcrs(members: Members) -> dict[str, dict[int, bytes]]:
    """PCR values as people read them: bank -> index -> hexadecimal digits."""
    banks: dict[str, dict[int, bytes]] = {}
    for bank, values in members.items():
        if bank not in BANKS or type(values) is not dict or not values.keys() <= _PCRS.keys():
            raise MalformedJson("These are not PCR values.", seen=repr(bank[:20]), expected="bank -> index -> digest")
        for spelled, text in values.items():
            if type(text) is not str or len(text) != 2 * BANKS[bank] or not _HEX.fullmatch(text):
                raise MalformedJson("A PCR value is no digest of its bank.", seen=f"{bank} PCR {spelled}")
            banks.setdefault(bank, {})[_PCRS[spelled]] = bytes.fromhex(text)
    return banks


class Identification(NamedTuple):
    """An AK's certification by an IAK: TPMS_ATTEST, TPMT_SIGNATURE. Nothing is proven yet."""

    attest: bytes
    signature: bytes

    @classmethod
    def read(cls, members: Members) -> Self:
        attest = members.octets("attest", limit=MAX_ATTEST, least=1)
        signature = members.octets("signature", limit=MAX_SIGNATURE, least=1)
        members.done()
        return cls(attest, signature)

    def to_members(self) -> dict[str, Any]:
        return {"attest": b64encode(self.attest), "signature": b64encode(self.signature)}


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
    lately: Lately = _NOTHING

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
    return Lately.read(message.object("lately")) if "lately" in message else _NOTHING


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
    lately: Lately = _NOTHING

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
