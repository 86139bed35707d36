"""The fleet: devices by any combination of filters, which are the page's address; by cause; and as a CSV file.

Searching is a form that is posted, and answered with the address of what was found: an EK hash is a lifelong tracker,
leads to its device, and never stands in an address or a log.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from flask import Blueprint, Response, redirect, request, stream_with_context

from attestd_console import acts, figures, reasons
from attestd_console.api import Api, Refused
from attestd_console.console import Console

FILTERS: Final = ("q", "state", "result", "tier", "site", "maker", "label", "overdue")
_SHOWN: Final = 50  # devices of a page
_EXPORTED: Final = 1000  # devices of one call
_MOST: Final = 200  # characters of a filter
_EK_HASH: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_TOPICS: Final = ("devices", "attestations", "approvals", "brake")
_COLUMNS: Final = (
    *("id", "serial_number", "state", "state_reason", "result", "tier", "site", "manufacturer", "model"),
    *("firmware_version", "labels", "attested_at", "attestation_good_until", "overdue", "held", "spiffe_id"),
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def routes(console: Console) -> Blueprint:
    page = Blueprint("fleet", __name__)

    @page.get("/fleet")
    def fleet() -> Response:
        filters = _filters(request.args)
        if _EK_HASH.fullmatch(filters.get("q", "")):  # not from our form: it shall not stay in the address
            return _to(_address({name: value for name, value in filters.items() if name != "q"}))
        if "group" in request.args:
            return _causes(console, filters)
        return _list(console, filters, request.args.get("after", ""))

    @page.post("/fleet/search")
    def search() -> Response:
        """What a search form holds becomes an address; an EK hash the address of its device."""
        filters = _filters(request.form)
        words_of_it = filters.get("q", "").strip()
        if _EK_HASH.fullmatch(words_of_it):
            try:
                found = console.api().post("/v1/admin/devices/find", {"ek_hash": words_of_it.lower()})
            except Refused as error:
                if error.status == 401:
                    raise
                return _list(console, {}, "", failed=acts.Failed.of(error))
            return _to(f"/fleet/{quote(str(found['id']), safe='')}")
        return _to(_address(filters))

    @page.get("/fleet.csv")
    def export() -> Response:
        """All that match, page by page. Who looks is known before the first octet leaves."""
        filters, api = _filters(request.args), console.api()
        first = api.get("/v1/admin/devices", {**filters, "limit": _EXPORTED})
        lines = stream_with_context(_lines(api, filters, first))
        headers = {"Content-Disposition": 'attachment; filename="fleet.csv"', "X-Content-Type-Options": "nosniff"}
        return Response(lines, content_type="text/csv; charset=utf-8", headers=headers)

    return page


def _filters(given: Mapping[str, str]) -> dict[str, str]:
    """What is asked for; what is too long to be anybody's filter is cut where the service would refuse it."""
    found = {name: given.get(name, "").strip()[: _MOST + 1] for name in FILTERS}
    return {name: value for name, value in found.items() if value}


def _address(filters: Mapping[str, str]) -> str:
    return f"/fleet?{urlencode(filters)}" if filters else "/fleet"


def _to(address: str) -> Response:
    response = redirect(address, code=303)
    assert isinstance(response, Response)  # noqa: S101 - Flask's own kind, which Werkzeug's annotation does not know
    return response


def _list(console: Console, filters: dict[str, str], after: str, failed: acts.Failed | None = None) -> Response:
    found: dict[str, Any] = {"devices": [], "held": [], "after": None, "total": 0, "ended_by": 0}
    try:
        found = console.api().get("/v1/admin/devices", {**filters, "after": after, "limit": _SHOWN})
    except Refused as error:
        if error.status in (401, 403):
            raise
        failed = acts.Failed.of(error)
    held = _held(found)
    return console.page(
        "fleet.html",
        topics=_TOPICS,
        failed=failed,
        filters=filters,
        chips=_chips(filters),
        rows=[_row(device, held.get(device["id"]), int(found["ended_by"])) for device in found["devices"]],
        total=found["total"],
        after=found["after"],
        first=bool(after),
        causes=None,
        query=urlencode(filters),
    )


def _causes(console: Console, filters: dict[str, str]) -> Response:
    failed = None
    found: dict[str, Any] = {"causes": [], "more": False}
    try:
        found = console.api().get("/v1/admin/causes", filters)
    except Refused as error:
        if error.status in (401, 403):
            raise
        failed = acts.Failed.of(error)
    return console.page(
        "fleet.html",
        topics=_TOPICS,
        failed=failed,
        filters=filters,
        chips=_chips(filters),
        rows=[],
        total=None,
        after=None,
        first=False,
        causes=[{**each, "why": reasons.line(str(each["why"]))} for each in found["causes"]],
        more=found["more"],
        query=urlencode(filters),
    )


def _chips(filters: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Each filter but the words: name, value, and the address without it."""
    return [
        (name, value, "/fleet?" + urlencode({other: said for other, said in filters.items() if other != name}))
        for name, value in filters.items()
        if name != "q"
    ]


def _held(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What the brake holds against devices of this page, by their ids."""
    return {str(each["device_id"]): each for each in found["held"]}


def _row(device: Mapping[str, Any], held: Mapping[str, Any] | None, ended_by: int) -> dict[str, Any]:
    """A held result is what is newest of the device, and is shown, though the one before still counts."""
    labels = device.get("labels") or {}
    ends = device.get("attestation_good_until")
    active = device["state"] == "active"
    held = held if active else None
    overdue = active and held is None and ends is not None and ends <= ended_by
    result = (held or device).get("result") or {}
    found = reasons.headline(result.get("reasons") or ())
    shown = "overdue" if overdue else str(result.get("status") or "none") if active else device["state"]
    said = reasons.line(device.get("state_reason") or "")
    why = said if not active else "Its last result no longer counts" if overdue else found
    name = labels.get("name") or device.get("serial_number") or device["id"]
    tpm = " ".join(str(device.get(part) or "") for part in ("manufacturer", "model")).strip()
    return {
        "id": device["id"],
        "version": device["state_version"],
        "name": name,
        "state": shown,
        "why": why or (found if not active else ""),
        "site": device.get("site"),
        "tier": device.get("tier"),
        "tpm": ", ".join(part for part in (tpm, figures.firmware(str(device.get("firmware_version") or ""))) if part),
        "attested_at": device.get("attested_at") if held is None else held["at"],
        "held": held is not None,
        "ends": ends if active else None,
    }


# ---- CSV --------------------------------------------------------------------------------------------------------


def _lines(api: Api, filters: Mapping[str, str], found: Mapping[str, Any]) -> Iterator[str]:
    """RFC 4180. Times are UTC; labels are name=value with semicolons between them."""
    yield _line(_COLUMNS)
    while True:
        held = _held(found)
        yield "".join(_line(_cells(device, held, int(found["ended_by"]))) for device in found["devices"])
        if found["after"] is None:
            return
        found = api.get("/v1/admin/devices", {**filters, "after": found["after"], "limit": _EXPORTED})


def _cells(device: Mapping[str, Any], held: Mapping[str, Any], ended_by: int) -> list[str]:
    ends = device.get("attestation_good_until")
    labels = ";".join(f"{name}={value}" for name, value in sorted((device.get("labels") or {}).items()))
    told = {
        **device,
        "result": (device.get("result") or {}).get("status"),
        "labels": labels,
        "overdue": "yes" if device["state"] == "active" and ends is not None and ends <= ended_by else "no",
        "held": "yes" if device["id"] in held else "no",
    }
    for name in ("attested_at", "attestation_good_until"):
        told[name] = None if told.get(name) is None else figures.machine(told[name])
    return [harmless("" if told.get(name) is None else str(told[name])) for name in _COLUMNS]


def harmless(cell: str) -> str:
    """A spreadsheet would run what begins like a formula; an apostrophe makes it text."""
    return f"'{cell}" if cell.lstrip(" ").startswith(_FORMULA) or cell.startswith(_FORMULA) else cell


def _line(cells: Any) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue()
