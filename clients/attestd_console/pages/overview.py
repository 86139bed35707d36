"""Overview. While there is no device: the one command that enrolls the first, and the steps that it takes."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from attestd_console import first_run
from attestd_console.console import Console


def routes(console: Console) -> Blueprint:
    page = Blueprint("overview", __name__)

    @page.get("/")
    def overview() -> Response:
        found: dict[str, Any] = console.api().get("/v1/admin/overview")
        if not first_run.over(found):
            return first_run.show(console, found)
        return console.page("overview.html", topics=("devices", "attestations"), found=found)

    return page
