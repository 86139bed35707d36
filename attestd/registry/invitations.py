"""Invitations: one-time links by which a person gets a way in. Times are unix seconds.

The registry has a token's SHA-256, so that a copy of it opens nothing. A name has one open invitation at most.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from attestd.errors import Forbidden, NotFound
from attestd.registry.operators import Role
from attestd.registry.tables import invitations


class InvitationOver(Forbidden):
    """This invitation is not open: it was used, withdrawn, has expired, or never was"""

    remedy = "Ask an admin for another link; on the service's machine: `attestd operators invite NAME --role ROLE`."


class UnknownInvitation(NotFound):
    """There is no such open invitation"""

    remedy = "`attestd operators invitations` shows those that are open."


@dataclass(frozen=True, slots=True)
class Invitation:
    """Who is invited, as what, by whom."""

    id: str
    token: bytes = field(repr=False)  # its SHA-256
    name: str
    role: Role
    created_at: int
    created_by: str
    expires_at: int
    spent_at: int | None
    withdrawn_at: int | None


def add(
    c: Connection, *, id: str, token: bytes, name: str, role: Role, created_by: str, now: int, expires_at: int
) -> None:
    """A new invitation; former ones of this name are withdrawn."""
    withdraw_of(c, name, now=now)
    c.execute(
        insert(invitations).values(
            id=id,
            token=token,
            name=name,
            role=role.value,
            created_at=now,
            created_by=created_by,
            expires_at=expires_at,
        )
    )


def _open(now: int) -> tuple[ColumnElement[bool], ...]:
    return (
        invitations.c.spent_at.is_(None),
        invitations.c.withdrawn_at.is_(None),
        invitations.c.expires_at > now,
    )


def require_open(c: Connection, token: bytes, *, now: int) -> Invitation:
    """The invitation with this token's hash. Raises InvitationOver."""
    row = c.execute(select(invitations).where(invitations.c.token == token, *_open(now))).one_or_none()
    if row is None:
        raise InvitationOver
    return _invitation_of(row._mapping)


def spend(c: Connection, token: bytes, *, now: int) -> Invitation:
    """Uses it up. Raises InvitationOver: of two who try, one is refused."""
    statement = update(invitations).where(invitations.c.token == token, *_open(now)).values(spent_at=now)
    row = c.execute(statement.returning(invitations)).one_or_none()
    if row is None:
        raise InvitationOver
    return _invitation_of(row._mapping)


def every_open(c: Connection, *, now: int) -> list[Invitation]:
    """Those that can still be used, the newest first."""
    wanted = select(invitations).where(*_open(now))
    found = c.execute(wanted.order_by(invitations.c.created_at.desc(), invitations.c.id))
    return [_invitation_of(row._mapping) for row in found]


def withdraw(c: Connection, id: str, *, now: int) -> Invitation:
    """Raises UnknownInvitation."""
    statement = update(invitations).where(invitations.c.id == id, *_open(now)).values(withdrawn_at=now)
    row = None if "\0" in id else c.execute(statement.returning(invitations)).one_or_none()
    if row is None:
        raise UnknownInvitation(seen=repr(id[:40]))
    return _invitation_of(row._mapping)


def withdraw_of(c: Connection, name: str, *, now: int) -> int:
    """Withdraws what is open for this name; returns how many."""
    return c.execute(
        update(invitations).where(invitations.c.name == name, *_open(now)).values(withdrawn_at=now)
    ).rowcount


def purge(c: Connection, *, before: int, limit: int) -> int:
    """Forgets what expired before this time."""
    old = (
        select(invitations.c.id).where(invitations.c.expires_at < before).limit(limit).with_for_update(skip_locked=True)
    )
    return c.execute(delete(invitations).where(invitations.c.id.in_(old))).rowcount


def _invitation_of(members: object) -> Invitation:
    found = dict(members)  # type: ignore[call-overload]
    found["role"] = Role(found["role"])
    return Invitation(**found)
