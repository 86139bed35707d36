"""The hash tree over the audit trail as it is stored: its size, tiles and heads, and which leaves were archived.

Who lets the tree grow moves its size by one conditional statement, in the transaction that stores what it adds: that
is the lock. Of several sealers one wins, on either database, and one that dies holds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, or_, select, update

from attestd.credentials.hashtree import Nodes
from attestd.registry.revision import AUDIT_ARCHIVED, AUDIT_SIZE
from attestd.registry.tables import audit_archives, audit_heads, audit_tiles, counters
from attestd.registry.tiles import Place, last_tiles, nodes_in

_DAY = 86400
_PAGE = 500


@dataclass(frozen=True, slots=True)
class StoredHead:
    """A head as it was signed: nothing in it counts until `verify_head` has read `jws`."""

    log: int
    size: int
    at: int
    jws: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Archive:
    """A file that holds the rows of `size` leaves from `first` on; their numbers lie between `lowest` and `highest`."""

    first: int
    size: int
    lowest: int
    highest: int
    file: str


# ---- Size -------------------------------------------------------------------------------------------------------

_MOVE = (
    update(counters)
    .where(counters.c.name == bindparam("wanted"), counters.c.value == bindparam("known"))
    .values(value=bindparam("moved"))
)


def size(c: Connection) -> int:
    """How many leaves the tree has."""
    return _count(c, AUDIT_SIZE)


def grow(c: Connection, *, known: int, moved: int) -> bool:
    """Moves the size, if it still is the one that is known. False: somebody else was faster."""
    return c.execute(_MOVE, {"wanted": AUDIT_SIZE, "known": known, "moved": moved}).rowcount == 1


def archived(c: Connection) -> int:
    """How many leaves, from the first on, have their rows in files."""
    return _count(c, AUDIT_ARCHIVED)


def _count(c: Connection, name: str) -> int:
    return int(c.execute(select(counters.c.value).where(counters.c.name == name)).scalar_one())


# ---- Tiles ------------------------------------------------------------------------------------------------------


def tile(c: Connection, level: int, number: int) -> bytes:
    """One tile's hashes; b"" if there is no such tile."""
    wanted = select(audit_tiles.c.hashes).where(audit_tiles.c.level == level, audit_tiles.c.number == number)
    return bytes(c.execute(wanted).scalar_one_or_none() or b"")


def tiles(c: Connection, level: int, *, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """The tiles of one level with their numbers, from `start` on, in their order."""
    t = audit_tiles.c
    wanted = select(t.number, t.hashes).where(t.level == level).order_by(t.number).limit(_PAGE)
    while page := c.execute(wanted.where(t.number >= start)).all():
        yield from ((number, bytes(hashes)) for number, hashes in page)
        start = page[-1].number + 1


def read_last_tiles(c: Connection, size: int) -> dict[Place, bytes]:
    """What the tree of that size goes on with."""
    places = [and_(audit_tiles.c.level == level, audit_tiles.c.number == number) for level, number in last_tiles(size)]
    if not places:
        return {}
    return {(row.level, row.number): bytes(row.hashes) for row in c.execute(select(audit_tiles).where(or_(*places)))}


def nodes(c: Connection) -> Nodes:
    """The tree's nodes, each tile read once."""
    fetch: Callable[[int, int], bytes] = cache(lambda level, number: tile(c, level, number))
    return nodes_in(fetch)


def put_tiles(c: Connection, changed: Mapping[Place, bytes]) -> None:
    """Stores tiles: new ones, and those that grew."""
    for (level, number), hashes in changed.items():
        place = (audit_tiles.c.level == level, audit_tiles.c.number == number)
        if c.execute(update(audit_tiles).where(*place).values(hashes=hashes)).rowcount == 0:
            c.execute(insert(audit_tiles).values(level=level, number=number, hashes=hashes))


# ---- Heads ------------------------------------------------------------------------------------------------------


def newest_head(c: Connection) -> StoredHead | None:
    """The newest log's largest head."""
    wanted = select(audit_heads).order_by(audit_heads.c.log.desc(), audit_heads.c.size.desc()).limit(1)
    row = c.execute(wanted).one_or_none()
    return None if row is None else StoredHead(**row._mapping)


def heads(c: Connection) -> Iterator[StoredHead]:
    """Every stored head, by size and log."""
    h = audit_heads.c
    wanted = select(audit_heads).order_by(h.size, h.log).limit(_PAGE)
    page = c.execute(wanted).all()
    while page:
        yield from (StoredHead(**row._mapping) for row in page)
        last = page[-1]
        after = or_(h.size > last.size, and_(h.size == last.size, h.log > last.log))
        page = c.execute(wanted.where(after)).all()


def store_head(c: Connection, head: StoredHead) -> None:
    """Stores a head that was just signed."""
    c.execute(insert(audit_heads).values(log=head.log, size=head.size, at=head.at, jws=head.jws))


def thin_heads(c: Connection, *, before: int) -> int:
    """Of the heads signed before that time, keeps each log's last one of each day. Returns how many went."""
    h = audit_heads.c
    lasting = select(func.max(h.size)).group_by(h.log, h.at // _DAY)
    return c.execute(delete(audit_heads).where(h.at < before, h.size.not_in(lasting))).rowcount


# ---- Archives ---------------------------------------------------------------------------------------------------


def archives(c: Connection, *, holding: int | None = None) -> list[Archive]:
    """The archive files in the order of leaves; `holding`: those that may hold the row of that number."""
    wanted = select(audit_archives).order_by(audit_archives.c.first)
    if holding is not None:
        wanted = wanted.where(audit_archives.c.lowest <= holding, audit_archives.c.highest >= holding)
    return [Archive(**row._mapping) for row in c.execute(wanted)]


def archives_below(c: Connection, number: int | None, *, limit: int) -> list[Archive]:
    """The files that may hold rows of lower numbers than that one, those with the highest numbers first."""
    wanted = select(audit_archives).order_by(audit_archives.c.highest.desc(), audit_archives.c.first.desc())
    if number is not None:
        wanted = wanted.where(audit_archives.c.lowest < number)
    return [Archive(**row._mapping) for row in c.execute(wanted.limit(limit))]


def highest_archived(c: Connection) -> int:
    """The highest number of an archived row; 0 without archives."""
    return int(c.execute(select(func.max(audit_archives.c.highest))).scalar_one() or 0)


def add_archive(c: Connection, archive: Archive) -> bool:
    """Notes that these leaves' rows are in a file. False: somebody else archived them."""
    end = archive.first + archive.size
    if c.execute(_MOVE, {"wanted": AUDIT_ARCHIVED, "known": archive.first, "moved": end}).rowcount != 1:
        return False
    c.execute(
        insert(audit_archives).values(
            first=archive.first,
            size=archive.size,
            lowest=archive.lowest,
            highest=archive.highest,
            file=archive.file,
        )
    )
    return True
