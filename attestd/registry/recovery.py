"""What a restored registry must forget, so that nothing it gave away after the backup counts (docs/adr, "Restoring").

It knows one moment. What happened after it is lost, but for what the newest bundle of an edge still says: the state of
every device, the serial numbers that were revoked, the policy. Times are unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from attestd.credentials.bundle import Bundle
from attestd.credentials.status import MAX_OCTETS, Status, StatusList
from attestd.errors import Misconfigured
from attestd.ids import Serial
from attestd.registry import audit, policies, revision
from attestd.registry.states import State
from attestd.registry.tables import console_sessions, devices, identities, invitations, operators, passkeys, revocations
from attestd.registry.tables import policies as stored_policies

# Why a device is in quarantine that the restore put there; `attestd devices release --restored` looks for the first,
# `--never-enrolled` for the last.
UNKNOWN_SINCE = "restored without knowing what happened to it after the backup"
KEPT_OUT = "the newest bundle before the restore did not vouch for it"
NEVER_SEEN = "approved before the restore, and never seen to enroll"

# Indices that nobody gets after a restore, so that none is handed out that was handed out after the backup, too.
SKIPPED_INDICES = 1 << 20

_MOST_INDICES = MAX_OCTETS * 4
_PAGE = 1000


class IndicesExhausted(Misconfigured):
    """The status list has no room for another restore of this fleet"""

    remedy = "Report this to the project: the list's limit must grow. The backup is not damaged."


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a restore did. `quarantined` devices come back by an operator's word only."""

    epoch: int
    devices: int
    quarantined: int
    revoked: int
    operators_disabled: tuple[str, ...]
    policy_version: int


def recover(
    c: Connection,
    *,
    now: datetime,
    newest: Bundle | None,
    longest: timedelta,
    keep_operator: str,
    detail: Mapping[str, Any],
) -> Recovered:
    """Makes a registry out of a restored one, in the transaction that the caller holds.

    `newest` is an edge's newest bundle, verified. `longest` is how long a certificate can live. `detail` goes into the
    audit row. Raises IndicesExhausted.

    1. Who could get credentials and is not vouched for is quarantined; what the bundle revoked stays revoked.
    2. No attestation counts: nothing is renewed, no token given, before a device attested again.
    3. Every device gets a status index that no credential carries; the old ones are nobody's, so they are invalid.
    4. The policy that was in force stays in force.
    5. Operators come back disabled, but for one, who holds the instance's folder. Nobody is signed in or invited, and
       no passkey or identity opens anything: some may have been removed after the backup.
    6. The epoch passes every one that an edge can have seen.
    7. The audit trail says so.
    """
    at = int(now.timestamp())
    quarantined = _quarantine(c, None if newest is None else newest.status, at)  # 1
    until = at + int(longest.total_seconds())
    revoked = 0 if newest is None else _revoke(c, newest.revoked, now=at, until=until)
    c.execute(update(devices).values(attested_at=None, attestation_good_until=None, result_status=None))  # 2
    count = _renumber(c, least=0 if newest is None else len(newest.status))  # 3
    policy = _keep_policy(c, newest, at)  # 4
    disabled = _disable_operators(c, keep_operator, at)  # 5
    _close_ways_in(c, at)
    # Milliseconds, so that two restores of one backup differ; a second restore is later than the first.
    least = max(int(now.timestamp() * 1000), 0 if newest is None else newest.epoch + 1)
    epoch = revision.raise_epoch(c, least=least)  # 6
    recovered = Recovered(epoch, count, quarantined, revoked, disabled, policy)
    audit.append(  # 7
        c,
        at=at,
        actor="attestd restore",
        act="restore",
        subject="registry",
        request_id="local",
        detail={**detail, "epoch": epoch, "quarantined": quarantined, "revoked": revoked},
    )
    return recovered


def _quarantine(c: Connection, status: StatusList | None, now: int) -> int:
    """Devices that could get credentials, and that the newest bundle does not call valid, or all without a bundle.

    An approved device that never enrolled is invalid in every bundle, like a retired one: it is kept out, too.
    """
    kept_out = UNKNOWN_SINCE if status is None else KEPT_OUT
    return _out(c, State.ACTIVE, kept_out, status, now) + _out(c, State.APPROVED, NEVER_SEEN, status, now)


def _out(c: Connection, state: State, reason: str, status: StatusList | None, now: int) -> int:
    d, count, last = devices.c, 0, ""
    wanted = select(d.id, d.status_index).where(d.state == state.value).order_by(d.id).limit(_PAGE)
    while page := c.execute(wanted.where(d.id > last)).all():
        last = page[-1].id
        out = [
            row.id
            for row in page
            if status is None or row.status_index is None or status[row.status_index] is not Status.VALID
        ]
        values = {
            "state": State.QUARANTINED.value,
            "state_version": d.state_version + 1,
            "state_reason": reason,
            "quarantined_by": None,  # only an operator releases it
            "quarantined_at": now,
            "updated_at": now,
        }
        c.execute(update(devices).where(d.id.in_(out)).values(values))
        count += len(out)
    return count


def _revoke(c: Connection, serials: frozenset[Serial], *, now: int, until: int) -> int:
    """Keeps what the bundle lists revoked, also certificates that the backup does not know, until they have ended."""
    known = set(c.execute(select(revocations.c.serial)).scalars())
    new = sorted({str(serial) for serial in serials} - known)
    for start in range(0, len(new), _PAGE):
        rows = [
            {"serial": serial, "at": now, "reason": "revoked before the restore", "not_after": until}
            for serial in new[start : start + _PAGE]
        ]
        c.execute(insert(revocations), rows)
    return len(new)


def _renumber(c: Connection, *, least: int) -> int:
    """New status indices for all, without gaps, past all that were ever handed out; returns how many devices."""
    first = revision.skip_status_indices(c, least=least, count=SKIPPED_INDICES)
    numbered = (
        select(devices.c.id, (func.row_number().over(order_by=devices.c.status_index) - 1).label("place"))
        .where(devices.c.status_index.is_not(None))
        .subquery()
    )
    statement = update(devices).where(devices.c.id == numbered.c.id).values(status_index=first + numbered.c.place)
    count = c.execute(statement).rowcount
    end = revision.reserve_status_indices(c, count).stop
    if end > _MOST_INDICES:
        raise IndicesExhausted(seen=f"{end} indices", expected=f"at most {_MOST_INDICES}")
    return int(c.execute(select(func.count()).select_from(devices)).scalar_one())


def _keep_policy(c: Connection, newest: Bundle | None, now: int) -> int:
    """The bundle's policy, if it is newer than the backup's; returns the version in force."""
    version = policies.latest(c).version
    if newest is None or newest.policy_version <= version:
        return version
    row = {
        "version": newest.policy_version,
        "text": newest.policy,
        "created_at": now,
        "created_by": "attestd restore",
    }
    c.execute(insert(stored_policies), row)
    return newest.policy_version


def _disable_operators(c: Connection, keep: str, now: int) -> tuple[str, ...]:
    """Nothing says who was disabled after the backup; returns the names of those who were not, and now are."""
    o = operators.c
    statement = update(operators).where(o.name != keep, o.disabled_at.is_(None)).values(disabled_at=now)
    return tuple(sorted(c.execute(statement.returning(o.name)).scalars()))


def _close_ways_in(c: Connection, now: int) -> None:
    c.execute(delete(passkeys))
    c.execute(delete(identities))
    sessions, links = console_sessions.c, invitations.c
    over = update(console_sessions).where(sessions.ended_at.is_(None))
    c.execute(over.values(ended_at=now, ended_because="the service was restored from a backup"))
    c.execute(
        update(invitations).where(links.spent_at.is_(None), links.withdrawn_at.is_(None)).values(withdrawn_at=now)
    )
