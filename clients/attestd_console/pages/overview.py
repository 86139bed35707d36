"""Overview. While there is no device: the one command that enrolls the first, and the steps that it takes."""

from __future__ import annotations

from typing import Any, Final

from flask import Blueprint, Response

from attestd_console import first_run, outlook
from attestd_console.console import Console

_TOPICS: Final = ("devices", "attestations", "approvals", "brake", "references", "trust", "policy", "proxies", "edges")


def routes(console: Console) -> Blueprint:
    page = Blueprint("overview", __name__)

    @page.get("/")
    def overview() -> Response:
        found: dict[str, Any] = console.api().get("/v1/admin/overview")
        if not first_run.over(found):
            return first_run.show(console, found)
        now = console.now
        bars = outlook.buckets(found["results"], now)
        return console.page(
            "overview.html",
            topics=_TOPICS,
            found=found,
            lead=outlook.lead(found),
            todos=outlook.todos(found, now),
            bars=bars,
            sums=outlook.sums(bars),
            finding=outlook.finding(bars),
            refusals=outlook.refusals(found["refusals"][:8]),
            endings=outlook.endings(found["expiring"], now),
            health=outlook.health(found, now),
            worries=outlook.worries(found),
        )

    return page
