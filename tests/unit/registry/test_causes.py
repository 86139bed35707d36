"""Devices by why they are as they are; and what the brake holds says more of them than what still counts."""

from __future__ import annotations

from typing import Any

from attestd.ids import DeviceId
from attestd.registry import brake, causes
from attestd.registry.causes import Cause
from attestd.registry.engine import Registry
from attestd.registry.filters import Filters
from attestd.registry.states import State

from .conftest import NOW, Fleet

EVERYBODY = Filters.parse({})


def hold(registry: Registry, *ids: DeviceId, at: int = NOW, reasons: tuple[str, ...] = ("Kernel", "Shim")) -> None:
    result = {"status": "contraindicated", "vector": {}, "reasons": list(reasons), "attested_at": at}
    with registry.acting() as c:
        if not brake.take(c).engaged:
            brake.engage(c, by="ada", reason="", now=NOW)
        for device_id in ids:
            brake.hold(c, device_id, result, now=at)


def matching(registry: Registry, *, ended_by: int = NOW) -> list[Cause]:
    with registry.reading() as c:
        return causes.of_matching(c, EVERYBODY, ended_by=ended_by)[0]


def test_they_are_grouped(registry: Registry, fleet: Fleet) -> None:
    made: list[Any] = [fleet.device(State.QUARANTINED) for _ in range(3)]
    fleet.device(State.ACTIVE)
    with registry.reading() as c:
        found, more = causes.of_matching(c, Filters.parse({"state": "quarantined"}), ended_by=NOW)
        late, _ = causes.of_matching(c, Filters.parse({"overdue": "yes"}), ended_by=NOW + 9999)
    assert not more
    (cause,) = found
    assert (cause.kind, cause.why, cause.count, list(cause.sites)) == ("quarantined", "odd", 3, [("site-1", 3)])
    assert sorted(cause.ids) == sorted(device.id for device in made)
    assert [(each.kind, each.why, each.count) for each in late] == [("overdue", "site-1", 1)]


def test_what_is_held_is_the_cause(registry: Registry, fleet: Fleet) -> None:
    bad, good = fleet.device(State.ACTIVE), fleet.device(State.ACTIVE)
    hold(registry, bad.id)
    assert {(each.kind, each.why, tuple(each.ids)) for each in matching(registry)} == {
        ("contraindicated", "Kernel; Shim", (bad.id,)),
        ("none", "because", (good.id,)),
    }


def test_what_is_held_says_more_than_that_it_is_late(registry: Registry, fleet: Fleet) -> None:
    bad, late = fleet.device(State.ACTIVE), fleet.device(State.ACTIVE)
    hold(registry, bad.id)
    found = {each.kind: each.ids for each in matching(registry, ended_by=NOW + 9999)}
    assert found == {"contraindicated": [bad.id], "overdue": [late.id]}


def test_who_is_not_active_any_more_is_there_for_another_reason(registry: Registry, fleet: Fleet) -> None:
    hold(registry, fleet.device(State.QUARANTINED).id)
    assert [(each.kind, each.why) for each in matching(registry)] == [("quarantined", "odd")]


def test_what_the_brake_holds_by_reasons(registry: Registry, fleet: Fleet) -> None:
    made = [fleet.device(State.ACTIVE) for _ in range(3)]
    hold(registry, made[0].id, made[1].id, at=NOW + 5)
    hold(registry, made[2].id, reasons=("PCR 7",))
    with registry.reading() as c:
        found, more = causes.of_held(c)
    assert [(each.why, each.count, each.since, list(each.sites)) for each in found] == [
        ("Kernel; Shim", 2, NOW + 5, [("site-1", 2)]),
        ("PCR 7", 1, NOW, [("site-1", 1)]),
    ]
    assert (set(found[0].ids), more) == ({made[0].id, made[1].id}, False)


def test_of_very_many_the_first_are_looked_at(registry: Registry, fleet: Fleet, monkeypatch: Any) -> None:
    hold(registry, *(fleet.device(State.ACTIVE).id for _ in range(3)))
    monkeypatch.setattr(causes, "FEW", 2)
    with registry.reading() as c:
        (cause,), more = causes.of_held(c)
    assert (cause.count, more) == (2, True)
