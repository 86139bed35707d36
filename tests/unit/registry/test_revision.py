"""Numbers that only grow."""

from __future__ import annotations

import pytest

from attestd.registry import revision
from attestd.registry.engine import Registry


def test_the_revision_grows(registry: Registry) -> None:
    with registry.acting() as c:
        assert [revision.current(c), revision.bump(c), revision.bump(c), revision.current(c)] == [0, 1, 2, 2]


def test_a_new_epoch_asks_for_a_bundle(registry: Registry) -> None:
    with registry.acting() as c:
        assert [revision.epoch(c), revision.raise_epoch(c), revision.epoch(c)] == [1, 2, 2]
        assert revision.current(c) == 1


def test_status_indices_are_never_given_twice(registry: Registry) -> None:
    with registry.acting() as c:
        assert revision.reserve_status_indices(c, 3) == range(3)
        assert revision.reserve_status_indices(c, 1) == range(3, 4)
    with pytest.raises(RuntimeError), registry.acting() as c:
        revision.reserve_status_indices(c, 5)
        raise RuntimeError
    with registry.acting() as c:
        assert revision.reserve_status_indices(c, 1) == range(4, 5)


def test_a_transaction_that_fails_leaves_the_revision(registry: Registry) -> None:
    with pytest.raises(RuntimeError), registry.acting() as c:
        revision.bump(c)
        raise RuntimeError
    with registry.reading() as c:
        assert revision.current(c) == 0
