"""From a result to a certificate: Grant -> CertificateSpec -> signed bytes, parsed back -> the device's answer.

Nothing here touches the database. What comes out is still worthless: `enrollment` and `lifecycle` record it in one
transaction, which also checks that the device is still as it was appraised, and only then let it leave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec

from attestd.appraisal.results import AttestationResult
from attestd.ca.certificates import CertificateSpec, IssuedCertificate, issue, nested_validity
from attestd.ca.hierarchy import Hierarchy
from attestd.ca.profiles import Profile
from attestd.credentials.facts import Facts
from attestd.ids import DeviceId, Serial, Site, SpiffeId, Tier, TrustDomain
from attestd.protocol.evidence import Lately
from attestd.protocol.messages import CredentialAnswer

# A device renews when half of its certificate's life is over; the agent adds jitter.
_RENEW_AT = 0.5


@dataclass(frozen=True, slots=True)
class Grant:
    """What a device may be given: who it is, by the registry's word, and what is known of it."""

    device_id: DeviceId
    tier: Tier
    site: Site
    labels: Mapping[str, str]
    status_index: int
    key: ec.EllipticCurvePublicKey
    result: AttestationResult
    good_until: datetime  # when the attestation stops counting
    ear: str = ""
    lately: Lately = field(default_factory=Lately)


@dataclass(frozen=True, slots=True)
class Granted:
    """A signed certificate and the answer that carries it, not yet recorded."""

    certificate: IssuedCertificate
    spiffe_id: SpiffeId
    profile: str
    answer: bytes


@dataclass(frozen=True, slots=True)
class Granter:
    """Signs what grants describe, by the profile of the device's tier."""

    trust_domain: TrustDomain
    hierarchy: Hierarchy
    profiles: Mapping[str, Profile]
    entropy: Callable[[int], bytes]

    def grant(self, grant: Grant, *, now: datetime) -> Granted:
        """Lifetimes nest: the certificate ends with its profile's lifetime, the attestation or the issuer, whichever
        is first (docs/protocol.md, section 4). Raises LifetimeExhausted if nothing is left."""
        profile = self.profiles[grant.tier.value]
        spiffe_id = SpiffeId.of_device(self.trust_domain, grant.tier, grant.site, grant.device_id)
        result = grant.result
        facts = Facts.of_fleet(
            result.vector, grant.labels, result.facts, status_index=grant.status_index, attested_at=result.attested_at
        )
        issuer = self.hierarchy.issuer
        not_before, not_after = nested_validity(
            profile, issuer=issuer.certificate, now=now, good_until=grant.good_until
        )
        certificate = issue(
            CertificateSpec(
                public_key=grant.key,
                spiffe_id=spiffe_id,
                profile=profile,
                serial=Serial.random(self.entropy(20)),
                not_before=not_before,
                not_after=not_after,
                facts=facts,
            ),
            issuer,
        )
        left = int((not_after - now).total_seconds())
        answer = CredentialAnswer(
            device_id=str(grant.device_id),
            spiffe_id=str(spiffe_id),
            chain=pem_chain(certificate, self.hierarchy),
            result=result.to_members(),
            renew_after=int(left * _RENEW_AT),
            expires_in=left,
            ear=grant.ear,
            lately=grant.lately,
        )
        return Granted(certificate, spiffe_id, profile.name, answer.to_bytes())


def pem_chain(certificate: IssuedCertificate, hierarchy: Hierarchy) -> str:
    """The leaf and its issuer as PEM, without the root, which relying parties have or must not believe.

    During a root's rollover, what one root says for the other follows.
    """
    return certificate.pem + hierarchy.chain_above(certificate.issuer_id)
