"""Attacks on quarantines: to get out of one, or to keep out of one while many are due."""

from __future__ import annotations

import pytest

from attestd.config import AttestationSettings, ReferenceSettings
from attestd.registry import audit, devices, issued, recovery, transitions
from attestd.registry.states import Event, State
from tests.forger import Forger
from tests.service import PCRS, SITE, SoftDevice, World, meanwhile, problem

GOOD = ReferenceSettings("image 12", {"sha256": {index: (value,) for index, value in PCRS["sha256"].items()}})
WRONG = ReferenceSettings("image 13", {"sha256": {0: (b"\xff" * 32,)}})
RELEASING = AttestationSettings(release_after_good=True)


# ---- Out of a quarantine ----------------------------------------------------------------------------------------


def test_what_an_operator_quarantined_no_good_attestation_releases(world: World) -> None:
    """A stolen machine attests well, too."""
    device = world.enrolled()
    world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1, "reason": "stolen"})
    world.configure(references=(GOOD,), attestation=RELEASING)
    assert device.attest().status_code == 202
    assert world.row(device).state is State.QUARANTINED


def test_what_a_restore_quarantined_no_good_attestation_releases(world: World) -> None:
    device = world.enrolled()
    with world.registry.acting() as c:
        recovery._quarantine(c, None, int(world.clock().timestamp()))
    world.configure(references=(GOOD,), attestation=RELEASING)
    assert device.attest().status_code == 202
    assert world.row(device).state is State.QUARANTINED


def test_a_quarantine_of_long_ago_does_not_vouch_for_one_of_today(world: World) -> None:
    """Quarantined by a result, given another TPM, then quarantined by a restore: no policy ends that."""
    device = world.enrolled()
    world.configure(references=(WRONG,))
    assert device.attest().status_code == 202
    new = world.device(Forger())
    world.operator.post(f"/v1/admin/devices/{world.row(device).id}/replace", {"v": 1, "ek_hash": new.ek_hash.hex()})
    world.configure(references=(GOOD,), attestation=RELEASING)
    assert new.enroll().status_code == 200
    with world.registry.acting() as c:
        recovery._quarantine(c, None, int(world.clock().timestamp()))
    assert new.attest().status_code == 202
    assert world.row(new).state is State.QUARANTINED


def test_an_operator_s_word_under_way_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Released and quarantined by an operator, while a good attestation of the quarantine before is under way."""
    device = world.enrolled()
    world.configure(references=(WRONG,))
    assert device.attest().status_code == 202
    world.configure(references=(GOOD,), attestation=RELEASING)

    def decide() -> None:
        for event in (Event.RELEASE, Event.QUARANTINE):
            with world.registry.acting() as c:
                transitions.change_state(c, world.row(device).id, event, reason="", now=int(world.clock().timestamp()))

    nonce = world.nonce()
    meanwhile(monkeypatch, decide)
    answer = device.attest(nonce=nonce)
    assert (answer.status_code, problem(answer)) == (409, "state-changed")
    assert world.row(device).state is State.QUARANTINED


# ---- Many at once -----------------------------------------------------------------------------------------------


def status(world: World, device: SoftDevice) -> int:
    with world.registry.reading() as c:
        return dict(devices.status_entries(c))[world.row(device).status_index or 0]


@pytest.fixture
def fallen(world: World) -> list[SoftDevice]:
    """A hundred devices that one bad manifest turned at once; each has attested under it."""
    many = [world.enrolled() for _ in range(100)]
    world.configure(references=(WRONG,))
    for device in many:
        device.attest()
    return many


def test_one_bad_manifest_does_not_take_a_fleet_down(world: World, fallen: list[SoftDevice]) -> None:
    """Ten of a hundred within the minute. The others keep what they had: until it ends, and not longer."""
    states = [world.row(device).state for device in fallen]
    assert states == [State.QUARANTINED] * 10 + [State.ACTIVE] * 90
    assert [status(world, device) for device in fallen] == [2] * 10 + [0] * 90
    with world.registry.reading() as c:
        assert [row.act for row in audit.page(c, limit=1000)].count("engage-brake") == 1
    world.clock.advance(minutes=5)  # another minute changes nothing: an operator has to
    good = fallen[10]
    good_until = world.row(good).attestation_good_until
    assert good.attest().status_code == 200
    assert good.renew().status_code == 200
    assert good.token().status_code == 200
    world.clock.advance(hours=3, minutes=45)
    assert good.attest().status_code == 200
    assert world.row(good).attestation_good_until == good_until
    with world.registry.reading() as c:
        assert issued.page(c, device_id=world.row(good).id, limit=1)[0].not_after == good_until
    world.clock.advance(minutes=10)
    refusals = {"attest": "result-held", "renew": "attestation-overdue", "token": "attestation-overdue"}
    assert {verb: problem(getattr(good, verb)()) for verb in refusals} == refusals


def test_carried_out_all_are_suspended(world: World, fallen: list[SoftDevice]) -> None:
    answer = world.operator.post("/v1/admin/brake/release", {"v": 1, "held": "quarantine", "reason": "they are bad"})
    assert answer.json == {"v": 1, "engaged": False, "held": 90, "quarantined": 90}
    assert {(world.row(device).state, status(world, device)) for device in fallen} == {(State.QUARANTINED, 2)}
    assert problem(fallen[-1].renew()) == "device-quarantined"
    with world.registry.reading() as c:
        row = audit.page(c, subject=fallen[-1].id)[0]
    assert (row.act, row.actor, row.detail["reason"]) == ("quarantine", "operator:operator-1", "they are bad")
    world.configure(references=(GOOD,), attestation=RELEASING)  # as any that a result quarantined
    assert fallen[-1].attest().status_code == 200


def test_dismissed_nobody_is_and_the_next_results_count(world: World, fallen: list[SoftDevice]) -> None:
    answer = world.operator.post("/v1/admin/brake/release", {"v": 1, "held": "dismiss"})
    assert answer.json == {"v": 1, "engaged": False, "held": 90, "quarantined": 0}
    assert [world.row(device).state for device in fallen[10:]] == [State.ACTIVE] * 90
    world.configure(references=(GOOD,))  # the manifest is mended for all but one
    assert {device.attest().status_code for device in fallen[10:-1]} == {200}
    world.configure(references=(WRONG,))
    assert fallen[-1].attest().status_code == 202
    assert world.row(fallen[-1]).state is State.QUARANTINED


def test_evidence_that_is_good_again_is_not_carried_out(world: World, fallen: list[SoftDevice]) -> None:
    world.configure(references=(GOOD,))
    assert fallen[-1].attest().status_code == 200
    answer = world.operator.post("/v1/admin/brake/release", {"v": 1, "held": "quarantine"})
    assert answer.json["quarantined"] == 89
    assert world.row(fallen[-1]).state is State.ACTIVE


def test_a_cohort_comes_back_by_one_act(world: World, fallen: list[SoftDevice]) -> None:
    world.operator.post("/v1/admin/brake/release", {"v": 1, "held": "quarantine"})
    world.configure(references=())
    stolen = world.enrolled()
    world.operator.post(f"/v1/admin/devices/{stolen.id}/quarantine", {"v": 1})
    message = {"v": 1, "site": SITE, "by": "appraisal", "expected": 100}
    assert world.operator.post("/v1/admin/devices/release-cohort", message).json == {"v": 1, "released": 100, "left": 0}
    assert {(world.row(device).state, status(world, device)) for device in fallen} == {(State.ACTIVE, 0)}
    assert world.row(stolen).state is State.QUARANTINED
    assert problem(fallen[0].renew()) == "attestation-overdue"  # released, not vouched for


def test_engaging_the_brake_saves_nobody_that_is_quarantined(world: World) -> None:
    """Who turns bad on purpose to engage it, and hides behind it, gets nothing out of a quarantine that stands."""
    device, others = world.enrolled(), [world.enrolled() for _ in range(4)]
    world.configure(references=(WRONG,))
    assert device.attest().status_code == 202
    for other in others:
        other.attest()
    assert world.row(others[-1]).state is State.ACTIVE
    assert device.attest().status_code == 202
    assert problem(device.renew()) == "device-quarantined"
    world.operator.post(f"/v1/admin/devices/{others[-1].id}/quarantine", {"v": 1})  # an operator is not held up
    assert problem(others[-1].renew()) == "device-quarantined"
