"""The policy's versions. A rollback is a higher version with old content (docs/protocol.md, section 5)."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection, func, insert, select
from sqlalchemy.exc import IntegrityError

from attestd.errors import Conflict, NotFound
from attestd.registry import revision
from attestd.registry.engine import is_unique_violation
from attestd.registry.tables import policies

MAX_PAGE = 1000
MAX_VERSION = 1 << 31  # what an integer column holds everywhere


class UnknownPolicy(NotFound):
    """There is no such version of the policy"""

    remedy = "`attestd policy history` shows the versions."


class PolicyRaced(Conflict):
    """Somebody else changed the policy at the same time"""

    remedy = "Nothing was stored. Read the newest version, then decide again."


class AlreadyInForce(Conflict):
    """That text is in force already"""

    remedy = "Nothing was stored. `attestd policy history` shows the versions; name another one."


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """One version. The text is Cedar."""

    version: int
    text: str = field(repr=False)
    created_at: int  # unix seconds
    created_by: str


def add(c: Connection, *, text: str, created_by: str, now: int, expected_version: int | None = None) -> StoredPolicy:
    """The next version. `expected_version` is the newest one that its author knew (0: none). Raises PolicyRaced."""
    newest = _newest(c)
    version = 0 if newest is None else newest.version
    if expected_version not in (None, version):
        raise PolicyRaced(seen=f"version {version}", expected=f"version {expected_version}")
    stored = StoredPolicy(version + 1, text, now, created_by)
    try:
        c.execute(insert(policies).values(version=stored.version, text=text, created_at=now, created_by=created_by))
    except IntegrityError as error:
        if is_unique_violation(error):
            raise PolicyRaced(seen=f"version {stored.version} exists") from None
        raise
    revision.bump(c)
    return stored


def require_newest(c: Connection, expected_version: int | None) -> None:
    """Raises PolicyRaced if a version other than the one that is expected (None: any) is in force."""
    newest = latest(c)
    if expected_version not in (None, newest.version):
        raise PolicyRaced(
            f"Version {newest.version} is in force, by {newest.created_by}.",
            seen=f"version {newest.version}",
            expected=f"version {expected_version}",
        )


def latest(c: Connection) -> StoredPolicy:
    """The version in force. Raises UnknownPolicy where there is none."""
    newest = _newest(c)
    if newest is None:
        raise UnknownPolicy("No policy was ever stored.")
    return newest


def by_version(c: Connection, version: int) -> StoredPolicy:
    """One version. Raises UnknownPolicy."""
    row = c.execute(select(policies).where(policies.c.version == version)).one_or_none()
    if row is None:
        raise UnknownPolicy(seen=version)
    return StoredPolicy(**row._mapping)


def before_this_text(c: Connection) -> StoredPolicy:
    """What was in force before the text that is in force now was first in force. Raises UnknownPolicy.

    So that going back twice goes back twice: a rollback is a new version with an old text, and the version before it is
    the very one that somebody wanted to be rid of.
    """
    newest = latest(c)
    same = select(func.min(policies.c.version)).where(policies.c.text == newest.text).scalar_subquery()
    row = c.execute(
        select(policies).where(policies.c.version < same).order_by(policies.c.version.desc()).limit(1)
    ).one_or_none()
    if row is None:
        raise UnknownPolicy(
            f"Nothing was in force before version {newest.version}'s text.", expected="a version by its number"
        )
    return StoredPolicy(**row._mapping)


def page(c: Connection, *, before: int | None = None, limit: int = 100) -> list[StoredPolicy]:
    """Versions, the newest first; the last one's `version` is the next page's `before`. `limit` is at most 1000."""
    wanted = [] if before is None else [policies.c.version < before]
    statement = select(policies).where(*wanted).order_by(policies.c.version.desc()).limit(min(limit, MAX_PAGE))
    return [StoredPolicy(**row._mapping) for row in c.execute(statement)]


def _newest(c: Connection) -> StoredPolicy | None:
    row = c.execute(select(policies).order_by(policies.c.version.desc()).limit(1)).one_or_none()
    return None if row is None else StoredPolicy(**row._mapping)
