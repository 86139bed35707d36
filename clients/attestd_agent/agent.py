"""The agent's acts, each one whole: enroll, attest, renew, fetch a token (docs/protocol.md, sections 1 and 2).

An act reads the state, asks the TPM and the service, checks what came back and saves it, with the state folder locked
from beginning to end. Nothing is saved that does not belong together: the certificate is for the key in this TPM, leads
to the pinned root, and names the device that it named before.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.credentials.succession import succeed
from attestd.credentials.x509 import Authorities, verify_chain
from attestd.errors import Conflict, Unauthenticated
from attestd.ids import SpiffeId
from attestd.protocol.derivations import (
    completion_proof,
    device_certify_data,
    enrollment_certify_data,
    enrollment_identify_data,
    enrollment_quote_data,
)
from attestd.protocol.evidence import (
    CertifiedKey,
    Identification,
    IdentityKey,
    Lately,
    PcrSelection,
    QuoteEvidence,
)
from attestd.protocol.messages import (
    BeginRequest,
    CompleteRequest,
    CredentialAnswer,
    EnrollmentEvidence,
    RenewalRequest,
    TokenAnswer,
    TokenRequest,
    WaitAnswer,
)
from attestd.protocol.signed import Sign
from attestd_agent.bootlogs import BootLogs
from attestd_agent.clock import DeviceClock
from attestd_agent.evidence import Statement, read_logs
from attestd_agent.keys import TpmKey
from attestd_agent.records import Enrolled, Record, Waiting
from attestd_agent.server import MAX_WAIT, Server, ServerRefused
from attestd_agent.state import StateBroken, StateDir
from attestd_agent.transport import write_roots

if TYPE_CHECKING:  # at run time, a command that needs no TPM needs no TPM library
    from attestd_agent.device import Device

_log = logging.getLogger(__name__)
_DER, _SPKI = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
_OVERDUE = "attestation-overdue"
_JITTER = 0.1  # of the time until renewal, either way: a fleet that started together drifts apart


class NotEnrolled(Conflict):
    """This device has no credential yet"""

    remedy = "Enroll it: `attestd-agent enroll --server https://…`."


class CredentialNotOurs(Unauthenticated):
    """The service answered with a credential of another device"""

    remedy = "Ask the service's operator; nothing was saved."


@dataclass
class Agent:
    """One device at one service. `random` is uniform in [0, 1).

    `iak` is the persistent handle of an identity key, with its certificates: the device then enrolls by this key.
    """

    state: StateDir
    device: Device
    server: Server
    clock: DeviceClock
    random: Callable[[], float]
    ek: str | None = None
    ek_certificates: Sequence[bytes] = ()
    iak: tuple[int, Sequence[bytes]] | None = None
    logs: BootLogs = field(default_factory=BootLogs)

    # ---- Acts -------------------------------------------------------------------------------------------------------

    def enroll(self) -> Enrolled | WaitAnswer:
        """Both round trips. With a credential at hand it enrolls anew, with new keys."""
        with self.state.exclusive():
            self._know_the_time()
            former: Enrolled | None = None
            with suppress(StateBroken):  # enrolling is what mends it
                former = self.state.load()
            kind = self.ek or (former.record.ek if former is not None else None)
            endorsement = self.device.endorsement(kind=kind, given=self.ek_certificates)
            ak, ck = self.device.create_keys()
            identity = None if self.iak is None else self.device.identity(*self.iak)
            if identity is None:
                request = BeginRequest(endorsement.public, ak.area, endorsement.certificates)
            else:
                shown = IdentityKey(identity.public, identity.certificates)
                request = BeginRequest(endorsement.public, ak.area, iak=shown)
            begun = self.server.begin(request)
            known_by = {
                "nonce": begun.nonce,
                "id": begun.id,
                "ek_hash": endorsement.hash if identity is None else identity.hash,
                "ak_name": ak.name,
            }
            bound = {**known_by, "ck_name": ck.name}
            proof = self.device.prove(
                endorsement,
                ak,
                ck,
                credential_blob=begun.credential_blob,
                secret=begun.secret,
                certify_data=enrollment_certify_data(**bound),
                quote_data=enrollment_quote_data(**bound),
                selection=begun.pcrs,
                identity=None if identity is None else (identity, enrollment_identify_data(**known_by)),
            )
            said, logs = proof.identified, read_logs(self.logs, begun.wants)
            body = EnrollmentEvidence(
                CertifiedKey(ck.area, proof.certified.attest, proof.certified.signature),
                QuoteEvidence(proof.quoted.attest, proof.quoted.signature, proof.quoted.pcrs, **logs),
                None if said is None else Identification(said.attest, said.signature),
            ).to_bytes()
            self.state.save_unanswered(former is not None)
            answer = self.server.complete(
                CompleteRequest(begun.challenge, body, completion_proof(secret=proof.secret, body=body))
            )
            return self._settle(answer, ak, ck, kind=endorsement.kind, selection=begun.pcrs, wants=begun.wants)

    def attest(self) -> Enrolled | WaitAnswer:
        """Re-attests and renews in one round trip; works with an expired certificate too."""
        with self.state.exclusive():
            self._know_the_time()
            known = self._known()
            statement = Statement(self.device, known, self.logs, lambda: self.server.demanded, self.state.lately())
            self.server.ask()  # what it must hold now; a nonce from an earlier answer would have ended meanwhile
            while True:
                try:
                    answer = self.server.attest(statement.build, sign=self._signs(known.ck), kid=known.record.device_id)
                except ServerRefused as refused:
                    if not statement.can_mend(refused):
                        raise
                else:
                    return self._settle_known(answer, known, known.ck, attested=True)

    def renew(self, *, new_key: bool = False) -> Enrolled | WaitAnswer:
        """A new certificate, for the same key or for a new one; attests first where no attestation counts any more."""
        try:
            return self._renew(new_key=new_key)
        except ServerRefused as refused:
            answer = self._attested_after(refused)
        return self._renew(new_key=True) if new_key and isinstance(answer, Enrolled) else answer

    def _renew(self, *, new_key: bool) -> Enrolled | WaitAnswer:
        with self.state.exclusive():
            self._know_the_time()
            known = self._known()
            device_id = known.record.device_id
            ck = self.device.create_credential_key(beside=known.ak) if new_key else known.ck

            def build(nonce: bytes) -> bytes:
                if not new_key:
                    return RenewalRequest().to_bytes()
                data = device_certify_data(nonce=nonce, device_id=device_id, ak_name=known.ak.name, ck_name=ck.name)
                certified = self.device.certify(known.ak, ck, data)
                return RenewalRequest(CertifiedKey(ck.area, certified.attest, certified.signature)).to_bytes()

            self.state.save_unanswered(new_key or self.state.unanswered)
            answer = self.server.renew(build, sign=self._signs(known.ck), kid=device_id)
            return self._settle_known(answer, known, ck)

    def token(self, audience: str, *, binding: str = "dpop") -> TokenAnswer:
        """A token for an audience, bound to the credential key ("dpop") or to the certificate ("tls"); attests first
        where no attestation counts any more."""
        try:
            return self._token(audience, binding)
        except ServerRefused as refused:
            if not isinstance(self._attested_after(refused), Enrolled):
                raise
        return self._token(audience, binding)

    def _token(self, audience: str, binding: str) -> TokenAnswer:
        if self.clock.needs_time:
            with self.state.exclusive():
                self._know_the_time()
        known = self._known()
        request = TokenRequest(audience, binding)
        return self.server.token(request, sign=self._signs(known.ck), kid=known.record.device_id)

    def is_demanded(self) -> bool:
        """Asks whether the service wants an attestation now, ahead of the schedule."""
        return self.server.demands(self._known().record.device_id)

    def _attested_after(self, refused: ServerRefused) -> Enrolled | WaitAnswer:
        """Attests if that is what the refusal asks for, as it does of everybody whose service was restored from a
        backup; raises the refusal again if not."""
        if refused.problem != _OVERDUE:
            raise refused
        return self.attest()

    # ---- Steps ------------------------------------------------------------------------------------------------------

    def _known(self) -> Enrolled:
        known = self.state.load()
        if known is None:
            raise NotEnrolled(seen=str(self.state.path))
        return known

    def _know_the_time(self) -> None:
        if self.clock.needs_time:
            _log.warning("the system's clock is behind; asking the service for the time")
            self.server.fetch_time(self.clock)
            self.state.raise_floor(int(self.clock.floor.timestamp()))

    def _signs(self, key: TpmKey) -> Sign:
        return lambda data: self.device.sign(key, data)

    def _settle_known(
        self, answer: CredentialAnswer | WaitAnswer, known: Enrolled, ck: TpmKey, *, attested: bool = False
    ) -> Enrolled | WaitAnswer:
        record = known.record
        if isinstance(answer, CredentialAnswer) and answer.device_id != record.device_id:
            raise CredentialNotOurs(seen=answer.device_id, expected=record.device_id)
        kept = None if attested else known
        settled = self._settle(
            answer, known.ak, ck, kind=record.ek, selection=record.selection, wants=record.wants, renewed=kept
        )
        if attested and isinstance(answer, WaitAnswer) and known.ear != answer.ear:
            self.state.save(known.with_ear(answer.ear))  # the earlier result is not this device's any more
        return settled

    def _settle(
        self,
        answer: CredentialAnswer | WaitAnswer,
        ak: TpmKey,
        ck: TpmKey,
        *,
        kind: str,
        selection: PcrSelection,
        wants: tuple[str, ...],
        renewed: Enrolled | None = None,
    ) -> Enrolled | WaitAnswer:
        """Saves what the service answered, once it has held up to every check. A renewal that says nothing of the
        attestation has changed nothing of it: what is known from `renewed` stays."""
        now = int(self.clock.now().timestamp())
        if isinstance(answer, WaitAnswer):
            retry_at = now + min(max(answer.retry_after, 1), MAX_WAIT)
            earlier = self.state.waiting()
            since = earlier.since if earlier is not None and earlier.state == answer.state else now
            self.state.save_waiting(Waiting(answer.state, self.server.url, since, retry_at))
            self._learn(answer, renewed)
            self.state.save_unanswered(False)
            return answer
        until_renewal = max(answer.renew_after, 1) * (1 - _JITTER + 2 * _JITTER * self.random())
        expires_in = max(answer.expires_in, 1)
        enrolled = Enrolled.of(
            ak=ak,
            ck=ck,
            chain=answer.chain,
            ear=answer.ear or ("" if renewed is None else renewed.ear),
            record=Record(
                server=self.server.url,
                device_id=answer.device_id,
                spiffe_id=answer.spiffe_id,
                ek=kind,
                selection=selection,
                wants=wants,
                obtained_at=now,
                renew_at=now + min(math.ceil(until_renewal), expires_in),
                expires_at=now + expires_in,
                result=answer.result,
            ),
        )
        self._follow_roots(enrolled)
        begins = self._check_chain(enrolled)
        self.state.save(enrolled)
        self.clock.raise_floor(begins)
        self.state.raise_floor(int(begins.timestamp()))
        self.state.save_waiting(None)
        self._learn(answer, renewed)
        self.state.save_unanswered(False)
        return enrolled

    def _learn(self, answer: CredentialAnswer | WaitAnswer, renewed: Enrolled | None) -> None:
        """What the next attestation may leave out."""
        if renewed is None or answer.lately != Lately():
            self.state.save_lately(answer.lately)

    def _follow_roots(self, enrolled: Enrolled) -> None:
        """Gets from the pinned root to the next one, when there are signs of a rollover (docs/protocol.md, section 5).

        The signs are a chain with what one root says for another's key, and two roots that are pinned, of which one may
        be withdrawn. The new root is on the disk before it is used; nothing leads back to the old one.
        """
        issuers = x509.load_pem_x509_certificates(enrolled.chain.encode("ascii"))[1:]
        pinned = self.server.roots
        told = {one.public_bytes(_DER, _SPKI) for one in (issuer.public_key() for issuer in issuers[1:])}
        known = {x509.load_der_x509_certificate(root).public_key().public_bytes(_DER, _SPKI) for root in pinned}
        if len(pinned) == 1 and told <= known:
            return
        published = self.server.published_roots()
        roots = succeed(pinned, published, published, now=self.clock.now())
        if set(roots) == set(pinned):
            return
        _log.warning("the service's root was replaced", extra={"sha256": [sha256(root).hexdigest() for root in roots]})
        origin = self.state.roots_origin() or frozenset(sha256(root).hexdigest() for root in pinned)
        self.state.follow_roots(write_roots(roots), origin)
        self.server.trust(roots)

    def _check_chain(self, enrolled: Enrolled) -> datetime:
        """The certificate leads to the pinned root and names this device. Returns its notBefore, which has passed.

        Its dates are the service's affair, for this device's clock may be off: where the clock says that they are not
        now, they are judged at a moment within them.
        """
        record = enrolled.record
        spiffe_id = SpiffeId.parse(record.spiffe_id)
        if str(spiffe_id.device[2]) != record.device_id:
            raise CredentialNotOurs(seen=record.spiffe_id, expected=f"…/{record.device_id}")
        begins, ends = enrolled.leaf.not_valid_before_utc, enrolled.leaf.not_valid_after_utc
        now = self.clock.now()
        pem = x509.load_pem_x509_certificates(enrolled.chain.encode("ascii"))
        chain = [certificate.public_bytes(Encoding.DER) for certificate in pem]
        verified = verify_chain(
            chain,
            authorities=Authorities.load(self.server.roots, chain[1:], trust_domain=spiffe_id.trust_domain),
            now=now if begins <= now <= ends else begins + (ends - begins) / 2,
        )
        if verified.spiffe_id != spiffe_id:
            raise CredentialNotOurs(seen=verified.spiffe_id, expected=spiffe_id)
        return begins
