"""Versions of the policy only grow, one at a time."""

from __future__ import annotations

import pytest

from attestd.registry import policies, revision
from attestd.registry.engine import Connection, Registry
from attestd.registry.policies import PolicyRaced, StoredPolicy, UnknownPolicy

from .conftest import NOW, race


def test_versions_grow(registry: Registry) -> None:
    with registry.acting() as c:
        with pytest.raises(UnknownPolicy):
            policies.latest(c)
        first = policies.add(c, text="permit", created_by="ada", now=NOW)
        assert policies.latest(c) == first == StoredPolicy(1, "permit", NOW, "ada")
        second = policies.add(c, text="forbid", created_by="bob", now=NOW + 1)
        assert policies.latest(c) == second == StoredPolicy(2, "forbid", NOW + 1, "bob")
        assert policies.by_version(c, 1) == first
        assert policies.page(c) == [second, first]
        assert policies.page(c, limit=1) == [second]
        assert policies.page(c, before=2) == [first]
        with pytest.raises(UnknownPolicy):
            policies.by_version(c, 3)


def test_a_policy_asks_for_a_bundle(registry: Registry) -> None:
    with registry.acting() as c:
        before = revision.current(c)
        policies.add(c, text="permit", created_by="ada", now=NOW)
        assert revision.current(c) > before


def test_a_version_that_its_author_did_not_know(registry: Registry) -> None:
    with registry.acting() as c:
        policies.add(c, text="1", created_by="ada", now=NOW, expected_version=0)
        policies.add(c, text="2", created_by="ada", now=NOW, expected_version=1)
        for unknown in (0, 1, 3):
            with pytest.raises(PolicyRaced):
                policies.add(c, text="3", created_by="bob", now=NOW, expected_version=unknown)
        assert policies.latest(c).text == "2"


def test_of_several_at_the_same_time_one_wins(registry: Registry, url: str) -> None:
    def act(c: Connection, number: int) -> int:
        return policies.add(c, text=str(number), created_by="ada", now=NOW, expected_version=0).version

    outcomes = race(url, 4, act)
    assert (outcomes.count(1), outcomes.count(PolicyRaced)) == (1, 3)


def test_a_version_stored_between_the_look_and_the_act(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a database where another transaction commits in between."""
    with registry.acting() as c:
        policies.add(c, text="first", created_by="ada", now=NOW)
    monkeypatch.setattr(policies, "_newest", lambda _: None)
    with pytest.raises(PolicyRaced), registry.acting() as c:
        policies.add(c, text="second", created_by="bob", now=NOW)
    monkeypatch.undo()
    with registry.reading() as c:
        assert policies.latest(c).text == "first"


def test_what_was_in_force_before(registry: Registry) -> None:
    """Going back twice goes back twice, and not to what was just left."""
    with registry.acting() as c:
        for text in ("a", "b", "bad"):
            policies.add(c, text=text, created_by="ada", now=NOW)
        assert policies.before_this_text(c).version == 2
        policies.add(c, text="b", created_by="ada", now=NOW)
        assert policies.before_this_text(c).version == 1
        policies.add(c, text="a", created_by="ada", now=NOW)
        with pytest.raises(UnknownPolicy):
            policies.before_this_text(c)
