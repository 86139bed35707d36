"""Devices: reading them, searching, the status list's contents."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import ColumnElement, event, insert, update

from attestd.credentials.status import Status
from attestd.ids import DeviceId, EkHash, Site, Tier
from attestd.registry import devices
from attestd.registry.devices import Device
from attestd.registry.engine import Connection, Registry
from attestd.registry.states import State, UnknownDevice
from attestd.registry.tables import devices as table

from .conftest import NOW, Fleet

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
