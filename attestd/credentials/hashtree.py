"""The Merkle tree of RFC 9162, section 2.1, with SHA-256: hashes, roots, proofs and what proofs prove. Pure.

Proofs are made from nodes: a node of height h and index i is the root over the 2^h leaves from i * 2^h on, and exists
as soon as all of them do. Verifying needs no nodes, only what a stranger was handed.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Final

from attestd.errors import InputTooLarge, MalformedInput, Unauthenticated

HASH: Final = 32  # octets
MAX_SIZE: Final = 1 << 53  # leaves
MAX_PATH: Final = 64  # hashes in a proof: more than any tree of that size asks for
EMPTY: Final = sha256().digest()  # the root of a tree without leaves

Nodes = Callable[[int, int], bytes]  # height, index -> hash


class TreeProofMalformed(MalformedInput):
    """This is not a proof for a tree of this size"""

    remedy = "Ask for the proof again, for the sizes that the two heads name."


class NotInTree(Unauthenticated):
    """The proof does not lead from this entry to the head"""

    remedy = "Compare the entry with the one that the service shows; if they differ, one of them was changed."


class HistoryRewritten(Unauthenticated):
    """The newer head does not contain the older one: history was changed"""

    remedy = "Run `attestd audit verify` where the service is, and keep both heads: together they prove it."


def leaf_hash(data: bytes) -> bytes:
    """RFC 9162, section 2.1.1."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 9162, section 2.1.1."""
    return sha256(b"\x01" + left + right).digest()


# ---- Making -----------------------------------------------------------------------------------------------------


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root over these leaf hashes, 2^h of them, or over nodes of one height."""
    level = list(hashes)
    while len(level) > 1:
        level = [node_hash(level[n], level[n + 1]) for n in range(0, len(level), 2)]
    return level[0]


def tree_root(nodes: Nodes, size: int) -> bytes:
    """The root of the tree of the first `size` leaves."""
    return EMPTY if size == 0 else _range_root(nodes, 0, size)


def inclusion_path(nodes: Nodes, index: int, size: int) -> tuple[bytes, ...]:
    """The proof that leaf `index` is among the first `size` ones (RFC 9162, section 2.1.3.1)."""
    path = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range_root(nodes, middle, end))
            end = middle
        else:
            path.append(_range_root(nodes, start, middle))
            start = middle
    return tuple(reversed(path))


def consistency_path(nodes: Nodes, first: int, second: int) -> tuple[bytes, ...]:
    """The proof that the tree of `second` leaves begins with the one of `first` (RFC 9162, section 2.1.4.1).

    Empty if there is nothing to prove: the sizes are equal, or the first tree is empty.
    """
    if first in (0, second):
        return ()
    path = []
    start, end = 0, second
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            path.append(_range_root(nodes, middle, end))
            end = middle
        else:
            path.append(_range_root(nodes, start, middle))
            start = middle
    if start:  # else what is left is the first tree itself, whose root the verifier has
        path.append(_range_root(nodes, start, end))
    return tuple(reversed(path))


def _range_root(nodes: Nodes, start: int, end: int) -> bytes:
    """The root over leaves `start` to `end`; `start` is a multiple of a power of two that is not below the length."""
    length = end - start
    if length & (length - 1) == 0:
        height = length.bit_length() - 1
        return nodes(height, start >> height)
    middle = start + _split(length)
    return node_hash(_range_root(nodes, start, middle), _range_root(nodes, middle, end))


def _split(length: int) -> int:
    """The largest power of two that is smaller than `length`."""
    return 1 << (length - 1).bit_length() - 1


# ---- Verifying --------------------------------------------------------------------------------------------------


def verify_inclusion(leaf: bytes, *, index: int, size: int, root: bytes, path: Sequence[bytes]) -> None:
    """Returns if `leaf` is the hash of leaf `index` in the tree of that size and root (RFC 9162, section 2.1.3.2).

    Raises TreeProofMalformed, InputTooLarge or NotInTree.
    """
    _check_path(path)
    if not 0 <= index < size <= MAX_SIZE:
        raise TreeProofMalformed("The leaf lies outside the tree.", seen=index, expected=f"0 to {size - 1}")
    found = leaf
    for step, on_the_left in _climb(index, size - 1, path):
        found = node_hash(step, found) if on_the_left else node_hash(found, step)
    if not hmac.compare_digest(found, root):
        raise NotInTree(seen=found.hex(), expected=root.hex())


def verify_consistency(
    *, first: int, first_root: bytes, second: int, second_root: bytes, path: Sequence[bytes]
) -> None:
    """Returns if the tree of `second` leaves begins with the one of `first` (RFC 9162, section 2.1.4.2).

    Raises TreeProofMalformed, InputTooLarge or HistoryRewritten.
    """
    _check_path(path)
    if not 0 <= first <= second <= MAX_SIZE:
        raise HistoryRewritten("The newer head is the smaller one.", seen=second, expected=f"at least {first}")
    if first in (0, second):
        if path:
            raise TreeProofMalformed("There is nothing to prove, and yet a proof.", seen=len(path))
        _require_roots(first_root, second_root if first == second else EMPTY)
        return
    # 1. to 3. Where the first tree is a whole subtree of the second, the proof leaves its root out.
    steps = list(path) if first & (first - 1) else [first_root, *path]
    if not steps:
        raise TreeProofMalformed("The proof is empty.")
    # 4. and 5. From the lowest node that both trees have.
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    # 6. What stands on the left is in both trees, what stands on the right in the newer one alone.
    older = newer = steps[0]
    for step, on_the_left in _climb(fn, sn, steps[1:]):
        if on_the_left:
            older, newer = node_hash(step, older), node_hash(step, newer)
        else:
            newer = node_hash(newer, step)
    # 7.
    _require_roots(first_root, older)
    _require_roots(second_root, newer)


def _climb(fn: int, sn: int, path: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each hash of the path, and whether it stands to the left. `fn` and `sn` as RFC 9162 has them: where the climb is,
    and where the last node of that level is. Raises TreeProofMalformed if the path ends below the root, or above it."""
    for step in path:
        if sn == 0:
            raise TreeProofMalformed("The proof is too long for a tree of this size.", seen=len(path))
        on_the_left = bool(fn & 1) or fn == sn
        yield step, on_the_left
        if on_the_left:
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise TreeProofMalformed("The proof is too short for a tree of this size.", seen=len(path))


def _require_roots(known: bytes, found: bytes) -> None:
    if not hmac.compare_digest(known, found):
        raise HistoryRewritten(seen=found.hex(), expected=known.hex())


def _check_path(path: Sequence[bytes]) -> None:
    if len(path) > MAX_PATH:
        raise InputTooLarge("The proof is too long.", seen=f"{len(path)} hashes", expected=f"at most {MAX_PATH}")
    if any(len(step) != HASH for step in path):
        raise TreeProofMalformed("A hash in the proof has the wrong size.", expected=f"{HASH} octets")
