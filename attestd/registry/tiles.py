"""How the audit trail's tree is kept: tiles of up to 256 hashes (docs/adr, "Tiles"). Pure.

Tile (level, number) holds nodes of height 8 * level, from index 256 * number on: tiles of level 0 the leaf hashes, of
level 1 the roots of full tiles of level 0, and so on. Only the last tile of a level is not full. What the tree's root
and its growth depend on is in the last tiles alone, so that the ten-millionth leaf costs as much as the first; a proof
reads a few tiles a level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from attestd.credentials.hashtree import HASH, MAX_SIZE, Nodes, root_of
from attestd.errors import Unavailable

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT  # hashes in a full tile
LEVELS: Final = -(-MAX_SIZE.bit_length() // HEIGHT)

Place = tuple[int, int]  # level, number


class TreeDamaged(Unavailable):
    """The audit trail's tree is not as it was sealed"""

    remedy = "Run `attestd audit verify`: it names what was changed. Keep the database as it is; it is evidence."


def last_tiles(size: int) -> tuple[Place, ...]:
    """The tiles that a tree of `size` leaves goes on with: the last one of each level, where it is not full."""
    counts = ((level, size >> HEIGHT * level) for level in range(LEVELS))
    return tuple((level, count // WIDTH) for level, count in counts if count % WIDTH)


def grown(last: Mapping[Place, bytes], size: int, leaves: Sequence[bytes]) -> dict[Place, bytes]:
    """The tiles that differ once these leaf hashes are appended to a tree of `size` leaves with these last tiles.

    Raises TreeDamaged.
    """
    changed: dict[Place, bytes] = {}
    level, start, hashes = 0, size, list(leaves)
    while hashes:
        full = []
        while hashes:
            number, held = divmod(start, WIDTH)
            tile = last.get((level, number), b"") if held else b""
            if len(tile) != held * HASH:
                raise TreeDamaged(f"Tile {level}/{number} has {len(tile)} octets.", expected=f"{held * HASH}")
            taken = hashes[: WIDTH - held]
            tile += b"".join(taken)
            changed[level, number] = tile
            if held + len(taken) == WIDTH:
                full.append(root_of(split(tile)))
            start += len(taken)
            hashes = hashes[len(taken) :]
        level, start, hashes = level + 1, (size >> HEIGHT * (level + 1)), full
    return changed


def nodes_in(fetch: Callable[[int, int], bytes]) -> Nodes:
    """The tree's nodes, out of tiles; `fetch(level, number)` gives a tile, b"" if there is none.

    A node that its tile does not hold raises TreeDamaged.
    """

    def node(height: int, index: int) -> bytes:
        level, within = divmod(height, HEIGHT)
        number, offset = divmod(index << within, WIDTH)
        hashes = split(fetch(level, number)[offset * HASH : (offset + (1 << within)) * HASH])
        if len(hashes) != 1 << within:
            raise TreeDamaged(f"Tile {level}/{number} is too short.", expected=f"hash {offset + (1 << within)}")
        return root_of(hashes)

    return node


def split(tile: bytes) -> list[bytes]:
    """A tile's hashes."""
    return [tile[n : n + HASH] for n in range(0, len(tile), HASH)]
