"""Nothing is done twice: keys that operators send with their changes, and what is said of the call that came first."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import select
from werkzeug.test import TestResponse

from attestd.operations import Act, Operations
from attestd.registry import once as registry_once
from attestd.registry.engine import Registry
from attestd.registry.failures import DatabaseUnreachable
from attestd.registry.tables import audit as audit_rows
from attestd.registry.tables import once as rows
from attestd.upkeep.retention import sweep
from tests.service import Caller, World, problem
from tests.soft_device import SoftDevice

KEY = "k" * 20


def quarantine(caller: Caller, device: SoftDevice, key: str = KEY, **message: Any) -> TestResponse:
    path = f"/v1/admin/devices/{device.id}/quarantine"
    return caller.post(path, {"v": 1, **message}, headers={"Idempotency-Key": key})


def noted(world: World, act: str) -> int:
    with world.registry.reading() as c:
        return len(c.execute(select(audit_rows.c.number).where(audit_rows.c.act == act)).all())


def kept(world: World) -> list[Any]:
    with world.registry.reading() as c:
        return list(c.execute(select(rows)))


def demand(caller: Caller, device: SoftDevice, key: str = KEY, **options: Any) -> TestResponse:
    """An act that could be done again and again."""
    return caller.post(f"/v1/admin/devices/{device.id}/demand", {"v": 1}, headers={"Idempotency-Key": key}, **options)


def test_the_second_call_is_refused_and_told_of_the_first(world: World) -> None:
    device = world.enrolled()
    first = demand(world.operator, device)
    assert first.status_code == 200
    second = demand(world.operator, device)
    assert (second.status_code, problem(second)) == (409, "done-already")
    assert "it was done: audit row" in second.json["detail"]
    assert second.json["seen"] == f"request {first.headers['X-Request-Id']}"
    assert noted(world, "demand") == 1


def test_without_a_key_it_is_done_as_often_as_it_is_sent(world: World) -> None:
    device = world.enrolled()
    for _ in range(2):
        answer = world.operator.post(f"/v1/admin/devices/{device.id}/demand", {"v": 1})
        assert answer.status_code == 200
    assert noted(world, "demand") == 2
    assert kept(world) == []


def test_another_key_is_another_act(world: World) -> None:
    device = world.enrolled()
    assert demand(world.operator, device).status_code == 200
    assert demand(world.operator, device, key="l" * 20).status_code == 200


def test_a_key_is_its_sender_s_own(world: World) -> None:
    device = world.enrolled()
    assert demand(world.operator, device).status_code == 200
    assert demand(world.admin, device).status_code == 200


def test_a_refused_call_frees_its_key(world: World) -> None:
    device = world.enrolled()
    assert quarantine(world.operator, device, expected_version=999).status_code == 409
    assert kept(world) == []
    assert quarantine(world.operator, device).status_code == 200


def test_who_may_not_do_it_takes_no_key(world: World) -> None:
    device = world.enrolled()
    assert quarantine(world.viewer, device).status_code == 403
    assert kept(world) == []


def test_a_key_for_another_call_is_used_up(world: World) -> None:
    device, other = world.enrolled(), world.enrolled()
    assert demand(world.operator, device).status_code == 200
    answer = demand(world.operator, other)
    assert (answer.status_code, problem(answer)) == (409, "done-already")
    assert "Something else was sent" in answer.json["detail"]
    assert noted(world, "demand") == 1


def test_a_key_for_another_body_is_used_up(world: World) -> None:
    device = world.enrolled()
    assert demand(world.operator, device).status_code == 200
    answer = world.operator.post(
        f"/v1/admin/devices/{device.id}/demand", {"v": 1, "reason": "x"}, headers={"Idempotency-Key": KEY}
    )
    assert "Something else was sent" in answer.json["detail"]
    assert noted(world, "demand") == 1


@pytest.mark.parametrize("key", ["", "k" * 15, "k" * 65, "k" * 16 + "=", "k" * 16 + " k", "ä" * 20, f"{KEY}, {KEY}"])
def test_keys_of_odd_forms(world: World, key: str) -> None:
    device = world.enrolled()
    answer = demand(world.operator, device, key=key)
    assert (answer.status_code, problem(answer)) == (400, "idempotency-key-malformed")
    assert noted(world, "demand") == 0


@pytest.mark.parametrize("key", ["k" * 16, "k" * 64, "-_" * 10])
def test_keys_of_the_widest_forms(world: World, key: str) -> None:
    assert demand(world.operator, world.enrolled(), key=key).status_code == 200


def test_reads_take_no_key(world: World) -> None:
    for _ in range(2):
        assert world.viewer.get("/v1/admin/overview", headers={"Idempotency-Key": KEY}).status_code == 200
    assert kept(world) == []


def test_what_others_send_is_not_looked_at(world: World) -> None:
    for _ in range(2):
        answer = world.proxy.post("/v1/proxies/renewals", {"v": 1}, headers={"Idempotency-Key": KEY})
        assert answer.status_code == 200
    assert kept(world) == []


def test_two_press_at_once(world: World) -> None:
    device = world.enrolled()
    world.operator.get("/v1/admin/overview")
    path, start = f"/v1/admin/devices/{device.id}/demand", threading.Barrier(4)
    statuses: list[int] = []

    def press() -> None:
        start.wait(20)
        statuses.append(world.operator.post(path, {"v": 1}, headers={"Idempotency-Key": KEY}).status_code)

    threads = [threading.Thread(target=press) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 409, 409, 409]
    assert noted(world, "demand") == 1


# ---- What dies in between -----------------------------------------------------------------------------------------


class Killed(BaseException):
    """As if the process had ended here."""


def test_the_service_ended_between_the_act_and_its_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device = world.enrolled()
    assert world.operator
    real = Operations.demand

    def act_and_die(self: Operations, *said: Any, act: Act, **more: Any) -> Any:
        real(self, *said, act=act, **more)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Operations, "demand", act_and_die)
        with pytest.raises(Killed):
            demand(world.operator, device)
    answer = demand(world.operator, device)
    assert (answer.status_code, problem(answer)) == (409, "done-already")
    assert "This was sent before" in answer.json["detail"]
    assert "it was done: audit row" in answer.json["detail"]
    assert noted(world, "demand") == 1


def test_the_service_ended_before_the_act(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device = world.enrolled()
    assert world.operator

    def die(*_said: Any, **_more: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Operations, "demand", die)
        with pytest.raises(Killed):
            demand(world.operator, device)
    answer = demand(world.operator, device)
    assert "the audit trail has nothing of it" in answer.json["detail"]
    assert noted(world, "demand") == 0


def test_an_act_whose_answer_failed_keeps_its_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit arrived, its word did not: 503 to the caller, and yet it is done."""
    device = world.enrolled()
    assert world.operator
    real = Operations.demand

    def act_and_fail(self: Operations, *said: Any, act: Act, **more: Any) -> Any:
        real(self, *said, act=act, **more)
        raise DatabaseUnreachable

    with monkeypatch.context() as patched:
        patched.setattr(Operations, "demand", act_and_fail)
        assert demand(world.operator, device).status_code == 503
    assert "it was done" in demand(world.operator, device).json["detail"]
    assert noted(world, "demand") == 1


def test_a_failure_that_did_nothing_frees_its_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device = world.enrolled()
    assert world.operator

    def fail(*_said: Any, **_more: Any) -> Any:
        raise DatabaseUnreachable

    with monkeypatch.context() as patched:
        patched.setattr(Operations, "demand", fail)
        assert demand(world.operator, device).status_code == 503
    assert demand(world.operator, device).status_code == 200


def test_a_key_that_can_not_be_settled_spoils_no_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device = world.enrolled()
    assert world.operator

    def away(*_said: Any, **_more: Any) -> Any:
        raise DatabaseUnreachable

    with monkeypatch.context() as patched:
        patched.setattr(registry_once, "settle", away)
        assert demand(world.operator, device).status_code == 200
    assert "it was done" in demand(world.operator, device).json["detail"]


def test_rows_of_an_older_request_of_the_same_name_are_not_taken_for_this_one_s(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator may give all requests one id."""
    device = world.enrolled()
    named = {"Idempotency-Key": KEY, "X-Request-Id": "the-same-for-all"}
    path = f"/v1/admin/devices/{device.id}/demand"
    assert world.operator.post(path, {"v": 1}, headers={"X-Request-Id": "the-same-for-all"}).status_code == 200

    def die(*_said: Any, **_more: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Operations, "demand", die)
        with pytest.raises(Killed):
            world.operator.post(path, {"v": 1}, headers=named)
    assert "the audit trail has nothing of it" in world.operator.post(path, {"v": 1}, headers=named).json["detail"]


def test_keys_are_forgotten_after_a_week(world: World) -> None:
    device = world.enrolled()
    assert demand(world.operator, device).status_code == 200
    world.clock.advance(days=7)
    assert sweep(world.registry, world.settings, now=world.clock(), pause=lambda _: None).once == 0
    world.clock.advance(seconds=1)
    assert sweep(world.registry, world.settings, now=world.clock(), pause=lambda _: None).once == 1
    assert kept(world) == []


def test_of_two_registries_one_takes_a_key(world: World) -> None:
    """Two processes of one service, or two services on one database."""
    other = Registry.open(world.url)
    sent = registry_once.Sent("operator:ada", KEY, b"d" * 32, "r-1", 1, 0)
    world.registry.act(registry_once.taking(sent))
    with pytest.raises(registry_once.KeyTaken):
        other.act(registry_once.taking(sent))
    other.close()
