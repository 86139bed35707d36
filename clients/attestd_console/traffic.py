"""What went where, by the answer about boundaries: how much between which places, and which of them want a look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Said = Mapping[str, Any]


@dataclass(slots=True)
class Flow:
    """How much went one way."""

    allowed: int = 0
    refused: int = 0

    @property
    def all(self) -> int:
        return self.allowed + self.refused

    def add(self, one: Said) -> None:
        self.allowed += int(one["allowed"])
        self.refused += int(one["refused"])


@dataclass(slots=True)
class Place:
    """What is known of a site."""

    weight: float = 0.0
    silent: bool = False
    stale: int = 0
    edges: set[str] = field(default_factory=set)
    count: int = 0
    crossings: int = 0


def told_of(page: Said) -> list[Said]:
    """The boundaries whose edges say from where to where."""
    return [each for each in page["boundaries"] if each["from"] and each["to"]]


def places_of(told: Iterable[Said], edges: Iterable[Said]) -> dict[str, Place]:
    """Sites of the lower tiers; the cloud's are `clouds_of`."""
    found: dict[str, Place] = {}
    for one in told:
        for end in (one["from"], one["to"]):
            if end["tier"] == "cloud":
                continue
            place = found.setdefault(str(end.get("site") or one["site"]), Place())
            whole = one["allowed"] + one["refused"]
            place.crossings += whole
            place.weight += one["refused"] ** 2 / whole if whole else 0.0
            place.stale = max(place.stale, one["stale_for"] or 0)
            if str(end.get("site") or one["site"]) == one["site"]:
                place.silent |= bool(one["states"].get("silent"))
                place.edges |= set(one["guards"])
                place.count = max(place.count, one["edges"], len(place.edges))
    for edge in edges:
        if (known := found.get(edge["site"])) is not None and edge["state"] == "silent":
            known.silent = True
    return found


def rank(place: Place, name: str) -> tuple[bool, float, int, str]:
    """Sorts places: first those that are silent or stale, then by what is refused there."""
    return not (place.silent or place.stale), -place.weight, -place.crossings, name


def clouds_of(told: Iterable[Said]) -> dict[str, int]:
    """Sites of the cloud tier, the busiest first."""
    found: dict[str, int] = {}
    for one in told:
        for end in (one["from"], one["to"]):
            if end["tier"] == "cloud":
                name = str(end.get("site") or one["site"])
                found[name] = found.get(name, 0) + one["allowed"] + one["refused"]
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
