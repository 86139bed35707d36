"""Devices that somebody picked on a page, each with the version of it that was seen: how forms carry them.

A box of a form is `device=<id>:<version>`. Where more match than a page shows, the form carries the page's filters
instead, and the devices are those that match when the preview is made: what is decided is what the preview showed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from attestd.errors import MalformedInput
from attestd_console.api import Api

MOST: Final = 1000  # devices of one act, as the service takes them
_PAGE: Final = 500
_ONE: Final = re.compile(r"([a-z0-9][a-z0-9._-]{0,63}):([1-9][0-9]{0,15})", re.ASCII)
# What a search may be narrowed by, as the fleet's own address has it.
FILTERS: Final = ("q", "state", "result", "tier", "site", "maker", "label", "overdue", "group")


class SelectionUnreadable(MalformedInput):
    """The form names no device that can be read"""

    remedy = "Nothing was done. Go back, select devices, and try again."


class TooManySelected(MalformedInput):
    """More devices are selected than one act takes"""

    remedy = f"Nothing was done. Narrow the filters until at most {MOST:,} devices match, or act in several steps."


@dataclass(frozen=True, slots=True)
class Picked:
    """One device as it was seen."""

    id: str
    version: int

    @property
    def text(self) -> str:
        return f"{self.id}:{self.version}"


def read(values: Sequence[str]) -> list[Picked]:
    """The boxes of a form. Raises SelectionUnreadable, TooManySelected."""
    if len(values) > MOST:
        raise TooManySelected(seen=len(values), expected=f"at most {MOST}")
    found = {}
    for value in values:
        match = _ONE.fullmatch(value)
        if match is None:
            raise SelectionUnreadable(seen=repr(value[:80]), expected="<id>:<version>")
        found[match[1]] = Picked(match[1], int(match[2]))
    if not found:
        raise SelectionUnreadable("Nothing is selected.")
    return list(found.values())


def matching(api: Api, filters: Mapping[str, str]) -> list[Picked]:
    """All devices that match, as they are now. Raises TooManySelected, and SelectionUnreadable if none does."""
    narrowed = {name: filters[name] for name in FILTERS if filters.get(name)}
    found: list[Picked] = []
    after: str | None = None
    while True:
        answer = api.get("/v1/admin/devices", narrowed, after=after, limit=_PAGE)
        found += [Picked(device["id"], device["state_version"]) for device in answer["devices"]]
        if len(found) > MOST:
            raise TooManySelected(seen=f"more than {MOST}", expected=f"at most {MOST}")
        after = answer["after"]
        if after is None:
            break
    if not found:
        raise SelectionUnreadable("No device matches any more.")
    return found


def message(act: str, picked: Iterable[Picked], *, reason: str = "", **more: Any) -> dict[str, Any]:
    """What `POST /v1/admin/devices/selection` takes. The same selection is always the same octets, in order of ids,
    since a touch is for these."""
    devices = [{"id": one.id, "version": one.version} for one in sorted(picked, key=lambda one: one.id)]
    return {"act": act, "devices": devices, **({"reason": reason} if reason else {}), **more}
