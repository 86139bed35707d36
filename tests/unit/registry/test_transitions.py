"""What an activation, an attestation and another key leave behind; races; which acts ask for a bundle."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestd.ids import DeviceId, EkHash
from attestd.registry import admission, issued, revision, transitions
from attestd.registry.acts import perform
from attestd.registry.devices import Device
from attestd.registry.engine import Connection
from attestd.registry.states import Event, State, StateChanged, UnknownDevice

from .conftest import CLOCK, NOW, RESULT, Fleet, race

# ---- Keys and results -------------------------------------------------------------------------------------------


def test_activation_binds_keys_and_records_the_result(fleet: Fleet) -> None:
    device = fleet.device(State.APPROVED)
    with fleet.registry.acting() as c:
        fleet.activate(
            c,
            device,
            ak_public=b"AK",
            ck_public=b"CK",
            ck_name=b"name",
            endorsement="inventory",
            manufacturer="STM",
            model="ST33",
            firmware_version="1.2",
            result={"vector": {}},
            clock={"reset_count": 7},
            good_until=NOW + 9,
            now=NOW + 1,
        )
    assert fleet.read(device) == replace(
        device,
        state=State.ACTIVE,
        state_version=device.state_version + 1,
        ak_public=b"AK",
        ck_public=b"CK",
        ck_name=b"name",
        endorsement="inventory",
        manufacturer="STM",
        model="ST33",
        firmware_version="1.2",
        result={"vector": {}},
        clock={"reset_count": 7},
        attested_at=NOW + 1,
        attestation_good_until=NOW + 9,
        updated_at=NOW + 1,
    )


def test_activation_by_another_ek(fleet: Fleet) -> None:
    device = fleet.device(State.APPROVED)
    before = fleet.everything()
    with pytest.raises(StateChanged), fleet.registry.acting() as c:
        fleet.activate(c, device, ek_public=b"another TPM's EK")
    assert fleet.everything() == before


def test_enrolling_again_revokes_the_old_credentials_and_spares_the_new(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        old = {entry.serial for entry in issued.page(c, device_id=device.id)}
        active = fleet.activate(c, device)
        new = fleet.certificate(c, active)
    assert fleet.revoked() == old
    assert new not in old
    assert active.ck_public != device.ck_public


def test_an_attestation_changes_what_is_known_and_not_who_it_is(fleet: Fleet) -> None:
    device = fleet.device(State.QUARANTINED)
    with fleet.registry.acting() as c:
        attested = transitions.attestation(
            device.id,
            expected_version=device.state_version,
            result={"vector": {"executables": 96}},
            clock={"reset_count": 8},
            good_until=NOW + 20,
            now=NOW + 10,
        )
        perform(c, *attested)
    assert fleet.read(device) == replace(
        device,
        result={"vector": {"executables": 96}},
        clock={"reset_count": 8},
        attested_at=NOW + 10,
        attestation_good_until=NOW + 20,
        updated_at=NOW + 10,
    )


def test_rekeying_ends_what_is_issued_for_the_old_key(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        said = {"ck_public": b"CK2", "ck_name": b"name 2"}
        perform(c, transitions.rekeying(device.id, expected_version=device.state_version, now=NOW, **said))
    rekeyed = fleet.read(device)
    assert rekeyed == replace(
        device, state_version=device.state_version + 1, ck_public=b"CK2", ck_name=b"name 2", updated_at=NOW
    )
    with pytest.raises(StateChanged), fleet.registry.acting() as c:
        fleet.certificate(c, device)
    with fleet.registry.acting() as c:
        fleet.certificate(c, rekeyed)


def test_requiring_a_device_unchanged(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        seen = device.state_version
        perform(c, transitions.unchanged(device.id, expected_version=seen))
        found = {"result": RESULT, "clock": CLOCK, "good_until": NOW, "now": NOW}
        perform(c, *transitions.attestation(device.id, expected_version=seen, **found))
        perform(c, transitions.unchanged(device.id, expected_version=seen))
        with pytest.raises(StateChanged):
            perform(c, transitions.unchanged(device.id, expected_version=seen + 1))
        with pytest.raises(UnknownDevice):
            perform(c, transitions.unchanged(DeviceId("nobody"), expected_version=seen))


@pytest.mark.parametrize("state", sorted(set(State) - {State.ACTIVE}))
def test_requiring_a_device_active(fleet: Fleet, state: State) -> None:
    device = fleet.device(state)
    with pytest.raises(StateChanged), fleet.registry.acting() as c:
        perform(c, transitions.unchanged(device.id, expected_version=device.state_version))


# ---- Races ------------------------------------------------------------------------------------------------------


def test_of_activations_that_saw_the_same_version_one_wins(fleet: Fleet, url: str) -> None:
    device = fleet.device(State.APPROVED)

    def act(c: Connection, number: int) -> Device:
        active = fleet.activate(c, device, ck_public=b"CK %d" % number)
        fleet.certificate(c, active)
        return active

    outcomes = race(url, 4, act)
    winners = [outcome for outcome in outcomes if isinstance(outcome, Device)]
    assert outcomes.count(StateChanged) == 3
    assert winners == [fleet.read(device)]
    with fleet.registry.reading() as c:
        assert len(issued.page(c)) == 1


def test_approvals_at_the_same_time_reserve_different_indices(fleet: Fleet, url: str) -> None:
    waiting = [fleet.device(State.PENDING) for _ in range(6)]
    outcomes = race(url, 6, lambda c, number: fleet.approve(c, waiting[number]).status_index)
    assert sorted(outcomes, key=str) == [0, 1, 2, 3, 4, 5]


# ---- What bundles say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "what"),
    [
        (State.ACTIVE, Event.QUARANTINE),
        (State.QUARANTINED, Event.RELEASE),
        (State.ACTIVE, Event.RETIRE),
        (State.APPROVED, Event.RETIRE),
    ],
)
def test_a_state_that_changes_asks_for_a_bundle(fleet: Fleet, state: State, what: Event) -> None:
    device = fleet.device(state)
    before = fleet.revision()
    with fleet.registry.acting() as c:
        transitions.change_state(c, device.id, what, reason="", now=NOW)
        assert revision.current(c) > before


def test_an_activation_asks_for_a_bundle(fleet: Fleet) -> None:
    device = fleet.device(State.APPROVED)
    before = fleet.revision()
    with fleet.registry.acting() as c:
        fleet.activate(c, device)
        assert revision.current(c) > before


def test_approval_import_and_replacement_ask_for_a_bundle(fleet: Fleet) -> None:
    device = fleet.device(State.PENDING)
    before = fleet.revision()
    with fleet.registry.acting() as c:
        fleet.approve(c, device)
        approved = revision.current(c)
        admission.import_approved(c, [fleet.entry()], entropy=fleet.entropy, now=NOW)
        imported = revision.current(c)
        admission.replace_ek(c, device.id, EkHash.of(b"another"), reason="broken", now=NOW)
        assert before < approved < imported < revision.current(c)


def test_an_attestation_asks_for_no_bundle(fleet: Fleet) -> None:
    """Or every device's routine would make every edge fetch."""
    device = fleet.device(State.ACTIVE)
    before = fleet.revision()
    with fleet.registry.acting() as c:
        found = {"result": RESULT, "clock": CLOCK, "good_until": NOW, "now": NOW}
        perform(c, *transitions.attestation(device.id, expected_version=device.state_version, **found))
        fleet.certificate(c, device)
    assert fleet.revision() == before
