"""Who is calling, once everything about the credential has been proven: the type that policies and applications see.

`admit` is the last step of every credential's walk, X.509 or JWT: it takes what the credential's own verifier proved
and asks what no credential can say about itself, whether it still stands (docs/protocol.md, section 4).
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from attestd.credentials.facts import Facts
from attestd.credentials.status import Status, StatusList
from attestd.errors import Forbidden, Unauthenticated
from attestd.ids import DeviceId, MalformedName, Serial, Site, SpiffeId, Tier


class NotADevice(Forbidden):
    """This identity is not a machine of any tier"""

    remedy = "Present a device's credential; operators and proxies cross no boundary."


class FactsMissing(Unauthenticated):
    """The credential says nothing about the device's state"""

    remedy = "Renew the credential; the service puts the facts into it."


class CredentialRevoked(Unauthenticated):
    """This credential was revoked"""

    remedy = "Attest again to get a new credential."


class DeviceRevoked(Forbidden):
    """This device's credentials do not stand"""

    remedy = (
        "If the device has just enrolled, try again in a second or two: this edge does not know yet. "
        "If it was retired, an operator must admit it anew."
    )


class DeviceSuspended(Forbidden):
    """This device is quarantined"""

    remedy = "Bring the device back into a trusted state; it may attest, and an operator can release it."


class StatusUnknown(Forbidden):
    """Nothing is known here about this device's state"""

    remedy = "Try again in a few seconds: the list of states here is older than this credential."


@dataclass(frozen=True, slots=True)
class VerifiedIdentity:
    """A machine that proved who it is, with a credential that stands. Made by `admit` only.

    `credential_id` names the credential in logs: the certificate's serial number in hexadecimal, or the token's
    `jti`. `certificate_serial` is the certificate that the credential is or depends on. `not_after` is the earliest
    end of anything that it rests on: nothing may be remembered about it for longer.
    """

    spiffe_id: SpiffeId
    tier: Tier
    site: Site
    device_id: DeviceId
    facts: Facts
    credential_id: str
    certificate_serial: Serial
    not_after: datetime
    kind: Literal["x509", "jwt"]


def admit(
    *,
    spiffe_id: SpiffeId,
    facts: Facts | None,
    serials: tuple[Serial, ...],
    credential_id: str,
    not_after: datetime,
    kind: Literal["x509", "jwt"],
    status: StatusList,
    revoked: Container[Serial],
) -> VerifiedIdentity:
    """The identity behind a proven credential, if that credential and its device still stand.

    `serials`: the certificate's serial number, then its issuers' as far as they are known.
    Raises NotADevice, FactsMissing, CredentialRevoked, StatusUnknown, DeviceSuspended, DeviceRevoked.
    """
    (tier, site, device_id), known = standing(spiffe_id, facts, serials, status=status, revoked=revoked)
    return VerifiedIdentity(
        spiffe_id=spiffe_id,
        tier=tier,
        site=site,
        device_id=device_id,
        facts=known,
        credential_id=credential_id,
        certificate_serial=serials[0],
        not_after=not_after,
        kind=kind,
    )


def standing(
    spiffe_id: SpiffeId,
    facts: Facts | None,
    serials: Iterable[Serial],
    *,
    status: StatusList,
    revoked: Container[Serial],
) -> tuple[tuple[Tier, Site, DeviceId], Facts]:
    """The device that a proven credential names and what is known of it, if that credential and its device stand.

    Raises NotADevice, FactsMissing, CredentialRevoked, StatusUnknown, DeviceSuspended, DeviceRevoked.
    """
    try:
        device = spiffe_id.device
    except MalformedName as error:
        raise NotADevice(seen=spiffe_id, expected="spiffe://<trust domain>/<tier>/<site>/<device id>") from error
    if facts is None:
        raise FactsMissing(seen=spiffe_id)
    for serial in serials:
        if serial in revoked:
            raise CredentialRevoked(seen=serial)
    if facts.status_index not in status:
        raise StatusUnknown(seen=f"index {facts.status_index}", expected=f"below {len(status)}")
    state = status[facts.status_index]
    if state is Status.SUSPENDED:
        raise DeviceSuspended(seen=spiffe_id)
    if state is not Status.VALID:
        raise DeviceRevoked(seen=spiffe_id)
    return device, facts
