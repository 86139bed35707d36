"""Attacks on quarantines: to get out of one, or to keep out of one while many are due."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attestd.config import AttestationSettings, ReferenceSettings
from attestd.issuance.appraising import Appraiser
from attestd.registry import devices, recovery
from attestd.registry.states import State
from tests.forger import Forger
from tests.service import PCRS, World, meanwhile, problem

GOOD = ReferenceSettings("image 12", {"sha256": {index: (value,) for index, value in PCRS["sha256"].items()}})
WRONG = ReferenceSettings("image 13", {"sha256": {0: (b"\xff" * 32,)}})
RELEASING = AttestationSettings(release_after_good=True)


def settings(world: World, **changed: Any) -> None:
    """Other settings from now on, in both verbs."""
    other = replace(world.settings, **changed)
    for verb in ("lifecycle", "enrollment"):
        changed_verb = replace(getattr(world.service, verb), settings=other, appraiser=Appraiser(other))
        object.__setattr__(world.service, verb, changed_verb)


# ---- Out of a quarantine ----------------------------------------------------------------------------------------


def test_what_an_operator_quarantined_no_good_attestation_releases(world: World) -> None:
    """A stolen machine attests well, too."""
    device = world.enrolled()
    world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1, "reason": "stolen"})
    settings(world, references=(GOOD,), attestation=RELEASING)
    assert device.attest().status_code == 202
    assert world.row(device).state is State.QUARANTINED


def test_what_a_restore_quarantined_no_good_attestation_releases(world: World) -> None:
    device = world.enrolled()
    with world.registry.acting() as c:
        recovery._quarantine(c, None, int(world.clock().timestamp()))
    settings(world, references=(GOOD,), attestation=RELEASING)
    assert device.attest().status_code == 202
    assert world.row(device).state is State.QUARANTINED


def test_a_quarantine_of_long_ago_does_not_vouch_for_one_of_today(world: World) -> None:
    """Quarantined by a result, given another TPM, then quarantined by a restore: no policy ends that."""
    device = world.enrolled()
    settings(world, references=(WRONG,))
    assert device.attest().status_code == 202
    new = world.device(Forger())
    world.operator.post(f"/v1/admin/devices/{world.row(device).id}/replace", {"v": 1, "ek_hash": new.ek_hash.hex()})
    settings(world, references=(GOOD,), attestation=RELEASING)
    assert new.enroll().status_code == 200
    with world.registry.acting() as c:
        recovery._quarantine(c, None, int(world.clock().timestamp()))
    assert new.attest().status_code == 202
    assert world.row(new).state is State.QUARANTINED


def test_an_operator_s_word_under_way_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Released and quarantined by an operator, while a good attestation of the quarantine before is under way."""
    device = world.enrolled()
    settings(world, references=(WRONG,))
    assert device.attest().status_code == 202
    settings(world, references=(GOOD,), attestation=RELEASING)

    def decide() -> None:
        for event in (devices.Event.RELEASE, devices.Event.QUARANTINE):
            with world.registry.acting() as c:
                devices.change_state(c, world.row(device).id, event, reason="", now=int(world.clock().timestamp()))

    nonce = world.nonce()
    meanwhile(monkeypatch, decide)
    answer = device.attest(nonce=nonce)
    assert (answer.status_code, problem(answer)) == (409, "state-changed")
    assert world.row(device).state is State.QUARANTINED
