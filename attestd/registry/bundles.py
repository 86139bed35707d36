"""Signed bundles, by epoch and version (docs/protocol.md, section 5). Times are unix seconds.

Several instances may sign at the same time; the first to store a version wins, and the others use that one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, insert, or_, select
from sqlalchemy.exc import IntegrityError

from attestd.errors import Conflict
from attestd.registry import revision as revisions
from attestd.registry.engine import is_unique_violation
from attestd.registry.tables import bundles


class BundleGone(Conflict):
    """This bundle is not kept any more"""

    remedy = "Ask for the newest one."


@dataclass(frozen=True, slots=True)
class BundleHead:
    """Which bundle it is. `revision` is what the registry said when the bundle's contents were read."""

    epoch: int
    version: int
    revision: int
    issued_at: int


@dataclass(frozen=True, slots=True)
class StoredBundle:
    """A bundle as it is served."""

    epoch: int
    version: int
    revision: int
    issued_at: int
    content: str = field(repr=False)  # `attestd.credentials.copies`


_HEAD = (bundles.c.epoch, bundles.c.version, bundles.c.revision, bundles.c.issued_at)


def store(c: Connection, *, epoch: int, version: int, revision: int, issued_at: int, content: str) -> bool:
    """Publishes a bundle if it is the next one: of the current epoch, one version up (from 1 in each epoch).

    False: another one was published first, and this one is not stored.
    """
    head = newest(c)
    current = revisions.epoch(c)
    successor = head.version + 1 if head is not None and head.epoch == current else 1
    if (epoch, version) != (current, successor):
        return False
    try:
        with c.begin_nested():  # so that losing the race leaves the transaction usable
            c.execute(
                insert(bundles).values(
                    epoch=epoch, version=version, revision=revision, issued_at=issued_at, content=content
                )
            )
    except IntegrityError as error:
        if is_unique_violation(error):
            return False
        raise
    return True


def newest(c: Connection) -> BundleHead | None:
    """Which bundle edges get now."""
    statement = select(*_HEAD).order_by(bundles.c.epoch.desc(), bundles.c.version.desc()).limit(1)
    row = c.execute(statement).one_or_none()
    return None if row is None else BundleHead(**row._mapping)


def heads(c: Connection) -> list[BundleHead]:
    """Those that are kept, the newest first."""
    statement = select(*_HEAD).order_by(bundles.c.epoch.desc(), bundles.c.version.desc())
    return [BundleHead(**row._mapping) for row in c.execute(statement)]


def stored(c: Connection, *, epoch: int, version: int) -> StoredBundle:
    """One bundle. Raises BundleGone."""
    statement = select(bundles).where(bundles.c.epoch == epoch, bundles.c.version == version)
    row = c.execute(statement).one_or_none()
    if row is None:
        raise BundleGone(seen=f"{epoch}.{version}")
    return StoredBundle(**row._mapping)


def purge(c: Connection, *, keep: int) -> int:
    """Forgets all but the newest `keep` bundles of the newest epoch; returns how many went. The newest always stays."""
    head = newest(c)
    if head is None:
        return 0
    old = or_(bundles.c.epoch < head.epoch, bundles.c.version <= head.version - max(keep, 1))
    return c.execute(delete(bundles).where(old)).rowcount
