"""Bundles: versions without gaps, one winner each, and epochs that end the one before."""

from __future__ import annotations

import pytest

from attestd.registry import bundles, revision
from attestd.registry.bundles import BundleGone, BundleHead, StoredBundle
from attestd.registry.engine import Connection, Registry

from .conftest import NOW, race


def store(c: Connection, epoch: int, version: int, *, content: str = "content") -> bool:
    return bundles.store(c, epoch=epoch, version=version, revision=9, issued_at=NOW, content=content)


def test_the_first_and_the_next(registry: Registry) -> None:
    with registry.acting() as c:
        assert bundles.newest(c) is None
        assert store(c, 1, 1, content="one")
        assert store(c, 1, 2, content="two")
        assert bundles.newest(c) == BundleHead(1, 2, 9, NOW)
        assert bundles.stored(c, epoch=1, version=2) == StoredBundle(1, 2, 9, NOW, "two")
        assert bundles.stored(c, epoch=1, version=1).content == "one"


@pytest.mark.parametrize(("epoch", "version"), [(1, 0), (1, 1), (1, 3), (2, 1), (2, 2), (0, 2)])
def test_any_other_is_not_stored(registry: Registry, epoch: int, version: int) -> None:
    with registry.acting() as c:
        store(c, 1, 1, content="first")
        assert not store(c, epoch, version)
        assert bundles.newest(c) == BundleHead(1, 1, 9, NOW)
        assert bundles.stored(c, epoch=1, version=1).content == "first"


def test_a_new_epoch_begins_at_one(registry: Registry) -> None:
    with registry.acting() as c:
        store(c, 1, 1)
        store(c, 1, 2)
        assert revision.raise_epoch(c) == 2
        assert not store(c, 1, 3)
        assert not store(c, 2, 3)
        assert store(c, 2, 1)
        assert bundles.newest(c) == BundleHead(2, 1, 9, NOW)


def test_of_several_at_the_same_time_one_wins(registry: Registry, url: str) -> None:
    outcomes = race(url, 4, lambda c, number: store(c, 1, 1, content=str(number)))
    assert sorted(outcomes, key=bool) == [False, False, False, True]


def test_losing_leaves_the_transaction_usable(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a database where another transaction commits between the look and the INSERT."""
    with registry.acting() as c:
        store(c, 1, 1, content="winner")
    with registry.acting() as c:
        monkeypatch.setattr(bundles, "newest", lambda _: None)
        assert not store(c, 1, 1, content="loser")
        monkeypatch.undo()
        assert store(c, 1, 2)
    with registry.reading() as c:
        assert bundles.stored(c, epoch=1, version=1).content == "winner"


def test_forgetting(registry: Registry) -> None:
    with registry.acting() as c:
        assert bundles.purge(c, keep=2) == 0
        for version in range(1, 6):
            store(c, 1, version)
        assert bundles.purge(c, keep=2) == 3
        with pytest.raises(BundleGone):
            bundles.stored(c, epoch=1, version=3)
        bundles.stored(c, epoch=1, version=4)
        assert bundles.purge(c, keep=0) == 1
        revision.raise_epoch(c)
        store(c, 2, 1)
        assert bundles.purge(c, keep=9) == 1
        assert bundles.newest(c) == BundleHead(2, 1, 9, NOW)
