"""Enrollment: two round trips (docs/protocol.md, section 1)."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from attestd.ca.sealing import SealingKeys
from attestd.config import Settings
from attestd.errors import AttestdError, Conflict, EvidenceRefused, Forbidden, Limited, MalformedInput
from attestd.ids import DeviceId, Serial, SpiffeId
from attestd.issuance.appraising import Appraised, Appraiser
from attestd.issuance.challenges import EnrollmentChallenge
from attestd.issuance.ears import Ears
from attestd.issuance.grants import Grant, Granter
from attestd.issuance.proving import Proven, prove
from attestd.issuance.quarantining import Quarantines
from attestd.issuance.records import Placement, clock_members, recording, require_standing
from attestd.issuance.trust import Trust
from attestd.protocol.derivations import (
    request_digest,
)
from attestd.protocol.messages import (
    BeginAnswer,
    BeginRequest,
    CompleteRequest,
    WaitAnswer,
)
from attestd.registry import admission, audit, brake, devices, evidence, outcomes, spends, transitions
from attestd.registry.acts import Step, perform
from attestd.registry.engine import Registry
from attestd.registry.spends import Spent
from attestd.registry.standing import Known, Standing, for_enrollment
from attestd.registry.states import State
from attestd.tpm.activation import check_proof, make_credential, vet_ak


class ChallengeSpent(Conflict):
    """This challenge has been used"""

    remedy = "Begin the enrollment again with fresh evidence."


class EnrollmentRejected(Forbidden):
    """An operator rejected this device"""

    remedy = "Ask an operator of this service; only an operator can change that."


class DeviceQuarantined(Forbidden):
    """This device is quarantined"""

    remedy = "Ask an operator to look at the device; enrolling again does not end a quarantine."


class EndorsementKeyBlocked(Forbidden):
    """This TPM was replaced by an operator's act"""

    remedy = "Ask an operator of this service; a replaced TPM can't come back under its old name."


class EvidenceContraindicated(EvidenceRefused):
    """The evidence shows a state that must not be trusted"""

    remedy = "Bring the device into a state that the reference values know, then begin again."

    def __init__(self, detail: str = "", *, reasons: Sequence[str] = ()) -> None:
        super().__init__(detail, seen=tuple(reasons) or None)
        self.reasons = tuple(reasons)


class TooManyPending(Limited):
    """Too many devices wait for approval"""

    remedy = "Ask an operator to approve or reject the waiting devices; this one may then ask again."


@dataclass(frozen=True, slots=True)
class Enrollment:
    """The two verbs. One object serves any number of requests in any process."""

    settings: Settings
    registry: Registry
    sealing: SealingKeys
    granter: Granter
    ears: Ears
    trust: Trust
    appraiser: Appraiser
    entropy: Callable[[int], bytes]
    quarantines: Quarantines

    # ---- Begin ------------------------------------------------------------------------------------------------

    def begin(self, request: BeginRequest, *, now: datetime) -> BeginAnswer:
        """Checks who made the TPM and what its attestation key is; writes nothing.

        1. The EK is endorsed by a trusted maker, or the inventory knows it.
        2. The AK has every attribute that makes its signatures mean something; its Name is computed here.
        3. MakeCredential over a fresh secret for that Name: only this TPM, holding this key, can read it.
        4. All of it is sealed and handed out; the service forgets.
        """
        if request.iak is None:
            endorsement = self.trust.endorse(request.ek_public, request.ek_certificates, now=now)  # 1
        else:
            endorsement = self.trust.identify(request.ek_public, request.iak, now=now)  # 1
        ak = vet_ak(request.ak_public)  # 2
        lifetime = self.settings.enrollment.challenge_lifetime
        demanded = self.appraiser.in_force(now).demanded
        challenge = EnrollmentChallenge(
            id=self.entropy(16),
            endorsement=endorsement,
            ak=ak,
            secret=self.entropy(32),
            nonce=self.entropy(32),
            pcrs=demanded.pcrs,
            expires_at=int((now + lifetime).timestamp()),
        )
        made = make_credential(endorsement, ak, secret=challenge.secret, entropy=self.entropy)  # 3
        return BeginAnswer(
            id=challenge.id,
            challenge=challenge.seal(self.sealing, self.entropy),  # 4
            credential_blob=made.credential_blob,
            secret=made.encrypted_secret,
            nonce=challenge.nonce,
            pcrs=challenge.pcrs,
            wants=demanded.logs,
            expires_in=int(lifetime.total_seconds()),
        )

    # ---- Complete ---------------------------------------------------------------------------------------------

    def complete(self, request: CompleteRequest, *, now: datetime, request_id: str) -> bytes | WaitAnswer:
        """Proves the device and issues, or records it for approval.

        1. The challenge is one that this service sealed.
        2. A spent one is looked up before its expiry is checked: the same request gets the same octets. What the
           registry knows of the device is read at the same moment.
        3. It has not expired.
        4. The proof is right: the TPM activated the credential. A wrong proof spends nothing.
        5. From here the challenge is spent, whatever the evidence says.
        6. The registry's word on the device decides: issue, wait, or refuse.
        """
        challenge = EnrollmentChallenge.open(request.challenge, self.sealing)  # 1
        digest = request_digest(request.body)
        ek_hash = challenge.endorsement.ek_hash
        known = for_enrollment(self.registry, ek_hash, challenge.id)
        if known.spent is not None:  # 2
            return self._answer_again(known.spent, digest, request.proof, now)
        challenge.require_alive(now)  # 3
        check_proof(secret=challenge.secret, body=request.body, proof=request.proof)  # 4
        try:
            proven = prove(challenge, request, digest)
            return self._decide(proven, known, now, request_id)  # 6
        except (EvidenceRefused, MalformedInput, Forbidden) as refusal:
            self._spend_refused(challenge, request, refusal, known.device, now=now, request_id=request_id)  # 5
            raise
        except spends.AlreadySpent:  # 2, by a request that was answered meanwhile: perhaps this very one
            known = for_enrollment(self.registry, ek_hash, challenge.id)
            if known.spent is None:
                raise
            return self._answer_again(known.spent, digest, request.proof, now)

    def _decide(self, proven: Proven, known: Known, now: datetime, request_id: str) -> bytes | WaitAnswer:
        """Step 6. Re-enrolling never improves a state: quarantined and rejected are refused, retired waits again."""
        device = known.device
        if device is None and known.ek_is_blocked:
            raise EndorsementKeyBlocked("An operator replaced this TPM by another.")
        if device is None or device.state in (State.PENDING, State.RETIRED):
            return self._wait(proven, now, request_id)
        if device.state in (State.APPROVED, State.ACTIVE):
            return self._issue(proven, device, now, request_id)
        if device.state is State.QUARANTINED:
            raise DeviceQuarantined("This device is quarantined.")
        raise EnrollmentRejected("An operator rejected this device.")

    def _issue(self, proven: Proven, device: Standing, now: datetime, request_id: str) -> bytes:
        """An approved device's first credentials, or an active one's new ones; a bad state quarantines the latter."""
        place = Placement.of(device)
        appraised = self.appraiser.appraise(proven.case(device), now=now)
        result = appraised.result
        if result.contraindicated:
            self._quarantine(proven, device, appraised, now, request_id)
        good_until = now + self.settings.attestation.validity
        subject = SpiffeId.of_device(self.settings.trust_domain, place.tier, place.site, device.id)
        ear = self.ears.sign(result, subject, quoted=proven.qualifying_data, now=now, until=good_until)
        granted = self.granter.grant(
            Grant(
                device_id=device.id,
                tier=place.tier,
                site=place.site,
                labels=device.labels,
                status_index=place.status_index,
                key=proven.key.key,
                result=result,
                good_until=good_until,
                ear=ear,
                lately=appraised.lately,
            ),
            now=now,
        )
        endorsed = self.trust.keep_issuers(proven.endorsement, now=now)
        self.registry.act(
            self._spending(proven, now, answer=granted.answer, device=device.id, serial=granted.certificate.serial),
            *transitions.activation(
                device.id,
                was=device.state,
                expected_version=device.state_version,
                ek_public=proven.endorsement.area,
                ak_public=proven.ak.public.area,
                ck_public=proven.key.public.area,
                ck_name=proven.key.name,
                endorsement=proven.endorsement.kind,
                manufacturer=proven.endorsement.manufacturer,
                model=proven.endorsement.model,
                firmware_version=proven.endorsement.firmware_version,
                result=result.to_members(),
                clock=clock_members(proven.quote),
                good_until=int(good_until.timestamp()),
                now=int(now.timestamp()),
            ),
            *appraised.keeping(device.id),
            *evidence.keeping_endorsement(device.id, endorsed, now=int(now.timestamp())),
            brake.forgetting(device.id),
            outcomes.marking(result.status, now=int(now.timestamp())),
            recording(granted, device, changes=1),
            audit.entry(
                at=int(now.timestamp()),
                actor=f"device:{device.id}",
                act="enroll",
                subject=str(device.id),
                request_id=request_id,
                detail={"serial": str(granted.certificate.serial), "was": device.state.value, "result": result.status},
            ),
        )
        return granted.answer

    def _quarantine(
        self, proven: Proven, device: Standing, appraised: Appraised, now: datetime, request_id: str
    ) -> NoReturn:
        """A contraindicated result: an active device is quarantined, or held by the brake; an approved one stays
        without credentials."""
        result = appraised.result
        refusal = EvidenceContraindicated(
            "The evidence shows a state that must not be trusted.", reasons=result.reasons
        )
        if device.state is State.ACTIVE:
            kept = appraised.keeping(device.id)
            # The device's row before its evidence, as every act has it: two acts never wait for each other in a circle.
            alone = transitions.unchanged(device.id, expected_version=device.state_version)
            noted = audit.entry(
                at=int(now.timestamp()),
                actor="attestd",
                act="quarantine",
                subject=str(device.id),
                request_id=request_id,
                detail={"because": list(result.reasons)},
            )
            self.quarantines.settle(
                device, result, quarantining=(noted, alone, *kept), holding=lambda: kept, now=now, request_id=request_id
            )
        raise refusal

    def _wait(self, proven: Proven, now: datetime, request_id: str) -> WaitAnswer:
        """Records the evidence of a device that nobody approved yet. Such rows are capped and expire."""
        settings = self.settings.enrollment
        appraised = self.appraiser.appraise(proven.case(None), now=now)
        result = appraised.result
        endorsed = self.trust.keep_issuers(proven.endorsement, now=now)
        retry_after = int(settings.retry_after.total_seconds())
        with self.registry.acting() as c:
            admission.purge_pending(c, older_than=int((now - settings.pending_lifetime).timestamp()))
            known = devices.by_ek_hash(c, proven.endorsement.ek_hash)
            if (known is None or known.state is not State.PENDING) and (
                admission.count_pending(c) >= settings.max_pending
            ):
                raise TooManyPending(
                    "Too many devices wait for approval.", retry_after=10 * retry_after, seen=settings.max_pending
                )
            device = admission.record_pending(
                c,
                new_id=DeviceId.random(self.entropy(16)),
                ek_public=proven.endorsement.area,
                endorsement=proven.endorsement.kind,
                manufacturer=proven.endorsement.manufacturer,
                model=proven.endorsement.model,
                firmware_version=proven.endorsement.firmware_version,
                result=result.to_members(),
                clock=clock_members(proven.quote),
                now=int(now.timestamp()),
            )
            perform(
                c,
                self._spending(proven, now, answer=None, device=device.id, serial=None),
                *appraised.keeping(device.id),
                *evidence.keeping_endorsement(device.id, endorsed, now=int(now.timestamp())),
            )
            audit.append(
                c,
                at=int(now.timestamp()),
                actor=f"device:{device.id}",
                act="ask",
                subject=str(device.id),
                request_id=request_id,
                detail={"manufacturer": device.manufacturer, "endorsement": device.endorsement},
            )
        return WaitAnswer(state="pending", retry_after=retry_after)

    # ---- Spending and retrying --------------------------------------------------------------------------------

    def _spending(
        self, proven: Proven, now: datetime, *, answer: bytes | None, device: DeviceId, serial: Serial | None
    ) -> Step:
        return spends.spending(
            proven.challenge.id,
            purpose="challenge",
            request_digest=proven.digest,
            proof_digest=request_digest(proven.proof),
            answer=answer,
            device_id=device,
            serial=serial,
            now=int(now.timestamp()),
            expires_at=self._remember_until(proven.challenge),
        )

    def _spend_refused(
        self,
        challenge: EnrollmentChallenge,
        request: CompleteRequest,
        refusal: AttestdError,
        device: Standing | None,
        *,
        now: datetime,
        request_id: str,
    ) -> None:
        """A right proof with evidence that is refused: spent, and the trail says why. A race to spend it is lost."""
        at = int(now.timestamp())
        known = (None, None) if device is None else (device.site, device.id)
        counted = [outcomes.refusing("enroll", refusal.slug(), site=known[0], device=known[1], now=at)]
        if isinstance(refusal, EvidenceContraindicated):
            counted = outcomes.contraindicating("enroll", refusal.reasons, site=known[0], device=known[1], now=at)
        with suppress(spends.AlreadySpent):
            self.registry.act(
                spends.spending(
                    challenge.id,
                    purpose="challenge",
                    request_digest=request_digest(request.body),
                    proof_digest=request_digest(request.proof),
                    now=int(now.timestamp()),
                    expires_at=self._remember_until(challenge),
                ),
                audit.entry(
                    at=int(now.timestamp()),
                    actor="attestd",
                    act="refuse-enrollment",
                    subject="unknown" if device is None else str(device.id),
                    request_id=request_id,
                    detail={"why": refusal.slug(), "detail": refusal.detail},
                ),
                *counted,
            )

    def _remember_until(self, challenge: EnrollmentChallenge) -> int:
        """A spent id outlives its challenge by a certificate's life, so that a late retry still gets its answer."""
        longest = max(profile.lifetime for profile in self.granter.profiles.values() if profile.tier is not None)
        return challenge.expires_at + int(longest.total_seconds())

    def _answer_again(self, spent: Spent, digest: bytes, proof: bytes, now: datetime) -> bytes:
        """The stored octets, for the very same request, while they are still worth something; else ChallengeSpent."""
        same = hmac.compare_digest(spent.request_digest, digest) and (
            spent.proof_digest is not None and hmac.compare_digest(spent.proof_digest, request_digest(proof))
        )
        if not same or spent.answer is None or spent.device_id is None or spent.serial is None:
            raise ChallengeSpent("This challenge has been used.")
        with self.registry.reading() as c:
            require_standing(c, spent.device_id, spent.serial, now)
        return spent.answer
