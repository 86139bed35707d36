"""Explaining a record: nothing is said that the engine did not find, and nothing of what it found is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attestd.appraisal.differences import Difference
from attestd.appraisal.explanation import MAX_FOLDED, Explanation, Standing, explain
from attestd.appraisal.manifests import ReferenceManifest, Subject
from attestd.appraisal.record import AppraisalRecord
from attestd.appraisal.stages import Stage, pcr_of, stage_of
from attestd.config import AttestationSettings
from attestd.registry import evidence
from tests import logwriter as w
from tests.booted import BOOT, Machine, refer
from tests.logwriter import EV, Boot
from tests.service import World

pytestmark = pytest.mark.once


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "instance", attestation=AttestationSettings(pcrs={"sha256": tuple(range(10))}))


class Case:
    """One machine's evidence, to be explained by any manifests."""

    def __init__(self, world: World, machine: Machine) -> None:
        refer(world, boot={"secure_boot": True}, name="asks-for-the-log")
        device = world.device()
        machine.present(device, ima=False)
        assert device.enroll().status_code == 202
        with world.registry.reading() as c:
            (kept,) = evidence.every(c, world.row(device).id)
        self.record, self.log = AppraisalRecord.parse(kept.inputs), machine.eventlog

    def explain(self, *manifests: dict[str, Any], log: bool = True) -> Explanation:
        return explain(
            self.record,
            subject=Subject(None, {}, "IFX", "SLB 9670"),
            manifests=[
                ReferenceManifest.from_members({"name": f"m{number}", "stage": "enforce", **sections})
                for number, sections in enumerate(manifests)
            ],
            eventlog=self.log if log else None,
            runtime=None,
        )


def tampered() -> Machine:
    return Machine(kernel=b"tampered")


def test_differences_are_the_engines(world: World) -> None:
    case = Case(world, tampered())
    found = case.explain({"boot": BOOT | {"drivers": ["ab" * 32]}})
    assert [each.difference.fact for each in found.differences] == ["drivers", "loaders"]
    assert [each.relied for each in found.differences] == [True, False]
    assert (found.counts()["differs"], found.counts()["unrelied"] > 0) == (2, True)
    assert found.chain[Stage.FIRMWARE] is Standing.DIFFERS
    assert {found.chain[stage] for stage in list(Stage)[1:]} == {Standing.UNRELIED}


def test_one_manifest_that_holds_is_enough(world: World) -> None:
    found = Case(world, tampered()).explain({"boot": BOOT}, {"boot": {"secure_boot": True}})
    assert found.differences == ()
    assert found.counts()["differs"] == found.counts()["unrelied"] == 0


def test_without_manifests_nothing_is_judged(world: World) -> None:
    found = Case(world, tampered()).explain()
    assert set(found.chain.values()) == {Standing.UNJUDGED}
    assert found.counts()["unjudged"] == len(found.events or ())


def test_without_the_log_what_it_would_show_is_not_proven(world: World) -> None:
    found = Case(world, tampered()).explain({"boot": BOOT}, log=False)
    assert found.events is None
    assert {each.difference.value for each in found.differences} == {None}
    assert found.chain[Stage.BOOT_LOADER] is Standing.UNPROVEN
    assert found.chain[Stage.KERNEL] is not Standing.UNRELIED


def test_a_setting_that_differs_ends_no_reliance(world: World) -> None:
    boot = w.exit_boot_services(w.grub(w.shim(w.firmware(Boot(), secure_boot=b"\0"))))
    found = Case(world, Machine(boot=boot)).explain({"boot": BOOT})
    assert [each.difference.fact for each in found.differences] == ["secure_boot"]
    assert found.counts()["unrelied"] == 0
    assert found.chain[Stage.BOOT_LOADER] is Standing.EXPECTED


def test_an_end_is_the_earlier_of_two(world: World) -> None:
    case = Case(world, tampered())
    manifest = ReferenceManifest.from_members(
        {"name": "m", "stage": "enforce", "not_after": case.record.at + 500, "boot": BOOT}
    )
    for until, ends in ((None, 500), (100, 100), (900, 500)):
        found = explain(
            case.record,
            subject=Subject(None, {}, "", ""),
            manifests=[manifest],
            eventlog=case.log,
            runtime=None,
            ends={manifest.digest: None if until is None else case.record.at + until},
        )
        assert found.differences[0].expected[0].ends == case.record.at + ends


def test_folding_is_bounded_and_loses_no_event(world: World) -> None:
    boot = w.shim(w.firmware(Boot()))
    for number in range(MAX_FOLDED + 20):
        w.grub_command(boot, f"set x={number}")
        boot.measure(5, EV.EFI_ACTION, b"something")
    found = Case(world, Machine(boot=w.exit_boot_services(w.grub(boot)))).explain(
        {"boot": {"grub_commands": ["none"], "secure_boot": True}}
    )
    folded = found.folded()
    assert len(folded) == MAX_FOLDED + 1
    assert folded[-1]["standing"] is None
    numbers = [
        n for row in folded for n in range(row.get("first", row.get("number")), row.get("last", row.get("number")) + 1)
    ]
    assert numbers == [each.event.number for each in found.events or ()]
    assert len(found.differences) == 64
    assert found.more > 0


@pytest.mark.parametrize(
    ("found", "pcr", "stage"),
    [
        (Difference("m", bank="sha256", pcr=4), 4, Stage.BOOT_LOADER),
        (Difference("m", fact="secure_boot"), 7, Stage.SECURE_BOOT),
        (Difference("m", fact="windows_pe"), 12, Stage.KERNEL),
        (Difference("m", fact="doubts", value="pcr-8-unexplained"), 8, Stage.KERNEL),
        (Difference("m", fact="doubts", value="dbx-unreadable"), 7, Stage.SECURE_BOOT),
        (Difference("m", fact="something_new"), None, Stage.FIRMWARE),
    ],
)
def test_where_a_difference_belongs(found: Difference, pcr: int | None, stage: Stage) -> None:
    assert (pcr_of(found), stage_of(found)) == (pcr, stage)


@pytest.mark.parametrize(
    ("value", "digest"),
    [
        (b"\1" * 32, b"\1" * 32),
        ("ab" * 32, b"\xab" * 32),
        ({"source": "db", "certificate": "cd" * 32}, b"\xcd" * 32),
        ("zz" * 32, None),
        ("ab", None),
        (True, None),
        (None, None),
    ],
)
def test_what_of_a_difference_is_a_digest(value: Any, digest: bytes | None) -> None:
    assert Difference("m", fact="loaders", value=value).digest == digest
