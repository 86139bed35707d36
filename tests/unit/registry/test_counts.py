"""What is kept of the fleet's numbers is what a count of all devices would say, whatever was done to them."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, insert, select, text

from attestd.ids import EkHash, Site, Tier
from attestd.registry import admission, brake, cohorts, counts, devices, policies, recovery, transitions
from attestd.registry.acts import perform
from attestd.registry.devices import Device
from attestd.registry.engine import Connection, Registry
from attestd.registry.states import Event, State
from attestd.registry.tables import device_terms, fleet_changes, fleet_counts
from tests.unit.registry.conftest import CLOCK, NOW, RESULT, Fleet

pytestmark = pytest.mark.database
STATUSES = ("affirming", "warning", "contraindicated", "none")


def every(c: Connection) -> list[Device]:
    return [devices.device_of(row) for row in c.execute(select(devices.devices))]


def result(status: str) -> dict[str, object]:
    return {**RESULT, "status": status}


class Chance:
    """Random acts, by the functions that the service uses."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet, self.random = fleet, random.Random(seed)
        self.acts: list[Callable[[Connection], object]] = [
            self.asks,
            self.asks,
            self.imports,
            self.approves,
            self.approves,
            self.activates,
            self.activates,
            self.attests,
            self.attests,
            self.changes,
            self.replaces,
            self.forgets,
        ]

    def one(self, c: Connection, *states: State) -> Device | None:
        found = [device for device in every(c) if device.state in states]
        return self.random.choice(found) if found else None

    def act(self, c: Connection) -> None:
        self.random.choice(self.acts)(c)

    def asks(self, c: Connection) -> None:
        again = self.one(c, State.PENDING, State.RETIRED)
        area = again.ek_public if again is not None and self.random.random() < 0.3 else None
        self.fleet.ask(c, area or self.fleet.ek_public(), result=result(self.random.choice(STATUSES)))

    def imports(self, c: Connection) -> None:
        site = Site(f"site-{self.random.randrange(3)}")
        entries = [
            self.fleet.entry(tier=self.random.choice(list(Tier)), site=site, serial_number="SN", labels={"ring": "a"})
            for _ in range(self.random.randrange(1, 4))
        ]
        admission.import_approved(c, entries, entropy=self.fleet.entropy, now=NOW)

    def approves(self, c: Connection) -> None:
        if device := self.one(c, State.PENDING):
            self.fleet.approve(c, device, tier=self.random.choice(list(Tier)), labels={"rack": "7"})

    def activates(self, c: Connection) -> None:
        device = self.one(c, State.APPROVED, State.ACTIVE)
        if device is not None and device.ek_public is not None:
            self.fleet.activate(c, device, result=result(self.random.choice(STATUSES)))

    def attests(self, c: Connection) -> None:
        if device := self.one(c, State.ACTIVE, State.QUARANTINED):
            found = result(self.random.choice(STATUSES))
            perform(
                c,
                *transitions.attestation(
                    device.id,
                    expected_version=device.state_version,
                    result=found,
                    clock=CLOCK,
                    good_until=NOW + 60,
                    now=NOW,
                ),
            )

    def changes(self, c: Connection) -> None:
        event = self.random.choice([Event.REJECT, Event.QUARANTINE, Event.RELEASE, Event.RETIRE])
        states = {Event.REJECT: State.PENDING, Event.QUARANTINE: State.ACTIVE, Event.RELEASE: State.QUARANTINED}
        if device := self.one(c, states.get(event, State.ACTIVE)):
            transitions.change_state(c, device.id, event, reason="chance", now=NOW)

    def replaces(self, c: Connection) -> None:
        device = self.one(c, State.ACTIVE, State.RETIRED, State.QUARANTINED)
        if device is not None and device.status_index is not None:
            admission.replace_ek(c, device.id, EkHash.of(self.fleet.ek_public()), reason="broken", now=NOW)

    def forgets(self, c: Connection) -> None:
        if self.random.random() < 0.2:
            admission.purge_pending(c, older_than=NOW + 1)


def require_exact(registry: Registry) -> None:
    with registry.reading() as c:
        assert counts.differences(c) == {}
        found = every(c)
        for state, count in counts.by_state(c).items():
            assert count == sum(device.state is state for device in found)
        for device in found:
            expected = None if device.result is None or device.attested_at is None else device.result.get("status")
            assert device.result_status == expected


@pytest.mark.parametrize("seed", range(4))
def test_random_acts_leave_exact_counts(registry: Registry, fleet: Fleet, seed: int) -> None:
    chance = Chance(fleet, seed)
    for turn in range(12):
        with registry.acting() as c:
            for _ in range(8):
                chance.act(c)
        require_exact(registry)
        if turn % 3 == 1:
            with registry.acting() as c:
                counts.fold(c, limit=chance.random.randrange(1, 20))
            require_exact(registry)
    with registry.acting() as c:
        policies.add(c, text="permit (principal, action, resource);", created_by="test", now=NOW)
        at = datetime.fromtimestamp(NOW, UTC)
        recovery.recover(c, now=at, newest=None, longest=timedelta(hours=1), keep_operator="", detail={})
    require_exact(registry)
    with registry.acting() as c:
        while counts.fold(c):
            pass
    require_exact(registry)
    with registry.reading() as c:
        assert c.execute(select(fleet_changes)).first() is None
        assert all(row.count > 0 for row in c.execute(select(fleet_counts.c["count"].label("count"))))


def test_an_act_that_is_undone_counts_for_nothing(registry: Registry, fleet: Fleet) -> None:
    with pytest.raises(RuntimeError), registry.acting() as c:
        fleet.ask(c, fleet.ek_public())
        raise RuntimeError("undone")
    with registry.reading() as c:
        assert counts.groups(c) == []


def test_an_attestation_that_finds_the_same_writes_no_change(registry: Registry, fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    with registry.acting() as c:
        while counts.fold(c):
            pass
        step = transitions.attestation(
            device.id,
            expected_version=device.state_version,
            result=RESULT,
            clock=CLOCK,
            good_until=NOW + 99,
            now=NOW,
        )
        perform(c, *step)
        assert c.execute(select(fleet_changes)).first() is None
        perform(
            c,
            *transitions.attestation(
                device.id,
                expected_version=device.state_version,
                result=result("warning"),
                clock=CLOCK,
                good_until=NOW + 99,
                now=NOW,
            ),
        )
        assert [row.delta for row in c.execute(select(fleet_changes.c.delta))] == [-1, 1]


def test_a_release_of_held_results_is_counted(registry: Registry, fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    with registry.acting() as c:
        brake.take(c)
        brake.engage(c, by="ann", reason="", now=NOW)
        brake.hold(c, device.id, result("contraindicated"), now=NOW)
        cohorts.quarantine_held(c, now=NOW, note=lambda _: None)
    with registry.reading() as c:
        assert counts.differences(c) == {}
        assert devices.by_id(c, device.id).result_status == "contraindicated"


def test_what_is_changed_past_the_triggers_is_seen_and_mended(registry: Registry, fleet: Fleet) -> None:
    fleet.device(State.ACTIVE)
    with registry.acting() as c:
        while counts.fold(c):
            pass
        c.execute(delete(fleet_counts))
        c.execute(insert(fleet_counts).values(tier="edge", site="x", state="active", result_status="none", count=3))
    with registry.reading() as c:
        seen = counts.differences(c)
    assert list(seen.values()) == [(0, 1), (3, 0)]
    fleet.device(State.ACTIVE)  # meanwhile
    with registry.acting() as c:
        counts.mend(c, seen)
    require_exact(registry)


def test_terms_follow_the_device(registry: Registry, fleet: Fleet) -> None:
    def terms(c: Connection) -> set[tuple[str, str]]:
        return {(row.kind, row.term) for row in c.execute(select(device_terms))}

    entry = fleet.entry(serial_number="SN-Ä7", labels={"Ring": "Canary", "rack": "Canary"})
    with registry.acting() as c:
        admission.import_approved(c, [entry], entropy=fleet.entropy, now=NOW)
        imported = {
            ("serial", "sn-Ä7"),
            ("label", "ring=canary"),
            ("label", "rack=canary"),
            ("value", "canary"),
        }
        assert terms(c) == imported
        (device,) = every(c)
        c.execute(text("UPDATE devices SET manufacturer = 'IFX', model = 'SLB'"))
        assert terms(c) == imported | {("maker", "ifx"), ("model", "slb")}
        c.execute(delete(devices.devices))
        assert terms(c) == set()
        assert device.id


def test_a_site_counts_once_whether_its_changes_are_added_up_or_wait(registry: Registry, fleet: Fleet) -> None:
    first = fleet.device(State.APPROVED)
    with registry.acting() as c:
        assert counts.count_sites(c) == 1  # it waits
        while counts.fold(c):
            pass
        assert counts.count_sites(c) == 1  # it is added up
    second = fleet.device(State.APPROVED)  # of the same site
    with registry.acting() as c:
        assert counts.count_sites(c) == 1  # both
        c.execute(delete(devices.devices).where(devices.devices.c.id.in_([first.id, second.id])))
        assert counts.count_sites(c) == 0
