"""A known device's later requests between attestations: renewing, tokens (docs/protocol.md, sections 2 and 4).

1. The request is proven: `requests`.
2. The verb's own checks: the last attestation still counts.
3. What is issued is signed first; then one transaction spends the nonce, requires the device as it was appraised,
   records what was issued and appends the audit row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from attestd.ca.hierarchy import Hierarchy
from attestd.ca.sealing import SealingKeys
from attestd.ca.tokens import mint_token
from attestd.config import Settings
from attestd.credentials.jwk import jwk_thumbprint
from attestd.errors import EvidenceRefused, Forbidden, MalformedInput
from attestd.ids import SpiffeId
from attestd.issuance.answering import (
    AttestationOverdue,
    act,
    answered_once,
    noting,
    require_good_standing,
    spend_refused,
    spending,
)
from attestd.issuance.challenges import RequestNonce
from attestd.issuance.grants import Granter
from attestd.issuance.records import recording
from attestd.issuance.requests import Requested
from attestd.policy import PolicySet, may_receive_token
from attestd.protocol.derivations import device_certify_data
from attestd.protocol.encoding import b64encode
from attestd.protocol.evidence import CertifiedKey
from attestd.protocol.messages import RenewalRequest, TokenAnswer, TokenRequest
from attestd.protocol.signed import SignedEnvelope
from attestd.registry import issued, transitions
from attestd.registry.acts import Step
from attestd.registry.engine import Registry
from attestd.tpm.attest import VerifiedKey, verify_certified_key
from attestd.tpm.objects import parse_public


class AudienceDenied(Forbidden):
    """No policy permits a token for this audience"""

    remedy = "Ask an operator to permit the audience for this tier in the policy."


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The two verbs, and nonces for all. One object serves any number of requests in any process."""

    settings: Settings
    registry: Registry
    hierarchy: Hierarchy
    sealing: SealingKeys
    granter: Granter
    policies: Callable[[], PolicySet]
    entropy: Callable[[int], bytes]

    def nonce(self, now: datetime) -> bytes:
        """A fresh nonce for one signed request, sealed."""
        fresh = RequestNonce.fresh(now, self.settings.enrollment.nonce_lifetime, self.entropy)
        return fresh.seal(self.sealing, self.entropy)

    # ---- The verbs --------------------------------------------------------------------------------------------

    def renew(self, envelope: SignedEnvelope, *, url: str, now: datetime, request_id: str) -> bytes:
        """A new certificate while the last attestation counts: for the same key, or a new one certified by the AK."""
        return self._once(envelope, url, now, lambda asked: self._renew(asked, now, request_id))

    def _renew(self, asked: Requested, now: datetime, request_id: str) -> bytes:
        result, good_until = require_good_standing(asked.device.row, now)
        request = RenewalRequest.parse(asked.payload)
        new_key: VerifiedKey | None = None
        if request.key is not None:
            try:
                new_key = self._verify_new_key(asked, request.key)
            except (EvidenceRefused, MalformedInput) as refusal:
                spend_refused(self.registry, asked, "refuse-rekey", refusal, now=now, request_id=request_id)
                raise
        key = asked.device.key if new_key is None else new_key.key
        granted = self.granter.grant(asked.device.grant(key, result, good_until), now=now)
        device = asked.device.row
        rekeying: tuple[Step, ...] = ()
        if new_key is not None:
            rekeying = (
                transitions.rekeying(
                    device.id,
                    expected_version=device.state_version,
                    ck_public=new_key.public.area,
                    ck_name=new_key.name,
                    now=int(now.timestamp()),
                ),
            )
        name = "renew" if new_key is None else "rekey"
        act(
            self.registry,
            spending(asked, now, granted=granted),
            *rekeying,
            recording(granted, device, changes=len(rekeying)),
            noting(asked, name, now, request_id, serial=str(granted.certificate.serial)),
        )
        return granted.answer

    def token(self, envelope: SignedEnvelope, *, url: str, now: datetime, request_id: str) -> bytes:
        """A bound token for an audience that policy names. Lifetimes nest: token, certificate, attestation."""
        return self._once(envelope, url, now, lambda asked: self._token(asked, now, request_id))

    def _token(self, asked: Requested, now: datetime, request_id: str) -> bytes:
        result, good_until = require_good_standing(asked.device.row, now)
        place = asked.device.place
        request = TokenRequest.parse(asked.payload)
        facts = asked.device.facts(result)
        spiffe_id = SpiffeId.of_device(self.settings.trust_domain, place.tier, place.site, asked.device.id)
        decision = may_receive_token(
            self.policies(),
            tier=place.tier,
            site=place.site,
            labels=asked.device.row.labels,
            audience=request.audience,
            device_id=asked.device.id,
            facts=facts,
            now=now,
        )
        if not decision.allowed:
            raise AudienceDenied("No policy permits a token for this audience.", seen=repr(request.audience))
        with self.registry.reading() as c:
            newest = issued.page(c, device_id=asked.device.id, limit=1)
        if not newest or newest[0].revoked_at is not None or newest[0].not_after <= now.timestamp():
            raise AttestationOverdue("The device has no valid certificate to bind a token to.")
        certificate = newest[0]
        ends = min(
            now + self.settings.credentials.token_lifetime,
            datetime.fromtimestamp(certificate.not_after, UTC),
            good_until,
        )
        token_id = b64encode(self.entropy(16))
        token = mint_token(
            self.hierarchy.token_key,
            issuer=self.settings.server.url,
            subject=spiffe_id,
            audience=request.audience,
            facts=facts,
            certificate_serial=certificate.serial,
            certificate_not_after=datetime.fromtimestamp(certificate.not_after, UTC),
            confirmation=(
                {"x5t#S256": b64encode(certificate.thumbprint)}
                if request.binding == "tls"
                else {"jkt": jwk_thumbprint(asked.device.key)}
            ),
            token_id=token_id,
            status_list=self.settings.server.status_list,
            now=now,
            expires_at=ends,
        )
        answer = TokenAnswer(token, int((ends - now).total_seconds())).to_bytes()
        act(
            self.registry,
            spending(asked, now, answer=answer, serial=certificate.serial),
            transitions.unchanged(asked.device.id, expected_version=asked.device.row.state_version),
            *issued.unrevoked(certificate.serial),
            noting(asked, "token", now, request_id, jti=token_id, audience=request.audience),
        )
        return answer

    # ---- The checks -------------------------------------------------------------------------------------------

    def _once(self, envelope: SignedEnvelope, url: str, now: datetime, verb: Callable[[Requested], bytes]) -> bytes:
        return answered_once(self.registry, self.sealing, envelope, url=url, now=now, verb=verb)

    def _verify_new_key(self, asked: Requested, key: CertifiedKey) -> VerifiedKey:
        ak = asked.device.ak
        return verify_certified_key(
            ak,
            public=key.public,
            attest=key.attest,
            signature=key.signature,
            qualifying_data=device_certify_data(
                nonce=asked.sealed_nonce,
                device_id=asked.device.id,
                ak_name=ak.name,
                ck_name=parse_public(key.public).name,
            ),
        )
