"""What the service hands out and must recognise later without remembering it: enrollment challenges and nonces.

Both are sealed (AEAD, a key id in the clear, a purpose as associated data), so that any instance can open what another
began, and both are single use by the INSERT that spends their id (docs/protocol.md, sections 1 and 2).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Self

from attestd.ca.sealing import SealBroken, SealingKeys
from attestd.errors import Conflict, Unauthenticated
from attestd.protocol.evidence import BANKS, PcrSelection
from attestd.protocol.messages import MAX_SEALED
from attestd.tpm.activation import VettedAk, vet_ak
from attestd.tpm.endorsement import VerifiedEndorsement, recall_endorsement
from attestd.tpm.wire import Reader, sized, u64

Entropy = Callable[[int], bytes]

CHALLENGE = "attestd/challenge/4"
NONCE = "attestd/nonce/1"
_PARTS = 2 + 5  # of a challenge: its own and the endorsement's
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
        """Content: id ‖ secret ‖ nonce ‖ expiry (64 bits) ‖ the AK's public area, the PCRs and the endorsement's parts,
        each after its size in 16 bits. A change of this layout takes another label."""
        parts = (self.ak.public.area, _write_selection(self.pcrs), *self.endorsement.to_parts())
        fixed = self.id + self.secret + self.nonce + u64(self.expires_at)
        return keys.seal(fixed + b"".join(map(sized, parts)), purpose=CHALLENGE, entropy=entropy)

    @classmethod
    def open(cls, sealed: bytes, keys: SealingKeys) -> Self:
        """Raises SealBroken for anything this service did not seal. Expiry is the caller's to check."""
        reader = Reader(keys.open(sealed, purpose=CHALLENGE), "challenge")
        number, secret, nonce, expires_at = reader.take(16), reader.take(32), reader.take(32), reader.u64()
        ak, pcrs, *parts = [reader.sized(MAX_SEALED) for _ in range(_PARTS)]
        reader.done()
        return cls(number, recall_endorsement(parts), vet_ak(ak), secret, nonce, _read_selection(pcrs), expires_at)

    def require_alive(self, now: datetime) -> None:
        if now.timestamp() >= self.expires_at:
            raise ChallengeExpired(
                "This challenge has expired.",
                seen=f"{int(now.timestamp() - self.expires_at)} s late",
                expected="in time",
            )


_BANKS = tuple(BANKS)


def _write_selection(pcrs: PcrSelection) -> bytes:
    """For each bank its place in `_BANKS`, then its PCRs as a bitmap of 24, the lowest bit first."""
    written = b""
    for bank, indices in pcrs.items():
        bits = 0
        for index in indices:
            bits |= 1 << index
        written += bytes([_BANKS.index(bank)]) + bits.to_bytes(3, "little")
    return written


@lru_cache(maxsize=16)  # the policy names the PCRs, so they are the same for all
def _read_selection(octets: bytes) -> PcrSelection:
    found = {}
    for at in range(0, len(octets), 4):
        bits = int.from_bytes(octets[at + 1 : at + 4], "little")
        found[_BANKS[octets[at]]] = tuple(index for index in range(24) if bits >> index & 1)
    return MappingProxyType(found)


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
