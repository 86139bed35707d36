"""Boundaries as operators see them: what edges tell of them and counted there, the worst first, within bounds."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.credentials.requests import SoftwareKey
from attestd.ids import Site
from attestd.operations.guarded import MAX_GUARDED
from tests.edge_reports import AT, edge_report
from tests.service import SITE, Caller, World, problem

HOUR = 3600


def guarded(start: str = SITE, end: str = SITE, **more: Any) -> dict[str, Any]:
    return {"from": {"tier": "device", "site": start}, "to": {"tier": "edge", "site": end}, **more}


def picture(world: World, query: str = "", caller: Caller | None = None) -> dict[str, Any]:
    answer = (caller or world.viewer).get("/v1/admin/boundaries" + query)
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def tell(caller: Caller, sequence: int = 1, **lies: Any) -> None:
    answer = caller.post("/v1/proxies/reports", edge_report(sequence, **lies))
    assert answer.status_code == 200, answer.text


def proxy_at(world: World, name: str, site: str) -> Caller:
    key = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
    pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    world.service.certifying.add_proxy(name, Site(site), pem, world.act)
    return Caller(world, key)


def counts(name: str = "field", allowed: int = 0, **refused: int) -> dict[str, Any]:
    return {name: {"allowed": allowed, "refused": {reason.replace("_", "-"): n for reason, n in refused.items()}}}


# ---- What is told, and how it is added up ------------------------------------------------------------------------


def test_a_boundary_says_from_where_to_where_and_what_was_refused(world: World) -> None:
    tell(world.proxy, boundaries={"field": guarded(receipts="allowed", max_staleness=900, when_stale="telemetry")})
    found = picture(world)
    assert found["boundaries"] == [
        {
            "name": "field", "site": SITE, "from": {"tier": "device", "site": SITE},
            "to": {"tier": "edge", "site": SITE}, "receipts": "allowed", "max_staleness": 900,
            "when_stale": "telemetry", "allowed": 2, "refused": 1, "reasons": {"no-credential": 1}, "stale_for": 0,
            "edges": 1, "guards": ["proxy-1"], "states": {"current": 1},
        }
    ]  # fmt: skip
    assert found["totals"] == {"boundaries": 1, "sites": 1, "allowed": 2, "refused": 1}
    assert found["others"] == {"boundaries": 0, "sites": 0, "allowed": 0, "refused": 0}
    assert (found["time"], found["window"], found["since"]) == (AT, 24, (AT - 24 * HOUR) // HOUR * HOUR)
    assert [edge["name"] for edge in found["edges"]] == ["proxy-1"]


def test_an_edge_that_does_not_tell_has_figures_and_no_ends(world: World) -> None:
    tell(world.proxy)
    [one] = picture(world)["boundaries"]
    assert (one["from"], one["to"], one["receipts"], one["allowed"]) == (None, None, None, 2)


def test_an_edge_that_stops_telling_is_remembered(world: World) -> None:
    """Its configuration did not change because an older version of it reports."""
    tell(world.proxy, 1, boundaries={"field": guarded()})
    tell(world.proxy, 2)
    [one] = picture(world)["boundaries"]
    assert one["to"] == {"tier": "edge", "site": SITE}
    assert one["receipts"] == "none"


def test_a_boundary_that_nothing_crossed_is_there_too(world: World) -> None:
    tell(world.proxy, counts={}, stale_for={}, boundaries={"field": guarded()})
    [one] = picture(world)["boundaries"]
    assert (one["allowed"], one["refused"], one["stale_for"]) == (0, 0, None)


def test_edges_of_a_site_that_guard_alike_are_one(world: World) -> None:
    other = world.new_caller("proxy", "proxy-2")
    tell(world.proxy, boundaries={"field": guarded()}, stale_for={"field": 7})
    tell(other, boundaries={"field": guarded()}, stale_for={"field": 40})
    [one] = picture(world)["boundaries"]
    assert (one["allowed"], one["refused"], one["edges"], one["stale_for"]) == (4, 2, 2, 40)
    assert one["guards"] == ["proxy-1", "proxy-2"]


def test_edges_that_guard_otherwise_are_not(world: World) -> None:
    other = world.new_caller("proxy", "proxy-2")
    tell(world.proxy, boundaries={"field": guarded()})
    tell(other, boundaries={"field": guarded(receipts="all")})
    assert len(picture(world)["boundaries"]) == 2


def test_the_worst_come_first_and_the_rest_is_summed_up(world: World) -> None:
    """Refusals count by their share: one of one is a slip, ninety of a hundred is a trouble."""
    said = {"slip": guarded(), "trouble": guarded(), "busy": guarded(), "quiet": guarded()}
    tell(
        world.proxy,
        boundaries=said,
        stale_for={},
        counts=counts("slip", 0, no_credential=1) | counts("trouble", 10, crossing_denied=90)
        | counts("busy", 100_000, no_credential=95) | counts("quiet", 3),
    )  # fmt: skip
    found = picture(world)
    assert [one["name"] for one in found["boundaries"]] == ["trouble", "slip", "busy", "quiet"]
    cut = picture(world, "?limit=1")
    assert [one["name"] for one in cut["boundaries"]] == ["trouble"]
    assert cut["others"] == {"boundaries": 3, "sites": 1, "allowed": 100_003, "refused": 96}
    assert cut["totals"] == found["totals"] == {"boundaries": 4, "sites": 1, "allowed": 100_013, "refused": 186}


def test_a_site_is_looked_at_alone(world: World) -> None:
    away = proxy_at(world, "edge-far", "far")
    tell(world.proxy, boundaries={"field": guarded()})
    tell(away, boundaries={"field": guarded("far", "far")}, counts=counts(allowed=5))
    assert {one["site"] for one in picture(world)["boundaries"]} == {SITE, "far"}
    found = picture(world, "?site=far")
    assert [one["allowed"] for one in found["boundaries"]] == [5]
    assert found["totals"]["allowed"] == 5
    assert [edge["name"] for edge in found["edges"]] == ["edge-far"]
    assert found["sites"] == ["far", SITE]
    assert picture(world, "?site=nowhere")["boundaries"] == []


def test_only_the_window_counts(world: World) -> None:
    tell(world.proxy, boundaries={"field": guarded()})
    world.clock.advance(hours=3)
    assert picture(world, "?window=1")["totals"]["allowed"] == 0
    assert picture(world, "?window=3")["totals"]["allowed"] == 2


def test_edges_that_stand_badly_come_first(world: World) -> None:
    tell(world.proxy, boundaries={"field": guarded()})
    proxy_at(world, "never-heard", SITE)
    world.clock.advance(hours=1)
    tell(world.new_caller("proxy", "a-good-one"), bundle=None, boundaries={}, counts={}, stale_for={})
    found = picture(world)
    assert [edge["name"] for edge in found["edges"]] == ["proxy-1", "a-good-one", "never-heard"]
    assert found["states"] == {"silent": 1, "behind": 1, "never": 1}
    assert found["boundaries"][0]["states"] == {"silent": 1}


def test_a_disabled_edge_guards_nothing_and_what_it_counted_stays(world: World) -> None:
    tell(world.proxy, boundaries={"field": guarded(), "other": guarded()})
    assert world.admin.post("/v1/admin/proxies/proxy-1/disable", {"v": 1}).status_code == 200
    assert [(one["name"], one["allowed"]) for one in picture(world)["boundaries"]] == [("field", 2)]


# ---- Lies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lie",
    [
        {"<script>": guarded()},
        {"field\u202e": guarded()},
        {"field\n": guarded()},
        {"": guarded()},
        {"field": guarded(start="a" * 65)},
        {"field": guarded(start="<b>")},
        {"field": guarded() | {"to": {"tier": "edge"}}},
        {"field": guarded() | {"to": {"tier": "moon", "site": SITE}}},
        {"field": guarded(receipts="some")},
        {"field": guarded(receipts="none")},
        {"field": guarded(max_staleness=0)},
        {"field": guarded(max_staleness="900")},
        {"field": guarded(max_staleness=1 << 60)},
        {"field": guarded(when_stale="a b")},
        {"field": guarded(labels={"class": "secret"})},
        {"field": guarded() | {"from": {"tier": "device", "site": SITE, "more": 1}}},
        {"field": None},
        ["field"],
    ],
    ids=repr,
)
def test_a_boundary_that_is_not_one_is_refused_and_nothing_is_counted(world: World, lie: Any) -> None:
    answer = world.proxy.post("/v1/proxies/reports", edge_report(boundaries=lie))
    assert answer.status_code in (400, 413), answer.text
    assert picture(world)["boundaries"] == []


def test_an_edge_tells_only_so_many(world: World) -> None:
    def of(count: int) -> dict[str, Any]:
        return {f"b-{number}": guarded() for number in range(count)}

    tell(world.proxy, 1, boundaries=of(MAX_GUARDED))
    answer = world.proxy.post("/v1/proxies/reports", edge_report(2, boundaries=of(MAX_GUARDED + 1)))
    assert (answer.status_code, problem(answer)) == (413, "input-too-large")


@pytest.mark.parametrize(
    "query",
    ["?window=0", "?window=745", "?window=-1", "?window=x", "?limit=0", "?limit=1001", "?site=%3Cb%3E", "?site=%00",
     "?unknown=1", "?window=1&window=2", "?site=" + "a" * 65],
)  # fmt: skip
def test_an_odd_query_is_refused(world: World, query: str) -> None:
    assert world.viewer.get("/v1/admin/boundaries" + query).status_code == 400
