"""Approvals: who waits to join, grouped by likeness, with what speaks for each; approved into a tier and a site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from flask import Blueprint, Response, request

from attestd_console import figures, reasons, selection
from attestd_console.acts import Act, Failed
from attestd_console.console import Console
from attestd_console.pages.selecting import PATH

TIERS: Final = ("device", "edge", "cloud")
_PAGE: Final = 50
_MAX_LABELS: Final = 32


class Check(NamedTuple):
    """One thing that speaks for a device, or against it; `state` chooses shape and colour."""

    state: str
    words: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A device that waits, and what is known of it. What it says of itself stands apart from what was proven."""

    device: Mapping[str, Any]
    checks: tuple[Check, ...]

    @property
    def value(self) -> str:
        return f"{self.device['id']}:{self.device['state_version']}"


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that are alike in everything that the decision rests on."""

    heading: str
    detail: str
    waiting: Sequence[Waiting]


def routes(console: Console) -> Blueprint:
    page = Blueprint("approvals", __name__)

    def shown(failed: Failed | None = None) -> Response:
        answer = console.api().get("/v1/admin/devices", state="pending", after=request.args.get("after"), limit=_PAGE)
        return console.page(
            "approvals.html",
            topics=("approvals", "devices"),
            failed=failed,
            groups=grouped(answer["devices"]),
            total=len(answer["devices"]),
            after=answer["after"],
            tiers=TIERS,
            form=request.form,
        )

    @page.get("/approvals")
    def approvals() -> Response:
        return shown()

    @page.post("/approvals")
    def approve() -> Response:
        form = request.form
        picked = selection.read(form.getlist("device"))
        more: dict[str, Any] = {"tier": form.get("tier", ""), "site": form.get("site", "").strip()}
        if labels := labels_of(form.get("labels", "")):
            more["labels"] = labels
        count, site = len(picked), more["site"]
        done = console.carry_out(
            Act(
                "POST",
                PATH,
                selection.message("approve", picked, reason=form.get("reason", "").strip(), **more),
                then="/approvals",
                said=f"{count:,} {'device' if count == 1 else 'devices'} approved into {site}: "
                f"{'it enrolls' if count == 1 else 'they enroll'} by {'itself' if count == 1 else 'themselves'} now.",
            )
        )
        return shown(done) if isinstance(done, Failed) else done

    return page


def labels_of(text: str) -> dict[str, str]:
    """`name=value`, with spaces or commas between; what is wrong with one, the service says."""
    pairs = text.replace(",", " ").split()[:_MAX_LABELS]
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def grouped(devices: Sequence[Mapping[str, Any]]) -> list[Group]:
    """Alike in chip, endorsement and result: the largest group first, single ones last."""
    found: dict[tuple[Any, ...], list[Waiting]] = {}
    for device in devices:
        checks = checks_of(device)
        chip = (device["manufacturer"], device["model"], device["firmware_version"])
        found.setdefault((*chip, device["endorsement"], checks), []).append(Waiting(device, checks))
    groups = []
    for (maker, model, firmware, *_), waiting in found.items():
        named = " ".join(part for part in (maker, model, figures.firmware(firmware)) if part) or "An unnamed chip"
        heading = "One on its own" if len(waiting) == 1 else f"{len(waiting)} that are alike"
        groups.append(Group(heading, named, waiting))
    return sorted(groups, key=lambda group: (-len(group.waiting), group.detail))


def checks_of(device: Mapping[str, Any]) -> tuple[Check, ...]:
    """What was proven, in words: the chip first, then its software."""
    found = [_ENDORSED.get(device["endorsement"] or "", Check("none", "Nothing says whose chip this is"))]
    result = device["result"] or {}
    advisories = str((result.get("facts") or {}).get("tpm.advisories", "")).split()
    if advisories:
        found.append(Check("warning", f"Chip named in {', '.join(advisories)}"))
    status = result.get("status", "none")
    found.append(_WOULD.get(status, _WOULD["none"]))
    if status in ("warning", "contraindicated"):
        others = [reason for reason in result.get("reasons", ()) if not any(name in reason for name in advisories)]
        found += [Check(status, reasons.sentence(reason).rstrip(".")) for reason in others[:3]]
    return tuple(found)


_ENDORSED: Final[Mapping[str, Check]] = {
    "certificate": Check("affirming", "Endorsed by a maker you trust"),
    "iak": Check("affirming", "Endorsed by its machine’s maker (IAK)"),
    "inventory": Check("affirming", "On your inventory"),
}
_WOULD: Final[Mapping[str, Check]] = {
    "affirming": Check("affirming", "Its boot would be affirmed"),
    "warning": Check("warning", "Its boot would be a warning"),
    "contraindicated": Check("contraindicated", "Its boot would be refused, so it would get no credential"),
    "none": Check("none", "No reference values for it, so its boot can’t be affirmed"),
}
