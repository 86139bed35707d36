"""The brake on quarantines: whether it is engaged and what that means, what it holds and why, and the two acts.

It has no place in the navigation: who needs it comes by the overview, or by a device that it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from flask import Blueprint, Response, request

from attestd_console import acts, figures, reasons, telling
from attestd_console.acts import Act, Failed
from attestd_console.console import Console

PATH: Final = "/v1/admin/brake"
TOPICS: Final = ("brake", "attestations", "devices")
_SHOWN: Final = 50  # held results of a page
_REASON: Final = 500  # characters


class Lead(NamedTuple):
    """How it stands: a heading with its state, and what that means."""

    state: str
    word: str
    heading: str
    said: str


class Fate(NamedTuple):
    """What may become of the held results: how the form names it, when that is right, and what it does."""

    name: str
    label: str
    when: str
    does: str


def routes(console: Console) -> Blueprint:
    page = Blueprint("brake", __name__)

    def show(failed: Failed | None = None) -> Response:
        api = console.api()
        after = request.args.get("after", "")
        found = api.get(PATH, after=after, limit=_SHOWN)
        grouped: Mapping[str, Any] = api.get(f"{PATH}/causes") if found["held_count"] else {"causes": [], "more": False}
        return console.page(
            "brake.html",
            topics=TOPICS,
            failed=failed,
            found=found,
            lead=lead(found, console.now),
            causes=[{**each, "why": reasons.line(str(each["why"]))} for each in grouped["causes"]],
            more=grouped["more"],
            each=_one_by_one(found, grouped["causes"]) or bool(after),
            headline=reasons.headline,
            fates=fates(int(found["held_count"])),
            first=bool(after),
            form=request.form if failed is not None else {},
        )

    @page.get("/brake")
    def brake() -> Response:
        return show()

    @page.post("/brake/engage")
    def engage() -> Response:
        said = "The brake is engaged. No result quarantines a device until it is released."
        done = console.carry_out(Act("POST", f"{PATH}/engage", {"reason": _reason()}, then="/brake", said=said))
        return show(done) if isinstance(done, Failed) else done

    @page.post("/brake/release")
    def release() -> Response:
        """What it came to is said by numbers that the service gives."""
        message = {"held": request.form.get("held", "")[:16], "reason": _reason()}
        act = Act("POST", f"{PATH}/release", message, then="/brake")
        done = acts.answered(request, console.api(), act)
        if isinstance(done, Failed):
            return show(done)
        return done if isinstance(done, Response) else acts.leave(console.seed(), act.then, released(done))

    return page


def _reason() -> str:
    return request.form.get("reason", "").strip()[:_REASON]


def _one_by_one(found: Mapping[str, Any], causes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there are held devices that no line of the causes names."""
    return int(found["held_count"]) > sum(len(cause["devices"]) for cause in causes)


def lead(found: Mapping[str, Any], now: float) -> Lead:
    engaged = found["engaged"]
    if engaged is not None:
        who = telling.actor(str(engaged["by"]))
        name = "by the service itself" if who.kind == "service" else f"by {who.name}"
        because = f": “{engaged['reason']}”" if engaged["reason"] else ", without a reason"
        said = (
            f"Since {figures.ago(engaged['at'], now)}, {name}{because}. No result quarantines a device: a "
            "contraindicated one is held, and its device lives on under its last good result until that ends."
        )
        return Lead("warning", "Engaged", "The brake is engaged", said)
    if not found["enabled"]:
        said = "Each contraindicated result quarantines its device at once, however many there are."
        return Lead("none", "Not used", "This instance has no brake", said)
    said = (
        "Results count: a contraindicated one quarantines its device at once. When more than "
        f"{_devices(found['limit'])} would be within a minute, it engages by itself and waits for an operator."
    )
    return Lead("affirming", "Off", "The brake is off", said)


def fates(held: int) -> list[Fate]:
    """What an operator can choose, with whom it touches now."""
    if not held:
        return [Fate("dismiss", "Nothing is held", "", "No device changes. Results count again from then on.")]
    one = held == 1
    stays = (
        "1 device stays active, and its next result counts: if it still differs, that quarantines it."
        if one
        else f"{held:,} devices stay active, and the next result of each counts: one that still differs is quarantined."
    )
    return [
        Fate(
            "dismiss",
            f"Drop {'the held result' if one else f'the {held:,} held results'}",
            "If the reference values were wrong, and are mended or withdrawn now",
            stays,
        ),
        Fate(
            "quarantine",
            f"Quarantine {_devices(held)}",
            f"If the {'device is' if one else 'devices are'} wrong",
            f"All at once. Every edge that is reached refuses {'it' if one else 'them'}; one that is cut off does not "
            "know yet.",
        ),
    ]


def released(answer: Mapping[str, Any]) -> str:
    """What the release came to."""
    held, done = int(answer["held"]), int(answer["quarantined"])
    if done:
        return f"The brake is released. {_devices(done)} {'is' if done == 1 else 'are'} quarantined."
    if held:
        dropped = "1 held result was dropped" if held == 1 else f"{held:,} held results were dropped"
        return f"The brake is released. {dropped}; no device changed."
    return "The brake is released. Nothing was held."


def _devices(count: int) -> str:
    return f"{count:,} {'device' if count == 1 else 'devices'}"
