"""Which EK stands for which device: requests, approval, the inventory, replacement."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestd.ids import DeviceId, EkHash, Site, Tier
from attestd.registry import admission, devices, issued, transitions
from attestd.registry.admission import EkBlocked, EkTaken, Imported, InventoryConflicts
from attestd.registry.devices import Device
from attestd.registry.inventory import InventoryEntry
from attestd.registry.labels import MalformedLabels
from attestd.registry.states import Event, State, StateChanged, TransitionRefused

from .conftest import CLOCK, NOW, RESULT, Fleet


def found(fleet: Fleet, ek_hash: EkHash) -> Device | None:
    with fleet.registry.reading() as c:
        return devices.by_ek_hash(c, ek_hash)


def imported(fleet: Fleet, *entries: InventoryEntry) -> Imported:
    with fleet.registry.acting() as c:
        return admission.import_approved(c, entries, entropy=fleet.entropy, now=NOW)


def refused(fleet: Fleet, *entries: InventoryEntry) -> InventoryConflicts:
    """The error of an import that must change nothing."""
    before = fleet.everything()
    with pytest.raises(InventoryConflicts) as conflicts:
        imported(fleet, *entries)
    assert fleet.everything() == before
    return conflicts.value


# ---- Requests ---------------------------------------------------------------------------------------------------


def test_a_request_records_the_evidence(fleet: Fleet) -> None:
    ek_public = fleet.ek_public()
    with fleet.registry.acting() as c:
        device = fleet.ask(c, ek_public, new_id=DeviceId("new"))
    assert device == found(fleet, EkHash.of(ek_public))
    assert device == Device(
        id=DeviceId("new"),
        state=State.PENDING,
        state_version=1,
        tier=None,
        site=None,
        serial_number=None,
        labels={},
        ek_hash=EkHash.of(ek_public),
        ek_public=ek_public,
        ak_public=None,
        ck_public=None,
        ck_name=None,
        status_index=None,
        manufacturer="IFX",
        model="SLB9670",
        firmware_version="7.85",
        endorsement="certificate",
        created_at=NOW,
        updated_at=NOW,
        attested_at=NOW,
        attestation_good_until=None,
        result=RESULT,
        clock=CLOCK,
        state_reason=None,
        source="request",
    )


def test_asking_again_renews_the_evidence_of_the_one_row(fleet: Fleet) -> None:
    device = fleet.device(State.PENDING)
    assert device.ek_public is not None
    with fleet.registry.acting() as c:
        again = fleet.ask(c, device.ek_public, result={"vector": {}}, firmware_version="8", now=NOW + 5)
        assert admission.count_pending(c) == 1
    assert again == replace(
        device, result={"vector": {}}, firmware_version="8", updated_at=NOW + 5, attested_at=NOW + 5
    )


def test_a_request_with_an_id_that_is_taken(fleet: Fleet) -> None:
    device = fleet.device(State.PENDING)
    with pytest.raises(StateChanged), fleet.registry.acting() as c:
        fleet.ask(c, b"another EK", new_id=device.id)
    assert found(fleet, EkHash.of(b"another EK")) is None


def test_counting_requests(fleet: Fleet) -> None:
    for state in (State.PENDING, State.APPROVED, State.PENDING, State.REJECTED):
        fleet.device(state)
    fleet.returning()
    with fleet.registry.reading() as c:
        assert admission.count_pending(c) == 3


def test_requests_expire(fleet: Fleet) -> None:
    old, fresh, approved = fleet.device(State.PENDING), fleet.device(State.PENDING), fleet.device(State.APPROVED)
    returning = fleet.returning()
    assert fresh.ek_public is not None
    with fleet.registry.acting() as c:
        fleet.ask(c, fresh.ek_public, now=NOW + 100)
        assert admission.purge_pending(c, older_than=NOW) == 0
        assert admission.purge_pending(c, older_than=NOW + 100) == 2
    assert found(fleet, old.ek_hash) is None
    assert fleet.read(fresh).state is State.PENDING
    assert fleet.read(approved) == approved
    back = fleet.read(returning)
    assert (back.state, back.state_version) == (State.RETIRED, returning.state_version + 1)
    assert back.status_index == returning.status_index


# ---- Approval ---------------------------------------------------------------------------------------------------


def test_approval_binds_tier_site_and_index_and_issues_nothing(fleet: Fleet) -> None:
    fleet.device(State.APPROVED)
    device = fleet.device(State.PENDING)
    with fleet.registry.acting() as c:
        fleet.approve(c, device, tier=Tier.EDGE, site=Site("shop-7"), labels={"rack": "2"}, now=NOW + 1)
        assert issued.page(c) == []
    assert fleet.read(device) == replace(
        device,
        state=State.APPROVED,
        state_version=2,
        tier=Tier.EDGE,
        site=Site("shop-7"),
        labels={"rack": "2"},
        status_index=1,
        updated_at=NOW + 1,
    )


def test_approval_without_labels_leaves_them(fleet: Fleet) -> None:
    entry = fleet.entry(labels={"rack": "2"})
    imported(fleet, entry)
    device = found(fleet, entry.ek_hash)
    assert device is not None
    with fleet.registry.acting() as c:
        transitions.change_state(c, device.id, Event.RETIRE, reason="", now=NOW)
        c.exec_driver_sql("UPDATE devices SET state = 'pending'")
        assert fleet.approve(c, device).labels == {"rack": "2"}
        c.exec_driver_sql("UPDATE devices SET state = 'pending'")
        assert fleet.approve(c, device, labels={}).labels == {}


def test_approval_with_malformed_labels(fleet: Fleet) -> None:
    device = fleet.device(State.PENDING)
    before = fleet.everything()
    with pytest.raises(MalformedLabels), fleet.registry.acting() as c:
        fleet.approve(c, device, labels={"no spaces": "x"})
    assert fleet.everything() == before


# ---- The inventory ----------------------------------------------------------------------------------------------


def test_the_inventory_s_devices_are_approved(fleet: Fleet) -> None:
    named = fleet.entry(
        device_id=DeviceId("till-1"), serial_number="SN1", labels={"rack": "2"}, tier=Tier.EDGE, site=Site("shop")
    )
    unnamed = fleet.entry()
    assert imported(fleet, named, unnamed) == Imported(added=2, unchanged=0)
    device, other = found(fleet, named.ek_hash), found(fleet, unnamed.ek_hash)
    assert device is not None
    assert other is not None
    assert (device.id, device.serial_number, device.labels) == ("till-1", "SN1", {"rack": "2"})
    assert (device.state, device.state_version, device.tier, device.site) == ("approved", 1, "edge", "shop")
    assert (device.source, device.endorsement, device.ek_public) == ("inventory", None, None)
    assert [device.status_index, other.status_index] == [0, 1]
    assert other.id == DeviceId.random((3).to_bytes(16, "big"))


def test_an_imported_device_enrolls(fleet: Fleet) -> None:
    ek_public = fleet.ek_public()
    entry = fleet.entry(ek_hash=EkHash.of(ek_public))
    imported(fleet, entry)
    device = found(fleet, entry.ek_hash)
    assert device is not None
    with fleet.registry.acting() as c:
        assert fleet.activate(c, device, ek_public=ek_public).state is State.ACTIVE


def test_importing_the_same_again_changes_nothing(fleet: Fleet) -> None:
    """So that a file can grow and be imported again whole."""
    entries = [fleet.entry(device_id=DeviceId("a")), fleet.entry()]
    imported(fleet, *entries)
    before = fleet.everything()
    assert imported(fleet, *entries) == Imported(added=0, unchanged=2)
    assert fleet.everything() == before
    assert imported(fleet, *entries, fleet.entry()) == Imported(added=1, unchanged=2)


@pytest.mark.parametrize(
    "other",
    [
        {"tier": Tier.CLOUD},
        {"site": Site("elsewhere")},
        {"serial_number": "SN2"},
        {"labels": {"rack": "3"}},
        {"device_id": DeviceId("other")},
    ],
    ids=str,
)
def test_an_entry_that_contradicts_a_device(fleet: Fleet, other: dict[str, object]) -> None:
    entry = fleet.entry(device_id=DeviceId("till-1"), serial_number="SN1", labels={"rack": "2"})
    imported(fleet, entry)
    conflicts = refused(fleet, fleet.entry(), replace(entry, line=77, **other))  # type: ignore[arg-type]
    differs = "labels" if "labels" in other else "values"
    assert conflicts.errors == ((77, f"this EK stands for device till-1 already, with other {differs}"),)


def test_an_entry_with_another_device_s_id(fleet: Fleet) -> None:
    taken = fleet.device(State.PENDING)
    conflicts = refused(fleet, fleet.entry(), fleet.entry(line=77, device_id=taken.id))
    assert conflicts.errors == ((77, f"the id {taken.id} belongs to another device"),)


def test_an_entry_with_a_blocked_ek(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        admission.replace_ek(c, device.id, EkHash.of(b"new"), reason="broken", now=NOW)
    conflicts = refused(fleet, fleet.entry(), fleet.entry(line=77, ek_hash=device.ek_hash))
    assert conflicts.errors == ((77, "this EK was replaced and never enrolls again"),)


@pytest.mark.parametrize("state", sorted(set(State) - {State.PENDING}))
def test_an_entry_for_a_device_that_was_decided_on(fleet: Fleet, state: State) -> None:
    device = fleet.device(state)
    entry = fleet.entry(line=77, ek_hash=device.ek_hash, site=Site("elsewhere"))
    assert refused(fleet, entry).errors[0][0] == 77


def test_an_entry_for_a_retired_device_that_asks_again(fleet: Fleet) -> None:
    """It keeps its id, and the certificates of its first life point at it: it is approved by hand."""
    device = fleet.returning()
    assert refused(fleet, fleet.entry(ek_hash=device.ek_hash, site=Site("elsewhere"))).errors


@pytest.mark.parametrize("device_id", [None, DeviceId("till-1")])
def test_an_entry_takes_a_request_s_place(fleet: Fleet, device_id: DeviceId | None) -> None:
    asked, other = fleet.device(State.PENDING), fleet.device(State.PENDING)
    entry = fleet.entry(ek_hash=asked.ek_hash, device_id=device_id)
    assert imported(fleet, entry) == Imported(added=1, unchanged=0)
    device = found(fleet, asked.ek_hash)
    assert device is not None
    assert (device.state, device.source) == (State.APPROVED, "inventory")
    assert device_id in (None, device.id)
    assert fleet.read(other) == other


def test_all_conflicts_are_reported_up_to_a_hundred(fleet: Fleet) -> None:
    taken = fleet.device(State.PENDING)
    entries = [fleet.entry(line=line, device_id=taken.id) for line in range(1, 1102)]
    conflicts = refused(fleet, *entries[:100])
    assert ([line for line, _ in conflicts.errors], conflicts.more) == (list(range(1, 101)), False)
    conflicts = refused(fleet, *entries)
    assert ([line for line, _ in conflicts.errors], conflicts.more) == (list(range(1, 101)), True)


def test_a_large_inventory_is_all_or_nothing(fleet: Fleet) -> None:
    """More than one statement's worth, with the only fault in the last entry."""
    taken = fleet.device(State.PENDING)
    entries = [fleet.entry() for _ in range(1200)]
    refused(fleet, *entries, fleet.entry(device_id=taken.id))
    assert imported(fleet, *entries).added == 1200
    with fleet.registry.reading() as c:
        assert [index for index, _ in devices.status_entries(c)] == list(range(1200))


def test_entries_that_contradict_each_other(fleet: Fleet) -> None:
    """The parser refuses them with line numbers; nobody gets around it by calling the import directly."""
    before = fleet.everything()
    entry = fleet.entry()
    with pytest.raises(EkTaken):
        imported(fleet, entry, replace(entry, line=99))
    assert fleet.everything() == before


# ---- Replacement ------------------------------------------------------------------------------------------------


def test_a_replacement_is_one_act(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        certificate = fleet.certificate(c, device)
        admission.replace_ek(c, device.id, EkHash.of(b"new"), reason="board swapped", now=NOW + 1)
    assert device.status_index is not None
    assert fleet.read(device) == replace(
        device,
        state=State.APPROVED,
        state_version=device.state_version + 1,
        status_index=device.status_index + 1,  # nobody else's, and no credential carries it
        ek_hash=EkHash.of(b"new"),
        ek_public=None,
        ak_public=None,
        ck_public=None,
        ck_name=None,
        manufacturer="",
        model="",
        firmware_version="",
        endorsement=None,
        attested_at=None,
        attestation_good_until=None,
        result=None,
        clock=None,
        state_reason="board swapped",
        updated_at=NOW + 1,
    )
    assert certificate in fleet.revoked()
    with fleet.registry.reading() as c:
        assert devices.ek_is_blocked(c, device.ek_hash)
        assert not devices.ek_is_blocked(c, EkHash.of(b"new"))


def test_the_new_tpm_enrolls_and_the_old_one_does_not(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    assert device.ek_public is not None
    with fleet.registry.acting() as c:
        replaced = admission.replace_ek(c, device.id, EkHash.of(b"new"), reason="", now=NOW)
    with pytest.raises(StateChanged), fleet.registry.acting() as c:
        fleet.activate(c, replaced, ek_public=device.ek_public)
    with pytest.raises(EkBlocked), fleet.registry.acting() as c:
        fleet.ask(c, device.ek_public)
    with fleet.registry.acting() as c:
        assert fleet.activate(c, replaced, ek_public=b"new").state is State.ACTIVE


def test_a_request_of_the_new_tpm_gives_way(fleet: Fleet) -> None:
    device, request = fleet.device(State.ACTIVE), fleet.device(State.PENDING)
    with fleet.registry.acting() as c:
        replaced = admission.replace_ek(c, device.id, request.ek_hash, reason="", now=NOW)
    assert found(fleet, request.ek_hash) == replaced


@pytest.mark.parametrize("state", sorted(set(State) - {State.PENDING}))
def test_an_ek_that_stands_for_another_device(fleet: Fleet, state: State) -> None:
    device, other = fleet.device(State.ACTIVE), fleet.device(state)
    before = fleet.everything()
    with pytest.raises(EkTaken), fleet.registry.acting() as c:
        admission.replace_ek(c, device.id, other.ek_hash, reason="", now=NOW)
    assert fleet.everything() == before


def test_an_ek_that_stood_for_another_device(fleet: Fleet) -> None:
    device, other = fleet.device(State.ACTIVE), fleet.returning()
    before = fleet.everything()
    with pytest.raises(EkTaken), fleet.registry.acting() as c:
        admission.replace_ek(c, device.id, other.ek_hash, reason="", now=NOW)
    assert fleet.everything() == before


def test_an_ek_that_is_taken_between_the_look_and_the_act(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a database where another transaction commits in between."""
    device, other = fleet.device(State.ACTIVE), fleet.device(State.ACTIVE)
    before = fleet.everything()
    monkeypatch.setattr(admission, "by_ek_hash", lambda *_: None)
    with pytest.raises(EkTaken), fleet.registry.acting() as c:
        admission.replace_ek(c, device.id, other.ek_hash, reason="", now=NOW)
    assert fleet.everything() == before


def test_an_ek_by_itself(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    before = fleet.everything()
    with pytest.raises(EkTaken), fleet.registry.acting() as c:
        admission.replace_ek(c, device.id, device.ek_hash, reason="", now=NOW)
    assert fleet.everything() == before


def test_an_ek_that_is_blocked(fleet: Fleet) -> None:
    device, other = fleet.device(State.ACTIVE), fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        admission.replace_ek(c, other.id, EkHash.of(b"new"), reason="", now=NOW)
    before = fleet.everything()
    with pytest.raises(EkBlocked), fleet.registry.acting() as c:
        admission.replace_ek(c, device.id, other.ek_hash, reason="", now=NOW)
    assert fleet.everything() == before


def test_a_rejected_request_stays_rejected(fleet: Fleet) -> None:
    device = fleet.device(State.REJECTED)
    assert device.ek_public is not None
    with pytest.raises(TransitionRefused), fleet.registry.acting() as c:
        fleet.ask(c, device.ek_public)
