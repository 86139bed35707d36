"""A known device's later requests: re-attesting, renewing, tokens (docs/protocol.md, sections 2 and 4).

1. The request is proven: `requests`.
2. The verb's own checks.
3. What is issued is signed first; then one transaction spends the nonce, requires the device as it was appraised,
   records what was issued and appends the audit row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from attestd.appraisal.results import AttestationResult
from attestd.ca.hierarchy import Hierarchy
from attestd.ca.sealing import SealingKeys
from attestd.ca.tokens import mint_token
from attestd.config import Settings
from attestd.credentials.jwk import jwk_thumbprint
from attestd.errors import EvidenceRefused, Forbidden, MalformedInput
from attestd.ids import Serial, SpiffeId
from attestd.issuance.appraising import Appraised, Appraiser, Case
from attestd.issuance.challenges import RequestNonce
from attestd.issuance.chips import endorsed_before
from attestd.issuance.ears import Ears
from attestd.issuance.enrollment import DeviceQuarantined
from attestd.issuance.grants import Granted, Granter
from attestd.issuance.records import clock_before, clock_members, recording
from attestd.issuance.requests import DeviceRequests, NonceSpent, Requested
from attestd.policy import PolicySet, may_receive_token
from attestd.protocol.derivations import device_certify_data, device_quote_data
from attestd.protocol.encoding import b64encode
from attestd.protocol.messages import (
    AttestationRequest,
    CertifiedKey,
    RenewalRequest,
    TokenAnswer,
    TokenRequest,
    WaitAnswer,
)
from attestd.protocol.signed import SignedEnvelope
from attestd.registry import audit, devices, issued, spends
from attestd.registry.acts import Step
from attestd.registry.engine import Registry
from attestd.registry.standing import Standing
from attestd.registry.states import Event, State
from attestd.tpm.attest import VerifiedKey, VerifiedQuote, verify_certified_key, verify_quote
from attestd.tpm.clock import Reading, read_clock
from attestd.tpm.objects import parse_public

_T = TypeVar("_T")


class DeviceNotActive(Forbidden):
    """The device's state allows no credentials"""

    remedy = "Ask an operator; a retired device enrolls again and waits for approval."


class AttestationOverdue(Forbidden):
    """The device's last attestation no longer counts"""

    remedy = "Attest again (POST /v1/attestations): that renews the certificate, too."


class AudienceDenied(Forbidden):
    """No policy permits a token for this audience"""

    remedy = "Ask an operator to permit the audience for this tier in the policy."


@dataclass(frozen=True, slots=True)
class Attested:
    """One attestation, proven and appraised. `reading`: what happened since the quote before, if there is one."""

    quote: VerifiedQuote
    reading: Reading | None
    qualifying_data: bytes
    appraised: Appraised

    @property
    def happened(self) -> dict[str, str]:
        """For the audit trail: nothing, where the boot is the same."""
        return {"since": self.reading.value} if self.reading not in (None, Reading.SAME_BOOT) else {}


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The three verbs. One object serves any number of requests in any process."""

    settings: Settings
    registry: Registry
    hierarchy: Hierarchy
    sealing: SealingKeys
    granter: Granter
    ears: Ears
    appraiser: Appraiser
    policies: Callable[[], PolicySet]
    entropy: Callable[[int], bytes]

    def nonce(self, now: datetime) -> bytes:
        """A fresh nonce for one signed request, sealed."""
        fresh = RequestNonce.fresh(now, self.settings.enrollment.nonce_lifetime, self.entropy)
        return fresh.seal(self.sealing, self.entropy)

    def demanded(self, now: datetime) -> str:
        """What an attestation should hold now: the header beside each nonce (`attestd.protocol.demanded`)."""
        return self.appraiser.in_force(now).header

    # ---- The verbs --------------------------------------------------------------------------------------------

    def attest(self, envelope: SignedEnvelope, *, url: str, now: datetime, request_id: str) -> bytes | WaitAnswer:
        """Re-attests, and renews if the device is active. A quarantined device gets its result and nothing else."""
        return self._once(envelope, url, now, lambda asked: self._attest(asked, now, request_id))

    def _attest(self, asked: Requested, now: datetime, request_id: str) -> bytes | WaitAnswer:
        if asked.device.row.state not in (State.ACTIVE, State.QUARANTINED):
            raise DeviceNotActive("This device is not active.", seen=asked.device.row.state.value)
        try:
            attested = self._appraise(asked, now)
        except (EvidenceRefused, MalformedInput) as refusal:
            self._spend_refused(asked, "refuse-attestation", refusal, now=now, request_id=request_id)
            raise
        row, result = asked.device.row, attested.appraised.result
        good_until = now + self.settings.attestation.validity
        released = (
            row.state is State.QUARANTINED
            and self.settings.attestation.release_after_good
            and result.status == "affirming"
        )
        if result.contraindicated or (row.state is State.QUARANTINED and not released):
            return self._record_result(asked, attested, now=now, request_id=request_id)
        grant = asked.device.grant(
            asked.device.key,
            result,
            good_until,
            ear=self._ear(asked, attested, now, good_until),
            lately=attested.appraised.lately,
        )
        granted = self.granter.grant(grant, now=now)
        release: tuple[Step, ...] = ()
        if released:
            release = devices.changing_state(
                row.id,
                Event.RELEASE,
                reason="a good attestation, by policy",
                now=int(now.timestamp()),
                expected_version=row.state_version,
            )
        self._act(
            _spending(asked, now, granted=granted),
            *_attestation(row, attested, good_until=good_until, now=now),
            *release,
            recording(granted, row, changes=1 if released else 0),
            _entry(
                asked,
                "attest",
                now,
                request_id,
                serial=str(granted.certificate.serial),
                result=result.status,
                **attested.happened,
            ),
        )
        return granted.answer

    def _appraise(self, asked: Requested, now: datetime) -> Attested:
        """The quote is verified, its clock read, its logs judged."""
        row, request = asked.device.row, AttestationRequest.parse(asked.payload)
        ak, qualifying_data = (
            asked.device.ak,
            device_quote_data(
                nonce=asked.sealed_nonce,
                device_id=asked.device.id,
                ak_name=asked.device.ak.name,
                ck_name=asked.device.ck_name,
            ),
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
        before = clock_before(row.clock)
        reading = None if before is None else read_clock(before, quote.clock)
        case = Case(
            device=row.id,
            quote=quote,
            unverified=request.quote,
            qualifying_data=qualifying_data,
            ak=ak,
            endorsed=endorsed_before(row),
            ek_area=row.ek_public or b"",
            tier=asked.device.place.tier,
            labels=row.labels,
        )
        kept = self.appraiser.before(row.id, request.quote)
        return Attested(quote, reading, qualifying_data, self.appraiser.appraise(case, kept=kept, now=now))

    def _ear(self, asked: Requested, attested: Attested, now: datetime, until: datetime) -> str:
        place = asked.device.place
        subject = SpiffeId.of_device(self.settings.trust_domain, place.tier, place.site, asked.device.id)
        result = attested.appraised.result
        return self.ears.sign(result, subject, quoted=attested.qualifying_data, now=now, until=until)

    def renew(self, envelope: SignedEnvelope, *, url: str, now: datetime, request_id: str) -> bytes:
        """A new certificate while the last attestation counts: for the same key, or a new one certified by the AK."""
        return self._once(envelope, url, now, lambda asked: self._renew(asked, now, request_id))

    def _renew(self, asked: Requested, now: datetime, request_id: str) -> bytes:
        result, good_until = self._require_good_standing(asked.device.row, now)
        request = RenewalRequest.parse(asked.payload)
        new_key: VerifiedKey | None = None
        if request.key is not None:
            try:
                new_key = self._verify_new_key(asked, request.key)
            except (EvidenceRefused, MalformedInput) as refusal:
                self._spend_refused(asked, "refuse-rekey", refusal, now=now, request_id=request_id)
                raise
        key = asked.device.key if new_key is None else new_key.key
        granted = self.granter.grant(asked.device.grant(key, result, good_until), now=now)
        device = asked.device.row
        rekeying: tuple[Step, ...] = ()
        if new_key is not None:
            rekeying = (
                devices.rekeying(
                    device.id,
                    expected_version=device.state_version,
                    ck_public=new_key.public.area,
                    ck_name=new_key.name,
                    now=int(now.timestamp()),
                ),
            )
        act = "renew" if new_key is None else "rekey"
        self._act(
            _spending(asked, now, granted=granted),
            *rekeying,
            recording(granted, device, changes=len(rekeying)),
            _entry(asked, act, now, request_id, serial=str(granted.certificate.serial)),
        )
        return granted.answer

    def token(self, envelope: SignedEnvelope, *, url: str, now: datetime, request_id: str) -> bytes:
        """A bound token for an audience that policy names. Lifetimes nest: token, certificate, attestation."""
        return self._once(envelope, url, now, lambda asked: self._token(asked, now, request_id))

    def _token(self, asked: Requested, now: datetime, request_id: str) -> bytes:
        result, good_until = self._require_good_standing(asked.device.row, now)
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
            now=now,
            expires_at=ends,
        )
        answer = TokenAnswer(token, int((ends - now).total_seconds())).to_bytes()
        self._act(
            _spending(asked, now, answer=answer, serial=certificate.serial),
            devices.unchanged(asked.device.id, expected_version=asked.device.row.state_version),
            *issued.unrevoked(certificate.serial),
            _entry(asked, "token", now, request_id, jti=token_id, audience=request.audience),
        )
        return answer

    # ---- The checks -------------------------------------------------------------------------------------------

    def _once(self, envelope: SignedEnvelope, url: str, now: datetime, verb: Callable[[Requested], _T]) -> _T | bytes:
        """The verb for a proven request, which is proven anew if its nonce was spent meanwhile: perhaps by itself."""
        proof = DeviceRequests(self.registry, self.sealing)
        asked = proof.require(envelope, url=url, now=now)
        if isinstance(asked, bytes):
            return asked
        try:
            return verb(asked)
        except NonceSpent:
            answered = proof.require(envelope, url=url, now=now)
            if isinstance(answered, bytes):
                return answered
            raise

    def _require_good_standing(self, device: Standing, now: datetime) -> tuple[AttestationResult, datetime]:
        """Active, with an attestation that still counts: what it found, and until when it does."""
        if device.state is State.QUARANTINED:
            raise DeviceQuarantined("This device is quarantined.")
        if device.state is not State.ACTIVE:
            raise DeviceNotActive("This device is not active.", seen=device.state.value)
        if device.attestation_good_until is None or device.result is None:
            raise AttestationOverdue("This device has not attested.")
        good_until = datetime.fromtimestamp(device.attestation_good_until, UTC)
        if good_until <= now:
            raise AttestationOverdue(
                "The last attestation no longer counts.", seen=f"until {good_until:%Y-%m-%dT%H:%M:%SZ}"
            )
        return _result(device.result), good_until

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

    # ---- The transactions -------------------------------------------------------------------------------------

    def _record_result(self, asked: Requested, attested: Attested, *, now: datetime, request_id: str) -> WaitAnswer:
        """A result without a credential. A contraindicated one quarantines an active device in the same transaction,
        which suspends it in the status list."""
        device, result = asked.device.row, attested.appraised.result
        told: dict[str, Any] = {"result": result.status}
        state, act = device.state, "attest"
        quarantine: tuple[Step, ...] = ()
        if result.contraindicated and state is State.ACTIVE:
            state, act, told = State.QUARANTINED, "quarantine", {"because": list(result.reasons)}
            quarantine = devices.changing_state(
                device.id,
                Event.QUARANTINE,
                reason="; ".join(result.reasons),
                now=int(now.timestamp()),
                expected_version=device.state_version,
            )
        self._act(
            _spending(asked, now),
            *_attestation(device, attested, good_until=now, now=now),
            *quarantine,
            _entry(asked, act, now, request_id, **told, **attested.happened),
        )
        return WaitAnswer(
            state=state.value,
            retry_after=int((self.settings.attestation.validity / 4).total_seconds()),
            result=result.to_members(),
            ear=self._ear(asked, attested, now, now + self.settings.attestation.validity),
            lately=attested.appraised.lately,
        )

    def _spend_refused(
        self, asked: Requested, act: str, refusal: EvidenceRefused | MalformedInput, *, now: datetime, request_id: str
    ) -> None:
        self._act(
            _spending(asked, now),
            _entry(asked, act, now, request_id, why=refusal.slug(), detail=refusal.detail),
        )

    def _act(self, *steps: Step) -> None:
        """One transaction; the first step spends the nonce. Raises NonceSpent, StateChanged."""
        try:
            self.registry.act(*steps)
        except spends.AlreadySpent:
            raise NonceSpent("This nonce has been used.") from None


def _spending(
    asked: Requested,
    now: datetime,
    *,
    granted: Granted | None = None,
    answer: bytes | None = None,
    serial: Serial | None = None,
) -> Step:
    """Uses the nonce up. The row outlives the nonce by a minute, so that clocks of instances may differ."""
    return spends.spending(
        asked.nonce.id,
        purpose="nonce",
        request_digest=asked.digest,
        answer=answer if granted is None else granted.answer,
        device_id=asked.device.id,
        serial=serial if granted is None else granted.certificate.serial,
        now=int(now.timestamp()),
        expires_at=asked.nonce.expires_at + int(timedelta(minutes=1).total_seconds()),
    )


def _attestation(device: Standing, attested: Attested, *, good_until: datetime, now: datetime) -> tuple[Step, ...]:
    """The result, and what it follows from."""
    return (
        *devices.attestation(
            device.id,
            expected_version=device.state_version,
            result=attested.appraised.result.to_members(),
            clock=clock_members(attested.quote),
            good_until=int(good_until.timestamp()),
            now=int(now.timestamp()),
            counts_again=device.attested_at is None,
        ),
        *attested.appraised.keeping(device.id),
    )


def _entry(asked: Requested, act: str, now: datetime, request_id: str, **detail: Any) -> Step:
    return audit.entry(
        at=int(now.timestamp()),
        actor=f"device:{asked.device.id}",
        act=act,
        subject=str(asked.device.id),
        request_id=request_id,
        detail=detail,
    )


def _result(members: Mapping[str, Any]) -> AttestationResult:
    return AttestationResult(
        dict(members["vector"]),
        tuple(members["reasons"]),
        int(members["attested_at"]),
        dict(members.get("facts", {})),  # none in results of before these were kept
    )
