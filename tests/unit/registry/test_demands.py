"""Demands: of whom, what they change, when they end."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import update

from attestd.ids import DeviceId, Site, Tier
from attestd.registry import demands, transitions
from attestd.registry.acts import perform
from attestd.registry.demands import Cohort, Demanded, NoCohort
from attestd.registry.devices import Device
from attestd.registry.engine import Registry
from attestd.registry.states import Event, State, StateChanged, UnknownDevice
from attestd.registry.tables import devices as stored

from .conftest import CLOCK, NOW, RESULT, Fleet


def demand(fleet: Fleet, device: Device, **said: Any) -> Device:
    with fleet.registry.acting() as c:
        defaults: dict[str, Any] = {"by": "ada", "reason": "why", "now": NOW, "within": 900}
        return demands.demand(c, device.id, **defaults | said)


def open_ones(fleet: Fleet) -> frozenset[str]:
    with fleet.registry.reading() as c:
        return demands.outstanding(c)


def attest(fleet: Fleet, device: Device, at: int) -> None:
    said: dict[str, Any] = {"result": RESULT, "clock": CLOCK, "good_until": at + 3600, "now": at}
    with fleet.registry.acting() as c:
        perform(c, *transitions.attestation(device.id, expected_version=device.state_version, **said))


@pytest.mark.parametrize(("good_until", "then"), [(3600, 900), (900, 900), (899, 899), (-5, -5), (None, None)])
def test_a_result_counts_no_longer_than_allowed_and_no_longer_than_before(
    fleet: Fleet, good_until: int | None, then: int | None
) -> None:
    device = fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        ends = None if good_until is None else NOW + good_until
        c.execute(update(stored).values(attestation_good_until=ends))
    assert demand(fleet, device).attestation_good_until == (None if then is None else NOW + then)
    assert open_ones(fleet) == {device.id}


def test_what_was_decided_at_that_moment_is_decided_anew(fleet: Fleet) -> None:
    """An attestation that was appraised before the demand would else let the whole time run again."""
    device = fleet.device(State.ACTIVE)
    demanded = demand(fleet, device)
    with pytest.raises(StateChanged):
        attest(fleet, device, NOW + 1)
    attest(fleet, demanded, NOW + 1)


def test_it_ends_when_the_device_attested_after_it(fleet: Fleet) -> None:
    device = demand(fleet, fleet.device(State.ACTIVE))
    attest(fleet, device, NOW)  # in the same second: perhaps before
    assert open_ones(fleet) == {device.id}
    attest(fleet, device, NOW + 1)
    assert open_ones(fleet) == frozenset()


def test_answered_ones_are_forgotten_and_no_others(fleet: Fleet) -> None:
    answered, silent, gone = (demand(fleet, fleet.device(State.ACTIVE)) for _ in range(3))
    attest(fleet, answered, NOW + 1)
    with fleet.registry.acting() as c:
        transitions.change_state(c, gone.id, Event.RETIRE, reason="", now=NOW)
        assert demands.count(c) == 3
        assert demands.purge(c, limit=1) == 1
        assert demands.purge(c, limit=9) == 1
        assert demands.purge(c, limit=9) == 0
    assert open_ones(fleet) == {silent.id}


def test_a_second_demand_takes_the_first_one_s_place(fleet: Fleet) -> None:
    device = demand(fleet, fleet.device(State.ACTIVE))
    attest(fleet, device, NOW + 5)
    demand(fleet, device, now=NOW + 10, expected_version=device.state_version)
    assert open_ones(fleet) == {device.id}
    with fleet.registry.acting() as c:
        assert demands.purge(c, limit=9) == 0
        assert demands.count(c) == 1


def test_two_operators_at_once(fleet: Fleet, url: str) -> None:
    device = fleet.device(State.ACTIVE)
    done: list[Device] = []
    start = threading.Barrier(4)

    def operator() -> None:
        registry = Registry.open(url)
        start.wait(10)
        with registry.acting() as c:
            done.append(demands.demand(c, device.id, by="ada", reason="", now=NOW, within=60))
        registry.close()

    threads = [threading.Thread(target=operator) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4
    assert open_ones(fleet) == {device.id}


# ---- Cohorts ----------------------------------------------------------------------------------------------------


def page(fleet: Fleet, after: DeviceId | None = None, **said: Any) -> Demanded:
    with fleet.registry.reading() as c:
        return demands.page(c, Cohort(**said), after=after)


def of(fleet: Fleet, state: State = State.ACTIVE, **columns: Any) -> DeviceId:
    device = fleet.device(state)
    with fleet.registry.acting() as c:
        if columns:
            c.execute(update(stored).where(stored.c.id == device.id).values(**columns))
    return device.id


def test_nobody_demands_of_a_whole_fleet_by_leaving_something_out(fleet: Fleet) -> None:
    with pytest.raises(NoCohort):
        Cohort()


def test_by_site_tier_and_label_all_of_which_must_hold(fleet: Fleet) -> None:
    both = of(fleet, site="shop-2", tier="edge", labels={"ring": "canary", "a": "b"})
    site_only = of(fleet, site="shop-2", labels={"ring": "canary"})
    tier_only = of(fleet, tier="edge")
    assert set(page(fleet, site=Site("shop-2")).ids) == {both, site_only}
    assert set(page(fleet, tier=Tier.EDGE).ids) == {both, tier_only}
    assert page(fleet, site=Site("shop-2"), tier=Tier.EDGE, labels={"ring": "canary"}).ids == (both,)
    assert page(fleet, site=Site("shop-3")) == Demanded(())


@pytest.mark.parametrize(
    ("stored_labels", "asked", "fits"),
    [
        ({"ring": "canary"}, {"ring": "canary"}, True),
        ({"ring": "canary2"}, {"ring": "canary"}, False),
        ({"ring": "Canary"}, {"ring": "canary"}, False),
        ({"string": "canary"}, {"ring": "canary"}, False),
        ({"x": 'odd "quoted" 100%_ä'}, {"x": 'odd "quoted" 100%_ä'}, True),
        ({"x": "100a_"}, {"x": "100%_"}, False),
        ({"ring": "canary"}, {"ring": "canary", "b": "c"}, False),
    ],
)
def test_labels_are_compared_whole(
    fleet: Fleet, stored_labels: Mapping[str, str], asked: Mapping[str, str], fits: bool
) -> None:
    device = of(fleet, labels=dict(stored_labels))
    assert page(fleet, labels=asked).ids == ((device,) if fits else ())


def test_a_cohort_has_those_that_attest(fleet: Fleet) -> None:
    made = {state: of(fleet, state, site="shop-2", tier="device") for state in State}
    assert set(page(fleet, site=Site("shop-2")).ids) == {made[State.ACTIVE], made[State.QUARANTINED]}


def test_a_large_cohort_page_by_page(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demands, "MAX_AT_ONCE", 2)
    made = sorted(of(fleet, site="shop-2") for _ in range(5))
    first = page(fleet, site=Site("shop-2"))
    second = page(fleet, first.after, site=Site("shop-2"))
    third = page(fleet, second.after, site=Site("shop-2"))
    assert [*first.ids, *second.ids, *third.ids] == made
    assert (first.after, second.after, third.after) == (made[1], made[3], None)


def test_a_page_without_a_fit_is_not_the_end(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database may find more than fits: it compares labels by their text."""
    monkeypatch.setattr(demands, "MAX_AT_ONCE", 1)
    one, two = sorted(of(fleet) for _ in range(2))
    with fleet.registry.acting() as c:
        c.execute(update(stored).where(stored.c.id == one).values(labels={"x": 'a"b', "ring": "Canary"}))
        c.execute(update(stored).where(stored.c.id == two).values(labels={"ring": "canary"}))
    found: list[DeviceId] = []
    after: DeviceId | None = None
    while True:
        seen = page(fleet, after, labels={"ring": "canary"})
        found += seen.ids
        if (after := seen.after) is None:
            break
    assert found == [two]


def test_named_ones_must_be_there(fleet: Fleet) -> None:
    known = of(fleet)
    assert page(fleet, ids=(known,)).ids == (known,)
    with pytest.raises(UnknownDevice, match="nobody"):
        page(fleet, ids=(known, DeviceId("nobody")))
