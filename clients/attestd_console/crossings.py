"""The picture of tiers, sites and crossings, laid out for any fleet: what is where, how wide, and in which words.

Three lanes, one for each tier; a row for each site that wants to be looked at, the worst first, and one for all others.
Nothing here is markup: a template draws it. Every line of the picture is also a row of the table below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

from attestd_console.figures import count, share, span
from attestd_console.traffic import Flow, Place, Said, clouds_of, places_of, rank, told_of

ROWS: Final = 4  # sites that are drawn one by one
OTHERS: Final = "\N{BULLET}others"  # no site is called so
TROUBLE: Final = 0.001  # of all: from here on a share of refusals is marked
WIDEST, THINNEST = 10.0, 1.4
_TOP, _HEIGHT, _STEP = 52, 70, 90
_LANES: Final = {"device": (14, 222), "edge": (444, 252), "cloud": (904, 222)}  # left edge and width of its boxes
_ORDER: Final = {"device": 0, "edge": 1, "cloud": 2}
_LABELS: Final = 3  # lines from one box that have words; the table has all
_SPREAD: Final = 24  # between lines that begin at one box
_LONGEST: Final = 26  # characters of a name in a box


@dataclass(slots=True)
class Box:
    """One site in one tier."""

    tier: str
    x: int
    y: int
    width: int
    title: str
    whole: str  # the title, uncut
    sub: str
    tone: str = ""  # of what stands beside the title
    shape: str = ""
    words: str = ""
    href: str = ""
    leaving: int = 0  # lines that begin here, one below the other
    drawn: int = 0  # of them, so far

    @property
    def middle(self) -> int:
        return self.y + _HEIGHT // 2


@dataclass(frozen=True, slots=True)
class Line:
    """Crossings from one box to another. `refused`: the path of the dashed line, where too many were."""

    path: str
    width: float
    refused: str
    label: str
    alone: bool  # what was refused stands below it; else beside it
    label_x: float
    label_y: float
    anchor: str
    said: str  # how many were refused
    said_y: float
    trouble: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """An edge that is not heard: what it does now is not known here."""

    path: str
    x: int
    y: float
    words: str


@dataclass(frozen=True, slots=True)
class Lane:
    """A tier."""

    name: str
    x: int
    width: int
    left: int
    right: int
    words: str


@dataclass(slots=True)
class Drawn:
    """The wide picture; `stack` is the narrow one, tier below tier."""

    height: int
    lanes: list[Lane]
    boxes: list[Box]
    lines: list[Line]
    cuts: list[Cut]
    stack: list[Tier]
    told: str
    untold: int  # boundaries whose edges do not say from where to where


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier of the narrow picture, and the way down from it."""

    name: str
    sub: str
    y: int
    trouble: str
    width: float
    crossed: str
    refused: str
    marked: bool


def draw(page: Said, *, now: float, rows: int = ROWS) -> Drawn:
    """From the answer about boundaries."""
    told = told_of(page)
    places = places_of(told, page["edges"])
    # A site is drawn in a row of its own across both of the lower tiers; the cloud's sites stand for themselves.
    ranked = sorted(places, key=lambda name: rank(places[name], name))
    shown = ranked if len(ranked) <= rows + 1 else ranked[:rows]
    clouds = clouds_of(told)
    heights = max(rows + 1, len(shown) + 1)
    kept = list(clouds) if len(clouds) <= heights else list(clouds)[: heights - 1]

    def spot(tier: str, end: Said, site: str) -> tuple[str, str]:
        named = str(end.get("site") or site)
        if tier == "cloud":
            return tier, named if named in kept else OTHERS
        return tier, named if named in shown else OTHERS

    flows: dict[tuple[tuple[str, str], tuple[str, str]], Flow] = {}
    for one in told:
        start, end = one["from"], one["to"]
        key = spot(start["tier"], start, one["site"]), spot(end["tier"], end, one["site"])
        flows.setdefault(key, Flow()).add(one)
    boxes = _boxes(flows, shown, kept, places, page)
    used = max((box.y for box in boxes.values()), default=_TOP)
    return Drawn(
        height=used + _HEIGHT + 16,
        lanes=_lanes(page, places),
        boxes=list(boxes.values()),
        lines=_lines(flows, boxes),
        cuts=_cuts(boxes, page["edges"], now),
        stack=_stack(page, places),
        told=_told(page),
        untold=sum(1 for each in page["boundaries"] if not (each["from"] and each["to"])),
    )


def _boxes(
    flows: Mapping[tuple[tuple[str, str], tuple[str, str]], Flow],
    shown: Sequence[str],
    kept: Sequence[str],
    places: Mapping[str, Place],
    page: Said,
) -> dict[tuple[str, str], Box]:
    wanted = {spot for key in flows for spot in key}
    bundles = {edge["site"]: edge for edge in reversed(page["edges"]) if edge["bundle"]}
    found: dict[tuple[str, str], Box] = {}
    for tier, names in (("device", shown), ("edge", shown), ("cloud", kept)):
        x, width = _LANES[tier]
        rows = [*names, OTHERS]
        # The cloud's few boxes stand in the middle of the picture's height.
        here = [name for name in rows if (tier, name) in wanted]
        rest = len(shown) + (1 if any(name == OTHERS for _, name in wanted) else 0) - len(here)
        first = max(0, rest) / 2 if tier == "cloud" else 0.0
        for number, name in enumerate(here if tier == "cloud" else rows):
            if (tier, name) not in wanted:
                continue
            y = round(_TOP + (first + number) * _STEP)
            if name == OTHERS:
                left = len(places) - len(shown) if tier != "cloud" else len(clouds_of(told_of(page))) - len(kept)
                box = Box(tier, x, y, width, _others(left), _others(left), "all together")
            else:
                box = Box(tier, x, y, width, _cut(name), name, "", href=name if tier != "cloud" else "")
                _describe(box, tier, places.get(name), bundles.get(name))
            found[tier, name] = box
    return found


def _describe(box: Box, tier: str, place: Place | None, edge: Said | None) -> None:
    if tier != "edge" or place is None:
        box.sub = {"device": "devices of this site", "edge": "edge tier", "cloud": "cloud tier"}[tier]
        return
    number = place.count
    edges = _many(number, "edge") if number else "guarded elsewhere"
    box.sub = edges if edge is None else f"bundle {count(edge['bundle']['version'])}, {edges}"
    if place.stale:
        box.tone, box.shape, box.words = "warn", "warn", f"stale {span(place.stale)}"


def _lines(
    flows: Mapping[tuple[tuple[str, str], tuple[str, str]], Flow], boxes: Mapping[tuple[str, str], Box]
) -> list[Line]:
    most = max((flow.all for flow in flows.values()), default=0)
    found = []
    for start, _ in flows:
        boxes[start].leaving += 1
    for (start, end), flow in sorted(flows.items(), key=lambda item: (boxes[item[0][1]].y, -item[1].all)):
        found.append(_line(boxes[start], boxes[end], flow, most, same=start == end))
    return found


def _line(start: Box, end: Box, flow: Flow, most: int, *, same: bool) -> Line:
    width = round(THINNEST + (WIDEST - THINNEST) * sqrt(flow.all / most), 1) if most else THINNEST
    trouble = bool(flow.refused and flow.refused / flow.all >= TROUBLE)
    turn, start.drawn = start.drawn, start.drawn + 1
    onward = _ORDER[end.tier] > _ORDER[start.tier]
    spread = min(_SPREAD, (_HEIGHT - 12) / start.leaving)
    y1 = start.middle + round((turn - (start.leaving - 1) / 2) * spread)
    y2 = end.middle
    gap = width / 2 + 4
    if onward:
        x1, x2 = start.x + start.width, end.x
    elif end.tier == start.tier:
        x1 = x2 = start.x + start.width
    else:
        x1, x2 = start.x, end.x + end.width

    def path(by: float) -> str:
        a, b = y1 + by, y2 + by
        if end.tier == start.tier:  # beside its lane
            low, high = (a, b) if not same else (a - 14, b + 14)
            return f"M{x1} {low:g}C{x1 + 64} {low:g},{x1 + 64} {high:g},{x1} {high:g}"
        if a == b:
            return f"M{x1} {a:g}H{x2}"
        bend = (x2 - x1) / 2
        return f"M{x1} {a:g}C{x1 + bend:g} {a:g},{x2 - bend:g} {b:g},{x2} {b:g}"

    level = onward and y1 == y2
    side = 16 if onward or end.tier == start.tier else -16
    # Between two lower tiers there is room below the line; elsewhere all stands in one row.
    alone = level and end.tier == "edge"
    label_x = (x1 + x2) / 2 if alone else x1 + side
    anchor = "middle" if alone else ("start" if side > 0 else "end")
    refused = f"{share(flow.refused, flow.all)} refused" if flow.refused else ""
    above = round(y1 - width / 2 - 5, 1)
    return Line(
        path=path(0),
        width=width,
        refused=path(gap) if trouble else "",
        label=count(flow.all) if turn < _LABELS else "",
        alone=alone,
        label_x=label_x,
        label_y=round(y1 + width / 2 + 14, 1) if onward and y2 < y1 else above,  # the line goes up: below it is room
        anchor=anchor,
        said=refused,
        said_y=round(y1 + width / 2 + 18, 1),
        trouble=trouble,
    )


def _cuts(boxes: Mapping[tuple[str, str], Box], edges: Iterable[Said], now: float) -> list[Cut]:
    """From each edge's box towards the cloud, where nobody of the site was heard for a while."""
    silent: dict[str, int] = {}
    heard: set[str] = set()
    for edge in edges:
        if edge["state"] == "silent":
            silent[edge["site"]] = max(silent.get(edge["site"], 0), int(edge["heard_at"] or 0))
        elif edge["state"] in ("current", "behind"):
            heard.add(edge["site"])
    found = []
    for (tier, name), box in boxes.items():
        if tier == "edge" and name in silent and name not in heard:
            x, y = box.x + box.width, box.y + _HEIGHT - 5
            words = f"not heard for {span(now - silent[name])}"
            found.append(Cut(f"M{x} {y}H{_LANES['cloud'][0] - 14}", x + 16, y + 14, words))
    return found


def _lanes(page: Said, places: Mapping[str, Place]) -> list[Lane]:
    edges = sum(page["states"].get(state, 0) for state in ("current", "behind", "silent", "never"))
    words = {
        "device": _many(len(places), "site"),
        "edge": _many(edges, "edge"),
        "cloud": _many(len(clouds_of(told_of(page))), "site"),
    }
    return [Lane(tier, x - 14, width + 28, x + 4, x + width - 4, words[tier]) for tier, (x, width) in _LANES.items()]


def _stack(page: Said, places: Mapping[str, Place]) -> list[Tier]:
    """Tier below tier, with what goes down from each to the next."""
    sums: dict[tuple[str, str], Flow] = {}
    for way in page["ways"]:
        if way["from"] and way["to"]:
            sums.setdefault((way["from"], way["to"]), Flow()).add(way)
    most = max((flow.all for flow in sums.values()), default=0)
    silent = page["states"].get("silent", 0)
    edges = sum(page["states"].get(state, 0) for state in ("current", "behind", "silent", "never"))
    subs = {
        "device": _many(len(places), "site"),
        "edge": _many(edges, "edge"),
        "cloud": ", ".join(list(clouds_of(told_of(page)))[:2]) or "nothing goes there",
    }
    found = []
    for number, (tier, below) in enumerate((("device", "edge"), ("edge", "cloud"), ("cloud", ""))):
        flow = sums.get((tier, below), Flow())
        past = sums.get(("device", "cloud"), Flow()) if tier == "device" else Flow()
        crossed = f"{count(flow.all)} crossings" if flow.all else "nothing crossed"
        if past.all:
            crossed += f", {count(past.all)} on to the cloud"
        found.append(
            Tier(
                tier,
                subs[tier],
                1 + number * 134,
                f"{count(silent)} not heard" if tier == "edge" and silent else "",
                round(THINNEST + (WIDEST - THINNEST) * sqrt(flow.all / most), 1) if most else THINNEST,
                crossed if below else "",
                f"{share(flow.refused, flow.all)} refused" if flow.refused else "",
                bool(flow.refused and flow.refused / flow.all >= TROUBLE),
            )
        )
    return found


def _told(page: Said) -> str:
    """The picture in words, for who does not see it."""
    totals = page["totals"]
    whole = totals["allowed"] + totals["refused"]
    parts = [f"{count(whole)} crossings, {share(totals['refused'], whole)} of them refused"] if whole else []
    parts += [
        f"{way['from']} to {way['to']}: {count(way['allowed'] + way['refused'])}, "
        f"{share(way['refused'], way['allowed'] + way['refused'])} refused"
        for way in page["ways"]
        if way["from"] and way["allowed"] + way["refused"]
    ]
    if silent := page["states"].get("silent", 0):
        parts.append(f"{_many(silent, 'edge')} {'is' if silent == 1 else 'are'} not heard")
    return ". ".join(parts) + "." if parts else "Nothing crossed."


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 9]}…{name[-8:]}"


def _others(number: int) -> str:
    return _many(number, "other site")


def _many(number: int, what: str) -> str:
    return f"{count(number)} {what}{'' if number == 1 else 's'}"
