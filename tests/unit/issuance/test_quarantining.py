"""A result that turns contraindicated: quarantined, or held by the brake, in one act, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from attestd.config import BrakeSettings, ReferenceSettings
from attestd.issuance.quarantining import Quarantines
from attestd.operations.fleet import Fate
from attestd.registry import audit, brake, evidence, issued
from attestd.registry.audit import AuditRecord
from attestd.registry.engine import Registry
from attestd.registry.states import Event, State
from tests.service import SoftDevice, World, meanwhile, problem

WRONG = ReferenceSettings("image 13", {"sha256": {0: (b"\xff" * 32,)}})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """One device may be quarantined a minute."""
    world = World(tmp_path / "instance", brake=BrakeSettings(devices=1, least=1))
    yield world
    world.close()


def turn_bad(world: World) -> None:
    world.configure(references=(WRONG,))


def held(world: World) -> list[str]:
    with world.registry.reading() as c:
        return [str(entry.device_id) for entry in brake.page_held(c)]


def engaged(world: World) -> bool:
    with world.registry.reading() as c:
        return brake.state(c).engaged


def trail(world: World, act: str) -> list[AuditRecord]:
    with world.registry.reading() as c:
        return [row for row in audit.page(c) if row.act == act]


def certificates(world: World, device: SoftDevice) -> list[issued.Issued]:
    with world.registry.reading() as c:
        return issued.page(c, device_id=world.row(device).id)


def refused_by_the_brake(world: World) -> SoftDevice:
    """A device that is due, after another one was quarantined within the minute."""
    device, first = world.enrolled(), world.enrolled()
    turn_bad(world)
    assert first.attest().status_code == 202
    return device


# ---- Quarantined, or held ---------------------------------------------------------------------------------------


def test_within_the_limit_it_is_quarantined(world: World) -> None:
    device = world.enrolled()
    turn_bad(world)
    assert device.attest().status_code == 202
    assert world.row(device).state is State.QUARANTINED
    assert (held(world), engaged(world)) == ([], False)
    (row,) = trail(world, "quarantine")
    assert (row.actor, row.subject) == (f"device:{device.id}", device.id)


def test_beyond_the_limit_it_is_held_and_the_alarm_goes_out(world: World) -> None:
    device = refused_by_the_brake(world)
    before = world.row(device)
    answer = device.attest()
    assert answer.status_code == 200
    assert world.row(device) == before
    assert held(world) == [device.id]
    assert engaged(world)
    (alarm,) = trail(world, "engage-brake")
    assert (alarm.actor, alarm.subject) == ("attestd", "fleet")
    assert (alarm.detail["count"], alarm.detail["limit"]) == (1, 1)
    (row,) = trail(world, "hold")
    assert (row.actor, row.subject) == ("attestd", device.id)
    assert row.detail["because"]
    assert row.request_id == alarm.request_id == answer.headers["X-Request-Id"]


def test_a_held_device_lives_on_under_its_last_good_result(world: World) -> None:
    device = world.enrolled()
    good_until = world.row(device).attestation_good_until
    turn_bad(world)
    world.service.fleet.engage_brake(world.act)
    world.clock.advance(hours=3, minutes=50)
    assert device.attest().status_code == 200
    assert device.answer is not None
    assert device.answer.result["status"] != "contraindicated"
    leaf = x509.load_pem_x509_certificate(device.answer.chain.encode())
    assert leaf.not_valid_after_utc - world.clock() == timedelta(minutes=10)
    assert world.row(device).attestation_good_until == good_until
    assert device.renew().status_code == 200


def test_and_not_a_moment_longer(world: World) -> None:
    device = world.enrolled()
    turn_bad(world)
    world.service.fleet.engage_brake(world.act)
    world.clock.advance(hours=4)
    before, nonce = len(certificates(world, device)), world.nonce()
    answer = device.attest(nonce=nonce)
    assert (answer.status_code, problem(answer)) == (403, "result-held")
    assert len(certificates(world, device)) == before
    assert held(world) == [device.id]
    assert world.row(device).state is State.ACTIVE
    assert problem(device.attest(nonce=nonce)) == "nonce-spent"
    assert problem(device.renew()) == "attestation-overdue"


def test_the_same_request_again_gets_the_same_octets(world: World) -> None:
    device = refused_by_the_brake(world)
    nonce = world.nonce()
    payload = device.attestation(nonce).to_bytes()
    seen = device.signed("/v1/attestations", payload, nonce=nonce)
    assert seen.status_code == 200
    assert device.signed("/v1/attestations", payload, nonce=nonce).data == seen.data
    assert len(trail(world, "hold")) == 1


def test_evidence_that_is_good_again_is_not_held_against_the_device(world: World) -> None:
    device = refused_by_the_brake(world)
    device.attest()
    assert held(world) == [device.id]
    world.configure(references=())
    assert device.attest().status_code == 200
    assert held(world) == []
    assert engaged(world)


def test_enrolling_again_with_good_evidence_either(world: World) -> None:
    device = refused_by_the_brake(world)
    device.attest()
    world.configure(references=())
    assert device.enroll().status_code == 200
    assert held(world) == []


def test_an_enrollment_again_is_refused_and_held(world: World) -> None:
    device = refused_by_the_brake(world)
    before = world.row(device), certificates(world, device)
    answer = device.enroll()
    assert (answer.status_code, problem(answer)) == (403, "evidence-contraindicated")
    assert (world.row(device), certificates(world, device)) == before
    assert held(world) == [device.id]
    assert device.renew().status_code == 200


def test_an_enrollment_again_counts(world: World) -> None:
    first, second = world.enrolled(), world.enrolled()
    turn_bad(world)
    assert first.enroll().status_code == 403
    assert world.row(first).state is State.QUARANTINED
    assert second.enroll().status_code == 403
    assert (world.row(second).state, held(world)) == (State.ACTIVE, [second.id])


def test_a_first_enrollment_is_none_of_the_brake_s(world: World) -> None:
    device = world.device()
    device.enroll()
    world.approve(device)
    turn_bad(world)
    assert problem(device.enroll()) == "evidence-contraindicated"
    assert world.row(device).state is State.APPROVED
    assert held(world) == []


def test_a_result_in_quarantine_is_none_of_the_brake_s(world: World) -> None:
    device = world.enrolled()
    turn_bad(world)
    for _ in range(3):
        assert device.attest().status_code == 202
    assert (held(world), engaged(world)) == ([], False)


def test_without_a_brake_all_are_quarantined(tmp_path: Path) -> None:
    world = World(tmp_path / "instance", brake=BrakeSettings(enabled=False, devices=1, least=1))
    both = world.enrolled(), world.enrolled()
    turn_bad(world)
    assert [device.attest().status_code for device in both] == [202, 202]
    world.close()


# ---- What happens meanwhile -------------------------------------------------------------------------------------


def before_the_transaction(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """`happens` after the brake refused, before the result is held."""
    acting = Registry.acting
    done: list[bool] = []

    def late(registry: Registry) -> Any:
        if not done:
            done.append(True)
            happens()
        return acting(registry)

    monkeypatch.setattr(Registry, "acting", late)


def test_released_meanwhile_the_result_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device = world.enrolled()
    turn_bad(world)
    world.service.fleet.engage_brake(world.act)
    nonce = world.nonce()
    before_the_transaction(monkeypatch, lambda: world.service.fleet.release_brake(Fate.DISMISS, world.act))
    assert device.attest(nonce=nonce).status_code == 202
    assert world.row(device).state is State.QUARANTINED
    assert (held(world), engaged(world)) == ([], False)


def test_an_operator_s_word_meanwhile_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is granted to a device, nor held against it, that an operator quarantined under way."""
    device = refused_by_the_brake(world)
    before, nonce = len(certificates(world, device)), world.nonce()

    def quarantine() -> None:
        world.service.operations.change_state(
            world.row(device).id, Event.QUARANTINE, act=world.act, expected_version=None
        )

    before_the_transaction(monkeypatch, quarantine)
    answer = device.attest(nonce=nonce)
    assert (answer.status_code, problem(answer)) == (409, "state-changed")
    assert (world.row(device).state, len(certificates(world, device)), held(world)) == (State.QUARANTINED, before, [])


def test_an_operator_s_word_meanwhile_counts_in_an_enrollment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device = refused_by_the_brake(world)
    challenge = device.begin()

    def retire() -> None:
        world.service.operations.change_state(world.row(device).id, Event.RETIRE, act=world.act, expected_version=None)

    before_the_transaction(monkeypatch, retire)
    answer = device.complete(challenge)
    assert (answer.status_code, problem(answer)) == (409, "state-changed")
    assert held(world) == []


def test_engaged_meanwhile_the_result_is_held(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device = world.enrolled()
    turn_bad(world)
    nonce = world.nonce()
    meanwhile(monkeypatch, lambda: world.service.fleet.engage_brake(world.act))
    assert device.attest(nonce=nonce).status_code == 200
    assert held(world) == [device.id]


def test_what_an_operator_decides_ends_what_is_held(world: World) -> None:
    device = refused_by_the_brake(world)
    device.attest()
    for verb in ("quarantine", "release"):
        world.operator.post(f"/v1/admin/devices/{device.id}/{verb}", {"v": 1})
    assert held(world) == []


def test_after_a_release_the_next_results_count_again(world: World) -> None:
    """Also in the process that the brake refused a moment ago."""
    device = refused_by_the_brake(world)
    device.attest()
    world.service.fleet.release_brake(Fate.DISMISS, world.act)
    assert device.attest().status_code == 202
    assert world.row(device).state is State.QUARANTINED


# ---- The limit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("active", "limit"), [(0, 3), (10, 3), (30, 3), (39, 3), (40, 4), (999, 99), (1000, 100), (1_000_000, 100)]
)
def test_by_number_or_by_share(active: int, limit: int) -> None:
    assert BrakeSettings().limit(active) == limit


def test_the_active_devices_are_counted_once_a_minute(world: World) -> None:
    quarantines = Quarantines(world.registry, BrakeSettings(share=1.0, least=1))
    world.enrolled()
    assert quarantines.limit(world.clock()) == 1
    world.enrolled()
    assert quarantines.limit(world.clock.advance(seconds=59)) == 1
    assert quarantines.limit(world.clock.advance(seconds=1)) == 2


def test_what_a_held_result_follows_from_is_kept(world: World) -> None:
    """An operator has to decide about it."""
    device = refused_by_the_brake(world)
    device.attest()
    with world.registry.reading() as c:
        assert {kept.verdict for kept in evidence.every(c, world.row(device).id)} == {evidence.GOOD, evidence.BAD}
