"""A result as an EAR, for relying parties that do not speak attestd (`attestd.appraisal.ear`, `attestd.ca.ears`)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from attestd import __version__
from attestd.appraisal.ear import ear_claims
from attestd.appraisal.results import AttestationResult
from attestd.ca.ears import sign_ear
from attestd.ca.hierarchy import Hierarchy
from attestd.ids import SpiffeId
from attestd.protocol.encoding import b64encode

BUILD: Final = f"attestd {__version__}"


@dataclass(frozen=True, slots=True)
class Ears:
    """Signs results. `issuer` is the service's URL, as in its other tokens."""

    hierarchy: Hierarchy
    issuer: str

    def sign(
        self, result: AttestationResult, subject: SpiffeId, *, quoted: bytes, now: datetime, until: datetime
    ) -> str:
        """`quoted` is what the quote answered: the EAR's nonce, which tells of which quote it is."""
        claims = ear_claims(
            result,
            issuer=self.issuer,
            subject=str(subject),
            build=BUILD,
            policies=result.policies,
            issued_at=int(now.timestamp()),
            expires_at=int(until.timestamp()),
            nonce=b64encode(quoted),
        )
        return sign_ear(self.hierarchy.token_key, claims)
