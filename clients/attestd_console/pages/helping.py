"""Help: the keys, and how to get back in. For everybody who is signed in."""

from __future__ import annotations

from flask import Blueprint, Response

from attestd_console.console import Console

KEYS = (
    ("/", "Search the fleet"),
    ("g o", "Overview"),
    ("g f", "Fleet"),
    ("g a", "Approvals"),
    ("g b", "Boundaries"),
    ("g p", "Policies"),
    ("g u", "Audit"),
    ("j", "Next row"),
    ("k", "Previous row"),
    ("Enter", "Open the row"),
    ("x", "Select the row"),
    ("Shift x", "Select up to the row"),
    ("Esc", "Select nothing"),
    ("c", "Copy the id"),
    ("?", "This page"),
)


def routes(console: Console) -> Blueprint:
    page = Blueprint("helping", __name__)

    @page.get("/help")
    def help_page() -> Response:
        return console.page("help.html", keys=KEYS)

    return page
