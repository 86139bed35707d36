"""One act for many devices: whom it touches and what follows, before; who was done and who was not, after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flask import Blueprint, Response, abort, request

from attestd_console import labelling, selection
from attestd_console.acts import Act, Failed
from attestd_console.console import Console
from attestd_console.selection import Picked

PATH: Final = "/v1/admin/devices/selection"
_SHOWN: Final = 12  # devices that a preview names
_LABELS: Final = ("labels", "remove", "revoke")  # what the form about labels says


@dataclass(frozen=True, slots=True)
class Deed:
    """An act in words. `effects`: icon and sentence of what follows."""

    title: str  # followed by "3 devices?"
    button: str
    keep: str  # what the other button says
    done: str
    effects: Sequence[tuple[str, str]]


_ROW: Final = ("person", "written to the audit trail with your name, a row for each")
DEEDS: Final[Mapping[str, Deed]] = {
    "release": Deed(
        "Release",
        "Touch passkey and release",
        "Keep quarantined",
        "released",
        (
            ("ring", "they become active, and their certificates are valid again at every edge within a second"),
            ("clock", "each must attest again soon; one that still differs is quarantined by that attestation"),
            _ROW,
        ),
    ),
    "quarantine": Deed(
        "Quarantine",
        "Touch passkey and quarantine",
        "Leave them active",
        "quarantined",
        (
            ("quar", "every edge that is connected refuses them within a second"),
            ("cert", "their certificates are suspended; they may go on attesting"),
            _ROW,
        ),
    ),
    "retire": Deed(
        "Retire",
        "Touch passkey and retire",
        "Keep them",
        "retired",
        (
            ("dash", "all their certificates are revoked, for good"),
            ("half", "one that asks again waits for approval like a stranger"),
            _ROW,
        ),
    ),
    "demand": Deed(
        "Demand an attestation of",
        "Touch passkey and demand it",
        "Leave them alone",
        "asked to attest",
        (("clock", "each attests at its next check-in; one that does not is overdue soon"), _ROW),
    ),
    "label": Deed(
        "Change the labels of",
        "Touch passkey and change",
        "Leave their labels",
        "labelled",
        (
            ("clock", "each is asked to attest; reference values that are for its new labels judge it then"),
            ("cert", "the next certificate of each says the new labels; edges go by them from then on"),
            _ROW,
        ),
    ),
    "reject": Deed(
        "Reject",
        "Touch passkey and reject",
        "Let them wait",
        "rejected",
        (("dash", "they are refused when they ask again; retiring lets a device ask anew"), _ROW),
    ),
}


def routes(console: Console) -> Blueprint:
    page = Blueprint("selecting", __name__)

    def preview(act: str, picked: Sequence[Picked], failed: Failed | None = None) -> Response:
        seen = console.api().post(PATH, selection.message(act, picked, dry_run=True, **_more(act)))
        return console.page(
            "selecting.html",
            failed=failed,
            act=act,
            deed=DEEDS[act],
            doable=seen["done"],
            left=causes(seen["left"]),
            shared=shared(seen["done"]),
            again=still_refused(seen["done"]) if act == "release" else 0,
            shown=_SHOWN,
            reason=request.form.get("reason", ""),
            more=[(name, request.form[name]) for name in _LABELS if act == "label" and request.form.get(name)],
            changes=changes() if act == "label" else (),
        )

    def labels(picked: Sequence[Picked]) -> Response:
        """Which labels, before anything can be previewed."""
        asked_for = labelling.asked_for(console.api().get("/v1/admin/labels"))
        return console.page("selecting_labels.html", picked=picked, deed=DEEDS["label"], asked_for=asked_for)

    @page.post("/selection")
    def ask() -> Response:
        act = request.form.get("act", "")
        if act not in DEEDS:
            abort(404)
        everything = request.form.get("all") == "yes"
        picked = (
            selection.matching(console.api(), request.form)
            if everything
            else selection.read(request.form.getlist("device"))
        )
        if act == "label" and not any(request.form.get(name, "").strip() for name in _LABELS[:2]):
            return labels(picked)
        return preview(act, picked)

    @page.post("/selection/<act>")
    def decide(act: str) -> Response:
        if act not in DEEDS:
            abort(404)
        picked = selection.read(request.form.getlist("device"))
        count = len(picked)
        done = console.carry_out(
            Act(
                "POST",
                PATH,
                selection.message(act, picked, reason=request.form.get("reason", "").strip(), **_more(act)),
                then="/approvals" if act == "reject" else "/fleet",
                said=f"{count:,} {'device' if count == 1 else 'devices'} {DEEDS[act].done}.",
            )
        )
        return preview(act, picked, done) if isinstance(done, Failed) else done

    return page


def _more(act: str) -> dict[str, Any]:
    """What the act takes beside the devices, from its form."""
    if act != "label":
        return {}
    form = request.form
    return {
        "labels": labelling.read(form.get("labels", "")),
        "remove": labelling.names(form.get("remove", "")),
        "revoke": form.get("revoke") == "yes",
    }


def changes() -> list[str]:
    """What the form's labels do, in words."""
    more = _more("label")
    said = [f"{name}={value} is set" for name, value in sorted(more["labels"].items())]
    said += [f"{name} is removed, where it is" for name in more["remove"]]
    ends = "are revoked now: each is refused until it has attested"
    stay = "say the old labels until they end"
    return [*said, f"the certificates that they have {ends if more['revoke'] else stay}"]


def still_refused(devices: Sequence[Mapping[str, Any]]) -> int:
    """How many of them still differ, by their newest result."""
    return sum((device["result"] or {}).get("status") == "contraindicated" for device in devices)


def shared(devices: Sequence[Mapping[str, Any]]) -> str:
    """What they have in common: "at ber-plant-02", or where most of them are."""
    sites = Counter(device["site"] for device in devices if device["site"])
    if not sites:
        return ""
    if len(sites) == 1:
        return f"at {next(iter(sites))}"
    site, most = sites.most_common(1)[0]
    return f"at {len(sites)} sites, {most} of them at {site}"


def causes(left: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, list[str]]]:
    """Why some can't be done, with how many and the first of them."""
    found: dict[str, list[str]] = {}
    for one in left:
        found.setdefault(HINDRANCES.get(one["problem"], one["detail"]), []).append(one["id"])
    return [(why, len(ids), ids[:_SHOWN]) for why, ids in sorted(found.items(), key=lambda item: -len(item[1]))]


HINDRANCES: Final[Mapping[str, str]] = {
    "state-changed": "changed since you selected them",
    "transition-refused": "are in a state in which this can’t be done",
    "unknown-device": "are not known any more",
    "labels-unchanged": "have these labels already",
    "malformed-labels": "would have labels that are too long together",
}
