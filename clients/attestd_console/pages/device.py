"""A device: why it stands as it does, when that came to be, and what exactly differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flask import Blueprint, Response, abort, request

from attestd_console import labelling, opened, past
from attestd_console.acts import Act, Failed
from attestd_console.api import Api, Refused, at
from attestd_console.console import Console
from attestd_console.deeds import DEEDS, Deed, predicted
from attestd_console.visible import called, visible

_ENTRIES: Final = 20  # of the timeline on one page
_ROUNDS: Final = 5  # pages of the service's that are asked for, where most tell nothing here
_RUNS: Final = 128  # for the strip
_REFUSED: Final = ("quarantined", "retired")  # by edges that know
_ROWS: Final = 200  # events or files on a page of them
LABELS: Final = "/v1/admin/labels"  # what goes by them
TOPICS: Final = ("devices", "attestations", "receipts", "brake")


def routes(console: Console) -> Blueprint:
    page = Blueprint("device", __name__)
    page.app_template_filter("visible")(visible)
    page.app_template_filter("called")(called)

    @page.get("/fleet/<id>")
    def device(id: str) -> Response:
        api = console.api()
        found = api.get(at("v1", "admin", "devices", id))
        runs = api.get(at("v1", "admin", "devices", id, "history"), only="attestation", limit=_RUNS)["entries"]
        entries, before = _history(api, id, request.args.get("before"))
        asked = request.args.get("att", "")
        number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 16 else _newest(runs)
        answer = _attestation(api, id, number, asked=bool(asked))
        shown, restarted = found["device"], past.restarts(runs)
        told = api.get(at("v1", "admin", "devices", id, "edges")) if shown["state"] in _REFUSED else None
        return console.page(
            "device.html",
            topics=TOPICS if told is None else (*TOPICS, "edges"),
            about=shown["id"],
            device=shown,
            title=called(shown),
            edges=None if told is None else opened.edges(told, console.now),
            view=None if answer is None else opened.view(answer),
            number=number,
            newest=number == _newest(runs),
            why=opened.why(shown, answer, runs, entries, held=found["held"] is not None, now=console.now),
            held=found["held"] is not None,
            strip=past.strip(runs, now=console.now, until=shown["attestation_good_until"]),
            entries=[past.told(entry, f"/fleet/{shown['id']}", restarted) for entry in entries],
            before=before,
            credential=_credential(found["credentials"], shown, console.now),
            endorsement=_endorsement(api, id),
            deeds=[deed for deed in DEEDS.values() if deed.fits(shown) and console.who().may("operator")],
        )

    @page.get("/fleet/<id>/attestations/<number>/events")
    def events(id: str, number: str) -> Response:
        return _rows("events", id, number)

    @page.get("/fleet/<id>/attestations/<number>/files")
    def files(id: str, number: str) -> Response:
        return _rows("files", id, number)

    def _rows(kind: str, id: str, number: str) -> Response:
        """All events of a boot, or all files that ran since, page by page."""
        api = console.api()
        query: dict[str, object] = {"after": request.args.get("after"), "limit": _ROWS}
        if kind == "files":
            query["only"] = request.args.get("only")
        found = api.get(at("v1", "admin", "devices", id, "attestations", number, kind), query)
        shown = api.get(at("v1", "admin", "devices", id))["device"]
        return console.page(
            "device_rows.html",
            device=shown,
            title=called(shown),
            number=number,
            kind=kind,
            found=found,
            standings=opened.STANDINGS,
        )

    @page.post("/fleet/<id>/evidence")
    def evidence(id: str) -> Response:
        """The evidence as a file. It is an act: the trail says who took it."""
        content = console.api().call("GET", at("v1", "admin", "devices", id, "evidence")).content
        named = "".join(c for c in id if c.isascii() and c.isalnum())[:40]
        headers = {"Content-Disposition": f'attachment; filename="{named}.evidence.json"'}
        return Response(content, content_type="application/json", headers=headers)

    @page.route("/fleet/<id>/<act>", methods=["GET", "POST"])
    def confirm(id: str, act: str) -> Response:
        deed = DEEDS.get(act)
        if deed is None:
            abort(404)
        api = console.api()
        failed: Failed | None = None
        if request.method == "POST":
            done = console.carry_out(_act(deed, id, api))
            if isinstance(done, Response):
                return done
            failed = done
        shown = api.get(at("v1", "admin", "devices", id))["device"]
        runs = api.get(at("v1", "admin", "devices", id, "history"), only="attestation", limit=1)["entries"]
        return console.page(
            "device_confirm.html",
            failed=failed,
            device=shown,
            title=called(shown),
            deed=deed,
            fits=deed.fits(shown),
            prediction=predicted(deed, shown, runs[0] if runs else None),
            labels=labelling.written(shown["labels"]),
            asked_for=labelling.asked_for(api.get(LABELS), shown) if deed.name == "label" else (),
            form=request.form if request.method == "POST" else {},
        )

    return page


def _act(deed: Deed, id: str, api: Api) -> Act:
    """What the form asks for. Of a device that changed since the form was shown, the service refuses it."""
    message: dict[str, Any] = {"reason": request.form.get("reason", "").strip()}
    version = request.form.get("version", "")
    message["expected_version"] = int(version) if version.isascii() and version.isdigit() and len(version) < 16 else 1
    if deed.name == "replace":
        message["ek_hash"] = request.form.get("ek_hash", "").strip().lower()
    if deed.name == "label":
        old = api.get(at("v1", "admin", "devices", id))["device"]["labels"]
        new = request.form.get("labels")
        message |= labelling.change(old, old if new is None else labelling.read(new))
        message["revoke"] = request.form.get("revoke") == "yes"
    return Act("POST", at("v1", "admin", "devices", id, deed.name), message, then=at("fleet", id), said=deed.said)


def _history(api: Api, id: str, before: str | None) -> tuple[list[Mapping[str, Any]], str | None]:
    """A page of the timeline."""
    entries: list[Mapping[str, Any]] = []
    for _ in range(_ROUNDS):
        found = api.get(at("v1", "admin", "devices", id, "history"), before=before, limit=_ENTRIES)
        entries += found["entries"]
        before = found["before"]
        if before is None or len(entries) >= _ENTRIES // 2:
            break
    return entries, before


def _newest(runs: list[Mapping[str, Any]]) -> int:
    return int(runs[0]["last"]) if runs else 0


def _attestation(api: Api, id: str, number: int, *, asked: bool) -> Mapping[str, Any] | None:
    """The attestation, opened; None for a device that has none yet."""
    if not number:
        return None
    try:
        return api.get(at("v1", "admin", "devices", id, "attestations", number))
    except Refused as refused:
        if asked or refused.status != 404:
            raise
        return None


def _endorsement(api: Api, id: str) -> Mapping[str, Any]:
    """The root first, as a chain is read."""
    found = api.get(at("v1", "admin", "devices", id, "endorsement"))
    return {**found, "certificates": list(reversed(found["certificates"]))}


def _credential(found: list[Mapping[str, Any]], device: Mapping[str, Any], now: float) -> Mapping[str, Any] | None:
    """The newest certificate and how it stands."""
    if not found:
        return None
    newest = found[0]
    if newest["revoked_at"] is not None:
        standing = "revoked"
    elif newest["not_after"] <= now:
        standing = "expired"
    else:
        standing = "valid" if device["state"] == "active" else "suspended"
    return {**newest, "standing": standing}
