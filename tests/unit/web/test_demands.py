"""Demands: made by operators, asked for by agents, ended by an attestation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from attestd.config import AttestationSettings
from attestd.registry import audit
from attestd.registry.engine import Connection, DatabaseBusy, Registry
from attestd.web.demands import Outstanding
from tests.service import SoftDevice, World, problem


@pytest.fixture(autouse=True)
def always_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker knows is a moment old; here, of this moment."""
    monkeypatch.setattr("attestd.web.demands._EVERY", -1.0)
    monkeypatch.setattr("attestd.web.demands._SHARE", 0)


def demanded(world: World, device_id: str) -> bool:
    answer = world.get(f"/v1/demands/{device_id}")
    assert "Replay-Nonce" not in answer.headers
    assert answer.headers["Cache-Control"] == "public, max-age=2"
    if answer.status_code == 200:
        assert answer.get_json() == {"v": 1, "attest": True}
        return True
    assert (answer.status_code, answer.data) == (204, b"")
    return False


def demand(world: World, device: SoftDevice, **said: Any) -> Any:
    return world.operator.post(f"/v1/admin/devices/{device.id}/demand", {"v": 1, "reason": "an advisory", **said})


def cohort(world: World, **said: Any) -> Any:
    return world.operator.post("/v1/admin/devices/demand", {"v": 1, **said})


# ---- One device -------------------------------------------------------------------------------------------------


def test_a_device_is_told_until_it_attested(world: World) -> None:
    device, other = world.enrolled(), world.enrolled()
    assert not demanded(world, device.id)
    assert demand(world, device).status_code == 200
    assert demanded(world, device.id)
    assert not demanded(world, other.id)
    world.clock.advance(seconds=1)
    assert device.attest().status_code == 200
    assert not demanded(world, device.id)


def test_nothing_is_renewed_soon_unless_it_attests(world: World) -> None:
    device, obedient = world.enrolled(), world.enrolled()
    for each in (device, obedient):
        answer = demand(world, each)
        until = int((world.clock() + timedelta(minutes=15)).timestamp())
        assert answer.get_json()["device"]["attestation_good_until"] == until
    world.clock.advance(minutes=14, seconds=59)
    assert obedient.attest().status_code == 200
    assert device.renew().status_code == 200
    world.clock.advance(seconds=1)
    assert problem(device.renew()) == "attestation-overdue"
    assert problem(device.token()) == "attestation-overdue"
    assert obedient.renew().status_code == 200
    assert device.attest().status_code == 200
    assert device.renew().status_code == 200


def test_how_long_is_a_setting(tmp_path: Any) -> None:
    world = World(tmp_path, attestation=AttestationSettings(demand_within=timedelta(minutes=1)))
    device = world.enrolled()
    until = int((world.clock() + timedelta(minutes=1)).timestamp())
    assert demand(world, device).get_json()["device"]["attestation_good_until"] == until
    world.close()


def test_it_stands_in_the_trail(world: World) -> None:
    device = world.enrolled()
    demand(world, device)
    with world.registry.reading() as c:
        row = audit.page(c, limit=1)[0]
    assert (row.act, row.actor, row.subject) == ("demand", "operator:operator-1", device.id)
    assert row.detail["reason"] == "an advisory"


def test_of_a_device_that_changed_meanwhile(world: World) -> None:
    device = world.enrolled()
    version = world.row(device).state_version
    assert problem(demand(world, device, expected_version=version + 1)) == "state-changed"
    assert not demanded(world, device.id)
    assert demand(world, device, expected_version=version).status_code == 200


def test_of_a_device_that_does_not_attest(world: World) -> None:
    device = world.enrolled()
    assert world.operator.post(f"/v1/admin/devices/{device.id}/retire", {"v": 1}).status_code == 200
    assert problem(demand(world, device)) == "transition-refused"
    assert problem(world.operator.post("/v1/admin/devices/nobody/demand", {"v": 1})) == "unknown-device"


def test_a_viewer_demands_nothing(world: World) -> None:
    device = world.enrolled()
    answer = world.viewer.post(f"/v1/admin/devices/{device.id}/demand", {"v": 1})
    assert (answer.status_code, problem(answer)) == (403, "role-too-low")
    assert not demanded(world, device.id)


# ---- Cohorts ----------------------------------------------------------------------------------------------------


def test_a_cohort_in_one_act(world: World) -> None:
    one, two = (world.enrolled(site="shop-2", labels={"ring": "canary"}) for _ in range(2))
    other = world.enrolled()
    answer = cohort(world, site="shop-2", labels={"ring": "canary"}, reason="an advisory")
    assert answer.get_json() == {"v": 1, "demanded": sorted([one.id, two.id]), "after": None}
    assert [demanded(world, each.id) for each in (one, two, other)] == [True, True, False]
    with world.registry.reading() as c:
        rows = [(row.act, row.subject) for row in audit.page(c, limit=2)]
    assert sorted(rows) == sorted([("demand", one.id), ("demand", two.id)])


def test_named_devices_all_or_none(world: World) -> None:
    one, two, three = (world.enrolled() for _ in range(3))
    assert problem(cohort(world, ids=[one.id, "nobody"])) == "unknown-device"
    assert world.operator.post(f"/v1/admin/devices/{three.id}/retire", {"v": 1}).status_code == 200
    assert problem(cohort(world, ids=[one.id, three.id])) == "transition-refused"
    assert not demanded(world, one.id)
    assert cohort(world, ids=[one.id, two.id]).status_code == 200
    assert demanded(world, one.id)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({}, "no-cohort"),
        ({"labels": {}}, "no-cohort"),
        ({"ids": []}, "no-cohort"),
        ({"tier": "moon"}, "malformed-name"),
        ({"site": "Shop 2"}, "malformed-name"),
        ({"labels": {"a b": "c"}}, "malformed-labels"),
        ({"ids": ["x"] * 251}, "input-too-large"),
        ({"site": "shop-1", "everybody": True}, "malformed-json"),
    ],
)
def test_what_is_no_cohort(world: World, said: dict[str, Any], name: str) -> None:
    world.enrolled()
    assert problem(cohort(world, **said)) == name


def test_the_longest_list_of_ids_fits_into_the_door(world: World) -> None:
    assert problem(cohort(world, ids=[f"{number:064d}" for number in range(250)])) == "unknown-device"


# ---- What a worker knows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["nobody", "..", "a" * 3000, "Ä%00", "%20"])
def test_nobody_looks_like_somebody_who_need_not_attest(world: World, id: str) -> None:
    device = world.enrolled()
    known, unknown = world.get(f"/v1/demands/{device.id}"), world.get(f"/v1/demands/{id}")
    differ = {"X-Request-Id", "Date"}
    assert unknown.status_code == known.status_code == 204
    assert {k: v for k, v in unknown.headers if k not in differ} == {k: v for k, v in known.headers if k not in differ}


class Looks:
    """A registry that counts how often it was asked."""

    def __init__(self, registry: Registry) -> None:
        self.registry, self.count, self.away = registry, 0, False

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        self.count += 1
        if self.away:
            raise DatabaseBusy
        with self.registry.reading() as c:
            yield c


@pytest.fixture
def looks(world: World, monkeypatch: pytest.MonkeyPatch) -> Looks:
    monkeypatch.undo()
    return Looks(world.registry)


def test_the_database_is_asked_once_a_second(world: World, looks: Looks) -> None:
    now = [100.0]
    outstanding = Outstanding(looks, lambda: now[0])  # type: ignore[arg-type]
    device = world.enrolled()
    for _ in range(1000):
        assert device.id not in outstanding
    demand(world, device)
    now[0] += 0.9
    assert device.id not in outstanding
    assert looks.count == 1
    now[0] += 0.1
    assert device.id in outstanding
    assert looks.count == 2


def test_a_look_that_takes_long_is_rarer(world: World, looks: Looks) -> None:
    now = [100.0]

    class Slow(Looks):
        @contextmanager
        def reading(self) -> Iterator[Connection]:
            with super().reading() as c:
                now[0] += 0.5
                yield c

    slow = Slow(world.registry)
    outstanding = Outstanding(slow, lambda: now[0])  # type: ignore[arg-type]
    for _ in range(9):
        assert "nobody" not in outstanding
        now[0] += 1
    assert slow.count == 1
    now[0] += 1
    assert "nobody" not in outstanding
    assert slow.count == 2


def test_what_was_known_stays_known_without_a_database(world: World, looks: Looks) -> None:
    now = [100.0]
    outstanding = Outstanding(looks, lambda: now[0])  # type: ignore[arg-type]
    device = world.enrolled()
    demand(world, device)
    assert device.id in outstanding
    looks.away = True
    now[0] += 5
    assert device.id in outstanding
    assert "nobody" not in outstanding
    assert looks.count == 2


def test_while_one_thread_looks_others_take_what_is_there(world: World, looks: Looks) -> None:
    looking, go = threading.Event(), threading.Event()

    class Held(Looks):
        @contextmanager
        def reading(self) -> Iterator[Connection]:
            looking.set()
            assert go.wait(10)
            with super().reading() as c:
                yield c

    outstanding = Outstanding(Held(world.registry))  # type: ignore[arg-type]
    thread = threading.Thread(target=lambda: "nobody" in outstanding)
    thread.start()
    assert looking.wait(10)
    assert "somebody" not in outstanding  # returns
    go.set()
    thread.join(10)
