"""The first run: one command, then five steps that fill in as the device arrives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from flask import Response

from attestd_console.console import Console, Who

_ENROLLED: Final = ("active", "quarantined", "retired", "replaced")


class Fact(NamedTuple):
    """How this instance stands in one respect; `href` leads to where that is changed, as `label`."""

    tone: str
    heading: str
    detail: str
    href: str = ""
    label: str = ""


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


def facts(who: Who, makers: int, references: int) -> list[Fact]:
    """What a new instance lacks yet."""
    found = [
        Fact("ok", f"Trust domain {who.trust_domain}", "Its name is in every credential and can’t be changed later.")
    ]
    if who.passkeys == 1 and who.may("admin"):
        told = "If it is lost and there is no other admin, only the service’s machine lets you in again."
        found.append(Fact("warn", "You have one passkey", told, "/people", "Add a second"))
    if makers:
        told = "One certificate vouches for chips." if makers == 1 else f"{makers} certificates vouch for chips."
        found.append(Fact("ok", "TPM makers are trusted", told, "/authority", "Look at them"))
    else:
        told = "No chip can be vouched for until you import one: attestd trust import."
        found.append(Fact("none", "No TPM makers trusted yet", told, "/authority", "Import makers"))
    if references:
        found.append(
            Fact("ok", "There are reference values", "Boots are compared with them.", "/reference", "Look at them")
        )
    else:
        told = "Until you learn some, no boot is affirmed; the best result is none."
        found.append(Fact("none", "No reference values", told, "/reference", "Learn from a device"))
    return found


def show(console: Console, overview: Mapping[str, Any]) -> Response:
    devices = overview.get("devices") or {}
    makers = console.api().get("/v1/admin/trust").get("makers") or []
    references = console.api().get("/v1/admin/references").get("references") or []
    return console.page(
        "first_run.html",
        topics=("devices", "approvals", "attestations", "trust", "references", "people"),
        steps=steps(devices),
        waiting=int(devices.get("pending", 0)),
        server=console.service.base,
        facts=facts(console.who(), len(makers), len(references)),
        fingerprint=console.root_fingerprint(),
    )
