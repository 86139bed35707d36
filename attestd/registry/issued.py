"""Issued certificates and their revocation. Times are unix seconds.

A revocation is a row of its own, kept until the certificate would have expired; issued rows never change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Insert, Row, bindparam, delete, insert, select
from sqlalchemy.exc import IntegrityError

from attestd.errors import Conflict, NotFound
from attestd.ids import DeviceId, Serial
from attestd.registry import revision
from attestd.registry.acts import Step, perform
from attestd.registry.engine import is_unique_violation
from attestd.registry.statements import Statement
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


_NAMES = ("serial", "device_id", "subject", "profile", "not_before", "not_after", "der", "thumbprint")
_INSERT = Statement(insert(issued).inline(), columns=_NAMES)
_INSERT_FOR_DEVICE = Statement(
    insert(issued)
    .inline()
    .from_select(
        _NAMES,
        select(*(bindparam(f"new_{name}", type_=issued.c[name].type) for name in _NAMES))
        .where(
            devices.c.id == bindparam("wanted"),
            devices.c.state == bindparam("state"),
            devices.c.state_version == bindparam("version"),
        )
        # Where transactions run side by side, a retirement waits for this row and then sees the new certificate.
        # SQLite runs one writer at a time and renders nothing here.
        .with_for_update(read=True, of=devices),
    )
)


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
    values = (str(serial), None, subject, profile, not_before, not_after, der, thumbprint)
    perform(c, Step(_INSERT, dict(zip(_NAMES, values, strict=True)), taken=SerialTaken))


def recording(
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
) -> Step:
    """A device's certificate, stored only if the device still is in this state and of this version.

    Refused as StateChanged (the certificate must not leave the process then) or SerialTaken.
    """
    values = {
        "new_serial": str(serial),
        "new_device_id": device_id,
        "new_subject": subject,
        "new_profile": profile,
        "new_not_before": not_before,
        "new_not_after": not_after,
        "new_der": der,
        "new_thumbprint": thumbprint,
        "wanted": device_id,
        "state": expected_state.value,
        "version": expected_version,
    }
    return Step(
        _INSERT_FOR_DEVICE,
        values,
        otherwise=lambda _: StateChanged(
            f"Device {device_id} changed while its certificate was made; nothing was issued.",
            expected=f"{expected_state}, version {expected_version}",
        ),
        taken=SerialTaken,
    )


_WITH_REVOCATION = select(
    issued, revocations.c.at.label("revoked_at"), revocations.c.reason.label("revoked_because")
).select_from(issued.outerjoin(revocations, revocations.c.serial == issued.c.serial))
_BY_SERIAL = Statement(_WITH_REVOCATION.where(issued.c.serial == bindparam("wanted")))
_IS_REVOKED = Statement(select(revocations.c.at).where(revocations.c.serial == bindparam("wanted")))


def by_serial(c: Connection, serial: Serial) -> Issued:
    """The certificate of this serial number. Raises UnknownCredential."""
    row = _BY_SERIAL.one_or_none(c, {"wanted": str(serial)})
    if row is None:
        raise UnknownCredential(f"No certificate has the serial number {serial}.")
    return _issued_of(row)


def contents(c: Connection, serials: Sequence[Serial]) -> dict[Serial, bytes]:
    """Certificates (DER) by their serial numbers, as far as they are kept; at most 1000 at once."""
    wanted = issued.c.serial.in_([str(serial) for serial in serials[:MAX_PAGE]])
    found = c.execute(select(issued.c.serial, issued.c.der).where(wanted))
    return {Serial.parse(row.serial): row.der for row in found}


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
    found = row._asdict()
    found["serial"] = Serial.parse(found["serial"])
    found["device_id"] = None if found["device_id"] is None else DeviceId(found["device_id"])
    return Issued(**found)


# ---- Revocation -------------------------------------------------------------------------------------------------


def _revocations_of(*wanted: ColumnElement[bool], ending: str = "") -> Insert:
    source = select(
        issued.c.serial,
        bindparam("now", type_=revocations.c.at.type),
        bindparam("because", type_=revocations.c.reason.type),
        issued.c.not_after,
    )
    columns = ("serial", "at", "reason", "not_after")
    # Whoever binds something to the certificate right now, in a transaction of its own, is waited for.
    source = source.where(*wanted).with_for_update(of=issued).suffix_with(ending)
    return insert(revocations).inline().from_select(columns, source)


_REVOKE = Statement(_revocations_of(issued.c.serial == bindparam("wanted")))
# Where transactions run side by side, somebody may revoke one of them meanwhile: the first to do so is kept.
_REVOKE_ALL = Statement(
    _revocations_of(
        issued.c.device_id == bindparam("wanted"),
        issued.c.not_after > bindparam("now"),
        ~select(revocations.c.serial).where(revocations.c.serial == issued.c.serial).exists(),
        # Every database here understands this. Core has it only in the modules of single ones, which are large.
        ending="ON CONFLICT (serial) DO NOTHING",
    )
)
_IF_UNREVOKED = Statement(
    select(issued.c.serial).where(
        issued.c.serial == bindparam("wanted"),
        ~select(revocations.c.serial).where(revocations.c.serial == issued.c.serial).exists(),
    )
)
_HOLD = Statement(select(issued.c.serial).where(issued.c.serial == bindparam("wanted")).with_for_update(read=True))


def revoke(c: Connection, serial: Serial, *, reason: str, now: int) -> None:
    """Revokes one certificate. Raises UnknownCredential, AlreadyRevoked."""
    try:
        changed = _REVOKE.change(c, {"wanted": str(serial), "now": now, "because": reason})
    except IntegrityError as error:
        if is_unique_violation(error):
            raise AlreadyRevoked(f"The certificate {serial} is revoked already.") from None
        raise
    if changed != 1:
        raise UnknownCredential(f"No certificate has the serial number {serial}.")
    revision.bump(c)


def revoke_all_of(c: Connection, device_id: DeviceId, *, reason: str, now: int) -> int:
    """Revokes every certificate of a device that has not expired; returns how many were not revoked before."""
    changed = _REVOKE_ALL.change(c, {"wanted": device_id, "now": now, "because": reason})
    if changed:
        revision.bump(c)
    return changed


def revoking_all_of(device_id: DeviceId, *, reason: str, now: int) -> Step:
    """`revoke_all_of`, as a step of an act that asks for a bundle by itself."""
    return Step(_REVOKE_ALL, {"wanted": device_id, "now": now, "because": reason})


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
    return _IS_REVOKED.one_or_none(c, {"wanted": str(serial)}) is not None


def unrevoked(serial: Serial) -> tuple[Step, ...]:
    """Holds the certificate as it is until the transaction ends: nobody revokes it before. Refused as StateChanged.

    For acts that issue something which is bound to it.
    """
    wanted = {"wanted": str(serial)}
    refusal = StateChanged(f"The certificate {serial} was revoked in the meantime; nothing was issued.")
    # The second, a statement of its own, sees what was committed while the first one waited.
    return Step(_HOLD, wanted), Step(_IF_UNREVOKED, wanted, otherwise=lambda _: refusal)


def last_end(c: Connection, *, issuer_id: bytes, begun_by: int, now: int) -> int | None:
    """When the last certificate ends that this issuer made by then, neither expired nor revoked; None if none is left.

    An issuer is known by its key identifier, 20 octets, which each certificate of it holds (RFC 5280, section 4.2.1.1).
    The service's own TLS certificates do not count: they are replaced long before they end, and nobody keeps them.
    """
    rows = c.execute(
        select(issued.c.not_after, issued.c.der)
        .where(
            issued.c.not_after > now,
            issued.c.not_before <= begun_by,
            issued.c.profile != "server",
            issued.c.serial.not_in(select(revocations.c.serial)),
        )
        .order_by(issued.c.not_after.desc())
        .execution_options(yield_per=500)
    )
    return next((int(not_after) for not_after, der in rows if issuer_id in der), None)


def purge(c: Connection, *, before: int, limit: int) -> int:
    """Forgets certificates that expired before this time, at most `limit` of them; returns how many."""
    # Rows that another process forgets at this moment are left to it.
    old = select(issued.c.number).where(issued.c.not_after < before).limit(limit).with_for_update(skip_locked=True)
    return c.execute(delete(issued).where(issued.c.number.in_(old))).rowcount


def purge_revocations(c: Connection, *, before: int, limit: int) -> int:
    """Forgets revocations of certificates that expired before this time, at most `limit`; returns how many."""
    r = revocations.c
    old = select(r.serial).where(r.not_after < before).limit(limit).with_for_update(skip_locked=True)
    return c.execute(delete(revocations).where(r.serial.in_(old))).rowcount
