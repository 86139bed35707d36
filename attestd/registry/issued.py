"""Issued certificates and their revocation. Times are unix seconds.

A revocation is a row of its own, kept until the certificate would have expired; issued rows never change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, delete, insert, literal, select
from sqlalchemy.exc import IntegrityError

from attestd.errors import Conflict, NotFound
from attestd.ids import DeviceId, Serial
from attestd.registry import revision
from attestd.registry.engine import is_unique_violation
from attestd.registry.states import State, StateChanged
from attestd.registry.tables import devices, issued, revocations

MAX_PAGE = 1000


class UnknownCredential(NotFound):
    """There is no such certificate"""

    remedy = "`attestd credentials list` shows the certificates that were issued."


class AlreadyRevoked(Conflict):
    """This certificate is revoked already"""

    remedy = "Nothing to do: it is in the revocation list until it expires."


class SerialTaken(Conflict):
    """A certificate of this serial number exists already"""

    remedy = "Issue again with a fresh serial number; if this repeats, the source of randomness is broken."


@dataclass(frozen=True, slots=True)
class Issued:
    """One issued certificate. `number` grows with every certificate and serves for paging."""

    number: int
    serial: Serial
    device_id: DeviceId | None
    subject: str  # the SPIFFE ID
    profile: str
    not_before: int
    not_after: int
    der: bytes = field(repr=False)
    thumbprint: bytes  # SHA-256 of `der`
    revoked_at: int | None
    revoked_because: str | None


class Revoked(NamedTuple):
    """An entry of the revocation list."""

    serial: Serial
    at: int
    reason: str


def record(
    c: Connection,
    *,
    serial: Serial,
    subject: str,
    profile: str,
    not_before: int,
    not_after: int,
    der: bytes,
    thumbprint: bytes,
) -> None:
    """A certificate for somebody who is no device: an operator, a proxy, the service. Raises SerialTaken."""
    row = _row(
        serial=str(serial),
        device_id=None,
        subject=subject,
        profile=profile,
        not_before=not_before,
        not_after=not_after,
        der=der,
        thumbprint=thumbprint,
    )
    _insert(c, row)


def record_for_device(
    c: Connection,
    *,
    device_id: DeviceId,
    expected_version: int,
    expected_state: State = State.ACTIVE,
    serial: Serial,
    subject: str,
    profile: str,
    not_before: int,
    not_after: int,
    der: bytes,
    thumbprint: bytes,
) -> None:
    """A device's certificate, stored only if the device still is in this state and of this version.

    Raises StateChanged (the certificate must not leave the process then) and SerialTaken.
    """
    row = _row(
        serial=str(serial),
        device_id=device_id,
        subject=subject,
        profile=profile,
        not_before=not_before,
        not_after=not_after,
        der=der,
        thumbprint=thumbprint,
    )
    source = (
        row.where(
            devices.c.id == device_id,
            devices.c.state == expected_state,
            devices.c.state_version == expected_version,
        )
        # Where transactions run side by side, a retirement waits for this row and then sees the new certificate.
        # SQLite runs one writer at a time and renders nothing here.
        .with_for_update(read=True, of=devices)
    )
    if not _insert(c, source):
        raise StateChanged(
            f"Device {device_id} changed while its certificate was made; nothing was issued.",
            expected=f"{expected_state}, version {expected_version}",
        )


def _row(**values: Any) -> Select[Any]:
    """One row of constants, to be inserted if what else is asked of it holds."""
    return select(*(literal(value, issued.c[name].type).label(name) for name, value in values.items()))


def _insert(c: Connection, source: Select[Any]) -> int:
    names = [column.name for column in source.selected_columns]
    try:
        return c.execute(insert(issued).from_select(names, source)).rowcount
    except IntegrityError as error:
        if is_unique_violation(error):
            raise SerialTaken from None
        raise


_WITH_REVOCATION = select(
    issued, revocations.c.at.label("revoked_at"), revocations.c.reason.label("revoked_because")
).select_from(issued.outerjoin(revocations, revocations.c.serial == issued.c.serial))


def by_serial(c: Connection, serial: Serial) -> Issued:
    """The certificate of this serial number. Raises UnknownCredential."""
    row = c.execute(_WITH_REVOCATION.where(issued.c.serial == str(serial))).one_or_none()
    if row is None:
        raise UnknownCredential(f"No certificate has the serial number {serial}.")
    return _issued_of(row)


def page(
    c: Connection, *, device_id: DeviceId | None = None, before: int | None = None, limit: int = 100
) -> list[Issued]:
    """Certificates, the newest first; the last one's `number` is the next page's `before`. `limit` is at most 1000."""
    wanted = [] if device_id is None else [issued.c.device_id == device_id]
    if before is not None:
        wanted.append(issued.c.number < before)
    statement = _WITH_REVOCATION.where(*wanted).order_by(issued.c.number.desc()).limit(min(limit, MAX_PAGE))
    return [_issued_of(row) for row in c.execute(statement)]


def _issued_of(row: Row[Any]) -> Issued:
    found = dict(row._mapping)
    found["serial"] = Serial.parse(found["serial"])
    found["device_id"] = None if found["device_id"] is None else DeviceId(found["device_id"])
    return Issued(**found)


# ---- Revocation -------------------------------------------------------------------------------------------------


def revoke(c: Connection, serial: Serial, *, reason: str, now: int) -> None:
    """Revokes one certificate. Raises UnknownCredential, AlreadyRevoked."""
    source = select(issued.c.serial, literal(now), literal(reason), issued.c.not_after).where(
        issued.c.serial == str(serial)
    )
    try:
        changed = c.execute(insert(revocations).from_select(_REVOCATION, source)).rowcount
    except IntegrityError as error:
        if is_unique_violation(error):
            raise AlreadyRevoked(f"The certificate {serial} is revoked already.") from None
        raise
    if changed != 1:
        raise UnknownCredential(f"No certificate has the serial number {serial}.")
    revision.bump(c)


_REVOCATION = ["serial", "at", "reason", "not_after"]


def revoke_all_of(c: Connection, device_id: DeviceId, *, reason: str, now: int) -> int:
    """Revokes every certificate of a device that has not expired; returns how many were not revoked before."""
    source = select(issued.c.serial, literal(now), literal(reason), issued.c.not_after).where(
        issued.c.device_id == device_id,
        issued.c.not_after > now,
        ~select(revocations.c.serial).where(revocations.c.serial == issued.c.serial).exists(),
    )
    changed = c.execute(insert(revocations).from_select(_REVOCATION, source)).rowcount
    if changed:
        revision.bump(c)
    return changed


def revoked_unexpired(c: Connection, *, now: int) -> list[Revoked]:
    """What the revocation lists name: revoked certificates that have not expired, in the order of serial numbers."""
    statement = (
        select(revocations.c.serial, revocations.c.at, revocations.c.reason)
        .where(revocations.c.not_after > now)
        .order_by(revocations.c.serial)
    )
    return [Revoked(Serial.parse(serial), at, reason) for serial, at, reason in c.execute(statement)]


def is_revoked(c: Connection, serial: Serial) -> bool:
    """Whether this certificate was revoked."""
    return c.execute(select(revocations.c.at).where(revocations.c.serial == str(serial))).one_or_none() is not None


def purge(c: Connection, *, before: int) -> int:
    """Forgets certificates that expired before this time, with their revocations; returns how many certificates."""
    c.execute(delete(revocations).where(revocations.c.not_after < before))
    return c.execute(delete(issued).where(issued.c.not_after < before)).rowcount
