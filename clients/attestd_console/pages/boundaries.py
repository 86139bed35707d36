"""Boundaries: what crosses between tiers and sites, as a picture and as a table, and who guards it."""

from __future__ import annotations

from typing import Any, Final

from flask import Blueprint, Response, request

from attestd.errors import MalformedInput
from attestd_console.console import Console
from attestd_console.crossings import draw
from attestd_console.refusals import why

# What the address says, in hours, and in words.
WINDOWS: Final = {"1h": (1, "hour"), "24h": (24, "24 hours"), "7d": (168, "7 days"), "31d": (744, "31 days")}
_WINDOW: Final = "24h"
_DRAWN: Final = 500  # boundaries that the picture is made of; the rest is counted
_SHOWN, _MORE = 25, 100  # in the table, and when somebody asks for more: a page stays small
_EDGES: Final = 12


class WindowUnknown(MalformedInput):
    """There is no such window"""

    remedy = "Choose one of those that the page offers."


def routes(console: Console) -> Blueprint:
    page = Blueprint("boundaries", __name__)

    @page.get("/boundaries")
    def boundaries() -> Response:
        window = request.args.get("window") or _WINDOW
        if window not in WINDOWS:
            raise WindowUnknown(seen=repr(window[:20]), expected=", ".join(WINDOWS))
        whole = request.args.get("all") == "1"
        hours, words = WINDOWS[window]
        found: dict[str, Any] = console.api().get(
            "/v1/admin/boundaries", site=request.args.get("site"), window=hours, limit=_DRAWN
        )
        shown = found["boundaries"][: _MORE if whole else _SHOWN]
        badly = [edge for edge in found["edges"] if edge["state"] not in ("current", "disabled")]
        return console.page(
            "boundaries.html",
            topics=("proxies", "edges", "policy", "trust"),
            found=found,
            drawn=draw(found, now=console.now) if found["boundaries"] else None,
            shown=shown,
            whole=whole,
            most=_MORE,
            edges=found["edges"] if whole else (badly or found["edges"])[:_EDGES],
            badly=badly,
            window=window,
            windows=WINDOWS,
            words=words,
            why=why,
        )

    return page
