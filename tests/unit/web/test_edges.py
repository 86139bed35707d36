"""Edges report: each report counts once, as its sender's own, within bounds; and every edge stands as it should."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from attestd.config import EdgeSettings
from attestd.registry import audit, edges, revision
from attestd.registry.edges import MAX_SUM, MAX_TOTAL, ReportedElsewhere
from attestd.upkeep.retention import sweep
from tests.described import require_described
from tests.edge_reports import AT, LEDGER, edge_report
from tests.service import SoftDevice, World, problem

HOUR = 3600


def page(world: World, name: str = "proxy-1", **query: int) -> dict[str, Any]:
    asked = "&".join(f"{key}={value}" for key, value in query.items())
    answer = world.viewer.get(f"/v1/admin/proxies/{name}" + (f"?{asked}" if asked else ""))
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def totals(world: World, name: str = "proxy-1") -> tuple[int, int, int]:
    """Allowed, refused, missed."""
    found = page(world, name)["totals"]
    return found["allowed"], found["refused"], found["missed"]


def send(world: World, sequence: int = 1, *, caller: Any = None, **lies: Any) -> Any:
    return (caller or world.proxy).post("/v1/proxies/reports", edge_report(sequence, **lies))


def rows(world: World, act: str) -> list[dict[str, Any]]:
    with world.registry.reading() as c:
        return [dict(row.detail) for row in audit.page(c, subject="proxy-1", limit=1000) if row.act == act]


# ---- Once -------------------------------------------------------------------------------------------------------


def test_a_report_is_added_and_shown(world: World) -> None:
    answer = send(world)
    assert (answer.status_code, answer.get_json()) == (200, {"v": 1, "sequence": 1})
    found = page(world)
    assert found["totals"] == {"allowed": 2, "refused": 1, "reports": 1, "missed": 0}
    assert found["boundaries"] == [
        {"name": "field", "stale_for": 0, "allowed": 2, "refused": {"no-credential": 1}}
    ]  # fmt: skip
    assert found["hours"] == [{"at": AT // HOUR * HOUR, "boundary": "field", "allowed": 2, "refused": 1}]
    assert found["proxy"]["heard_at"] == AT


def test_a_report_that_comes_again_is_answered_alike_and_adds_nothing(world: World) -> None:
    first = send(world)
    for _ in range(2):
        again = send(world)
        assert (again.status_code, again.get_json()) == (200, first.get_json())
    assert totals(world) == (2, 1, 0)
    send(world, 2)
    assert send(world, 1).status_code == 200  # and one before the last
    assert totals(world) == (4, 2, 0)


def test_another_request_is_needed_for_each_report(world: World) -> None:
    """The signed request itself can't be replayed: its nonce is spent."""
    body = json.dumps(edge_report()).encode()
    path = "/v1/proxies/reports"
    authorization = world.proxy.authorize("POST", path, body)
    for status in (200, 401):
        answer = world.request(
            "POST", path, body, headers={"Authorization": authorization}, content_type="application/json"
        )
        assert answer.status_code == status
    assert totals(world) == (2, 1, 0)


def test_a_gap_is_taken_and_noted(world: World) -> None:
    send(world, 1)
    assert send(world, 5).status_code == 200
    assert totals(world) == (4, 2, 3)
    assert rows(world, "miss-reports") == [{"ledger": LEDGER, "first": 2, "last": 4}]
    send(world, 6)
    assert totals(world) == (6, 3, 3)
    assert len(rows(world, "miss-reports")) == 1


def test_ledgers_number_for_themselves(world: World) -> None:
    other = "2" * 32
    send(world, 1)
    send(world, 1, ledger=other)
    send(world, 2)
    assert totals(world) == (6, 3, 0)
    send(world, 1, ledger=other)
    assert totals(world) == (6, 3, 0)


def test_two_at_once_count_once(world: World) -> None:
    send(world, 1)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(send(world, 2).status_code)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers) == {200}
    assert totals(world) == (4, 2, 0)


def test_of_two_first_ones_at_once_one_is_asked_to_come_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "hold", lambda c, name, now: (_ for _ in ()).throw(ReportedElsewhere(seen=name)))
    answer = send(world)
    assert (answer.status_code, problem(answer)) == (409, "reported-elsewhere")


# ---- Whose ------------------------------------------------------------------------------------------------------


def test_a_report_is_its_sender_s_own(world: World) -> None:
    """It has no place for another's name, and another's ledger is the sender's own."""
    other = world.new_caller("proxy", "proxy-2")
    send(world)
    assert send(world, 9, caller=other).status_code == 200
    assert totals(world) == (2, 1, 0)
    assert totals(world, "proxy-2") == (2, 1, 8)
    answer = send(world, 2, proxy="proxy-2")
    assert (answer.status_code, problem(answer)) == (400, "malformed-json")
    assert totals(world) == (2, 1, 0)


def test_a_disabled_proxy_reports_nothing(world: World) -> None:
    send(world)
    assert world.admin.post("/v1/admin/proxies/proxy-1/disable", {"v": 1}).status_code == 200
    assert send(world, 2).status_code in (401, 403)
    assert totals(world) == (2, 1, 0)
    assert page(world)["proxy"]["state"] == "disabled"


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_operators_report_nothing(world: World, role: str) -> None:
    assert problem(send(world, caller=world.caller(role))) == "role-too-low"


# ---- Bounds -----------------------------------------------------------------------------------------------------


def counted(allowed: Any = 0, refused: Any = None) -> dict[str, Any]:
    return {"counts": {"field": {"allowed": allowed, "refused": {} if refused is None else refused}}}


@pytest.mark.parametrize(
    ("lie", "name"),
    [
        (counted(-1), "malformed-json"),
        (counted(10**10 + 1), "malformed-json"),
        (counted(1.5), "malformed-json"),
        (counted(True), "malformed-json"),
        (counted(refused={"x": -1}), "malformed-json"),
        (counted(refused={"x": 10**10 + 1}), "malformed-json"),
        (counted(refused={"": 1}), "report-malformed"),
        (counted(refused={"a b": 1}), "report-malformed"),
        (counted(refused={"x" * 65: 1}), "report-malformed"),
        (counted(refused={f"r{n}": 1 for n in range(33)}), "input-too-large"),
        ({"counts": {"": {"allowed": 1, "refused": {}}}}, "report-malformed"),
        ({"counts": {"a\0b": {"allowed": 1, "refused": {}}}}, "report-malformed"),
        ({"counts": {f"b{n}": {"allowed": 1, "refused": {}} for n in range(65)}}, "input-too-large"),
        ({"counts": {"field": {"allowed": 1, "refused": {}, "more": 1}}}, "malformed-json"),
        ({"counts": {"field": {"allowed": 1}}}, "malformed-json"),
        ({"sequence": 0}, "malformed-json"),
        ({"sequence": 1 << 53}, "malformed-json"),
        ({"ledger": "x" * 32}, "report-malformed"),
        ({"ledger": "1" * 33}, "input-too-large"),
        ({"since": AT + 1}, "report-malformed"),
        ({"until": -1}, "malformed-json"),
        ({"bundle": {"epoch": 0, "version": 1, "issued_at": 1}}, "malformed-json"),
        ({"bundle": {"epoch": 1, "version": 1, "issued_at": 1 << 60}}, "malformed-json"),
        ({"bundle": {"epoch": 1, "version": 1, "issued_at": 1, "x": 1}}, "malformed-json"),
        ({"bundle": 5}, "malformed-json"),
        ({"receipts_waiting": -1}, "malformed-json"),
        ({"stale_for": {"field": -1}}, "malformed-json"),
        ({"stale_for": {"field": 10**10}}, "malformed-json"),
        ({"stale_for": {f"b{n}": 1 for n in range(257)}}, "input-too-large"),
        ({"v": 2}, "unsupported-version"),
    ],
)
def test_what_is_out_of_bounds_is_refused_whole(world: World, lie: dict[str, Any], name: str) -> None:
    answer = send(world, **lie)
    assert (answer.status_code, problem(answer)) == (413 if name == "input-too-large" else 400, name)
    assert page(world)["proxy"]["state"] == "never"


def test_what_is_just_within_them_is_taken(world: World) -> None:
    counts = {f"b{n:063}": {"allowed": 10**10, "refused": {f"r{m:063}": 10**10 for m in range(32)}} for n in range(64)}
    answer = send(world, counts=counts, stale_for={f"b{n}": 1 for n in range(256)}, receipts_waiting=(1 << 53) - 1)
    assert answer.status_code == 200, answer.text
    found = page(world)
    assert found["totals"]["refused"] == 64 * 32 * 10**10
    assert len(found["boundaries"]) == 64 + 256
    assert sum(sum(each["refused"].values()) + each["allowed"] for each in found["boundaries"]) == 64 * 33 * 10**10


def test_an_hour_has_no_more_rows_than_it_may_and_loses_no_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "MAX_ROWS", 100)
    for sequence in range(1, 6):
        names = {f"r{sequence}-{n}": 1 for n in range(32)}
        assert send(world, sequence, counts={"field": {"allowed": 1, "refused": names}}).status_code == 200
    with world.registry.reading() as c:
        sums = edges.sums(c, "proxy-1", since=0)
    assert len(sums) == 101
    assert sum(sums.values()) == 5 * 33
    assert sums["other", "other"] == 5 * 32 - 99


def test_sums_stop_where_a_number_ends(world: World) -> None:
    for sequence in range(1, 13):
        assert send(world, sequence, **counted(10**10)).status_code == 200
    assert page(world)["boundaries"][0]["allowed"] == MAX_SUM
    assert totals(world) == (12 * 10**10, 0, 0)
    with world.registry.acting() as c:
        told = edges.hold(c, "proxy-1", now=AT)
        edges.keep(c, replace(told, allowed=MAX_TOTAL - 1, refused=MAX_TOTAL, missed=MAX_TOTAL - 1))
    assert send(world, 100).status_code == 200
    assert totals(world) == (MAX_TOTAL, MAX_TOTAL, MAX_TOTAL)


# ---- When -------------------------------------------------------------------------------------------------------


def test_counts_are_of_the_hour_that_they_were_counted_in(world: World) -> None:
    world.clock.advance(hours=5)
    for hours_ago in (5, 3, 0):
        until = AT + (5 - hours_ago) * HOUR
        send(world, 6 - hours_ago, since=until, until=until)
    begun = AT // HOUR * HOUR
    assert [each["at"] for each in page(world)["hours"]] == [begun + 5 * HOUR, begun + 2 * HOUR, begun]
    assert [each["at"] for each in page(world, since=AT + 3 * HOUR)["hours"]] == [begun + 5 * HOUR]
    assert page(world, since=AT + 3 * HOUR)["boundaries"][0]["allowed"] == 2
    assert page(world, since=0)["boundaries"][0]["allowed"] == 6


@pytest.mark.parametrize(("until", "counted"), [(0, -14 * 24 * HOUR), ((1 << 53) - 1, 0)])
def test_a_clock_that_is_wrong_moves_no_count_out_of_sight(world: World, until: int, counted: int) -> None:
    send(world, since=0, until=until)
    (hour,) = page(world, since=0)["hours"]
    assert hour["at"] == (AT + counted) // HOUR * HOUR


def test_hours_are_forgotten_and_totals_stay(world: World) -> None:
    send(world)
    world.clock.advance(days=14)
    assert sweep(world.registry, world.settings, now=world.clock(), pause=lambda _: None).edge_counts == 0
    world.clock.advance(hours=1)
    assert sweep(world.registry, world.settings, now=world.clock(), pause=lambda _: None).edge_counts == 2
    assert page(world, since=0)["hours"] == []
    assert totals(world) == (2, 1, 0)


# ---- How they stand ---------------------------------------------------------------------------------------------


def publish(world: World) -> dict[str, int]:
    """The newest bundle, as an edge names it that has it."""
    name = world.service.publication.bundle(world.clock()).name
    epoch, version = map(int, name.split("."))
    return {"epoch": epoch, "version": version, "issued_at": int(world.clock().timestamp())}


def standing(world: World) -> dict[str, Any]:
    (found,) = world.viewer.get("/v1/admin/proxies").get_json()["proxies"]
    return dict(found)


def test_an_edge_that_never_reported(world: World) -> None:
    world.proxy  # noqa: B018 - it is made
    assert (standing(world)["state"], standing(world)["heard_at"]) == ("never", None)


def test_an_edge_with_the_newest_bundle_is_current_and_one_without_falls_behind(world: World) -> None:
    bundle = publish(world)
    send(world, bundle=bundle)
    assert (standing(world)["state"], standing(world)["versions_behind"]) == ("current", 0)
    world.clock.advance(minutes=1)
    publish(world)
    world.clock.advance(seconds=30)
    assert standing(world)["state"] == "current"  # as long as pushing it and telling of it may take
    world.clock.advance(seconds=1)
    found = standing(world)
    assert (found["state"], found["versions_behind"], found["seconds_behind"]) == ("behind", 1, 31)
    assert found["bundle_age"] == 91
    send(world, 2, bundle=publish(world))
    assert standing(world)["state"] == "current"


def test_how_far_behind_is_told_where_nothing_between_is_kept(world: World) -> None:
    send(world, bundle=publish(world))
    for _ in range(20):
        world.clock.advance(minutes=1)
        publish(world)
    send(world, 2, bundle={"epoch": 1, "version": 1, "issued_at": AT})
    found = standing(world)
    assert (found["state"], found["versions_behind"], found["seconds_behind"]) == ("behind", 20, 20 * 60)


def test_a_bundle_of_an_epoch_that_has_ended_is_behind(world: World) -> None:
    send(world, bundle=publish(world))
    with world.registry.acting() as c:
        revision.raise_epoch(c)
    publish(world)
    world.clock.advance(minutes=1)
    send(world, 2, bundle={"epoch": 1, "version": 1, "issued_at": AT})
    found = standing(world)
    assert (found["state"], found["versions_behind"], found["seconds_behind"]) == ("behind", None, 60)


def test_an_edge_without_a_bundle_is_behind(world: World) -> None:
    send(world, bundle=None)
    assert (standing(world)["state"], standing(world)["bundle"]) == ("behind", None)


def test_an_edge_that_reports_no_more_is_silent(world: World) -> None:
    send(world, bundle=publish(world))
    world.clock.advance(minutes=3)
    assert standing(world)["state"] != "silent"
    world.clock.advance(seconds=1)
    assert standing(world)["state"] == "silent"


def test_a_report_that_was_counted_before_is_heard_all_the_same(world: World) -> None:
    send(world, bundle=publish(world))
    world.clock.advance(minutes=10)
    send(world, bundle=publish(world))
    assert (standing(world)["state"], totals(world)) == ("current", (2, 1, 0))


def test_what_went_stale_and_what_waits_is_shown(world: World) -> None:
    send(world, stale_for={"field": 70, "cloud": 0}, receipts_waiting=12)
    found = standing(world)
    assert (found["stale_boundaries"], found["receipts_waiting"]) == (1, 12)
    assert {each["name"]: each["stale_for"] for each in page(world)["boundaries"]} == {"field": 70, "cloud": 0}


def test_an_unknown_proxy_is_not_found(world: World) -> None:
    for name in ("nobody", "a%00b"):
        answer = world.viewer.get(f"/v1/admin/proxies/{name}")
        assert (answer.status_code, problem(answer)) == (404, "unknown-proxy")


# ---- Metrics ----------------------------------------------------------------------------------------------------


def test_metrics_count_edges_and_name_none(world: World) -> None:
    send(world, bundle=publish(world))
    world.new_caller("proxy", "proxy-2")
    world.clock.advance(seconds=20)
    text = world.get("/metrics").text
    assert 'attestd_edges{state="current"} 1.0' in text
    assert 'attestd_edges{state="never"} 1.0' in text
    assert "attestd_edge_oldest_bundle_seconds 20.0" in text
    assert "proxy-1" not in text


def test_metrics_name_edges_where_that_is_wanted(world: World) -> None:
    world.configure(edges=EdgeSettings(named_in_metrics=True))
    send(world, bundle=publish(world))
    world.clock.advance(seconds=20)
    assert 'attestd_edge_bundle_age_seconds{proxy="proxy-1"} 20.0' in world.get("/metrics").text


def test_a_disabled_edge_alarms_nobody(world: World) -> None:
    send(world, bundle=publish(world))
    world.admin.post("/v1/admin/proxies/proxy-1/disable", {"v": 1})
    world.clock.advance(hours=1)
    text = world.get("/metrics").text
    assert "attestd_edge_oldest_bundle_seconds 0.0" in text
    assert 'attestd_edges{state="silent"} 0.0' in text


# ---- Which edges refuse a device --------------------------------------------------------------------------------


def edge_of(world: World) -> str:
    """The name of the one edge that there is, made if there is none."""
    assert world.proxy
    (found,) = world.viewer.get("/v1/admin/proxies").get_json()["proxies"]
    return str(found["name"])


def refusing(world: World, device: SoftDevice) -> tuple[int, int, list[str]]:
    answer = world.viewer.get(f"/v1/admin/devices/{world.row(device).id}/edges")
    require_described("GET", "/v1/admin/devices/<id>/edges", answer)
    found = answer.get_json()
    return found["edges"], found["refuse"], [each["name"] for each in found["others"]]


def newest(world: World) -> dict[str, int]:
    """The bundle that edges get now, as they report it."""
    epoch, version = world.service.publication.bundle(world.clock()).name.split(".")
    return {"epoch": int(epoch), "version": int(version), "issued_at": AT}


def test_an_edge_refuses_a_device_once_it_reports_a_bundle_that_says_so(world: World) -> None:
    device, other, name = world.enrolled(), world.enrolled(), edge_of(world)
    assert refusing(world, device) == (1, 0, [name])  # it never reported
    before = newest(world)
    send(world, 1, bundle=before)
    assert refusing(world, device) == (1, 0, [name])
    world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1, "reason": "odd"})
    after = newest(world)
    assert after["version"] > before["version"]
    assert refusing(world, device) == (1, 0, [name])  # it may have got it, and did not say so yet
    send(world, 2, bundle=after)
    assert refusing(world, device) == (1, 1, [])
    assert refusing(world, other) == (1, 0, [name])
    assert refusing(world, world.enrolled()) == (1, 1, [])  # an edge lets nobody cross of whom it has not heard
    world.operator.post(f"/v1/admin/devices/{device.id}/release", {"v": 1, "reason": "looked at"})
    send(world, 3, bundle=newest(world))
    assert refusing(world, device) == (1, 0, [name])


@pytest.mark.parametrize("bundle", [None, {"epoch": 1, "version": 999, "issued_at": AT}])
def test_of_an_edge_whose_bundle_is_not_known_nothing_is_known(world: World, bundle: dict[str, int] | None) -> None:
    device, name = world.enrolled(), edge_of(world)
    world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1, "reason": "odd"})
    newest(world)
    send(world, 1, bundle=bundle)
    assert refusing(world, device) == (1, 0, [name])


def test_a_retired_device_is_refused_and_a_disabled_edge_does_not_count(world: World) -> None:
    device, name = world.enrolled(), edge_of(world)
    world.operator.post(f"/v1/admin/devices/{device.id}/retire", {"v": 1, "reason": "scrapped"})
    send(world, 1, bundle=newest(world))
    assert refusing(world, device) == (1, 1, [])
    world.admin.post(f"/v1/admin/proxies/{name}/disable", {"v": 1})
    assert refusing(world, device) == (0, 0, [])


def test_a_device_that_no_bundle_speaks_of(world: World) -> None:
    send(world, 1, bundle=newest(world))
    device = world.device()
    assert device.enroll().status_code == 202
    assert refusing(world, device) == (1, 0, [edge_of(world)])
    assert world.viewer.get("/v1/admin/devices/nobody/edges").status_code == 404
