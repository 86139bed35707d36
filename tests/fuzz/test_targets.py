"""The fuzz targets' short form: every seed is taken, and nothing near it gets more than a named error.

`make fuzz` runs the same targets for as long as one likes, guided by coverage.
"""

from __future__ import annotations

import pytest

from tests.fuzz.harness import Target, mutants_of
from tests.fuzz.targets import FAMILIES, TARGETS

EACH = 400  # inputs of one target


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_seed_is_taken(target: Target) -> None:
    """A seed that its parser refuses leads a fuzzer nowhere."""
    seeds = list(target.seeds())
    assert seeds
    for number, seed in enumerate(seeds):
        assert len(seed) <= target.limit
        assert target(seed), f"seed {number} was refused"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_nothing_near_a_seed_is_a_find(target: Target) -> None:
    seeds = list(target.seeds())
    refused = sum(not target(data) for data in mutants_of(target, seeds, EACH))
    assert (refused > EACH // 20) is target.refuses


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_nothing_at_all_and_the_same_octet_over_and_over(target: Target) -> None:
    for data in (
        b"",
        b"\x00",
        b"\xff",
        *(octet * target.limit for octet in (b"\x00", b"\xff", b"[", b'"', b"0", b"\n")),
    ):
        target(data)


def test_names_are_names() -> None:
    names = [target.name for target in TARGETS]
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() for name in names)
    assert len(FAMILIES) >= 6
