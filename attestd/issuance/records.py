"""What enrollment and later requests have in common where they meet the registry and the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Self

from attestd.errors import AttestdError, Conflict
from attestd.ids import DeviceId, Serial, Site, Tier
from attestd.issuance.grants import Granted
from attestd.registry import devices, issued
from attestd.registry.acts import Step
from attestd.registry.engine import Connection
from attestd.registry.standing import Standing
from attestd.registry.states import State
from attestd.tpm.attest import VerifiedQuote
from attestd.tpm.statements import ClockInfo


class AnswerOutdated(Conflict):
    """The answer to this request no longer stands"""

    remedy = "Begin again; what this request was answered has been revoked or has expired."


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a device that may hold credentials stands: approval and the inventory give all three."""

    tier: Tier
    site: Site
    status_index: int

    @classmethod
    def of(cls, device: Standing) -> Self:
        if device.tier is None or device.site is None or device.status_index is None:
            raise AttestdError("The registry holds a device without a place.", seen=device.state.value)
        return cls(device.tier, device.site, device.status_index)


def clock_members(quote: VerifiedQuote) -> dict[str, Any]:
    """The TPM's clock at the quote: a changed reset count means that the device has booted since."""
    return {
        "clock": quote.clock.clock,
        "reset_count": quote.clock.reset_count,
        "restart_count": quote.clock.restart_count,
        "safe": quote.clock.safe,
    }


def clock_before(members: Mapping[str, Any] | None) -> ClockInfo | None:
    """What `clock_members` wrote at the quote before; None where nothing is known, as after a restore."""
    if not members:
        return None
    return ClockInfo(members["clock"], members["reset_count"], members["restart_count"], members["safe"])


def recording(granted: Granted, device: Standing, *, changes: int = 0) -> Step:
    """Stores the certificate if the device still is what it was granted to, but for so many changes that the same act
    makes before. Refused as StateChanged."""
    return issued.recording(
        device_id=device.id,
        expected_version=device.state_version + changes,
        serial=granted.certificate.serial,
        subject=str(granted.spiffe_id),
        profile=granted.profile,
        not_before=int(granted.certificate.not_before.timestamp()),
        not_after=int(granted.certificate.not_after.timestamp()),
        der=granted.certificate.der,
        thumbprint=sha256(granted.certificate.der).digest(),
    )


def require_standing(c: Connection, device_id: DeviceId, serial: Serial, now: datetime) -> None:
    """A stored answer may be repeated only while its device is active and its certificate valid: AnswerOutdated."""
    if devices.by_id(c, device_id).state is not State.ACTIVE:
        raise AnswerOutdated("The device is not active any more.")
    certificate = issued.by_serial(c, serial)
    if certificate.revoked_at is not None or certificate.not_after <= now.timestamp():
        raise AnswerOutdated("The certificate of this answer is no longer valid.")
