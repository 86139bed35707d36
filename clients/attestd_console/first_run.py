"""The first run: one command, then five steps that fill in as the device arrives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from flask import Response

from attestd_console.console import Console

_ENROLLED: Final = ("active", "quarantined", "retired", "replaced")


class Step(NamedTuple):
    """`state` is done, now or later."""

    name: str
    what: str
    state: str


def over(overview: Mapping[str, Any]) -> bool:
    """Whether some device has credentials, or had some."""
    devices = overview.get("devices") or {}
    return any(devices.get(state) for state in _ENROLLED)


def steps(devices: Mapping[str, int]) -> list[Step]:
    """How far the first device is. It is known here only from when it has proven its TPM: then three steps are done."""
    waits, approved = bool(devices.get("pending")), bool(devices.get("approved"))
    done = 4 if approved else 3 if waits else 0
    told = (
        ("Endorsed", "The TPM’s maker vouches for the chip"),
        ("Activated", "The chip proves that it holds the key"),
        ("Quoted", "It says what it booted"),
        ("Approved", "You say where it belongs"),
        ("Credential", "Short-lived, renewed by itself"),
    )
    return [
        Step(name, what, "done" if place < done else "now" if place == done else "later")
        for place, (name, what) in enumerate(told)
    ]


def show(console: Console, overview: Mapping[str, Any]) -> Response:
    devices = overview.get("devices") or {}
    return console.page(
        "first_run.html",
        topics=("devices", "approvals", "attestations", "trust", "references", "people"),
        steps=steps(devices),
        waiting=int(devices.get("pending", 0)),
        server=console.service.base,
        fingerprint=console.root_fingerprint(),
    )
