"""Numbers that only grow: the revision of what bundles say, the epoch, the next free status index, the trust store's
version.

Every function of the registry that changes what a bundle says calls `bump` itself, in the same transaction, so a
publisher that sees an unchanged revision has nothing to sign. The counters' rows are made by the first migration.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select, update

from attestd.registry.acts import Step
from attestd.registry.statements import Statement
from attestd.registry.tables import counters

REVISION = "revision"
EPOCH = "epoch"
NEXT_STATUS_INDEX = "next_status_index"
TRUST = "trust"
REFERENCES = "references"
AUDIT_SIZE = "audit_size"  # `attestd.registry.audit_tree`
AUDIT_ARCHIVED = "audit_archived"
EXPIRING_TOLD = "expiring_told"  # `attestd.registry.expiring`: up to which moment (unix seconds)
WATCHED_AT = "watched_at"  # `attestd.registry.overdue`: when the last round ended


def bump(c: Connection) -> int:
    """Says that bundles must say something new; returns the new revision."""
    return _advance(c, REVISION, 1)


def bumping() -> Step:
    """`bump`, as a step of an act."""
    return Step(_BUMP, {})


def current(c: Connection) -> int:
    """The revision: equal revisions mean equal bundle contents."""
    return _read(c, REVISION)


def epoch(c: Connection) -> int:
    """The epoch of bundles (docs/protocol.md, section 5)."""
    return _read(c, EPOCH)


def raise_epoch(c: Connection, *, least: int = 0) -> int:
    """After a restore from a backup: by one, or to `least` if that is more. Returns the new epoch."""
    bump(c)
    return _advance(c, EPOCH, max(1, least - _read(c, EPOCH)))


def reserve_status_indices(c: Connection, count: int) -> range:
    """`count` indices that no device ever had. A rollback gives them back, nothing else does."""
    end = _advance(c, NEXT_STATUS_INDEX, count)
    return range(end - count, end)


def skip_status_indices(c: Connection, *, least: int, count: int) -> int:
    """No index below `least`, nor any of the next `count`, is handed out from now on. Returns the next one."""
    free = _read(c, NEXT_STATUS_INDEX)
    return _advance(c, NEXT_STATUS_INDEX, max(free, least) + count - free)


def change_trust(c: Connection) -> None:
    """Says that the trust store changed."""
    _advance(c, TRUST, 1)


def trust_version(c: Connection) -> int:
    """How often the trust store changed."""
    return _read(c, TRUST)


def change_references(c: Connection) -> int:
    """Says that the reference manifests changed; returns how often they did."""
    return _advance(c, REFERENCES, 1)


def references_version(c: Connection) -> int:
    """How often the reference manifests changed."""
    return _read(c, REFERENCES)


_READ = Statement(select(counters.c.value).where(counters.c.name == bindparam("wanted")))
_ADVANCE = Statement(
    update(counters)
    .where(counters.c.name == bindparam("wanted"))
    .values(value=counters.c.value + bindparam("by", type_=counters.c.value.type))
    .returning(counters.c.value)
)


_BUMP = Statement(update(counters).where(counters.c.name == REVISION).values(value=counters.c.value + 1))


def _read(c: Connection, name: str) -> int:
    return int(_READ.one_or_none(c, {"wanted": name}).value)


def _advance(c: Connection, name: str, by: int) -> int:
    return int(_ADVANCE.one_or_none(c, {"wanted": name, "by": by}).value)
