"""Challenges of ceremonies: what the service hands to a browser and must recognise later without remembering it.

Sealed like enrollment challenges (docs/protocol.md, section 1), bound to what the ceremony is about, and single use by
the INSERT that spends their id. A challenge for one purpose, key or act is none for another.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

from attestd.ca.sealing import SealBroken, SealingKeys
from attestd.errors import Unauthenticated
from attestd.registry import spends
from attestd.registry.acts import Step

Entropy = Callable[[int], bytes]

LIFETIME: Final = timedelta(minutes=2)
MAX_CHALLENGE: Final = 256  # octets, sealed
_FORM: Final = struct.Struct(">16sQ32s")  # id, expiry in unix seconds, digest of what it is bound to


class ChallengeForeign(Unauthenticated):
    """This challenge was not given for this"""

    remedy = "Begin again in this browser, and finish what was begun there."


class ChallengeLate(Unauthenticated):
    """This challenge has expired"""

    remedy = "Begin again, and confirm within two minutes."


class CeremonySpent(Unauthenticated):
    """This challenge has been used"""

    remedy = "Begin again: each challenge serves once."


@dataclass(frozen=True, slots=True)
class Challenge:
    """One ceremony's challenge, opened from its seal or fresh."""

    id: bytes
    expires_at: int  # unix seconds
    bound: bytes

    @classmethod
    def fresh(cls, *bound: bytes, now: datetime, entropy: Entropy, lifetime: timedelta = LIFETIME) -> Self:
        return cls(entropy(16), int((now + lifetime).timestamp()), _digest(bound))

    def seal(self, keys: SealingKeys, purpose: str, entropy: Entropy) -> bytes:
        return keys.seal(_FORM.pack(self.id, self.expires_at, self.bound), purpose=purpose, entropy=entropy)

    @classmethod
    def open(cls, sealed: bytes, *bound: bytes, keys: SealingKeys, purpose: str, now: datetime) -> Self:
        """Raises ChallengeForeign for another purpose or binding, ChallengeLate."""
        try:
            challenge = cls(*_FORM.unpack(keys.open(sealed, purpose=purpose)))
        except (SealBroken, struct.error):
            raise ChallengeForeign from None
        if not hmac.compare_digest(challenge.bound, _digest(bound)):
            raise ChallengeForeign
        if now.timestamp() >= challenge.expires_at:
            raise ChallengeLate(seen=f"{int(now.timestamp() - challenge.expires_at)} s late", expected="in time")
        return challenge

    def spending(self, *, purpose: str, now: datetime) -> Step:
        """Uses it up, in the act that it serves. Refused as CeremonySpent."""
        step = spends.spending(
            self.id,
            purpose=purpose,
            request_digest=self.bound,
            now=int(now.timestamp()),
            expires_at=self.expires_at + 60,
        )
        return Step(step.statement, step.values, taken=CeremonySpent)


def _digest(parts: tuple[bytes, ...]) -> bytes:
    """One reading: each part after its length."""
    return hashlib.sha256(b"".join(struct.pack(">I", len(part)) + part for part in parts)).digest()
