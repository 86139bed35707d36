"""Many devices at once: exactly those that are meant, each noted, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy import update

from attestd.ids import DeviceId, Site, Tier
from attestd.registry import brake, cohorts, transitions
from attestd.registry.cohorts import Cohort
from attestd.registry.devices import APPRAISAL, OPERATOR, Device
from attestd.registry.states import Event, State
from attestd.registry.tables import devices as stored

from .conftest import NOW, RESULT, Fleet

BAD = {"vector": {"executables": 96}, "reasons": ["one", "two"], "attested_at": NOW + 9}


class Notes:
    """What the audit trail would be told."""

    def __init__(self) -> None:
        self.found: list[tuple[DeviceId, Mapping[str, Any]]] = []

    def __call__(self, page: Sequence[tuple[DeviceId, Mapping[str, Any]]]) -> None:
        self.found.extend(page)


def quarantined(fleet: Fleet, **columns: Any) -> Device:
    """A quarantined device that is different in these columns."""
    device = fleet.device(State.QUARANTINED)
    if columns:
        with fleet.registry.acting() as c:
            c.execute(update(stored).where(stored.c.id == device.id).values(columns))
    return fleet.read(device)


def release(fleet: Fleet, cohort: Cohort, *, limit: int = 100, notes: Notes | None = None) -> int:
    with fleet.registry.acting() as c:
        return cohorts.release(c, cohort, reason="mended", now=NOW + 60, limit=limit, note=notes or Notes())


@pytest.mark.parametrize(
    ("cohort", "meant", "other"),
    [
        (Cohort(site=Site("shop-1")), {"site": "shop-1"}, {"site": "shop-2"}),
        (Cohort(tier=Tier.EDGE), {"tier": "edge"}, {"tier": "device"}),
        (Cohort(label=("line", "2")), {"labels": {"a": "1", "line": "2"}}, {"labels": {"line": "22"}}),
        (Cohort(label=("line", "a_b")), {"labels": {"line": "a_b"}}, {"labels": {"line": "axb"}}),
        (Cohort(label=("line", "Ä")), {"labels": {"line": "Ä"}}, {"labels": {"line": "ä"}}),
        (Cohort(label=("line", 'a"b')), {"labels": {"line": 'a"b'}}, {"labels": {"line": "a"}}),
        (Cohort(label=("line", "x")), {"labels": {"line": "x"}}, {"labels": {"other": '"line":"x"'}}),
        (Cohort(label=("line", "x")), {"labels": {"line": "x"}}, {"labels": {"line": "X"}}),
        (Cohort(since=NOW + 5), {"quarantined_at": NOW + 5}, {"quarantined_at": NOW + 4}),
        (Cohort(since=NOW + 5), {"quarantined_at": NOW + 6}, {"quarantined_at": None}),
        (Cohort(quarantined_by=APPRAISAL), {"quarantined_by": APPRAISAL}, {"quarantined_by": OPERATOR}),
        (Cohort(quarantined_by=APPRAISAL), {"quarantined_by": APPRAISAL}, {"quarantined_by": None}),
        (
            Cohort(site=Site("shop-1"), tier=Tier.EDGE),
            {"site": "shop-1", "tier": "edge"},
            {"site": "shop-1", "tier": "device"},
        ),
    ],
)
def test_who_is_meant(fleet: Fleet, cohort: Cohort, meant: dict[str, Any], other: dict[str, Any]) -> None:
    one, another = quarantined(fleet, **meant), quarantined(fleet, **other)
    with fleet.registry.reading() as c:
        assert cohorts.count(c, cohort) == 1
        assert [device.id for device in cohorts.first(c, cohort, limit=5)] == [one.id]
    assert release(fleet, cohort) == 1
    assert fleet.read(one).state is State.ACTIVE
    assert fleet.read(another) == another


@pytest.mark.parametrize("state", [state for state in State if state is not State.QUARANTINED])
def test_only_quarantined_ones(fleet: Fleet, state: State) -> None:
    device = fleet.device(state)
    assert release(fleet, Cohort(tier=Tier.DEVICE)) == 0
    assert fleet.read(device) == device


def test_what_a_release_does(fleet: Fleet) -> None:
    device = quarantined(fleet)
    revision, notes = fleet.revision(), Notes()
    assert release(fleet, Cohort(quarantined_by=OPERATOR), notes=notes) == 1
    seen = fleet.read(device)
    assert (seen.state, seen.state_version) == (State.ACTIVE, device.state_version + 1)
    assert (seen.state_reason, seen.quarantined_by, seen.quarantined_at) == ("mended", None, None)
    assert fleet.status(seen) == 0
    assert fleet.revision() == revision + 1
    assert notes.found == [(device.id, {})]


def test_more_pages_than_one_and_no_more_than_the_limit(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohorts, "_PAGE", 2)
    found = sorted((quarantined(fleet) for _ in range(5)), key=lambda device: device.id)
    notes = Notes()
    assert release(fleet, Cohort(tier=Tier.DEVICE), limit=3, notes=notes) == 3
    assert [device_id for device_id, _ in notes.found] == [device.id for device in found[:3]]
    with fleet.registry.reading() as c:
        assert cohorts.count(c, Cohort(tier=Tier.DEVICE)) == 2
    assert release(fleet, Cohort(tier=Tier.DEVICE), limit=3) == 2


def test_what_is_held_is_carried_out_as_if_it_had_counted(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohorts, "_PAGE", 2)
    held = sorted((fleet.device(State.ACTIVE) for _ in range(3)), key=lambda device: device.id)
    other, notes = fleet.device(State.ACTIVE), Notes()
    with fleet.registry.acting() as c:
        for device in held:
            brake.hold(c, device.id, BAD, now=NOW + 9)
    with fleet.registry.acting() as c:
        assert cohorts.quarantine_held(c, now=NOW + 60, note=notes) == 3
    for device in held:
        seen = fleet.read(device)
        assert (seen.state, seen.state_version) == (State.QUARANTINED, device.state_version + 1)
        assert (seen.state_reason, seen.quarantined_by, seen.quarantined_at) == ("one; two", APPRAISAL, NOW + 60)
        assert (seen.result, seen.attested_at, seen.attestation_good_until) == (BAD, NOW + 9, NOW + 9)
        assert fleet.status(seen) == 2
    assert fleet.read(other) == other
    assert notes.found == [(device.id, {"because": ["one", "two"]}) for device in held]


@pytest.mark.parametrize("state", [State.QUARANTINED, State.RETIRED, State.APPROVED])
def test_who_is_not_active_any_more_is_left_as_it_is(fleet: Fleet, state: State) -> None:
    device = fleet.device(state)
    with fleet.registry.acting() as c:
        brake.hold(c, device.id, RESULT, now=NOW)
    with fleet.registry.acting() as c:
        assert cohorts.quarantine_held(c, now=NOW, note=Notes()) == 0
    assert fleet.read(device) == device


@pytest.mark.parametrize("event", [Event.RELEASE, Event.RETIRE])
def test_who_quarantined_goes_with_the_quarantine(fleet: Fleet, event: Event) -> None:
    device = fleet.device(State.QUARANTINED)
    assert (device.quarantined_by, device.quarantined_at) == (OPERATOR, NOW)
    with fleet.registry.acting() as c:
        seen = transitions.change_state(c, device.id, event, reason="", now=NOW)
    assert (seen.quarantined_by, seen.quarantined_at) == (None, None)
