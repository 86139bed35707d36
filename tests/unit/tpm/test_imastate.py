"""What a replay leaves behind: the boot's aggregate against quoted PCRs, and the form that is kept."""

from __future__ import annotations

from typing import Any

import pytest

from attestd.errors import AttestdError
from attestd.protocol.encoding import Members
from attestd.tpm.imastate import (
    HASHED,
    PADDED,
    BootAggregateMismatch,
    BootAggregateMissing,
    Chain,
    ImaState,
    check_boot_aggregate,
)
from attestd.tpm.imatemplates import FileDigest
from tests import ima_lists as w

LONG, SHORT = tuple(range(10)), tuple(range(8))


def values(algorithm: str, indices: tuple[int, ...]) -> dict[int, bytes]:
    return {index: bytes([index]) * w.SIZES[algorithm] for index in indices}


def state(algorithm: str, over: tuple[int, ...]) -> ImaState:
    digest = w.digest_of(b"".join(values(algorithm, over).values()), algorithm)
    return ImaState((), entries=1, boot_aggregate=FileDigest(algorithm, digest))


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_the_aggregate_is_of_pcrs_0_to_9_or_of_older_kernels_0_to_7(algorithm: str) -> None:
    quoted = {algorithm: values(algorithm, (*LONG, 10))}
    assert check_boot_aggregate(state(algorithm, LONG), quoted) == LONG
    assert check_boot_aggregate(state(algorithm, SHORT), quoted) == SHORT


def test_by_sha1_it_is_of_pcrs_0_to_7_alone() -> None:
    assert check_boot_aggregate(state("sha1", SHORT), {"sha1": values("sha1", SHORT)}) == SHORT
    with pytest.raises(BootAggregateMismatch):
        check_boot_aggregate(state("sha1", LONG), {"sha1": values("sha1", LONG)})


@pytest.mark.parametrize("index", LONG)
def test_one_pcr_that_differs(index: int) -> None:
    quoted = values("sha256", LONG)
    assert check_boot_aggregate(state("sha256", LONG), {"sha256": quoted}) == LONG
    with pytest.raises(BootAggregateMismatch):
        check_boot_aggregate(state("sha256", LONG), {"sha256": {**quoted, index: b"\xee" * 32}})


def test_what_the_quote_lacks_is_not_compared() -> None:
    """A digest over PCRs of which some are unknown can't be told from a wrong one."""
    for quoted in (
        {},
        {"sha1": values("sha1", LONG)},
        {"sha256": values("sha256", SHORT)},
        {"sha256": values("sha256", LONG[1:])},
    ):
        assert check_boot_aggregate(state("sha256", LONG), quoted) is None
    assert check_boot_aggregate(state("sha1", SHORT), {"sha1": values("sha1", SHORT[1:])}) is None
    verity = ImaState((), entries=1, boot_aggregate=FileDigest("sha256", bytes(32), "verity"))
    assert check_boot_aggregate(verity, {"sha256": values("sha256", LONG)}) is None


def test_a_list_that_begins_with_something_else() -> None:
    with pytest.raises(BootAggregateMissing):
        check_boot_aggregate(ImaState((), entries=1), {"sha256": values("sha256", LONG)})


# ---- What is kept ------------------------------------------------------------------------------------------------

KEPT = ImaState(
    (Chain("sha256", HASHED, b"h" * 32), Chain("sha256", PADDED, b"p" * 32), Chain("sha1", HASHED, b"1" * 20)),
    entries=7,
    violations=2,
    elsewhere=1,
    boot_aggregate=FileDigest("sha256", bytes(32)),
)


def read(members: dict[str, Any]) -> ImaState:
    return ImaState.from_members(Members(members, "state"))


def test_a_state_survives_being_kept() -> None:
    assert read(KEPT.to_members()) == KEPT
    assert read(ImaState.begin(["sha384"]).to_members()) == ImaState.begin(["sha384"])


@pytest.mark.parametrize(
    "lie",
    [
        {"entries": -1},
        {"violations": "2"},
        {"boot_aggregate": "sha256:00"},
        {"chains": [{"bank": "sha3", "form": "hashed", "value": ""}]},
        {"chains": [{"bank": "sha256", "form": "washed", "value": "A" * 43}]},
        {"chains": [{"bank": "sha256", "form": "hashed", "value": "AAAA"}]},
        {"chains": [{"bank": "sha256", "form": "hashed", "value": "A" * 43, "more": 1}]},
        {"chains": [{"bank": "sha1", "form": "hashed", "value": "A" * 27}] * 9},
        {"more": 1},
    ],
)
def test_one_lie_in_a_kept_state(lie: dict[str, Any]) -> None:
    with pytest.raises(AttestdError):
        read({**KEPT.to_members(), **lie})


def test_both_ways_of_extending_are_open_at_the_beginning() -> None:
    assert [(chain.bank, chain.form) for chain in ImaState.begin(["sha1", "sha256"]).chains] == [
        ("sha1", HASHED), ("sha256", HASHED), ("sha256", PADDED),
    ]  # fmt: skip
    assert ImaState.begin(["sha256"]).pcr10 == {"sha256": bytes(32)}
