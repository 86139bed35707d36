"""Who is overdue: told once, told again when it lapses again, and nobody is passed over."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import text, update

from attestd.ids import DeviceId, Site
from attestd.registry import audit, cohorts, overdue, transitions
from attestd.registry.acts import perform
from attestd.registry.devices import Device
from attestd.registry.engine import Registry
from attestd.registry.overdue import Overdue
from attestd.registry.states import Event, State
from attestd.registry.tables import devices as stored

from .conftest import CLOCK, NOW, RESULT, Fleet


def tell(fleet: Fleet, at: int, *, limit: int = 100) -> list[Overdue]:
    with fleet.registry.acting() as c:
        return overdue.tell(c, ended_by=at, now=at, limit=limit)


def ids(told: list[Overdue]) -> list[DeviceId]:
    return [each.device_id for each in told]


def device(fleet: Fleet, state: State, good_until: int | None) -> Device:
    made = fleet.device(state)
    with fleet.registry.acting() as c:
        c.execute(update(stored).where(stored.c.id == made.id).values(attestation_good_until=good_until))
    return fleet.read(made)


def attest(fleet: Fleet, which: Device, good_until: int) -> None:
    said: dict[str, Any] = {"result": RESULT, "clock": CLOCK, "good_until": good_until, "now": good_until - 10}
    with fleet.registry.acting() as c:
        perform(c, *transitions.attestation(which.id, expected_version=which.state_version, **said))


def test_who_lapsed_before_anybody_looked_is_no_news(fleet: Fleet) -> None:
    device(fleet, State.ACTIVE, NOW - 100)
    assert tell(fleet, NOW) == []
    assert tell(fleet, NOW + 1) == []


def test_told_once_and_told_again(fleet: Fleet) -> None:
    lapsing = device(fleet, State.ACTIVE, NOW + 10)
    tell(fleet, NOW)
    assert tell(fleet, NOW + 9) == []
    assert tell(fleet, NOW + 10) == [Overdue(lapsing.id, "device", "site-1", NOW + 10)]
    assert tell(fleet, NOW + 11) == []
    attest(fleet, lapsing, NOW + 50)
    assert tell(fleet, NOW + 49) == []
    assert ids(tell(fleet, NOW + 50)) == [lapsing.id]
    with fleet.registry.reading() as c:
        rows = [row for row in audit.page(c, subject=lapsing.id) if row.act == "overdue"]
    assert [(row.actor, row.at, row.detail) for row in rows] == [
        ("attestd", NOW + 50, {"tier": "device", "site": "site-1", "since": NOW + 50}),
        ("attestd", NOW + 10, {"tier": "device", "site": "site-1", "since": NOW + 10}),
    ]


@pytest.mark.parametrize("state", sorted(set(State) - {State.ACTIVE}))
def test_only_active_devices_are_overdue(fleet: Fleet, state: State) -> None:
    device(fleet, state, NOW + 10)
    tell(fleet, NOW)
    assert tell(fleet, NOW + 20) == []
    with fleet.registry.reading() as c:
        assert overdue.count(c, ended_by=NOW + 20) == 0


def test_batches_divide_those_of_one_second(fleet: Fleet) -> None:
    """A demand lets a whole cohort lapse in the same second."""
    lapsing = sorted(device(fleet, State.ACTIVE, NOW + 10).id for _ in range(7))
    later = device(fleet, State.ACTIVE, NOW + 11).id
    tell(fleet, NOW)
    told = [ids(tell(fleet, NOW + 20, limit=3)) for _ in range(4)]
    assert told == [lapsing[:3], lapsing[3:6], [*lapsing[6:], later], []]


def test_who_is_released_is_overdue_from_then_on(fleet: Fleet) -> None:
    """Its last result ended while it was in quarantine, at a time that was passed long ago."""
    held = device(fleet, State.QUARANTINED, NOW + 10)
    tell(fleet, NOW)
    tell(fleet, NOW + 900)
    other = device(fleet, State.ACTIVE, NOW + 950)
    assert ids(tell(fleet, NOW + 950)) == [other.id]
    with fleet.registry.acting() as c:
        released = transitions.change_state(c, held.id, Event.RELEASE, reason="", now=NOW + 1000)
    assert released.attestation_good_until == NOW + 1000
    assert tell(fleet, NOW + 999) == []
    assert tell(fleet, NOW + 1000) == [Overdue(held.id, "device", "site-1", NOW + 1000)]


def test_so_is_a_cohort_that_is_released(fleet: Fleet) -> None:
    held = device(fleet, State.QUARANTINED, NOW + 10)
    good = device(fleet, State.QUARANTINED, NOW + 5000)
    tell(fleet, NOW + 900)
    with fleet.registry.acting() as c:
        cohort = cohorts.Cohort(site=Site("site-1"))
        assert cohorts.release(c, cohort, reason="", now=NOW + 1000, limit=9, note=lambda _: None) == 2
    assert tell(fleet, NOW + 1000) == [Overdue(held.id, "device", "site-1", NOW + 1000)]
    assert fleet.read(good).attestation_good_until == NOW + 5000


def test_a_release_shortens_no_result(fleet: Fleet) -> None:
    held = device(fleet, State.QUARANTINED, NOW + 10)
    with fleet.registry.acting() as c:
        released = transitions.change_state(c, held.id, Event.RELEASE, reason="", now=NOW + 9)
    assert released.attestation_good_until == NOW + 10


def test_counted(fleet: Fleet) -> None:
    for good_until in (NOW, NOW + 1, NOW + 2, None):
        device(fleet, State.ACTIVE, good_until)
    with fleet.registry.reading() as c:
        assert overdue.count(c, ended_by=NOW + 1) == 2
        assert overdue.count_unattested(c) == 1


def test_services_on_one_database_tell_each_device_once(fleet: Fleet, url: str) -> None:
    lapsing = sorted(device(fleet, State.ACTIVE, NOW + number % 5).id for number in range(60))
    tell(fleet, NOW - 1)
    told: list[DeviceId] = []
    start = threading.Barrier(3)

    def service() -> None:
        registry = Registry.open(url)
        start.wait(10)
        while True:
            with registry.acting() as c:
                found = overdue.tell(c, ended_by=NOW + 10, now=NOW + 10, limit=7)
            told.extend(ids(found))
            if not found:
                break
        registry.close()

    threads = [threading.Thread(target=service) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == lapsing
    with fleet.registry.reading() as c:
        assert sorted(row.subject for row in audit.page(c, limit=1000) if row.act == "overdue") == lapsing


def test_the_index_answers(fleet: Fleet) -> None:
    """A million devices are counted, and the next ones found, without reading the others."""
    with fleet.registry.acting() as c:
        if c.dialect.name == "postgresql":
            c.execute(text("SET LOCAL enable_seqscan = off"))  # for a table as small as this
        explain = "EXPLAIN QUERY PLAN " if c.dialect.name == "sqlite" else "EXPLAIN "
        counting = "SELECT count(*) FROM devices WHERE state = 'active' AND attestation_good_until <= 5"
        telling = (
            "SELECT id, tier, site, attestation_good_until FROM devices"
            " WHERE state = 'active' AND attestation_good_until <= 9 AND attestation_good_until >= 5"
            " AND (attestation_good_until > 5 OR (attestation_good_until = 5 AND id > 'x'))"
            " ORDER BY attestation_good_until, id LIMIT 5"
        )
        for statement in (counting, telling):
            plan = " ".join(str(row) for row in c.execute(text(explain + statement)))
            assert "ix_devices_state_attestation_good_until_id" in plan, plan
            assert "TEMP B-TREE" not in plan, plan
            assert "Sort" not in plan, plan
