"""What the service hands out and must recognise later without remembering it: enrollment challenges and nonces.

Both are sealed (AEAD, a key id in the clear, a purpose as associated data), so that any instance can open what another
began, and both are single use by the INSERT that spends their id (docs/protocol.md, sections 1 and 2).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Self

from attestd.ca.sealing import SealBroken, SealingKeys
from attestd.errors import Conflict, Unauthenticated
from attestd.protocol.encoding import Members, b64encode, read_object, write_object
from attestd.protocol.messages import MAX_SEALED, PcrSelection, parse_selection
from attestd.tpm.activation import VettedAk, vet_ak
from attestd.tpm.endorsement import VerifiedEndorsement, recall_endorsement

Entropy = Callable[[int], bytes]

CHALLENGE = "attestd/challenge/1"
NONCE = "attestd/nonce/1"
_NONCE = struct.Struct(">16sQ")  # id, expiry in unix seconds: one size, as the derivations need


class ChallengeExpired(Conflict):
    """The enrollment's challenge has expired"""

    remedy = "Begin the enrollment again and complete it within the time that the answer states."


class NonceInvalid(Unauthenticated):
    """The request's nonce is not one of this service's"""

    remedy = "Sign the request again with the nonce of this answer's Replay-Nonce header."


class NonceExpired(Unauthenticated):
    """The request's nonce has expired"""

    remedy = "Sign the request again with the nonce of this answer's Replay-Nonce header."


@dataclass(frozen=True, slots=True)
class EnrollmentChallenge:
    """What an enrollment is about, from begin to complete. Opened from its seal, it is as true as when sealed."""

    id: bytes
    endorsement: VerifiedEndorsement
    ak: VettedAk
    secret: bytes = field(repr=False)
    nonce: bytes
    pcrs: PcrSelection
    expires_at: int  # unix seconds

    def seal(self, keys: SealingKeys, entropy: Entropy) -> bytes:
        return keys.seal(
            write_object(
                {
                    "id": b64encode(self.id),
                    "ek": self.endorsement.to_members(),
                    "ak": b64encode(self.ak.public.area),
                    "secret": b64encode(self.secret),
                    "nonce": b64encode(self.nonce),
                    "pcrs": {bank: list(indices) for bank, indices in self.pcrs.items()},
                    "exp": self.expires_at,
                }
            ),
            purpose=CHALLENGE,
            entropy=entropy,
        )

    @classmethod
    def open(cls, sealed: bytes, keys: SealingKeys) -> Self:
        """Raises SealBroken for anything this service did not seal. Expiry is the caller's to check."""
        members = Members(read_object(keys.open(sealed, purpose=CHALLENGE), limit=MAX_SEALED), "challenge")
        return cls(
            id=members.octets("id", limit=16, least=16),
            endorsement=recall_endorsement(dict(members.object("ek").items())),
            ak=vet_ak(members.octets("ak", limit=1024)),
            secret=members.octets("secret", limit=32, least=32),
            nonce=members.octets("nonce", limit=32, least=32),
            pcrs=parse_selection(members.object("pcrs")),
            expires_at=members.integer("exp"),
        )

    def require_alive(self, now: datetime) -> None:
        if now.timestamp() >= self.expires_at:
            raise ChallengeExpired(
                "This challenge has expired.",
                seen=f"{int(now.timestamp() - self.expires_at)} s late",
                expected="in time",
            )


@dataclass(frozen=True, slots=True)
class RequestNonce:
    """One nonce for one signed request."""

    id: bytes
    expires_at: int  # unix seconds

    @classmethod
    def fresh(cls, now: datetime, lifetime: timedelta, entropy: Entropy) -> Self:
        return cls(entropy(16), int((now + lifetime).timestamp()))

    def seal(self, keys: SealingKeys, entropy: Entropy) -> bytes:
        return keys.seal(_NONCE.pack(self.id, self.expires_at), purpose=NONCE, entropy=entropy)

    @classmethod
    def open(cls, sealed: bytes, keys: SealingKeys) -> Self:
        """Raises NonceInvalid for anything this service did not seal."""
        try:
            return cls(*_NONCE.unpack(keys.open(sealed, purpose=NONCE)))
        except SealBroken as broken:
            raise NonceInvalid(broken.detail, seen=broken.seen) from None

    def require_alive(self, now: datetime) -> None:
        if now.timestamp() >= self.expires_at:
            raise NonceExpired("This nonce has expired.", seen=f"{int(now.timestamp() - self.expires_at)} s late")
