"""Every combination of filters finds what a look at each device would find, whether its answers are rare or common."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from attestd.ids import DeviceId, MalformedName, Site, Tier
from attestd.registry import admission, devices, finding
from attestd.registry.devices import Device
from attestd.registry.engine import Connection, Registry
from attestd.registry.filters import FilterMalformed, Filters
from attestd.registry.states import State
from tests.unit.registry.conftest import NOW, Fleet

pytestmark = pytest.mark.database


def populate(fleet: Fleet, count: int = 120) -> None:
    """Devices of all kinds; what verbs can't make at once is written by hand."""
    chance = random.Random(7)
    entries = [
        fleet.entry(
            device_id=DeviceId(f"gw-{n:03}" if n % 2 else f"sensor-{n:03}"),
            tier=chance.choice(list(Tier)),
            site=Site(chance.choice(["ber-plant-1", "ber-plant-2", "lis-tower"])),
            serial_number=f"SN-{n * 7 % 100:03}",
            labels={"ring": chance.choice(["stable", "Canary"]), "rack": str(n % 5)},
        )
        for n in range(count)
    ]
    with fleet.registry.acting() as c:
        admission.import_approved(c, entries, entropy=fleet.entropy, now=NOW)
        d = devices.devices.c
        for each in c.execute(select(d.id)).scalars().all():
            status = chance.choice(["affirming", "affirming", "warning", "contraindicated", None])
            c.execute(
                update(devices.devices)
                .where(d.id == each)
                .values(
                    state=chance.choice(["active", "active", "active", "quarantined", "approved"]),
                    manufacturer=chance.choice(["Norvik", "Halden AS"]),
                    model=chance.choice(["NV20", "T2"]),
                    result_status=status,
                    attested_at=NOW,
                    attestation_good_until=NOW + chance.choice([-50, 50, 500]),
                )
            )


def mentions(device: Device, word: str) -> bool:
    word = word.lower()
    pairs = [f"{name}={value}" for name, value in device.labels.items()]
    terms = [device.id, device.serial_number, device.manufacturer, device.model, device.site]
    return any((term or "").lower().startswith(word) for term in [*terms, *pairs, *device.labels.values()])


def overdue(device: Device) -> bool:
    return device.state is State.ACTIVE and (device.attestation_good_until or NOW) <= NOW


CHECKS: dict[str, Callable[[Device, str], bool]] = {
    "state": lambda device, value: device.state in value.split(",") or ("overdue" in value and overdue(device)),
    "result": lambda device, value: (device.result_status or "none") in value.split(","),
    "tier": lambda device, value: device.tier == value,
    "site": lambda device, value: device.site == value,
    "maker": lambda device, value: device.manufacturer.lower() == value.lower(),
    "label": lambda device, value: (
        value.lower() in [f"{k}={v}".lower() for k, v in device.labels.items()] or value in device.labels
    ),
    "overdue": lambda device, _: overdue(device),
    "q": lambda device, value: all(mentions(device, word) for word in value.split()),
}
VALUES: dict[str, list[str]] = {
    "state": ["active", "quarantined", "quarantined,overdue", "overdue", "pending", "active,approved"],
    "result": ["affirming", "warning", "contraindicated,warning", "none"],
    "tier": ["device", "edge"],
    "site": ["ber-plant-1", "lis-tower", "nowhere"],
    "maker": ["norvik", "Halden AS", "Hald"],
    "label": ["ring=canary", "ring", "rack=3", "rin", "ring=can"],
    "overdue": ["yes"],
    "q": ["gw", "ber", "norv rack=1", "SN-0", "canary nv", "lis-tower sensor-1", "nobody", "%", "_", "\\", "'", ".*"],
}


def found(c: Connection, wanted: dict[str, str], limit: int) -> list[Device]:
    seen: list[Device] = []
    after: DeviceId | None = None
    totals = set()
    for _ in range(500):
        page = finding.page(c, Filters.parse(wanted), ended_by=NOW, after=after, limit=limit)
        seen += page.devices
        totals.add(page.total)
        after = page.after
        if after is None:
            break
    assert after is None
    assert totals <= {None, len(seen)}
    return seen


@pytest.mark.parametrize("few", [2000, 3])
def test_every_combination_finds_what_is_there(
    registry: Registry, fleet: Fleet, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `few` at 3 nearly every filter counts as common, and windows are small."""
    populate(fleet)
    monkeypatch.setattr(finding, "FEW", few)
    monkeypatch.setattr(finding, "LATE", few)
    monkeypatch.setattr(finding, "LOOKED", 60)
    monkeypatch.setattr(finding, "_FIRST_WINDOW", 10)
    monkeypatch.setattr(finding, "_STREAMS", 3)
    chance = random.Random(few)
    questions: list[dict[str, str]] = [{}, *({name: value} for name in VALUES for value in VALUES[name])]
    for _ in range(60):
        names = chance.sample(sorted(VALUES), chance.randrange(2, 4))
        questions.append({name: chance.choice(VALUES[name]) for name in names})
    with registry.reading() as c:
        every = [devices.device_of(row) for row in c.execute(select(devices.devices).order_by(devices.devices.c.id))]
        for wanted in questions:
            expected = [d.id for d in every if all(CHECKS[name](d, value) for name, value in wanted.items())]
            assert [device.id for device in found(c, wanted, 7)] == expected, wanted


def test_what_matches_in_all_is_known_for_rare_filters(registry: Registry, fleet: Fleet) -> None:
    populate(fleet, 40)
    with registry.reading() as c:
        page = finding.page(c, Filters.parse({"q": "gw", "state": "active"}), ended_by=NOW, limit=2)
        every = found(c, {"q": "gw", "state": "active"}, 1000)
    assert (page.total, len(page.devices)) == (len(every), 2)


@pytest.mark.parametrize(
    "wanted",
    [
        {"q": "x" * 201},
        {"q": "a\0b"},
        {"q": "\ud800"},
        {"q": " ".join("abcdefghi")},
        {"state": "activ"},
        {"state": "active,,x"},
        {"result": "good"},
        {"overdue": "1"},
        {"colour": "red"},
        {"label": "a" * 201},
    ],
)
def test_filters_are_bounded_and_known(wanted: dict[str, str]) -> None:
    assert Filters.parse({"q": "x" * 200, "state": "active", "result": "none", "overdue": "yes"})
    with pytest.raises(FilterMalformed):
        Filters.parse(wanted)


@pytest.mark.parametrize("wanted", [{"tier": "moon"}, {"site": "A B"}])
def test_names_are_names(wanted: dict[str, str]) -> None:
    with pytest.raises(MalformedName):
        Filters.parse(wanted)


def test_bad_results_are_found_by_their_partial_index(registry: Registry, fleet: Fleet) -> None:
    """SQLite looks at every device otherwise: what a parameter will say, it does not know when it chooses."""
    wanted = select(devices.devices.c.id).where(*Filters.parse({"result": "warning"}).columns(NOW))
    with registry.reading() as c:
        if c.dialect.name != "sqlite":
            pytest.skip("PostgreSQL knows the parameter when it chooses")
        asked = wanted.compile(dialect=c.dialect)
        plan = c.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked}", tuple(asked.params.values())).all()
    assert "ix_devices_result_status_id" in str(plan)
