"""The tree of RFC 9162, against a second implementation that follows the definitions and knows no trick."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials.hashtree import (
    EMPTY,
    MAX_PATH,
    HistoryRewritten,
    NotInTree,
    TreeProofMalformed,
    consistency_path,
    inclusion_path,
    leaf_hash,
    node_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from attestd.errors import AttestdError, InputTooLarge

Data = list[bytes]

# ---- RFC 9162, section 2.1, word for word ------------------------------------------------------------------------


def below(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(d: Data) -> bytes:
    if not d:
        return hashlib.sha256(b"").digest()
    if len(d) == 1:
        return hashlib.sha256(b"\x00" + d[0]).digest()
    k = below(len(d))
    return hashlib.sha256(b"\x01" + mth(d[:k]) + mth(d[k:])).digest()


def path(m: int, d: Data) -> Data:
    if len(d) == 1:
        return []
    k = below(len(d))
    return [*path(m, d[:k]), mth(d[k:])] if m < k else [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: Data, whole: bool) -> Data:
    if m == len(d):
        return [] if whole else [mth(d)]
    k = below(len(d))
    if m <= k:
        return [*subproof(m, d[:k], whole), mth(d[k:])]
    return [*subproof(m - k, d[k:], False), mth(d[:k])]


# ---- What is compared with it ------------------------------------------------------------------------------------


def nodes(d: Data) -> Callable[[int, int], bytes]:
    return lambda height, index: mth(d[index << height : (index + 1) << height])


# Leaves of certificate transparency's own tests (RFC 6962's reference implementation).
KNOWN = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
KNOWN_ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
data = st.lists(st.binary(max_size=3), min_size=1, max_size=70)


@pytest.mark.parametrize("size", KNOWN_ROOTS)
def test_known_roots(size: int) -> None:
    assert tree_root(nodes(KNOWN[:size]), size).hex() == KNOWN_ROOTS[size]


@given(data, st.data())
def test_paths_are_those_of_the_definition_and_verify(d: Data, draw: st.DataObject) -> None:
    size, root = len(d), mth(d)
    index = draw.draw(st.integers(0, size - 1))
    first = draw.draw(st.integers(1, size))
    assert tree_root(nodes(d), size) == root
    assert list(inclusion_path(nodes(d), index, size)) == path(index, d)
    assert list(consistency_path(nodes(d), first, size)) == subproof(first, d, True)
    verify_inclusion(leaf_hash(d[index]), index=index, size=size, root=root, path=path(index, d))
    verify_consistency(
        first=first, first_root=mth(d[:first]), second=size, second_root=root, path=subproof(first, d, True)
    )


@given(data, st.data())
def test_a_changed_past_has_no_proof(d: Data, draw: st.DataObject) -> None:
    """Whatever is changed before the older head, and whatever proof the changed tree gives, it is refused."""
    first = draw.draw(st.integers(1, len(d)))
    changed = list(d)
    changed[draw.draw(st.integers(0, first - 1))] += b"?"
    with pytest.raises(HistoryRewritten):
        verify_consistency(
            first=first,
            first_root=mth(d[:first]),
            second=len(d),
            second_root=mth(changed),
            path=subproof(first, changed, True),
        )


@given(data, st.data())
def test_another_entry_has_no_proof(d: Data, draw: st.DataObject) -> None:
    index = draw.draw(st.integers(0, len(d) - 1))
    with pytest.raises(NotInTree):
        verify_inclusion(leaf_hash(d[index] + b"?"), index=index, size=len(d), root=mth(d), path=path(index, d))


@given(st.integers(-1, 80), st.integers(-1, 80), st.lists(st.binary(min_size=32, max_size=32), max_size=8), st.binary())
def test_any_proof_is_refused_by_name(first: int, second: int, steps: Data, leaf: bytes) -> None:
    """Invented hashes prove nothing, whatever the numbers beside them are."""
    with pytest.raises(AttestdError):
        verify_inclusion(leaf, index=first, size=second, root=b"\x55" * 32, path=steps)
    with pytest.raises(AttestdError):
        verify_consistency(first=first, first_root=b"\x44" * 32, second=second, second_root=b"\x55" * 32, path=steps)


@dataclass(frozen=True)
class Consistency:
    """An honest pair of heads and its proof."""

    first: int
    first_root: bytes
    second: int
    second_root: bytes
    path: list[bytes]

    @classmethod
    def of(cls, first: int, second: int) -> Consistency:
        d = [bytes([n]) for n in range(second)]
        return cls(first, mth(d[:first]), second, mth(d), subproof(first, d, True) if first else [])

    def verify(self, **lies: Any) -> None:
        verify_consistency(**vars(replace(self, **lies)))


@pytest.mark.parametrize(("first", "second"), [(1, 2), (3, 7), (4, 7), (6, 8), (8, 8), (0, 5), (0, 0)])
def test_consistency_with_one_lie(first: int, second: int) -> None:
    honest = Consistency.of(first, second)
    honest.verify()
    other = Consistency.of(first + 1, second + 3)
    with pytest.raises(HistoryRewritten):
        honest.verify(first_root=other.first_root)
    with pytest.raises(TreeProofMalformed):
        honest.verify(path=[*honest.path, EMPTY])
    if first not in (0, second):
        with pytest.raises(HistoryRewritten):
            honest.verify(second_root=other.second_root)
        with pytest.raises(TreeProofMalformed):
            honest.verify(path=honest.path[:-1])
        with pytest.raises(TreeProofMalformed):
            honest.verify(path=[])
        with pytest.raises(HistoryRewritten):
            honest.verify(path=[step[::-1] for step in honest.path])
        with pytest.raises(HistoryRewritten, match="smaller"):
            honest.verify(first=second, second=first)


def test_two_heads_of_one_size_must_be_equal() -> None:
    with pytest.raises(HistoryRewritten):
        Consistency.of(5, 5).verify(second_root=b"\x00" * 32)


def test_an_empty_tree_has_one_root() -> None:
    with pytest.raises(HistoryRewritten):
        Consistency.of(0, 5).verify(first_root=b"\x00" * 32)


@dataclass(frozen=True)
class Inclusion:
    """An honest leaf and its proof."""

    leaf: bytes
    index: int
    size: int
    root: bytes
    path: list[bytes]

    @classmethod
    def of(cls, index: int, size: int) -> Inclusion:
        d = [bytes([n]) for n in range(size)]
        return cls(leaf_hash(d[index]), index, size, mth(d), path(index, d))

    def verify(self, **lies: Any) -> None:
        verify_inclusion(**vars(replace(self, **lies)))


@pytest.mark.parametrize(("index", "size"), [(0, 1), (0, 2), (2, 3), (3, 7), (6, 7), (4, 5), (7, 8)])
def test_inclusion_with_one_lie(index: int, size: int) -> None:
    honest = Inclusion.of(index, size)
    honest.verify()
    with pytest.raises(NotInTree):
        honest.verify(root=EMPTY)
    with pytest.raises(NotInTree):
        honest.verify(leaf=EMPTY)
    with pytest.raises(TreeProofMalformed):
        honest.verify(path=[*honest.path, EMPTY])
    for wrong in (size, -1):
        with pytest.raises(TreeProofMalformed, match="outside"):
            honest.verify(index=wrong)
    if honest.path:
        with pytest.raises(TreeProofMalformed):
            honest.verify(path=honest.path[:-1])
        with pytest.raises(AttestdError):
            honest.verify(index=(index + 1) % size)


def test_a_node_is_no_leaf() -> None:
    """Without the two prefixes, the hash of two leaves would be that of an entry made of their hashes."""
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert node_hash(left, right) != leaf_hash(left + right)
    root = mth([b"a", b"b"])
    with pytest.raises(NotInTree):
        verify_inclusion(leaf_hash(left + right), index=0, size=1, root=root, path=[])


def test_bounds() -> None:
    honest = Inclusion.of(3, 7)
    with pytest.raises(InputTooLarge):
        honest.verify(path=[EMPTY] * (MAX_PATH + 1))
    for wrong in (b"", EMPTY[:-1], EMPTY + b"\x00"):
        with pytest.raises(TreeProofMalformed, match="wrong size"):
            honest.verify(path=[wrong, *honest.path[1:]])
        with pytest.raises(TreeProofMalformed, match="wrong size"):
            Consistency.of(3, 7).verify(path=[wrong])
