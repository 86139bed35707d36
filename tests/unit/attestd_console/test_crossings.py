"""The picture of crossings: for any fleet, the worst first, nothing on top of anything else, nothing made up."""

from __future__ import annotations

import re
from typing import Any

import pytest

from attestd_console.crossings import ROWS, Drawn, draw

NOW = 1_780_000_000


def boundary(name: str, start: str, end: str, allowed: int = 0, refused: int = 0, **more: Any) -> dict[str, Any]:
    """`start` and `end`: tier/site."""

    def read(text: str) -> dict[str, str]:
        tier, _, site = text.partition("/")
        return {"tier": tier} | ({"site": site} if site else {})

    said = {
        "name": name, "site": read(end).get("site", "here") if read(end)["tier"] != "cloud" else read(start)["site"],
        "from": read(start), "to": read(end), "receipts": "none", "max_staleness": None, "when_stale": None,
        "allowed": allowed, "refused": refused, "reasons": {}, "stale_for": 0, "edges": 1, "guards": [f"edge-{name}"],
        "states": {"current": 1},
    }  # fmt: skip
    return said | more


def page(*boundaries: dict[str, Any], edges: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    ways: dict[tuple[str, str], list[int]] = {}
    for each in boundaries:
        if each["from"] and each["to"]:
            sums = ways.setdefault((each["from"]["tier"], each["to"]["tier"]), [0, 0, 0])
            for place, number in enumerate((1, each["allowed"], each["refused"])):
                sums[place] += number
    return {
        "boundaries": list(boundaries),
        "edges": edges or [],
        "states": {"current": 1},
        "totals": {
            "boundaries": len(boundaries), "sites": 1, "allowed": sum(b["allowed"] for b in boundaries),
            "refused": sum(b["refused"] for b in boundaries),
        },
        "ways": [
            {"from": start, "to": end, "boundaries": n, "allowed": a, "refused": r}
            for (start, end), (n, a, r) in ways.items()
        ],
    } | more  # fmt: skip


def titles(drawn: Drawn, tier: str) -> list[str]:
    return [box.title for box in sorted(drawn.boxes, key=lambda box: box.y) if box.tier == tier]


def fleet(sites: int) -> list[dict[str, Any]]:
    """Each site lets 1000 in, and refuses its number; each sends on to one of two clouds."""
    found = []
    for n in range(sites):
        found.append(boundary(f"in-{n}", f"device/s-{n}", f"edge/s-{n}", 1000, n))
        found.append(boundary(f"up-{n}", f"edge/s-{n}", f"cloud/c-{n % 2}", 10))
    return found


def test_one_boundary_is_two_boxes_and_a_line() -> None:
    drawn = draw(page(boundary("field", "device/shop", "edge/shop", 7)), now=NOW)
    assert (titles(drawn, "device"), titles(drawn, "edge"), titles(drawn, "cloud")) == (["shop"], ["shop"], [])
    [line] = drawn.lines
    assert (line.label, line.said, line.refused) == ("7", "", "")
    assert re.fullmatch(r"M236 \d+H444", line.path)


def test_the_worst_sites_have_rows_and_the_rest_is_one() -> None:
    drawn = draw(page(*fleet(40)), now=NOW)
    assert titles(drawn, "edge") == ["s-39", "s-38", "s-37", "s-36", "36 other sites"]
    assert titles(drawn, "device") == titles(drawn, "edge")
    assert titles(drawn, "cloud") == ["c-0", "c-1"]
    rest = next(line for line in drawn.lines if line.width == 10)
    assert rest.label == f"{sum(1000 + n for n in range(36)):,}"


def test_a_fleet_that_fits_is_drawn_whole() -> None:
    drawn = draw(page(*fleet(ROWS + 1)), now=NOW)
    assert len(titles(drawn, "edge")) == ROWS + 1
    assert not any("other" in title for title in titles(drawn, "edge"))


@pytest.mark.parametrize("sites", [1, 2, 3, 5, 7, 200])
def test_no_box_stands_on_another_and_all_stand_in_the_picture(sites: int) -> None:
    drawn = draw(page(*fleet(sites)), now=NOW)
    for one in drawn.boxes:
        assert 0 <= one.y <= drawn.height - 70
        for other in drawn.boxes:
            assert one is other or one.tier != other.tier or abs(one.y - other.y) >= 70


def test_many_clouds_are_bounded_too() -> None:
    many = [boundary(f"up-{n}", "edge/shop", f"cloud/c-{n:02}", 100 - n) for n in range(30)]
    drawn = draw(page(*many), now=NOW)
    clouds = titles(drawn, "cloud")
    assert len(clouds) == ROWS + 1
    assert clouds[0] == "c-00"
    assert clouds[-1] == f"{30 - ROWS} other sites"
    assert sum(1 for line in drawn.lines if line.label) <= 3  # the rest is in the table


def test_a_line_is_as_wide_as_what_crosses_there() -> None:
    drawn = draw(page(boundary("a", "device/a", "edge/a", 10_000), boundary("b", "device/b", "edge/b", 100)), now=NOW)
    wide, thin = sorted((line.width for line in drawn.lines), reverse=True)
    assert wide == 10
    assert 1.4 <= thin < 3


def test_refusals_are_marked_by_a_dashed_line_and_in_words_from_a_thousandth_on() -> None:
    drawn = draw(
        page(boundary("a", "device/a", "edge/a", 999, 1), boundary("b", "device/b", "edge/b", 1999, 1)), now=NOW
    )
    marked = {line.label: (bool(line.refused), line.trouble, line.said) for line in drawn.lines}
    assert marked == {"1,000": (True, True, "0.10 % refused"), "2,000": (False, False, "0.05 % refused")}


def test_an_edge_that_is_not_heard_is_a_broken_line_and_comes_first() -> None:
    said = boundary("b", "device/far", "edge/far", 1, states={"silent": 1}, guards=["edge-far"])
    silent = {
        "name": "edge-far", "site": "far", "state": "silent", "heard_at": NOW - 7920,
        "bundle": {"epoch": 1, "version": 1198, "issued_at": NOW - 7920},
    }  # fmt: skip
    drawn = draw(page(boundary("a", "device/a", "edge/a", 10, 90), said, edges=[silent]), now=NOW)
    assert titles(drawn, "edge") == ["far", "a"]
    assert [cut.words for cut in drawn.cuts] == ["not heard for 2 h 12 min"]
    assert "bundle 1,198, 1 edge" in {box.sub for box in drawn.boxes}


def test_a_site_of_which_one_edge_is_heard_is_not_cut_off() -> None:
    edges = [
        {"name": name, "site": "a", "state": state, "heard_at": NOW - 900, "bundle": None}
        for name, state in (("one", "silent"), ("two", "current"))
    ]
    assert draw(page(boundary("a", "device/a", "edge/a", 1), edges=edges), now=NOW).cuts == []


def test_what_is_not_told_is_not_drawn() -> None:
    untold = boundary("b", "device/b", "edge/b", 5) | {"from": None, "to": None}
    drawn = draw(page(boundary("a", "device/a", "edge/a", 1), untold), now=NOW)
    assert (titles(drawn, "edge"), drawn.untold) == (["a"], 1)


def test_ways_back_and_between_edges_have_lines_too() -> None:
    drawn = draw(
        page(
            boundary("down", "cloud/c", "edge/a", 3),
            boundary("across", "edge/b", "edge/a", 4),
            boundary("home", "edge/a", "edge/a", 5),
            boundary("straight", "device/a", "cloud/c", 6, site="a"),
        ),
        now=NOW,
    )
    assert sorted(line.label for line in drawn.lines) == ["3", "4", "5", "6"]
    assert all(line.path.startswith("M") for line in drawn.lines)


def test_any_site_is_the_site_of_the_edge() -> None:
    assert titles(draw(page(boundary("a", "device", "edge/a", 1)), now=NOW), "device") == ["a"]


def test_long_names_are_cut_in_the_middle_and_kept_whole_beside() -> None:
    name = "a-very-long-name-of-a-site-" + "x" * 30 + "-0001"
    [box, _] = draw(page(boundary("a", f"device/{name}", f"edge/{name}", 1)), now=NOW).boxes
    assert len(box.title) <= 26
    assert box.title.endswith("-0001")
    assert box.whole == name


def test_it_is_said_in_words() -> None:
    drawn = draw(page(boundary("a", "device/a", "edge/a", 90, 10)), now=NOW)
    assert drawn.told == "100 crossings, 10.0 % of them refused. device to edge: 100, 10.0 % refused."
    assert [(tier.name, tier.crossed, tier.refused, tier.marked) for tier in drawn.stack] == [
        ("device", "100 crossings", "10.0 % refused", True),
        ("edge", "nothing crossed", "", False),
        ("cloud", "", "", False),
    ]
