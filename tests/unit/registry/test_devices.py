"""Devices: what an activation and an attestation leave behind, races, searching, the status list's contents."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest
from sqlalchemy import ColumnElement, event, insert, update

from attestd.credentials.status import Status
from attestd.ids import DeviceId, EkHash, Site, Tier
from attestd.registry import admission, devices, issued, revision
from attestd.registry.acts import perform
from attestd.registry.devices import Device
from attestd.registry.engine import Connection, Registry
from attestd.registry.states import Event, State, StateChanged, UnknownDevice
from attestd.registry.tables import devices as table

from .conftest import CLOCK, NOW, RESULT, Fleet

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
        attested = devices.attestation(
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
        perform(c, devices.rekeying(device.id, expected_version=device.state_version, now=NOW, **said))
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
        perform(c, devices.unchanged(device.id, expected_version=seen))
        found = {"result": RESULT, "clock": CLOCK, "good_until": NOW, "now": NOW}
        perform(c, *devices.attestation(device.id, expected_version=seen, **found))
        perform(c, devices.unchanged(device.id, expected_version=seen))
        with pytest.raises(StateChanged):
            perform(c, devices.unchanged(device.id, expected_version=seen + 1))
        with pytest.raises(UnknownDevice):
            perform(c, devices.unchanged(DeviceId("nobody"), expected_version=seen))


@pytest.mark.parametrize("state", sorted(set(State) - {State.ACTIVE}))
def test_requiring_a_device_active(fleet: Fleet, state: State) -> None:
    device = fleet.device(state)
    with pytest.raises(StateChanged), fleet.registry.acting() as c:
        perform(c, devices.unchanged(device.id, expected_version=device.state_version))


# ---- Races ------------------------------------------------------------------------------------------------------


def race(url: str, contenders: int, act: object) -> list[object]:
    """Each contender opens the database for itself, as processes do, and acts at the same moment."""
    start = threading.Barrier(contenders)
    outcomes: list[object] = []

    def run(number: int) -> None:
        registry = Registry.open(url)
        start.wait(10)
        try:
            with registry.acting() as c:
                outcomes.append(act(c, number))  # type: ignore[operator]
        except Exception as error:  # noqa: BLE001 - the outcome is what the test looks at
            outcomes.append(type(error))
        registry.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(contenders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


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


# ---- Reading ----------------------------------------------------------------------------------------------------


def test_finding_by_id_and_by_ek(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    fleet.device(State.ACTIVE)
    with fleet.registry.reading() as c:
        assert devices.by_id(c, device.id) == device
        assert devices.by_ek_hash(c, device.ek_hash) == device
        assert devices.by_ek_hash(c, EkHash.of(b"unknown")) is None
        with pytest.raises(UnknownDevice):
            devices.by_id(c, DeviceId("unknown"))


def test_values_come_back_as_parsed_types(fleet: Fleet) -> None:
    device = fleet.read(fleet.device(State.ACTIVE))
    kinds = (DeviceId, State, Tier, Site, EkHash)
    assert tuple(map(type, (device.id, device.state, device.tier, device.site, device.ek_hash))) == kinds


def test_a_device_is_shown_without_its_keys_and_hashes(fleet: Fleet) -> None:
    """The EK hash is a lifelong tracker: it must not get into a log by way of `repr`."""
    device = fleet.device(State.ACTIVE)
    shown = repr(device)
    assert device.id in shown
    for hidden in (device.ek_hash, device.ek_public, device.ak_public, device.ck_public):
        assert repr(hidden) not in shown
    assert device.ek_hash.hex() not in shown


def test_the_status_list_names_every_device_that_has_an_index(fleet: Fleet) -> None:
    made = [fleet.device(state) for state in State] + [fleet.returning()]
    expected = [
        (0, Status.INVALID),  # approved
        (1, Status.VALID),
        (2, Status.SUSPENDED),
        (3, Status.INVALID),  # retired
        (4, Status.INVALID),  # pending again
    ]
    with fleet.registry.reading() as c:
        assert list(devices.status_entries(c)) == expected
    assert [d.status_index for d in made] == [None, 0, None, 1, 2, 3, 4]


def test_the_status_list_is_in_the_order_of_its_indices(fleet: Fleet) -> None:
    last, first = fleet.device(State.PENDING), fleet.device(State.PENDING)
    assert last.id < first.id
    with fleet.registry.acting() as c:
        fleet.approve(c, first)
        fleet.activate(c, fleet.approve(c, last))
        assert list(devices.status_entries(c)) == [(0, Status.INVALID), (1, Status.VALID)]


# ---- Search -----------------------------------------------------------------------------------------------------

SIZE = 3000


@pytest.fixture
def many(registry: Registry) -> list[Device]:
    """Thousands of devices in a known order, with every filter's value spread over them."""
    chance = random.Random(5)
    ids = [f"{chance.randrange(1 << 40):010x}" for _ in range(SIZE)]
    rows = [
        {
            "id": device_id,
            "state": list(State)[number % 6].value,
            "state_version": 1,
            "tier": [None, "device", "edge", "cloud"][number % 4],
            "site": f"site-{number % 7}",
            "serial_number": f"SN-{number:05}",
            "labels": {"Rack": f"R{number % 11}", "owner": "ops"},
            "ek_hash": EkHash.of(device_id.encode()),
            "manufacturer": "IFX" if number % 2 else "NTC",
            "model": "SLB 9670",
            "firmware_version": "",
            "created_at": NOW,
            "updated_at": NOW,
            "source": "inventory",
        }
        for number, device_id in enumerate(ids)
    ]
    with registry.acting() as c:
        c.execute(insert(table), rows)
        return [devices.device_of(row) for row in c.execute(table.select().order_by(table.c.id))]


def conditions(filters: dict[str, object]) -> list[ColumnElement[bool]]:
    return [table.c[name] == str(value) for name, value in filters.items()]


def pages(c: Connection, limit: int, **filters: object) -> list[Device]:
    found: list[Device] = []
    while page := devices.page(c, *conditions(filters), limit=limit, after=found[-1].id if found else None):
        assert len(page) <= limit
        found += page
    return found


FILTERS: list[tuple[dict[str, object], object]] = [
    ({}, lambda d: True),
    ({"state": State.ACTIVE}, lambda d: d.state is State.ACTIVE),
    ({"tier": Tier.EDGE}, lambda d: d.tier is Tier.EDGE),
    ({"site": Site("site-3")}, lambda d: d.site == "site-3"),
    ({"site": Site("site-3"), "state": State.ACTIVE}, lambda d: d.site == "site-3" and d.state is State.ACTIVE),
    ({"tier": Tier.EDGE, "state": State.ACTIVE}, lambda d: d.tier is Tier.EDGE and d.state is State.ACTIVE),
    ({"tier": Tier.EDGE, "site": Site("site-3")}, lambda d: d.tier is Tier.EDGE and d.site == "site-3"),
    (
        {"tier": Tier.EDGE, "site": Site("site-3"), "state": State.ACTIVE},
        lambda d: d.tier is Tier.EDGE and d.site == "site-3" and d.state is State.ACTIVE,
    ),
]


def test_search_pages_through_exactly_what_fits(registry: Registry, many: list[Device]) -> None:
    with registry.reading() as c:
        for filters, fits in FILTERS:
            expected = [device for device in many if fits(device)]  # type: ignore[operator]
            assert pages(c, 300, **filters) == expected, filters


def test_a_page_is_bounded(registry: Registry, many: list[Device]) -> None:
    with registry.reading() as c:
        assert len(devices.page(c, limit=SIZE)) == devices.MAX_PAGE
        assert len(devices.page(c)) == 100


def test_pages_stay_in_order_while_devices_come_and_go(registry: Registry, many: list[Device]) -> None:
    with registry.acting() as c:
        first = devices.page(c, limit=10)
        c.execute(table.delete().where(table.c.id == first[-1].id))
        c.execute(update(table).where(table.c.id == many[12].id).values(state=State.RETIRED.value))
        second = devices.page(c, limit=10, after=first[-1].id)
    assert [device.id for device in second] == [device.id for device in many[10:20]]


@pytest.mark.parametrize("after", [None, DeviceId("5")])
@pytest.mark.parametrize("filters", [filters for filters, _ in FILTERS], ids=str)
def test_search_walks_an_index_and_never_sorts(
    registry: Registry, filters: dict[str, object], after: DeviceId | None
) -> None:
    run: list[tuple[str, object]] = []

    def listen(_connection: object, _cursor: object, statement: str, parameters: object, *_rest: object) -> None:
        run.append((statement, parameters))

    with registry.reading() as c:
        event.listen(c.engine, "before_cursor_execute", listen)
        devices.page(c, *conditions(filters), after=after)
        statement, parameters = run[-1]
        if c.dialect.name == "postgresql":  # which scans small tables whole, if it may
            for other_way in ("seqscan", "bitmapscan"):
                c.exec_driver_sql(f"SET LOCAL enable_{other_way} = off")
            seen = "\n".join(c.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())  # type: ignore[arg-type]
            assert "Index Scan" in seen
            assert "Sort" not in seen, seen
            return
        plan = [row.detail for row in c.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    walks = "SCAN" if after is None and not filters else "SEARCH"
    assert len(plan) == 1
    assert plan[0].startswith(f"{walks} devices USING INDEX"), plan


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
        devices.change_state(c, device.id, what, reason="", now=NOW)
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
        perform(c, *devices.attestation(device.id, expected_version=device.state_version, **found))
        fleet.certificate(c, device)
    assert fleet.revision() == before
