"""What the completion of an enrollment proves (docs/protocol.md, section 1): the AK, the key and the quote by it, all
bound to one challenge and to each other."""

from __future__ import annotations

from dataclasses import dataclass

from attestd.errors import EvidenceRefused
from attestd.issuance.appraising import Case
from attestd.issuance.challenges import EnrollmentChallenge
from attestd.issuance.chips import endorsed_now
from attestd.protocol.derivations import enrollment_certify_data, enrollment_identify_data, enrollment_quote_data
from attestd.protocol.evidence import QuoteEvidence
from attestd.protocol.messages import CompleteRequest, EnrollmentEvidence
from attestd.registry.standing import Standing
from attestd.tpm.activation import VerifiedAk, verify_activation
from attestd.tpm.attest import (
    VerifiedKey,
    VerifiedQuote,
    verify_certified_key,
    verify_identified_ak,
    verify_quote,
)
from attestd.tpm.endorsement import VerifiedEndorsement
from attestd.tpm.objects import parse_public


class IdentityMissing(EvidenceRefused):
    """The identity key does not vouch for the attestation key"""

    remedy = "Certify the AK by the identity key that the enrollment began with (docs/protocol.md, section 1)."


class IdentityUnexpected(EvidenceRefused):
    """An identity key vouches in an enrollment that began without one"""

    remedy = IdentityMissing.remedy


class LogsNotWhole(EvidenceRefused):
    """An enrollment's logs are sent whole"""

    remedy = "Send each log from its beginning; only an attestation may leave out what the service knows."


@dataclass(frozen=True, slots=True)
class Proven:
    """Everything one completion proved, and the request it came in."""

    challenge: EnrollmentChallenge
    digest: bytes
    proof: bytes
    ak: VerifiedAk
    key: VerifiedKey
    quote: VerifiedQuote
    unverified: QuoteEvidence
    qualifying_data: bytes

    @property
    def endorsement(self) -> VerifiedEndorsement:
        return self.challenge.endorsement

    def case(self, device: Standing | None) -> Case:
        """What is to be appraised: by the registry's word an approved device, or one that waits."""
        return Case(
            device=None if device is None else device.id,
            quote=self.quote,
            unverified=self.unverified,
            qualifying_data=self.qualifying_data,
            ak=self.ak,
            endorsed=endorsed_now(self.endorsement),
            ek_area=self.endorsement.area,
            tier=None if device is None else device.tier,
            labels={} if device is None else device.labels,
        )


def prove(challenge: EnrollmentChallenge, request: CompleteRequest, digest: bytes) -> Proven:
    """The AK, the key certified by it, then the quote by it, all bound to this challenge and to each other."""
    said = EnrollmentEvidence.parse(request.body)
    ak = _prove_ak(challenge, request, said)
    bound = {
        "nonce": challenge.nonce,
        "id": challenge.id,
        "ek_hash": challenge.endorsement.ek_hash,
        "ak_name": ak.name,
        "ck_name": parse_public(said.key.public).name,
    }
    key = verify_certified_key(
        ak,
        public=said.key.public,
        attest=said.key.attest,
        signature=said.key.signature,
        qualifying_data=enrollment_certify_data(**bound),
    )
    qualifying_data = enrollment_quote_data(**bound)
    quote = verify_quote(
        ak,
        attest=said.quote.attest,
        signature=said.quote.signature,
        qualifying_data=qualifying_data,
        pcrs=said.quote.pcrs,
        selection=challenge.pcrs,
        allow_sha1="sha1" in challenge.pcrs,
    )
    if said.quote.eventlog_sha256 is not None or said.quote.ima_from:
        raise LogsNotWhole(seen="what a service may know of an earlier attestation", expected="eventlog, ima")
    return Proven(challenge, digest, request.proof, ak, key, quote, said.quote, qualifying_data)


def _prove_ak(challenge: EnrollmentChallenge, request: CompleteRequest, evidence: EnrollmentEvidence) -> VerifiedAk:
    """The AK is in the TPM that is endorsed: activated with its EK, or certified by its identity key."""
    endorsement = challenge.endorsement
    if endorsement.identity is None:
        if evidence.iak is not None:
            raise IdentityUnexpected(seen="iak in the body", expected="none")
        return verify_activation(
            endorsement, challenge.ak, secret=challenge.secret, body=request.body, proof=request.proof
        )
    if evidence.iak is None:
        raise IdentityMissing(seen="no iak in the body", expected="the AK, certified by the identity key")
    return verify_identified_ak(
        endorsement.identity,
        challenge.ak,
        attest=evidence.iak.attest,
        signature=evidence.iak.signature,
        qualifying_data=enrollment_identify_data(
            nonce=challenge.nonce, id=challenge.id, ek_hash=endorsement.ek_hash, ak_name=challenge.ak.name
        ),
    )
