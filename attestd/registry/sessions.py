"""The console's sessions: browsers that somebody signed in with, each known by the public half of a key of its own.

The private half is made anew from a cookie for each call and is stored nowhere, so a copy of this table opens no
session. What a session may do is what its operator may do now. Times are unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from attestd.errors import Conflict, NotFound
from attestd.registry.engine import is_unique_violation
from attestd.registry.operators import Role
from attestd.registry.tables import console_sessions, operators, proxies

MAX_LIVE = 20  # of one operator; the one that was idle for longest makes room
SEEN_EVERY = 60  # seconds between two notes of when a session was last seen

_s = console_sessions.c


class SessionKeyTaken(Conflict):
    """This session key was used before"""

    remedy = "Begin the sign-in again, with a new key."


class UnknownSession(NotFound):
    """There is no such session"""

    remedy = "`attestd operators sessions` shows those that are live."


@dataclass(frozen=True, slots=True)
class Session:
    """One session, with its operator as they are now."""

    id: str
    thumbprint: bytes
    public_key: bytes = field(repr=False)  # SubjectPublicKeyInfo, DER
    operator: str
    method: str  # passkey, oidc, invitation
    passkey: str | None  # by its id, for the first and the last
    began_at: int
    seen_at: int
    ends_at: int
    agent: str
    address: str
    ended_at: int | None
    ended_because: str | None
    role: Role
    disabled: bool

    def is_over(self, *, now: int, idle: int) -> bool:
        """Whether it has ended, or nobody used it for `idle` seconds."""
        return self.ended_at is not None or now >= self.ends_at or now >= self.seen_at + idle


def _select(*wanted: ColumnElement[bool]) -> Any:
    columns = (console_sessions, operators.c.role, operators.c.disabled_at.is_not(None).label("disabled"))
    return select(*columns).join(operators, operators.c.name == _s.operator).where(*wanted)


def begin(
    c: Connection,
    *,
    id: str,
    thumbprint: bytes,
    public_key: bytes,
    operator: str,
    method: str,
    passkey: str | None,
    agent: str,
    address: str,
    now: int,
    ends_at: int,
    idle: int,
) -> Session:
    """A new session; beyond MAX_LIVE the one that was idle for longest ends. Raises SessionKeyTaken: also for a key
    that is an operator's or a proxy's own."""
    for table in (operators, proxies):
        if c.execute(select(table.c.name).where(table.c.thumbprint == thumbprint)).one_or_none() is not None:
            raise SessionKeyTaken("This key is somebody's own.")
    live = c.execute(
        select(_s.id).where(_s.operator == operator, *_live(now, idle)).order_by(_s.seen_at.desc(), _s.id)
    ).scalars()
    for old in list(live)[MAX_LIVE - 1 :]:
        end(c, old, because="there were too many", now=now)
    values = {
        "id": id,
        "thumbprint": thumbprint,
        "public_key": public_key,
        "operator": operator,
        "method": method,
        "passkey": passkey,
        "began_at": now,
        "seen_at": now,
        "ends_at": ends_at,
        "agent": agent,
        "address": address,
    }
    try:
        c.execute(insert(console_sessions).values(values))
    except IntegrityError as error:
        if is_unique_violation(error):
            raise SessionKeyTaken from None
        raise
    return by_id(c, id)


def by_thumbprint(c: Connection, thumbprint: bytes) -> Session | None:
    """The session of this key, whether it is over or not."""
    row = c.execute(_select(_s.thumbprint == thumbprint)).one_or_none()
    return None if row is None else _session_of(row._mapping)


def by_id(c: Connection, id: str) -> Session:
    """Raises UnknownSession."""
    row = None if "\0" in id else c.execute(_select(_s.id == id)).one_or_none()
    if row is None:
        raise UnknownSession(seen=repr(id[:40]))
    return _session_of(row._mapping)


def live(c: Connection, *, operator: str | None, now: int, idle: int) -> list[Session]:
    """An operator's live sessions, or everybody's; the one that was seen last comes first."""
    whose = () if operator is None else (_s.operator == operator,)
    found = c.execute(_select(*whose, *_live(now, idle)).order_by(_s.seen_at.desc(), _s.id))
    return [_session_of(row._mapping) for row in found]


def last_seen(c: Connection) -> dict[str, int]:
    """When each operator was last seen in the console, as far as that is remembered."""
    return {name: int(at) for name, at in c.execute(select(_s.operator, func.max(_s.seen_at)).group_by(_s.operator))}


def seen(c: Connection, session: Session, *, now: int) -> None:
    """Notes a call. The clock of another instance may be ahead: the later one counts."""
    c.execute(update(console_sessions).where(_s.id == session.id, _s.seen_at < now).values(seen_at=now))


def end(c: Connection, id: str, *, because: str, now: int) -> None:
    """Ends a session that has not been ended. Raises UnknownSession."""
    statement = update(console_sessions).where(_s.id == id, _s.ended_at.is_(None))
    if c.execute(statement.values(ended_at=now, ended_because=because)).rowcount != 1:
        raise UnknownSession(seen=id, expected="a session that is live")


def end_of(c: Connection, operator: str, *, because: str, now: int) -> int:
    """Ends all of an operator's; returns how many were not over."""
    statement = update(console_sessions).where(_s.operator == operator, _s.ended_at.is_(None), _s.ends_at > now)
    return c.execute(statement.values(ended_at=now, ended_because=because)).rowcount


def end_by_passkey(c: Connection, passkey: str, *, because: str, now: int) -> int:
    """Ends those that a passkey opened; returns how many were not over."""
    statement = update(console_sessions).where(_s.passkey == passkey, _s.ended_at.is_(None), _s.ends_at > now)
    return c.execute(statement.values(ended_at=now, ended_because=because)).rowcount


def purge(c: Connection, *, before: int, limit: int) -> int:
    """Forgets what would have ended before this time at the latest."""
    old = select(_s.id).where(_s.ends_at < before).limit(limit).with_for_update(skip_locked=True)
    return c.execute(delete(console_sessions).where(_s.id.in_(old))).rowcount


def _live(now: int, idle: int) -> tuple[ColumnElement[bool], ...]:
    return _s.ended_at.is_(None), _s.ends_at > now, _s.seen_at > now - idle


def _session_of(members: Mapping[Any, Any]) -> Session:
    found = {str(name): value for name, value in members.items()}
    return Session(**found | {"role": Role(found["role"])})
