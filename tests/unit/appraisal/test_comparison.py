"""Appraisal: what a verified quote is worth under reference values."""

from __future__ import annotations

import pytest

from attestd.appraisal.comparison import Evidence, appraise
from attestd.appraisal.hardware import Chip
from attestd.appraisal.manifests import ReferenceManifest, Subject
from attestd.appraisal.results import AttestationResult
from attestd.credentials.facts import tier_of
from attestd.tpm.attest import VerifiedQuote
from attestd.tpm.statements import ClockInfo

GOOD, OTHER = b"\x01" * 32, b"\x02" * 32


def quote(**values: bytes) -> VerifiedQuote:
    """A quote over SHA-256 PCRs: `p7=…`."""
    pcrs = {"sha256": {int(name[1:]): value for name, value in values.items()}}
    return VerifiedQuote(pcrs, ClockInfo(1, 1, 0, safe=True), 1, b"")


def reference(name: str = "image-12", **values: bytes) -> ReferenceManifest:
    return ReferenceManifest.of_pcrs(
        name, {"sha256": {int(index[1:]): (value,) for index, value in values.items()}}, tier=None
    )


def result(measured: VerifiedQuote, *references: ReferenceManifest, certified: bool = True) -> AttestationResult:
    who = Subject(None, {}, "", "")
    return appraise(Evidence(measured, Chip(certified)), subject=who, manifests=references, attested_at=7)


def test_without_reference_values_software_is_never_affirmed() -> None:
    found = result(quote(p0=GOOD, p7=GOOD))
    assert (found.vector["executables"], found.vector["configuration"]) == (0, 0)
    assert found.status == "none"
    assert "No reference values" in found.reasons[0]


def test_all_pcrs_as_listed_affirm() -> None:
    found = result(quote(p0=GOOD, p7=GOOD), reference(p0=GOOD, p7=GOOD))
    assert tier_of(found.vector["executables"]) == tier_of(found.vector["configuration"]) == "affirming"
    assert (found.status, found.reasons) == ("affirming", ())


def test_a_code_pcr_that_differs_contraindicates_executables() -> None:
    found = result(quote(p0=OTHER, p7=GOOD), reference(p0=GOOD, p7=GOOD))
    assert tier_of(found.vector["executables"]) == "contraindicated"
    assert tier_of(found.vector["configuration"]) == "affirming"
    assert found.contraindicated
    assert "PCR 0" in found.reasons[0]


def test_a_settings_pcr_that_differs_contraindicates_configuration() -> None:
    found = result(quote(p0=GOOD, p7=OTHER), reference(p0=GOOD, p7=GOOD))
    assert tier_of(found.vector["configuration"]) == "contraindicated"
    assert tier_of(found.vector["executables"]) == "affirming"


def test_a_good_pcr_after_a_bad_one_of_its_claim_does_not_mend_it() -> None:
    for bad in ("p0", "p2", "p4"):
        values = {"p0": GOOD, "p2": GOOD, "p4": GOOD} | {bad: OTHER}
        found = result(quote(**values), reference(p0=GOOD, p2=GOOD, p4=GOOD))
        assert tier_of(found.vector["executables"]) == "contraindicated"


def test_a_pcr_that_was_not_quoted_is_refused_not_ignored() -> None:
    found = result(quote(p0=GOOD), reference(p0=GOOD, p7=GOOD))
    assert found.contraindicated
    assert "not quoted" in found.reasons[0]


def test_any_one_reference_that_matches_whole_suffices() -> None:
    old, new = reference("image-11", p0=OTHER), reference("image-12", p0=GOOD)
    assert tier_of(result(quote(p0=GOOD), old, new).vector["executables"]) == "affirming"
    assert tier_of(result(quote(p0=GOOD), new, old).vector["executables"]) == "affirming"


def test_parts_of_two_references_do_not_add_up() -> None:
    one, other = reference("a", p0=GOOD, p7=OTHER), reference("b", p0=OTHER, p7=GOOD)
    assert result(quote(p0=GOOD, p7=GOOD), one, other).contraindicated


def test_a_tpm_that_only_the_inventory_knows_is_no_affirmed_hardware() -> None:
    found = result(quote(p0=GOOD), reference(p0=GOOD), certified=False)
    assert found.vector["hardware"] == 0
    assert found.status == "none"
    assert "inventory" in found.reasons[0]


@pytest.mark.parametrize(
    ("value", "tier"),
    [
        (-1, "none"),
        (-32, "affirming"),
        (-33, "warning"),
        (-97, "contraindicated"),
        (0, "none"),
        (1, "none"),
        (2, "affirming"),
        (31, "affirming"),
        (32, "warning"),
        (95, "warning"),
        (96, "contraindicated"),
        (127, "contraindicated"),
    ],
)
def test_tiers_of_values(value: int, tier: str) -> None:
    assert tier_of(value) == tier


def test_the_json_form_tells_it_all() -> None:
    members = result(quote(p0=OTHER), reference(p0=GOOD)).to_members()
    assert set(members) == {"status", "vector", "reasons", "attested_at", "facts", "policies", "monitored"}
    assert members["status"] == "contraindicated"
    assert members["attested_at"] == 7
