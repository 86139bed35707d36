"""A known device attests, and renews by it (docs/protocol.md, sections 2 and 3).

1. The request is proven (`requests`), and of a device that may attest: active, or quarantined.
2. The quote answers this nonce; its TPM's clock has gone on since the last one; the logs are judged (`appraising`).
3. What follows: a good result of an active device renews its certificate; a contraindicated one quarantines it, unless
   the brake holds it; a quarantined device gets its result alone, and is released only where policy says so.
4. One transaction spends the nonce, records the result with what it follows from, and changes the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from attestd.appraisal.results import AttestationResult
from attestd.ca.sealing import SealingKeys
from attestd.config import Settings
from attestd.errors import EvidenceRefused, MalformedInput, Unavailable
from attestd.ids import SpiffeId
from attestd.issuance.answering import (
    AttestationOverdue,
    DeviceNotActive,
    act,
    answered_once,
    noting,
    require_good_standing,
    spend_refused,
    spending,
)
from attestd.issuance.appraising import Appraised, Appraiser, Case
from attestd.issuance.chips import endorsed_before
from attestd.issuance.ears import Ears
from attestd.issuance.grants import Granted, Granter
from attestd.issuance.quarantining import Quarantines, ResultHeld
from attestd.issuance.records import clock_before, clock_members, recording
from attestd.issuance.requests import NonceSpent, Requested
from attestd.protocol.derivations import device_quote_data
from attestd.protocol.messages import AttestationRequest, WaitAnswer
from attestd.protocol.signed import SignedEnvelope
from attestd.registry import brake, devices, outcomes, spends, transitions
from attestd.registry.acts import Step
from attestd.registry.engine import Registry
from attestd.registry.standing import Standing
from attestd.registry.states import Event, State
from attestd.tpm.attest import VerifiedQuote, verify_quote
from attestd.tpm.clock import Reading, read_clock


@dataclass(frozen=True, slots=True)
class Attested:
    """One attestation, proven and appraised. `reading`: what happened since the quote before, if there is one."""

    quote: VerifiedQuote
    reading: Reading | None
    qualifying_data: bytes
    appraised: Appraised

    @property
    def result(self) -> AttestationResult:
        return self.appraised.result

    @property
    def happened(self) -> dict[str, str]:
        """For the audit trail: nothing, where the boot is the same."""
        return {"since": self.reading.value} if self.reading not in (None, Reading.SAME_BOOT) else {}


@dataclass(frozen=True, slots=True)
class Attestations:
    """The verb. One object serves any number of requests in any process."""

    settings: Settings
    registry: Registry
    sealing: SealingKeys
    granter: Granter
    ears: Ears
    appraiser: Appraiser
    quarantines: Quarantines

    def demanded(self, now: datetime) -> str | None:
        """What an attestation should hold now: the header beside each nonce (`attestd.protocol.demanded`). None where
        that is not known, since the database is away: what an answer says of that must not get lost for it."""
        try:
            return self.appraiser.in_force(now).header
        except Unavailable:
            return None

    def attest(self, envelope: SignedEnvelope, *, url: str, now: datetime, request_id: str) -> bytes | WaitAnswer:
        """Re-attests, and renews if the device is active. A quarantined device gets its result and nothing else."""
        return answered_once(
            self.registry,
            self.sealing,
            envelope,
            url=url,
            now=now,
            verb=lambda asked: self._attest(asked, now, request_id),
        )

    def _attest(self, asked: Requested, now: datetime, request_id: str) -> bytes | WaitAnswer:
        row = asked.device.row
        if row.state not in (State.ACTIVE, State.QUARANTINED):  # 1
            raise DeviceNotActive("This device is not active.", seen=row.state.value)
        try:
            attested = self._appraise(asked, now)  # 2
        except (EvidenceRefused, MalformedInput) as refusal:
            spend_refused(self.registry, asked, "refuse-attestation", refusal, now=now, request_id=request_id)
            raise
        if row.state is State.ACTIVE:  # 3
            if attested.result.contraindicated:
                return self._turned_bad(asked, attested, now=now, request_id=request_id)
        elif not self._released(row, attested.result):
            return self._stays(asked, attested, now=now, request_id=request_id)
        return self._renewed(asked, attested, now=now, request_id=request_id)

    def _appraise(self, asked: Requested, now: datetime) -> Attested:
        """Step 2."""
        device, request = asked.device, AttestationRequest.parse(asked.payload)
        ak = device.ak
        qualifying_data = device_quote_data(
            nonce=asked.sealed_nonce, device_id=device.id, ak_name=ak.name, ck_name=device.ck_name
        )
        selection = self.appraiser.in_force(now).demanded.pcrs
        quote = verify_quote(
            ak,
            attest=request.quote.attest,
            signature=request.quote.signature,
            qualifying_data=qualifying_data,
            pcrs=request.quote.pcrs,
            selection=selection,
            allow_sha1="sha1" in selection,
        )
        before = clock_before(device.row.clock)
        reading = None if before is None else read_clock(before, quote.clock)
        case = Case(
            device=device.id,
            quote=quote,
            unverified=request.quote,
            qualifying_data=qualifying_data,
            ak=ak,
            endorsed=endorsed_before(device.row),
            ek_area=device.row.ek_public or b"",
            tier=device.place.tier,
            labels=device.row.labels,
        )
        kept = self.appraiser.before(device.id, request.quote)
        return Attested(quote, reading, qualifying_data, self.appraiser.appraise(case, kept=kept, now=now))

    def _released(self, device: Standing, result: AttestationResult) -> bool:
        """Policy may end a quarantine that followed from a result; what an operator did, policy does not undo."""
        by_result = device.quarantined_by == devices.APPRAISAL
        return by_result and self.settings.attestation.release_after_good and result.status == "affirming"

    # ---- What follows -----------------------------------------------------------------------------------------

    def _renewed(self, asked: Requested, attested: Attested, *, now: datetime, request_id: str) -> bytes:
        """A certificate by a good result, and the release of a quarantined device by it."""
        row, result = asked.device.row, attested.result
        good_until = now + self.settings.attestation.validity
        release: tuple[Step, ...] = ()
        if row.state is State.QUARANTINED:
            release = transitions.changing_state(
                row.id,
                Event.RELEASE,
                reason="a good attestation, by policy",
                now=int(now.timestamp()),
                expected_version=row.state_version,
            )
        grant = asked.device.grant(
            asked.device.key,
            result,
            good_until,
            ear=self._ear(asked, attested, now, good_until),
            lately=attested.appraised.lately,
        )
        granted = self.granter.grant(grant, now=now)
        told = {"serial": str(granted.certificate.serial), "result": result.status, **attested.happened}
        act(
            self.registry,
            spending(asked, now, granted=granted),
            *_recorded(row, attested, good_until=good_until, now=now),
            *release,
            brake.forgetting(row.id),
            recording(granted, row, changes=1 if release else 0),
            noting(asked, "attest", now, request_id, **told),
        )
        return granted.answer

    def _turned_bad(
        self, asked: Requested, attested: Attested, *, now: datetime, request_id: str
    ) -> bytes | WaitAnswer:
        """An active device's contraindicated result quarantines it in the same transaction, which suspends it in the
        status list. Where the brake holds it, the last good result stands until its own end, and not a moment longer.
        """
        device, result = asked.device.row, attested.result
        granted: Granted | None = None

        def holding() -> tuple[Step, ...]:
            nonlocal granted
            seen = transitions.clock_seen(
                device.id,
                expected_version=device.state_version,
                clock=clock_members(attested.quote),
                now=int(now.timestamp()),
            )
            kept = (seen, *attested.appraised.keeping(device.id), *_counted(device, result, now))
            try:
                last, good_until = require_good_standing(device, now)
            except AttestationOverdue:
                return (spending(asked, now), *kept)
            grant = asked.device.grant(asked.device.key, last, good_until, lately=attested.appraised.lately)
            granted = self.granter.grant(grant, now=now)
            told = {"serial": str(granted.certificate.serial), "result": result.status, "held": True}
            return (
                spending(asked, now, granted=granted),
                *kept,
                recording(granted, device),
                noting(asked, "attest", now, request_id, **told, **attested.happened),
            )

        try:
            quarantined = self.quarantines.settle(
                device,
                result,
                quarantining=(
                    spending(asked, now),
                    *_recorded(device, attested, good_until=now, now=now),
                    noting(asked, "quarantine", now, request_id, because=list(result.reasons), **attested.happened),
                ),
                holding=holding,
                now=now,
                request_id=request_id,
            )
        except spends.AlreadySpent:
            raise NonceSpent("This nonce has been used.") from None
        if quarantined:
            return self._wait(asked, attested, State.QUARANTINED, now)
        if granted is None:
            raise ResultHeld("The evidence shows a state that must not be trusted.", seen="; ".join(result.reasons))
        return granted.answer

    def _stays(self, asked: Requested, attested: Attested, *, now: datetime, request_id: str) -> WaitAnswer:
        """A result without a credential, of a device that stays in quarantine."""
        act(
            self.registry,
            spending(asked, now),
            *_recorded(asked.device.row, attested, good_until=now, now=now),
            noting(asked, "attest", now, request_id, result=attested.result.status, **attested.happened),
        )
        return self._wait(asked, attested, State.QUARANTINED, now)

    def _wait(self, asked: Requested, attested: Attested, state: State, now: datetime) -> WaitAnswer:
        validity = self.settings.attestation.validity
        return WaitAnswer(
            state=state.value,
            retry_after=int(validity / timedelta(seconds=4)),
            result=attested.result.to_members(),
            ear=self._ear(asked, attested, now, now + validity),
            lately=attested.appraised.lately,
        )

    def _ear(self, asked: Requested, attested: Attested, now: datetime, until: datetime) -> str:
        place = asked.device.place
        subject = SpiffeId.of_device(self.settings.trust_domain, place.tier, place.site, asked.device.id)
        return self.ears.sign(attested.result, subject, quoted=attested.qualifying_data, now=now, until=until)


def _recorded(device: Standing, attested: Attested, *, good_until: datetime, now: datetime) -> tuple[Step, ...]:
    """The result, and what it follows from."""
    return (
        *transitions.attestation(
            device.id,
            expected_version=device.state_version,
            result=attested.result.to_members(),
            clock=clock_members(attested.quote),
            good_until=int(good_until.timestamp()),
            now=int(now.timestamp()),
            counts_again=device.attested_at is None,
        ),
        *attested.appraised.keeping(device.id),
        *_counted(device, attested.result, now),
    )


def _counted(device: Standing, result: AttestationResult, now: datetime) -> tuple[Step, ...]:
    """For whoever looks at the fleet over time."""
    at = int(now.timestamp())
    if not result.contraindicated:
        return (outcomes.marking(result.status, now=at),)
    return tuple(outcomes.contraindicating("attest", result.reasons, site=device.site, device=device.id, now=at))
