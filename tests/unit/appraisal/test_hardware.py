"""The claim about the chip itself, and the facts about it that policies may ask for."""

from __future__ import annotations

from typing import Any

import pytest

from attestd.appraisal.hardware import MANY, Chip
from attestd.credentials.facts import MAX_FACTS, Facts, tier_of
from attestd.registry.labels import MAX_TOTAL, parse_labels
from attestd.tpm.advisories import Advisory
from attestd.tpm.firmware import Firmware


def advisory(id: str = "CVE-1", claim: Any = "warning") -> Advisory:
    return Advisory(id, "IFX", (), ((Firmware((7, 0)), Firmware((7, 61))),), claim, "keys can be factored", "https://x")


def chip(**members: Any) -> Chip:
    told = {"certified": True, "manufacturer": "IFX", "model": "SLB 9670", "firmware_version": "id:0007003D"}
    return Chip(**(told | members))


def test_a_chip_that_nothing_speaks_against_is_affirmed() -> None:
    assert chip().claim() == (2, ())


def test_a_chip_that_the_inventory_alone_knows_makes_no_claim() -> None:
    value, reasons = Chip(certified=False).claim()
    assert tier_of(value) == "none"
    assert "inventory" in reasons[0]


@pytest.mark.parametrize(
    ("advisories", "tier"),
    [
        ([advisory()], "warning"),
        ([advisory(claim="contraindicated")], "contraindicated"),
        ([advisory(), advisory("CVE-2", "contraindicated")], "contraindicated"),
        ([advisory("CVE-2", "contraindicated"), advisory()], "contraindicated"),
    ],
)
def test_an_advisory_says_what_its_chips_are_worth(advisories: list[Advisory], tier: str) -> None:
    value, reasons = chip(advisories=tuple(advisories)).claim()
    assert tier_of(value) == tier
    assert len(reasons) == len(advisories)
    assert reasons[0] == f"{advisories[0].id}: keys can be factored (IFX SLB 9670, firmware 7.61 when it was made)."


def test_the_reason_names_the_firmware_that_is_proven() -> None:
    _, reasons = chip(advisories=(advisory(),), firmware_now=Firmware((7, 40, 1, 2))).claim()
    assert "firmware 7.40.1.2)" in reasons[0]


def test_an_accepted_advisory_makes_no_claim_and_stays_a_fact() -> None:
    lived_with = chip(advisories=(advisory(), advisory("CVE-2", "contraindicated")), accepted=frozenset({"CVE-2"}))
    value, reasons = lived_with.claim()
    assert (tier_of(value), len(reasons)) == ("warning", 1)
    assert lived_with.facts()["tpm.advisories"] == "CVE-1 CVE-2"


def test_the_facts() -> None:
    found = chip(quirks=("set-order", "padded"), advisories=(advisory(),), firmware_now=Firmware((7, 40, 1, 2)))
    assert found.facts() == {
        "tpm.maker": "IFX",
        "tpm.model": "SLB 9670",
        "tpm.firmware": "7.61",
        "tpm.firmware_now": "7.40.1.2",
        "tpm.advisories": "CVE-1",
        "tpm.quirks": "padded set-order",
    }
    assert Chip(certified=False).facts() == {}
    assert chip(firmware_version="rev 3").facts()["tpm.firmware"] == "rev 3"


def test_lists_that_are_too_long_are_not_cut_but_named_so() -> None:
    """A list that lost its end would let a policy believe that something is not in it."""
    many = chip(quirks=tuple(f"quirk-number-{n}" for n in range(4)), advisories=tuple(map(advisory, "ABCDE" * 9)))
    assert (many.facts()["tpm.quirks"], many.facts()["tpm.advisories"]) == (MANY, MANY)


def test_the_largest_facts_fit_into_a_credential_beside_the_largest_labels() -> None:
    largest = chip(
        manufacturer="id:FFFFFFFF",
        model="\U0001d4b3" * 64,
        firmware_version="v" * 64,
        firmware_now=Firmware((65535,) * 4),
        quirks=("q" * 40,),
        advisories=(advisory("A" * 40),),
    )
    labels = parse_labels({"a": "x" * 120, "b": "x" * 120, "c": "x" * 120, "d": "x" * (MAX_TOTAL - 393)})
    vector = dict.fromkeys(("instance-identity", "hardware", "executables", "configuration"), 96)
    facts = Facts(vector, labels, largest.facts(), 67_000_000, 1_900_000_000)
    assert len(facts.encode()) <= MAX_FACTS
