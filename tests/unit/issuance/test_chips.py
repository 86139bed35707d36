"""What is known of chips by their kind, on its way from the endorsement into results, credentials and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from attestd.config import EndorsementSettings
from attestd.credentials.facts import FACTS_OID, Facts, tier_of
from attestd.issuance.chips import Chips
from attestd.issuance.makers import ADVISORIES, known_advisories, known_makers
from attestd.registry.states import State
from attestd.tpm.advisories import AdvisoriesInvalid
from tests.service import SoftDevice, World, problem

# The test maker's chips: IFX, SLB 9670, firmware 7.85.
ADVISORY = """
[[advisory]]
id = "TEST-1"
maker = "IFX"
firmware = ["7.80 - 7.90"]
claim = "{claim}"
means = "keys can be factored"
source = "https://example.org"
"""
SHIPPED_SAYS_NOTHING = {"tpm.maker": "IFX", "tpm.model": "SLB 9670", "tpm.firmware": "7.85"}


def world_with(folder: Path, claim: str | None = None, **settings: Any) -> World:
    folder.mkdir(exist_ok=True)
    if claim is not None:
        (folder / ADVISORIES).write_text(ADVISORY.format(claim=claim))
    known_advisories.cache_clear()
    return World(folder, endorsement=EndorsementSettings(**settings))


def facts_of(device: SoftDevice) -> Facts:
    assert device.answer is not None
    leaf = x509.load_pem_x509_certificates(device.answer.chain.encode())[0]
    value = leaf.extensions.get_extension_for_oid(FACTS_OID).value
    assert isinstance(value, x509.UnrecognizedExtension)
    return Facts.from_extension(value.value)


def test_the_chip_s_facts_are_in_every_credential(tmp_path: Path) -> None:
    device = world_with(tmp_path).enrolled()
    assert facts_of(device).boot == SHIPPED_SAYS_NOTHING
    assert device.attest().status_code == 200
    assert facts_of(device).boot == SHIPPED_SAYS_NOTHING
    assert device.renew().status_code == 200
    assert facts_of(device).boot == SHIPPED_SAYS_NOTHING


def test_an_advisory_is_a_warning_and_a_fact(tmp_path: Path) -> None:
    world = world_with(tmp_path, "warning")
    device = world.enrolled()
    facts = facts_of(device)
    assert (tier_of(facts.vector["hardware"]), facts.boot["tpm.advisories"]) == ("warning", "TEST-1")
    assert device.answer is not None
    assert "TEST-1" in device.answer.result["reasons"][0]
    assert device.attest().status_code == 200
    assert facts_of(device).boot["tpm.advisories"] == "TEST-1"


def test_an_accepted_advisory_is_a_fact_alone(tmp_path: Path) -> None:
    facts = facts_of(world_with(tmp_path, "warning", accept_advisories=("TEST-1",)).enrolled())
    assert (tier_of(facts.vector["hardware"]), facts.boot["tpm.advisories"]) == ("affirming", "TEST-1")


def test_a_chip_that_is_contraindicated_gets_no_credential(tmp_path: Path) -> None:
    world = world_with(tmp_path, "contraindicated")
    device = world.device()
    assert device.enroll().status_code == 202
    world.approve(device)
    refused = device.enroll()
    assert (refused.status_code, problem(refused)) == (403, "evidence-contraindicated")
    assert "TEST-1" in refused.text


def test_a_new_advisory_quarantines_at_the_next_attestation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_with(tmp_path)
    device = world.enrolled()
    (tmp_path / ADVISORIES).write_text(ADVISORY.format(claim="contraindicated"))
    known_advisories.cache_clear()
    world.service.attestations.appraiser.chips = Chips.of(world.settings)  # as when the service starts anew
    assert device.attest().status_code == 202
    row = world.row(device)
    assert row.state is State.QUARANTINED
    assert "TEST-1" in (row.state_reason or "")


def test_quirks_are_told_and_outlive_the_enrollment(tmp_path: Path) -> None:
    world = world_with(tmp_path)
    device = world.device()
    device.certificates[0] += b"\xff" * 8
    assert device.enroll().status_code == 202
    world.approve(device)
    assert device.enroll().status_code == 200
    assert facts_of(device).boot["tpm.quirks"] == "padded"
    assert device.attest().status_code == 200
    assert facts_of(device).boot["tpm.quirks"] == "padded"


def test_a_chip_of_the_inventory_has_no_such_facts(tmp_path: Path) -> None:
    world = world_with(tmp_path, "contraindicated")
    device = world.device(certificates=[])
    line = f"ek_hash,tier,site\n{device.ek_hash.hex()},device,shop-1\n".encode()
    assert world.operator.post("/v1/admin/devices/import", line, content_type="text/csv").status_code == 200
    assert device.enroll().status_code == 200
    assert facts_of(device).boot == {}


def test_an_instance_s_own_file_takes_the_place_of_the_shipped_one(tmp_path: Path) -> None:
    assert len(known_advisories(tmp_path).listed) == 3
    (tmp_path / ADVISORIES).write_text(ADVISORY.format(claim="warning"))
    known_advisories.cache_clear()
    assert [found.id for found in known_advisories(tmp_path).listed] == ["TEST-1"]


def test_a_broken_file_is_told_at_the_start(tmp_path: Path) -> None:
    world = world_with(tmp_path)
    for text in ("[[advisory]", "advisory = 1"):
        (tmp_path / ADVISORIES).write_text(text)
        known_advisories.cache_clear()
        with pytest.raises(AdvisoriesInvalid):
            Chips.of(world.settings)
    (tmp_path / ADVISORIES).unlink()
    (tmp_path / ADVISORIES).mkdir()
    known_advisories.cache_clear()
    with pytest.raises(AdvisoriesInvalid):
        Chips.of(world.settings)


def test_the_manifest_comes_with_the_product() -> None:
    assert "Infineon" in known_makers().makers
