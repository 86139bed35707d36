"""What the verbs of a proven request have in common: it is answered once, its nonce is spent, the trail says what came
of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from attestd.appraisal.results import AttestationResult
from attestd.ca.sealing import SealingKeys
from attestd.errors import EvidenceRefused, Forbidden, MalformedInput
from attestd.ids import Serial
from attestd.issuance.enrollment import DeviceQuarantined
from attestd.issuance.grants import Granted
from attestd.issuance.requests import DeviceRequests, NonceSpent, Requested
from attestd.protocol.signed import SignedEnvelope
from attestd.registry import audit, outcomes, spends
from attestd.registry.acts import Step
from attestd.registry.engine import Registry
from attestd.registry.standing import Standing
from attestd.registry.states import State

_T = TypeVar("_T")


class DeviceNotActive(Forbidden):
    """The device's state allows no credentials"""

    remedy = "Ask an operator; a retired device enrolls again and waits for approval."


class AttestationOverdue(Forbidden):
    """The device's last attestation no longer counts"""

    remedy = "Attest again (POST /v1/attestations): that renews the certificate, too."


def answered_once(
    registry: Registry,
    sealing: SealingKeys,
    envelope: SignedEnvelope,
    *,
    url: str,
    now: datetime,
    verb: Callable[[Requested], _T],
) -> _T | bytes:
    """The verb for a proven request, which is proven anew if its nonce was spent meanwhile: perhaps by itself."""
    proof = DeviceRequests(registry, sealing)
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


def require_good_standing(device: Standing, now: datetime) -> tuple[AttestationResult, datetime]:
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
    return AttestationResult.of_members(device.result), good_until


def act(registry: Registry, *steps: Step) -> None:
    """One transaction; the first step spends the nonce. Raises NonceSpent, StateChanged."""
    try:
        registry.act(*steps)
    except spends.AlreadySpent:
        raise NonceSpent("This nonce has been used.") from None


def spending(
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


def noting(asked: Requested, act: str, now: datetime, request_id: str, **detail: Any) -> Step:
    """The audit row."""
    return audit.entry(
        at=int(now.timestamp()),
        actor=f"device:{asked.device.id}",
        act=act,
        subject=str(asked.device.id),
        request_id=request_id,
        detail=detail,
    )


def spend_refused(
    registry: Registry,
    asked: Requested,
    name: str,
    refusal: EvidenceRefused | MalformedInput,
    *,
    now: datetime,
    request_id: str,
) -> None:
    """What was refused has used its nonce up, and the trail says why."""
    act(
        registry,
        spending(asked, now),
        noting(asked, name, now, request_id, why=refusal.slug(), detail=refusal.detail),
        outcomes.refusing(
            "attest", refusal.slug(), site=asked.device.row.site, device=asked.device.id, now=int(now.timestamp())
        ),
    )
