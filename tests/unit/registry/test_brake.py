"""The brake: so many quarantines a minute and no more, exactly, whoever else is at it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count

import pytest
from sqlalchemy import update

from attestd.errors import Conflict
from attestd.ids import DeviceId
from attestd.registry import brake
from attestd.registry.acts import Step, perform
from attestd.registry.brake import BrakeEngaged, BrakeLimit, BrakeReleased
from attestd.registry.engine import Registry
from attestd.registry.spends import AlreadySpent, spending
from attestd.registry.states import State
from attestd.registry.tables import devices

from .conftest import NOW, RESULT, Fleet

LIMIT = 3
_numbers = count(1)


def by_act(registry: Registry, *steps: Step) -> None:
    registry.act(*steps)


def by_steps(registry: Registry, *steps: Step) -> None:
    with registry.acting() as c:
        perform(c, *steps)


CarryOut = Callable[..., None]


@pytest.fixture(params=[by_act, by_steps], ids=["act", "step by step"])
def carry_out(request: pytest.FixtureRequest) -> CarryOut:
    return request.param  # type: ignore[no-any-return]


def one(*, now: int = NOW, limit: int = LIMIT) -> tuple[Step, ...]:
    return brake.quarantining(DeviceId(f"device-{next(_numbers)}"), limit=limit, now=now)


def engage(registry: Registry) -> None:
    with registry.acting() as c:
        brake.take(c)
        brake.engage(c, by="ada", reason="test", now=NOW)


def recent(registry: Registry, now: int = NOW) -> int:
    with registry.reading() as c:
        return brake.recent(c, now=now)


# ---- The limit --------------------------------------------------------------------------------------------------


def test_so_many_and_no_more(registry: Registry, carry_out: CarryOut) -> None:
    for _ in range(LIMIT):
        carry_out(registry, *one())
    with pytest.raises(BrakeLimit):
        carry_out(registry, *one())
    assert recent(registry) == LIMIT


def test_a_minute_later_as_many_again(registry: Registry, carry_out: CarryOut) -> None:
    for _ in range(LIMIT):
        carry_out(registry, *one())
    with pytest.raises(BrakeLimit):
        carry_out(registry, *one(now=NOW + brake.WINDOW - 1))
    for _ in range(LIMIT):
        carry_out(registry, *one(now=NOW + brake.WINDOW))


def test_what_is_undone_does_not_count(registry: Registry, carry_out: CarryOut) -> None:
    """The act fails behind the count: by a nonce that was spent before."""
    spent = spending(b"nonce", purpose="nonce", request_digest=b"", now=NOW, expires_at=NOW)
    carry_out(registry, spent)
    for _ in range(LIMIT + 1):
        with pytest.raises(AlreadySpent):
            carry_out(registry, *one(), spent)
    assert recent(registry) == 0


def test_old_ones_are_forgotten(registry: Registry, carry_out: CarryOut) -> None:
    carry_out(registry, *one())
    carry_out(registry, *one(now=NOW + 3601))
    with registry.reading() as c:
        assert brake.recent(c, now=NOW) == 1  # the newer one, and not both


@pytest.mark.parametrize("ways", [(by_act,), (by_act, by_steps)], ids=["acts", "both ways"])
def test_many_at_once_are_not_more_than_the_limit(registry: Registry, url: str, ways: tuple[CarryOut, ...]) -> None:
    """Several processes' worth of connections, several threads each: exactly as many as may be."""
    others = [registry, *(Registry.open(url) for _ in range(3))]
    limit, outcomes = 10, list[str]()
    start = threading.Barrier(12)

    def run(n: int) -> None:
        mine, way = others[n % len(others)], ways[n % len(ways)]
        start.wait()
        for _ in range(5):
            try:
                way(mine, *one(limit=limit))
                outcomes.append("done")
            except Conflict as refused:
                outcomes.append(type(refused).__name__)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others[1:]:
        other.close()
    assert sorted(outcomes) == ["BrakeLimit"] * 50 + ["done"] * limit
    assert recent(registry) == limit


# ---- Engaged ----------------------------------------------------------------------------------------------------


def test_engaged_nobody(registry: Registry, carry_out: CarryOut) -> None:
    carry_out(registry, *one())
    engage(registry)
    with pytest.raises(BrakeEngaged):
        carry_out(registry, *one())
    assert recent(registry) == 1


def test_it_says_who_and_why(registry: Registry) -> None:
    with registry.reading() as c:
        assert brake.state(c) == brake.Brake(None, None, None)
    engage(registry)
    with registry.reading() as c:
        assert brake.state(c) == brake.Brake(NOW, "ada", "test")
        assert brake.state(c).engaged


def test_engaging_twice(registry: Registry) -> None:
    engage(registry)
    with pytest.raises(BrakeEngaged):
        engage(registry)


def test_released_the_count_begins_anew(registry: Registry, carry_out: CarryOut) -> None:
    for _ in range(LIMIT):
        carry_out(registry, *one())
    engage(registry)
    with registry.acting() as c:
        assert brake.take(c).engaged
        assert brake.release(c) == 0
    assert recent(registry) == 0
    carry_out(registry, *one())


def test_releasing_what_is_released(registry: Registry) -> None:
    with pytest.raises(BrakeReleased), registry.acting() as c:
        brake.take(c)
        brake.release(c)


def test_who_took_it_is_waited_for(registry: Registry, url: str) -> None:
    """A quarantine that begins while an operator engages finds the brake engaged."""
    other = Registry.open(url)
    outcome: list[str] = []

    def late() -> None:
        try:
            other.act(*one())
            outcome.append("done")
        except Conflict as refused:
            outcome.append(type(refused).__name__)

    thread = threading.Thread(target=late)
    with registry.acting() as c:
        brake.take(c)
        thread.start()
        thread.join(0.2)
        assert outcome == []
        brake.engage(c, by="ada", reason="", now=NOW)
    thread.join()
    other.close()
    assert outcome == ["BrakeEngaged"]


# ---- What is held -----------------------------------------------------------------------------------------------


def test_one_result_a_device_is_held_the_newest(fleet: Fleet) -> None:
    engage(fleet.registry)
    for at in (NOW, NOW + 5):
        with fleet.registry.acting() as c:
            brake.hold(c, DeviceId("one"), {**RESULT, "reasons": [str(at)]}, now=at)
    with fleet.registry.reading() as c:
        assert brake.page_held(c) == [brake.Held(DeviceId("one"), NOW + 5, {**RESULT, "reasons": [str(NOW + 5)]})]
        assert brake.count_held(c) == 1


def test_held_results_page_by_page(fleet: Fleet) -> None:
    with fleet.registry.acting() as c:
        for name in ("c", "a", "b"):
            brake.hold(c, DeviceId(name), RESULT, now=NOW)
    with fleet.registry.reading() as c:
        first = brake.page_held(c, limit=2)
        rest = brake.page_held(c, after=first[-1].device_id, limit=2)
    assert [held.device_id for held in (*first, *rest)] == ["a", "b", "c"]


def test_forgetting_one_leaves_the_others(fleet: Fleet, carry_out: CarryOut) -> None:
    with fleet.registry.acting() as c:
        for name in ("a", "b"):
            brake.hold(c, DeviceId(name), RESULT, now=NOW)
    carry_out(fleet.registry, brake.forgetting(DeviceId("a")))
    carry_out(fleet.registry, brake.forgetting(DeviceId("nobody")))
    with fleet.registry.reading() as c:
        assert [held.device_id for held in brake.page_held(c)] == ["b"]


def test_a_release_drops_what_is_held(fleet: Fleet) -> None:
    engage(fleet.registry)
    with fleet.registry.acting() as c:
        brake.hold(c, DeviceId("a"), RESULT, now=NOW)
    with fleet.registry.acting() as c:
        assert brake.release(c) == 1
        assert brake.count_held(c) == 0


# ---- What is held, beside its devices ---------------------------------------------------------------------------


def hold(registry: Registry, *ids: DeviceId) -> None:
    with registry.acting() as c:
        brake.take(c)
        for device_id in ids:
            brake.hold(c, device_id, RESULT, now=NOW)


def against(registry: Registry, *ids: DeviceId) -> list[tuple[str, int]]:
    with registry.reading() as c:
        found = brake.held_against(c, ids)
    assert all(found[device_id].device_id == device_id for device_id in found)
    return sorted((str(held.device_id), held.at) for held in found.values())


def test_what_is_held_against_the_devices_of_a_page(registry: Registry, fleet: Fleet) -> None:
    shown, other, good = (fleet.device(State.ACTIVE).id for _ in range(3))
    engage(registry)
    hold(registry, shown, other)
    assert against(registry, shown, good) == [(shown, NOW)]
    assert against(registry) == []


def test_more_devices_than_one_question_names(
    registry: Registry, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = sorted(fleet.device(State.ACTIVE).id for _ in range(5))
    engage(registry)
    hold(registry, *ids)
    monkeypatch.setattr(brake, "MAX_PAGE", 2)
    assert against(registry, *ids) == [(device_id, NOW) for device_id in ids]


def test_while_it_is_released_nothing_is_looked_for(registry: Registry, fleet: Fleet) -> None:
    """A page of devices pays one short question then."""
    device = fleet.device(State.ACTIVE).id
    hold(registry, device)
    assert against(registry, device) == []


def test_when_the_first_result_ends_that_a_held_device_lives_on_under(registry: Registry, fleet: Fleet) -> None:
    def first_end() -> int | None:
        with registry.reading() as c:
            return brake.first_end(c)

    soon, late, quarantined = (fleet.device(state) for state in (State.ACTIVE, State.ACTIVE, State.QUARANTINED))
    fleet.device(State.ACTIVE)  # nothing is held against it
    assert first_end() is None
    with registry.acting() as c:
        for device, ends in ((soon, NOW + 50), (late, NOW + 90), (quarantined, NOW + 10)):
            c.execute(update(devices).where(devices.c.id == device.id).values(attestation_good_until=ends))
    hold(registry, late.id, quarantined.id)
    assert first_end() == NOW + 90
    hold(registry, soon.id)
    assert first_end() == NOW + 50
